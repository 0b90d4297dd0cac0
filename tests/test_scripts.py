"""What holds for every script: help, options, exit codes, and files that are complete or absent."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import common
import dante_gpt
import lab_classifier
import lab_data
import lab_generation
import lab_multiple_choice
import lab_retrieval
import pretrained
import task02
import task03
import task05
import task09

import pytest
from conftest import EXPECTED, ROOT, RunScript

HELPERS = {"common", "lab_common", "lab_data", "dante_verse"}  # they have no command line
SCRIPTS = sorted({path.stem for path in ROOT.glob("*.py")} - HELPERS)
DATA_FILES = {  # the first file that --data must contain
    **dict.fromkeys(["task01", "task02", "task03"], "electricity_train.csv"),
    "lab_classifier": "train.csv",
    "lab_multiple_choice": "train.jsonl",
    "lab_retrieval": "corpus.jsonl",
}
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Run:
    """Return a function that runs a script in this process: exit code, standard output, error."""

    def run(script: str, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [f"{script}.py"])
        main = importlib.import_module(script).main
        code = common.run(partial(main, [str(argument) for argument in arguments]))
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def data(small_data: Path, tmp_path: Path) -> Path:
    """Write valid data for every script into one folder."""
    folder = tmp_path / "data"
    (folder / "qrels").mkdir(parents=True)
    for path in small_data.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    question = {"question": "Which one?", "choices": ["this", "that"], "answer": 1}
    for split in ("train", "validation", "test"):
        lines = "".join(f"{split} text {row},{row % 2}\n" for row in range(20))
        (folder / f"{split}.csv").write_text(f"text,label\n{lines}")
        (folder / f"{split}.jsonl").write_text("\n".join([json.dumps(question)] * 20))
        lines = "".join(f"c{row}\td{row}\t1\n" for row in range(10))
        (folder / "qrels" / f"{split}.tsv").write_text(f"query-id\tcorpus-id\tscore\n{lines}")
    for name, letter in (("corpus", "d"), ("queries", "c")):
        lines = [{"_id": f"{letter}{row}", "title": "", "text": "Some text."} for row in range(10)]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- The command line -------------------------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_prints_the_docstring_with_an_example_and_a_duration(
    script: str, capsys: pytest.CaptureFixture
) -> None:
    module = importlib.import_module(script)
    with pytest.raises(SystemExit) as end:
        module.main(["--help"])
    printed = capsys.readouterr()
    assert end.value.code == 0
    assert printed.err == ""
    assert module.__doc__ in printed.out
    assert f"    python {script}.py" in module.__doc__
    assert re.search("second|minute|hour", module.__doc__)


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("argument", ["--nonsense", "surplus", "--hel"])
def test_a_wrong_option_exits_with_2(
    script: str, argument: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as end:
        importlib.import_module(script).main([argument])
    printed = capsys.readouterr()
    assert end.value.code == 2
    assert printed.out == ""
    assert f"unrecognized arguments: {argument}" in printed.err.splitlines()[-1]


@pytest.mark.parametrize("script", ["task05", "dante_gpt"])
@pytest.mark.parametrize("value", ["1e-300", "-1", "nan", "inf"])
def test_a_temperature_that_overflows_exits_with_2(
    script: str, value: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as end:
        importlib.import_module(script).main([f"--temperature={value}", "--nonsense"])
    assert end.value.code == 2
    assert f"{value} is not in the range 0.01 to 100" in capsys.readouterr().err.splitlines()[-1]


def test_importing_the_scripts_prints_reads_and_writes_nothing(tmp_path: Path) -> None:
    watched = str(tmp_path), str(ROOT / "DATA"), str(ROOT / "results")
    code = f"""
import os, sys
def watch(event, arguments):
    if event == "socket.connect":
        print(event, arguments)
    elif event in ("open", "os.mkdir") and isinstance(arguments[0], str):
        if os.path.abspath(arguments[0]).startswith({watched}):
            print(event, arguments)
