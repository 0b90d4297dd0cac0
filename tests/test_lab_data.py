"""lab_data.py: data sets from files, from the Hub, and the docstrings of libraries."""

import inspect
import json
import re
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import common
import lab_data
from conftest import EXPECTED
from lab_data import SPLITS, LabelledText, Question

# --- 1. Files, the Hub, or docstrings ------------------------------------------------------------


def test_table_of_the_hub_joins_its_files_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in ("train/0001", "train/0000", "test/0000"):
        path = tmp_path / "part" / f"{file}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame({"text": [file]}).to_parquet(path)
    monkeypatch.setattr(common, "fetch_from_hub", lambda *_, **__: tmp_path)
    table = lab_data.hub_table("someone/texts", "part/train")
    assert table["text"].tolist() == ["train/0000", "train/0001"]


def test_json_lines_are_read_and_a_wrong_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('\ufeff{"a": "x\u2028y"}\n\n{"a": ""}\n', encoding="utf-8")
    assert lab_data.read_jsonl(path, lambda row: row["a"]) == ["x\u2028y", ""]
    with pytest.raises(common.ScriptError, match=r"rows.jsonl: line 1 \(KeyError: 'b'\)"):
        lab_data.read_jsonl(path, lambda row: row["b"])


def load(name: str, path: str | None) -> str:
    """Load anything but the default data set of a script, emotion."""
    if name == "emotion":
        raise common.ScriptError("no network")
    return f"{name} in {path}"


def test_docstrings_replace_the_default_with_a_note(capsys: pytest.CaptureFixture) -> None:
    options = Namespace(dataset=None, data=None)
    found = lab_data.load_or_docstrings(options, "emotion", load)
    assert found == ("docstrings", "docstrings in None")
    assert "no network. The docstrings of installed libraries replace" in capsys.readouterr().err


@pytest.mark.parametrize(("dataset", "data", "problem"), [
    ("emotion", None, "no network"),
    ("docstrings", "DIR", "--dataset docstrings reads no --data"),
])  # fmt: skip
def test_docstrings_do_not_replace_data_that_are_asked_for(
    dataset: str, data: str | None, problem: str
) -> None:
    with pytest.raises(common.ScriptError, match=problem):
        lab_data.load_or_docstrings(Namespace(dataset=dataset, data=data), "emotion", load)


def test_a_table_of_the_hub_with_other_columns_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab_data, "hub_table", lambda *_: pd.DataFrame({"other": ["a"]}))
    arguments = Namespace(dataset="emotion", data=None)
    with pytest.raises(common.ScriptError, match=r"^emotion \(AttributeError: "):
        lab_data.load_or_docstrings(arguments, "emotion", lab_data.load_labelled_texts)


def test_texts_of_later_splits_are_removed_and_counted(capsys: pytest.CaptureFixture) -> None:
    splits = {
        "train": ["a b", "A  b", "c", "D", "e"],
        "validation": ["C", "f", "g"],
        "test": ["f", "d\n", "f"],
    }
    kept = lab_data.remove_duplicates(splits, text=lambda row: row)
    assert kept == {"train": ["a b", "A  b", "e"], "validation": ["C", "g"], "test": splits["test"]}
    assert capsys.readouterr().out.endswith(": 2 train, 1 validation\n")


# --- 2. Labelled texts, of exercise 3.1 ----------------------------------------------------------


def labelled(texts: str, labels: str) -> list[LabelledText]:
    """Return texts, separated by commas, with their labels, separated by spaces."""
    pairs = zip(texts.split(","), labels.split(), strict=True)
    return [LabelledText(text, label) for text, label in pairs]


def test_folder_has_a_file_for_each_split(tmp_path: Path) -> None:
    for name in SPLITS:
        (tmp_path / f"{name}.csv").write_text(f"text,label\n{name},1\n", encoding="utf-8")
    splits = lab_data.load_labelled_texts("", tmp_path)
    assert splits == {name: [(name, "1")] for name in SPLITS}


