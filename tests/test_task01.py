"""Task 01: windows of a series and their targets."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import common
from conftest import EXPECTED, Run


@pytest.mark.parametrize("dtype", ["float32", "int64"])
@pytest.mark.parametrize(("rows", "length"), [(2, 1), (9, 8), (60, 1), (60, 7)])
def test_sequences_equal_a_plain_loop(rows: int, length: int, dtype: str) -> None:
    series = np.random.default_rng(0).integers(-99, 99, rows).astype(dtype)
    frame = pd.DataFrame({"other": ["x"] * rows, "value": series})
    inputs, targets = common.create_sequences(frame, length)
    starts = range(rows - length)
    np.testing.assert_array_equal(inputs, [series[i : i + length] for i in starts])
    np.testing.assert_array_equal(targets, [series[i + length] for i in starts])
    assert inputs.dtype == targets.dtype == dtype


@pytest.mark.parametrize("length", [0, 5])
def test_length_without_a_window_is_an_error(length: int) -> None:
    with pytest.raises(ValueError, match=f"sequence_length is {length}; .* the 5 values"):
        common.create_sequences(pd.DataFrame({"value": range(5)}), length)


def test_output_equals_the_statement(run: Run) -> None:
    code, out, _ = run("task01")  # without a network, so on the synthetic load curve
    assert code == 0
    assert out == (EXPECTED / "task01.txt").read_text(encoding="utf-8")


def test_first_five_entries_of_the_recordings_are_shown(run: Run, small_data: Path) -> None:
    _, _, err = run("task01", "--data", small_data)
    readings = pd.read_csv(small_data / "electricity_train.csv")["consumption"]
    targets = np.array2string(
        readings[96:101].to_numpy("float32"), precision=3, suppress_small=True
    )
    assert f"First five electricity targets:\n{targets}\n" in err
    assert err.count("]\n") == 5 + 1  # windows and targets


def test_toy_example_is_printed_before_the_recordings_are_read(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("task01", "--data", tmp_path)  # without recordings
    assert code == 1
    assert out.endswith("First five target values: [5 6 7 8 9]\n")
