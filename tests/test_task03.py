"""Task 03: inputs, protocol, seeds, saved networks and forecasts of the experiments."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import common
import task03
from task03 import Experiment, Forecaster, Samples

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import CPU

FRAME = common.synthetic_electricity("train")[-4000:].astype({"consumption": "float32"})
SAMPLES = task03.make_samples(FRAME)
NETWORKS = (task03.VALUE, task03.SHORT, task03.ONE_CYCLE)  # enough to choose from
few_experiments = patch.multiple(task03, BASELINES=(task03.PERSISTENCE,), NETWORKS=NETWORKS)


def fit(experiment: Experiment, seeds: range = range(1)) -> Forecaster:
    return next(task03.fit([experiment], SAMPLES, seeds, CPU, quick=True))


def weights(forecaster: Forecaster) -> list[torch.Tensor]:
    """Return the weights of each network as one vector."""
    return [torch.nn.utils.parameters_to_vector(net.parameters()) for net in forecaster.models]


@pytest.mark.parametrize("experiment", task03.BASELINES + task03.NETWORKS, ids=lambda e: e.name)
def test_no_input_comes_from_the_target_or_later(experiment: Experiment) -> None:
    changed = FRAME.copy()
    changed.iloc[task03.HISTORY + 500 :, 1] = 99.0  # the target of sample 500 and later readings
    samples = SAMPLES.part(slice(501)), task03.make_samples(changed).part(slice(501))
    for ours, theirs in zip(*(task03.make_inputs(s, experiment) for s in samples), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_inputs_are_the_named_readings_and_the_time_of_the_target() -> None:
    times = pd.date_range("2012-03-05 00:00", periods=3000, freq="15min")  # a Monday
    frame = pd.DataFrame({"timestamp": times, "value": np.arange(3000, dtype="float32")})
    samples = task03.make_samples(frame).part(slice(1))
    target = 28 * 96 + 1  # position and value of the first target, on a Monday at 00:15
    inputs, base = task03.make_inputs(samples, Experiment("", readings=2, past_days=(1, 7)))
    expected = [target - day * 96 + near for day in (7, 1) for near in (-1, 0, 1)]
    assert inputs.tolist() == [[*expected, target - 2, target - 1]]
    assert base.tolist() == [0]
    experiment = Experiment("", readings=2, change=True, calendar=True)
    inputs, base = task03.make_inputs(samples, experiment)
    angles = [k * 2 * np.pi / 96 for k in (1, 2, 3, 4)]
    calendar = [*(wave(a) for a in angles for wave in (np.sin, np.cos)), 1, 0, 0, 0, 0, 0, 0]
    np.testing.assert_allclose(inputs[0], [-1, target - 1, *calendar], atol=1e-6)
    assert base.tolist() == [target - 1]
    later = task03.make_samples(frame).part(slice(142, 143))  # Tuesday at 11:45
    hours = 11.75 / 24 * 2 * np.pi
    calendar = [*(wave(k * hours) for k in (1, 2, 3, 4) for wave in (np.sin, np.cos))]
    found = task03.make_inputs(later, experiment)[0][0, 2:]
    np.testing.assert_allclose(found, [*calendar, 0, 1, 0, 0, 0, 0, 0], atol=1e-6)


def test_base_is_subtracted_from_targets_and_added_to_predictions() -> None:
    autoregression = task03.BASELINES[3]  # least squares fit the same function with any base
    on_change = fit(task03.replace(autoregression, change=True)).predict(SAMPLES)
    np.testing.assert_allclose(on_change, fit(autoregression).predict(SAMPLES), atol=1e-3)


@few_experiments
def test_latest_15_percent_validate_and_train_only_the_winner() -> None:
    validation_rows = int(0.15 * len(SAMPLES.targets))
    changed = FRAME.copy()
    changed.iloc[-validation_rows:, 1] *= -1
    (forecasters, winner, table), (others, _, other_table) = (
        task03.run_experiments(task03.make_samples(each), range(1), CPU, quick=True)
        for each in (FRAME, changed)
    )
    for ours, theirs in zip(forecasters[1:], others[1:], strict=True):
        assert torch.equal(weights(ours)[0], weights(theirs)[0])
    assert (table["validation MSE"] != other_table["validation MSE"]).all()
    persistence = (FRAME["consumption"].diff()[-validation_rows:] ** 2).mean()
    assert table["validation MSE"][0] == pytest.approx([persistence], rel=1e-5)
    before = forecasters[1 + NETWORKS.index(winner.experiment)]
    assert not torch.equal(weights(winner)[0], weights(before)[0])


@few_experiments
def test_network_with_the_lowest_mean_validation_error_wins() -> None:
    errors = {task03.PERSISTENCE: [0.0, 0.0], task03.VALUE: [0.1, 0.6]}  # of two seeds
    errors |= {task03.SHORT: [0.3, 0.3], task03.ONE_CYCLE: [0.4, 0.4]}

    def predict_each(forecaster: Forecaster, samples: Samples) -> np.ndarray:
        return np.array([samples.targets + e**0.5 for e in errors[forecaster.experiment]])

    with patch.object(Forecaster, "predict_each", predict_each):
        _, winner, _ = task03.run_experiments(SAMPLES, range(2), CPU, quick=True)
    assert winner.experiment == task03.SHORT


def table_errors(output: str) -> list[list[str]]:
    """Return the errors in each row of the table: validation, except the winner's; test; R²."""
    rows = output.partition("Winner: ")[0].splitlines()[1:]
    return [re.findall(r"\d\.\d{4}(?: ± \d\.\d{4})?", row) for row in rows]


