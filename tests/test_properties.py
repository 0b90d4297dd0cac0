"""What holds whatever is put in: round trips, naive versions, invariants, and no traceback.

    HYPOTHESIS_PROFILE=deep python -m pytest -n 2 tests/test_properties.py       minutes

Every public function of common.py is named in some property of the suite, or stands in `EXEMPT`.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import csv
import importlib
import inspect
import io
import json
import os
import random
import re
import string
from collections import Counter
from collections.abc import Callable
from fnmatch import fnmatch
from functools import partial
from itertools import combinations, pairwise, product
from pathlib import Path
from shutil import copytree
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import NOBODY, ROOT, Pair, Parsed, load_pair, only_parse
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from test_agreement import bm25_by_formula

import common
import dante_gpt
import lab_classifier
import lab_generation
import lab_multiple_choice
import lab_retrieval
import task03
import task05
import task07
import task11
import task13

EXEMPT = {  # public functions of common.py of which no property is stated, and why
    "answers": "asks the network",
    "reach": "asks the network",
    "download": "downloads",
    "find_electricity": "downloads",
    "find_inferno": "downloads",
    "fetch_model": "downloads",
    "hub_table": "downloads",
    "main": "downloads",
    "hub_models": "takes no input",
    "synthetic_electricity": "takes no input but a split",
    "bundled_encoder": "takes no input",
    "keep_freed_memory": "takes no input",
    "select_device": "depends on the machine alone",
    "place": "depends on the machine alone",
    "choose_threads": "measures time",
    "fit": "trains",
    "train_epoch": "trains",
    "tune": "trains",
    "add_head": "draws its weights at random",
    "save_figure": "draws",
    "text_to_text": "compared with recorded pipelines",
    "load_metric": "hands over to the metrics' own functions",
    "load_pretrained": "find_model, load_tokenizer and load_model in turn",
    "find_encoder": "find_model, or the bundled encoder",
}
CPU = torch.device("cpu")
TESTS = sorted((ROOT / "tests").glob("test_*.py"))
SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py") if path.stem != "common")


def examples(number: int) -> settings:
    """Try so many examples where the profile tries thirty."""
    return settings(max_examples=number * settings.default.max_examples // 30)


# The properties are counted, and none is forgotten


def is_given(decorator: ast.expr) -> bool:
    return isinstance(decorator, ast.Call) and getattr(decorator.func, "id", "") == "given"


def names(node: ast.AST) -> set[str]:
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}


def properties() -> dict[str, set[str]]:
    """Find every property of the suite, with the functions of common.py that it names.

    What it names, and the helpers and constants of its file, by way of those that it names.
    """
    found = {}
    for path in TESTS:
        body = ast.parse(path.read_text(encoding="utf-8")).body
        defined = {
            name: node
            for node in body
            for name in ([node.name] if isinstance(node, ast.FunctionDef) else names(node))
        }
        for test in body:
            if not (isinstance(test, ast.FunctionDef) and any(map(is_given, test.decorator_list))):
                continue
            reached, new = set(), {test.name}
            while new:
                reached |= new
                new = set().union(*(names(defined[name]) for name in new)) & set(defined) - reached
            source = "\n".join(ast.unparse(defined[name]) for name in reached)
            found[f"{path.name}::{test.name}"] = set(re.findall(r"\bcommon\.(\w+)", source))
    return found


def public_functions() -> set[str]:
    """Find the functions of common.py whose names begin with no underscore."""
    functions = inspect.getmembers(common, inspect.isfunction)
    own = (name for name, function in functions if function.__module__ == "common")
    return {name for name in own if not name.startswith("_")}


def test_of_every_public_function_a_property_is_stated_or_it_is_said_why_not() -> None:
    named = set().union(*properties().values())
    assert public_functions() - named == set(EXEMPT)
    assert not named & set(EXEMPT)


# What is drawn

LETTERS = st.characters(codec="utf-8")  # all but halves of surrogate pairs
TEXT = st.text(LETTERS, max_size=40)
LINE = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=40)
TYPED = st.text(st.characters(exclude_characters="\0"), max_size=12)  # no argument holds a NUL
WORDS = st.sampled_from(["the", "cat", "sat", "on", "a", "mat", "it", "is", "not", "there"])
SENTENCES = st.lists(WORDS, max_size=9).map(" ".join)


def words_of(text: str) -> st.SearchStrategy[str]:
    return st.sampled_from(text.split())


PAIRS = st.lists(
    st.tuples(SENTENCES, st.lists(SENTENCES, min_size=1, max_size=3)), min_size=1, max_size=4
)
SMALL = st.integers(-50, 50).map(float)  # sums of few of them are exact


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder that all examples of a property may use."""
    return tmp_path_factory.mktemp("examples")


def read_or_refused(read: Callable[[Path], object], path: Path) -> object:
    """Return what is read, or None where it is refused as it should be, by one line with its name.

    Anything else that is raised is a traceback at the terminal.
    """
    try:
        return read(path)
    except common.ScriptError as error:
        line = str(error)
    assert str(path) in line
    assert len(line.splitlines()) == 1
    return None


# Running a script


@given(st.text("0123456789-+_. e²٣\n", max_size=8) | st.integers().map(str), SMALL, SMALL)
@example("9" * 5000, 0, 10)
def test_a_whole_number_is_read_as_python_reads_it_or_refused(
    text: str, lowest: float, highest: float
) -> None:
    read = common.whole_number(int(lowest), int(highest))
    if re.fullmatch(r"\d{1,99}", text) and lowest <= int(text) <= highest:
        assert read(text) == int(text)
    else:
        with pytest.raises(argparse.ArgumentTypeError, match=r"^'.*' is not a whole number from"):
            read(text)


@given(st.text("0123456789-+_. einfa\n", max_size=8) | st.floats().map(str), SMALL, SMALL)
def test_a_number_is_read_as_python_reads_it_or_refused(
    text: str, lowest: float, highest: float
) -> None:
    expected = None
    with contextlib.suppress(ValueError):
        expected = float(text)
    if expected is not None and lowest <= expected <= highest:
        assert common.number(lowest, highest)(text) == expected
    else:
        with pytest.raises(argparse.ArgumentTypeError, match=r"^'.*' is not a number from \S+ to"):
            common.number(lowest, highest)(text)


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["auto", "cpu", "cuda", "mps"]),
    st.booleans(),
    TYPED,
    TYPED,
)
def test_the_shared_options_are_read_back_as_they_were_typed(
    seed: int, device: str, quick: bool, data: str, model: str
) -> None:
    parser = common.argument_parser("", *common.OPTIONS, some_model="a/b")
    typed = [f"--seed={seed}", "--device", device, f"--data={data}", f"--some-model={model}"]
    read = parser.parse_args(typed + ["--quick"] * quick)
    assert vars(read) == {
        "seed": seed,
        "device": device,
        "quick": quick,
        "data": Path(data),
        "text": None,
        "some_model": model,
    }


