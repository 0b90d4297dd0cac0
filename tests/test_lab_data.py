"""lab_data.py: data sets from the Hub, from files, and the docstrings of libraries."""

from __future__ import annotations

import inspect
import re
from argparse import Namespace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import common
import lab_data
from lab_data import Question

import numpy as np
import pandas as pd
import pytest
from checkpoints import COMMIT
from conftest import Server, text_table
from huggingface_hub import constants, snapshot_download

Capture, Patch = pytest.CaptureFixture, pytest.MonkeyPatch


def test_data_set_is_downloaded_once(cache: Path, server: Server, monkeypatch: Patch) -> None:
    dataset, downloads = lab_data.HubDataset("someone/texts", 3, config="part"), []
    folder = cache / "hub" / "datasets--someone--texts"

    def download(name: str, **options: Any) -> str:
        if not options.pop("local_files_only", False):
            downloads.append(options["allow_patterns"])
            for file in ("train/0001", "train/0000", "test/0000"):
                path = folder / "snapshots" / COMMIT / "part" / f"{file}.parquet"
                with common.complete_file(path) as temporary_path:
                    pd.DataFrame({"text": [file]}).to_parquet(temporary_path)
            with common.complete_file(folder / "refs/refs/convert/parquet") as temporary_path:
                temporary_path.write_text(COMMIT)
        return snapshot_download(name, local_files_only=True, **options)

    with monkeypatch.context() as patch:
        patch.setattr(common, "NETWORK_TIMEOUT", 0.1)
        with pytest.raises(common.ScriptError, match=r"^no answer .* name the .* --data DIR$"):
            lab_data.hub_table(dataset, "train")
    monkeypatch.setattr(lab_data, "snapshot_download", download)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    for _ in range(2):
        table = lab_data.hub_table(dataset, "train")
        assert (table["text"].tolist(), len(downloads)) == (["train/0000", "train/0001"], 1)
    with pytest.raises(common.ScriptError, match=r"has no files part/validation/\*.parquet; the d"):
        lab_data.hub_table(dataset, "validation")


def test_json_lines_are_read_or_the_wrong_line_is_named(tmp_path: Path) -> None:
    path, row = tmp_path / "rows.jsonl", '{"a": 1, "b": "x\u2028y\ufffd"}'
    path.write_text(f"\ufeff{row}\n\n", encoding="utf-8")
    assert lab_data.read_jsonl(path, a=int, b=str) == {1: {"a": 1, "b": "x\u2028y\ufffd"}}
    path.write_text(f'{row}\n{{"a": true}}', encoding="utf-8")
    with pytest.raises(common.ScriptError, match=r"rows.jsonl: line 2: 'a' must be an integer"):
        lab_data.read_jsonl(path, a=int)


def test_docstring_is_split_without_signature_markup_and_names() -> None:
    text = """fft(a, n=None)

    Compute the FFT with NumPy.

    This function, like :func:`scipy.fft.rfft`, is fast.

    It has *two* parameters.

    Parameters
    ----------
    a : array
    """
    summary, description = lab_data.split_docstring(inspect.cleandoc(text))
    assert summary == "Compute the FFT with library."
    assert description == "This function, like library.fft.rfft, is fast. It has two parameters."
    assert lab_data.split_docstring("One line.") == ("One line.", "")


@pytest.mark.parametrize("by", ["group", "module"])
def test_docstrings_that_are_equal_in_the_key_share_a_split(by: str) -> None:
    splits = lab_data.split_docstrings(by)
    keys = [{getattr(each, by) for each in rows} for rows in splits.values()]
    assert len(set().union(*keys)) == sum(map(len, keys))
    rows = [row for split in splits.values() for row in split]
    assert len(rows) > 2000
    assert all(splits.values())
    assert len({row.summary for row in rows}) == len(rows)
    text = " ".join(f"{row.summary} {row.description}" for row in rows)
    assert not re.search(r"\b(numpy|scipy|pandas|sklearn|torch)\b", text, re.IGNORECASE)


