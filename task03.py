"""Task 03: experiments towards a better model of the electricity consumption.

Read these first: `Experiment` and the list below it, `make_inputs`, then `main`.

The table compares baselines, the LSTM of task 02, MLPs (fully connected layers) and MLPs with GRUs
(recurrent layers). The change is the difference between a reading and the one before it, and most
networks predict it. After "MLP on the change", each row changes one thing in the row above.

The customer's habits change, so one period is not enough for validation. There are three: the last
quarters of 2011, 2012 and 2013. For each of them, every model is trained on all readings before it.

The winner is the network with the lowest mean of its three errors. Then every model is trained
again on 2011 to 2013, each network from three seeds, and tested on 2014. The test year is used once
per row, after every choice is made. But the author had seen test results of earlier versions of
this script. R-squared is the fraction of the variance that is predicted.

    python task03.py
    python task03.py --data DIR      with electricity_train.csv and electricity_test.csv in DIR
    python task03.py --quick         a smoke run in a minute, on half a year

Ten minutes on two CPU cores. Two pictures are saved in results/. On the recordings expect a test
MSE of 0.0237 and an R-squared of 0.963, of the average of the winner's three networks. Repeating
the last reading has an MSE of 0.040.
"""

import warnings
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, cpu_count, delayed
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression
from sklearn.metrics import mean_squared_error, r2_score
from torch import nn
from torch.utils.data import TensorDataset
from tqdm import tqdm

import common
import electricity
import task02

DAY = electricity.READINGS_PER_DAY
HISTORY = 28 * DAY + 1  # readings before a target: from just before the same time 28 days ago
ORIGINS = ["2011-10-01", "2012-10-01", "2013-10-01"]  # training ends and validation begins
VALIDATION = pd.Timedelta(days=92)  # October to December
SEEDS = 3  # networks of each kind that are tested: --seed, --seed + 1 and so on
QUICK_READINGS, QUICK_EPOCHS, QUICK_ORIGINS = 20_000, 2, ["2013-12-15"]  # of --quick
PAST_DAYS = (1, 2, 3, 4, 5, 6, 7, 14, 21, 28)  # days back; the customer's habits recur
RECENT = 8  # readings before the target: two hours
HIDDEN_SIZE = 128  # units of each of the two hidden layers of an MLP
GRU_SIZE = 32  # units of a GRU
MAX_WORKERS = 4  # processes that train at the same time; each takes half a gigabyte
LAST_READING = "last reading (persistence)"  # the row that every other row should beat


class Samples(NamedTuple):
    """Readings to predict, each with the readings before it and its time."""

    history: np.ndarray  # (rows, HISTORY); the last column is the reading before the target
    times: pd.DatetimeIndex  # (rows,)
    targets: np.ndarray  # (rows,)

    def part(self, rows: slice) -> "Samples":
        """Return some of the samples."""
        return Samples(*(column[rows] for column in self))


def make_samples(frame: pd.DataFrame) -> Samples:
    """Return a sample for each reading that has `HISTORY` readings before it."""
    history, targets = common.create_sequences(frame, HISTORY)
    return Samples(history, pd.DatetimeIndex(frame["timestamp"].iloc[HISTORY:]), targets)


def split_at(samples: Samples, origin: str) -> tuple[Samples, Samples]:
    """Return the samples before a date, for training, and those of the 92 days from it."""
    start = pd.Timestamp(origin)
    first, end = samples.times.searchsorted([start, start + VALIDATION])
    if not 0 < first < end:
        raise common.ScriptError(f"no training data around {origin}; change ORIGINS in task03.py")
    return samples.part(slice(first)), samples.part(slice(first, end))


def task02_lstm(input_size: int, dropout: float) -> nn.Module:
    """Return the LSTM of task 02: (batch, inputs) to (batch,). It has no dropout."""
    return nn.Sequential(nn.Unflatten(1, (input_size, 1)), common.ConsumptionLSTM())


