"""Helpers of all scripts: running a script, data, the LSTM of the tasks, metrics.

Libraries that take seconds to import and that most scripts do not need (evaluate, datasets,
matplotlib, pooch, huggingface_hub) are imported in the functions that use them.
"""

from __future__ import annotations

import argparse
import atexit
import codecs
import contextlib
import csv
import ctypes
import inspect
import io
import math
import os
import random
import re
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

# Libraries read these variables when they are imported. So the scripts import this module first.
if "OMP_WAIT_POLICY" not in os.environ:  # waiting threads soon leave the processor to others
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # GNU OpenMP: sleeping at once would be slower
os.environ["MPLBACKEND"] = "agg"  # pictures are only saved; notebooks set another backend
try:
    urlsplit(os.environ.get("HF_ENDPOINT", "")).port  # noqa: B018
except ValueError:  # huggingface_hub could not be imported; `hub_errors` reports the value
    os.environ["HF_ENDPOINT"] = os.environ["HF_ENDPOINT"].replace("/", "")

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.data import TensorDataset

if TYPE_CHECKING:
    import evaluate
    from matplotlib.figure import Figure

# --- 1. Running a script ------------------------------------------------------------------------

RESULTS = Path(__file__).resolve().parent / "results"  # pictures and saved networks


class ScriptError(Exception):
    """An error the user can fix. Its message is printed as a single line."""