OPTIONS = (
    "--seed --data --device --quick --text --model --steps --minutes --length --top-k --forecast "
    "--load --prompt --predict --fetch --query --dataset --help -h - -- --seed= 0 1 cpu"
)
ARGUMENTS = words_of(OPTIONS)


@pytest.mark.parametrize("script", [*SCRIPTS, "common"])
@examples(15)
@given(argv=st.lists(ARGUMENTS | TYPED, max_size=5))
def test_no_command_line_is_a_traceback(script: str, argv: list[str]) -> None:
    main = importlib.import_module(script).main
    out, err = io.StringIO(), io.StringIO()
    with (
        patch.object(argparse.ArgumentParser, "parse_args", only_parse),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises((Parsed, SystemExit)) as ended,
    ):
        main(argv)
    if ended.type is SystemExit:
        helped = ended.value.code == 0
        assert ended.value.code in (0, 2)
        assert bool(out.getvalue()) == helped
        assert bool(err.getvalue()) != helped


def said(speak: Callable[[], object]) -> tuple[object, str]:
    """Return what a function returns, and what it says on standard error."""
    with contextlib.redirect_stderr(io.StringIO()) as err:
        return speak(), err.getvalue()


@given(st.text())
def test_a_note_is_one_line_with_all_of_its_words(message: str) -> None:
    _, line = said(partial(common.note, message))
    assert len(line.splitlines()) == 1
    assert line.partition(":")[2].split() == message.split()


def raise_it(error: BaseException) -> int:
    raise error


@given(
    st.builds(common.ScriptError, st.text())
    | st.builds(OSError, st.integers(0, 200), st.text(), st.none() | st.text())
    | st.builds(OSError, st.text())
    | st.just(KeyboardInterrupt())
)
def test_whatever_goes_wrong_is_one_line(error: BaseException) -> None:
    code, line = said(lambda: common.run(partial(raise_it, error)))
    assert code == (130 if isinstance(error, KeyboardInterrupt) else 1)
    assert len(line.splitlines()) == 1


@given(st.integers(0, 2**32 - 1))
def test_a_seed_decides_every_random_number(seed: int) -> None:
    drawn = []
    for _ in range(2):
        common.seed_everything(seed)
        drawn.append((random.random(), np.random.rand(), torch.rand(1).item()))
    assert drawn[0] == drawn[1]


NAMES = st.text(string.ascii_letters + string.digits + ". -_é", min_size=1, max_size=20).filter(
    lambda name: name not in (".", "..")
)


@given(NAMES, st.binary(), st.binary(), st.booleans())
def test_a_file_is_the_one_before_or_the_whole_new_one(
    folder: Path, name: str, before: bytes, after: bytes, ends_well: bool
) -> None:
    path = folder / "complete" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(before)
    with contextlib.suppress(KeyboardInterrupt), common.complete_file(path) as beside:
        beside.write_bytes(after)
        assert path.read_bytes() == before
        if not ends_well:
            raise KeyboardInterrupt
    assert path.read_bytes() == (after if ends_well else before)
    assert list(path.parent.iterdir()) == [path]
    path.unlink()


@examples(30)
@given(st.lists(NAMES, min_size=1, max_size=3))
def test_a_folder_is_made_empty_and_may_be_there_already(folder: Path, names: list[str]) -> None:
    path = folder.joinpath("made", *names)
    for _ in range(2):
        common.make_folder(path)
        assert not any(each.is_file() for each in path.iterdir())


DTYPES = st.sampled_from(["float32", "float64", "float16", "int64", "uint8", "bool"])
TENSORS = DTYPES.flatmap(
    lambda dtype: arrays(dtype, st.tuples() | st.tuples(*[st.integers(0, 3)] * 2))
)
STRINGS = st.dictionaries(TEXT, TEXT, max_size=3)


@given(st.dictionaries(TEXT, TENSORS, min_size=1, max_size=3), STRINGS)
def test_saved_weights_are_loaded_as_they_were(
    folder: Path, weights: dict[str, np.ndarray], about: dict[str, str]
) -> None:
    path = folder / "weights.safetensors"
    common.save_weights(path, {name: torch.from_numpy(w) for name, w in weights.items()}, about)
    loaded, read = common.load_weights(path, CPU)
    assert read == about
    assert {name: (w.dtype, w.shape) for name, w in weights.items()} == {
        name: (w.numpy().dtype, tuple(w.shape)) for name, w in loaded.items()
    }
    assert all(loaded[name].numpy().tobytes() == w.tobytes() for name, w in weights.items())


# Files that something has happened to

DAY = pd.date_range("2011-01-01 00:15", periods=99, freq="15min")
ELECTRICITY = "timestamp,consumption\n" + "".join(f"{time},{time.hour / 8}\n" for time in DAY)
QUESTION = '{"question": "Which?", "choices": ["this", "that"], "answer": 1}\n'
COLLECTION = {
    "corpus.jsonl": '{"_id": "d1", "title": "A title", "text": "Some text."}\n',
    "queries.jsonl": '{"_id": "c1", "text": "A claim."}\n',
    "qrels/train.tsv": "query-id\tcorpus-id\tscore\nc1\td1\t1\n",
    "qrels/test.tsv": "query-id\tcorpus-id\tscore\nc1\td1\t1\n",
}


def read_collection(path: Path) -> object:
    """Read the collection of which this is one file."""
    root = path.parent.parent if path.suffix == ".tsv" else path.parent
    return lab_retrieval.read_collection(root)


def refusing(read: Callable[[Path], object]) -> Callable[[Path], object]:
    """Have a reader that raises `ValueError`, for its caller to say more, name the file itself."""

    def named(path: Path) -> object:
        try:
            return read(path)
        except ValueError as error:
            raise common.ScriptError(f"{path}: {common.brief(error)}") from error

    return named


FILES: dict[str, tuple[str, Callable[[Path], object]]] = {  # what is right, and who reads it
    "electricity_train.csv": (
        ELECTRICITY, lambda path: common.load_electricity("train", path.parent)
    ),
    "train.csv": ("text,label\nfine,good\nawful,bad\n", lab_classifier.read_table),
    "rows.csv": ("a,b\n1,2\n3,4\n", common.read_csv),
    "train.jsonl": (QUESTION * 2, lab_multiple_choice.read_questions),
    "rows.jsonl": ('{"a": 1}\n', partial(common.read_jsonl, a=int)),
    "text.txt": ("Nel mezzo\n\ndel cammin\n", common.load_inferno),
    **{name: (content, read_collection) for name, content in COLLECTION.items()},
}  # fmt: skip
PIECES = st.binary(max_size=9) | st.sampled_from(
    [
        b"\n",
        b",",
        b"\t",
        b'"',
        b"\r",
        b"\xe8",
        b"nan",
        b"{",
        b"\\ud800",
        b"true",
        b"<html>",
        b"9" * 5000,
    ]
)