def mlp(input_size: int, dropout: float) -> nn.Module:
    """Return a network with two hidden layers: (batch, inputs) to (batch,)."""
    layers: list[nn.Module] = []
    for width in (input_size, HIDDEN_SIZE):  # (batch, width) to (batch, HIDDEN_SIZE)
        layers += [nn.Linear(width, HIDDEN_SIZE), nn.SiLU(), nn.Dropout(dropout)]
    layers += [nn.Linear(HIDDEN_SIZE, 1), nn.Flatten(0)]  # (batch, 1), (batch,)
    return nn.Sequential(*layers)


class MLPWithGRUs(nn.Module):
    """An MLP that also gets the last hidden states of GRUs: (batch, inputs) to (batch,).

    A GRU is a recurrent layer like an LSTM, with one state instead of two. The first GRU reads the
    past days in order. With `hours`, a second reads the last two hours. The inputs must be those of
    the experiment `SHORT` below: 30 readings of past days, 8 recent ones, and the calendar.
    """

    def __init__(self, input_size: int, dropout: float, hours: bool = False) -> None:
        super().__init__()
        self.days_gru = nn.GRU(3, GRU_SIZE, batch_first=True)
        self.hours_gru = nn.GRU(1, GRU_SIZE, batch_first=True) if hours else None
        self.mlp = mlp(input_size + GRU_SIZE * (2 if hours else 1), dropout)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Predict from the readings of the past days, then the recent ones, then the calendar."""
        start = 3 * len(PAST_DAYS)  # three readings of each past day
        days = inputs[:, :start].unflatten(1, (-1, 3))  # (batch, day, 3), the oldest day first
        _, state = self.days_gru(days)  # (1, batch, GRU_SIZE)
        columns = [inputs, state[0]]  # (batch, inputs), (batch, GRU_SIZE)
        if self.hours_gru is not None:
            changes = inputs[:, start : start + RECENT - 1]  # differences from the last reading
            changes = nn.functional.pad(changes, (0, 1))  # (batch, RECENT); the last one's is 0
            _, state = self.hours_gru(changes.unsqueeze(-1))  # (1, batch, GRU_SIZE)
            columns.append(state[0])
        return self.mlp(torch.cat(columns, dim=1))


@dataclass(frozen=True)
class Experiment:
    """A network of the table: its inputs and its training."""

    name: str  # the row of the table
    network: Callable[[int, float], nn.Module] = mlp  # called with number of inputs and dropout
    readings: int = DAY  # number of readings before the target that are inputs
    past_days: tuple[int, ...] = ()  # days back of which three readings around the time are inputs
    calendar: bool = False  # whether the time of day and the day of the week are inputs
    change: bool = True  # whether inputs and target are differences from the last reading
    dropout: float = 0.0  # probability that a hidden unit is dropped during training
    one_cycle: bool = False  # whether the learning rate rises and falls, or is constant
    epochs: int = 16
    batch_size: int = 512
    learning_rate: float = 4e-3


LSTM = Experiment(
    "LSTM of task 02",
    task02_lstm,
    change=False,
    epochs=task02.EPOCHS,
    batch_size=task02.BATCH_SIZE,
    learning_rate=task02.LEARNING_RATE,
)
CHANGE = Experiment("MLP on the change")
# From here on, each experiment is a copy of the one before with one field changed. To try your own,
# add another copy, and list it in NETWORKS.
CALENDAR = replace(CHANGE, name="+ calendar", calendar=True)
WEEK = replace(CALENDAR, name="+ yesterday, last week", past_days=(1, 7))
TEN_DAYS = replace(WEEK, name="+ ten past days", past_days=PAST_DAYS)
SHORT = replace(TEN_DAYS, name="+ only 2 hours of readings", readings=RECENT)
DROPOUT = replace(SHORT, name="+ dropout", dropout=0.2)
ONE_CYCLE = replace(DROPOUT, name="+ one-cycle schedule", one_cycle=True)
DAYS_GRU = replace(ONE_CYCLE, name="+ GRU over the ten days", network=MLPWithGRUs)
TWO_GRUS = replace(
    DAYS_GRU, name="+ GRU over the 2 hours", network=partial(MLPWithGRUs, hours=True)
)
NETWORKS = [LSTM, CHANGE, CALENDAR, WEEK, TEN_DAYS, SHORT, DROPOUT, ONE_CYCLE, DAYS_GRU, TWO_GRUS]


def make_inputs(samples: Samples, experiment: Experiment) -> tuple[np.ndarray, np.ndarray]:
    """Return the inputs of a network, and the level that is added to its outputs.

    They are float32, (rows, inputs) and (rows,). The level is the last reading if
    `experiment.change`, else 0.
    """
    # the target has the offset 0, so the last column of the history has the offset -1
    offsets = set(range(-experiment.readings, 0))
    # around the same time on each past day: for day 1 the offsets -97, -96 and -95
    offsets |= {near - DAY * day for day in experiment.past_days for near in (-1, 0, 1)}
    inputs = samples.history[:, sorted(offsets)]  # (rows, offsets), a copy, the oldest first
    last = inputs[:, -1].copy()  # (rows,)
    level = last if experiment.change else np.zeros_like(last)
    inputs[:, :-1] -= level[:, None]  # the last reading itself stays an input
    if experiment.calendar:
        minutes = (samples.times.hour * 60 + samples.times.minute).to_numpy()  # (rows,)
        angle = 2 * np.pi * minutes / 1440
        # on a circle 23:45 is near 00:00; faster waves allow several peaks a day
        waves = [wave(k * angle) for k in (1, 2, 3, 4) for wave in (np.sin, np.cos)]  # (rows,) each
        weekday = np.eye(7)[samples.times.day_of_week]  # (rows, 7)
        inputs = np.column_stack([inputs, *waves, weekday]).astype("float32")
    return inputs, level


def train_network(
    experiment: Experiment, inputs: np.ndarray, targets: np.ndarray, seed: int, device: torch.device
) -> nn.Module:
    """Train a network with AdamW and the loop of task 02: (rows, inputs) to (rows,)."""
    torch.set_num_threads(1)  # the matrices are too small to be worth sharing between threads
    common.seed_everything(seed)
    network = experiment.network(inputs.shape[1], experiment.dropout).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), experiment.learning_rate, fused=True)
    dataset = TensorDataset(*(torch.from_numpy(array).to(device) for array in (inputs, targets)))
    loader = task02.make_batches(dataset, experiment.batch_size)
    steps = experiment.epochs * len(loader)
    schedule = common.one_cycle(optimizer, steps) if experiment.one_cycle else None
    for _ in range(experiment.epochs):
        task02.train_epoch(network, loader, optimizer, schedule)
    return network


def predict_baselines(train: Samples, later: Samples) -> dict[str, np.ndarray]:
    """Fit the models that are not networks, and return their predictions: (1, rows) each."""
    history = later.history  # (rows, HISTORY)
    # a weighted sum of the last 96 readings
    autoregression = LinearRegression().fit(train.history[:, -DAY:], train.targets)
    # many small decision trees, each of which corrects those before it
    boosting = HistGradientBoostingRegressor(
        max_iter=300, learning_rate=0.05, early_stopping=False, random_state=0
    )
    inputs, level = make_inputs(train, SHORT)
    boosting.fit(inputs, train.targets - level)
    inputs, level = make_inputs(later, SHORT)
    return {  # None adds the axis of the models
        "same time yesterday": history[None, :, -DAY],
        "same time last week": history[None, :, -7 * DAY],
        LAST_READING: history[None, :, -1],
        "AR(96), least squares": autoregression.predict(history[:, -DAY:])[None],
        "gradient boosting, all inputs": (level + boosting.predict(inputs))[None],
    }


def train_and_predict(
    experiments: list[Experiment],
    train: Samples,
    later: Samples,
    seeds: range,
    device: torch.device,
) -> dict[str, np.ndarray]:
    """Train every row of the table, and return its predictions of `later`: (models, rows) each.

    Several networks are trained at a time, each in a process and on one core. A plain loop would
    give the same networks.
    """

    def jobs() -> Iterator[tuple]:
        for experiment in experiments:
            inputs, level = make_inputs(train, experiment)
            targets = train.targets - level
            for seed in seeds:  # `delayed` stores a call, which a process makes later
                yield delayed(train_network)(experiment, inputs, targets, seed, device)

    warnings.filterwarnings("ignore", module="joblib.parallel")  # unused results, after Ctrl-C
    workers = min(MAX_WORKERS, cpu_count()) if device.type == "cpu" else 1
    # calls the jobs in processes, and returns the networks in the same order;
    # max_nbytes: the inputs are sent to the processes, not written to files
    trained = Parallel(workers, return_as="generator", max_nbytes=None)(jobs())
    progress, total = f"trained until {train.times[-1]:%B %Y}", len(experiments) * len(seeds)
    try:
        # `list` waits for the end of the training
        networks = list(tqdm(trained, progress, total, unit=" networks"))
    except BrokenProcessPool as error:
        message = "a process of the training was killed, perhaps for lack of memory"
        raise common.ScriptError(message) from error

    predictions = predict_baselines(train, later)
    for number, experiment in enumerate(experiments):
        inputs, level = make_inputs(later, experiment)  # (rows, inputs), (rows,)
        rows = torch.from_numpy(inputs).to(device)
        of_seeds = networks[number * len(seeds) : (number + 1) * len(seeds)]
        outputs = [task02.predict(network, rows).cpu().numpy() for network in of_seeds]
        predictions[experiment.name] = level + np.stack(outputs)
    return predictions


def print_remarks(table: pd.DataFrame, test: Samples) -> None:
    """Print how much of the error of the last reading a few readings cause, and the worse rows."""
    errors = np.sort((test.targets - test.history[:, -1]) ** 2)[::-1]  # (rows,), the largest first
    first, second = (errors[: len(errors) // n].sum() / errors.sum() for n in (100, 20))  # 1%, 5%
    common.note(
        f"the largest 1% of the errors of the last reading in the test year make up {first:.0%} of "
        f"its squared error, the largest 5% {second:.0%}"
    )
    for where, column in (("validation", "mean"), ("the test year", "test MSE")):
        worse = table.index[table[column] > table[column][LAST_READING]]
        common.note(f"worse than the last reading in {where}: {'; '.join(worse) or '-'}")


def draw_week_and_months(
    data: pd.DataFrame, test: Samples, predictions: np.ndarray, origins: list[str]
) -> None:
    """Draw a week of the test year, and the monthly error of the last reading in all years."""
    middle = len(test.times) // 2
    week = slice(middle, middle + 7 * DAY)
    figure = Figure(figsize=(11, 7), layout="constrained")
    readings, errors, months = figure.subplots(3, height_ratios=[3, 1, 1.6])
    readings.set_title("A week of the test year, predicted 15 minutes ahead", loc="left")
    readings.set_ylabel("consumption\n(standard deviations)")
    readings.plot(test.times[week], test.targets[week], color="black", label="recorded")
    readings.plot(test.times[week], predictions[week], color="tab:orange", label="predicted")
    readings.tick_params(labelbottom=False)
    errors.sharex(readings)
    errors.set_ylabel("error")
    errors.plot(test.times[week], predictions[week] - test.targets[week], color="tab:red")
    months.set_title("The habits change: monthly error of repeating the last reading", loc="left")
    months.set_ylabel("MSE")
    monthly = (data.set_index("timestamp")["consumption"].diff() ** 2).resample("MS").mean()
    purpose = pd.Series("training", monthly.index)
    for origin in origins:
        first = pd.Timestamp(origin)
        last = first + VALIDATION - pd.Timedelta(days=1)
        purpose[first.replace(day=1) : last] = "validation"
    purpose[test.times[0].replace(day=1).normalize() :] = "test"
    for name, color in (("training", "silver"), ("validation", "tab:blue"), ("test", "tab:orange")):
        shown = purpose == name
        months.bar(monthly.index[shown], monthly[shown], 25, align="edge", color=color, label=name)
    for axes in (readings, months):
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False)
    common.save_figure(figure, common.RESULTS / "task03_week.png")


def draw_table(table: pd.DataFrame) -> None:
    """Draw the test errors as bars, and the error of the last reading as a line."""
    errors = table["test MSE"]
    figure = Figure(figsize=(9, 0.35 * len(table) + 1.2), layout="constrained")
    axes = figure.subplots()
    axes.set(xscale="log", xlim=(0.8 * errors.min(), 1.2 * errors.max()))
    names = [f"{name}   {error:.4f}" for name, error in errors.items()]
    axes.barh(names, errors, xerr=table["±"].fillna(0), ecolor="black")
    axes.axvline(errors[LAST_READING], color="black", linestyle="--", label=LAST_READING)
    axes.set_xlabel("test MSE (squared standard deviations, logarithmic scale)")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.invert_yaxis()
    axes.legend(loc="lower right")
    common.save_figure(figure, common.RESULTS / "task03_table.png")


def main(argv: list[str] | None = None) -> int:
    """Choose the winner on validation data, train every row on all years, and test it once."""
    parser = common.argument_parser(__doc__, "--data", "--seed", "--device", "--quick")
    arguments = parser.parse_args(argv)
    device = common.select_device(arguments.device)
    seeds = range(arguments.seed, arguments.seed + SEEDS)
    folder = electricity.find_recordings(arguments.data)
    train_frame, test_frame = (electricity.load(split, folder) for split in ("train", "test"))
    experiments, origins = NETWORKS, ORIGINS
    if arguments.quick:
        train_frame, origins = train_frame[-QUICK_READINGS:], QUICK_ORIGINS
        experiments = [replace(experiment, epochs=QUICK_EPOCHS) for experiment in NETWORKS]
    expected_start = train_frame["timestamp"].iloc[-1] + pd.Timedelta(minutes=15)
    if test_frame["timestamp"].iloc[0] != expected_start:
        raise common.ScriptError(
            f"the test data must start at {expected_start}, right after the training data"
        )
    with common.errors_in(folder):  # fewer than `HISTORY` readings
        train = make_samples(train_frame)
    torch.set_num_threads(1)  # so that the digits do not depend on the number of cores

    # 1. At each origin, train on everything before it, and validate on the quarter after it.
    # One network of each kind is enough here: the mean of three quarters counts.
    errors = {}
    splits = {origin: split_at(train, origin) for origin in origins}
    for origin, (earlier, quarter) in splits.items():
        predictions = train_and_predict(experiments, earlier, quarter, seeds[:1], device)
        errors[origin] = {
            name: mean_squared_error(quarter.targets, predicted[0])
            for name, predicted in predictions.items()
        }
    # 2. The winner is the network with the lowest mean error.
    table = pd.DataFrame(errors)  # (rows, origins)
    table["mean"] = table.mean(axis=1)
    winner = table.loc[[experiment.name for experiment in experiments], "mean"].idxmin()

    # 3. Every choice is made. Train every row again, on all years, and use the test year once.
    data = pd.concat([train_frame, test_frame], ignore_index=True)
    count = len(test_frame) - DAY  # as in task 02, the first day is only an input
    test = make_samples(data).part(slice(-count, None))
    predictions = train_and_predict(experiments, train, test, seeds, device)
    for name, predicted in predictions.items():  # (networks, rows)
        test_errors = pd.Series([mean_squared_error(test.targets, row) for row in predicted])
        table.loc[name, "test MSE"] = test_errors.mean()
        table.loc[name, "±"] = test_errors.std()
        table.loc[name, "R-squared"] = np.mean([r2_score(test.targets, row) for row in predicted])
    print(table.to_string(float_format="{:.4f}".format, na_rep="-"))
    average = predictions[winner].mean(0)  # (rows,), of the networks
    print(f"Winner: {winner}, average of {len(seeds)} networks")
    print(f"Test MSE: {mean_squared_error(test.targets, average)}")
    print(f"R-squared: {common.finite(r2_score(test.targets, average), 'R-squared')}")
    print_remarks(table, test)
    draw_week_and_months(data, test, average, origins)
    draw_table(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
