"""The electricity data: validation, the order of the sources, downloads, the embedded default."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, Server, only_line

import common

HEADER = "timestamp,consumption\n"


def rows(count: int = 200, **changes: str) -> str:
    """Write a good file of `count` rows; `row5=` replaces row 5, the header being row 1."""
    times = pd.date_range("2011-01-01 00:15", periods=count, freq="15min")
    lines = [f"{time},{index % 7 / 8}" for index, time in enumerate(times)]
    for number, line in changes.items():
        lines[int(number[3:]) - 2] = line
    return HEADER + "\n".join(lines) + "\n"


def write(folder: Path, content: str | bytes, split: str = "train") -> Path:
    path = folder / f"electricity_{split}.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_a_good_file_is_read(tmp_path: Path) -> None:
    write(tmp_path, rows())
    frame = common.load_electricity("train", tmp_path)
    assert list(frame.columns) == ["timestamp", "consumption"]
    assert len(frame) == 200
    assert frame["timestamp"][0] == pd.Timestamp("2011-01-01 00:15")
    assert frame["consumption"].dtype == np.float32
    assert frame["consumption"][3] == 0.375


@pytest.mark.parametrize(
    "rewrite",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text,
        lambda text: text.removesuffix("\n"),
    ],
    ids=["CRLF", "byte-order mark", "no last line end"],
)
def test_other_editors_files_are_read(rewrite: Callable[[str], str], tmp_path: Path) -> None:
    write(tmp_path, rewrite(rows()))
    assert len(common.load_electricity("train", tmp_path)) == 200


BAD_FILES = {
    "empty": ("", "the file is empty"),
    "only a header": (HEADER, "0 rows of data; at least 97 are needed"),
    "too short": (rows(96), "96 rows of data; at least 97 are needed"),
    "not CSV": (HEADER + "a,b\n1,2,3,4\n", "not a CSV file (Error tokenizing data. C error: "),
    "not text": (b"\x80\x04\x95\xff\xfe", "not a CSV file ('utf-8' codec can't decode"),
    "UTF-16": (rows().encode("utf-16"), "not a CSV file ('utf-8' codec can't decode"),
    "HTML": ("<html><body>404</body></html>\n", "row 1: the columns are '<html><body>404"),
    "one column": ("timestamp\n2011-01-01 00:15:00\n", "row 1: the columns are 'timestamp', not"),
    "another name": ("time,consumption\n", "row 1: the columns are 'time,consumption', not"),
    "swapped": ("consumption,timestamp\n", "row 1: the columns are 'consumption,timestamp', not"),
    "a column more": ("a,timestamp,consumption\n", "row 1: the columns are 'a,timestamp,cons"),
    "text": (
        rows(row5="2011-01-01 01:00:00,high"),
        "row 5, column consumption: 'high' is not a finite number",
    ),
    "nothing": (
        rows(row5="2011-01-01 01:00:00,"),
        "row 5, column consumption: '' is not a finite number",
    ),
    "NaN": (
        rows(row5="2011-01-01 01:00:00,nan"),
        "row 5, column consumption: 'nan' is not a finite number",
    ),
    "infinity": (
        rows(row5="2011-01-01 01:00:00,-inf"),
        "row 5, column consumption: '-inf' is not a finite number",
    ),
    "too large": (
        rows(row5="2011-01-01 01:00:00,1e39"),
        "row 5, column consumption: '1e39' is not a finite number",
    ),
    "a blank line": (rows(row5=""), "row 5, column consumption: "),
    "no time": (
        rows(row5="yesterday,1.0"),
        "row 5, column timestamp: 'yesterday' is not a time like 2011-01-01 00:15:00",
    ),
    "unsorted": (
        rows(row5="2010-12-31 01:00:00,1.0"),
        "row 5, column timestamp: '2010-12-31 01:00:00' is earlier than the row before",
    ),
    "duplicated": (
        rows(row5="2011-01-01 00:45:00,1.0"),
        "row 5, column timestamp: '2011-01-01 00:45:00' repeats the row before",
    ),
    "a gap": (
        rows(row5="2011-01-01 01:01:00,1.0"),
        "row 5, column timestamp: '2011-01-01 01:01:00' is not 15 minutes after the row before",
    ),
}


@pytest.mark.parametrize(("content", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_names_file_row_and_column(
    content: str | bytes, message: str, tmp_path: Path
) -> None:
    path = write(tmp_path, content)
    with pytest.raises(common.ScriptError) as raised:
        common.load_electricity("train", tmp_path)
    assert str(raised.value).startswith(f"{path}: {message}")
    assert len(str(raised.value)) < 400


def test_a_missing_file_names_what_the_folder_should_hold(tmp_path: Path) -> None:
    write(tmp_path, rows())
    expected = r"electricity_test\.csv: no such file; --data takes a folder that holds elec"
    with pytest.raises(common.ScriptError, match=expected):
        common.load_electricity("test", tmp_path)


def test_a_folder_in_place_of_a_file_is_the_system_s_error(tmp_path: Path) -> None:
    (tmp_path / "electricity_train.csv").mkdir()
    with pytest.raises(IsADirectoryError):
        common.load_electricity("train", tmp_path)


# Where the data come from


@pytest.fixture
def server(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """Let the stand-in serve two small splits."""
    for split, count in (("train", 150), ("test", 100)):
        server.files[f"electricity_{split}.csv"] = rows(count).encode()
    monkeypatch.setattr(common, "ELECTRICITY_URL", f"http://127.0.0.1:{server.server_port}/a/")
    digests = {
        split: hashlib.sha256(server.files[f"electricity_{split}.csv"]).hexdigest()
        for split in ("train", "test")
    }
    monkeypatch.setattr(common, "ELECTRICITY_SHA256", digests)
    return server


def test_the_files_are_downloaded_once(server: Server, capsys: pytest.CaptureFixture) -> None:
    folder = common.find_electricity()
    assert folder == common.DATA / "electricity_consumption"
    assert len(common.load_electricity("train", folder)) == 150
    assert common.find_electricity() == folder
    assert server.requests == ["/a/electricity_train.csv", "/a/electricity_test.csv"]
    assert "synthetic" not in capsys.readouterr().err


def test_files_in_place_are_used_without_the_network(server: Server) -> None:
    folder = common.DATA / "electricity_consumption"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        write(folder, rows(), split)
    assert common.find_electricity() == folder
    assert server.requests == []


def test_an_explicit_folder_is_never_filled(server: Server, tmp_path: Path) -> None:
    assert common.find_electricity(tmp_path) == tmp_path
    assert server.requests == []
    assert not any(tmp_path.glob("*.csv"))


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("tampered", "has the wrong SHA-256 and was thrown away"),
        ("breaks off", "broke off"),
        ("gone", "broke off: 404"),
        ("silent", "no answer from 127.0.0.1"),
    ],
)
def test_a_failed_download_leaves_nothing_and_is_announced(
    behaviour: str,
    reason: str,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setattr(common, "NETWORK_TIMEOUT", 0.5)
    server.behaviour = behaviour
    if behaviour == "tampered":
        server.files["electricity_test.csv"] += b"2011-01-05 00:00:00,9.0\n"
    start = time.monotonic()
    folder = common.find_electricity()
    assert time.monotonic() - start < 30
    assert folder == common.DATA / "synthetic_load_curve"  # for both splits: never a mixture
    line = only_line(capsys.readouterr().err, "synthetic")
    assert reason in line
    assert "--data DIR" in line
    recordings = common.DATA / "electricity_consumption"
    assert not (recordings / "electricity_test.csv").exists()
    assert not list(common.DATA.rglob("*tmp*"))
    if behaviour in ("breaks off", "gone"):  # the next time with a network they are fetched
        server.behaviour = "honest"
        assert common.find_electricity() == recordings


def test_a_killed_download_leaves_nothing_in_sight_and_the_next_one_is_whole(
    server: Server,
) -> None:
    server.behaviour = "stalls"
    # not a fork: with it would die the lock of all progress bars, which forks share
    code = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
import common
common.DATA, common.ELECTRICITY_URL = Path({str(common.DATA)!r}), {common.ELECTRICITY_URL!r}
common.find_electricity()
"""
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not server.requests:
        assert time.monotonic() < end
        time.sleep(0.01)
    process.kill()
    process.wait()
    folder = common.DATA / "electricity_consumption"
    assert not list(folder.glob("[!.]*"))
    server.behaviour = "honest"
    assert common.find_electricity() == folder
    assert sorted(path.name for path in folder.glob("[!.]*")) == sorted(server.files)


