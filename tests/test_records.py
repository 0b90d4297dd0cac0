"""The figures of README.md and RESULTS.md are those of their records; links and commands work.

A comment above a table names its records: <!-- record: tests/expected/task03.txt -->. The first
cell of a row is the beginning of a line of the record. The other figures of the row are figures of
that line, in the same order and rounded; columns may be left out. Of several records, the lines of
that name follow each other. A table of other figures says so: <!-- no record: the statement -->
"""

import argparse
import importlib
import re
import shlex
from decimal import Decimal

import pytest

from conftest import ROOT
from test_scripts import SCRIPTS

PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "RESULTS.md")}
TABLE = re.compile(r"(?:<!-- (record|no record): (.*?) -->\n+)?((?:^\|.*\n)+)", re.MULTILINE)
NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?")


def words(text: str) -> str:
    """Return the letters, digits and signs of a name, without Markdown, in lower case."""
    text = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", text)
    return " ".join(re.findall(r"[\w.+]+", text.lower()))


def figures(text: str) -> list[Decimal]:
    return [Decimal(number.replace(",", "")) for number in NUMBER.findall(text)]


def recorded_figures(name: str, records: str) -> list[Decimal]:
    """Return the figures of the lines that begin with a name, each from one record."""
    found = []
    for record in records.split():
        for line in (ROOT / record).read_text(encoding="utf-8").splitlines():
            cells = re.split(r"\s{2,}|: |\t", line.strip())
            for count in range(1, len(cells)):
                if words(" ".join(cells[:count])) == words(name):
                    found += figures(" ".join(cells[count:]))
    return found


def wrong_rows(page: str) -> list[str]:
    """Return the rows of the tables of a page that differ from their records."""
    wrong = []
    for kind, records, table in TABLE.findall(page):
        for row in table.splitlines()[2:]:
            name, _, cells = row.strip("| ").partition("|")
            if kind == "record" or (not kind and "." in cells):
                recorded = iter(recorded_figures(name, records))
                if not all(any(v.quantize(f) == f for v in recorded) for f in figures(cells)):
                    wrong.append(row)
    return wrong


@pytest.mark.parametrize("page", PAGES)
def test_tables_show_the_figures_of_their_records(page: str) -> None:
    assert wrong_rows(PAGES[page]) == []


def test_wrong_figures_are_found() -> None:
    changed = re.sub(r"\d(?= \|)", lambda digit: str(9 - int(digit[0])), PAGES["RESULTS.md"])
    assert len(wrong_rows(changed)) > 70


@pytest.mark.parametrize("page", PAGES)
def test_links_and_names_lead_to_files_and_headings(page: str) -> None:
    names = re.findall(r"`((?:tests/|DATA/)?[\w/]+\.(?:py|md|toml))`", PAGES[page])
    for target in {*re.findall(r"\]\(([^)]+)\)", PAGES[page]), *names}:
        if not target.startswith("https://"):
            name, _, anchor = target.partition("#")
            assert not name or (ROOT / name).exists(), target
            text = (ROOT / name).read_text(encoding="utf-8") if anchor and name else PAGES[page]
            headings = re.findall(r"^#+ (.*)", text, re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in headings}
            assert not anchor or anchor in slugs, target


def commands() -> list[str]:
    """Return the commands with a script in README, RESULTS and the scripts' docstrings."""
    pages = "\n".join(PAGES.values())
    text = pages + "\n".join(importlib.import_module(script).__doc__ or "" for script in SCRIPTS)
    lines = re.findall(r"^ *python (\w+\.py.*?)(?:   .*)?$", text, re.MULTILINE)
    inline = re.findall(r"`[^`]*?\bpython (\w+\.py[^`]*)`", pages)
    return sorted({" ".join(c.partition("2>")[0].split()) for c in (*lines, *inline)})


class Parsed(Exception):
    """The command line was accepted."""


@pytest.mark.parametrize("command", commands())
def test_shown_command_is_accepted(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def parse_only(parser: argparse.ArgumentParser, argv: list[str]) -> None:
        parse_args(parser, argv)
        raise Parsed

    parse_args = argparse.ArgumentParser.parse_args
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    script, *options = shlex.split(command)
    with pytest.raises(Parsed):
        importlib.import_module(script.removesuffix(".py")).main(options)
