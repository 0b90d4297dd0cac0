"""Task 03: experiments towards a better model of the electricity consumption.

The table compares baselines, the LSTM of task 02, and networks, most of which change one thing.
Every network is trained from three seeds; the table gives mean and standard deviation of their
errors. The winner has the lowest mean error on the last 15 % of the training years. It is trained
again on 2011 to 2013, and its three networks are averaged. The test year 2014 is used once per row,
after every choice is made.

The last four networks are recurrent. One is the LSTM of task 02, trained on changes with another
schedule. The others add GRUs to the best MLP. A GRU reads the last two hours, or the past days.

    python task03.py                             the table, and two pictures in results/
    python task03.py --seeds 1                   one network of each kind, in a third of the time
    python task03.py --quick                     a smoke run in a minute, on half a year
    python task03.py --save best.pt              also save the winner
    python task03.py --load best.pt --forecast 96      forecast the day after the data

Nine minutes on two CPU cores. On the recordings expect a test MSE of 0.0235 and an R-squared of
0.964 for the winner. Repeating the last reading has an MSE of 0.040.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import common
import task02

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, cpu_count, delayed
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from sklearn.base import BaseEstimator, clone
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression
from sklearn.metrics import mean_squared_error, r2_score
from torch import nn
from torch.utils.data import TensorDataset
from tqdm import tqdm

DAY = common.READINGS_PER_DAY
HISTORY = 28 * DAY + 1  # readings before a target that a model may use: four weeks
VALIDATION_FRACTION = 0.15  # of the training samples, the latest: July to December 2013
PAST_DAYS = (1, 2, 3, 4, 5, 6, 7, 14, 21, 28)  # days back; the customer's habits recur
RECENT = 8  # readings before the target: two hours
HIDDEN_SIZE = 128  # units of each of the two hidden layers of an MLP
GRU_SIZE = 32  # units of a GRU
HORIZONS = (1, 4, 24, 96)  # quarter-hours ahead at which --forecast measures the error
MAX_WORKERS = 4  # processes that train at the same time; each takes half a gigabyte
SEEDS = 3  # networks of each experiment, from the seeds --seed, --seed + 1 and so on
QUICK_READINGS, QUICK_EPOCHS = 20_000, 2  # --quick trains on half a year


class MLP(nn.Sequential):
    """Two hidden layers: (batch, inputs) to (batch,)."""

    def __init__(self, inputs: int, dropout: float) -> None:
        layers: list[nn.Module] = []
        for width in (inputs, HIDDEN_SIZE):  # (batch, width) to (batch, HIDDEN_SIZE)
            layers += [nn.Linear(width, HIDDEN_SIZE), nn.SiLU(), nn.Dropout(dropout)]
        super().__init__(*layers, nn.Linear(HIDDEN_SIZE, 1), nn.Flatten(0))


class Task02LSTM(nn.Sequential):
    """The LSTM of task 02, fed one input at a time: (batch, inputs) to (batch,)."""

    def __init__(self, inputs: int, dropout: float) -> None:
        super().__init__(nn.Unflatten(1, (inputs, 1)), common.ConsumptionLSTM())


class GRUEncoder(nn.Module):
    """An MLP that also gets the last hidden states of GRUs: (batch, inputs) to (batch,).

    `hours` adds a GRU over the last two hours, and `days` one over the past days. The inputs must
    be differences from the last reading, so the last difference of the two hours is 0.
    """

    def __init__(
        self, inputs: int, dropout: float, hours: bool = False, days: bool = False
    ) -> None:
        super().__init__()
        self.hours_gru = nn.GRU(1, GRU_SIZE, batch_first=True) if hours else None
        self.days_gru = nn.GRU(3, GRU_SIZE, batch_first=True) if days else None
        self.mlp = MLP(inputs + GRU_SIZE * (hours + days), dropout)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Predict the reading after each row of inputs."""
        start = 3 * len(PAST_DAYS)  # the inputs begin with the three readings of each past day
        columns = [inputs]
        if self.hours_gru is not None:
            hours = inputs[:, start : start + RECENT - 1]  # (batch, RECENT - 1), differences
            hours = nn.functional.pad(hours, (0, 1)).unsqueeze(-1)  # (batch, RECENT, 1), then 0
            _, state = self.hours_gru(hours)  # (1, batch, GRU_SIZE)
            columns.append(state[0])
        if self.days_gru is not None:
            days = inputs[:, :start].unflatten(1, (-1, 3))  # (batch, day, 3), the oldest first
            _, state = self.days_gru(days)  # (1, batch, GRU_SIZE)
            columns.append(state[0])
        return self.mlp(torch.cat(columns, dim=1))


