"""Task 02: the LSTM, its training loop and its test."""

import re
from pathlib import Path
from shutil import copytree
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import common
import task02
from conftest import EXPECTED, Run

FRAME = pd.DataFrame({"value": np.sin(np.arange(300) / 5).astype("float32")})
WAVES = common.sequence_dataset(*common.create_sequences(FRAME, 24))  # 8 * 32 + 20 windows


def new_model() -> tuple[nn.Sequential, torch.optim.Optimizer]:
    """Return a model whose dropout is visible in train mode."""
    torch.manual_seed(0)
    model = nn.Sequential(common.ConsumptionLSTM(hidden_size=8), nn.Dropout(0.3))
    return model, torch.optim.AdamW(model.parameters(), 1e-2)


def test_lstm_starts_at_zero_and_its_last_output_predicts() -> None:
    model, windows = common.ConsumptionLSTM(), torch.randn(3, 96, 1)
    outputs, _ = model.lstm(windows)  # torch's states are 0 by default
    torch.testing.assert_close(model(windows), model.linear(outputs)[:, -1, 0])


# --- The batches ---------------------------------------------------------------------------------


def test_epoch_has_complete_batches_of_distinct_rows_in_a_new_order() -> None:
    loader = task02.make_batches(TensorDataset(torch.arange(70)), 32)
    first, second = ([batch.tolist() for (batch,) in loader] for _ in range(2))
    assert [len(batch) for batch in first] == [32, 32]  # 6 rows do not fill a batch
    assert len({*first[0], *first[1]}) == 64
    assert first != second
    assert first[0] != sorted(first[0])


def test_too_few_windows_for_a_batch_are_an_error() -> None:
    with pytest.raises(common.ScriptError, match="276 training windows do not fill a batch of 277"):
        task02.make_batches(WAVES, 277)


# --- The training loop ---------------------------------------------------------------------------


def test_epoch_equals_a_plain_loop() -> None:
    batches = [WAVES[rows] for rows in torch.arange(256).split(32)]
    expected_model, optimizer = new_model()
    schedule = common.one_cycle(optimizer, steps=8)
    losses = []
    for inputs, targets in batches:
        optimizer.zero_grad()
        loss = ((expected_model(inputs) - targets) ** 2).mean()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    model, optimizer = new_model()
    model.eval()  # train_epoch sets train mode
    found = task02.train_epoch(model, batches, optimizer, common.one_cycle(optimizer, steps=8))
    assert found == pytest.approx(np.mean(losses), rel=1e-5)
    for ours, theirs in zip(model.parameters(), expected_model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_predictions_are_those_of_single_rows_without_dropout() -> None:
    model, _ = new_model()
    inputs = torch.randn(1030, 3, 1)  # more rows than are predicted at once
    expected = torch.cat([model[0](row[None]) for row in inputs])
    torch.testing.assert_close(task02.predict(model.train(), inputs), expected)


# --- The protocol --------------------------------------------------------------------------------


def test_other_test_data_change_only_the_test_mse(
    run: Run, small_data: Path, tmp_path: Path
) -> None:
    other = copytree(small_data, tmp_path / "other")
    frame = pd.read_csv(small_data / "electricity_test.csv")
    frame["consumption"] *= -10
    frame.to_csv(other / "electricity_test.csv", index=False)
    outputs = [run("task02", "--quick", "--data", data)[1] for data in (small_data, other)]
    (loss, test), (other_loss, other_test) = (out.splitlines() for out in outputs)
    assert loss == other_loss
    assert test != other_test


def test_output_depends_on_the_seed_alone(run: Run, small_data: Path) -> None:
    options = "--quick", "--data", small_data, "--seed"
    first, second, other = (run("task02", *options, seed)[1] for seed in (3, 3, 4))
    assert first == second
    assert not set(first.splitlines()) & set(other.splitlines())


def test_training_data_and_settings_are_those_of_the_statement(
    run: Run, small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(task02, "train_epoch", lambda *arguments: calls.append(arguments) or 0.5)
    run("task02", "--data", small_data)
    assert len(calls) == 3  # epochs
    model, bar, optimizer = calls[0]
    readings = pd.read_csv(small_data / "electricity_train.csv")["consumption"]
    np.testing.assert_allclose(bar.iterable.dataset.tensors[1], readings[96:], rtol=1e-5)
    assert (model.lstm.num_layers, model.lstm.hidden_size) == (2, 32)
    assert {len(targets) for _, targets in bar} == {32}
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.param_groups[0]["lr"] == 0.0001
    run("task02", "--quick", "--data", small_data)
    np.testing.assert_allclose(calls[3][1].iterable.dataset.tensors[1], readings[96:686], rtol=1e-5)


def test_test_mse_is_the_mean_over_all_windows_of_the_test_split(
    run: Run, small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task02, "train_epoch", lambda *_: 0.5)
    predict = Mock(side_effect=lambda _, inputs: inputs[:, -1, 0])  # the last reading
    monkeypatch.setattr(task02, "predict", predict)
    _, out, _ = run("task02", "--data", small_data)
    changes = pd.read_csv(small_data / "electricity_test.csv")["consumption"].diff()
    found = float(out.split("Test MSE: ")[1])
    assert found == pytest.approx((changes[96:] ** 2).mean(), rel=1e-5)
    assert predict.call_count == 1  # after the last epoch; the test chooses none


@pytest.mark.slow
@pytest.mark.parametrize("name", ["task02.txt", "task02_synthetic.txt"])
def test_output_is_recorded(name: str, recordings: Path, run: Run) -> None:
    _, out, _ = run("task02", *(["--data", recordings] if name == "task02.txt" else []))
    record = (EXPECTED / name).read_text(encoding="utf-8")
    found, expected = ([float(x) for x in re.findall(r"\d\.\d+", text)] for text in (out, record))
    assert found == pytest.approx(expected, rel=0.01)