def run(main: Callable[[], int]) -> int:
    """Run `main` and return the exit code of the script.

    The code is 0 on success, 130 after Ctrl-C or `kill`, and 1 after an error the user can fix: a
    `ScriptError` or an error of the operating system such as a full disk. Those errors are printed
    as one line on standard error. Any other exception is a bug and keeps its traceback.
    """
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)  # no traceback at shutdown
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` stops workers too
    try:
        prepare_process()
        code = main()
        sys.stdout.flush()  # raises OSError here if the disk is full
        return code
    except ScriptError as error:
        code, message = 1, str(error)
    except KeyboardInterrupt:
        code, message = 130, "interrupted"
    except BrokenPipeError:
        code, message = 1, "standard output was closed before everything was written"
    except OSError as error:
        prefix = f"{error.filename}: " if error.filename else ""
        code, message = 1, f"{prefix}{error.strerror or error}"
    note(message)
    try:
        sys.stdout.flush()
    except OSError:  # drop the unwritten output; otherwise Python fails again during shutdown
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def prepare_process() -> None:
    """Make the process independent of settings that it inherits from a shell or a notebook."""
    if sys.stderr is None:  # closed; print would write to standard output instead
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        raise ScriptError("standard output is closed, so no result can be printed")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # an encoding without Cyrillic is no error
            stream.reconfigure(errors="backslashreplace")
    for name in list(os.environ):  # of launchers; with them, Trainer waits for other processes
        if name.startswith("ACCELERATE_") or name.endswith(("RANK", "WORLD_SIZE", "PMI_SIZE")):
            del os.environ[name]
    if matplotlib := sys.modules.get("matplotlib"):
        matplotlib.rcParams["text.parse_math"] = False  # a label such as "$10-$20" is plain text


def note(message: str) -> None:
    """Print one line on standard error, prefixed with the name of the script."""
    print(f"{Path(sys.argv[0]).name}: {' '.join(message.split())}", file=sys.stderr)


def split_sentences(text: str) -> list[str]:
    """Split a text after punctuation that is followed by whitespace and a capital or digit."""
    return re.split(r"(?<=[.!?])\s+(?=[A-Z0-9\"'(\[])", text.strip())


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the error's name if it has no message."""
    return str(error).strip().partition("\n")[0][:160] or type(error).__name__


@contextlib.contextmanager
def checkpoint_errors(folder: Path) -> Iterator[None]:
    """Turn an error of a library that computes with a checkpoint into a `ScriptError`.

    Nearly anything can be wrong with a checkpoint: its chat template, its special tokens, or sizes
    that do not fit together.
    """
    try:
        yield
    except (ScriptError, OSError):
        raise
    except Exception as error:
        name = type(error).__name__
        message = f"{folder}: this model failed ({name}: {first_line(error)}); use another model"
        raise ScriptError(message) from error


def finite(value: float, name: str) -> float:
    """Return `value`. Raises `ScriptError` with `name` and `value` if it is not finite."""
    if not math.isfinite(value):
        raise ScriptError(f"{name} is {value}, not a finite number; use other data or settings")
    return value


def in_range(kind: type, lowest: float, highest: float) -> Callable[[str], Any]:
    """Return an argparse type for a number of `kind`, int or float, from `lowest` to `highest`."""

    def parse(text: str) -> Any:
        value = kind(text)
        if not lowest <= value <= highest:
            raise argparse.ArgumentTypeError(f"{text} is not in the range {lowest} to {highest}")
        return value

    parse.__name__ = kind.__name__  # argparse reports a ValueError as "invalid int value"
    return parse


def temperature(text: str) -> float:
    """Return the number in an argument of argparse: 0, or at least 0.01 and at most 100."""
    if float(text) == 0:
        return 0.0
    return in_range(float, 0.01, 100)(text)  # logits divided by less would overflow


OPTIONS: dict[str, dict[str, Any]] = {  # options that mean the same in every script
    "--seed": {
        "type": in_range(int, 0, 2**32 - 101),  # NumPy accepts 100 more; scripts count up from it
        "default": 0,
        "help": "seed of the random number generators (default: 0)",
    },
    "--device": {
        "choices": ("auto", "cpu", "cuda", "mps"),
        "default": "auto",
        "help": "where to compute (default: CUDA if available, else the CPU)",
    },
    "--quick": {"action": "store_true", "help": "a short smoke run"},
    "--data": {"type": Path, "metavar": "DIR", "help": "folder with the data files"},
    "--text": {"type": Path, "metavar": "FILE", "help": "text file to use instead of the Inferno"},
}


def argument_parser(docstring: str, *options: str, **models: str) -> argparse.ArgumentParser:
    """Return a parser with a script's docstring as its help and the named shared options.

    Each keyword adds an option of its name whose default is that model.
    """
    parser = argparse.ArgumentParser(
        description=docstring,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for option in options:
        parser.add_argument(option, **OPTIONS[option])
    for name, default in models.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            metavar="ID_OR_DIR",
            default=default,
            help=f"model on the Hub, folder of a checkpoint, or bundled (default: {default})",
        )
    return parser


def seed_everything(seed: int) -> None:
    """Seed the generators of Python, NumPy and torch, and choose deterministic algorithms.

    An operation without a deterministic algorithm on the device only causes a warning.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS needs it
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # True costs time
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def select_device(name: str) -> torch.device:
    """Return the device `name`; "auto" is CUDA if available, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    available = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if name in available and not available[name]():
        raise ScriptError(f"this machine has no {name} device; use --device cpu")
    return torch.device(name)


@contextlib.contextmanager
def complete_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`; rename it to `path` on success."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary_path = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary_path
        temporary_path.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk is reported without a name
        raise
    finally:
        temporary_path.unlink(missing_ok=True)


@contextlib.contextmanager
def complete_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder next to `path`; it replaces `path` on success.

    Raises `ScriptError` if the folder cannot be filled.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as temporary:
        new, old = Path(temporary, "new"), Path(temporary, "old")
        new.mkdir()
        try:
            yield new
        except Exception as error:  # safetensors and tokenizers have their own for a full disk
            raise ScriptError(f"{path}: not saved ({first_line(error)})") from error
        if path.exists():
            path.rename(old)
        new.rename(path)


def make_folder(path: Path) -> None:
    """Create a folder and check that files can be written to it. Raises `OSError` if not."""
    path.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=path).close()


def save_figure(figure: Figure, path: Path) -> None:
    """Save a matplotlib figure, with a note on standard error."""
    with complete_file(path) as temporary_path, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # letters that the font does not have
        figure.savefig(temporary_path, dpi=150)
    note(f"saved the picture {path}")


def save_tensors(path: Path, content: dict[str, Any]) -> None:
    """Save a dictionary of tensors, numbers and strings, nested or not, with `torch.save`."""
    buffer = io.BytesIO()  # torch itself reports a full disk as a RuntimeError
    torch.save(content, buffer)
    with complete_file(path) as temporary_path:
        temporary_path.write_bytes(buffer.getbuffer())


