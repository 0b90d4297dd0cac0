"""Task 03: experiments towards a better model of the electricity consumption.

A table of baselines, task 02's LSTM and networks that each change one thing. The winner is the
network with the lowest error on the last 15 % of the training years. Only then is 2014 looked
at, once a row; the last row is the winner trained again on all of 2011 to 2013.

    python task03.py                             the table, and two pictures in results/
    python task03.py --quick                     the same in half a minute, on half a year
    python task03.py --save best.safetensors
    python task03.py --load best.safetensors --forecast 96      the day after the data end

About four minutes on two CPU cores. On the recordings expect a test MSE of 0.024 and an
R-squared of 0.96; repeating the last reading gets 0.040, gradient boosting 0.026.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import common
import task02

if TYPE_CHECKING:
    import pandas as pd
    import torch

DAY = common.READINGS_PER_DAY
REACH = 28 * DAY + 1  # readings before a target that a model may look at: four weeks
VALIDATION_SHARE = 0.15  # of the training samples, the latest: July to December 2013
TRAINING: dict[str, Any] = {"epochs": 16, "batch_size": 256, "learning_rate": 2e-3}  # of the MLPs
HIDDEN_SIZE = 128  # of each of an MLP's two hidden layers
TREES, TREE_RATE = 300, 0.05  # gradient boosting: three times the trees, half the default rate
HORIZONS = (1, 4, 24, 96)  # quarter-hours ahead at which the fed-back error is measured
WINNER = "the winner, on all of train"  # the last row of the table
QUICK_READINGS, QUICK_EPOCHS = 20_000, 2  # what --quick makes do with: half a year


@dataclass(frozen=True)
class Experiment:
    """What a model is given, how it is built and how it is trained."""

    name: str
    model: str = "mlp"  # or "lstm", "boosting", "linear", "oldest": the oldest reading it is given
    readings: int = DAY  # it is given this many readings before the target
    past_days: tuple[int, ...] = ()  # and, so many days back, the three around the same hour
    calendar: bool = False  # and the time of day and the day of the week
    change: bool = False  # all relative to the last reading, and it predicts the change from it
    dropout: float = 0.0
    one_cycle: bool = False  # the learning rate warms up, then falls along a cosine
    members: int = 1  # networks from different seeds, averaged


VALUE = Experiment("MLP on one day")
CHANGE = replace(VALUE, name="MLP on the change", change=True)
CALENDAR = replace(CHANGE, name="+ calendar", calendar=True)
WEEK = replace(CALENDAR, name="+ yesterday, last week", past_days=(1, 7))
TEN_DAYS = replace(WEEK, name="+ ten past days", past_days=(1, 2, 3, 4, 5, 6, 7, 14, 21, 28))
SHORT = replace(TEN_DAYS, name="+ only 2 hours of readings", readings=8)
DROPOUT = replace(SHORT, name="+ dropout", dropout=0.2)
ONE_CYCLE = replace(DROPOUT, name="+ one-cycle schedule", one_cycle=True)
AVERAGE = replace(ONE_CYCLE, name="+ average of four", members=4)
NETWORKS = (VALUE, CHANGE, CALENDAR, WEEK, TEN_DAYS, SHORT, DROPOUT, ONE_CYCLE, AVERAGE)
PERSISTENCE = Experiment("last reading (persistence)", "oldest", readings=1)
BASELINES = (
    Experiment("same time yesterday", "oldest", readings=DAY),
    Experiment("same time last week", "oldest", readings=7 * DAY),
    PERSISTENCE,
    Experiment("AR(96), least squares", "linear"),
    replace(AVERAGE, name="gradient boosting, all inputs", model="boosting"),
    Experiment("LSTM of task 02", "lstm"),
)


class Samples(NamedTuple):
    """Readings to predict, each with its past and its time."""

    past: np.ndarray  # (rows, REACH), the last column being the reading before the target
    times: pd.DatetimeIndex  # (rows,)
    targets: np.ndarray  # (rows,)

    def part(self, rows: slice | np.ndarray) -> Samples:
        """Select some of the rows."""
        return Samples(*(column[rows] for column in self))


def make_samples(frame: pd.DataFrame) -> Samples:
    """Make a sample of every reading that has `REACH` readings before it."""
    import pandas as pd

    past, targets = common.create_sequences(frame, REACH)
    return Samples(past, pd.DatetimeIndex(frame["timestamp"][REACH:]), targets)


def check(train: pd.DataFrame, test: pd.DataFrame) -> None:
    """Raise `ScriptError` unless the splits are long enough and the second follows the first."""
    import pandas as pd

    if len(train) < 2 * REACH or len(test) < 3 * DAY:
        raise common.ScriptError(
            f"the data are too short: task 03 needs {2 * REACH:,} rows to train on and "
            f"{3 * DAY:,} to test on"
        )
    if test["timestamp"].iloc[0] - train["timestamp"].iloc[-1] != pd.Timedelta(minutes=15):
        raise common.ScriptError("the test data do not start 15 minutes after the training data")


def make_inputs(samples: Samples, experiment: Experiment) -> tuple[np.ndarray, np.ndarray]:
    """Gather what a model is given, and the base that it predicts the difference from.

    Returns float32 (rows, inputs) and (rows,), zeros where it predicts the reading itself.
    """
    offsets = set(range(-experiment.readings, 0))
    offsets |= {near - DAY * day for day in experiment.past_days for near in (-1, 0, 1)}
    inputs = samples.past[:, sorted(offsets)]  # (rows, offsets), a copy; the last is column -1
    base: np.ndarray = inputs[:, -1] * experiment.change  # (rows,)
    inputs[:, :-1] -= base[:, None]  # with `change`, only the last reading keeps its level
    if experiment.calendar:
        angle = 2 * np.pi * (samples.times.hour * 60 + samples.times.minute).to_numpy() / 1440
        waves = [wave(k * angle) for k in (1, 2, 3, 4) for wave in (np.sin, np.cos)]
        weekday = np.eye(7)[samples.times.day_of_week]  # (rows, 7)
        inputs = np.column_stack([inputs, *waves, weekday]).astype("float32")
    return inputs, base


def build_network(experiment: Experiment, inputs: int) -> torch.nn.Sequential:
    """Build a network of the experiment: (batch, inputs) to (batch,)."""
    from torch import nn

    if experiment.model == "lstm":
        return nn.Sequential(nn.Unflatten(1, (inputs, 1)), common.ConsumptionLSTM())
    layers = []
    for width in (inputs, HIDDEN_SIZE):  # (batch, width) to (batch, HIDDEN_SIZE)
        layers += [nn.Linear(width, HIDDEN_SIZE), nn.SiLU(), nn.Dropout(experiment.dropout)]
    return nn.Sequential(*layers, nn.Linear(HIDDEN_SIZE, 1), nn.Flatten(0))


class Forecaster:
    """The model of one experiment: scikit-learn's, or a list of networks."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.model: Any = None  # "oldest" needs none

    def fit(self, samples: Samples, quick: bool, seed: int, device: torch.device) -> Forecaster:
        """Train on the samples."""
        import torch
        from sklearn.ensemble import HistGradientBoostingRegressor
        from sklearn.linear_model import LinearRegression
        from torch.utils.data import TensorDataset

        inputs, base = make_inputs(samples, self.experiment)  # (rows, inputs), (rows,)
        targets = samples.targets - base  # (rows,)
        if self.experiment.model == "linear":
            self.model = LinearRegression().fit(inputs, targets)
        if self.experiment.model == "boosting":
            self.model = HistGradientBoostingRegressor(
                max_iter=TREES, learning_rate=TREE_RATE, early_stopping=False, random_state=seed
            ).fit(inputs, targets)
        if self.experiment.model not in ("mlp", "lstm"):
            return self

        training = {**TRAINING, "one_cycle": self.experiment.one_cycle}
        if self.experiment.model == "lstm":
            training = task02.TRAINING
        if quick:
            training = {**training, "epochs": QUICK_EPOCHS}
        data = TensorDataset(torch.from_numpy(inputs), torch.from_numpy(targets))
        self.model = torch.nn.ModuleList()
        for member in range(self.experiment.members):
            common.seed_everything(seed + member)
            network = build_network(self.experiment, inputs.shape[1])
            network, (data,) = common.place(network, [data], device)
            for _ in common.fit(network, data, **training, leave=False):
                pass
            self.model.append(network)
        return self

    def predict(self, samples: Samples) -> np.ndarray:
        """Predict the targets: (rows,)."""
        import torch

        inputs, base = make_inputs(samples, self.experiment)  # (rows, inputs), (rows,)
        if self.experiment.model == "oldest":
            return inputs[:, 0]
        if self.experiment.model in ("linear", "boosting"):
            return base + self.model.predict(inputs)
        rows = torch.from_numpy(inputs).to(next(self.model.parameters()).device)
        outputs = torch.stack([common.predict(network, rows) for network in self.model])
        return base + outputs.mean(0).cpu().numpy()  # (members, rows) to (rows,)

    def size(self) -> str:
        """Count the parameters of the networks; other models have no number that compares."""
        if self.experiment.model not in ("mlp", "lstm"):
            return "-"
        return f"{sum(parameter.numel() for parameter in self.model.parameters()):,}"

    def roll_forward(self, past: np.ndarray, times: pd.DatetimeIndex, steps: int) -> np.ndarray:
        """Predict the readings after each past, each prediction becoming the next reading.

        `past` is (rows, REACH) and `times` (rows,) those of the first step. Returns (rows, steps).
        """
        import pandas as pd

        path = np.column_stack([past, np.zeros((len(past), steps), past.dtype)])
        for step in range(steps):
            seen, now = path[:, step : step + REACH], times + pd.Timedelta(minutes=15 * step)
            path[:, step + REACH] = self.predict(Samples(seen, now, seen[:, -1]))
        return path[:, REACH:]

    def save(self, path: Path) -> None:
        """Save the networks, with the settings that `load` needs to build them again."""
        about = {"experiment": json.dumps(asdict(self.experiment))}
        common.save_weights(path, self.model.state_dict(), about)

    @classmethod
    def load(cls, path: Path, device: torch.device) -> Forecaster:
        """Load what `save` wrote; raise `ScriptError` for any other file."""
        import torch

        try:
            weights, about = common.load_weights(path, device)
            loaded = cls(Experiment(**json.loads(about["experiment"])))
            inputs = weights["0.0.weight"].shape[1]
            members = range(loaded.experiment.members)
            loaded.model = torch.nn.ModuleList(
                build_network(loaded.experiment, inputs) for _ in members
            )
            loaded.model.load_state_dict(weights)
        except (OSError, TypeError, KeyError, ValueError, RuntimeError) as error:
            raise common.ScriptError(f"{path}: not a file that --save wrote ({error})") from error
        loaded.model.to(device)
        return loaded