def test_two_scripts_may_start_at_once(server: Server) -> None:
    found = []
    pair = [threading.Thread(target=lambda: found.append(common.find_electricity())) for _ in "ab"]
    for thread in pair:
        thread.start()
    for thread in pair:
        thread.join()
    folder = common.DATA / "electricity_consumption"
    assert found == [folder, folder]
    assert sorted(path.name for path in folder.iterdir()) == sorted(server.files)
    assert all((folder / name).read_bytes() == content for name, content in server.files.items())


# The embedded default


@pytest.fixture(scope="module")
def synthetic() -> dict[str, pd.DataFrame]:
    return {split: common.synthetic_electricity(split) for split in ("train", "test")}


def test_the_default_has_the_recordings_calendar(synthetic: dict[str, pd.DataFrame]) -> None:
    train, test = synthetic["train"]["timestamp"], synthetic["test"]["timestamp"]
    assert (len(train), len(test)) == (105_215, 35_040)
    assert str(train.iloc[0]) == "2011-01-01 00:15:00"
    assert str(train.iloc[-1]) == "2013-12-31 23:45:00"
    assert str(test.iloc[0]) == "2014-01-01 00:00:00"
    assert str(test.iloc[-1]) == "2014-12-31 23:45:00"


def test_the_default_has_the_recordings_scale_and_grid(synthetic: dict[str, pd.DataFrame]) -> None:
    values = pd.concat(synthetic.values())["consumption"].to_numpy()
    assert abs(values.mean()) < 0.01
    assert abs(values.std() - 1) < 0.01
    distinct = np.unique(values)
    assert 120 <= len(distinct) <= 176
    assert distinct.min() >= -1.4145
    assert distinct.max() <= 3.0290
    steps = np.diff(distinct) / 0.02533588
    assert np.abs(steps - steps.round()).max() < 1e-3