@pytest.mark.parametrize(("last_row", "number"), [(" ,2", 3), ("b,2\nc,", 4)])
def test_row_without_a_text_or_a_label_is_named(last_row: str, number: int, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(f"text,label\na,1\n{last_row}\n", encoding="utf-8")
    with pytest.raises(common.ScriptError, match=f"rows.csv: row {number}: the text or the label"):
        lab_data.read_labelled_texts(tmp_path / "rows.csv")


def test_one_csv_file_is_split_by_label(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    rows = labelled(",".join(map(str, range(1000))), "a " * 700 + "b " * 300)
    pd.DataFrame(rows).to_csv(path, index=False)
    splits = lab_data.prepare_texts(lab_data.load_labelled_texts("", path), 10**6, seed=0)
    counts = {name: Counter(row.label for row in rows) for name, rows in splits.items()}
    assert counts == {
        "train": {"a": 567, "b": 243}, "validation": {"a": 63, "b": 27}, "test": {"a": 70, "b": 30}
    }  # fmt: skip
    assert len({row.text for rows in splits.values() for row in rows}) == 1000


def test_duplicates_do_not_stay_in_training() -> None:
    train, validation, test = labelled("x,y,Z", "a b a"), labelled("z", "a"), labelled("X", "a")
    splits = {"train": train, "validation": validation, "test": test}
    splits = lab_data.prepare_texts(splits, 10, seed=0)
    assert [row.text for row in splits["train"]] == ["y"]


@pytest.mark.parametrize(("size", "found"), [(100, 100), (998, 1000)])  # "c" needs a row left out
def test_large_splits_are_sampled_by_label(size: int, found: int) -> None:
    rows = labelled(",".join(map(str, range(1000))), "a " * 700 + "b " * 290 + "c " * 10)
    others = {name: labelled(f"{name} 1,{name} 2", "a b") for name in SPLITS[1:]}
    splits, other = (lab_data.prepare_texts({"train": rows} | others, size, s) for s in (0, 1))
    counts = Counter(row.label for row in splits["train"])
    assert counts == {"a": found * 70 // 100, "b": found * 29 // 100, "c": found // 100}
    assert splits["test"] == others["test"]
    assert (splits["train"] != other["train"]) == (found < 1000)


def test_labels_are_numbered_and_named() -> None:
    names = lab_data.LABELS["ag_news"]
    numbers, found = lab_data.encode_labels({"train": labelled("a,b,c,d", "3 1 2 0")}, names)
    assert (numbers["train"].tolist(), found) == ([3, 1, 2, 0], [*names])
    splits = {"train": labelled("a,b,c", "2 1 x"), "test": labelled("d", "x")}
    numbers, found = lab_data.encode_labels(splits, names)
    assert (numbers["train"].tolist(), numbers["test"].tolist()) == ([1, 0, 2], [2])
    assert found == ["1", "2", "x"]  # other labels name themselves


def test_label_without_training_texts_is_an_error() -> None:
    splits = {"train": labelled("a,b", "1 2"), "test": labelled("c", "7")}
    with pytest.raises(common.ScriptError, match=r"has a label of the test texts \(.*7"):
        lab_data.encode_labels(splits, ())


# --- 3. Questions, of exercise 3.2 ---------------------------------------------------------------

COLUMNS = {"text": np.array(["hot", "cold"]), "label": np.array(["A", "B"])}
ICE = {"question": "Ice is", "choices": ["hot", "cold"], "answer": 1}


@pytest.mark.parametrize("row", [
    ICE,
    ICE | {"answer": "B", "source": "a book"},
    {"id": "7", "question_stem": "Ice is", "choices": COLUMNS, "answerKey": "B"},  # OpenBookQA
])  # fmt: skip
def test_questions_are_read_in_their_forms(row: dict) -> None:
    assert lab_data.parse_question(row) == Question("Ice is", ["hot", "cold"], 1)


@pytest.mark.parametrize("wrong", [
    {"answer": -1},
    {"answer": True},
    {"choices": ["hot"], "answer": 0},
    {"choices": "hc"},
    {"choices": ["hot", 3]},
    {"choices": {"text": ["hot", "cold"], "label": ["A", "B"]}},  # its keys are no choices
    {"question": 7},
])  # fmt: skip
def test_wrong_question_is_an_error(wrong: dict) -> None:
    with pytest.raises((TypeError, ValueError)):
        lab_data.parse_question(ICE | wrong)


@pytest.mark.usefixtures("few_modules")
def test_choices_about_a_docstring_are_different_summaries_of_its_module() -> None:
    docstrings = lab_data.load_docstrings()
    modules = {row.summary: row.module for row in docstrings}
    splits = lab_data.load_questions("docstrings", None)
    questions = [question for rows in splits.values() for question in rows]
    assert len(questions) > 100
    right = {(question.text, question.choices[question.answer]) for question in questions}
    assert right <= {(row.description, row.summary) for row in docstrings}
    for question in questions:
        assert len(set(question.choices)) == 4
        assert len({modules[choice] for choice in question.choices}) == 1


# --- 4. Collections, of exercise 3.3 -------------------------------------------------------------


def write_collection(folder: Path, judgements: str, ids: Sequence = "ab") -> None:
    (folder / "qrels").mkdir()
    rows = [{"_id": key, "title": str(key).upper(), "text": f"text {key}"} for key in ids]
    for name in ("corpus", "queries"):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    for split in ("train", "test"):
        text = f"query-id\tcorpus-id\tscore\n{judgements}"
        (folder / "qrels" / f"{split}.tsv").write_text(text, encoding="utf-8")


def test_judgements_are_grades_of_known_documents(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write_collection(tmp_path, "b\ta\t2\na\ta\t0\nb\tb\t1\nb\tunknown\t1\n")
    collection = lab_data.load_collection("", tmp_path)
    assert collection.documents() == ["A text a", "B text b"]
    assert collection.claims["train"] == [("text b", {0: 2, 1: 1}, False)]
    assert "train.tsv: 1 judgements of unknown claims or documents" in capsys.readouterr().err


@pytest.mark.parametrize(("judgements", "ids", "problem"), [
    ("a\ta\t1\n", "aba", r"corpus.jsonl: two rows have the _id 'a'"),
    ("a\ta\t1.5\n", "ab", r"train.tsv: the columns must be .* \(ValueError: .*1\.5"),
    ("a\ta\t0\n", "ab", "train.tsv: no document is relevant to any claim"),
    ("a\ta\t1\n", [1, 2], r"corpus.jsonl: line 1 \("),
])  # fmt: skip
def test_wrong_collection_is_named(
    judgements: str, ids: Sequence, problem: str, tmp_path: Path
) -> None:
    write_collection(tmp_path, judgements, ids)
    with pytest.raises(common.ScriptError, match=problem):
        lab_data.load_collection("", tmp_path)


# --- 5. Docstrings of installed libraries --------------------------------------------------------


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


def test_docstrings_are_many_and_without_names_of_libraries() -> None:
    rows = lab_data.load_docstrings()
    assert len(rows) > 2000
    text = " ".join(f"{row.summary} {row.description}" for row in rows)
    assert not re.search(r"\b(numpy|scipy|pandas|sklearn|torch)\b", text, re.IGNORECASE)


def test_docstrings_of_the_same_name_share_a_split() -> None:
    splits = lab_data.split_docstrings("group")
    names = [{row.group for row in rows} for rows in splits.values()]
    assert len(set().union(*names)) == sum(map(len, names))


@pytest.fixture
def few_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the docstrings of a few modules, which takes less time."""
    documented = {"numpy": ["", "fft"], "scipy": ["fft"], "torch": ["fft", "special"]}
    monkeypatch.setattr(lab_data, "DOCUMENTED", documented)


@pytest.mark.usefixtures("few_modules")
def test_label_of_a_docstring_is_its_library() -> None:
    splits = lab_data.load_labelled_texts("docstrings", None)
    rows = lab_data.load_docstrings()
    libraries = {f"{row.summary} {row.description}": row.library for row in rows}
    assert {text: label for split in splits.values() for text, label in split} == libraries


@pytest.mark.usefixtures("few_modules")
def test_claims_are_summaries_and_test_claims_are_about_other_modules() -> None:
    collection = lab_data.load_collection("docstrings", None)
    rows = {(row.summary, row.description): row.module for row in lab_data.load_docstrings()}
    train, test = (
        {rows[claim.text, collection.abstracts[i]] for claim in claims for i in claim.relevant}
        for claims in collection.claims.values()
    )
    assert train
    assert test
    assert not train & test


def test_names_of_emotions_are_those_of_the_recorded_report() -> None:
    record = (EXPECTED / "lab_classifier_emotion.txt").read_text(encoding="utf-8")
    names = re.findall(r"^ +(\w+) +\d\.\d{4}", record, re.MULTILINE)
    assert tuple(names[:6]) == lab_data.LABELS["emotion"]


@pytest.mark.parametrize(("load", "dataset", "splits"), [
    (lab_data.load_labelled_texts, "emotion", SPLITS),
    (lab_data.load_labelled_texts, "ag_news", ("train", "test")),
    (lab_data.load_questions, "openbookqa", SPLITS),
])  # fmt: skip
def test_texts_of_the_hub_keep_their_splits(
    load: Callable, dataset: str, splits: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def hub_table(repository: str, folder: str) -> pd.DataFrame:
        text = folder.rpartition("/")[2]
        question = {"question_stem": text, "choices": COLUMNS, "answerKey": "B"}
        return pd.DataFrame([{"text": text, "label": 3, **question}])

    monkeypatch.setattr(lab_data, "hub_table", hub_table)
    found = {name: rows[0].text for name, rows in load(dataset, None).items()}
    assert found == {name: name for name in splits}
