"""Task 03: the protocol, the inputs and the networks of the experiments."""

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingRegressor

import common
import electricity
import task03
from conftest import CPU, Run, only_line
from task03 import Experiment, Samples

FRAME = electricity.synthetic_curve("train")[-4000:].astype({"consumption": "float32"})
SAMPLES = task03.make_samples(FRAME)
DRAW_WEEK, DRAW_TABLE = task03.draw_week, task03.draw_table
LATER = SAMPLES.part(slice(1000, None))
Predictions = dict[str, np.ndarray]


def train(experiment: Experiment, seeds: range = range(1)) -> list[torch.Tensor]:
    """Train an experiment for an epoch; return the weights of each network as one vector."""
    experiment = task03.replace(experiment, epochs=1)
    networks = task03.train_networks([experiment], SAMPLES, seeds, CPU)
    return [torch.nn.utils.parameters_to_vector(network.parameters()) for network in networks]


@pytest.fixture(autouse=True)
def small_experiments(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the experiments by three that take a second, but not in slow tests."""
    if "slow" in request.keywords:
        return
    monkeypatch.setattr(task03, "NETWORKS", [task03.CHANGE, task03.SHORT, task03.ONE_CYCLE])
    monkeypatch.setattr(task03, "QUICK_EPOCHS", 1)
    monkeypatch.setattr(task03, "draw_week", lambda *_: None)
    monkeypatch.setattr(task03, "draw_table", lambda *_: None)
    monkeypatch.setattr(
        task03,
        "HistGradientBoostingRegressor",
        lambda **options: HistGradientBoostingRegressor(**options | {"max_iter": 5}),
    )


# --- The protocol --------------------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """Return a list to which each training adds its samples, predictions and fitted networks."""

    def spy(*arguments: Any) -> Predictions:
        predictions = train_and_predict(*arguments)
        calls.append((*arguments, predictions))
        return predictions

    train_and_predict, calls = task03.train_and_predict, []
    monkeypatch.setattr(task03, "train_and_predict", spy)
    return calls


@pytest.fixture
def changed_data(small_data: Path, tmp_path: Path) -> Callable[[str, str], list[Any]]:
    """Return a function that copies the data, with other readings of a split from a time on."""

    def change(split: str, start: str) -> list[Any]:
        for name in ("train", "test"):
            frame = pd.read_csv(small_data / f"electricity_{name}.csv")
            if name == split:
                later = frame["timestamp"] >= start
                frame.loc[later, "consumption"] = -3 * frame.loc[later, "consumption"]
            frame.to_csv(tmp_path / f"electricity_{name}.csv", index=False)
        return ["--quick", "--data", tmp_path]

    return change


def validation_columns(out: str) -> list[list[str]]:
    """Return the name and the validation errors of each row of the printed table."""
    rows = out.partition("Winner: ")[0].splitlines()[1:]
    return [re.split(r"\s{2,}|\s(?=\d\.\d{4})", row)[:3] for row in rows]


def test_other_test_data_change_neither_validation_errors_nor_the_winner(
    run: Run, small_data: Path, changed_data: Callable
) -> None:
    _, out, _ = run("task03", "--quick", "--data", small_data)
    _, other, _ = run("task03", *changed_data("test", "2014"))
    assert validation_columns(out) == validation_columns(other)
    assert only_line(out, "Winner: ") == only_line(other, "Winner: ")
    assert only_line(out, "Test MSE: ") != only_line(other, "Test MSE: ")


def test_test_data_and_later_readings_train_no_network(
    run: Run, small_data: Path, changed_data: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spy(*arguments: Any) -> list:
        networks = train_networks(*arguments)
        trained.append([next(network.parameters())[0].tolist() for network in networks])
        return networks

    train_networks, trained = task03.train_networks, []
    monkeypatch.setattr(task03, "train_networks", spy)
    run("task03", "--quick", "--data", small_data)
    run("task03", *changed_data("test", "2014"))
    run("task03", *changed_data("train", "2013-12-15"))  # the origin of --quick
    validated, final, same, also_same, still_same, different = trained
    assert validated == same == still_same
    assert final == also_same
    assert final != different  # the validation data are training data in the end


def test_baselines_learn_nothing_from_the_readings_they_predict() -> None:
    earlier = SAMPLES.part(slice(1000))
    changed = Samples(LATER.history, LATER.times, LATER.targets * -3)
    found = task03.predict_baselines(earlier, changed)
    for name, predictions in task03.predict_baselines(earlier, LATER).items():
        np.testing.assert_array_equal(found[name], predictions)


def test_each_origin_separates_training_from_the_quarter_after_it(
    run: Run, small_data: Path, calls: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    origins = ["2013-12-10", "2013-12-20"]
    monkeypatch.setattr(task03, "QUICK_ORIGINS", origins)
    run("task03", "--quick", "--data", small_data)
    for origin, (_, earlier, quarter, *_) in zip(origins, calls[:-1], strict=True):
        assert earlier.times[-1] == pd.Timestamp(origin) - pd.Timedelta(minutes=15)
        assert quarter.times[0] == pd.Timestamp(origin)
        assert quarter.times[-1] == pd.Timestamp("2013-12-31 23:45")


def test_origins_are_three_years_whose_last_quarters_validate() -> None:
    frame = electricity.synthetic_curve("train").astype({"consumption": "float32"})
    samples = task03.make_samples(frame)
    for year, origin in zip((2011, 2012, 2013), task03.ORIGINS, strict=True):
        _, quarter = task03.split_at(samples, origin)
        assert str(quarter.times[0]) == f"{year}-10-01 00:00:00"
        assert str(quarter.times[-1]) == f"{year}-12-31 23:45:00"


def test_test_year_is_predicted_once_by_models_of_all_training_years(
    run: Run, small_data: Path, calls: list
) -> None:
    run("task03", "--quick", "--data", small_data)
    assert [call[2].times[-1].year for call in calls] == [2013, 2014]
    _, all_years, test, *_ = calls[-1]
    assert str(all_years.times[-1]) == "2013-12-31 23:45:00"
    assert str(test.times[0]) == "2014-01-02 00:00:00"  # the first target of task 02
    readings = pd.read_csv(small_data / "electricity_test.csv")["consumption"]
    np.testing.assert_allclose(test.targets, readings[96:], rtol=1e-5)


def test_network_with_the_lowest_mean_validation_error_wins(
    run: Run, small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = {  # in validation at three origins, and in the test
        task03.LAST_READING: [0.01, 0.01, 0.01, 0.5],  # not a network
        task03.CHANGE.name: [0.1, 0.1, 0.9, 0.3],
        task03.SHORT.name: [0.2, 0.3, 0.3, 0.4],  # best nowhere but in the mean
        task03.ONE_CYCLE.name: [0.8, 0.8, 0.2, 0.1],
    }
    turns = iter(range(4))

    def predict(_: Any, train: Samples, later: Samples, seeds: range, *rest: Any) -> Predictions:
        turn = next(turns)
        return {
            name: np.stack([later.targets + row[turn] ** 0.5] * len(seeds))
            for name, row in errors.items()
        }

    monkeypatch.setattr(task03, "QUICK_ORIGINS", ["2013-12-10", "2013-12-15", "2013-12-20"])
    monkeypatch.setattr(task03, "train_and_predict", predict)
    _, out, _ = run("task03", "--quick", "--data", small_data)
    assert f"Winner: {task03.SHORT.name}, average of 3 networks\n" in out
    assert float(only_line(out, "Test MSE: ")[10:]) == pytest.approx(0.4, rel=1e-5)


def test_seeds_are_the_given_one_and_for_the_test_the_next_two(
    run: Run, small_data: Path, calls: list
) -> None:
    run("task03", "--quick", "--data", small_data, "--seed", "5")
    assert [call[3] for call in calls] == [range(5, 6), range(5, 8)]


def test_quick_run_trains_on_the_last_readings(
    run: Run, small_data: Path, calls: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task03, "QUICK_READINGS", 5000)
    run("task03", "--quick", "--data", small_data)
    readings = pd.read_csv(small_data / "electricity_train.csv")["consumption"]
    _, all_readings, *_ = calls[-1]
    expected = readings[-(5000 - task03.HISTORY) :]
    np.testing.assert_allclose(all_readings.targets, expected, rtol=1e-5)


# --- The inputs ----------------------------------------------------------------------------------

EXPERIMENTS = [value for value in vars(task03).values() if isinstance(value, Experiment)]


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda experiment: experiment.name)
def test_no_input_comes_from_the_target_or_later(experiment: Experiment) -> None:
    changed = FRAME.copy()
    changed.iloc[task03.HISTORY + 500 :, 1] = 99.0  # the target of sample 500 and later readings
    samples = SAMPLES.part(slice(501)), task03.make_samples(changed).part(slice(501))
    for ours, theirs in zip(*(task03.make_inputs(s, experiment) for s in samples), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def counted_samples() -> Samples:
    """Return samples of the readings 0, 1, 2 and so on, from a Monday at midnight on."""
    times = pd.date_range("2012-03-05 00:00", periods=3000, freq="15min")
    frame = pd.DataFrame({"timestamp": times, "value": np.arange(3000, dtype="float32")})
    return task03.make_samples(frame)


def test_inputs_are_the_named_readings_the_oldest_first() -> None:
    experiment = Experiment("", readings=2, past_days=(1, 7), change=False)
    inputs, level = task03.make_inputs(counted_samples().part(slice(1)), experiment)
    target = 28 * 96 + 1  # position and value of the first target
    expected = [target - day * 96 + near for day in (7, 1) for near in (-1, 0, 1)]
    assert inputs.tolist() == [[*expected, target - 2, target - 1]]
    assert level.tolist() == [0]


def test_change_is_measured_from_the_last_reading_which_stays_an_input() -> None:
    inputs, level = task03.make_inputs(counted_samples().part(slice(1)), Experiment("", readings=3))
    assert inputs.tolist() == [[-2, -1, 28 * 96]]
    assert level.tolist() == [28 * 96]


def test_calendar_is_that_of_the_target() -> None:
    sample = counted_samples().part(slice(142, 143))  # Tuesday at 11:45
    inputs, _ = task03.make_inputs(sample, Experiment("", readings=1, calendar=True))
    hours = 11.75 / 24 * 2 * np.pi
    waves = [wave(k * hours) for k in (1, 2, 3, 4) for wave in (np.sin, np.cos)]
    np.testing.assert_allclose(inputs[0, 1:], [*waves, 0, 1, 0, 0, 0, 0, 0], atol=1e-6)


# --- The models ----------------------------------------------------------------------------------


def test_copying_baselines_repeat_the_readings_they_name() -> None:
    readings = FRAME["consumption"].reset_index(drop=True)
    predictions = task03.predict_baselines(SAMPLES, SAMPLES)
    for name, steps in (
        ("same time yesterday", 96),
        ("same time last week", 672),
        (task03.LAST_READING, 1),
    ):
        expected = readings.shift(steps)[task03.HISTORY :]
        np.testing.assert_array_equal(predictions[name][0], expected)


def test_level_is_subtracted_from_targets_and_added_to_predictions() -> None:
    higher = SAMPLES._replace(history=SAMPLES.history + 8, targets=SAMPLES.targets + 8)
    seeds, boosting = range(1), "gradient boosting, all inputs"
    found = task03.train_and_predict([task03.CHANGE], higher, higher, seeds, CPU)
    for name in (boosting, task03.CHANGE.name):
        error = np.mean((found[name] - higher.targets) ** 2)
        assert error < 1  # without the level it is about 64


def test_each_network_changes_one_thing() -> None:
    chain = [experiment for experiment in EXPERIMENTS if experiment is not task03.LSTM]
    for first, second in pairwise(chain):
        pairs = zip(vars(first).values(), vars(second).values(), strict=True)
        assert sum(left != right for left, right in pairs) == 2  # the name, and one more


def test_lstm_is_trained_as_in_task_02() -> None:
    lstm = task03.LSTM
    assert (lstm.epochs, lstm.batch_size, lstm.learning_rate) == (3, 32, 0.0001)
    inputs, _ = task03.make_inputs(SAMPLES.part(slice(5)), lstm)
    torch.manual_seed(0)
    found = lstm.network(96, 0.0)(torch.from_numpy(inputs))
    torch.manual_seed(0)
    windows, _ = common.create_sequences(FRAME, 96)
    last_days = torch.from_numpy(windows[task03.HISTORY - 96 :][:5].copy())
    torch.testing.assert_close(found, common.ConsumptionLSTM()(last_days.unsqueeze(-1)))


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


@pytest.mark.parametrize(
    "change",
    [{"dropout": 0.2}, {"one_cycle": True}, {"learning_rate": 1e-3}, {"batch_size": 256}],
    ids=str,
)
def test_each_setting_changes_the_trained_network(change: dict[str, Any]) -> None:
    (changed,), (same,) = train(task03.replace(task03.SHORT, **change)), train(task03.SHORT)
    assert not torch.equal(changed, same)


def test_one_cycle_ends_at_rate_zero_with_the_last_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def spy(optimizer: torch.optim.Optimizer, steps: int) -> Any:
        optimizers.append(optimizer)
        return one_cycle(optimizer, steps)

    one_cycle, optimizers = common.one_cycle, []
    monkeypatch.setattr(common, "one_cycle", spy)
    train(task03.ONE_CYCLE)
    assert optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


def test_network_depends_on_its_seed_and_not_on_those_trained_before_it() -> None:
    first, second = train(task03.DROPOUT, range(2))
    assert torch.equal(second, *train(task03.DROPOUT, range(1, 2)))
    assert not torch.equal(first, second)


@pytest.mark.slow
def test_several_processes_train_the_same_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    one_process = train(task03.DROPOUT, range(2))
    monkeypatch.setattr(task03, "cpu_count", lambda: 2)
    assert all(map(torch.equal, one_process, train(task03.DROPOUT, range(2))))


# --- The results ---------------------------------------------------------------------------------


def test_table_has_mean_and_deviation_of_the_networks_and_the_result_their_average(
    run: Run, small_data: Path, calls: list
) -> None:
    _, out, _ = run("task03", "--quick", "--data", small_data)
    *_, (_, _, test, *_, predictions) = calls
    errors = [np.mean((row - test.targets) ** 2) for row in predictions[task03.SHORT.name]]
    fraction = 1 - np.mean(errors) / np.var(test.targets)
    expected = f"{np.mean(errors):.4f} {np.std(errors, ddof=1):.4f}     {fraction:.4f}"
    assert only_line(out, f"{task03.SHORT.name}  ").endswith(expected)
    winner = re.search("Winner: (.*), average", out)[1]
    error = np.mean((predictions[winner].mean(0) - test.targets) ** 2)
    assert float(only_line(out, "Test MSE: ")[10:]) == pytest.approx(error, rel=1e-5)
    fraction = 1 - error / np.var(test.targets)
    assert float(only_line(out, "R-squared: ")[11:]) == pytest.approx(fraction, rel=1e-5)


def test_remarks_say_where_a_row_is_better_than_the_last_reading(
    capsys: pytest.CaptureFixture,
) -> None:
    names = [task03.LAST_READING, "better", "worse", "overfitted"]
    table = pd.DataFrame({"mean": [2, 1, 3, 1], "test MSE": [2, 1, 3, 3.0]}, names)
    task03.print_remarks(table, SAMPLES)
    err = capsys.readouterr().err
    assert only_line(err, " neither in ").endswith(": worse")
    assert only_line(err, " but not in ").endswith(": overfitted")


def test_remarks_measure_how_few_steps_hold_the_error(capsys: pytest.CaptureFixture) -> None:
    changes = np.array([10.0, -5, *[1] * 198])  # squares: 100 + 25 + 198
    test = Samples(np.zeros((200, 1)), pd.DatetimeIndex([]), changes)
    table = pd.DataFrame({"mean": [1], "test MSE": [1]}, [task03.LAST_READING])
    task03.print_remarks(table, test)
    err = capsys.readouterr().err
    assert f"1% of the steps of the test year hold {125 / 323:.0%} of the squared error" in err
    assert f"5% hold {133 / 323:.0%}" in err


def test_run_draws_two_pictures(
    run: Run, small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task03, "draw_week", DRAW_WEEK)
    monkeypatch.setattr(task03, "draw_table", DRAW_TABLE)
    run("task03", "--quick", "--data", small_data)
    pictures = sorted(path.name for path in common.RESULTS.iterdir())
    assert pictures == ["task03_table.png", "task03_week.png"]


# --- Wrong data ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("split", "rows", "problem"),
    [
        ("train", slice(-2600, None), "sequence_length is 2689; it must be "),
        ("train", slice(-3500, None), "must start four weeks before 2013-12-15 or earlier"),
        ("train", slice(-2), "the test data must start at 2013-12-31 23:30:00, after the others"),
        ("test", slice(1, None), "the test data must start at 2014-01-01 00:00:00"),
    ],
    ids=["short", "late", "ends early", "starts late"],
)
def test_data_that_do_not_fit_are_one_line(
    split: str, rows: slice, problem: str, run: Run, small_data: Path, tmp_path: Path
) -> None:
    for name in ("train", "test"):
        frame = pd.read_csv(small_data / f"electricity_{name}.csv")
        part = frame[rows] if name == split else frame
        part.to_csv(tmp_path / f"electricity_{name}.csv", index=False)
    code, out, err = run("task03", "--quick", "--data", tmp_path)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert problem in err


@pytest.mark.slow
def test_winner_on_the_recordings(
    recordings: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOKY_MAX_CPU_COUNT")
    _, out, _ = run("task03", "--data", recordings)
    assert float(only_line(out, "Test MSE: ")[10:]) <= 0.0240
    assert float(only_line(out, "R-squared: ")[11:]) >= 0.963
