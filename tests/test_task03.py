"""Task 03: the protocol, the inputs and the networks of the experiments."""

import contextlib
import io
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingRegressor

import common
import electricity
import task03
from conftest import CPU, Run, only_line
from task03 import CHANGE, LAST_READING, ONE_CYCLE, SHORT, Experiment, Samples

FRAME = electricity.synthetic_curve("train")[-4000:]
SAMPLES = task03.make_samples(FRAME)
NETWORKS = task03.NETWORKS
Predictions = dict[str, np.ndarray]
QuickRun = tuple[str, list[tuple]]  # standard output; arguments and result of train_and_predict


@pytest.fixture(autouse=True, scope="module")
def small_experiments() -> Iterator[pytest.MonkeyPatch]:
    """Replace the experiments by three that take a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task03, "NETWORKS", [CHANGE, SHORT, ONE_CYCLE])
        patch.setattr(task03, "QUICK_EPOCHS", 1)
        patch.setattr(
            task03,
            "HistGradientBoostingRegressor",
            lambda **options: HistGradientBoostingRegressor(**options | {"max_iter": 5}),
        )
        yield patch


def quick_run(data: Path, *options: str) -> QuickRun:
    """Run the script with --quick, without its pictures."""

    def spy(*arguments: Any) -> Predictions:
        predictions = train_and_predict(*arguments)
        trainings.append((*arguments, predictions))
        return predictions

    train_and_predict, trainings = task03.train_and_predict, []
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
        patch.setattr(task03, "train_and_predict", spy)
        patch.setattr(common, "save_figure", lambda *_: None)
        task03.main(["--quick", "--data", str(data), *options])
    return out.getvalue(), trainings


@pytest.fixture(scope="module")
def first_run(small_data: Path) -> QuickRun:
    """Run the script once for several tests."""
    return quick_run(small_data)


def copy_data(data: Path, folder: Path, split: str, change: Callable) -> Path:
    """Copy the data, with `change(frame)` as a split; return the folder."""
    for name in ("train", "test"):
        frame = pd.read_csv(data / f"electricity_{name}.csv")
        frame = change(frame) if name == split else frame
        frame.to_csv(folder / f"electricity_{name}.csv", index=False)
    return folder


# --- The protocol --------------------------------------------------------------------------------


def test_other_test_data_change_nothing_but_the_test_errors(
    first_run: QuickRun, small_data: Path, tmp_path: Path
) -> None:
    out, trainings = first_run
    data = copy_data(small_data, tmp_path, "test", lambda f: f.assign(consumption=-f.consumption))
    other_out, other_trainings = quick_run(data)
    for name, predictions in trainings[0][-1].items():  # of the validation data
        np.testing.assert_array_equal(other_trainings[0][-1][name], predictions)
    assert only_line(other_out, "Winner: ") == only_line(out, "Winner: ")
    assert only_line(other_out, "Test MSE: ") != only_line(out, "Test MSE: ")


def test_nothing_is_learned_from_the_readings_that_are_predicted() -> None:
    earlier, later = SAMPLES.part(slice(1000)), SAMPLES.part(slice(1000, None))
    first, second = (
        task03.train_and_predict(task03.NETWORKS, earlier, predicted, range(1), CPU)
        for predicted in (later, later._replace(targets=-later.targets))
    )
    for name, predictions in first.items():
        np.testing.assert_array_equal(second[name], predictions)


def test_origins_are_three_years_whose_last_quarters_validate() -> None:
    frame = electricity.synthetic_curve("train")
    samples = task03.make_samples(frame)
    for year, origin in zip((2011, 2012, 2013), task03.ORIGINS, strict=True):
        earlier, quarter = task03.split_at(samples, origin)
        assert str(earlier.times[-1]) == f"{year}-09-30 23:45:00"
        assert str(quarter.times[0]) == f"{year}-10-01 00:00:00"
        assert str(quarter.times[-1]) == f"{year}-12-31 23:45:00"


def test_test_year_is_predicted_once_by_models_of_all_training_years(
    first_run: QuickRun, small_data: Path
) -> None:
    _, ((_, earlier, quarter, *_), (_, all_years, test, *_)) = first_run
    assert str(earlier.times[-1]) == "2013-12-14 23:45:00"
    assert str(quarter.times[-1]) == str(all_years.times[-1]) == "2013-12-31 23:45:00"
    assert str(test.times[0]) == "2014-01-02 00:00:00"  # the first target of task 02
    readings = pd.read_csv(small_data / "electricity_test.csv")["consumption"]
    np.testing.assert_allclose(test.targets, readings[96:], rtol=1e-5)


def test_network_with_the_lowest_mean_validation_error_wins(
    small_data: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = {  # in validation at three origins, and in the test
        LAST_READING: [0.01, 0.01, 0.01, 0.5],  # not a network
        CHANGE.name: [0.1, 0.1, 0.9, 0.3],
        SHORT.name: [0.2, 0.3, 0.3, 0.4],  # best nowhere but in the mean
        ONE_CYCLE.name: [0.8, 0.8, 0.2, 0.1],
    }
    calls = []

    def predict(_: Any, train: Samples, later: Samples, seeds: range, *rest: Any) -> Predictions:
        calls.append((str(later.times[0].date()), seeds))
        columns = {name: row[len(calls) - 1] for name, row in errors.items()}
        return {name: np.stack([later.targets + mse**0.5] * 3) for name, mse in columns.items()}

    origins = ["2013-12-10", "2013-12-15", "2013-12-20"]
    monkeypatch.setattr(task03, "ORIGINS", origins)
    monkeypatch.setattr(task03, "train_and_predict", predict)
    _, out, _ = run("task03", "--data", small_data, "--seed", 5)
    assert f"Winner: {SHORT.name}, average of 3 networks\n" in out
    assert float(only_line(out, "Test MSE: ")[10:]) == pytest.approx(0.4, rel=1e-5)
    validations = [(origin, range(5, 6)) for origin in origins]
    assert calls == [*validations, ("2014-01-02", range(5, 8))]


# --- The inputs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("experiment", NETWORKS, ids=lambda experiment: experiment.name)
def test_no_input_comes_from_the_target_or_later(experiment: Experiment) -> None:
    changed = FRAME.copy()
    changed.iloc[task03.HISTORY + 500 :, 1] = 99.0  # the target of sample 500 and later readings
    samples = SAMPLES.part(slice(501)), task03.make_samples(changed).part(slice(501))
    for ours, theirs in zip(*(task03.make_inputs(s, experiment) for s in samples), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.fixture(scope="module")
def counted() -> Samples:
    """Return samples of the readings 0, 1, 2 and so on, from a Monday at midnight on."""
    times = pd.date_range("2012-03-05 00:00", periods=3000, freq="15min")
    frame = pd.DataFrame({"timestamp": times, "value": np.arange(3000, dtype="float32")})
    return task03.make_samples(frame)


@pytest.mark.parametrize("change", [False, True])
def test_inputs_are_the_named_readings_less_the_level(change: bool, counted: Samples) -> None:
    experiment = Experiment("", readings=2, past_days=(1, 7), change=change)
    inputs, level = task03.make_inputs(counted.part(slice(1)), experiment)
    last = 28 * 96  # position and value of the reading before the first target
    past = [last + 1 - day * 96 + near for day in (7, 1) for near in (-1, 0, 1)]
    expected_level = last * change
    assert level.tolist() == [expected_level]
    assert inputs.tolist() == [[*(x - expected_level for x in (*past, last - 1)), last]]


def test_calendar_is_that_of_the_target(counted: Samples) -> None:
    sample = counted.part(slice(142, 143))  # Tuesday at 11:45
    inputs, _ = task03.make_inputs(sample, Experiment("", readings=1, calendar=True))
    hours = 11.75 / 24 * 2 * np.pi
    waves = [wave(k * hours) for k in (1, 2, 3, 4) for wave in (np.sin, np.cos)]
    np.testing.assert_allclose(inputs[0, 1:], [*waves, 0, 1, 0, 0, 0, 0, 0], atol=1e-6)


# --- The models ----------------------------------------------------------------------------------


def test_copying_baselines_repeat_the_readings_they_name() -> None:
    readings = FRAME["consumption"].reset_index(drop=True)
    predictions = task03.predict_baselines(SAMPLES, SAMPLES)
    steps = {"same time yesterday": 96, "same time last week": 672, LAST_READING: 1}
    for name, count in steps.items():
        expected = readings.shift(count)[task03.HISTORY :]
        np.testing.assert_array_equal(predictions[name][0], expected)


def test_level_is_subtracted_from_targets_and_added_to_predictions() -> None:
    higher = SAMPLES._replace(history=SAMPLES.history + 8, targets=SAMPLES.targets + 8)
    found = task03.train_and_predict([CHANGE], higher, higher, range(1), CPU)
    for name in ("gradient boosting, all inputs", CHANGE.name):
        error = np.mean((found[name] - higher.targets) ** 2)
        assert error < 1  # without the level it is about 64


def test_each_network_changes_one_thing() -> None:
    for first, second in pairwise(NETWORKS[1:]):  # without the LSTM
        pairs = zip(vars(first).values(), vars(second).values(), strict=True)
        assert sum(left != right for left, right in pairs) == 2  # the name, and one more


def test_lstm_is_trained_as_in_task_02() -> None:
    lstm = task03.LSTM
    assert (lstm.epochs, lstm.batch_size, lstm.learning_rate) == (3, 32, 0.0001)
    assert (lstm.readings, lstm.change) == (common.SEQUENCE_LENGTH, False)
    assert isinstance(lstm.network(96, 0.0)[1], common.ConsumptionLSTM)


@pytest.mark.parametrize("experiment", [task03.DAYS_GRU, task03.TWO_GRUS], ids=lambda e: e.name)
def test_grus_read_the_past_days_and_the_last_two_hours(experiment: Experiment) -> None:
    past = torch.from_numpy(SAMPLES.history[:5].copy())
    changes = past - past[:, -1:]  # the last one is 0
    days = sorted(task03.PAST_DAYS, reverse=True)
    offsets = [near - 96 * day for day in days for near in (-1, 0, 1)]
    inputs = torch.from_numpy(task03.make_inputs(SAMPLES.part(slice(5)), experiment)[0])
    network: Any = experiment.network(inputs.shape[1], 0.0)
    columns = [inputs, network.days_gru(changes[:, offsets].view(5, 10, 3))[1][0]]
    if experiment is task03.TWO_GRUS:
        columns.append(network.hours_gru(changes[:, -8:, None])[1][0])
    torch.testing.assert_close(network(inputs), network.mlp(torch.cat(columns, dim=1)))


def train_and_predict(experiments: list[Experiment], seeds: range) -> Predictions:
    """Train each experiment for an epoch, and predict the same readings."""
    experiments = [replace(experiment, epochs=1) for experiment in experiments]
    return task03.train_and_predict(experiments, SAMPLES, SAMPLES, seeds, CPU)


def test_each_setting_changes_the_trained_network() -> None:
    settings = {"dropout": 0.2, "one_cycle": True, "learning_rate": 1e-3, "batch_size": 256}
    changed = [replace(SHORT, name=name, **{name: value}) for name, value in settings.items()]
    predictions = train_and_predict([SHORT, *changed], range(1))
    errors = [np.mean((predictions[e.name] - SAMPLES.targets) ** 2) for e in (SHORT, *changed)]
    assert len(set(errors)) == 5


def test_one_cycle_lasts_as_long_as_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []
    monkeypatch.setattr(common, "one_cycle", lambda _, count: steps.append(count))
    inputs, level = task03.make_inputs(SAMPLES, ONE_CYCLE)
    task03.train_network(replace(ONE_CYCLE, epochs=3), inputs, SAMPLES.targets - level, 0, CPU)
    assert steps == [3 * (len(inputs) // 512)]


def test_predictions_depend_on_the_seed_and_not_on_the_other_networks() -> None:
    both = train_and_predict([SHORT, ONE_CYCLE], range(2))[ONE_CYCLE.name]
    (alone,) = train_and_predict([ONE_CYCLE], range(1, 2))[ONE_CYCLE.name]
    np.testing.assert_array_equal(both[1], alone)
    assert not np.array_equal(both[0], alone)


# --- The results ---------------------------------------------------------------------------------


def test_rows_have_the_mean_error_of_the_networks_and_the_winner_that_of_their_average(
    first_run: QuickRun,
) -> None:
    out, (*_, (_, _, test, *_, predictions)) = first_run
    targets = test.targets
    errors = [np.mean((row - targets) ** 2) for row in predictions[SHORT.name]]
    fraction = 1 - np.mean(errors) / np.var(targets)
    expected = f"{np.mean(errors):.4f} {np.std(errors, ddof=1):.4f}     {fraction:.4f}"
    assert only_line(out, f"{SHORT.name}  ").endswith(expected)
    winner = re.search("Winner: (.*), average", out)[1]
    error = np.mean((predictions[winner].mean(0) - targets) ** 2)
    results = [float(only_line(out, name).split()[-1]) for name in ("Test MSE: ", "R-squared: ")]
    assert results == pytest.approx([error, 1 - error / np.var(targets)], rel=1e-5)


def test_remarks_name_the_hardest_steps(capsys: pytest.CaptureFixture) -> None:
    changes = np.array([10.0, -5, *[1] * 198])  # squares: 100 + 25 + 198
    test = Samples(np.zeros((200, 1)), pd.DatetimeIndex([]), changes)
    table = pd.DataFrame({"mean": [1, 2, 0], "test MSE": [1, 0, 2]}, [LAST_READING, "A", "B"])
    task03.print_remarks(table, test)
    err = capsys.readouterr().err
    assert f"make up {125 / 323:.0%} of its squared error, the largest 5% {133 / 323:.0%}\n" in err
    assert only_line(err, "worse than the last reading in validation").endswith(": A")
    assert only_line(err, "worse than the last reading in the test year").endswith(": B")


# --- Wrong data ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("split", "rows", "problem"), [
    ("train", slice(-2600, None), "sequence_length is 2689; it must be "),
    ("train", slice(-3500, None), "no training data around 2013-12-15"),
    ("test", slice(1, None), "the test data must start at 2014-01-01 00:00:00"),
])  # fmt: skip
def test_data_that_do_not_fit_are_one_line(
    split: str, rows: slice, problem: str, run: Run, small_data: Path, tmp_path: Path
) -> None:
    data = copy_data(small_data, tmp_path, split, lambda frame: frame[rows])
    code, out, err = run("task03", "--quick", "--data", data)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert problem in err


@pytest.mark.slow
def test_winner_on_the_recordings(
    recordings: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    small_experiments: pytest.MonkeyPatch,
) -> None:
    small_experiments.undo()
    monkeypatch.delenv("LOKY_MAX_CPU_COUNT")
    _, out, _ = run("task03", "--data", recordings)
    assert float(only_line(out, "Test MSE: ")[10:]) <= 0.0240
    assert float(only_line(out, "R-squared: ")[11:]) >= 0.963


def test_networks_keep_their_order_when_the_first_is_finished_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def train_network(experiment: Any, inputs: Any, targets: Any, seed: int, device: Any) -> int:
        time.sleep(0.5 * (seed == 0))  # the first one is finished last
        return seed

    monkeypatch.setattr(task03, "cpu_count", lambda: 2)
    monkeypatch.setattr(task03, "train_network", train_network)
    monkeypatch.setattr(task03.task02, "predict", lambda seed, rows: seed + 0 * rows[:, 0])
    with joblib.parallel_config("threading"):
        found = task03.train_and_predict([task03.LSTM], SAMPLES, SAMPLES, range(3), CPU)
    assert found[task03.LSTM.name][:, 0].tolist() == [0, 1, 2]


def test_autoregression_is_least_squares_on_the_last_96_readings() -> None:
    columns = np.column_stack([SAMPLES.history[:, -96:], np.ones(len(SAMPLES.targets))])
    weights = np.linalg.lstsq(columns, SAMPLES.targets, rcond=None)[0]
    found = task03.predict_baselines(SAMPLES, SAMPLES)["AR(96), least squares"]
    np.testing.assert_allclose(found[0], columns @ weights, atol=1e-3)