def load_tensors(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Load a file of `save_tensors`. Raises `ValueError` if torch cannot read it."""
    buffer = io.BytesIO(path.read_bytes())
    try:
        return torch.load(buffer, device, weights_only=True)
    except Exception as error:  # torch raises nearly any error for a damaged file
        raise ValueError(first_line(error)) from error


# --- 2. Data ------------------------------------------------------------------------------------

DATA = Path(__file__).resolve().parent / "DATA"
NETWORK_TIMEOUT = 5  # seconds to wait for a server before the network counts as absent

ELECTRICITY_URL = (  # pinned to a commit of the course's repository
    "https://raw.githubusercontent.com/SimeonHristov99/ML_24-25/"
    "e49f4d73b173dc9e42af30e40da5fa0d890378c7/DATA/electricity_consumption/"
)
ELECTRICITY_SHA256 = {
    "train": "d0d462efe33007d90f7fb5d84466ad12e45a6ef0adb07371c764b77eca357230",
    "test": "948d6f836e5e312a67243299cda71dab2595f7f974856c7494109fcf80810673",
}
ELECTRICITY_FILE = "electricity_{split}.csv"
ELECTRICITY_COLUMNS = ["timestamp", "consumption"]
READINGS_PER_DAY = 96  # one every 15 minutes


def check_server(url: str) -> None:
    """Raise `ScriptError` unless the server of `url` responds within `NETWORK_TIMEOUT` seconds."""
    import requests

    outcome: list[str] = []  # of the thread: an empty string, or why the server cannot be asked

    def send_request() -> None:
        try:
            requests.head(url, timeout=NETWORK_TIMEOUT)
            outcome.append("")
        except requests.RequestException:
            pass  # no answer
        except (OSError, ValueError) as error:  # such as a bundle of certificates that is missing
            outcome.append(first_line(error))

    thread = threading.Thread(target=send_request, daemon=True)
    thread.start()
    thread.join(NETWORK_TIMEOUT)  # the timeout of requests excludes the DNS lookup
    if outcome != [""]:
        reason = "".join(f" ({each})" for each in outcome)
        raise ScriptError(f"no answer from {urlsplit(url).netloc}{reason}")


def download(url: str, sha256: str | None, path: Path) -> None:
    """Download `url` to `path`, which appears only when the file is complete.

    Raises `ScriptError` if the server does not respond, the download fails or the digest differs.
    """
    import pooch
    import requests

    check_server(url)
    pooch.get_logger().setLevel("WARNING")
    downloader = pooch.HTTPDownloader(progressbar=True, timeout=30)
    digest = f"sha256:{sha256}" if sha256 else None
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            file = pooch.retrieve(url, digest, path.name, folder, downloader=downloader)
            Path(file).replace(path)
    except requests.RequestException as error:
        raise ScriptError(f"the download of {url} failed: {first_line(error)}") from error
    except ValueError as error:  # raised by pooch, which deletes the file
        raise ScriptError(f"the file at {url} has the wrong SHA-256 and was discarded") from error


@contextlib.contextmanager
def hub_errors(name: str) -> Iterator[str]:
    """Check that the Hub responds, yield the URL of a page, and turn errors into `ScriptError`."""
    from httpx2 import HTTPError  # the HTTP library of huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    if constants.HF_HUB_OFFLINE:
        raise ScriptError("HF_HUB_OFFLINE is set, so nothing can be downloaded")
    if not urlsplit(constants.ENDPOINT).netloc:
        raise ScriptError(f"HF_ENDPOINT is {constants.ENDPOINT!r}; it must be a URL with https://")
    check_server(constants.ENDPOINT)
    page = f"{constants.ENDPOINT}/{name}"
    try:
        yield page
    except GatedRepoError as error:
        raise ScriptError(f"{page} requires you to log in and accept its terms") from error
    except RepositoryNotFoundError as error:
        raise ScriptError(f"{page} does not exist or is private") from error
    except (HFValidationError, HTTPError, OSError, RuntimeError) as error:
        raise ScriptError(f"{page} cannot be downloaded ({first_line(error)})") from error


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, UTF-16 with a byte order mark, or Windows-1252.

    Line breaks become LF, and Windows-1252 is announced in a note. Raises `ScriptError` naming the
    file if it is not text, or a pointer of Git LFS.
    """
    check_no_pointer(path)
    raw = path.read_bytes()
    try:
        is_utf_16 = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = raw.decode("utf-16" if is_utf_16 else "utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("cp1252", errors="replace").replace("\ufffd", "\0")  # undefined bytes
        if "\0" not in text:
            note(f"{path}: not UTF-8; read as Windows-1252")
    text = re.sub(r"\x1a\s*\Z", "", text)  # Ctrl-Z, the end of a text in DOS
    text = re.sub(r"\r\n?", "\n", text)  # line breaks of Windows and of old Macs
    if re.search(r"[\x00-\x08\x0e-\x1f]", text):
        raise ScriptError(f"{path}: not a text file in UTF-8 or Windows-1252")
    return text


def check_no_pointer(path: Path) -> None:
    """Raise `ScriptError` if a file is a pointer of Git LFS instead of the file itself."""
    with path.open("rb") as file:
        if file.read(40).startswith(b"version https://git-lfs"):
            raise ScriptError(f"{path}: a pointer of Git LFS; run `git lfs pull` in its folder")


def check_folder(folder: Path, *names: str) -> None:
    """Raise `ScriptError` naming the first of these files that is missing in a data folder."""
    for name in names:
        if not (folder / name).exists():
            raise ScriptError(
                f"{folder / name}: no such file; --data takes a folder with {' and '.join(names)}"
            )


def read_csv(path: Path) -> pd.DataFrame:
    """Read a CSV file with every cell as text. Commas, semicolons or tabs separate the cells.

    Raises `ScriptError` naming the file if it is empty or not a CSV file, or if two columns have
    the same name.
    """
    text = re.sub(r"\n\s*\Z", "\n", read_text(path))  # without blank lines at the end
    header = text.partition("\n")[0]
    separator = max(",;\t", key=header.count)  # the comma, if the header has none of them
    options = {"dtype": str, "keep_default_na": False, "skip_blank_lines": False}
    try:
        table = pd.read_csv(io.StringIO(text), sep=separator, **options)
    except pd.errors.EmptyDataError as error:
        problem = "row 1 has no column names" if text.strip() else "the file is empty"
        raise ScriptError(f"{path}: {problem}") from error
    except pd.errors.ParserError as error:
        raise ScriptError(f"{path}: not a CSV file ({first_line(error)})") from error
    if not isinstance(table.index, pd.RangeIndex):  # pandas made surplus cells the index
        raise ScriptError(f"{path}: not a CSV file (row 2 has more cells than the header)")
    names = next(csv.reader([header], delimiter=separator))
    if repeated := [name for name in names if names.count(name) > 1]:  # pandas would rename one
        raise ScriptError(f"{path}: row 1: two columns are named {repeated[0]!r}; rename one")
    return table.rename(columns=str.strip)


def find_electricity(folder: Path | None = None) -> Path:
    """Return the folder with both splits of the electricity data.

    That is `folder` if given, else `DATA/electricity_consumption`, filled from the course's
    repository when files are missing. Without a network it is `DATA/synthetic_load_curve`, with a
    note on standard error. Both splits always come from the same source.
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
            f"{error}; using a synthetic load curve ({synthetic}) instead of the recordings. "
            "Run again with a network, or name the folder of the recordings with --data DIR"
        )
    for split in ELECTRICITY_SHA256:
        path = synthetic / ELECTRICITY_FILE.format(split=split)
        if not path.exists():
            with complete_file(path) as temporary_path:
                synthetic_electricity(split).to_csv(temporary_path, index=False)
    return synthetic


def load_electricity(split: str, folder: Path) -> pd.DataFrame:
    """Load the `train` (2011 to 2013) or `test` (2014) split of the electricity consumption.

    Returns a frame with the columns `timestamp` (every 15 minutes) and `consumption` (float32,
    standardised to mean 0 and standard deviation 1). Raises `ScriptError` naming file, row and
    column of the first error. Rows are counted as in a spreadsheet, where the header is row 1.
    """
    path = folder / ELECTRICITY_FILE.format(split=split)

    def reject_rows(is_wrong: np.ndarray, column: str, problem: str) -> None:
        if is_wrong.any():
            row = int(is_wrong.argmax())
            cell = str(table[column][row])[:40]
            raise ScriptError(f"{path}: row {row + 2}, column {column}: {cell!r} {problem}")

    check_folder(folder, path.name)
    table = read_csv(path)
    if list(table.columns) != ELECTRICITY_COLUMNS:
        columns, expected = (",".join(each)[:60] for each in (table.columns, ELECTRICITY_COLUMNS))
        raise ScriptError(f"{path}: row 1: the columns are {columns!r}, not {expected!r}")
    with np.errstate(over="ignore"):  # numbers too large for float32 become infinite
        numbers = pd.to_numeric(table["consumption"], errors="coerce").astype("float32")
    reject_rows(~np.isfinite(numbers.to_numpy()), "consumption", "is not a finite number")
    times = pd.to_datetime(table["timestamp"], format="%Y-%m-%d %H:%M:%S", errors="coerce")
    reject_rows(times.isna().to_numpy(), "timestamp", "is not a time like 2011-01-01 00:15:00")
    minutes = times.diff().dt.total_seconds().to_numpy() / 60  # the first is NaN
    reject_rows(minutes < 0, "timestamp", "is earlier than the row before")
    reject_rows(minutes == 0, "timestamp", "repeats the row before")
    is_gap = ~np.isnan(minutes) & (minutes != 15)
    reject_rows(is_gap, "timestamp", "is not 15 minutes after the row before")
    if len(table) <= READINGS_PER_DAY:
        raise ScriptError(f"{path}: {len(table)} rows; at least {READINGS_PER_DAY + 1} are needed")
    return pd.DataFrame({"timestamp": times, "consumption": numbers})


def synthetic_electricity(split: str) -> pd.DataFrame:
    """Return a synthetic split with the calendar and the scale of the recordings.

    The curve imitates a customer with opening hours: a low load at night, a working day with peaks
    in the morning and the evening, quiet weekends, a higher load in winter, and autocorrelated
    noise. Over all four years the mean is 0 and the standard deviation is 1.
    """
    times = pd.date_range("2011-01-01 00:15", "2014-12-31 23:45", freq="15min")
    generator = np.random.default_rng(20110101)
    hour = times.hour.to_numpy() + times.minute.to_numpy() / 60
    day = (times.normalize() - times[0].normalize()).days.to_numpy()
    opens, closes = (
        mean + 0.3 * generator.standard_normal(day[-1] + 1)[day] for mean in (8, 21.75)
    )
    season = np.cos(2 * np.pi * (times.day_of_year.to_numpy() - 20) / 365.25)
    shape = 1.2 + 0.5 * np.exp(-((hour - 11) ** 2) / 4) + np.exp(-((hour - 19) ** 2) / 6)
    is_open = (opens <= hour) & (hour < closes)
    activity = np.where(times.day_of_week < 5, 1.0, 0.25)
    activity *= generator.normal(1, 0.1, day[-1] + 1)[day]
    shocks = generator.normal(0, 0.06, len(times))
    noise = pd.Series(shocks).ewm(alpha=0.1).mean().to_numpy() * 3 + shocks
    load = is_open * shape * activity * (1 + 0.15 * season) + 0.1 * season + noise

    standardised = (load - load.mean()) / load.std()
    step, lowest, highest = 0.02533588, -1.414483, 3.028924  # the meter's resolution and range
    grid = lowest + step * np.round((standardised.clip(lowest, highest) - lowest) / step)
    frame = pd.DataFrame({"timestamp": times, "consumption": grid.round(6)})
    return frame[(times.year == 2014) == (split == "test")].reset_index(drop=True)


# --- 3. Sequences and the LSTM ------------------------------------------------------------------

SEQUENCE_LENGTH = READINGS_PER_DAY  # the model reads one day to predict the next reading


def create_sequences(frame: pd.DataFrame, sequence_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut the last column of `frame` into windows and the value that follows each window.

    Returns `inputs` (windows, sequence_length) and `targets` (windows,), where windows is
    `len(frame) - sequence_length`. Both are read-only views of one series, so that overlapping
    windows take no memory. Raises `ValueError` if no window fits.
    """
    series = frame.iloc[:, -1].to_numpy()
    if not 1 <= sequence_length < len(series):
        raise ValueError(
            f"sequence_length is {sequence_length}; it must be at least 1 and less than "
            f"the {len(series)} values of the series"
        )
    windows = np.lib.stride_tricks.sliding_window_view(series, sequence_length)
    return windows[:-1], series[sequence_length:]


def sequence_dataset(
    inputs: np.ndarray, targets: np.ndarray, device: torch.device | str = "cpu"
) -> TensorDataset:
    """Return the arrays of `create_sequences` as a dataset for a recurrent network.

    Its tensors are (windows, time, 1) and (windows,). On the CPU they share the arrays' memory.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch warns that the arrays are read-only
        windows = torch.from_numpy(inputs).unsqueeze(-1)  # (windows, time, 1)
        return TensorDataset(windows.to(device), torch.from_numpy(targets).to(device))


class ConsumptionLSTM(nn.Module):
    """Two stacked LSTM layers and a linear layer on the last output of the upper one."""

    def __init__(self, hidden_size: int = 32, num_layers: int = 2) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, hidden_size, num_layers, batch_first=True)
        self.linear = nn.Linear(hidden_size, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Predict the value after each window: (batch, time, 1) to (batch,)."""
        shape = (self.lstm.num_layers, len(inputs), self.lstm.hidden_size)
        hidden_state = inputs.new_zeros(shape)  # (layers, batch, hidden), the short-term memory
        cell_state = inputs.new_zeros(shape)  # (layers, batch, hidden), the long-term memory
        outputs, _ = self.lstm(inputs, (hidden_state, cell_state))  # (batch, time, hidden)
        return self.linear(outputs[:, -1]).squeeze(-1)  # (batch,)


def one_cycle(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """Return a schedule that scales the learning rate: up for a tenth of the steps, then down.

    The rate rises linearly and falls to zero along a cosine.
    """

    def scale(step: int) -> float:
        return min(10 * (step + 1) / steps, (1 + math.cos(math.pi * step / steps)) / 2)

    return torch.optim.lr_scheduler.LambdaLR(optimizer, scale)


def keep_freed_memory() -> None:
    """Tell the C library to reuse freed memory instead of returning it to the system (glibc).

    A training step frees a few megabytes that the next step allocates again. With the default
    settings a third of the time is spent on page faults. Other C libraries are left unchanged.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of <malloc.h>
    with contextlib.suppress(AttributeError, OSError, TypeError):  # no mallopt on this system
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_threshold, 32 << 20)  # bytes; the highest value it accepts
        mallopt(trim_threshold, 512 << 20)


# --- 4. Metrics ---------------------------------------------------------------------------------


def local_metric(function: Callable[..., dict[str, Any]]) -> evaluate.Metric:
    """Return a metric with the interface of evaluate that computes with `function`.

    `metric.compute(predictions=…, references=…)` calls `function` with the same arguments. Each
    prediction has one reference, or a list of several. `evaluate.load` would download a program
    from the Hub and run it.
    """
    import datasets
    import evaluate

    text = datasets.Value("string")
    features = [datasets.Features({"predictions": text})]
    if "references" in inspect.signature(function).parameters:
        references = (datasets.Sequence(text), text)
        features = [datasets.Features({"predictions": text, "references": r}) for r in references]

    class Metric(evaluate.Metric):
        def _info(self) -> evaluate.MetricInfo:
            return evaluate.MetricInfo(function.__doc__ or "", citation="", features=features)

        def _compute(self, **arguments: Any) -> dict[str, Any]:
            return function(**arguments)

    Metric.__name__ = function.__name__
    return Metric(keep_in_memory=True)  # else it writes its arguments to a file
