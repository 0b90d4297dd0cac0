"""The promises of every script: help, options, results without a network, errors in one line."""

import importlib
import json
import os
import re
import runpy
import signal
import subprocess
import sys
from pathlib import Path
from shutil import copytree

import pytest
import torch

import common
import dante_gpt
import lab_classifier
import lab_data
import lab_generation
import lab_multiple_choice
import lab_retrieval
import task03
from checkpoints import CHECKPOINTS
from conftest import EXPECTED, ROOT, Run, put_in_cache

SCRIPTS = [
    *(f"task{number:02}" for number in range(1, 14)),
    *("dante_gpt", "lab_tokenizer", "lab_generation"),
    *("lab_classifier", "lab_multiple_choice", "lab_retrieval"),
]
HELPERS = ["common", "electricity", "bundled", "inferno", "lab_common", "lab_data"]
DATA_FILES = {  # the first file that --data must contain
    **dict.fromkeys(["task01", "task02", "task03"], "electricity_train.csv"),
    "lab_classifier": "train.csv",
    "lab_multiple_choice": "train.jsonl",
    "lab_retrieval": "corpus.jsonl",
}
WITH_MODELS = [*SCRIPTS[3:12], *SCRIPTS[14:]]  # task04 to task12, lab_tokenizer to lab_retrieval
ON_THE_HUB = WITH_MODELS[:-2]  # by default
GPT2 = "openai-community/gpt2"
LONG_TEXTS = {  # of scripts that take a text: a model, and a text beyond its context
    "task05": ("Qwen/Qwen3-0.6B", "Bad. " * 3000),
    "task06": ("Helsinki-NLP/opus-mt-es-bg", "Hola " * 300),
    "task10": (GPT2, "a " * 99),
    "task11": (GPT2, "a " * 99),
    "lab_generation": (GPT2, "la via " * 60),
}
SHORTER = [  # constants of short runs
    *((dante_gpt, "QUICK_STEPS", 10), (dante_gpt, "EVALUATIONS", 2)),
    *((dante_gpt, "MEASURED_LENGTH", 100), (task03, "NETWORKS", task03.NETWORKS[1:3])),
    *((lab_generation, "NEW_TOKENS", 2), (task03, "QUICK_EPOCHS", 1)),
    *((lab_multiple_choice, "QUICK_QUESTIONS", 30), (lab_multiple_choice, "RANKER_EPOCHS", 2)),
    *((lab_classifier, "QUICK_TEXTS", 60), (lab_retrieval, "QUICK_DOCUMENTS", 30)),
    (lab_data, "DOCUMENTED", {"numpy": ["fft", "linalg", "strings"], "torch": ["nn.functional"]}),
]


