"""The recordings: where they are found, how a wrong file is reported, and the synthetic curve."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import common
import electricity
from conftest import Server

HEADER = "timestamp,consumption\n"
TIME = "2011-01-01 01:00:00"  # of row 5


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
    server.files = {name: rows().encode() for name in electricity.SHA256}
    digest = hashlib.sha256(rows().encode()).hexdigest()
    monkeypatch.setattr(electricity, "SHA256", dict.fromkeys(electricity.SHA256, digest))
    monkeypatch.setattr(electricity, "URL", server.url)
    return server


# --- Finding the recordings ----------------------------------------------------------------------


def test_missing_recordings_are_downloaded_once(course: Server) -> None:
    folder = electricity.find_recordings()
    assert folder == electricity.find_recordings() == common.DATA / "electricity_consumption"
    assert course.requests == ["/electricity_train.csv", "/electricity_test.csv"]
    for split in ("train", "test"):
        assert len(electricity.load(split, folder)) == 200


def test_recordings_on_the_disk_are_not_downloaded_again(course: Server) -> None:
    folder = common.DATA / "electricity_consumption"
    folder.mkdir(parents=True)
    (folder / "electricity_train.csv").write_text(rows(100), encoding="utf-8")
    electricity.find_recordings()
    assert course.requests == ["/electricity_test.csv"]
    assert len(electricity.load("train", folder)) == 100


def test_folder_of_the_user_is_used_without_a_download(course: Server, tmp_path: Path) -> None:
    for name in electricity.SHA256:
        (tmp_path / name).write_text(rows(), encoding="utf-8")
    assert electricity.find_recordings(tmp_path) == tmp_path
    assert course.requests == []


def test_wrong_recording_is_not_kept(course: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(electricity, "SHA256", dict.fromkeys(electricity.SHA256, "0" * 64))
    assert electricity.find_recordings() == common.DATA / "synthetic_load_curve"
    assert not list((common.DATA / "electricity_consumption").iterdir())


def test_without_a_network_a_note_says_that_the_curve_is_synthetic(
    capsys: pytest.CaptureFixture,
) -> None:
    electricity.find_recordings()
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "cannot be downloaded" in err
    assert "A synthetic load curve in " in err
    assert "--data DIR" in err


def test_synthetic_train_split_never_precedes_a_recorded_test_split() -> None:
    recordings = common.DATA / "electricity_consumption"
    recordings.mkdir(parents=True)
    (recordings / "electricity_test.csv").write_text(rows(), encoding="utf-8")
    folder = electricity.find_recordings()
    for split in ("train", "test"):
        expected = electricity.synthetic_curve(split).astype({"consumption": "float32"})
        found = electricity.load(split, folder)
        pd.testing.assert_frame_equal(found, expected, check_dtype=False)


# --- Loading a file ------------------------------------------------------------------------------


def test_valid_file_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "electricity_train.csv").write_text(rows(), encoding="utf-8")
    frame = electricity.load("train", tmp_path)
    assert list(frame.columns) == ["timestamp", "consumption"]
    assert len(frame) == 200
    assert frame["timestamp"][0] == pd.Timestamp("2011-01-01 00:15")
    assert frame["consumption"].dtype == np.float32
    assert frame["consumption"][3] == 0.375


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "row 1: the columns are '', not ['timestamp', 'consumption']"),
        (rows(96), "96 rows; at least 97 are needed"),
        ("consumption,timestamp\n", "row 1: the columns are 'consumption,timestamp', not"),
        (rows(row5=f"{TIME},high"), "row 5, column consumption: 'high' is not a finite number"),
        (rows(row5=f"{TIME},nan"), "row 5, column consumption: 'nan' is not a finite number"),
        (rows(row5=f"{TIME},1e39"), "row 5, column consumption: '1e39' is not a finite number"),
        (rows(row5="noon,1"), "row 5, column timestamp: 'noon' is not a time like 2011-01-01"),
    ],
)
def test_error_in_a_file_names_row_and_column(content: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "electricity_train.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(common.ScriptError) as raised:
        electricity.load("train", tmp_path)
    assert str(raised.value).startswith(f"{path}: {problem}")


@pytest.mark.parametrize(
    "time", ["2011-01-01 01:15:00", "2011-01-01 00:45:00", "2010-12-31 01:00:00"]
)
def test_gap_or_repetition_is_an_error_in_its_row(time: str, tmp_path: Path) -> None:
    (tmp_path / "electricity_train.csv").write_text(rows(row5=f"{time},1"), encoding="utf-8")
    problem = f"row 5, column timestamp: '{time}' is not 15 minutes after the row before"
    with pytest.raises(common.ScriptError, match=problem):
        electricity.load("train", tmp_path)


def test_recordings_are_the_expected_edition(recordings: Path) -> None:
    for name, sha256 in electricity.SHA256.items():
        assert hashlib.sha256((recordings / name).read_bytes()).hexdigest() == sha256


# --- The synthetic curve -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def synthetic() -> dict[str, pd.DataFrame]:
    return {split: electricity.synthetic_curve(split) for split in ("train", "test")}


def test_synthetic_curve_has_the_calendar_of_the_recordings(
    synthetic: dict[str, pd.DataFrame],
) -> None:
    ends = {
        split: frame["timestamp"].iloc[[0, -1]].astype(str) for split, frame in synthetic.items()
    }
    assert list(ends["train"]) == ["2011-01-01 00:15:00", "2013-12-31 23:45:00"]
    assert list(ends["test"]) == ["2014-01-01 00:00:00", "2014-12-31 23:45:00"]
    assert [len(frame) for frame in synthetic.values()] == [105_215, 35_040]


def test_synthetic_curve_has_the_scale_of_the_recordings(
    synthetic: dict[str, pd.DataFrame],
) -> None:
    values = pd.concat(synthetic.values())["consumption"].to_numpy()
    assert [values.mean(), values.std()] == pytest.approx([0, 1], abs=0.01)
    assert -1.4145 <= values.min() < values.max() <= 3.0290
    steps = np.diff(np.unique(values)) / 0.02533588  # the resolution of the meter
    np.testing.assert_allclose(steps, steps.round(), atol=1e-3)


def test_synthetic_curve_has_the_rhythm_of_day_and_week(
    synthetic: dict[str, pd.DataFrame],
) -> None:
    values = pd.concat(synthetic.values())["consumption"].to_numpy()
    errors = [np.mean((values[lag:] - values[:-lag]) ** 2) for lag in (1, 7 * 96, 96, 48)]
    assert errors == sorted(errors)  # of repeating the last reading, last week, yesterday, 12 hours
