"""What two or more scripts share: running, data, sequences and the LSTM.

Nothing heavy is imported at the top: torch takes two seconds and pandas half a second, and
`--help` or a wrong path should be answered at once.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import ctypes
import hashlib
import html
import importlib
import math
import os
import re
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from matplotlib.figure import Figure
    from torch.utils.data import TensorDataset

# ---------------------------------------------------------------------------------------------
# 1. Running a script
# ---------------------------------------------------------------------------------------------

RESULTS = Path(__file__).resolve().parent / "results"  # whatever a run draws or saves for itself


class ScriptError(Exception):
    """Something the person at the terminal can mend; its text is the one line they are shown."""


class HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """The docstring as it is written, and every option with its default, if that says anything."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default in (None, "") or action.default is False
        return action.help if silent else super()._get_help_string(action)


def whole_number(lowest: int, highest: int) -> Callable[[str], int]:
    """Make the reader of an option that takes a whole number in this range, ends included."""

    def read(text: str) -> int:
        if not (text.isdecimal() and lowest <= int(text) <= highest):
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a whole number from {lowest} to {highest}"
            )
        return int(text)

    return read


def number(lowest: float, highest: float) -> Callable[[str], float]:
    """Make the reader of an option that takes a number in this range, ends included."""

    def read(text: str) -> float:
        with contextlib.suppress(ValueError):
            if lowest <= float(text) <= highest:
                return float(text)
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {lowest:g} to {highest:g}")

    return read


OPTIONS = {  # the words that mean the same in every script
    "--seed": {  # up to the largest that NumPy takes
        "type": whole_number(0, 2**32 - 1),
        "default": 0,
        "help": "seed of every random number",
    },
    "--device": {
        "choices": ("auto", "cpu", "cuda", "mps"),
        "default": "auto",
        "help": "where to compute",
    },
    "--quick": {"action": "store_true", "help": "a small run that only shows that all works"},
    "--data": {"type": Path, "metavar": "DIR", "help": "folder that holds the data files"},
    "--text": {"type": Path, "metavar": "FILE", "help": "text file to use instead of the Inferno"},
}


def argument_parser(docstring: str, *options: str) -> argparse.ArgumentParser:
    """Build a script's parser: its docstring as the help text, and the shared options it names."""
    parser = argparse.ArgumentParser(
        description=docstring, formatter_class=HelpFormatter, allow_abbrev=False
    )
    for option in options:
        parser.add_argument(option, **OPTIONS[option])
    return parser


def run(main: Callable[[], int]) -> int:
    """Run `main` and return the exit code of the script.

    0 when all went well. 1 with one line on standard error for what the person can mend: a
    `ScriptError`, or what the system refused (a full disk, a missing permission). 130 for Ctrl-C.
    Anything else is a bug and keeps its traceback.
    """
    try:
        code = main()
        sys.stdout.flush()  # a full disk shows here, not after the last line of the script
        return code
    except ScriptError as error:
        code, message = 1, str(error)
    except KeyboardInterrupt:
        code, message = 130, "interrupted"
    except BrokenPipeError:
        code, message = 1, "standard output was closed before everything was written"
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        code, message = 1, f"{place}{error.strerror or error}"
    note(message)
    try:
        sys.stdout.flush()
    except OSError:  # nothing more can be written; keep Python from trying again when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


class LazyModule(ModuleType):
    """A module that is only imported when something of it is first used."""

    def __getattr__(self, name: str) -> object:
        module = importlib.import_module(self.__name__)
        vars(self).update(vars(module))  # so that this is asked once, and is as fast as the module
        return getattr(module, name)


def note(message: str) -> None:
    """Tell the person at the terminal something, in one line on standard error."""
    if os.environ.get("RANK", "0") != "0":  # of processes started together, one speaks
        return
    print(f"{Path(sys.argv[0]).name}: {' '.join(message.split())}", file=sys.stderr)


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's random numbers, and ask a GPU to repeat itself too."""
    import random

    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS varies without it
    torch.backends.cudnn.deterministic = True
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def select_device(name: str) -> torch.device:
    """Return the device called `name`; `auto` is the first of CUDA, MPS and the CPU there is."""
    import torch

    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(device for device, available in there.items() if available)
    if not there[name]:
        raise ScriptError(f"no {name} device on this machine; leave out --device or use cpu")
    return torch.device(name)