def damaged(content: bytes) -> st.SearchStrategy[bytes]:
    """Replace a part of a file by something else."""
    return st.builds(
        lambda start, length, piece: content[:start] + piece + content[start + length :],
        st.integers(0, len(content)),
        st.integers(0, 20),
        PIECES,
    )


def other_rows(content: str) -> st.SearchStrategy[bytes]:
    """Put rows of any number of cells behind the first line of a table."""
    if content.startswith("{") or "\n\n" in content:
        return st.nothing()
    separator = "\t" if "\t" in content else ","
    header, *rows = content.splitlines()
    cells = st.sampled_from(rows[0].split(separator)) | LINE
    row = st.lists(cells, max_size=4).map(separator.join)
    several = st.lists(row, max_size=4) | row.map(lambda one: [one] * 100)
    return several.map(lambda rows: "\n".join([header, *rows]).encode())


@pytest.mark.parametrize("name", FILES)
@examples(20)
@given(data=st.data())
def test_a_file_is_read_or_refused_in_one_line_whatever_is_in_it(
    name: str, data: st.DataObject, folder: Path
) -> None:
    good, read = FILES[name]
    for other, content in COLLECTION.items():
        (folder / other).parent.mkdir(exist_ok=True)
        (folder / other).write_text(content)
    (folder / name).write_text(good)
    assert read(folder / name) is not None
    anything = st.binary(max_size=60) | damaged(good.encode()) | other_rows(good)
    (folder / name).write_bytes(data.draw(anything))
    with contextlib.redirect_stderr(io.StringIO()):  # another text than the Inferno is said so
        read_or_refused(read, folder / name)


@given(st.data())
def test_damaged_weights_are_loaded_or_refused(folder: Path, data: st.DataObject) -> None:
    path = folder / "damaged.safetensors"
    common.save_weights(path, {"w": torch.ones(2, 3)}, {"about": "it"})
    path.write_bytes(data.draw(damaged(path.read_bytes()) | st.binary()))
    read_or_refused(refusing(partial(common.load_weights, device=CPU)), path)


@given(arrays("float32", st.tuples(st.integers(0, 4), st.integers(1, 4))), st.data())
def test_kept_features_are_read_as_they_were_or_not_at_all(
    folder: Path, features: np.ndarray, data: st.DataObject
) -> None:
    path = folder / "features.safetensors"
    common.save_weights(path, {"features": torch.from_numpy(features)}, {})
    found = common.load_features(path)
    assert found.tobytes() == features.tobytes()
    assert found.shape == features.shape
    path.write_bytes(data.draw(damaged(path.read_bytes()) | st.binary()))
    found = common.load_features(path)
    assert found is None or isinstance(found, np.ndarray)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)


@given(
    st.lists(st.fixed_dictionaries({"a": JSON, "b": JSON}), min_size=1, max_size=4), st.booleans()
)
@example([{"a": "x\u2028y", "b": True}], False)
def test_rows_of_json_are_read_back_if_their_values_are_of_the_right_kinds(
    folder: Path, rows: list[dict[str, object]], ascii_only: bool
) -> None:
    path = folder / "written.jsonl"
    lines = (json.dumps(row, ensure_ascii=ascii_only) for row in rows)
    path.write_text("\n".join(lines), encoding="utf-8")
    assert common.read_jsonl(path) == rows
    for kind in (int, str, list):
        read = partial(common.read_jsonl, a=kind)
        right = all(type(row["a"]) is kind for row in rows)
        assert read_or_refused(read, path) == (rows if right else None)


@given(st.data())
def test_cells_of_a_table_are_read_back_as_text(folder: Path, data: st.DataObject) -> None:
    width = data.draw(st.integers(2, 3))
    cell = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=20)
    rows = data.draw(st.lists(st.lists(cell, min_size=width, max_size=width), max_size=4))
    path, names = folder / "written.csv", list("abc")[:width]
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([names, *rows])
    table = common.read_csv(path)
    assert list(table.columns) == names
    assert table.to_numpy().tolist() == rows


@given(arrays("float32", st.integers(97, 110), elements=st.floats(-1e9, 1e9, width=32)))
def test_readings_are_loaded_as_they_were_written(folder: Path, readings: np.ndarray) -> None:
    times = pd.date_range("2012-02-28 12:00", periods=len(readings), freq="15min")
    frame = pd.DataFrame({"timestamp": times, "consumption": readings})
    frame.to_csv(folder / "electricity_test.csv", index=False)
    pd.testing.assert_frame_equal(
        common.load_electricity("test", folder), frame, check_dtype=False, rtol=1e-6
    )


@given(st.sets(st.sampled_from("abcd")), st.lists(st.sampled_from("abcd"), min_size=1))
def test_the_first_file_that_a_folder_lacks_is_named(
    folder: Path, there: set[str], wanted: list[str]
) -> None:
    path = folder / "".join(["holds-", *sorted(there)])
    path.mkdir(exist_ok=True)
    for name in there:
        (path / name).touch()
    missing = [name for name in wanted if name not in there]
    if missing:
        with pytest.raises(common.ScriptError) as raised:
            common.check_folder(path, *wanted)
        assert str(raised.value).startswith(f"{path / missing[0]}: no such file")
    else:
        common.check_folder(path, *wanted)


@given(st.binary() | TEXT.map(str.encode) | st.text("<>/preHTML& \n\t\x0b").map(str.encode))
def test_a_cleaned_text_is_clean_and_stays_as_it_is(raw: bytes) -> None:
    try:
        text = common.clean_text(raw)
    except common.ScriptError:
        return
    assert text.strip()
    assert "\r" not in text
    assert all(line == line.rstrip() for line in text.split("\n"))
    assert not common.is_inferno(text)
    if not re.search("[<&\ufeff]", raw.decode("utf-8", "replace")):  # a page may show a page
        assert common.clean_text(text.encode()) == text


# Sequences


@given(arrays("float32", st.tuples(st.integers(1, 9), st.integers(1, 5)), elements=SMALL))
def test_a_data_set_holds_the_windows_it_was_made_of(windows: np.ndarray) -> None:
    targets = windows[:, 0].copy()
    inputs, wanted = common.sequence_dataset(windows, targets).tensors
    assert inputs.shape == (*windows.shape, 1)
    assert np.array_equal(inputs[:, :, 0].numpy(), windows)
    assert np.array_equal(wanted.numpy(), targets)


@examples(20)
@given(st.integers(1, 3000))
def test_predictions_are_those_of_each_row_alone_however_many_there_are(rows: int) -> None:
    inputs = torch.arange(2.0 * rows).reshape(rows, 2)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.9))
    predicted = common.predict(model, inputs)
    assert torch.equal(predicted, inputs)


