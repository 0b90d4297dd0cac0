"""Tasks 01 to 03: the windows, the LSTM, the experiments."""

from __future__ import annotations

import copy
import json
import re
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays, integer_dtypes
from torch.utils.data import TensorDataset

import common
import task01
import task02
import task03

EXPECTED = ROOT / "tests" / "expected"


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Start every test from one thread: the choice of threads is timed, and tests are not."""
    torch.set_num_threads(1)


# Task 01


@st.composite
def series_and_length(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    dtype = draw(st.sampled_from(["float32", "float64"]) | integer_dtypes(sizes=(8, 64)))
    series = draw(arrays(dtype, st.integers(2, 60)))
    return series, draw(st.integers(1, len(series) - 1))


@given(series_and_length())
def test_sequences_equal_a_naive_loop(case: tuple[np.ndarray, int]) -> None:
    series, length = case
    inputs, targets = [], []
    for start in range(len(series) - length):
        inputs.append(series[start : start + length])
        targets.append(series[start + length])

    frame = pd.DataFrame({"other": ["x"] * len(series), "value": series})
    X, y = common.create_sequences(frame, length)
    np.testing.assert_array_equal(X, inputs)
    np.testing.assert_array_equal(y, targets)
    assert X.dtype == y.dtype == series.dtype


@given(st.integers(-5, 20), st.integers(0, 10))
def test_a_length_that_fits_no_window_is_refused(length: int, rows: int) -> None:
    frame = pd.DataFrame({"value": np.arange(rows)})
    if 1 <= length < rows:
        assert len(common.create_sequences(frame, length)[0]) == rows - length
    else:
        with pytest.raises(ValueError, match=rf"sequence_length is {length}; .* the {rows} values"):
            common.create_sequences(frame, length)


def test_windows_are_read_only_views_of_one_series() -> None:
    frame = common.synthetic_electricity("train")
    X, y = common.create_sequences(frame, 96)
    assert X.shape == (105_119, 96)
    assert X.strides == (8, 8)
    assert np.shares_memory(X, y)
    assert not X.flags.writeable
    assert not y.flags.writeable
    windows, targets = common.sequence_dataset(X, y).tensors
    assert windows.shape == (105_119, 96, 1)
    assert windows.data_ptr() == X.ctypes.data
    assert targets.data_ptr() == y.ctypes.data


def test_task01_prints_the_statement_s_block(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert task01.main([]) == 0  # no network in the tests, so on the synthetic load curve
    printed = capsys.readouterr()
    assert printed.out == (EXPECTED / "task01.txt").read_text()
    assert "First five electricity examples:\n[[" in printed.err


# Task 02


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_the_lstm_is_two_stacked_layers_and_a_linear_one() -> None:
    """Compare with the equations of the LSTM, step by step in NumPy."""
    torch.manual_seed(0)
    model = common.ConsumptionLSTM()
    weights = {name: value.detach().double().numpy() for name, value in model.named_parameters()}
    windows = np.random.default_rng(0).normal(size=(3, 96))
    expected = []
    for window in windows:
        short_term, long_term = np.zeros((2, 32)), np.zeros((2, 32))
        for reading in window:
            value = np.array([reading])
            for layer in (0, 1):
                gates = (
                    weights[f"lstm.weight_ih_l{layer}"] @ value
                    + weights[f"lstm.bias_ih_l{layer}"]
                    + weights[f"lstm.weight_hh_l{layer}"] @ short_term[layer]
                    + weights[f"lstm.bias_hh_l{layer}"]
                )
                write, keep, new, show = gates.reshape(4, 32)
                long_term[layer] = sigmoid(keep) * long_term[layer] + sigmoid(write) * np.tanh(new)
                short_term[layer] = value = sigmoid(show) * np.tanh(long_term[layer])
        expected.append(weights["linear.weight"] @ value + weights["linear.bias"])
    inputs = torch.from_numpy(windows).float().unsqueeze(-1)
    np.testing.assert_allclose(model(inputs).detach(), np.ravel(expected), atol=1e-5)
    assert len(weights) == 10
    assert common.ConsumptionLSTM is common.ConsumptionLSTM


@pytest.fixture
def waves() -> TensorDataset:
    frame = pd.DataFrame({"value": np.sin(np.arange(300) / 5).astype("float32")})
    return common.sequence_dataset(*common.create_sequences(frame, 24))


def test_training_equals_the_usual_loop(waves: TensorDataset) -> None:
    torch.manual_seed(0)
    model = common.ConsumptionLSTM(hidden_size=8)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    means = []
    for _ in range(3):
        losses = []
        order = torch.randperm(len(waves))
        for start in range(0, len(waves) - 31, 32):  # 276 windows: 8 batches and 20 left over
            inputs, targets = waves[order[start : start + 32]]
            loss = torch.nn.functional.mse_loss(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        means.append(np.mean(losses))
        assert len(losses) == 8
    torch.manual_seed(0)
    ours = common.ConsumptionLSTM(hidden_size=8)
    losses = list(common.fit(ours, waves, epochs=3, batch_size=32, learning_rate=1e-2))
    np.testing.assert_allclose(losses, means, rtol=1e-4)
    for mine, expected in zip(ours.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-3, atol=1e-4)


def test_one_cycle_warms_up_then_falls_to_nothing(
    waves: TensorDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = []
    step = torch.optim.AdamW.step

    def record(optimizer: torch.optim.AdamW) -> None:
        rates.append(optimizer.param_groups[0]["lr"])
        step(optimizer)

    monkeypatch.setattr(torch.optim.AdamW, "step", record)
    settings = {"epochs": 5, "batch_size": 27, "learning_rate": 0.01}  # 10 batches an epoch
    list(common.fit(common.ConsumptionLSTM(), waves, **settings, one_cycle=True))
    assert rates[:5] == pytest.approx([0.002, 0.004, 0.006, 0.008, 0.01], rel=0.05)
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert 0 < rates[-1] < 0.0001
    rates.clear()
    list(common.fit(common.ConsumptionLSTM(), waves, **settings))
    assert rates == [0.01] * 50


def test_timing_the_threads_changes_neither_model_nor_random_numbers(
    waves: TensorDataset, capsys: pytest.CaptureFixture
) -> None:
    torch.set_num_threads(2)
    torch.manual_seed(0)
    model = common.ConsumptionLSTM(hidden_size=8)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    common.choose_threads(model, waves, 16)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    printed = capsys.readouterr().err
    chosen = re.search(r"on (\d) of 2 threads \(batches/s: \d+ on 1, \d+ on all\)", printed)
    assert int(chosen[1]) == torch.get_num_threads()


@pytest.mark.parametrize(("milliseconds", "chosen"), [((9, 3), 2), ((3, 9), 1), ((6, 6), 1)])
def test_several_threads_must_be_clearly_faster(
    milliseconds: tuple[int, int],
    chosen: int,
    waves: TensorDataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def epoch(*_: object, **__: object) -> None:
        time.sleep(milliseconds[torch.get_num_threads() - 1] / 1000)

    monkeypatch.setattr(common, "train_epoch", epoch)
    torch.set_num_threads(2)
    common.choose_threads(common.ConsumptionLSTM(), waves, 16)
    assert torch.get_num_threads() == chosen


def test_the_error_is_that_of_every_window(waves: TensorDataset) -> None:
    model = common.ConsumptionLSTM(hidden_size=8)
    inputs, targets = waves.tensors
    with torch.no_grad():
        predictions = np.array([model(window[None]).item() for window in inputs])
    expected = np.mean((predictions - targets.numpy()) ** 2)
    assert task02.mean_loss(model, waves) == pytest.approx(expected, rel=1e-5)


def test_a_model_that_does_not_train_on_a_device_goes_to_the_cpu(
    waves: TensorDataset, capsys: pytest.CaptureFixture
) -> None:
    class OnlyOnTheCPU(torch.nn.Linear):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            if inputs.device.type != "cpu":
                raise NotImplementedError("no such operation")
            return super().forward(inputs[:, -1]).squeeze(-1)

    model, (placed,) = common.place(OnlyOnTheCPU(1, 1), [waves], torch.device("meta"))
    expected = "the model does not train on meta (no such operation); using the CPU\n"
    assert capsys.readouterr().err.endswith(expected)
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    assert placed.tensors[0].device.type == "cpu"
    assert task02.mean_loss(model, placed) > 0


def test_task02_prints_each_epoch_and_repeats_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(task02.TRAINING, "epochs", 2)
    for split in ("train", "test"):
        frame = common.synthetic_electricity(split)[:1500]
        frame.to_csv(tmp_path / f"electricity_{split}.csv", index=False)
    outputs = []
    for seed in ("3", "3", "4"):
        assert task02.main(["--data", str(tmp_path), "--seed", seed]) == 0
        outputs.append(capsys.readouterr().out)
    number = r"\d\.\d{5,}"
    assert re.fullmatch(
        rf"Epoch 1, Average MSE loss: {number}\n"
        rf"Epoch 2, Average MSE loss: {number}\n"
        rf"Test MSE: {number}\n",
        outputs[0],
    )
    assert outputs[0] == outputs[1] != outputs[2]


def test_too_few_windows_for_a_batch_is_one_line(tmp_path: Path) -> None:
    for split in ("train", "test"):
        frame = common.synthetic_electricity(split)[:120]
        frame.to_csv(tmp_path / f"electricity_{split}.csv", index=False)
    with pytest.raises(common.ScriptError, match="24 training samples do not fill a batch of 32"):
        task02.main(["--data", str(tmp_path)])


@pytest.mark.slow
def test_task02_on_the_recordings(recordings: Path, capsys: pytest.CaptureFixture) -> None:
    task02.main(["--data", str(recordings)])
    printed = [float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()]
    expected = (EXPECTED / "task02.txt").read_text().splitlines()
    assert printed == pytest.approx([float(line.split()[-1]) for line in expected], rel=0.05)
    first, second, third, test = printed
    assert 0.1755 <= first <= 0.2145
    assert 0.0513 <= second <= 0.0627
    assert 0.0486 <= third <= 0.0594
    assert 0.0385 <= test <= 0.0425


# Task 03


@pytest.fixture(scope="module")
def samples() -> task03.Samples:
    return task03.make_samples(
        common.synthetic_electricity("train").astype({"consumption": "float32"})[-4000:]
    )


@pytest.mark.parametrize("experiment", task03.BASELINES + task03.NETWORKS, ids=lambda e: e.name)
def test_no_input_comes_from_the_target_or_later(
    experiment: task03.Experiment, samples: task03.Samples
) -> None:
    frame = common.synthetic_electricity("train").astype({"consumption": "float32"})[-4000:]
    row = 500  # of the samples; its target is this reading of the frame:
    frame.iloc[task03.REACH + row :, 1] = 99.0
    changed = task03.make_samples(frame)
    inputs, base = task03.make_inputs(samples.part(slice(0, row + 1)), experiment)
    inputs_changed, base_changed = task03.make_inputs(changed.part(slice(0, row + 1)), experiment)
    np.testing.assert_array_equal(inputs, inputs_changed)
    np.testing.assert_array_equal(base, base_changed)
    assert inputs.dtype == np.float32


def test_the_inputs_are_the_readings_they_are_said_to_be() -> None:
    times = pd.date_range("2012-03-05 00:00", periods=3000, freq="15min")  # a Monday
    frame = pd.DataFrame({"timestamp": times, "value": np.arange(3000, dtype="float32")})
    samples = task03.make_samples(frame).part(slice(0, 1))
    target = task03.REACH  # its place in the series, and its value
    plain = task03.Experiment("", readings=2, past_days=(1, 7))
    expected = [target - 7 * 96 + near for near in (-1, 0, 1)]
    expected += [target - 96 + near for near in (-1, 0, 1)] + [target - 2, target - 1]
    inputs, base = task03.make_inputs(samples, plain)
    np.testing.assert_array_equal(inputs[0], expected)
    assert base == 0

    change = task03.Experiment("", readings=2, change=True, calendar=True)
    inputs, base = task03.make_inputs(samples, change)
    assert base == target - 1
    hours = samples.times[0].hour + samples.times[0].minute / 60
    waves = [wave(k * 2 * np.pi * hours / 24) for k in (1, 2, 3, 4) for wave in (np.sin, np.cos)]
    weekday = [float(day == samples.times[0].day_of_week) for day in range(7)]
    np.testing.assert_allclose(inputs[0], [-1, target - 1, *waves, *weekday], atol=1e-6)


def test_the_baselines_that_repeat_a_reading(samples: task03.Samples) -> None:
    for experiment, lag in zip(task03.BASELINES, (96, 672, 1), strict=False):
        predicted = task03.Forecaster(experiment).predict(samples)
        np.testing.assert_array_equal(predicted, samples.past[:, -lag])


def fit(experiment: task03.Experiment, samples: task03.Samples) -> task03.Forecaster:
    return task03.Forecaster(experiment).fit(samples, True, 0, torch.device("cpu"))


def test_an_average_is_the_mean_of_its_members(samples: task03.Samples) -> None:
    experiment = task03.replace(task03.SHORT, members=2)
    both = fit(experiment, samples)
    singles = [
        task03.Forecaster(task03.SHORT).fit(samples, True, seed, torch.device("cpu"))
        for seed in (0, 1)
    ]
    expected = np.mean([single.predict(samples) for single in singles], axis=0)
    np.testing.assert_allclose(both.predict(samples), expected, atol=1e-6)


def test_rolling_forward_feeds_predictions_back(samples: task03.Samples) -> None:
    forecaster = fit(task03.SHORT, samples)
    starts = np.array([3, 700])
    paths = forecaster.roll_forward(samples.past[starts], samples.times[starts], 5)
    for start, path in zip(starts, paths, strict=True):
        past, time = list(samples.past[start]), samples.times[start]
        for value in path:
            now = task03.Samples(
                np.array([past[-task03.REACH :]]), pd.DatetimeIndex([time]), np.zeros(1)
            )
            expected = forecaster.predict(now)[0]
            assert value == pytest.approx(expected, abs=1e-5)
            past.append(expected)
            time += pd.Timedelta("15min")


def test_a_saved_model_predicts_the_same(samples: task03.Samples, tmp_path: Path) -> None:
    forecaster = fit(task03.replace(task03.AVERAGE, members=2), samples)
    forecaster.save(tmp_path / "model.safetensors")
    loaded = task03.Forecaster.load(tmp_path / "model.safetensors", torch.device("cpu"))
    np.testing.assert_array_equal(loaded.predict(samples), forecaster.predict(samples))


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    "damage",
    [
        truncated,
        lambda content: b"",
        lambda content: b"not a model at all",
        lambda content: content.replace(b'\\"members\\": 2', b'\\"members\\": 3'),
        lambda content: content.replace(b'\\"dropout\\"', b'\\"unknown\\"'),
    ],
    ids=["truncated", "empty", "text", "too few networks", "an unknown setting"],
)
def test_a_file_that_save_did_not_write_is_one_line(
    damage: object, samples: task03.Samples, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    fit(task03.replace(task03.SHORT, members=2), samples).save(path)
    content = path.read_bytes()
    path.write_bytes(damage(content))
    assert path.read_bytes() != content
    with pytest.raises(common.ScriptError, match="not a file that --save wrote"):
        task03.Forecaster.load(path, torch.device("cpu"))


def test_saving_does_not_overwrite_what_is_not_a_saved_model(
    small_data: Path, tmp_path: Path
) -> None:
    path = tmp_path / "thesis.txt"
    path.write_text("years of work")
    with pytest.raises(common.ScriptError, match="not a file that --save wrote"):
        task03.main(["--data", str(small_data), "--save", str(path)])
    assert path.read_text() == "years of work"


def test_the_test_year_changes_no_choice(
    small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Run twice, the second time with another test file, and use what the first run saved."""
    saved = tmp_path / "model.safetensors"
    outputs = []
    for folder in (small_data, tmp_path):
        if folder == tmp_path:
            for split in ("train", "test"):
                frame = pd.read_csv(small_data / f"electricity_{split}.csv")
                if split == "test":
                    frame["consumption"] = (
                        frame["consumption"].sample(frac=1, random_state=0).values
                    )
                frame.to_csv(tmp_path / f"electricity_{split}.csv", index=False)
        arguments = ["--quick", "--data", str(folder)]
        arguments += ["--save", str(saved), "--forecast", "3"] if folder == small_data else []
        assert task03.main(arguments) == 0
        outputs.append(capsys.readouterr().out)
    first, second = (output.split("Winner: ") for output in outputs)
    assert first[1].splitlines()[0] == second[1].splitlines()[0]  # the winner's name
    rows = len(task03.BASELINES + task03.NETWORKS)
    validation = [
        [re.findall(r"\d+\.\d{4}", line)[0] for line in table.splitlines()[1 : rows + 1]]
        for table in (first[0], second[0])
    ]
    assert validation[0] == validation[1]
    assert first[1] != second[1]  # the test figures do differ
    assert sorted(path.name for path in common.RESULTS.iterdir()) == [
        "task03_table.png",
        "task03_week.png",
    ]

    assert task03.main(["--data", str(small_data), "--load", str(saved), "--forecast", "3"]) == 0
    after_training = first[1].split("\n", 1)[1]
    assert capsys.readouterr().out == after_training
    assert "2014-01-11 10:00:00" in after_training  # the first quarter-hour after the data
    assert re.search(r" 96 quarter-hours ahead: MSE \d", after_training)