@contextlib.contextmanager
def complete_file(path: Path) -> Iterator[Path]:
    """Give a file beside `path` to write to; it takes the name `path` only once it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Make a folder, and find out at once whether a file can be written in it (else OSError)."""
    path.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=path).close()


def save_figure(figure: Figure, name: str | Path) -> None:
    """Save a matplotlib figure under this name in `results/`, or at this full path, and say so."""
    with complete_file(RESULTS / name) as beside:
        figure.savefig(beside, dpi=150)
    note(f"drew {RESULTS / name}")


def save_weights(path: Path, weights: dict[str, torch.Tensor], about: dict[str, str]) -> None:
    """Save tensors by name, and what else is to be known, as a safetensors file."""
    from safetensors.torch import save

    with complete_file(path) as beside:
        beside.write_bytes(save(weights, about))


def load_weights(
    path: Path, device: torch.device
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Load what `save_weights` saved. Raises `ValueError` for a file that it did not write."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt", str(device)) as file:
            names = file.keys()  # the file is no dictionary, and cannot be iterated itself
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"not a file of saved weights: {error}") from error


# ---------------------------------------------------------------------------------------------
# 2. Data
# ---------------------------------------------------------------------------------------------

DATA = Path(__file__).resolve().parent / "DATA"
NETWORK_TIMEOUT = 5  # seconds without an answer after which there is no network

ELECTRICITY_URL = (  # pinned to one commit of the course's repository
    "https://raw.githubusercontent.com/SimeonHristov99/ML_24-25/"
    "e49f4d73b173dc9e42af30e40da5fa0d890378c7/DATA/electricity_consumption/"
)
ELECTRICITY_SHA256 = {
    "train": "d0d462efe33007d90f7fb5d84466ad12e45a6ef0adb07371c764b77eca357230",
    "test": "948d6f836e5e312a67243299cda71dab2595f7f974856c7494109fcf80810673",
}
ELECTRICITY_FILE = "electricity_{split}.csv"  # in whichever folder holds the splits
ELECTRICITY_COLUMNS = ["timestamp", "consumption"]
READINGS_PER_DAY = 96  # one every 15 minutes


def download(url: str, sha256: str | None, path: Path) -> None:
    """Fetch `url` to `path`, which appears there complete, with the digest `sha256`, or not at all.

    Without a digest the caller has to find out whether it is the right file. Raises `ScriptError`
    where the server does not answer, fails, or sends something else.
    """
    import pooch
    import requests

    if not answers(url):
        raise ScriptError(f"no answer from {url.split('/')[2]}")
    pooch.get_logger().setLevel("WARNING")
    fetch = pooch.HTTPDownloader(progressbar=True, timeout=30)
    try:
        pooch.retrieve(url, sha256 and f"sha256:{sha256}", path.name, path.parent, downloader=fetch)
    except requests.RequestException as error:
        raise ScriptError(f"the download of {url} broke off: {error}") from error
    except ValueError as error:  # pooch's word for a digest that differs; it keeps no such file
        raise ScriptError(f"what {url} sent has the wrong SHA-256 and was thrown away") from error


def answers(url: str) -> bool:
    """Tell whether the server of `url` says anything at all within `NETWORK_TIMEOUT` seconds.

    The clock stands over the whole attempt, on a thread of its own: a socket's time-out starts
    again for each address of a host and does not cover the look-up of its name.
    """
    import requests

    answered = threading.Event()

    def ask() -> None:
        with contextlib.suppress(requests.RequestException):
            requests.head(url, timeout=NETWORK_TIMEOUT)
            answered.set()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(NETWORK_TIMEOUT)
    return answered.is_set()


def find_electricity(folder: Path | None = None) -> Path:
    """Return the folder that holds both splits of the electricity data.

    `folder` where it is given. Else `DATA/electricity_consumption`, filled from the course's
    repository if need be. Else `DATA/synthetic_load_curve`, made here and announced: both splits
    always come from one source.
    """
    if folder is not None:
        return folder
    recordings, synthetic = DATA / "electricity_consumption", DATA / "synthetic_load_curve"
    try:
        for split, sha256 in ELECTRICITY_SHA256.items():
            path = recordings / ELECTRICITY_FILE.format(split=split)
            if not path.exists():
                download(ELECTRICITY_URL + path.name, sha256, path)
        return recordings
    except ScriptError as error:
        note(
            f"{error}; using a synthetic load curve ({synthetic}) in place of the recordings: "
            "run again with a network, or give their folder with --data DIR"
        )
    for split in ELECTRICITY_SHA256:
        path = synthetic / ELECTRICITY_FILE.format(split=split)
        if not path.exists():
            with complete_file(path) as beside:
                synthetic_electricity(split).to_csv(beside, index=False)
    return synthetic