@pytest.fixture
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the runs with --quick to seconds."""
    for module, name, value in SHORTER:
        monkeypatch.setattr(module, name, value)


@pytest.fixture
def data(small_data: Path, tmp_path: Path) -> Path:
    """Write valid data for every script into one folder."""
    folder = copytree(small_data, tmp_path / "data")
    (folder / "qrels").mkdir()
    for split in ("train", "validation", "test"):
        rows = "".join(f"{split} text {row},{row % 2}\n" for row in range(20))
        (folder / f"{split}.csv").write_text(f"text,label\n{rows}", encoding="utf-8")
        texts = (f"Which {split} {row}?" for row in range(20))
        questions = [{"question": text, "choices": ["this", "that"], "answer": 1} for text in texts]
        write_lines(folder / f"{split}.jsonl", questions)
        first = 10 * (split == "test")  # no claim is in both splits
        rows = "".join(f"c{first + row}\td{row}\t1\n" for row in range(10))
        judgements = f"query-id\tcorpus-id\tscore\n{rows}"
        (folder / "qrels" / f"{split}.tsv").write_text(judgements, encoding="utf-8")
    for name, letter in (("corpus", "d"), ("queries", "c")):
        texts = [{"_id": f"{letter}{row}", "title": "", "text": f"Text {row}"} for row in range(20)]
        write_lines(folder / f"{name}.jsonl", texts)
    return folder


@pytest.fixture
def filled_cache(checkpoints: Path, tmp_path: Path) -> None:
    """Put the tiny checkpoints of all default models into the cache of the Hub."""
    for name in CHECKPOINTS:
        put_in_cache(tmp_path, name, checkpoints / name)


def data_options(script: str, data: Path) -> list[object]:
    return ["--data", data] if script in DATA_FILES else []


def write_lines(path: Path, rows: list[dict]) -> None:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- The command line -------------------------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_prints_the_docstring_with_an_example_and_a_duration(script: str, run: Run) -> None:
    docstring = importlib.import_module(script).__doc__
    code, out, err = run(script, "--help")
    assert (code, err) == (0, "")
    assert docstring in out
    assert f"    python {script}.py" in docstring
    assert re.search("second|minute|hour", docstring)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_wrong_option_exits_with_2(script: str, run: Run) -> None:
    for option in ("--nonsense", "--hel"):
        code, out, err = run(script, option)
        assert (code, out) == (2, "")
        assert f"unrecognized arguments: {option}" in err.splitlines()[-1]


@pytest.mark.parametrize("module", [*SCRIPTS, *HELPERS])
def test_importing_prints_and_writes_nothing(
    module: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    runpy.run_path(str(ROOT / f"{module}.py"))
    assert capsys.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", DATA_FILES)
def test_a_wrong_data_folder_is_one_line(script: str, run: Run) -> None:
    code, out, err = run(script, "--data", "no_such_folder")
    assert (code, err.count("\n")) == (1, 1)
    assert out == "" or script == "task01"  # which prints its first example before
    file = Path("no_such_folder", DATA_FILES[script])
    assert err.startswith(f"{script}.py: {file}: no such file; --data takes a folder with ")


@pytest.mark.parametrize("script", LONG_TEXTS)
def test_an_empty_or_too_long_text_is_one_line(script: str, run: Run, checkpoints: Path) -> None:
    model, long_text = LONG_TEXTS[script]
    for text, problem in ((" ", "the text is empty"), (long_text, "this model reads at most ")):
        code, out, err = run(script, "--model", checkpoints / model, text)
        assert (code, out) == (1, "")
        assert problem in err.splitlines()[-1]


@pytest.mark.parametrize("script", WITH_MODELS)
def test_a_missing_or_damaged_model_is_one_line(
    script: str, run: Run, data: Path, checkpoints: Path
) -> None:
    damaged = put_in_cache(data.parent, GPT2, checkpoints / GPT2)
    os.truncate(damaged / "model.safetensors", 9999)
    problems = {"./nowhere": "./nowhere cannot be downloaded ("}
    if script not in ("task08", "lab_tokenizer"):  # which need no weights
        problems[str(damaged)] = f"{damaged}: not a checkpoint for AutoModel"
    option = "--extractive-model" if script == "task07" else "--model"
    for model, problem in problems.items():
        code, _, err = run(script, option, model, *data_options(script, data))
        assert code == 1
        assert err.splitlines()[-1].startswith(f"{script}.py: {problem}")
        assert "Traceback" not in err


@pytest.mark.usefixtures("filled_cache")
@pytest.mark.parametrize(
    "script", sorted({*SCRIPTS} - {"task01", "task08", "task13", "lab_tokenizer"})
)
def test_a_missing_device_is_one_line(
    script: str, run: Run, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    code, _, err = run(script, "--device", "mps", *data_options(script, data))
    assert code == 1
    assert err.splitlines()[-1] == f"{script}.py: this machine has no mps device; use --device cpu"


# --- Results without a network ----------------------------------------------------------------

PRINTED = {  # beginnings of lines; the other scripts have their recorded output in their own test
    "task02": ["Epoch 1, Average MSE loss: 0.", "Test MSE: "],
    "task03": ["Winner: ", "Test MSE: ", "R-squared: "],
    "dante_gpt": ["GPT, ", "tercets in terza rima  "],
    "lab_tokenizer": [(EXPECTED / "lab_tokenizer.txt").read_text("utf-8").split("\n\n")[0]],
    "lab_generation": ["greedy  ", "temperature 2.0  ", "top-p 0.9  "],
    "lab_classifier": ["TF-IDF  ", "layers  "],
    "lab_multiple_choice": ["ranker  ", "McNemar's test, "],
    "lab_retrieval": ["mean cosine  ", "BM25, k1 ", "BM25 + map, alpha "],
}


@pytest.mark.usefixtures("short_runs")
@pytest.mark.parametrize("script", PRINTED)
def test_script_ends_with_its_result_without_a_network(
    script: str, run: Run, small_data: Path
) -> None:
    options = ["--quick"] if script != "lab_tokenizer" else []
    options += ["--length", 100] if script == "dante_gpt" else []
    if script in ("task02", "task03"):  # otherwise their synthetic data take a minute
        options += ["--data", small_data]
    code, out, err = run(script, *options)
    assert (code, "Traceback" in err) == (0, False), err
    assert ("The bundled " in err) == (script in ON_THE_HUB)
    assert all(f"\n{beginning}" in f"\n{out}" for beginning in PRINTED[script]), out


@pytest.mark.usefixtures("short_runs", "filled_cache")
@pytest.mark.parametrize("script", ON_THE_HUB)
def test_the_default_model_in_the_cache_is_used(script: str, run: Run, data: Path) -> None:
    options = data_options(script, data)
    options += ["--quick"] if script in ("lab_generation", "lab_classifier") else []
    code, out, err = run(script, *options)
    assert (code, "bundled" in err) == (0, False), err
    assert out


# --- Standard output that cannot be written, and Ctrl-C -----------------------------------------


def test_a_closed_pipe_is_one_line(small_data: Path) -> None:
    reader, out = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, ROOT / "task01.py", "--data", small_data],
        stdout=out, stderr=subprocess.PIPE, encoding="utf-8", check=False,
        env={**os.environ, "PYTHONUNBUFFERED": ""},  # the output is written at the end
    )  # fmt: skip
    os.close(out)
    assert done.returncode == 1
    line = "task01.py: standard output was closed before everything was written"
    assert done.stderr.splitlines()[-1] == line


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for other processes")
def test_ctrl_c_during_training_exits_with_130(small_data: Path) -> None:
    # a job in the background would start with Ctrl-C ignored
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, ROOT / "task02.py", "--data", small_data],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
    )  # fmt: skip
    signal.signal(signal.SIGINT, former)
    assert process.stderr
    next(line for line in process.stderr if "it/s" in line)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert err.splitlines()[-1] == "task02.py: interrupted"
    assert "Traceback" not in err


# --- Files that cannot be written, or are damaged ------------------------------------------------


@pytest.mark.usefixtures("short_runs", "filled_cache")
@pytest.mark.parametrize(
    ("script", "size", "options"),
    [
        ("task09", 50_000, []),
        ("lab_generation", 10_000, ["--quick"]),  # the picture
        ("dante_gpt", 50_000, ["--steps=2", "--n-layer=1", "--n-embd=16", "--block-size=16"]),
    ],
)
def test_a_file_that_may_not_grow_is_one_line_and_no_part_of_it_remains(
    script: str, size: int, options: list[str], tmp_path: Path, run: Run
) -> None:
    resource = pytest.importorskip("resource", reason="this system has no limit for files")
    before, limit = contents(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limit[1]))  # as on a full disk
    try:
        code, _, err = run(script, *options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert code == 1
    assert "File too large" in err.splitlines()[-1]
    assert "Traceback" not in err
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("script", "file"),
    [
        ("task02", "electricity_test.csv"),
        ("lab_classifier", "test.csv"),
        ("lab_multiple_choice", "test.jsonl"),
        ("lab_retrieval", "qrels/test.tsv"),
    ],
)
def test_an_incomplete_data_file_is_named_in_one_line_and_nothing_is_written(
    script: str, file: str, data: Path, run: Run
) -> None:
    content = (data / file).read_bytes().rstrip()
    end = max(content.rfind(separator) for separator in b",\t")  # in the last row
    (data / file).write_bytes(content[: end + 1])
    before = contents(data)
    code, out, err = run(script, "--data", data)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"{script}.py: {data / file}: ")
    assert contents(data) == before
    assert not common.RESULTS.exists()
