"""What is wrong with a file of the user's is told in one line, by whichever script reads it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from shutil import copytree

import pytest

import common

INPUTS = {  # scripts, and the files of a folder that --data takes
    "task01": ["electricity_train.csv"],
    "task02": ["electricity_train.csv", "electricity_test.csv"],
    "task03": ["electricity_train.csv", "electricity_test.csv"],
    "lab_classifier": ["train.csv", "validation.csv", "test.csv"],
    "lab_multiple_choice": ["train.jsonl", "test.jsonl"],
    "lab_retrieval": ["corpus.jsonl", "queries.jsonl", "qrels/train.tsv", "qrels/test.tsv"],
}


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_broken_link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("nothing"))


def cut_off(path: Path) -> None:
    """End the file within its last line, as a download does that broke off."""
    content = path.read_bytes().rstrip()
    separators = b",", b"\t"
    path.write_bytes(content[: max(content.rfind(each) for each in separators) + 1])


def insert(content: bytes, path: Path) -> None:
    """Put something into the middle of the file."""
    before = path.read_bytes()
    path.write_bytes(before[: len(before) // 2] + content + before[len(before) // 2 :])


FAULTS: dict[str, Callable[[Path], None]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "blank": lambda path: path.write_bytes(b"\n\n"),
    "a folder": replace_by_folder,
    "a broken link": replace_by_broken_link,
    "cut off": cut_off,
    "UTF-16": lambda path: path.write_bytes(path.read_text().encode("utf-16")),
    "Latin-1": partial(insert, "\n\xe8".encode("latin-1")),
    "HTML": lambda path: path.write_bytes(b"<!DOCTYPE html>\n<html><body>404</body></html>\n"),
    "a picture": lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256))),
    "another row": partial(insert, b"\nnonsense\n"),
}


class Loaded(BaseException):
    """All data were read, and a model would be loaded next."""


CASES = [
    (script, file, fault)
    for script, files in INPUTS.items()
    for file in files
    for fault in FAULTS
    if (file, fault) != ("validation.csv", "missing")  # a part of train.csv takes its place
]


@pytest.mark.parametrize(("script", "file", "fault"), CASES)
def test_a_fault_of_a_file_is_one_line(
    script: str,
    file: str,
    fault: str,
    good: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    folder = tmp_path / "data"
    copytree(good / script, folder)
    FAULTS[fault](folder / file)
    before = {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}
    monkeypatch.setattr(sys, "argv", [f"{script}.py"])
    main = importlib.import_module(script).main
    assert common.run(partial(main, ["--data", str(folder)])) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"{script}.py: {folder}")
    assert len(lines[0]) < 500
    assert before == {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}
    assert not common.RESULTS.exists()


@pytest.mark.parametrize("script", ["lab_classifier", "lab_multiple_choice", "lab_retrieval"])
def test_without_a_fault_the_data_are_read(
    script: str, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object) -> None:
        raise Loaded

    monkeypatch.setattr(common, "find_encoder", load)
    with pytest.raises(Loaded):
        importlib.import_module(script).main(["--data", str(good / script)])