def load_electricity(split: str, folder: Path | None = None) -> pd.DataFrame:
    """Load the `train` (2011 to 2013) or `test` (2014) split of the electricity consumption.

    Returns a frame with the columns `timestamp` (every 15 minutes) and `consumption` (float32,
    standardised: the recordings' mean is 0 and their deviation 1). See `find_electricity` for
    where the file comes from. Raises `ScriptError` naming file, row and column of the first thing
    wrong; rows are counted as in a spreadsheet, the header being row 1.
    """
    import pandas as pd

    path = find_electricity(folder) / ELECTRICITY_FILE.format(split=split)

    def reject(what: str) -> NoReturn:
        raise ScriptError(f"{path}: {what}")

    def reject_row(wrong: np.ndarray, column: str, what: str) -> None:
        if wrong.any():
            row = int(wrong.argmax())
            reject(f"row {row + 2}, column {column}: {str(text[column][row])[:40]!r} {what}")

    try:
        text = pd.read_csv(
            path, dtype=str, keep_default_na=False, skip_blank_lines=False, encoding="utf-8-sig"
        )
    except FileNotFoundError:
        names = " and ".join(ELECTRICITY_FILE.format(split=name) for name in ELECTRICITY_SHA256)
        reject(f"no such file; --data takes a folder that holds {names}")
    except pd.errors.EmptyDataError:
        reject("the file is empty")
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        reject(f"not a CSV file ({error})")
    if list(text.columns) != ELECTRICITY_COLUMNS:
        found = ",".join(map(str, text.columns))[:60]
        reject(f"row 1: the columns are {found!r}, not {','.join(ELECTRICITY_COLUMNS)!r}")

    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is refused
        numbers = pd.to_numeric(text["consumption"], errors="coerce").astype("float32")
    reject_row(~np.isfinite(numbers.to_numpy()), "consumption", "is not a finite number")
    times = pd.to_datetime(text["timestamp"], format="%Y-%m-%d %H:%M:%S", errors="coerce")
    reject_row(times.isna().to_numpy(), "timestamp", "is not a time like 2011-01-01 00:15:00")
    minutes = times.diff().dt.total_seconds().to_numpy() / 60  # the first is NaN
    for wrong, what in (
        (minutes < 0, "is earlier than the row before"),
        (minutes == 0, "repeats the row before"),
        (~np.isnan(minutes) & (minutes != 15), "is not 15 minutes after the row before"),
    ):
        reject_row(wrong, "timestamp", what)
    if len(text) <= READINGS_PER_DAY:
        reject(f"{len(text)} rows of data; at least {READINGS_PER_DAY + 1} are needed")
    return pd.DataFrame({"timestamp": times, "consumption": numbers})


def synthetic_electricity(split: str) -> pd.DataFrame:
    """Make the embedded stand-in for the recordings: their calendar and scale, none of their data.

    A customer with opening hours: a night level, a working-day bump with a morning and an evening
    peak, quiet weekends, more in winter, switching times that wander from day to day, and noise
    that lingers; over all four years mean 0, deviation 1, on the recordings' grid of values.
    """
    import pandas as pd

    times = pd.date_range("2011-01-01 00:15", "2014-12-31 23:45", freq="15min")
    random = np.random.default_rng(20110101)
    hour = times.hour.to_numpy() + times.minute.to_numpy() / 60
    day = (times.normalize() - times[0].normalize()).days.to_numpy()
    opens, closes = (mean + 0.3 * random.standard_normal(day[-1] + 1)[day] for mean in (8, 21.75))
    season = np.cos(2 * np.pi * (times.day_of_year.to_numpy() - 20) / 365.25)
    shape = 1.2 + 0.5 * np.exp(-((hour - 11) ** 2) / 4) + np.exp(-((hour - 19) ** 2) / 6)
    is_open = (opens <= hour) & (hour < closes)
    busy = np.where(times.day_of_week < 5, 1.0, 0.25) * random.normal(1, 0.1, day[-1] + 1)[day]
    shocks = random.normal(0, 0.06, len(times))
    noise = pd.Series(shocks).ewm(alpha=0.1).mean().to_numpy() * 3 + shocks
    load = is_open * shape * busy * (1 + 0.15 * season) + 0.1 * season + noise

    standardised = (load - load.mean()) / load.std()
    step, lowest, highest = 0.02533588, -1.414483, 3.028924  # the recordings' grid of values
    grid = lowest + step * np.round((standardised.clip(lowest, highest) - lowest) / step)
    frame = pd.DataFrame({"timestamp": times, "consumption": grid.round(6)})
    return frame[(times.year == 2014) == (split == "test")].reset_index(drop=True)