@few_experiments
def test_other_test_data_change_neither_the_winner_nor_validation_errors(
    small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    test = pd.read_csv(small_data / "electricity_test.csv")
    test["consumption"] = test["consumption"].sample(frac=1, random_state=0).to_numpy()
    test.to_csv(tmp_path / "electricity_test.csv", index=False)
    (tmp_path / "electricity_train.csv").symlink_to(small_data / "electricity_train.csv")
    tables, winners = [], []
    for folder in (small_data, tmp_path):
        options = ["--quick", "--data", str(folder), "--save", str(tmp_path / "winner.pt")]
        assert task03.main(options) == 0
        tables.append(table_errors(capsys.readouterr().out))
        winners.append(task03.load_forecaster(tmp_path / "winner.pt", CPU))
    for ours, theirs in zip(*tables, strict=True):
        assert ours[:-2] == theirs[:-2]
        assert ours[-2] != theirs[-2]
    assert winners[0].experiment == winners[1].experiment
    assert all(map(torch.equal, *map(weights, winners)))


@few_experiments
def test_whole_run_prints_errors_of_three_networks_and_draws_pictures(
    small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    options, saved = ["--data", str(small_data), "--forecast", "3"], str(tmp_path / "winner.pt")
    assert task03.main([*options, "--quick", "--save", saved]) == 0
    output = capsys.readouterr().out
    persistence, *networks, last = table_errors(output)
    test = pd.read_csv(small_data / "electricity_test.csv")["consumption"]
    error, variance = (test.diff()[96:] ** 2).mean(), test[96:].var(ddof=0)
    assert persistence[1:] == [f"{error:.4f}", f"{1 - error / variance:.4f}"]  # from the second day
    assert [[" ± " in cell for cell in row] for row in networks] == [[True, True, False]] * 3
    winner = task03.load_forecaster(tmp_path / "winner.pt", CPU)
    assert len({tuple(network.tolist()) for network in weights(winner)}) == 3
    assert f"Winner: {winner.experiment.name}, average of 3 networks\n" in output
    data = pd.concat([common.load_electricity(split, small_data) for split in ("train", "test")])
    samples = task03.make_samples(data).part(slice(96 - 1000, None))
    errors = [((each - test[96:]) ** 2).mean() for each in winner.predict_each(samples)]
    assert last[0] == task03.with_deviation(errors)  # of each network, not of their average
    error = ((winner.predict(samples) - test[96:]) ** 2).mean()
    printed = re.findall(r"^(?:Test MSE|R-squared): (.*)", output, re.M)
    assert list(map(float, printed)) == pytest.approx([error, 1 - error / variance], rel=1e-5)
    assert np.allclose(winner.predict(SAMPLES), sum(winner.predict_each(SAMPLES)) / 3)
    pictures = sorted(path.name for path in common.RESULTS.iterdir())
    assert pictures == ["task03_table.png", "task03_week.png"]
    forecasts = re.findall(r"^(\S+ \S+)  +-?\d\.\d{4}$", output, re.M)
    assert forecasts == [f"2014-01-11 10:{minute}:00" for minute in ("00", "15", "30")]
    assert task03.main([*options, "--load", saved]) == 0
    assert capsys.readouterr().out == output[output.index("Test MSE") :]


def test_several_processes_train_the_same_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    one_process = weights(fit(task03.DROPOUT, range(2)))
    monkeypatch.setattr(task03, "cpu_count", lambda: 2)
    assert all(map(torch.equal, one_process, weights(fit(task03.DROPOUT, range(2)))))


def test_options_set_the_seeds_and_quick_keeps_the_last_readings(small_data: Path) -> None:
    readings = common.load_electricity("train", small_data)["consumption"]
    options = ["--quick", "--data", str(small_data), "--seed", "5", "--seeds", "2"]
    with (
        patch.object(task03, "QUICK_READINGS", task03.HISTORY + 500),
        patch.object(task03, "run_experiments", side_effect=KeyboardInterrupt) as run,
    ):
        assert common.run(lambda: task03.main(options)) == 130
    samples, seeds, *_ = run.call_args.args
    assert seeds == range(5, 7)
    np.testing.assert_array_equal(samples.targets, readings[-500:])


def test_forecasts_are_fed_back_as_readings() -> None:
    forecaster, starts = fit(task03.TEN_DAYS), np.array([3, 700])
    paths = task03.roll_forward(forecaster, SAMPLES.past[starts], SAMPLES.times[starts], 5)
    for start, path in zip(starts, paths, strict=True):
        readings = SAMPLES.past[start].tolist()
        for step, found in enumerate(path):
            past = np.array([readings[-task03.HISTORY :]], dtype="float32")
            times = SAMPLES.times[[start]] + pd.Timedelta(minutes=15 * step)
            readings.append(forecaster.predict(Samples(past, times, np.zeros(1)))[0])
            assert found == pytest.approx(readings[-1], abs=1e-5)


def test_other_files_are_neither_loaded_nor_overwritten(small_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "winner.pt"
    task03.save_forecaster(path, fit(task03.VALUE))
    contents = [b"years of work", path.read_bytes()[:5000]]
    for edit in ({"experiment": "of another version"}, {"networks": [{"0.weight": torch.eye(2)}]}):
        common.save_tensors(path, {"experiment": task03.VALUE.name, "networks": []} | edit)
        contents.append(path.read_bytes())
    for content in contents:
        path.write_bytes(content)
        for option in ("--save", "--load"):
            with pytest.raises(common.ScriptError, match=r"winner\.pt: not a file written by --sa"):
                task03.main(["--data", str(small_data), option, str(path)])
        assert path.read_bytes() == content


def test_short_or_separated_splits_are_an_error(small_data: Path) -> None:
    train, test = (common.load_electricity(split, small_data) for split in ("train", "test"))
    for splits, message in (
        ((train[:3000], test), "3,000 rows for training .* at least 5,378 and 288 are needed"),
        ((train, test[:200]), "200 for testing"),
        ((train, test[1:]), "must start 15 minutes after the training data"),
    ):
        with pytest.raises(common.ScriptError, match=message):
            task03.check_splits(*splits)


@pytest.mark.slow
def test_winner_on_the_recordings(recordings: Path, capsys: pytest.CaptureFixture) -> None:
    assert task03.main(["--data", str(recordings)]) == 0
    output = capsys.readouterr().out
    assert float(re.search(r"^Test MSE: (.*)", output, re.M)[1]) <= 0.0240
    assert float(re.search(r"^R-squared: (.*)", output, re.M)[1]) >= 0.963


def test_grus_read_the_last_two_hours_and_the_past_days() -> None:
    past = torch.from_numpy(SAMPLES.past[:5].copy())
    changes = past - past[:, -1:]  # the last one is 0
    days = sorted(task03.PAST_DAYS, reverse=True)
    offsets = [near - 96 * day for day in days for near in (-1, 0, 1)]
    for experiment in task03.NETWORKS[-3:]:
        inputs = torch.from_numpy(task03.make_inputs(SAMPLES.part(slice(5)), experiment)[0])
        network: Any = experiment.model(inputs.shape[1], 0.0)
        columns = [inputs]
        if "days" not in experiment.name:
            columns.append(network.hours_gru(changes[:, -8:, None])[1][0])
        if "hours" not in experiment.name:
            columns.append(network.days_gru(changes[:, offsets].view(5, 10, 3))[1][0])
        expected = network.mlp(torch.cat(columns, dim=1))
        torch.testing.assert_close(network(inputs), expected)


def test_each_setting_changes_the_trained_network() -> None:
    changes = (
        {},
        {"dropout": 0.2},
        {"one_cycle": True},
        {"learning_rate": 1e-3},
        {"batch_size": 256},
    )
    trained = [fit(task03.replace(task03.SHORT, **change)) for change in changes]
    assert len({weights(each)[0].sum().item() for each in trained}) == len(changes)


def test_one_cycle_ends_at_rate_zero_with_the_last_step() -> None:
    with patch.object(common, "one_cycle", wraps=common.one_cycle) as one_cycle:
        fit(task03.ONE_CYCLE)
    (group,) = one_cycle.call_args.args[0].param_groups
    assert group["lr"] == pytest.approx(0, abs=1e-12)


def test_each_network_changes_one_thing() -> None:
    for first, second in pairwise(task03.NETWORKS[:8]):
        pairs = zip(vars(first).values(), vars(second).values(), strict=True)
        assert sum(left != right for left, right in pairs) == 2  # the name, and one more


@few_experiments
def test_winner_is_trained_on_all_samples_from_the_given_seeds() -> None:
    _, winner, _ = task03.run_experiments(SAMPLES, range(7, 8), CPU, quick=True)
    expected = fit(winner.experiment, range(7, 8))
    assert torch.equal(weights(winner)[0], weights(expected)[0])


def test_forecast_continues_the_data(capsys: pytest.CaptureFixture) -> None:
    forecaster = fit(task03.TEN_DAYS)
    task03.print_forecast(forecaster, FRAME[:-1], SAMPLES, 1)
    found = capsys.readouterr().out.splitlines()[0]
    last = SAMPLES.part(slice(-1, None))
    assert found == f"{last.times[0]}  {forecaster.predict(last)[0]:7.4f}"
