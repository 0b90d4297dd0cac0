"""Shared helpers: running a script, files, downloads, the electricity data, the local metric."""

from __future__ import annotations

import argparse
import contextlib
import errno
import hashlib
import io
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import common

import evaluate
import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import NOBODY, ROOT, Server

# --- Running a script -------------------------------------------------------------------------


def raising(error: BaseException) -> Callable[[], int]:
    def main() -> int:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (common.ScriptError("use --data"), 1, "use --data"),
        (common.ScriptError("two\n  lines\n"), 1, "two lines"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "a/b"), 1, "a/b: Permission denied"),
        (BrokenPipeError(), 1, "standard output was closed before everything was written"),
    ],
)
def test_an_error_is_printed_as_one_line_with_its_exit_code(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture
) -> None:
    assert common.run(raising(error)) == code
    assert capsys.readouterr() == ("", f"{Path(sys.argv[0]).name}: {line}\n")


def test_a_bug_keeps_its_traceback_and_other_codes_are_those_of_main() -> None:
    with pytest.raises(ZeroDivisionError):
        common.run(raising(ZeroDivisionError()))
    assert [common.run(lambda: 0), common.run(lambda: 3)] == [0, 3]


def test_kill_ends_a_script_as_ctrl_c_does() -> None:
    assert common.run(lambda: signal.raise_signal(signal.SIGTERM) or 0) == 130


def test_inherited_settings_do_not_reach_the_script(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def main() -> int:
        print("Здравей", file=sys.stderr)
        assert not launcher & set(os.environ)
        assert not matplotlib.rcParams["text.parse_math"]
        return 0

    launcher = {"RANK", "LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMI_RANK"}
    launcher |= {"ACCELERATE_USE_DEEPSPEED", "ACCELERATE_DYNAMO_BACKEND"}
    for name in launcher:
        monkeypatch.setenv(name, "2")
    monkeypatch.setitem(matplotlib.rcParams, "text.parse_math", True)
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(output, encoding="cp1252"))
    assert common.run(main) == 0
    sys.stderr.flush()
    assert output.getvalue().decode("ascii").startswith("\\u0417")


def test_closed_streams_are_no_bug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", None)
        assert common.run(lambda: common.note("unseen") or 0) == 0
    assert capsys.readouterr().out == ""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", None)
        assert common.run(lambda: 0) == 1
    assert "standard output is closed, so no result can be printed" in capsys.readouterr().err


def test_shared_options_and_model_options_are_parsed() -> None:
    parser = common.argument_parser("", *common.OPTIONS, some_model="a/b")
    defaults = {"seed": 0, "device": "auto", "quick": False, "data": None, "text": None}
    assert vars(parser.parse_args([])) == {**defaults, "some_model": "a/b"}
    parsed = parser.parse_args(["--seed=7", "--quick", "--data=d", "--some-model=m"])
    changes = {"seed": 7, "quick": True, "data": Path("d"), "some_model": "m"}
    assert vars(parsed) == defaults | changes


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        ("--seed=-1", "-1 is not in the range 0 to 4"),
        ("--seed=4294967296", "4294967296 is not in the range"),
        ("--seed=1.5", "invalid int value: '1.5'"),
        ("--rate=0.91", "0.91 is not in the range 0 to 0.9"),
        ("--rate=nan", "nan is not in the range 0 to 0.9"),
    ],
)
def test_a_number_out_of_range_is_a_usage_error(
    option: str, problem: str, capsys: pytest.CaptureFixture
) -> None:
    parser = common.argument_parser("", "--seed")
    parser.add_argument("--rate", type=common.in_range(float, 0, 0.9))
    assert parser.parse_args(["--rate=0"]).rate == 0
    assert parser.parse_args(["--rate=0.9"]).rate == 0.9
    with pytest.raises(SystemExit) as end:
        parser.parse_args([option])
    assert end.value.code == 2
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize("value", ["0", "0.01", "0.7", "100"])
def test_temperature_is_zero_or_does_not_overflow(value: str) -> None:
    assert common.temperature(value) == float(value)
    for wrong in ("1e-38", "-1", "101", "nan"):
        with pytest.raises(argparse.ArgumentTypeError, match=f"{wrong} is not in the range 0.01"):
            common.temperature(wrong)


def test_a_seed_determines_the_numbers_of_all_three_generators() -> None:
    def draw(seed: int) -> list[float]:
        common.seed_everything(seed)
        return [random.random(), np.random.rand(), torch.rand(1).item()]

    first = draw(3)
    assert draw(3) == first
    assert not set(draw(4)) & set(first)


def test_auto_is_cuda_if_available_and_else_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert common.select_device("auto").type == "cuda"
    assert common.select_device("cpu").type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert common.select_device("auto").type == "cpu"
    for name in ("cuda", "mps"):
        with pytest.raises(common.ScriptError, match=f"no {name} device; use --device cpu"):
            common.select_device(name)