INFERNO_FILE = "1ddcd09.txt"  # the name of the etext: first cantica, 7-bit, ninth edition
INFERNO_SOURCES = {  # in the order they are tried, with the digest of the file where it is known
    f"https://archive.org/download/ladivinacommedia00997gut/{INFERNO_FILE}": None,
    "https://raw.githubusercontent.com/melizo4ka/DLA-labs/"
    f"02982275108b78aa84d8cfc8d43fcc81c0a9502c/{INFERNO_FILE}": (
        "fea89eb8c82207be2d91fcea93d8bcb669ee3d920d48fb8fe4af2655851a81b7"
    ),
}
INFERNO_SHA256 = "6691b66b95d84ca00c85e863980f2b5d9238f01ec117489f36c48f08490371db"  # cleaned
INFERNO_OPENING, INFERNO_END = "Nel mezzo del cammin", "riveder le stelle."
VERSES = DATA / "verses.txt"  # the embedded stand-in, written for this project


def clean_text(raw: bytes) -> str:
    """Return the text in `raw`, and of an edition of the Inferno the poem alone.

    Takes UTF-8 or Windows-1252 (so Latin-1 too), any line ends, a plain file or an HTML page. The
    poem runs from its first verse to its last, canto headings within it included. Lines end with
    LF and have no blanks behind. Raises `ScriptError` for what is empty or no text.
    """
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("cp1252", errors="replace")  # what it has no character for: U+FFFD
    if re.search(r"[\x00-\x08\x0e-\x1f\ufffd]", text):
        raise ScriptError("not a text file in UTF-8 or Windows-1252")
    if re.search(r"<(!doctype|html|pre)\b", text, re.IGNORECASE):
        preformatted = re.search(r"<pre\b[^>]*>(.*)</pre>", text, re.IGNORECASE | re.DOTALL)
        text = html.unescape(re.sub(r"<[^>]*>", "", preformatted[1] if preformatted else text))
    lines = re.split(r"\r\n|\r|\n", text.replace("\xa0", " "))  # HTML's blanks may not break
    text = "\n".join(line.rstrip() for line in lines).strip("\n")
    if not text:
        raise ScriptError("the file is empty")
    start, end = text.find(INFERNO_OPENING), text.find(INFERNO_END)
    return text[start : end + len(INFERNO_END)] if 0 <= start < end else text


def is_inferno(text: str) -> bool:
    """Tell whether a cleaned text is the edition of the Inferno that the figures are for."""
    return hashlib.sha256(text.encode()).hexdigest() == INFERNO_SHA256


def find_inferno() -> Path:
    """Return `DATA/dante/1ddcd09.txt`, downloaded if need be, else the embedded verses."""
    path, failures = DATA / "dante" / INFERNO_FILE, []
    if path.exists():
        return path
    with ThreadPoolExecutor() as pool:  # ask all at once: no network is to be known in 5 seconds
        answering = list(pool.map(answers, INFERNO_SOURCES))
    for (url, sha256), answer in zip(INFERNO_SOURCES.items(), answering, strict=True):
        try:
            if not answer:
                raise ScriptError(f"no answer from {url.split('/')[2]}")
            with complete_file(path) as beside:
                download(url, sha256, beside)
                if not is_inferno(clean_text(beside.read_bytes())):
                    raise ScriptError(f"what {url} sent is not the poem and was thrown away")
            return path
        except ScriptError as error:
            failures.append(str(error))
    note(
        f"{'; '.join(failures)}; using {VERSES}, verses written for this project, in place of the "
        "Inferno: run again with a network, or give its file with --text FILE"
    )
    return VERSES


