"""The promises to the person at the terminal: exit codes, one line, nothing half-written."""

from __future__ import annotations

import errno
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from conftest import ROOT

import common
import task02

SCRIPTS = sorted(path.name for path in ROOT.glob("*.py"))
WITH_DATA = {  # scripts, and the files that a folder of their data has to hold
    **dict.fromkeys(["task01.py", "task02.py", "task03.py"], "electricity_train.csv"),
    "lab_classifier.py": "train.csv",
    "lab_multiple_choice.py": "train.jsonl",
    "lab_retrieval.py": "corpus.jsonl",
}
WITH_MODEL = [f"task{number}.py" for number in ("04", "05", "06", "08", "09", "10", "11", "12")]
Run = Callable[..., subprocess.CompletedProcess]


def raising(error: BaseException) -> Callable[[], int]:
    def main() -> int:
        raise error

    return main


def test_success_is_what_main_returns() -> None:
    assert common.run(lambda: 0) == 0


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (common.ScriptError("the mend"), 1, "the mend"),
        (common.ScriptError("two\nlines"), 1, "two lines"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "a/b"), 1, "a/b: Permission denied"),
        (BrokenPipeError(), 1, "standard output was closed before everything was written"),
    ],
)
def test_a_failure_is_one_line_and_its_exit_code(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture
) -> None:
    assert common.run(raising(error)) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"{Path(sys.argv[0]).name}: {line}\n"


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        common.run(raising(ZeroDivisionError()))


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_shows_the_docstring_and_loads_nothing_slow(script: str) -> None:
    code = (
        "import runpy, sys\n"
        f"sys.argv = [{script!r}, '--help']\n"
        "try:\n"
        f"    runpy.run_path({str(ROOT / script)!r}, run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    slow = {'torch._C', 'pandas', 'sklearn', 'matplotlib', 'requests', 'pooch'}\n"
        "    slow |= {'transformers', 'huggingface_hub', 'datasets', 'evaluate', 'sacrebleu'}\n"
        "    slow &= set(sys.modules)\n"
        "    raise SystemExit(f'loaded {slow}' if slow else end.code)\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert shown.stderr == ""
    assert shown.returncode == 0
    assert f"python {script}" in shown.stdout  # an example
    assert "minute" in shown.stdout or "second" in shown.stdout  # how long it takes


def test_importing_the_scripts_does_nothing() -> None:
    names = ", ".join(Path(script).stem for script in SCRIPTS)
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {names}"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == shown.stderr == ""


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("options", [["--nonsense"], ["surplus"], ["--data"], ["--dat", "x"]])
def test_a_wrong_option_exits_with_2(
    script: str, options: list[str], capsys: pytest.CaptureFixture
) -> None:
    main = importlib.import_module(Path(script).stem).main
    with pytest.raises(SystemExit) as end:
        main(options)
    shown = capsys.readouterr()
    assert end.value.code == 2
    assert shown.out == ""
    assert "Traceback" not in shown.err


@pytest.mark.parametrize("seed", ["-1", "1.5", "one", "4294967296", "", "²"])
def test_a_seed_is_a_whole_number_numpy_takes(seed: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as end:
        task02.main([f"--seed={seed}"])
    assert end.value.code == 2
    line = f"{seed!r} is not a whole number from 0 to 4294967295"
    assert line in capsys.readouterr().err


@pytest.mark.parametrize(
    ("script", "option"),
    [*((script, "--model") for script in WITH_MODEL), ("task07.py", "--generative-model")],
)
def test_a_wrong_folder_of_a_model_is_one_line(script: str, option: str, run_script: Run) -> None:
    other = [] if option == "--model" else ["--extractive-model", "./no_such_folder"]
    shown = run_script(script, option, "./no_such_folder", *other)
    assert shown.returncode == 1
    assert shown.stdout == ""
    line = "./no_such_folder: no such folder, and no name of a model"
    assert shown.stderr == f"{script}: {line}\n"


@pytest.mark.parametrize("script", WITH_DATA)
def test_a_wrong_path_is_one_line(script: str, run_script: Run) -> None:
    shown = run_script(script, "--data", "no_such_folder")
    assert shown.returncode == 1
    assert shown.stdout == ""
    assert shown.stderr.count("\n") == 1
    assert shown.stderr.startswith(f"{script}: no_such_folder{os.sep}{WITH_DATA[script]}: no such ")


needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")


@needs_full
def test_a_full_disk_is_one_line(small_data: Path, run_script: Run) -> None:
    with open("/dev/full", "w") as full:
        shown = run_script(
            "task01.py", "--data", small_data,
            capture_output=False, stdout=full, stderr=subprocess.PIPE,
        )  # fmt: skip
    assert shown.returncode == 1
    assert shown.stderr.endswith("task01.py: No space left on device\n")
    assert "Traceback" not in shown.stderr


@needs_full
def test_a_disk_that_is_full_after_an_epoch_ends_the_training(
    small_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert common.run(partial(task02.main, ["--quick", "--data", str(small_data)])) == 1
    assert capsys.readouterr().err.endswith(": No space left on device\n")


@pytest.mark.parametrize(
    "moment", ["validation MSE", pytest.param("it/s", marks=pytest.mark.slow)]
)  # between models, in a bar
def test_ctrl_c_exits_with_130(moment: str, small_data: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, ROOT / "task03.py", "--data", small_data],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # a job in the background starts with Ctrl-C ignored, and so do the tests it runs
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    for line in process.stderr:
        if moment in line:
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == ""
    assert err.splitlines()[-1] == "task03.py: interrupted"
    assert "Traceback" not in err


def test_a_closed_pipe_is_one_line(small_data: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, ROOT / "task01.py", "--data", small_data],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(timeout=30) == 1
    assert err.endswith("standard output was closed before everything was written\n")
    assert "Traceback" not in err


def test_a_device_that_is_not_there_is_one_line(small_data: Path) -> None:
    import torch

    missing = "mps" if torch.cuda.is_available() else "cuda"
    line = f"no {missing} device on this machine; leave out --device or use cpu"
    with pytest.raises(common.ScriptError, match=line):
        task02.main(["--device", missing, "--data", str(small_data)])


def test_a_file_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    with common.complete_file(path) as beside:
        beside.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"

    def write_half() -> None:
        with common.complete_file(path) as beside:
            beside.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]