@st.composite
def samples(draw: st.DrawFn) -> task03.Samples:
    """Draw pasts that consist of whole numbers, so that sums of them are exact."""
    rows = draw(st.integers(1, 4))
    seed = draw(st.integers(0, 2**32 - 1))
    past = np.random.default_rng(seed).integers(-99, 99, (rows, task03.REACH)).astype("float32")
    start = pd.Timestamp("2012-01-01") + pd.Timedelta(minutes=15 * draw(st.integers(0, 99_999)))
    times = pd.date_range(start, periods=rows, freq="15min")
    return task03.Samples(past, times, past[:, -1])


EXPERIMENTS = st.builds(
    task03.Experiment,
    name=st.just(""),
    readings=st.integers(1, 200),
    past_days=st.lists(st.integers(1, 28), max_size=3).map(tuple),
    calendar=st.booleans(),
    change=st.just(True),
)


@examples(50)
@given(samples(), EXPERIMENTS, SMALL, st.sampled_from([0.5, 1, 2, 4]))
def test_changes_do_not_depend_on_the_level_and_grow_with_the_scale(
    drawn: task03.Samples, experiment: task03.Experiment, shift: float, scale: float
) -> None:
    inputs, base = task03.make_inputs(drawn, experiment)
    offsets = {-near for near in range(1, experiment.readings + 1)}
    offsets |= {near - 96 * day for day in experiment.past_days for near in (-1, 0, 1)}
    readings = len(offsets)  # of the inputs; the last keeps its level, and then comes the calendar
    assert inputs.shape[1] == readings + (15 if experiment.calendar else 0)
    moved = drawn._replace(past=drawn.past * np.float32(scale) + np.float32(shift))
    others, other_base = task03.make_inputs(moved, experiment)
    assert np.array_equal(other_base, base * scale + shift)
    assert np.array_equal(others[:, : readings - 1], inputs[:, : readings - 1] * scale)
    assert np.array_equal(others[:, readings - 1], inputs[:, readings - 1] * scale + shift)
    assert np.array_equal(others[:, readings:], inputs[:, readings:])


# Models of the Hub


REPOSITORY = st.lists(
    st.sampled_from(
        ["config.json", "tokenizer.json", "vocab.txt", "merges.txt", "spiece.model", "source.spm",
         "model.safetensors", "model-00001-of-00002.safetensors", "pytorch_model.bin",
         "tf_model.h5", "README.md", "onnx/model.onnx", "onnx/config.json", ".gitattributes"]
    ),
    unique=True,
)  # fmt: skip


@given(REPOSITORY, st.sampled_from([*common.WEIGHTS_FILES, *common.NO_WEIGHTS_FILES]))
def test_of_a_repository_settings_and_one_kind_of_weights_are_wanted(
    names: list[str], kind: str
) -> None:
    from huggingface_hub.utils import filter_repo_objects

    wanted = set(filter_repo_objects(names, **common.only(kind)))
    endings = (".json", ".txt", ".model", ".spm", ".jinja")
    assert wanted == {
        name
        for name in names
        if "/" not in name and (name.endswith(endings) or fnmatch(name, kind))
    }


@given(REPOSITORY)
def test_a_folder_has_a_tokenizer_if_it_has_one_of_its_files(
    folder: Path, names: list[str]
) -> None:
    path = folder / "repository"
    path.mkdir(exist_ok=True)
    for old in path.iterdir():
        old.unlink()
    for name in names:
        (path / name.replace("/", "-")).touch()
    files = {"tokenizer.json", "vocab.txt", "spiece.model", "source.spm"}
    assert common.has_tokenizer(path) == bool(files & set(names))


@examples(12)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40))
@example("x" * 300)
def test_what_names_no_model_is_one_line(folder: Path, name: str) -> None:
    from huggingface_hub import constants

    assume(not os.path.isdir(name))
    hub = patch.multiple(constants, HF_HUB_CACHE=str(folder / "hub"), ENDPOINT=NOBODY)

    def find() -> int:
        with contextlib.suppress(common.ScriptError, OSError):
            assert common.cached_model(name) is None
        with pytest.raises(common.ScriptError), common.reaching_hub(name):
            pass
        return len(common.find_model(name, None).parts)

    with hub:
        code, line = said(lambda: common.run(find))
    assert code == 1
    assert len(line.splitlines()) == 1
    assert " ".join(name.split()) in line


ODD = st.sampled_from([None, "", "x", -1, 0, 7, 2.5, True, [], {}, "a/b", ["x"], {"a": 1}])


