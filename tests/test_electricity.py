"""The recordings: where they are found, how a wrong file is reported, and the synthetic curve."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import common
import electricity
from conftest import Server, only_line

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


def test_only_missing_recordings_are_downloaded(course: Server) -> None:
    folder = common.DATA / "electricity_consumption"
    folder.mkdir(parents=True)
    (folder / "electricity_train.csv").write_text(rows(100), encoding="utf-8")
    assert electricity.find_recordings() == electricity.find_recordings() == folder
    assert course.requests == ["/electricity_test.csv"]
    assert [len(electricity.load(split, folder)) for split in ("train", "test")] == [100, 200]


def test_wrong_recording_is_not_kept_and_a_note_says_that_the_curve_is_synthetic(
    course: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(electricity, "SHA256", dict.fromkeys(electricity.SHA256, "0" * 64))
    assert electricity.find_recordings() is None
    assert not list((common.DATA / "electricity_consumption").iterdir())
    only_line(capsys.readouterr().err, "A synthetic load curve replaces the recordings")


def test_synthetic_train_split_never_precedes_a_recorded_test_split() -> None:
    recordings = common.DATA / "electricity_consumption"
    recordings.mkdir(parents=True)
    (recordings / "electricity_test.csv").write_text(rows(), encoding="utf-8")
    assert electricity.find_recordings() is None  # both splits are synthetic


# --- Loading a file ------------------------------------------------------------------------------


@pytest.mark.parametrize(("content", "problem"), [
    (rows(96), "96 rows; at least 97 are needed"),
    ("consumption,timestamp\n", "row 1: the columns are 'consumption,timestamp', not"),
    (rows(row5=f"{TIME},high"), "row 5, column consumption: 'high' is not a finite number"),
    (rows(row5=f"{TIME},nan"), "row 5, column consumption: 'nan' is not a finite number"),
    (rows(row5=f"{TIME},1e39"), "row 5, column consumption: '1e39' is not a finite number"),
    (rows(row5="noon,1"), "row 5, column timestamp: 'noon' is not a time like 2011-01-01"),
    *((rows(row5=f"{time},1"), f"row 5, column timestamp: '{time}' is not 15 minutes after")
      for time in ("2011-01-01 01:15:00", "2011-01-01 00:45:00", "2010-12-31 01:00:00")),
])  # fmt: skip
def test_error_in_a_file_names_row_and_column(content: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "electricity_train.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(common.ScriptError) as raised:
        electricity.load("train", tmp_path)
    assert str(raised.value).startswith(f"{path}: {problem}")


def test_recordings_are_the_expected_edition(recordings: Path) -> None:
    for name, sha256 in electricity.SHA256.items():
        assert hashlib.sha256((recordings / name).read_bytes()).hexdigest() == sha256


# --- The synthetic curve -------------------------------------------------------------------------


def test_synthetic_splits_have_the_calendar_of_the_recordings() -> None:
    ends = [electricity.load(split, None)["timestamp"] for split in ("train", "test")]
    train, test = ([str(times.iloc[0]), str(times.iloc[-1]), len(times)] for times in ends)
    assert train == ["2011-01-01 00:15:00", "2013-12-31 23:45:00", 105_215]
    assert test == ["2014-01-01 00:00:00", "2014-12-31 23:45:00", 35_040]


def test_synthetic_curve_has_the_scale_and_the_rhythm_of_the_recordings() -> None:
    curve = pd.concat(map(electricity.synthetic_curve, ("train", "test")))
    values = curve["consumption"].to_numpy()
    assert [values.mean(), values.std()] == pytest.approx([0, 1], abs=0.01)
    steps = np.diff(np.unique(values)) / 0.02533588  # the resolution of the meter
    np.testing.assert_allclose(steps, steps.round(), atol=1e-3)
    errors = [np.mean((values[lag:] - values[:-lag]) ** 2) for lag in (1, 7 * 96, 96, 48)]
    assert errors == sorted(errors)  # of repeating the last reading, last week, yesterday, 12 hours