@dataclass(frozen=True)
class Experiment:
    """A row of the table: a model, its inputs and its training."""

    name: str
    # Called with the number of inputs and the dropout; None repeats the oldest of the inputs
    model: BaseEstimator | Callable[[int, float], nn.Module] | None = MLP
    readings: int = DAY  # the inputs are this many readings before the target,
    past_days: tuple[int, ...] = ()  # the three readings around the same time so many days ago,
    calendar: bool = False  # and the time of day and the day of the week
    change: bool = False  # inputs and target are differences from the last reading
    dropout: float = 0.0
    one_cycle: bool = False  # learning-rate schedule instead of a constant rate
    epochs: int = 16
    batch_size: int = 512
    learning_rate: float = 4e-3


BOOSTING = HistGradientBoostingRegressor(  # three times the default trees, half the default rate
    max_iter=300, learning_rate=0.05, early_stopping=False, random_state=0
)
LSTM = Experiment(
    "LSTM of task 02",
    Task02LSTM,
    epochs=task02.EPOCHS,
    batch_size=task02.BATCH_SIZE,
    learning_rate=task02.LEARNING_RATE,
)
PERSISTENCE = Experiment("last reading (persistence)", None, readings=1)
VALUE = Experiment("MLP on one day")
CHANGE = replace(VALUE, name="MLP on the change", change=True)
CALENDAR = replace(CHANGE, name="+ calendar", calendar=True)
WEEK = replace(CALENDAR, name="+ yesterday, last week", past_days=(1, 7))
TEN_DAYS = replace(WEEK, name="+ ten past days", past_days=PAST_DAYS)
SHORT = replace(TEN_DAYS, name="+ only 2 hours of readings", readings=RECENT)
DROPOUT = replace(SHORT, name="+ dropout", dropout=0.2)
ONE_CYCLE = replace(DROPOUT, name="+ one-cycle schedule", one_cycle=True)
BASELINES = (
    Experiment("same time yesterday", None, readings=DAY),
    Experiment("same time last week", None, readings=7 * DAY),
    PERSISTENCE,
    Experiment("AR(96), least squares", LinearRegression()),
    replace(SHORT, name="gradient boosting, all inputs", model=BOOSTING),
    LSTM,
)
NETWORKS = (
    *(VALUE, CHANGE, CALENDAR, WEEK, TEN_DAYS, SHORT, DROPOUT, ONE_CYCLE),
    # The others are recurrent. The GRUs extend `ONE_CYCLE`.
    replace(
        LSTM,
        name="LSTM on the change, one-cycle",
        change=True,
        one_cycle=True,
        batch_size=256,
        learning_rate=4e-3,
    ),
    replace(ONE_CYCLE, name="+ GRU over the 2 hours", model=partial(GRUEncoder, hours=True)),
    replace(ONE_CYCLE, name="+ GRU over the ten days", model=partial(GRUEncoder, days=True)),
    replace(ONE_CYCLE, name="+ both GRUs", model=partial(GRUEncoder, hours=True, days=True)),
)


class Samples(NamedTuple):
    """Readings to predict, each with its past and its time."""

    past: np.ndarray  # (rows, HISTORY); the last column is the reading before the target
    times: pd.DatetimeIndex  # (rows,)
    targets: np.ndarray  # (rows,)

    def part(self, rows: slice | np.ndarray) -> Samples:
        """Return the samples at `rows`, a slice or an array of indices."""
        return Samples(*(column[rows] for column in self))


def make_samples(frame: pd.DataFrame) -> Samples:
    """Return a sample for each reading that has `HISTORY` readings before it."""
    past, targets = common.create_sequences(frame, HISTORY)
    return Samples(past, pd.DatetimeIndex(frame["timestamp"][HISTORY:]), targets)