@pytest.fixture(scope="module")
def copied(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy a tiny encoder, with its tokenizer in its newer form too, for tests to change."""
    path = tmp_path_factory.mktemp("copied") / "encoder"
    copytree(checkpoints / task07.EXTRACTIVE_MODEL.name, path)
    common.load_tokenizer(path).save_pretrained(path)
    return path


def loaded_or_refused(
    read: Callable[[Path], object], folder: Path, name: str, changed: bytes
) -> None:
    """Read a folder one of whose files is changed for as long as that takes."""
    good = (folder / name).read_bytes()
    try:
        (folder / name).write_bytes(changed)
        read_or_refused(read, folder)
    finally:
        (folder / name).write_bytes(good)


MODEL_SETTINGS = (
    "model_type architectures vocab_size dim n_heads n_layers hidden_dim activation dropout "
    "max_position_embeddings id2label num_labels pad_token_id dtype transformers_version "
    "quantization_config auto_map is_encoder_decoder tie_word_embeddings"
)
TOKENIZER_SETTINGS = (
    "tokenizer_class backend do_lower_case model_max_length unk_token pad_token cls_token "
    "auto_map added_tokens_decoder extra_special_tokens clean_up_tokenization_spaces"
)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@examples(15)
@given(words_of(MODEL_SETTINGS), ODD)
def test_a_model_with_odd_settings_is_loaded_or_refused(
    copied: Path, key: str, value: object
) -> None:
    config = json.loads((copied / "config.json").read_text()) | {key: value}
    read = partial(common.load_model, kind="AutoModelForQuestionAnswering", device=CPU)
    loaded_or_refused(read, copied, "config.json", json.dumps(config).encode())


@examples(15)
@given(words_of(TOKENIZER_SETTINGS), ODD)
def test_a_tokenizer_with_odd_settings_is_loaded_or_refused(
    copied: Path, key: str, value: object
) -> None:
    name = "tokenizer_config.json"
    config = json.loads((copied / name).read_text()) | {key: value}
    loaded_or_refused(common.load_tokenizer, copied, name, json.dumps(config).encode())


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "tokenizer.json"])
@examples(15)
@given(data=st.data())
def test_a_damaged_file_of_a_model_is_loaded_or_refused(
    name: str, data: st.DataObject, copied: Path
) -> None:
    changed = data.draw(damaged((copied / name).read_bytes()))
    model = partial(common.load_model, kind="AutoModelForQuestionAnswering", device=CPU)
    loaded_or_refused(
        model if name == "config.json" else common.load_tokenizer, copied, name, changed
    )


# Features of texts

TINY = {"vocab_size": 60, "dim": 8, "n_heads": 2, "hidden_dim": 16, "n_layers": 2}
IDS = st.lists(st.lists(st.integers(0, 59), min_size=1, max_size=9), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def encoder() -> torch.nn.Module:
    """Make a tiny encoder of random weights."""
    import transformers

    torch.manual_seed(0)
    config = transformers.DistilBertConfig(**TINY, max_position_embeddings=512)
    return transformers.DistilBertModel(config).eval()


@pytest.fixture(scope="module")
def tokenizer(checkpoints: Path) -> object:
    return common.load_tokenizer(checkpoints / task07.EXTRACTIVE_MODEL.name)


@pytest.fixture(scope="module")
def gpt2(checkpoints: Path) -> Pair:
    return load_pair(checkpoints / task11.MODEL.name)


@given(st.lists(TEXT, max_size=4), st.integers(3, 30))
def test_a_text_s_tokens_do_not_depend_on_the_other_texts(
    tokenizer: object, texts: list[str], longest: int
) -> None:
    together = common.tokenize(tokenizer, texts, longest)
    assert together == [common.tokenize(tokenizer, [text], longest)[0] for text in texts]
    assert all(len(ids) <= longest for ids in together)
    whole = common.tokenize(tokenizer, texts, 10_000)
    kept = [ids[:-1] for ids in together]  # all but [SEP], which ends what is cut too
    assert kept == [ids[: len(part)] for ids, part in zip(whole, kept, strict=True)]


@given(IDS)
def test_what_is_padded_is_found_again_by_its_mask(ids: list[list[int]]) -> None:
    inputs = common.pad(ids, CPU)
    rows = zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
    assert [tokens[mask == 1].tolist() for tokens, mask in rows] == ids
    assert inputs["attention_mask"].sum(1).tolist() == list(map(len, ids))


@given(IDS, st.integers(0, 2**32))
def test_a_pool_sees_a_text_s_own_tokens_only(ids: list[list[int]], seed: int) -> None:
    mask = common.pad(ids, CPU)["attention_mask"]
    random = torch.Generator().manual_seed(seed)
    state = torch.randn(*mask.shape, 3, generator=random)
    changed = state + 1e3 * (mask == 0).unsqueeze(-1)  # what stands on the padding
    for pool, own in (
        (common.mean_token, lambda rows: rows.mean(0)),
        (common.first_token, lambda rows: rows[0]),
        (lab_classifier.all_layers, lambda rows: torch.cat([rows.mean(0), rows.amax(0)])),
    ):
        found = pool((changed,), mask)
        expected = [own(rows[: len(tokens)]) for rows, tokens in zip(state, ids, strict=True)]
        torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=1e-5)


@examples(8)
@given(IDS, st.randoms(use_true_random=False), st.integers(1, 20))
def test_a_text_s_features_depend_on_nothing_but_its_tokens(
    encoder: torch.nn.Module, ids: list[list[int]], shuffler: random.Random, batch: int
) -> None:
    pools = lab_classifier.POOLS
    order = shuffler.sample(range(len(ids)), len(ids))
    with patch.object(common, "BATCH_TOKENS", batch):
        together = common.compute_features(encoder, ids, pools)
        moved = common.compute_features(encoder, [ids[place] for place in order], pools)
    alone = [common.compute_features(encoder, [tokens], pools) for tokens in ids]
    for name in pools:
        np.testing.assert_allclose(together[name], [each[name][0] for each in alone], atol=1e-5)
        np.testing.assert_allclose(together[name][order], moved[name], atol=1e-5)


@examples(15)
@given(st.lists(SENTENCES, min_size=1, max_size=5))
def test_features_are_the_same_when_they_are_kept(
    encoder: torch.nn.Module, texts: list[str]
) -> None:
    def tokenizer(texts: list[str], **_: object) -> dict[str, list[list[int]]]:
        return {"input_ids": [[1, *(len(word) for word in text.split())] for text in texts]}

    tokenizer.model_max_length = 512
    pools = {"mean": common.mean_token}
    first = common.encode(encoder, tokenizer, texts, pools)["mean"]
    with patch.object(common, "compute_features", side_effect=AssertionError("computed anew")):
        assert np.array_equal(common.encode(encoder, tokenizer, texts, pools)["mean"], first)


@examples(6)
@given(st.lists(JSON, min_size=2, max_size=3))
def test_a_digest_tells_apart_what_it_is_of(encoder: torch.nn.Module, others: list) -> None:
    digests = {repr(each): common.digest(encoder, each).hexdigest() for each in others}
    assert len(set(digests.values())) == len(digests)
    assert digests == {repr(each): common.digest(encoder, each).hexdigest() for each in others}


@given(texts=st.lists(st.sampled_from(["", "a", "to"]), min_size=1, max_size=3))
def test_a_text_of_which_no_token_is_made_is_refused(gpt2: Pair, texts: list[str]) -> None:
    if all(texts):
        assert all(common.tokenize(gpt2[1], texts))
    else:
        with pytest.raises(common.ScriptError, match="makes no token of the text ''"):
            common.tokenize(gpt2[1], texts)


# Writing with a model


@given(
    st.booleans(),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from(["max_length", "max_new_tokens"]),
    st.integers(1, 40),
)
def test_a_prompt_is_refused_if_it_has_too_many_tokens_or_leaves_no_room(
    is_encoder_decoder: bool, length: int, positions: int, limit: str, most: int
) -> None:
    config = SimpleNamespace(
        is_encoder_decoder=is_encoder_decoder, max_position_embeddings=positions
    )
    total = length + most if limit == "max_new_tokens" else most
    fits = length <= positions if is_encoder_decoder else length < total <= positions
    context = contextlib.nullcontext() if fits else pytest.raises(common.ScriptError)
    with context:
        common.check_length(SimpleNamespace(config=config), length, {limit: most})


@examples(6)
@given(st.lists(WORDS, min_size=1, max_size=6).map(" ".join), st.integers(1, 5))
def test_what_is_written_follows_the_prompt(gpt2: Pair, prompt: str, most: int) -> None:
    model, tokenizer = gpt2
    tokens, start = common.generate_tokens(model, tokenizer, prompt, max_new_tokens=most)
    assert tokens[:start].tolist() == tokenizer(prompt)["input_ids"]
    assert 1 <= len(tokens) - start <= most
    again = common.generate_tokens(model, tokenizer, prompt, max_length=start + most)[0]
    assert tokens.tolist() == again.tolist()
    written = common.generate(model, tokenizer, prompt, max_new_tokens=most)
    assert written == tokenizer.decode(tokens[start:], skip_special_tokens=True)


@given(st.text())
def test_a_brief_error_is_the_beginning_of_it(message: str) -> None:
    brief = common.brief(ValueError(message))
    assert message.strip().startswith(brief)
    assert len(brief) <= 160
    assert "\n" not in brief


# Metrics

MEANS = (  # of a figure of each text, so that it does not matter how often they all stand there
    "bleu", "chrf", "ter", "rouge1", "rouge2", "rougeL", "rougeLsum", "meteor", "exact_match", "f1"
)  # fmt: skip


def scores(pairs: list[tuple[str, list[str]]]) -> dict[str, float]:
    """Return what every metric says of predictions and their references."""
    texts = [text for text, _ in pairs], [several for _, several in pairs]
    with patch.object(task13, "find_wordnet", lambda: task13.NoWordNet):
        meteor = task13.meteor(*texts)
    return {
        "bleu": common.bleu(*texts)["bleu"],
        "sacrebleu": common.sacrebleu(*texts)["score"],
        "chrf": common.chrf(*texts)["score"],
        "ter": task13.ter(*texts)["score"],
        **task13.rouge(*texts),
        **meteor,
        **task13.exact_match(*texts),
        **task13.f1(*texts),
    }


def same(left: dict[str, float], right: dict[str, float]) -> bool:
    return left == pytest.approx(right, rel=1e-9, abs=1e-9)


@examples(15)
@given(PAIRS, st.randoms(use_true_random=False))
def test_no_metric_depends_on_an_order(
    pairs: list[tuple[str, list[str]]], shuffler: random.Random
) -> None:
    before = scores(pairs)
    moved = shuffler.sample(pairs, len(pairs))
    assert same(scores(moved), before)
    after = scores([(text, shuffler.sample(each, len(each))) for text, each in moved])
    after["chrf"] = before["chrf"]  # of references that are as near, sacrebleu takes the first
    assert same(after, before)


@examples(15)
@given(PAIRS)
def test_all_texts_twice_are_worth_the_same(pairs: list[tuple[str, list[str]]]) -> None:
    once, twice = scores(pairs), scores(pairs * 2)
    del once["sacrebleu"], twice["sacrebleu"]  # how much it smooths depends on the counts
    assert same(once, twice)


@examples(10)
@given(
    st.lists(st.lists(WORDS, min_size=4, max_size=9).map(" ".join), min_size=1, max_size=3), PAIRS
)
def test_the_right_texts_have_the_best_scores_and_others_none_beyond(
    texts: list[str], pairs: list[tuple[str, list[str]]]
) -> None:
    best = scores([(text, ["other words", text]) for text in texts])
    hundred = {"sacrebleu": 100, "chrf": 100}
    lowest = {"ter": 0}
    for name, value in best.items():
        expected = lowest.get(name, hundred.get(name, 1))
        assert value == pytest.approx(expected, abs=0.01 if name == "meteor" else 1e-9)
    for name, value in scores(pairs).items():
        assert 0 <= value <= hundred.get(name, np.inf if name == "ter" else 1) + 1e-9


@given(PAIRS)
def test_pairs_are_taken_apart_and_put_together_again(pairs: list[tuple[str, list[str]]]) -> None:
    predictions, references = [text for text, _ in pairs], [several for _, several in pairs]
    assert common.pair_up(predictions, references) == pairs
    columns = common.by_position(predictions, references)
    rows = [[each for each in row if each is not None] for row in zip(*columns, strict=True)]
    assert rows == references
    single = [several[0] for several in references]
    assert common.by_position(predictions, single) == [single]


def ngrams(words: list[str], order: int) -> Counter[tuple[str, ...]]:
    """Count the sequences of so many words."""
    return Counter(tuple(words[i : i + order]) for i in range(len(words) - order + 1))


@given(PAIRS)
def test_bleu_is_its_definition(pairs: list[tuple[str, list[str]]]) -> None:
    precisions, lengths = [], np.zeros(2)
    for order in range(1, 5):
        clipped = total = 0
        for text, several in pairs:
            counts = ngrams(text.split(), order)
            most = Counter()
            for each in several:
                most |= ngrams(each.split(), order)
            clipped += (counts & most).total()
            total += counts.total()
        precisions.append(clipped / total if total else 0.0)
    for text, several in pairs:
        length = len(text.split())
        nearest = min((abs(len(each.split()) - length), len(each.split())) for each in several)
        lengths += length, nearest[1]
    brevity = 1.0 if lengths[0] >= lengths[1] else np.exp(1 - lengths[1] / max(lengths[0], 1e-9))
    expected = brevity * np.prod(precisions) ** 0.25
    found = common.bleu([text for text, _ in pairs], [several for _, several in pairs])
    assert found["precisions"] == pytest.approx(precisions)
    assert found["bleu"] == pytest.approx(expected)
    if all(precisions):  # nothing to smooth
        score = common.sacrebleu_score("BLEU", [p for p, _ in pairs], [r for _, r in pairs])
        assert score["score"] == pytest.approx(100 * expected)


def longest_common(left: list[str], right: list[str]) -> int:
    """Return the length of the longest common subsequence by trying all of them."""
    return max(
        length
        for length in range(min(len(left), len(right)) + 1)
        if set(combinations(left, length)) & set(combinations(right, length))
    )


@given(SENTENCES, SENTENCES)
def test_rouge_is_its_definition(text: str, reference: str) -> None:
    found, (left, right) = task13.rouge([text], [reference]), (text.split(), reference.split())
    common_words = {
        "rouge1": ((ngrams(left, 1) & ngrams(right, 1)).total(), 0),
        "rouge2": ((ngrams(left, 2) & ngrams(right, 2)).total(), 1),
        "rougeL": (longest_common(left, right), 0),
    }
    for name, (number, fewer) in common_words.items():
        total = max(0, len(left) - fewer) + max(0, len(right) - fewer)
        assert found[name] == pytest.approx(2 * number / total if number else 0)


@examples(12)
@given(st.lists(st.tuples(TEXT, st.lists(TEXT, min_size=1, max_size=2)), min_size=1, max_size=3))
def test_the_metrics_of_squad_are_torchmetrics_s_for_any_text(
    pairs: list[tuple[str, list[str]]],
) -> None:
    from torchmetrics.functional.text import squad

    texts = [text for text, _ in pairs], [several for _, several in pairs]
    expected = squad(
        [{"prediction_text": text, "id": str(i)} for i, text in enumerate(texts[0])],
        [
            {"answers": {"answer_start": [0] * len(several), "text": several}, "id": str(i)}
            for i, several in enumerate(texts[1])
        ],
    )
    assert task13.f1(*texts)["f1"] == pytest.approx(expected["f1"].item() / 100, abs=1e-6)
    exact = task13.exact_match(*texts)["exact_match"]
    assert exact == pytest.approx(expected["exact_match"].item() / 100, abs=1e-6)


@given(st.text(LETTERS))
def test_the_words_of_squad_are_in_lower_case_without_punctuation_and_articles(text: str) -> None:
    words = task13.squad_words(text)
    assert not set("".join(words)) & set(string.punctuation + string.ascii_uppercase)
    assert not {"a", "an", "the"} & set(words)
    assert task13.squad_words(" ".join(["The", *words, "!"])) == words


@given(st.text(LETTERS))
def test_words_are_the_runs_of_letters_and_digits(text: str) -> None:
    blanked = "".join(each if each.isalnum() else " " for each in text.lower())
    assert task13.UnicodeWords.tokenize(text) == blanked.split()


# What the scripts make of texts


@given(st.text("aB .!?\"')\n", max_size=20))
def test_a_finished_reply_is_a_beginning_that_ends_a_sentence(reply: str) -> None:
    kept = task05.finished(reply)
    assert reply.startswith(kept)
    assert task05.finished(kept) == kept
    assert kept == reply or re.search(r"""[.!?]["')]*$""", kept)


TOKENS = st.lists(st.integers(0, 3), max_size=12)


@given(TOKENS)
def test_repeats_and_distinct_pairs_are_those_of_a_loop(tokens: list[int]) -> None:
    longest = 0
    for first, second in combinations(range(len(tokens)), 2):
        length = 0
        while second + length < len(tokens) and tokens[first + length] == tokens[second + length]:
            length += 1
        longest = max(longest, length)
    assert lab_generation.longest_repeat(tokens) == longest
    pairs = [(tokens[i], tokens[i + 1]) for i in range(len(tokens) - 1)]
    different = [pair for i, pair in enumerate(pairs) if pair not in pairs[:i]]
    expected = len(different) / len(pairs) if pairs else 0
    assert lab_generation.distinct_2(tokens) == expected


@given(st.text("ab", max_size=40), st.text("ab", max_size=60), st.integers(1, 6))
def test_the_share_of_copied_stretches_is_that_of_a_loop(text: str, source: str, size: int) -> None:
    stretches = [text[i : i + size] for i in range(len(text) - size + 1)]
    copied = [stretch in source for stretch in stretches]
    with patch.object(dante_gpt, "COPY", size):
        found = dante_gpt.copied_share(text, source)
    assert found == (sum(copied) / len(copied) if copied else 0)


VERSES = st.text("abeio \u00e0`'\u00c8\n,h", max_size=40)


@given(VERSES, VERSES)
def test_the_measures_of_verses_are_shares_and_cases_and_accents_do_not_matter(
    text: str, source: str
) -> None:
    measures = (dante_gpt.eleven_syllables, dante_gpt.terza_rima)
    for measure in (*measures, partial(dante_gpt.known_words, source=source)):
        assert 0 <= measure(text) <= 1
        assert measure(text) == measure(dante_gpt.plain(text).upper())
    assert dante_gpt.plain(dante_gpt.plain(text)) == dante_gpt.plain(text)
    for verse in text.splitlines():
        letters = re.sub("[^a-z`]", "", dante_gpt.plain(verse))
        assert letters.endswith(dante_gpt.rhyme(verse))
        vowels = sum(letter in "aeiou" for letter in letters)
        assert dante_gpt.count_syllables(verse) <= vowels + letters.count("`") + 1


@given(TEXT, TEXT)
def test_a_text_is_encoded_and_read_back(text: str, more: str) -> None:
    characters = "".join(sorted(set(text)))
    numbers = dante_gpt.encode(text, characters)
    assert "".join(characters[number] for number in numbers) == text
    if unknown := set(more) - set(text):
        with pytest.raises(common.ScriptError, match="never uses") as raised:
            dante_gpt.encode(more, characters)
        assert all(repr(character) in str(raised.value) for character in unknown)
        assert len(str(raised.value).splitlines()) == 1
    assert "".join(dante_gpt.split(text)) == text


@given(st.integers(1, 40), st.integers(0, 400), st.integers(0, 9), st.integers(0, 99))
def test_a_block_lies_in_the_text_and_no_two_of_a_pass_meet(
    block: int, more: int, seed: int, number: int
) -> None:
    length = 2 * block + 1 + more
    config = dante_gpt.Config(steps=1, block_size=block, seed=seed)
    blocks = (length - 1) // block - 1
    first = number * blocks
    starts = [dante_gpt.block_start(n, length, config) for n in range(first, first + blocks)]
    assert all(0 <= start <= length - block - 1 for start in starts)
    assert all(later - start == block for start, later in pairwise(sorted(starts)))


@examples(30)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 99), st.floats(1e-3, 1e3))
def test_a_step_of_muon_does_not_depend_on_how_large_the_gradient_is(
    rows: int, columns: int, seed: int, scale: float
) -> None:
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    step = dante_gpt.orthogonalise(matrix)
    torch.testing.assert_close(dante_gpt.orthogonalise(scale * matrix), step, atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(dante_gpt.orthogonalise(matrix.T), step.T, atol=1e-4, rtol=1e-3)


# Classifying

LABELS = st.sampled_from(["0", "1", "10", "2", "joy"])
TABLES = st.lists(st.tuples(SENTENCES, LABELS), max_size=8).map(
    lambda rows: pd.DataFrame(rows, columns=["text", "label"], dtype=str)
)


@given(arrays("float64", st.tuples(st.integers(2, 6), st.integers(1, 3)), elements=SMALL), SMALL)
def test_standardised_features_have_mean_0_and_deviation_1_or_are_nothing(
    rows: np.ndarray, shift: float
) -> None:
    for features in (rows, 4 * rows + shift):
        standard = lab_classifier.standardise({"train": features})["train"]
        np.testing.assert_allclose(standard.mean(0), 0, atol=1e-9)
        changing = np.ptp(rows, axis=0) > 0
        np.testing.assert_allclose(standard.std(0), changing, atol=1e-9)
    np.testing.assert_allclose(
        standard, lab_classifier.standardise({"train": rows})["train"], atol=1e-9
    )


@given(st.lists(st.integers(0, 3), min_size=1), st.integers(2, 3))
def test_the_labels_weigh_the_same_in_total(labels: list[int], times: int) -> None:
    numbers = np.unique(labels, return_inverse=True)[1]  # every label from 0 on occurs
    weights = lab_classifier.class_weights(numbers)
    totals = weights * np.bincount(numbers)
    np.testing.assert_allclose(totals, len(labels) / len(totals))
    np.testing.assert_allclose(lab_classifier.class_weights(np.tile(numbers, times)), weights)


@examples(15)
@given(TABLES, TABLES, TABLES)
def test_no_text_is_left_that_is_to_be_predicted_later(
    train: pd.DataFrame, validation: pd.DataFrame, test: pd.DataFrame
) -> None:
    splits = {"train": train, "validation": validation, "test": test}
    with contextlib.redirect_stdout(io.StringIO()):
        kept = lab_classifier.leave_out_repeated(splits)
    texts = {name: set(table["text"]) for name, table in splits.items()}
    left = {name: set(table["text"]) for name, table in kept.items()}
    assert left["test"] == texts["test"]
    assert left["validation"] == texts["validation"] - texts["test"]
    assert left["train"] == texts["train"] - texts["validation"] - texts["test"]


@given(TABLES, TABLES)
def test_numbers_of_labels_are_read_back_as_the_labels(
    train: pd.DataFrame, test: pd.DataFrame
) -> None:
    known = set(train["label"])
    try:
        numbers, names = lab_classifier.number_labels({"train": train, "test": test}, "other")
    except common.ScriptError:
        assert len(known) < 2 or set(test["label"]) - known
        return
    for name, table in (("train", train), ("test", test)):
        assert [names[number] for number in numbers[name]] == table["label"].tolist()


@given(TABLES, st.integers(0, 9), st.integers(0, 99))
def test_rows_are_drawn_in_their_order_and_none_twice(
    table: pd.DataFrame, most: int, seed: int
) -> None:
    drawn = lab_classifier.draw(table, most, seed)
    assert len(drawn) == min(most, len(table))
    assert drawn.index.is_monotonic_increasing
    assert drawn.index.is_unique
    assert drawn.equals(table.loc[drawn.index])


# Choosing

QUESTIONS = st.lists(
    st.lists(SENTENCES, min_size=2, max_size=5).flatmap(
        lambda choices: st.builds(
            lab_multiple_choice.Question,
            st.just("?"),
            st.just(choices),
            st.integers(0, len(choices) - 1),
        )
    ),
    min_size=1,
    max_size=5,
)


@given(QUESTIONS, st.integers(0, 99))
def test_shuffled_questions_have_the_same_choices_and_the_same_right_one(
    questions: list[lab_multiple_choice.Question], seed: int
) -> None:
    shuffled = lab_multiple_choice.shuffle(questions, np.random.default_rng(seed))
    for before, after in zip(questions, shuffled, strict=True):
        assert sorted(after.choices) == sorted(before.choices)
        assert after.choices[after.answer] == before.choices[before.answer]


@given(QUESTIONS, st.integers(0, 99))
def test_scores_are_cut_and_pairs_are_made_as_by_a_loop(
    questions: list[lab_multiple_choice.Question], seed: int
) -> None:
    sizes = [len(question.choices) for question in questions]
    flat = np.random.default_rng(seed).integers(0, 4, sum(sizes))
    scores = lab_multiple_choice.per_question(flat, questions)
    assert list(map(len, scores)) == sizes
    assert np.array_equal(np.concatenate(scores), flat)
    places = [
        (number, place) for number, size in enumerate(sizes) for place in range(size)
    ]  # of each score
    pairs = [
        [places.index((number, question.answer)), places.index((number, place))]
        for number, question in enumerate(questions)
        for place in range(sizes[number])
        if place != question.answer
    ]
    assert lab_multiple_choice.ranking_pairs(questions).tolist() == pairs
    right = [
        all(each[question.answer] > other for i, other in enumerate(each) if i != question.answer)
        for each, question in zip(scores, questions, strict=True)
    ]
    assert lab_multiple_choice.accuracy(scores, questions) == pytest.approx(np.mean(right))
    doubled = [2 * each + 1 for each in scores]
    assert lab_multiple_choice.accuracy(doubled, questions) == pytest.approx(np.mean(right))


# Retrieving

SCORES = arrays(
    "float64", st.tuples(st.integers(1, 3), st.integers(1, 8)), elements=st.integers(0, 4)
)


@given(SCORES, st.integers(1, 10))
def test_the_best_documents_are_the_first_of_all_in_order(scores: np.ndarray, depth: int) -> None:
    for row, best in zip(scores, lab_retrieval.best_documents(scores, depth), strict=True):
        order = sorted(range(len(row)), key=lambda place: (-row[place], place))
        assert best.tolist() == order[:depth]


@given(st.data())
def test_fused_scores_are_those_of_a_loop(data: st.DataObject) -> None:
    words = data.draw(SCORES)
    meaning = data.draw(arrays("float64", words.shape, elements=st.integers(0, 4)))
    fused = lab_retrieval.reciprocal_ranks(words, meaning)
    for row, document in product(*map(range, words.shape)):
        ranks = []
        for scores in (words[row], meaning[row]):
            order = sorted(range(len(scores)), key=lambda place: (-scores[place], place))
            ranks.append(order.index(document) + 1)
        assert fused[row, document] == pytest.approx(sum(1 / (60 + rank) for rank in ranks))
    half = lab_retrieval.weighted_sum(words, 3 * meaning + 5, 0.5)  # a claim's scale is nothing
    expected = (lab_retrieval.standardise(words) + lab_retrieval.standardise(meaning)) / 2
    np.testing.assert_allclose(half, expected, atol=1e-9)


DOCUMENTS = st.lists(
    st.lists(st.sampled_from(["apple", "pear", "plum", "lemon"]), min_size=1, max_size=6),
    min_size=1,
    max_size=5,
)


@given(DOCUMENTS, DOCUMENTS, st.sampled_from(lab_retrieval.K1), st.sampled_from(lab_retrieval.B))
def test_bm25_is_its_formula(
    documents: list[list[str]], claims: list[list[str]], k1: float, b: float
) -> None:
    words = lab_retrieval.split_words([" ".join(document) for document in documents])
    found = lab_retrieval.bm25(words, [" ".join(claim) for claim in claims], k1, b)
    expected = bm25_by_formula(documents, claims, k1, b)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@given(st.text("aB1 .!?\n(", max_size=30))
def test_sentences_are_the_abstract_without_blanks_between_them(abstract: str) -> None:
    sentences = lab_retrieval.split_sentences(abstract)
    assert "".join("".join(sentences).split()) == "".join(abstract.split())
    assert all(sentence[-1] in ".!?" for sentence in sentences[:-1])
    again = [part for sentence in sentences for part in lab_retrieval.split_sentences(sentence)]
    assert again == sentences


@given(st.integers(1, 300), st.integers(1, 90), st.integers(0, 99))
def test_a_small_part_has_the_same_judgements_of_the_same_texts(
    documents: int, claims: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    qrels = {
        split: {
            int(claim): {int(random.integers(documents)): int(random.integers(1, 3))}
            for claim in random.permutation(claims)[: random.integers(1, claims + 1)]
        }
        for split in ("train", "test")
    }
    texts = [f"d{place}" for place in range(documents)]
    whole = lab_retrieval.Collection(texts, texts, [f"c{n}" for n in range(claims)], qrels)
    part = lab_retrieval.small_part(whole)

    def judged(collection: lab_retrieval.Collection, split: str) -> list[tuple[str, str, int]]:
        return [
            (collection.claims[claim], collection.titles[place], score)
            for claim, relevant in collection.qrels[split].items()
            for place, score in relevant.items()
        ]

    for split in qrels:
        assert judged(part, split) == judged(whole, split)[: lab_retrieval.QUICK_CLAIMS]
    assert part.titles == part.abstracts