def prepare_saving(path: Path, device: torch.device) -> None:
    """Find out before the training whether the winner can be saved after it.

    Raises `ScriptError` for a file that `Forecaster.save` did not write: it is not overwritten.
    """
    if path.exists():
        Forecaster.load(path, device)
    common.make_folder(path.parent)


def run_experiments(
    samples: Samples, quick: bool, seed: int, device: torch.device
) -> tuple[list[Forecaster], pd.DataFrame]:
    """Train every row of the table on the earlier samples and score it on the later ones.

    The last row is the network that did best, trained again on all samples. Nothing of the test
    year comes in here, so nothing in it can change what is chosen.
    """
    import pandas as pd
    from sklearn.metrics import mean_squared_error

    latest = int(VALIDATION_SHARE * len(samples.targets))
    validation, earlier = samples.part(slice(-latest, None)), samples.part(slice(-latest))
    forecasters, rows = [], []

    def add_row(name: str, experiment: Experiment, known: Samples, unknown: Samples | None) -> None:
        start = time.perf_counter()
        forecaster = Forecaster(experiment).fit(known, quick, seed, device)
        seconds, error = time.perf_counter() - start, np.nan
        if unknown:
            error = mean_squared_error(unknown.targets, forecaster.predict(unknown))
            common.note(f"{name}: validation MSE {error:.4f} after {seconds:.1f} s")
        forecasters.append(forecaster)
        rows.append((name, forecaster.size(), seconds, error))

    for experiment in BASELINES + NETWORKS:
        add_row(experiment.name, experiment, earlier, validation)
    errors = [row[-1] for row in rows[len(BASELINES) :]]
    add_row(WINNER, NETWORKS[int(np.argmin(errors))], samples, None)
    columns = ["experiment", "parameters", "seconds", "validation MSE"]
    return forecasters, pd.DataFrame(rows, columns=columns)