def load_inferno(path: Path | None = None) -> str:
    """Load Dante's Inferno, or any text in the file `path`: see `clean_text`, `find_inferno`.

    What is not the expected edition is used as it is, and said so. Raises `ScriptError` naming
    the file where it holds no text.
    """
    found = path or find_inferno()
    try:
        text = clean_text(found.read_bytes())
    except FileNotFoundError as error:
        raise ScriptError(f"{found}: no such file; --text takes a text file") from error
    except ScriptError as error:
        raise ScriptError(f"{found}: {error}") from error
    if found != VERSES and not is_inferno(text):
        note(f"{found}: not the edition of the Inferno that the figures are for; using it as it is")
    return text


# ---------------------------------------------------------------------------------------------
# 3. Sequences and the LSTM
# ---------------------------------------------------------------------------------------------

SEQUENCE_LENGTH = READINGS_PER_DAY  # a model sees one day to predict the next reading


def create_sequences(frame: pd.DataFrame, sequence_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut the last column of `frame` into windows, each with the value that follows it.

    Returns `inputs` (windows, sequence_length) and `targets` (windows,), where windows is
    `len(frame) - sequence_length`, in the dtype of the column. Both are read-only views of one
    series: a window costs no memory. Raises `ValueError` where no window fits.
    """
    series = frame.iloc[:, -1].to_numpy()
    if not 1 <= sequence_length < len(series):
        raise ValueError(
            f"sequence_length is {sequence_length}; it must be at least 1 and less than "
            f"the {len(series)} values of the series"
        )
    windows = np.lib.stride_tricks.sliding_window_view(series, sequence_length)
    targets = series[sequence_length:].view()
    targets.flags.writeable = False
    return windows[:-1], targets


def __getattr__(name: str) -> type:
    """Define `common.ConsumptionLSTM` at its first use: its base class is torch's, and slow."""
    if name != "ConsumptionLSTM":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from torch import nn

    class ConsumptionLSTM(nn.Module):
        """Two stacked LSTM layers and a linear layer on the last output of the upper one."""

        def __init__(self, hidden_size: int = 32, num_layers: int = 2) -> None:
            super().__init__()
            self.lstm = nn.LSTM(1, hidden_size, num_layers, batch_first=True)
            self.linear = nn.Linear(hidden_size, 1)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            """Predict the value after each window: (batch, time, 1) to (batch,)."""
            memory = (self.lstm.num_layers, len(inputs), self.lstm.hidden_size)
            short_term = inputs.new_zeros(memory)  # (layers, batch, hidden)
            long_term = inputs.new_zeros(memory)  # (layers, batch, hidden)
            outputs, _ = self.lstm(inputs, (short_term, long_term))  # (batch, time, hidden)
            return self.linear(outputs[:, -1]).squeeze(-1)  # (batch,)

    globals()[name] = ConsumptionLSTM
    return ConsumptionLSTM


def sequence_dataset(inputs: np.ndarray, targets: np.ndarray) -> TensorDataset:
    """Wrap the arrays of `create_sequences` for a recurrent network, without copying them.

    The tensors are (windows, time, 1) and (windows,).
    """
    import torch
    from torch.utils.data import TensorDataset

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the arrays are read-only; nothing writes
        return TensorDataset(torch.from_numpy(inputs).unsqueeze(-1), torch.from_numpy(targets))


def place(
    model: torch.nn.Module, datasets: list[TensorDataset], device: torch.device
) -> tuple[torch.nn.Module, list[TensorDataset]]:
    """Move the model and all of its data to `device`, or to the CPU where it cannot train there.

    Whether it can is tried on two windows: not every operation exists on every device.
    """
    import torch
    from torch.utils.data import TensorDataset

    trial = copy.deepcopy(model)
    try:
        trial.to(device)(datasets[0].tensors[0][:2].to(device)).sum().backward()
    except (NotImplementedError, RuntimeError) as error:
        if device.type == "cpu":
            raise
        note(f"the model does not train on {device} ({error}); using the CPU")
        device = torch.device("cpu")
    model.to(device)
    return model, [TensorDataset(*(t.to(device) for t in data.tensors)) for data in datasets]


def fit(
    model: torch.nn.Module,
    dataset: TensorDataset,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    one_cycle: bool = False,
    leave: bool = True,
) -> Iterator[float]:
    """Train with AdamW on the mean squared error; yield the mean loss of each epoch as it ends.

    `one_cycle` warms the learning rate up for a tenth of the steps and lets it fall along a
    cosine to nothing; else it is constant. `leave` is tqdm's: whether the bar of an epoch stays.
    """
    import torch

    if len(dataset) < batch_size:
        raise ScriptError(f"{len(dataset)} training samples do not fill a batch of {batch_size}")
    keep_freed_memory()
    choose_threads(model, dataset, batch_size)
    # `fused` updates all parameters in one call: they are few and small, so calls are what costs
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, fused=True)
    steps = epochs * (len(dataset) // batch_size)

    def scale(step: int) -> float:
        warm_up = 10 * (step + 1) / steps
        return min(warm_up, (1 + math.cos(math.pi * step / steps)) / 2)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, scale if one_cycle else lambda _: 1.0)
    for _ in range(epochs):
        yield train_epoch(model, dataset, batch_size, optimizer, schedule, leave=leave)


