"""Task 02: the LSTM, its training loop and its test."""

from __future__ import annotations

import re
from pathlib import Path
from unittest.mock import patch

import common
import task02

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import EXPECTED
from scipy.special import expit as sigmoid
from torch import nn
from torch.utils.data import TensorDataset

FRAME = pd.DataFrame({"value": np.sin(np.arange(300) / 5).astype("float32")})
WAVES = common.sequence_dataset(*common.create_sequences(FRAME, 24))  # 8 * 32 + 20 windows


def test_lstm_equals_its_equations() -> None:
    model = common.ConsumptionLSTM()
    weights = [[w.detach().double().numpy() for w in layer] for layer in model.lstm.all_weights]
    assert len(weights) == 2
    windows = np.random.default_rng(0).normal(size=(3, 96))
    hidden, cell = np.zeros((2, 3, 32)), np.zeros((2, 3, 32))  # (layer, batch, unit)
    for time in range(96):
        values = windows[:, [time]]  # (batch, 1)
        for layer, (w_input, w_hidden, b_input, b_hidden) in enumerate(weights):
            gates = values @ w_input.T + b_input + hidden[layer] @ w_hidden.T + b_hidden
            i, f, g, o = np.split(gates, 4, axis=1)  # input, forget, cell and output gate
            cell[layer] = sigmoid(f) * cell[layer] + sigmoid(i) * np.tanh(g)
            hidden[layer] = values = sigmoid(o) * np.tanh(cell[layer])
    expected = model.linear(torch.from_numpy(values).float())[:, 0]  # of the upper layer
    found = model(torch.from_numpy(windows).float().unsqueeze(-1))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def new_model() -> tuple[nn.Sequential, torch.optim.Optimizer]:
    """Return a model whose dropout is visible in train mode."""
    torch.manual_seed(0)
    model = nn.Sequential(common.ConsumptionLSTM(hidden_size=8), nn.Dropout(0.3))
    return model, torch.optim.AdamW(model.parameters(), 1e-2)


def test_loss_that_is_no_number_is_an_error() -> None:
    inputs, targets = WAVES.tensors
    model, optimizer = new_model()
    with pytest.raises(common.ScriptError, match=r"the training loss is (inf|nan), not a finite"):
        task02.train_epoch(model, TensorDataset(inputs, targets * 1e30), 32, optimizer)


def test_epoch_drops_the_last_batch_and_only_training_has_dropout() -> None:
    expected_model, optimizer = new_model()
    schedule = common.one_cycle(optimizer, steps=8)
    losses = []
    for batch in torch.randperm(276).split(32)[:8]:
        inputs, targets = WAVES[batch]
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(expected_model(inputs), targets)
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    model, optimizer = new_model()
    schedule = common.one_cycle(optimizer, steps=8)
    found = task02.train_epoch(model.eval(), WAVES, 32, optimizer, schedule)
    assert found == pytest.approx(np.mean(losses), rel=1e-5)
    for ours, theirs in zip(model.parameters(), expected_model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    inputs = torch.randn(1030, 3, 1)  # more rows than are predicted at once
    expected = torch.cat([model[0](row[None]) for row in inputs])  # without dropout
    torch.testing.assert_close(task02.predict(model, inputs), expected)
    with pytest.raises(common.ScriptError, match="276 training windows do not fill a batch of 277"):
        task02.train_epoch(model, WAVES, 277, optimizer)


def test_other_test_data_change_only_the_test_mse(
    small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    frame = pd.read_csv(small_data / "electricity_test.csv")
    frame["consumption"] = frame["consumption"][::-1].to_numpy()
    frame.to_csv(tmp_path / "electricity_test.csv", index=False)
    (tmp_path / "electricity_train.csv").symlink_to(small_data / "electricity_train.csv")
    outputs = []
    for folder, seed in ((small_data, 3), (small_data, 3), (tmp_path, 3), (small_data, 4)):
        assert task02.main(["--quick", "--data", str(folder), "--seed", str(seed)]) == 0
        outputs.append(capsys.readouterr().out.splitlines())
    first, repeated, with_other_test, with_other_seed = outputs
    assert repeated == first
    assert [a == b for a, b in zip(with_other_test, first, strict=True)] == [True, False]
    assert [a == b for a, b in zip(with_other_seed, first, strict=True)] == [False, False]


@pytest.mark.parametrize(("options", "windows"), [([], [5904] * 3), (["--quick"], [590])])
def test_settings_are_the_statements_and_the_test_mse_is_that_of_the_test_windows(
    options: list[str], windows: list[int], small_data: Path, capsys: pytest.CaptureFixture
) -> None:
    changes = pd.read_csv(small_data / "electricity_test.csv")["consumption"].diff()
    with (
        patch.object(task02, "train_epoch", return_value=0.5) as train_epoch,
        patch.object(task02, "predict", lambda _, inputs: inputs[:, -1, 0]),  # the last reading
    ):
        task02.main(["--data", str(small_data), *options])
    assert [len(call.args[1]) for call in train_epoch.call_args_list] == windows
    batch_size, optimizer = train_epoch.call_args.args[2:]
    assert (batch_size, type(optimizer)) == (32, torch.optim.AdamW)
    assert optimizer.param_groups[0]["lr"] == 0.0001
    test_mse = float(capsys.readouterr().out.split("Test MSE: ")[1])
    assert test_mse == pytest.approx((changes[96:] ** 2).mean(), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["task02.txt", "task02_synthetic.txt"])
def test_output_is_recorded(name: str, recordings: Path, capsys: pytest.CaptureFixture) -> None:
    task02.main(["--data", str(recordings)] if name == "task02.txt" else [])
    outputs = capsys.readouterr().out, (EXPECTED / name).read_text()
    found, expected = ([float(x) for x in re.findall(r"\d\.\d+", each)] for each in outputs)
    assert found == pytest.approx(expected, rel=0.01)