def draw_week(test: Samples, predicted: np.ndarray) -> None:
    """Draw a week of the test data, recorded and predicted, with the error below."""
    from matplotlib.figure import Figure

    middle = len(test.times) // 2
    week = slice(middle, middle + 7 * DAY)
    figure = Figure(figsize=(11, 5.5), layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=[3, 1])
    above.plot(test.times[week], test.targets[week], color="black", label="recorded")
    above.plot(test.times[week], predicted[week], color="tab:orange", label="predicted")
    above.set_title("A week of the test data, predicted 15 minutes ahead")
    above.set_ylabel("consumption\n(standard deviations)")
    above.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
    below.plot(test.times[week], predicted[week] - test.targets[week], color="tab:red")
    below.set(ylabel="error", xlabel="date")
    common.save_figure(figure, "task03_week.png")


def draw_table(table: pd.DataFrame) -> None:
    """Draw the test errors as bars, with a line where repeating the last reading stands."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(9, 0.35 * len(table) + 1.2), layout="constrained")
    axes = figure.subplots()
    axes.set(xscale="log", xlim=(0.6 * table["test MSE"].min(), 1.2 * table["test MSE"].max()))
    bars = axes.barh(table["experiment"], table["test MSE"])
    axes.bar_label(bars, fmt="%.4f", padding=-42, color="white")
    persistence = table.set_index("experiment").at[PERSISTENCE.name, "test MSE"]
    axes.axvline(persistence, color="black", linestyle="--", zorder=0, label=PERSISTENCE.name)
    axes.set_xlabel("test MSE (squared standard deviations, logarithmic scale)")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.invert_yaxis()
    axes.legend(loc="lower right")
    common.save_figure(figure, "task03_table.png")


def print_forecast(forecaster: Forecaster, data: pd.DataFrame, test: Samples, steps: int) -> None:
    """Print the readings that follow the data, and how far off they may be."""
    import pandas as pd

    times = pd.date_range(data["timestamp"].iloc[-1], periods=steps + 1, freq="15min")[1:]
    past = data["consumption"].to_numpy()[None, -REACH:]  # (1, REACH)
    readings = forecaster.roll_forward(past, times[:1], steps)[0]  # (steps,)
    for moment, reading in zip(times, readings, strict=True):
        print(f"{moment}  {reading:7.4f}")
    print("Every step builds on the steps before it, so the error grows. On the test data it is")
    starts = np.arange(0, len(test.targets) - max(HORIZONS), 7)  # 7 gets to every time of day
    path = forecaster.roll_forward(test.past[starts], test.times[starts], max(HORIZONS))
    for horizon in HORIZONS:
        error = path[:, horizon - 1] - test.targets[starts + horizon - 1]
        print(f"{horizon:>3} quarter-hours ahead: MSE {np.mean(error**2):.4f}")


def main(argv: list[str] | None = None) -> int:
    """Train every row, choose the winner, look at the test year, then use the winner."""
    parser = common.argument_parser(__doc__, "--data", "--seed", "--device", "--quick")
    parser.add_argument("--save", type=Path, metavar="FILE", help="keep the winner in FILE")
    parser.add_argument("--load", type=Path, metavar="FILE", help="use a winner kept before")
    parser.add_argument(
        "--forecast",
        type=common.whole_number(1, 365 * DAY),
        metavar="N",
        help="print the N quarter-hours that follow the data",
    )
    arguments = parser.parse_args(argv)
    folder = common.find_electricity(arguments.data)
    frames = [common.load_electricity(split, folder) for split in ("train", "test")]
    check(*frames)
    device = common.select_device(arguments.device)
    if arguments.save:
        prepare_saving(arguments.save, device)

    import pandas as pd
    from sklearn.metrics import mean_squared_error, r2_score

    table = None
    if arguments.load:
        forecasters = [Forecaster.load(arguments.load, device)]
    else:
        train = make_samples(frames[0][-QUICK_READINGS:] if arguments.quick else frames[0])
        forecasters, table = run_experiments(train, arguments.quick, arguments.seed, device)
    winner = forecasters[-1]
    if arguments.save:
        winner.save(arguments.save)

    # All is chosen and trained. Only now is the test year looked at, once a row.
    data = pd.concat(frames, ignore_index=True)
    test = make_samples(data).part(slice(DAY - len(frames[1]), None))  # a day of 2014 before each
    predictions = [forecaster.predict(test) for forecaster in forecasters]
    errors = [mean_squared_error(test.targets, predicted) for predicted in predictions]
    r_squared = [r2_score(test.targets, predicted) for predicted in predictions]
    if table is not None:
        table = table.assign(**{"test MSE": errors, "R-squared": r_squared})
        width = table["experiment"].str.len().max()
        formatters = {"seconds": "{:.1f}".format, "experiment": f"{{:<{width}}}".format}
        print(
            table.to_string(
                index=False, na_rep="-", float_format="{:.4f}".format, formatters=formatters
            )
        )
        print(f"Winner: {winner.experiment.name}")
    print(f"Test MSE: {errors[-1]}")
    print(f"R-squared: {r_squared[-1]}")
    if arguments.forecast:
        print_forecast(winner, data, test, arguments.forecast)
    if table is not None:
        draw_week(test, predictions[-1])
        draw_table(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