def test_the_default_has_the_rhythm_of_day_week_and_year(
    synthetic: dict[str, pd.DataFrame],
) -> None:
    frame = pd.concat(synthetic.values()).set_index("timestamp")["consumption"]
    days = frame.groupby(frame.index.day_of_week).mean()
    assert days[:5].min() > days[5:].max() + 0.3
    assert frame.at_time("19:00").mean() > frame.at_time("03:00").mean() + 1
    months = frame.groupby(frame.index.month).mean()
    assert months[[12, 1, 2]].min() > months[[6, 7, 8]].max()
    values = frame.to_numpy()
    errors = {lag: np.mean((values[lag:] - values[:-lag]) ** 2) for lag in (1, 96, 48, 7 * 96)}
    assert errors[1] < errors[7 * 96] < errors[96] < errors[48]


def test_the_default_is_the_same_every_time(synthetic: dict[str, pd.DataFrame]) -> None:
    pd.testing.assert_frame_equal(common.synthetic_electricity("test"), synthetic["test"])


def test_the_default_is_kept_where_it_can_be_looked_at(
    synthetic: dict[str, pd.DataFrame], capsys: pytest.CaptureFixture
) -> None:
    folder = common.find_electricity()
    assert folder == common.DATA / "synthetic_load_curve"
    assert capsys.readouterr().err.count("\n") == 1
    frame = common.load_electricity("test", folder)
    np.testing.assert_array_equal(
        frame["consumption"], synthetic["test"]["consumption"].astype("float32")
    )