sys.addaudithook(watch)
sys.path.insert(0, {str(ROOT)!r})
import {", ".join([*SCRIPTS, *HELPERS])}
"""
    command = [sys.executable, "-B", "-c", code]
    notebook = os.environ | {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    options = {"cwd": tmp_path, "capture_output": True, "text": True, "env": notebook}
    done = subprocess.run(command, check=True, **options)
    assert done.stdout == done.stderr == ""


@pytest.mark.parametrize("script", DATA_FILES)
def test_a_wrong_data_folder_is_one_line(script: str, run: Run) -> None:
    code, out, err = run(script, "--data", "no_such_folder")
    assert (code, out, err.count("\n")) == (1, "", 1)
    file = f"no_such_folder/{DATA_FILES[script]}"
    assert err.startswith(f"{script}.py: {file}: no such file; --data takes a folder with ")


@pytest.mark.parametrize(
    "script",
    [
        *(f"task{number:02}" for number in range(4, 13)),
        *("lab_tokenizer", "lab_generation"),
        *("lab_classifier", "lab_multiple_choice", "lab_retrieval"),
    ],
)
def test_a_wrong_model_folder_is_one_line(
    script: str, run: Run, cache: Path, data: Path, tmp_path: Path
) -> None:
    options = ["--model", "./nowhere"]
    if script == "task07":
        options = ["--generative-model", "./nowhere", "--extractive-model", tmp_path]
    if script in DATA_FILES:
        options += ["--data", data]
    code, out, err = run(script, *options)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"{script}.py: ./nowhere: neither a folder nor the name of a model")


# --- Results without a network -----------------------------------------------------------------

PRINTED = {  # beginnings of lines of short runs, whose figures are not those of the records
    "task02": ["Epoch 1, Average MSE loss: 0.", "Test MSE: "],
    "task03": ["Winner: ", "Test MSE: ", "R-squared: "],
    "dante_gpt": ["GPT, 2.", "tercets in terza rima  "],
    "lab_tokenizer": [(EXPECTED / "lab_tokenizer.txt").read_text("utf-8").split("\n\n")[0]],
    "lab_generation": ["greedy  ", "temperature 2.0  ", "top-p 0.9  "],
    "lab_classifier": ["TF-IDF    linear SVM  ", "layers    MLP, weighted  "],
    "lab_multiple_choice": ["ranker  ", "McNemar's test, ranker with and without the question: "],
    "lab_retrieval": ["mean cosine  ", "BM25 + trained, reciprocal ranks  "],
}
SHORTER = (
    *((dante_gpt, "QUICK_STEPS", 10), (dante_gpt, "MEASURED_LENGTH", 100)),
    *((lab_generation, "MAX_NEW_TOKENS", 10), (task03, "QUICK_EPOCHS", 1)),
    *((lab_multiple_choice, "QUICK_QUESTIONS", 60), (lab_multiple_choice, "RANKER_EPOCHS", 2)),
    *((lab_classifier, "QUICK_TEXTS", 100), (lab_retrieval, "QUICK_CLAIMS", 10)),
)
# scripts whose default model is on the Hub
BUNDLED = {script for model in pretrained.HUB_MODELS for script in model.scripts.split(", ")}


def words_and_numbers(text: str) -> tuple[list[str], list[float]]:
    number = r"\d+\.\d+"
    return re.split(number, text), [float(each) for each in re.findall(number, text)]


@pytest.mark.parametrize("script", [script for script in SCRIPTS if script != "pretrained"])
def test_script_ends_with_its_result_without_a_network(
    script: str, run: Run, cache: Path, small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(cache)  # where task 09 saves its model
    for module, name, value in SHORTER:
        monkeypatch.setattr(module, name, value)
    few = {"numpy": ["fft", "linalg", "strings"], "torch": ["fft", "nn.functional", "special"]}
    monkeypatch.setattr(lab_data, "DOCUMENTED", few)
    options = ["--quick"] if script in set(PRINTED) - {"lab_tokenizer"} else []
    if script in ("task02", "task03"):  # else their synthetic data take a minute
        options += ["--data", small_data]
    code, out, err = run(script, *options)
    assert (code, "Traceback" in err) == (0, False)
    assert ("; using the bundled " in err) == (script in BUNDLED)
    if script in PRINTED:
        assert all(f"\n{beginning}" in f"\n{out}" for beginning in PRINTED[script])
    else:  # other processors may differ in the last digits
        recorded = (EXPECTED / f"{script}.txt").read_text("utf-8")
        (words, numbers), (expected_words, expected) = map(words_and_numbers, (out, recorded))
        assert words == expected_words
        assert numbers == pytest.approx(expected, rel=1e-3)


# --- Standard output that cannot be written, and Ctrl-C -----------------------------------------

needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")


@pytest.mark.parametrize(
    ("stream", "line"),
    [
        ("a closed pipe", "standard output was closed before everything was written"),
        pytest.param("/dev/full", "No space left on device", marks=needs_full),
    ],
)
def test_standard_output_that_cannot_be_written_is_one_line(
    stream: str, line: str, small_data: Path, run_script: RunScript
) -> None:
    if stream == "/dev/full":
        out = os.open(stream, os.O_WRONLY)
    else:
        reader, out = os.pipe()
        os.close(reader)
    options = {"capture_output": False, "stdout": out, "stderr": subprocess.PIPE}
    options["env"] = {**os.environ, "PYTHONUNBUFFERED": ""}  # the output is written at the end
    done = run_script("task01.py", "--data", small_data, **options)
    os.close(out)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"task01.py: {line}"
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@needs_full
def test_a_full_disk_ends_the_training_after_an_epoch(
    small_data: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    monkeypatch.setattr(task02, "predict", None)  # the test data are not reached
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        code, _, err = run("task02", "--quick", "--data", small_data)
    assert code == 1
    assert err.splitlines()[-1] == "task02.py: No space left on device"


def test_ctrl_c_during_training_exits_with_130_and_a_later_run_works(
    small_data: Path, tmp_path: Path, run: Run
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    train = common.synthetic_electricity("train")[-30_000:]  # seconds of training
    train.to_csv(data / "electricity_train.csv", index=False)
    test = (small_data / "electricity_test.csv").read_bytes()
    (data / "electricity_test.csv").write_bytes(test)
    process = subprocess.Popen(
        [sys.executable, ROOT / "task02.py", "--data", data],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # a job in the background starts with Ctrl-C ignored
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    next(line for line in process.stderr if "it/s" in line)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "task02.py: interrupted"
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == [data]
    code, out, _ = run("task02", "--quick", "--data", small_data)
    assert code == 0
    assert re.fullmatch(r"Epoch 1, Average MSE loss: [\d.]+\nTest MSE: [\d.]+\n", out)


# --- Files that cannot be written, or are damaged ------------------------------------------------


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond a number of bytes, as on a full disk."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)


@pytest.mark.parametrize(
    ("script", "size", "options"),
    [
        ("task01", 100_000, []),  # the synthetic data
        ("task09", 50_000, ["--model={classifier}", "--out-dir={out}/saved"]),
        ("lab_generation", 10_000, ["--quick", "--model={decoder}"]),  # the picture
        ("lab_multiple_choice", 1000, ["--data={data}", "--model={classifier}"]),  # features
        (
            "dante_gpt",
            50_000,
            ["--steps=2", "--n-layer=1", "--n-embd=16", "--block-size=16", "--out-dir={out}/run"],
        ),
    ],
)
def test_a_file_that_may_not_grow_is_one_line_and_no_part_of_it_remains(
    script: str,
    size: int,
    options: list[str],
    checkpoints: Path,
    data: Path,
    tmp_path: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(common, "NETWORK_TIMEOUT", 0.1)
    folders = {"data": data, "out": tmp_path / "out"}
    folders |= {"classifier": checkpoints / task09.MODEL, "decoder": checkpoints / task05.MODEL}
    picture = common.RESULTS / "lab_generation.png"
    picture.parent.mkdir()
    picture.write_text("of a former run")
    with largest_file(size):
        code, _, err = run(script, *(option.format_map(folders) for option in options))
    assert code == 1
    assert "File too large" in err.splitlines()[-1]
    assert "Traceback" not in err
    assert contents(common.RESULTS) == {picture: b"of a former run"}
    assert contents(tmp_path / "out") == contents(common.DATA) == {}


def cut_off(path: Path) -> None:
    """End the file within its last line, like a download that broke off."""
    content = path.read_bytes().rstrip()
    path.write_bytes(content[: max(content.rfind(separator) for separator in b",\t") + 1])


def insert_row(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:60] + b"\nnonsense\n" + content[60:])


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "a folder": replace_by_folder,
    "cut off": cut_off,
    "a nonsense row": insert_row,
    "UTF-32": lambda path: path.write_bytes(path.read_text().encode("utf-32")),
    "HTML": lambda path: path.write_bytes(b"<!DOCTYPE html>\n<html><body>404</body></html>\n"),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize(
    ("script", "file"),
    [
        ("task02", "electricity_test.csv"),
        ("lab_classifier", "test.csv"),
        ("lab_multiple_choice", "test.jsonl"),
        ("lab_retrieval", "qrels/test.tsv"),
    ],
)
def test_a_damaged_data_file_is_named_in_one_line_and_nothing_is_written(
    script: str, file: str, damage: str, data: Path, run: Run
) -> None:
    DAMAGE[damage](data / file)
    before = contents(data)
    code, out, err = run(script, "--data", data)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"{script}.py: {data / file}: ")
    assert len(err) < len(str(data)) + 300
    assert contents(data) == before
    assert not common.RESULTS.exists()


WITHOUT_DEVICE = {"pretrained", "task01", "task08", "task13", "lab_tokenizer"}


@pytest.mark.parametrize("script", sorted(set(SCRIPTS) - WITHOUT_DEVICE))
def test_the_device_of_the_option_is_used(
    script: str, run: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    select = Mock(side_effect=common.ScriptError("seen"))
    monkeypatch.setattr(common, "select_device", select)
    monkeypatch.setattr(pretrained, "find_model", lambda *_, **__: tmp_path)
    monkeypatch.setattr(pretrained, "load", Mock())
    options = ["--data", data] if script in DATA_FILES else []
    assert run(script, "--device", "cpu", *options)[0] == 1
    select.assert_called_once_with("cpu")