def make_inputs(samples: Samples, experiment: Experiment) -> tuple[np.ndarray, np.ndarray]:
    """Return the inputs of a model, and the base to which its outputs are added.

    They are float32, (rows, inputs) and (rows,). The base is zero unless `experiment.change`.
    """
    offsets = set(range(-experiment.readings, 0))
    offsets |= {near - DAY * day for day in experiment.past_days for near in (-1, 0, 1)}
    inputs = samples.past[:, sorted(offsets)]  # (rows, offsets), a copy; the last is column -1
    base: np.ndarray = inputs[:, -1] * experiment.change  # (rows,)
    inputs[:, :-1] -= base[:, None]  # the last reading itself is kept: it tells the level
    if experiment.calendar:
        angle = 2 * np.pi * (samples.times.hour * 60 + samples.times.minute).to_numpy() / 1440
        waves = [wave(k * angle) for k in (1, 2, 3, 4) for wave in (np.sin, np.cos)]
        weekday = np.eye(7)[samples.times.day_of_week]  # (rows, 7)
        inputs = np.column_stack([inputs, *waves, weekday]).astype("float32")
    return inputs, base


def is_network(experiment: Experiment) -> bool:
    """Return whether the model is a network, which starts from random weights."""
    return experiment.model is not None and not isinstance(experiment.model, BaseEstimator)


@dataclass
class Forecaster:
    """The trained models of an experiment: one for each seed, or one without random numbers."""

    experiment: Experiment
    models: list[Any]  # networks, or one estimator of scikit-learn, or [None]
    seconds: float = 0.0  # of the training of one model

    def predict_each(self, samples: Samples) -> np.ndarray:
        """Return the predictions of each model: (models, rows)."""
        inputs, base = make_inputs(samples, self.experiment)  # (rows, inputs), (rows,)
        predictions = []
        for model in self.models:
            if model is None:
                predictions.append(inputs[:, 0])
            elif isinstance(model, BaseEstimator):
                predictions.append(base + model.predict(inputs))
            else:
                rows = torch.from_numpy(inputs).to(next(model.parameters()).device)
                predictions.append(base + task02.predict(model, rows).cpu().numpy())
        return np.stack(predictions)

    def predict(self, samples: Samples) -> np.ndarray:
        """Return the mean of the models' predictions: (rows,)."""
        return self.predict_each(samples).mean(0)

    def parameter_count(self) -> str:
        """Return the parameter count of a network as text, or "-" for any other model."""
        if not isinstance(self.models[0], nn.Module):
            return "-"
        return f"{sum(parameter.numel() for parameter in self.models[0].parameters()):,}"