# --- Files ------------------------------------------------------------------------------------


def test_a_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "new" / "picture.png"
    with common.complete_file(path) as temporary_path:
        temporary_path.write_text("complete")
        assert temporary_path.suffix == ".png"  # matplotlib chooses the format by it
        assert not path.exists()
    assert path.read_text() == "complete"

    with contextlib.suppress(KeyboardInterrupt), common.complete_file(path) as temporary_path:
        temporary_path.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "complete"
    assert list(path.parent.iterdir()) == [path]


class Program:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_saved_tensors_are_loaded_and_damaged_files_are_a_value_error(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"w": Program(tmp_path / "created")}, path)
    program = path.read_bytes()
    common.save_tensors(path, {"name": "è", "losses": [[1, 2.5]], "weights": {"w": torch.ones(99)}})
    loaded = common.load_tensors(path)
    assert (loaded["name"], loaded["losses"]) == ("è", [[1, 2.5]])
    assert torch.equal(loaded["weights"]["w"], torch.ones(99))
    for content in (b"", b"no tensors", path.read_bytes()[:-99], program):
        path.write_bytes(content)
        with pytest.raises(ValueError):  # noqa: PT011, as torch chooses the message
            common.load_tensors(path)
    assert list(tmp_path.iterdir()) == [path]  # the program was not executed
    with pytest.raises(FileNotFoundError):
        common.load_tensors(tmp_path / "missing.pt")


# --- Downloads --------------------------------------------------------------------------------

HEADER = "timestamp,consumption\n"


def rows(count: int = 200, **changes: str) -> str:
    """Write a valid file of `count` rows; `row5=…` replaces row 5, where the header is row 1."""
    times = pd.date_range("2011-01-01 00:15", periods=count, freq="15min")
    lines = [f"{time},{index % 7 / 8}" for index, time in enumerate(times)]
    for number, line in changes.items():
        lines[int(number[3:]) - 2] = line
    return HEADER + "\n".join(lines) + "\n"