def test_data_that_are_too_short_or_do_not_follow_are_one_line(
    small_data: Path, tmp_path: Path
) -> None:
    train, test = (pd.read_csv(small_data / f"electricity_{s}.csv") for s in ("train", "test"))
    for splits, message in (
        ((train[:3000], test), "too short: task 03 needs 5,378 rows to train on and 288 to test"),
        ((train, test[:200]), "too short"),
        ((train, test[1:]), "do not start 15 minutes after the training data"),
    ):
        for split, frame in zip(("train", "test"), splits, strict=True):
            frame.to_csv(tmp_path / f"electricity_{split}.csv", index=False)
        with pytest.raises(common.ScriptError, match=message):
            task03.main(["--data", str(tmp_path)])


@pytest.mark.slow
def test_task03_on_the_recordings(recordings: Path, capsys: pytest.CaptureFixture) -> None:
    assert task03.main(["--data", str(recordings)]) == 0
    printed = capsys.readouterr().out
    mse, r_squared = (
        float(re.search(rf"{name}: (.*)", printed)[1]) for name in ("Test MSE", "R-squared")
    )
    measured = json.loads((EXPECTED / "measured.json").read_text())
    assert mse == pytest.approx(measured["task03"]["test MSE"], rel=0.05)
    assert mse <= 0.0265
    assert r_squared >= 0.958
