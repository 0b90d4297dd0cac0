"""Task 01: windows of a series and their targets."""

from __future__ import annotations

import common
import task01

import numpy as np
import pandas as pd
import pytest
from conftest import EXPECTED
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays


@given(st.data(), st.sampled_from(["float32", "int64"]), st.integers(2, 60))
def test_sequences_equal_a_naive_loop(data: st.DataObject, dtype: str, rows: int) -> None:
    series, length = data.draw(arrays(dtype, rows)), data.draw(st.integers(1, rows - 1))
    frame = pd.DataFrame({"other": ["x"] * rows, "value": series})
    inputs, targets = common.create_sequences(frame, length)
    starts = range(rows - length)
    np.testing.assert_array_equal(inputs, [series[i : i + length] for i in starts])
    np.testing.assert_array_equal(targets, [series[i + length] for i in starts])
    assert inputs.dtype == targets.dtype == dtype


def test_windows_are_read_only_views_of_one_series() -> None:
    frame = pd.DataFrame({"value": np.arange(1000.0)})
    inputs, targets = common.create_sequences(frame, 96)
    assert inputs.strides == (8, 8)  # bytes: each window starts one value after the last
    assert np.shares_memory(inputs, targets)
    assert [inputs.flags.writeable, targets.flags.writeable] == [False, False]
    windows, _ = common.sequence_dataset(inputs, targets).tensors
    assert windows.shape == (904, 96, 1)
    assert windows.data_ptr() == inputs.ctypes.data
    with pytest.raises(ValueError, match=r"sequence_length is 1000; .* the 1000 values"):
        common.create_sequences(frame, 1000)


def test_output_equals_the_statement(capsys: pytest.CaptureFixture) -> None:
    assert task01.main([]) == 0  # without a network, so on the synthetic load curve
    printed = capsys.readouterr()
    assert printed.out == (EXPECTED / "task01.txt").read_text()
    assert "First five electricity examples:\n[[" in printed.err