@pytest.mark.parametrize(("options", "used"), [
    ({"dataset": None, "data": None}, "docstrings"),  # instead of the default
    ({"dataset": None, "data": "DIR"}, ""),
    ({"dataset": "docstrings", "data": None}, "docstrings"),
])  # fmt: skip
def test_docstrings_replace_only_the_default_data_set(
    options: dict[str, str | None], used: str, capsys: Capture
) -> None:
    def load(name: str, folder: str | None) -> str:
        if name == "emotion":
            raise common.ScriptError("no answer")
        return f"rows of {name} in {folder}"

    rows = f"rows of {used} in {options['data']}"
    assert lab_data.load_or_docstrings(Namespace(**options), "emotion", load) == (used, rows)
    assert ("no answer. Using the docstrings" in capsys.readouterr().err) == (
        not any(options.values())
    )
    with pytest.raises(common.ScriptError):
        lab_data.load_or_docstrings(Namespace(dataset="emotion", data=None), "emotion", load)
    with pytest.raises(common.ScriptError, match="--dataset docstrings and --data DIR are two"):
        lab_data.load_or_docstrings(Namespace(dataset="docstrings", data="DIR"), "emotion", load)


@pytest.mark.parametrize("edit", [
    lambda text: text.encode("cp1252"),
    lambda text: text.encode("utf-16"),
    lambda text: text.replace(",", ";").encode(),
    lambda text: text.replace(",", "\t").encode(),
    lambda text: (text + "\n  \n").encode(),
    lambda text: text.replace("\n", "\r").encode(),
    lambda text: text.replace("\n", "\r\n").encode() + b"\x1a\r\n",
    lambda text: text.replace(",1", ',"  1\n"').encode(),
], ids=["Windows-1252", "UTF-16", ";", "tab", "blank end", "CR", "Ctrl-Z", "spaces"])  # fmt: skip
def test_table_is_read_in_the_forms_that_people_have(edit: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(edit("text,label\ncaf\xe9,1\nb,2\n"))
    assert lab_data.read_table(path).to_numpy().tolist() == [["caf\xe9", "1"], ["b", "2"]]


def test_rows_of_the_data_sets_on_the_hub_are_read() -> None:
    swag = {"sent1": "He runs.", "sent2": "She", "label": 3, "ending0": "a", "ending1": "b"}
    found = lab_data.from_swag(swag | {"ending2": "c", "ending3": "d"})
    assert found == Question("He runs. She", ["a", "b", "c", "d"], 3)


COLUMNS = {"text": np.array(["x", "y"]), "label": np.array(["A", "B"])}
LABELLED = [{"label": "1", "text": "x"}, {"label": "2", "text": "y"}]


@pytest.mark.parametrize("row", [
    {"question": "Q", "choices": ["x", "y"], "answer": 1},
    {"question": "Q", "choices": ["x", "y"], "answer": "B"},
    {"question_stem": "Q", "choices": COLUMNS, "answerKey": "B"},  # OpenBookQA on the Hub
    {"question": "Q", "choices": COLUMNS, "answerKey": "B"},  # CommonsenseQA and ARC on the Hub
    {"question": {"stem": "Q", "choices": LABELLED}, "answerKey": "2"},  # ARC's own files
    {"question": {"stem": "Q", "choices": LABELLED}, "answerKey": 2},
    {"article": "", "question": "Q", "options": ["x", "y"], "answer": "B"},  # RACE
])  # fmt: skip
def test_questions_are_read_in_the_forms_of_public_data_sets(row: dict) -> None:
    assert lab_data.parse_question(row) == Question("Q", ["x", "y"], 1)


def test_splits_of_the_hub_keep_their_roles(monkeypatch: Patch) -> None:
    def table(dataset: lab_data.HubDataset, split: str) -> pd.DataFrame:
        if dataset == lab_data.JUDGEMENTS:
            return pd.DataFrame([[split, split, 1]], columns=lab_data.QREL_COLUMNS)
        texts = ["train", "test"] if split in ("corpus", "queries") else [split]
        row = {"label": 0, "choices": ["a", "b"], "answer": 0, "sent2": ""}
        row |= {f"ending{number}": "x" for number in range(4)}
        keys = ("_id", "text", "question", "sent1")
        return pd.DataFrame([dict.fromkeys(keys, text) | row for text in texts])

    monkeypatch.setattr(lab_data, "hub_table", table)
    same = {"train": "train", "validation": "validation", "test": "test"}
    for dataset, roles in (
        ("emotion", same),
        ("ag_news", {"train": "train", "test": "test"}),
        ("openbookqa", same),
        ("commonsense_qa", {"train": "train", "test": "validation"}),  # not public: no third split
        ("swag", {"train": "train", "test": "validation"}),
    ):
        if dataset in lab_data.CLASSIFICATION:
            splits = lab_data.load_labelled_texts(dataset, None)
            found = {name: rows["text"][0] for name, rows in splits.items()}
        else:
            splits = lab_data.load_questions(dataset, None)
            found = {name: rows[0].text.strip() for name, rows in splits.items()}
        assert found == roles
    qrels = lab_data.load_collection("scifact", None).qrels
    assert {name: each.claims for name, each in qrels.items()} == {"train": [0], "test": [1]}


def test_docstrings_are_split_by_group_or_module_and_choices_are_of_one_module(
    monkeypatch: Patch,
) -> None:
    monkeypatch.setattr(lab_data, "DOCUMENTED", {"numpy": ["", "fft"], "torch": ["fft", "special"]})
    split = Mock(wraps=lab_data.split_docstrings)
    monkeypatch.setattr(lab_data, "split_docstrings", split)
    lab_data.load_labelled_texts("docstrings", None)
    lab_data.load_collection("docstrings", None)
    questions = lab_data.load_questions("docstrings", None)["train"]
    assert [call.kwargs["by"] for call in split.call_args_list] == ["group", "module", "group"]
    modules = {each.summary: each.module for each in lab_data.load_docstrings()}
    assert questions
    for question in questions:
        assert len(set(question.choices)) == 4
        assert len({modules[choice] for choice in question.choices}) == 1


def test_labels_are_numbered_and_named() -> None:
    four = lab_data.LABELS["ag_news"]
    numbers, names = lab_data.encode_labels({"train": text_table("a,b,c,d", "3 1 2 0")}, four)
    assert (numbers["train"].tolist(), names) == ([3, 1, 2, 0], [*four])
    splits = {"train": text_table("a,b,c", "0 10 9")}  # of another data set
    numbers, names = lab_data.encode_labels(splits, four)
    assert (numbers["train"].tolist(), names) == ([0, 2, 1], ["0", "9", "10"])
    with pytest.raises(common.ScriptError, match="no training text has the label '7' of the test "):
        lab_data.encode_labels(splits | {"test": text_table("e", "7")}, four)


def test_all_labels_are_drawn_with_about_their_frequencies() -> None:
    rows = text_table(",".join(map(str, range(1000))), "a " * 700 + "b " * 295 + "c d e f g")
    for seed in range(20):
        drawn = lab_data.sample_rows(rows, 100, seed)
        counts = drawn["label"].value_counts()
        assert drawn.index.is_monotonic_increasing
        assert len(drawn) == 100
        assert set(counts.index) == set("abcdefg")
        assert (counts["a"], counts["b"]) == (pytest.approx(67, abs=2), pytest.approx(28, abs=2))
    assert len(lab_data.sample_rows(rows, 3, 0)) == 7


@pytest.mark.parametrize("name", ["reviews.csv", "REVIEWS.CSV"])
def test_one_csv_file_is_split(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    rows = text_table(",".join(map(str, range(50))), "a b " * 20 + "c d e f g h i j k l")
    rows.to_csv(path, index=False)
    for seed in range(3):
        splits = lab_data.hold_out_texts(lab_data.load_labelled_texts(str(path), None), seed)
        assert [len(splits[name]) for name in lab_data.SPLITS] == [41, 4, 5]
        assert len(set().union(*(rows["text"] for rows in splits.values()))) == 50
        assert set(splits["train"]["label"]) == set("abcdefghijkl")