def train_model(
    experiment: Experiment,
    inputs: np.ndarray,
    base: np.ndarray,
    readings: np.ndarray,
    seed: int,
    device: torch.device,
    quick: bool,
) -> tuple[Any, float]:
    """Train a model to predict the readings after the inputs; return it with the seconds it took.

    The arrays are (rows, inputs), (rows,) and (rows,). A network is trained with AdamW, as task 02
    does, with the schedule of the experiment.
    """
    start = time.perf_counter()
    targets = readings - base
    if not is_network(experiment):
        model = None
        if experiment.model is not None:
            model = clone(experiment.model).fit(inputs, targets)
        return model, time.perf_counter() - start
    torch.set_num_threads(1)  # the matrices are too small to be worth sharing between threads
    tqdm.set_lock(threading.RLock())  # a stopped process would leave tqdm's own lock behind
    common.keep_freed_memory()
    common.seed_everything(seed)
    network: Any = experiment.model
    network = network(inputs.shape[1], experiment.dropout).to(device)
    dataset = TensorDataset(*(torch.from_numpy(each).to(device) for each in (inputs, targets)))
    optimizer = torch.optim.AdamW(network.parameters(), experiment.learning_rate, fused=True)
    epochs = QUICK_EPOCHS if quick else experiment.epochs
    batch_size = experiment.batch_size
    steps = epochs * (len(dataset) // batch_size)
    schedule = common.one_cycle(optimizer, steps) if experiment.one_cycle else None
    for _ in range(epochs):
        task02.train_epoch(network, dataset, batch_size, optimizer, schedule, show_bar=False)
    return network, time.perf_counter() - start


def fit(
    experiments: Sequence[Experiment],
    samples: Samples,
    seeds: range,
    device: torch.device,
    quick: bool,
) -> Iterator[Forecaster]:
    """Train each experiment on the samples, and yield its models when they are complete.

    Several models are trained at a time, each in a process and on one core. Their weights do not
    depend on the number of processes.
    """
    jobs = [
        (experiment, seed)
        for experiment in experiments
        for seed in (seeds if is_network(experiment) else seeds[:1])
    ]
    warnings.filterwarnings("ignore", module="joblib.parallel")  # of unused models, after Ctrl-C
    workers = min(MAX_WORKERS, cpu_count()) if device.type == "cpu" else 1
    trained = Parallel(workers, return_as="generator", max_nbytes=None)(
        delayed(train_model)(
            each, *make_inputs(samples, each), samples.targets, seed, device, quick
        )
        for each, seed in jobs
    )
    with tqdm(trained, total=len(jobs), unit=" models", leave=False) as bar:
        for experiment, group in groupby(zip(jobs, bar, strict=True), lambda each: each[0][0]):
            models, seconds = zip(*(result for _, result in group), strict=True)
            yield Forecaster(experiment, list(models), float(np.mean(seconds)))


def run_experiments(
    samples: Samples, seeds: range, device: torch.device, quick: bool
) -> tuple[list[Forecaster], Forecaster, pd.DataFrame]:
    """Train each experiment on the earlier samples and measure it on the later ones.

    Returns the forecasters, the winner trained again on all samples, and the table. The test year
    is not an argument of this function, so it cannot change a choice.
    """
    validation_rows = int(VALIDATION_FRACTION * len(samples.targets))
    earlier = samples.part(slice(-validation_rows))
    later = samples.part(slice(-validation_rows, None))
    forecasters, rows = [], []
    for forecaster in fit(BASELINES + NETWORKS, earlier, seeds, device, quick):
        name, seconds = forecaster.experiment.name, f"{forecaster.seconds:.1f}"
        errors = squared_errors(later, forecaster.predict_each(later))
        with tqdm.external_write_mode():
            common.note(f"{name}: validation MSE {with_deviation(errors)}")
        forecasters.append(forecaster)
        rows.append((name, forecaster.parameter_count(), seconds, errors))
    columns = ["experiment", "parameters", "seconds", "validation MSE"]
    table = pd.DataFrame(rows, columns=columns)
    means = table["validation MSE"].map(np.mean)[len(BASELINES) :]  # of the networks
    experiment = NETWORKS[int(np.argmin(means))]
    (winner,) = fit([experiment], samples, seeds, device, quick)
    return forecasters, winner, table


def squared_errors(samples: Samples, predictions: np.ndarray) -> list[float]:
    """Return the mean squared error of each row of predictions, (models, rows)."""
    return [mean_squared_error(samples.targets, each) for each in predictions]


def with_deviation(errors: list[float]) -> str:
    """Format the mean of some errors, and their standard deviation if there are several."""
    if not errors:
        return "-"
    deviation = f" ± {np.std(errors, ddof=1):.4f}" if len(errors) > 1 else ""
    return f"{np.mean(errors):.4f}{deviation}"


def print_table(table: pd.DataFrame) -> None:
    """Print the table, with mean and standard deviation of the errors."""
    shown = table.copy()
    for column in ("validation MSE", "test MSE"):
        shown[column] = table[column].map(with_deviation)
    shown["R-squared"] = table["R-squared"].map("{:.4f}".format)
    widths = {column: max(map(len, [column, *shown[column]])) for column in shown}
    print("  ".join(f"{column:{width}}" for column, width in widths.items()).rstrip())
    for row in shown.itertuples(index=False):
        cells = zip(row, widths.values(), strict=True)
        print("  ".join(f"{cell:{width}}" for cell, width in cells).rstrip())


def draw_week(test: Samples, predictions: np.ndarray) -> None:
    """Draw a week of the test year, recorded and predicted, and the error of the predictions."""
    middle = len(test.times) // 2
    week = slice(middle, middle + 7 * DAY)
    figure = Figure(figsize=(11, 5.5), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True, height_ratios=[3, 1])
    upper.plot(test.times[week], test.targets[week], color="black", label="recorded")
    upper.plot(test.times[week], predictions[week], color="tab:orange", label="predicted")
    upper.set_title("A week of the test data, predicted 15 minutes ahead")
    upper.set_ylabel("consumption\n(standard deviations)")
    upper.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
    lower.plot(test.times[week], predictions[week] - test.targets[week], color="tab:red")
    lower.set(ylabel="error", xlabel="date")
    common.save_figure(figure, common.RESULTS / "task03_week.png")


def draw_table(table: pd.DataFrame) -> None:
    """Draw the test errors as bars, and the error of persistence as a line."""
    means = table["test MSE"].map(np.mean)
    deviations = table["test MSE"].map(lambda errors: np.std(errors, ddof=min(1, len(errors) - 1)))
    figure = Figure(figsize=(9, 0.35 * len(table) + 1.2), layout="constrained")
    axes = figure.subplots()
    axes.set(xscale="log", xlim=(0.6 * means.min(), 1.2 * means.max()))
    bars = axes.barh(table["experiment"], means, xerr=deviations, ecolor="gray")
    axes.bar_label(bars, fmt="%.4f", label_type="center", color="white")
    persistence = means[list(table["experiment"]).index(PERSISTENCE.name)]
    axes.axvline(persistence, color="black", linestyle="--", zorder=0, label=PERSISTENCE.name)
    axes.set_xlabel("test MSE (squared standard deviations, logarithmic scale)")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.invert_yaxis()
    axes.legend(loc="lower right")
    common.save_figure(figure, common.RESULTS / "task03_table.png")


# --- Saving the winner and forecasting with it --------------------------------------------------


def save_forecaster(path: Path, forecaster: Forecaster) -> None:
    """Save the networks of an experiment together with its name."""
    networks = [network.state_dict() for network in forecaster.models]
    content = {"experiment": forecaster.experiment.name, "networks": networks}
    common.save_tensors(path, content)


def load_forecaster(path: Path, device: torch.device) -> Forecaster:
    """Load a file of `save_forecaster`. Raises `ScriptError` for any other file."""
    try:
        content = common.load_tensors(path, device)
        experiments = {experiment.name: experiment for experiment in NETWORKS}
        forecaster = Forecaster(experiments[content["experiment"]], [])
        past: np.ndarray = np.zeros((1, HISTORY), dtype="float32")
        sample = Samples(past, pd.DatetimeIndex(["2014-01-01"]), past[:, 0])
        inputs, _ = make_inputs(sample, forecaster.experiment)  # (1, inputs)
        network_class: Any = forecaster.experiment.model
        for weights in content["networks"]:
            network = network_class(inputs.shape[1], dropout=0.0).to(device)
            network.load_state_dict(weights)
            forecaster.models.append(network)
        forecaster.predict(sample)  # raises ValueError if there are no networks
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        message = (
            f"{path}: not a file written by --save ({common.first_line(error)}); name another file"
        )
        raise common.ScriptError(message) from error
    return forecaster


def roll_forward(
    forecaster: Forecaster, past: np.ndarray, times: pd.DatetimeIndex, steps: int
) -> np.ndarray:
    """Forecast several readings ahead, feeding each prediction back as the next reading.

    `past` is (rows, HISTORY), and `times` (rows,) are the times of the first forecasts. Returns
    (rows, steps).
    """
    readings = np.column_stack([past, np.zeros((len(past), steps), past.dtype)])
    for step in range(steps):
        window = readings[:, step : step + HISTORY]
        now = times + pd.Timedelta(minutes=15 * step)
        readings[:, step + HISTORY] = forecaster.predict(Samples(window, now, window[:, -1]))
    return readings[:, HISTORY:]


def print_forecast(forecaster: Forecaster, data: pd.DataFrame, test: Samples, steps: int) -> None:
    """Print forecasts of the readings after the data, and the error of such forecasts."""
    times = pd.date_range(data["timestamp"].iloc[-1], periods=steps + 1, freq="15min")[1:]
    past = data["consumption"].to_numpy()[None, -HISTORY:]  # (1, HISTORY)
    readings = roll_forward(forecaster, past, times[:1], steps)[0]  # (steps,)
    for moment, reading in zip(times, readings, strict=True):
        print(f"{moment}  {reading:7.4f}")
    print("MSE of such forecasts on the test data (each step builds on earlier predictions):")
    starts = np.arange(0, len(test.targets) - max(HORIZONS), 7)  # step 7 visits every time of day
    forecasts = roll_forward(forecaster, test.past[starts], test.times[starts], max(HORIZONS))
    for horizon in HORIZONS:
        errors = forecasts[:, horizon - 1] - test.targets[starts + horizon - 1]
        print(f"{horizon:>3} quarter-hours ahead: MSE {np.mean(errors**2):.4f}")


def check_splits(train: pd.DataFrame, test: pd.DataFrame) -> None:
    """Raise `ScriptError` unless the splits are long enough and the test follows the training."""
    if len(train) < 2 * HISTORY or len(test) < 3 * DAY:
        raise common.ScriptError(
            f"the data have {len(train):,} rows for training and {len(test):,} for testing; "
            f"at least {2 * HISTORY:,} and {3 * DAY:,} are needed"
        )
    end, start = train["timestamp"].iloc[-1], test["timestamp"].iloc[0]
    if start - end != pd.Timedelta(minutes=15):
        raise common.ScriptError(
            f"the training data end at {end} and the test data start at {start}; "
            "the test data must start 15 minutes after the training data"
        )


def main(argv: list[str] | None = None) -> int:
    """Train every row, choose the winner, then compute the errors on the test year."""
    parser = common.argument_parser(__doc__, "--data", "--seed", "--device", "--quick")
    parser.add_argument(
        "--seeds",
        type=common.in_range(int, 1, 100),
        default=SEEDS,
        metavar="N",
        help=f"networks of each experiment (default: {SEEDS})",
    )
    parser.add_argument("--save", type=Path, metavar="FILE", help="save the winner in FILE")
    parser.add_argument("--load", type=Path, metavar="FILE", help="use a saved winner, train none")
    steps = common.in_range(int, 1, 365 * DAY)
    text = "print a forecast of the N quarter-hours after the data"
    parser.add_argument("--forecast", type=steps, metavar="N", help=text)
    arguments = parser.parse_args(argv)
    device = common.select_device(arguments.device)
    folder = common.find_electricity(arguments.data)
    train_frame, test_frame = (common.load_electricity(s, folder) for s in ("train", "test"))
    check_splits(train_frame, test_frame)
    if arguments.save:  # find out before the training whether the file may be written
        if arguments.save.exists():
            load_forecaster(arguments.save, device)  # never overwrite any other file
        common.make_folder(arguments.save.parent)
    torch.set_num_threads(1)

    if arguments.load:
        winner, table = load_forecaster(arguments.load, device), None
    else:
        train = make_samples(train_frame[-QUICK_READINGS:] if arguments.quick else train_frame)
        seeds = range(arguments.seed, arguments.seed + arguments.seeds)
        forecasters, winner, table = run_experiments(train, seeds, device, arguments.quick)
    if arguments.save:
        save_forecaster(arguments.save, winner)

    # Every choice is made. From here on the test year is used, once per row.
    data = pd.concat([train_frame, test_frame], ignore_index=True)
    test = make_samples(data).part(slice(DAY - len(test_frame), None))  # skips a day, as task 02
    if table is not None:
        table.loc[len(table)] = ["the winner, on all of train", winner.parameter_count(), "-", []]
        predictions = [forecaster.predict_each(test) for forecaster in (*forecasters, winner)]
        table["test MSE"] = [squared_errors(test, each) for each in predictions]
        table["R-squared"] = [
            np.mean([r2_score(test.targets, row) for row in each]) for each in predictions
        ]
        print_table(table)
        draw_table(table)
        print(f"Winner: {winner.experiment.name}, average of {len(winner.models)} networks")
    predicted = winner.predict(test)
    print(f"Test MSE: {mean_squared_error(test.targets, predicted)}")
    print(f"R-squared: {r2_score(test.targets, predicted)}")
    if arguments.forecast:
        print_forecast(winner, data, test, arguments.forecast)
    draw_week(test, predicted)
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