def train_epoch(
    model: torch.nn.Module,
    dataset: TensorDataset,
    batch_size: int,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    **bar: bool,
) -> float:
    """Train on every batch of a random order once and return the mean of their losses.

    The last, incomplete batch is dropped; `bar` goes to tqdm. A batch is taken from the tensors in
    one operation, where a `DataLoader` would collect it row by row.
    """
    import torch
    from torchmetrics.functional import mean_squared_error
    from tqdm import tqdm

    model.train()
    losses = []
    inputs, targets = dataset.tensors
    order = torch.randperm(len(dataset)).to(inputs.device)
    batches = order[: len(order) // batch_size * batch_size].view(-1, batch_size)
    with tqdm(batches, **bar) as progress:  # closed by Ctrl-C too, so that what follows has a line
        for batch in progress:
            loss = mean_squared_error(model(inputs[batch]), targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.detach())
    return torch.stack(losses).mean().item()


def choose_threads(model: torch.nn.Module, dataset: TensorDataset, batch_size: int) -> None:
    """Train a copy of the model for a few steps to see how many threads torch should use.

    Small operations take longer shared out than done by one thread. Another number of threads
    sums in another order, which shows in the last digits: so that runs repeat each other, all
    threads must beat one thread by a clear margin. Once one thread is chosen, it stays at one.
    """
    import torch
    from torch.utils.data import TensorDataset

    threads = torch.get_num_threads()
    if threads == 1 or dataset.tensors[0].device.type != "cpu":
        return
    few = TensorDataset(*dataset[: 10 * batch_size])
    seconds = {1: math.inf, threads: math.inf}
    with torch.random.fork_rng(devices=[]):  # what is drawn here must not change the training
        for _ in range(5):
            for number in seconds:
                torch.set_num_threads(number)
                trial = copy.deepcopy(model)
                optimizer = torch.optim.AdamW(trial.parameters(), fused=True)
                schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
                start = time.perf_counter()
                train_epoch(trial, few, batch_size, optimizer, schedule, disable=True)
                seconds[number] = min(seconds[number], time.perf_counter() - start)
    best = threads if seconds[1] > 1.2 * seconds[threads] else 1
    torch.set_num_threads(best)
    one, several = (len(few) // batch_size / seconds[number] for number in (1, threads))
    note(
        f"training on {best} of {threads} threads (batches/s: {one:.0f} on 1, {several:.0f} on all)"
    )


def keep_freed_memory() -> None:
    """Ask the C library to keep what is freed for the next allocation (glibc, so most of Linux).

    By default it hands large blocks back to the system at once. A training step that frees a few
    megabytes, for the next one to ask for again, then spends a third of its time on page faults.
    """
    trim_threshold, mmap_threshold = -1, -3  # mallopt's names for them, from <malloc.h>
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_threshold, 32 << 20)  # bytes; the largest value it takes
        mallopt(trim_threshold, 512 << 20)


def predict(model: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Predict every row of `inputs` (rows, …) in large batches: (rows,)."""
    import torch

    model.eval()
    with torch.inference_mode():
        return torch.cat([model(batch) for batch in inputs.split(1024)])


def evaluate(model: torch.nn.Module, dataset: TensorDataset) -> float:
    """Return the mean squared error of the model over the whole dataset."""
    from torchmetrics.functional import mean_squared_error

    inputs, targets = dataset.tensors
    return mean_squared_error(predict(model, inputs), targets).item()
