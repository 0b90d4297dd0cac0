"""The electricity consumption of tasks 01 to 03: find, download, load and check the recordings.

Without a network, a synthetic curve with the same calendar and scale stands in.
"""

from pathlib import Path

import numpy as np
import pandas as pd

import common

READINGS_PER_DAY = 96  # one every 15 minutes
URL = (  # pinned to a commit of the course's repository
    "https://raw.githubusercontent.com/SimeonHristov99/ML_24-25/"
    "e49f4d73b173dc9e42af30e40da5fa0d890378c7/DATA/electricity_consumption/"
)
SHA256 = {
    "electricity_train.csv": "d0d462efe33007d90f7fb5d84466ad12e45a6ef0adb07371c764b77eca357230",
    "electricity_test.csv": "948d6f836e5e312a67243299cda71dab2595f7f974856c7494109fcf80810673",
}
COLUMNS = ["timestamp", "consumption"]


def find_recordings(folder: Path | None = None) -> Path | None:
    """Return the folder with both splits of the electricity data.

    That is `folder` if given, else `DATA/electricity_consumption`, filled from the course's
    repository when files are missing. Returns None if they cannot be downloaded, with a note on
    standard error; then `load` returns a synthetic load curve for both splits. Raises `ScriptError`
    if a file is missing in `folder`.
    """
    if folder is not None:
        common.check_folder(folder, *SHA256)
        return folder
    recordings = common.DATA / "electricity_consumption"
    try:
        for name, sha256 in SHA256.items():
            if not (recordings / name).exists():
                common.download(URL + name, sha256, recordings / name)
        return recordings
    except common.ScriptError as error:
        common.note(
            f"{error}. A synthetic load curve replaces the recordings; run again with a network, "
            "or name the folder of the recordings with --data DIR"
        )
        return None


def load(split: str, folder: Path | None) -> pd.DataFrame:
    """Load the `train` (2011 to 2013) or `test` (2014) split of the electricity consumption.

    Without a folder it is that of the synthetic load curve. Returns a frame with the columns
    `timestamp` (every 15 minutes) and `consumption` (float32, standardised to mean 0 and standard
    deviation 1). Raises `ScriptError` naming file, row and column of the first error. Rows are
    counted as in a spreadsheet, where the header is row 1.
    """
    if folder is None:
        return synthetic_curve(split)
    path = folder / f"electricity_{split}.csv"
    table = common.read_csv(path)
    if list(table.columns) != COLUMNS:
        names = common.printable(",".join(table.columns))[:60]
        raise common.ScriptError(f"{path}: row 1: the columns are {names!r}, not {COLUMNS}")

    def reject_rows(is_wrong: np.ndarray, column: str, problem: str) -> None:
        if is_wrong.any():
            row = int(is_wrong.argmax())
            cell = str(table[column][row])[:40]
            raise common.ScriptError(f"{path}: row {row + 2}, column {column}: {cell!r} {problem}")

    with np.errstate(over="ignore"):  # numbers too large for float32 become infinite
        numbers = pd.to_numeric(table["consumption"], errors="coerce").astype("float32")
    reject_rows(~np.isfinite(numbers.to_numpy()), "consumption", "is not a finite number")
    times = pd.to_datetime(table["timestamp"], format="%Y-%m-%d %H:%M:%S", errors="coerce")
    reject_rows(times.isna().to_numpy(), "timestamp", "is not a time like 2011-01-01 00:15:00")
    step = pd.Timedelta(minutes=15)
    is_wrong = times.diff().fillna(step) != step  # the first row has no difference
    reject_rows(is_wrong.to_numpy(), "timestamp", "is not 15 minutes after the row before")
    if len(table) <= READINGS_PER_DAY:
        raise common.ScriptError(
            f"{path}: {len(table)} rows; at least {READINGS_PER_DAY + 1} are needed"
        )
    return pd.DataFrame({"timestamp": times, "consumption": numbers})


def synthetic_curve(split: str) -> pd.DataFrame:
    """Return a synthetic split, "train" or "test", with the calendar and scale of the recordings.

    The curve imitates a customer with opening hours: a low load at night, a working day with peaks
    in the morning and the evening, quiet weekends, a higher load in winter, and autocorrelated
    noise. Over all four years the mean is 0 and the standard deviation is 1.
    """
    times = pd.date_range("2011-01-01 00:15", "2014-12-31 23:45", freq="15min")
    generator = np.random.default_rng(20110101)
    hour = times.hour.to_numpy() + times.minute.to_numpy() / 60
    day = (times.normalize() - times[0].normalize()).days.to_numpy()
    opens, closes = (
        mean + 0.3 * generator.standard_normal(day[-1] + 1)[day] for mean in (8, 21.75)
    )
    season = np.cos(2 * np.pi * (times.day_of_year.to_numpy() - 20) / 365.25)
    shape = 1.2 + 0.5 * np.exp(-((hour - 11) ** 2) / 4) + np.exp(-((hour - 19) ** 2) / 6)
    is_open = (opens <= hour) & (hour < closes)
    activity = np.where(times.day_of_week < 5, 1.0, 0.25)
    activity *= generator.normal(1, 0.1, day[-1] + 1)[day]
    shocks = generator.normal(0, 0.06, len(times))
    noise = pd.Series(shocks).ewm(alpha=0.1).mean().to_numpy() * 3 + shocks
    load = is_open * shape * activity * (1 + 0.15 * season) + 0.1 * season + noise

    standardised = (load - load.mean()) / load.std()
    step, lowest, highest = 0.02533588, -1.414483, 3.028924  # the meter's resolution and range
    grid = lowest + step * np.round((standardised.clip(lowest, highest) - lowest) / step)
    frame = pd.DataFrame({"timestamp": times, "consumption": grid.round(6).astype("float32")})
    return frame[(times.year == 2014) == (split == "test")].reset_index(drop=True)