@pytest.fixture
def course(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """Let the local server replace the course's repository, with two small splits."""
    server.files = {f"electricity_{split}.csv": rows().encode() for split in ("train", "test")}
    monkeypatch.setattr(common, "ELECTRICITY_URL", f"http://127.0.0.1:{server.server_port}/a/")
    digest = hashlib.sha256(rows().encode()).hexdigest()
    monkeypatch.setattr(common, "ELECTRICITY_SHA256", {"train": digest, "test": digest})
    return server


def test_a_file_is_downloaded_with_or_without_a_digest(server: Server, tmp_path: Path) -> None:
    server.files["file.txt"] = b"content"
    url, path = f"http://127.0.0.1:{server.server_port}/file.txt", tmp_path / "new" / "file.txt"
    for sha256 in (None, hashlib.sha256(b"content").hexdigest()):
        common.download(url, sha256, path)
        assert path.read_bytes() == b"content"
        assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("behaviour", "problem"),
    [
        ("tampered", r"http://\S+/file.txt has the wrong SHA-256 and was discarded"),
        ("breaks off", r"the download of http://\S+/file.txt failed: .*"),
        ("missing", r"the download of http://\S+/file.txt failed: 404 .*"),
        ("silent", r"no answer from 127.0.0.1:\d+"),
    ],
)
def test_a_failed_download_leaves_the_former_file(
    behaviour: str, problem: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["file.txt"], server.behaviour = b"content", behaviour
    path = tmp_path / "file.txt"
    path.write_text("former")
    if behaviour == "silent":
        monkeypatch.setattr(common, "NETWORK_TIMEOUT", 0.5)
    digest = hashlib.sha256(b"other" if behaviour == "tampered" else b"content").hexdigest()
    with pytest.raises(common.ScriptError, match=f"{problem}$"):
        common.download(f"http://127.0.0.1:{server.server_port}/file.txt", digest, path)
    assert path.read_text() == "former"
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_download_leaves_no_visible_file_and_the_next_one_is_complete(
    course: Server,
) -> None:
    course.behaviour = "stalls"
    code = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
import common
common.DATA, common.ELECTRICITY_URL = Path({str(common.DATA)!r}), {common.ELECTRICITY_URL!r}
common.find_electricity()
"""
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as process:
        while not course.requests:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    folder = common.DATA / "electricity_consumption"
    assert not list(folder.glob("[!.]*"))
    course.behaviour = "honest"
    assert common.find_electricity() == folder
    assert sorted(path.name for path in folder.glob("[!.]*")) == sorted(course.files)


# --- The electricity data ---------------------------------------------------------------------


def test_only_missing_recordings_are_downloaded(
    course: Server, capsys: pytest.CaptureFixture
) -> None:
    folder = common.DATA / "electricity_consumption"
    folder.mkdir(parents=True)
    (folder / "electricity_train.csv").write_text(rows(100))
    assert common.find_electricity() == common.find_electricity() == folder
    assert course.requests == ["/a/electricity_test.csv"]
    assert len(common.load_electricity("train", folder)) == 100
    assert "synthetic" not in capsys.readouterr().err


def test_an_explicit_folder_is_used_unchanged(course: Server, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert common.find_electricity(tmp_path / "mine") == tmp_path / "mine"
    assert course.requests == []
    assert not any((tmp_path / "mine").iterdir())


def test_without_a_network_both_splits_are_synthetic_and_a_note_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(common, "NETWORK_TIMEOUT", 0.1)
    recordings = common.DATA / "electricity_consumption"
    recordings.mkdir(parents=True)
    (recordings / "electricity_train.csv").write_text(rows())  # the test split is missing
    folder = common.find_electricity()
    assert folder == common.DATA / "synthetic_load_curve"
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"no answer from {NOBODY.split('/')[2]}; using a synthetic load curve" in err
    assert "--data DIR" in err
    for split in ("train", "test"):
        expected = common.synthetic_electricity(split).astype({"consumption": "float32"})
        pd.testing.assert_frame_equal(
            common.load_electricity(split, folder), expected, check_dtype=False
        )


@pytest.mark.parametrize(("name", "value", "problem"), [
    ("REQUESTS_CA_BUNDLE", "/no/where.pem", r"no answer from .* \(Could not find a .* /no/where"),
    ("HTTP_PROXY", "http://[::1", "no answer from"),
])  # fmt: skip
def test_wrong_setting_of_the_network_is_one_line(
    name: str, value: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    url = "https://127.0.0.1:9" if "CA" in name else NOBODY
    with pytest.raises(common.ScriptError, match=problem):
        common.check_server(url)


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text,
        lambda text: text.removesuffix("\n"),
        lambda text: text + "\n  \n",
        lambda text: text + "\x1a",
        lambda text: text.replace(",", ";"),
        lambda text: text.replace(",", "\t"),
        lambda text: text.replace(",", " ,", 1),
        lambda text: text.encode("utf-16"),
    ],
    ids=[
        *("LF", "CRLF", "byte-order mark", "no final line break", "blank lines at the end"),
        *("Ctrl-Z", "semicolons", "tabs", "a space in the header", "UTF-16"),
    ],
)
def test_a_valid_file_is_loaded(edit: Callable[[str], str | bytes], tmp_path: Path) -> None:
    content = edit(rows())
    content = content.encode() if isinstance(content, str) else content
    (tmp_path / "electricity_train.csv").write_bytes(content)
    frame = common.load_electricity("train", tmp_path)
    assert list(frame.columns) == ["timestamp", "consumption"]
    assert len(frame) == 200
    assert frame["timestamp"][0] == pd.Timestamp("2011-01-01 00:15")
    assert frame["consumption"].dtype == np.float32
    assert frame["consumption"][3] == 0.375


TIME = "2011-01-01 01:00:00"  # of row 5
BAD_FILES = [
    ("", "the file is empty"),
    (HEADER, "0 rows; at least 97 are needed"),
    (rows(96), "96 rows; at least 97 are needed"),
    (rows(row5=f"{TIME},1,2"), "not a CSV file (Error tokenizing data"),
    (f"{HEADER}a,b,c\na,b,c\n", "not a CSV file (row 2 has more cells than the header)"),
    (b"\x80\x04\x95\xff\xfe", "not a text file in UTF-8 or Windows-1252"),
    (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS; run `git lfs pull`"),
    ("timestamp,timestamp\n", "row 1: two columns are named 'timestamp'; rename one"),
    ("<html><body>404</body></html>\n", "row 1: the columns are '<html><body>404"),
    ("timestamp\nx\n", "row 1: the columns are 'timestamp', not 'timestamp,consumption'"),
    ("consumption,timestamp\n", "row 1: the columns are 'consumption,timestamp', not"),
    (rows(row5=f"{TIME},high"), "row 5, column consumption: 'high' is not a finite number"),
    (rows(row5=f"{TIME},nan"), "row 5, column consumption: 'nan' is not a finite number"),
    (rows(row5=f"{TIME},1e39"), "row 5, column consumption: '1e39' is not a finite number"),
    (rows(row5=""), "row 5, column consumption: '' is not a finite number"),
    (rows(row5="noon,1"), "row 5, column timestamp: 'noon' is not a time like 2011-01-01 00:15"),
    (rows(row5="2010-12-31 01:00:00,1"), "row 5, column timestamp: '2010-12-31 01:00:00' is earl"),
    (rows(row5="2011-01-01 00:45:00,1"), "row 5, column timestamp: '2011-01-01 00:45:00' repeats"),
    (rows(row5="2011-01-01 01:01:00,1"), "row 5, column timestamp: '2011-01-01 01:01:00' is not 1"),
]


@pytest.mark.parametrize(("content", "problem"), BAD_FILES, ids=[row[1][:50] for row in BAD_FILES])
def test_a_bad_file_is_an_error_with_file_row_and_column(
    content: str | bytes, problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "electricity_train.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(common.ScriptError) as raised:
        common.load_electricity("train", tmp_path)
    assert str(raised.value).startswith(f"{path}: {problem}")
    assert len(str(raised.value)) < len(str(path)) + 250


@pytest.fixture(scope="module")
def synthetic() -> dict[str, pd.DataFrame]:
    return {split: common.synthetic_electricity(split) for split in ("train", "test")}


def test_synthetic_data_have_the_calendar_and_the_scale_of_the_recordings(
    synthetic: dict[str, pd.DataFrame],
) -> None:
    train, test = (synthetic[split]["timestamp"] for split in ("train", "test"))
    assert (len(train), len(test)) == (105_215, 35_040)
    assert [str(train.iloc[0]), str(train.iloc[-1])] == [
        "2011-01-01 00:15:00",
        "2013-12-31 23:45:00",
    ]
    assert [str(test.iloc[0]), str(test.iloc[-1])] == ["2014-01-01 00:00:00", "2014-12-31 23:45:00"]
    values = pd.concat(synthetic.values())["consumption"].to_numpy()
    assert [values.mean(), values.std()] == pytest.approx([0, 1], abs=0.01)
    distinct = np.unique(values)
    assert 120 <= len(distinct) <= 176
    assert -1.4145 <= distinct.min() < distinct.max() <= 3.0290
    steps = np.diff(distinct) / 0.02533588  # the resolution of the meter
    np.testing.assert_allclose(steps, steps.round(), atol=1e-3)


def test_synthetic_data_have_the_rhythm_of_day_week_and_year(
    synthetic: dict[str, pd.DataFrame],
) -> None:
    frame = pd.concat(synthetic.values()).set_index("timestamp")["consumption"]
    days = frame.groupby(frame.index.day_of_week).mean()
    assert days[:5].min() > days[5:].max() + 0.3
    assert frame.at_time("19:00").mean() > frame.at_time("03:00").mean() + 1
    months = frame.groupby(frame.index.month).mean()
    assert months[[12, 1, 2]].min() > months[[6, 7, 8]].max()
    values = frame.to_numpy()
    errors = [np.mean((values[lag:] - values[:-lag]) ** 2) for lag in (1, 7 * 96, 96, 48)]
    assert errors == sorted(errors)  # of repeating the last reading, last week, yesterday, 12 hours


# --- Training and metrics ---------------------------------------------------------------------


def test_one_cycle_rises_for_a_tenth_of_the_steps_and_ends_at_zero() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], 2.0)
    schedule = common.one_cycle(optimizer, 100)
    rates = [optimizer.param_groups[0]["lr"]]
    for _ in range(100):
        optimizer.step()
        schedule.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[:9] == pytest.approx([0.2 * step for step in range(1, 10)])  # linear
    assert max(rates) == rates[9] == pytest.approx(2.0, rel=0.03)
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[50] == pytest.approx(1.0)  # half of the cosine
    assert rates[100] == pytest.approx(0.0, abs=1e-12)


def equal_words(predictions: list[str], references: list, factor: int = 1) -> dict[str, object]:
    """Return the arguments, so that the test can see them."""
    return {"pairs": list(zip(predictions, references, strict=True)), "factor": factor}


@pytest.mark.parametrize("references", [["x", "y z"], [["x"], ["y", "z"]]])
def test_a_local_metric_has_the_interface_of_evaluate(references: list) -> None:
    metric = common.local_metric(equal_words)
    assert isinstance(metric, evaluate.Metric)
    assert metric.description.startswith("Return the arguments")
    expected = {"pairs": list(zip(["a", "b"], references, strict=True)), "factor": 3}
    assert metric.compute(predictions=["a", "b"], references=references, factor=3) == expected
    for prediction, reference in expected["pairs"]:
        metric.add(prediction=prediction, reference=reference)
    assert metric.compute(factor=3) == expected


def test_a_local_metric_refuses_unpaired_references_and_may_take_none() -> None:
    with pytest.raises(ValueError, match="Mismatch in the number of predictions"):
        common.local_metric(equal_words).compute(predictions=["a", "b"], references=["a"])

    def count(predictions: list[str]) -> dict[str, int]:
        return {"count": len(predictions)}

    assert common.local_metric(count).compute(predictions=["a", "b"]) == {"count": 2}
