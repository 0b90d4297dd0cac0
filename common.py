"""Helpers of all scripts.

1. Sequences and the LSTM: `create_sequences`, `sequence_dataset`, `ConsumptionLSTM`, `one_cycle`
2. Hugging Face: find a model, load it, give it a new head, compute a metric
3. Running a script: options, errors, seeds, the device, and files that are complete or absent

Libraries that take seconds to import and that most scripts do not need (transformers, datasets,
evaluate, matplotlib, pooch) are imported in the functions that use them.
"""

import argparse
import atexit
import contextlib
import csv
import inspect
import io
import math
import os
import random
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.data import TensorDataset

if TYPE_CHECKING:
    import evaluate
    from matplotlib.figure import Figure
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# --- 1. Sequences and the LSTM -------------------------------------------------------------------

SEQUENCE_LENGTH = 96  # readings in one day; the model reads a day to predict the next reading


def create_sequences(frame: pd.DataFrame, sequence_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut the last column of `frame` into windows and the value that follows each window.

    For the values 0 1 2 3 4 and a length of 2, the inputs are [0 1] [1 2] [2 3], and the targets
    are 2 3 4. Returns `inputs` (windows, sequence_length) and `targets` (windows,), where windows
    is `len(frame) - sequence_length`. Raises `ValueError` if no window fits.
    """
    series = frame.iloc[:, -1].to_numpy()
    if not 1 <= sequence_length < len(series):
        raise ValueError(
            f"sequence_length is {sequence_length}; it must be at least 1 and less than "
            f"the {len(series)} values of the series"
        )
    # the same as np.stack([series[i : i + sequence_length] for i in range(windows)]), but a view:
    # overlapping windows share their memory
    windows = np.lib.stride_tricks.sliding_window_view(series, sequence_length)
    return windows[:-1], series[sequence_length:]


def sequence_dataset(
    inputs: np.ndarray, targets: np.ndarray, device: torch.device | str = "cpu"
) -> TensorDataset:
    """Return the arrays of `create_sequences` as a dataset for a recurrent network.

    Its tensors are (windows, time, 1) and (windows,).
    """
    windows = torch.tensor(inputs, device=device).unsqueeze(-1)  # (windows, time, 1)
    return TensorDataset(windows, torch.tensor(targets, device=device))


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
        # nn.GRU has no long-term memory: it takes `hidden_state` alone
        outputs, _ = self.lstm(inputs, (hidden_state, cell_state))  # (batch, time, hidden)
        return self.linear(outputs[:, -1]).squeeze(-1)  # (batch,)


def one_cycle(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """Return a schedule that scales the learning rate: up for a tenth of the steps, then down.

    The rate rises linearly and falls to zero along a cosine.
    """

    def scale(step: int) -> float:
        return min(10 * (step + 1) / steps, (1 + math.cos(math.pi * step / steps)) / 2)

    return torch.optim.lr_scheduler.LambdaLR(optimizer, scale)


# --- 2. Hugging Face -----------------------------------------------------------------------------

# Files of a repository to download: many repositories hold the weights in several formats.
SETTINGS_FILES = ("*.json", "*.txt", "*.model", "*.spm", "*.jinja")
WEIGHTS_FILES = ("*.safetensors", "pytorch_model*.bin")  # the first format that exists
NETWORK_TIMEOUT = 10  # seconds until a Hub that does not respond counts as absent


def find_model(
    name: str | None, default: str, fallback: Callable[[], Path], weights: bool = True
) -> Path:
    """Return the folder of a model: `name` from --model, else `default`, else `fallback()`.

    A name is a folder, a model on the Hub, or "bundled", which calls `fallback`. Models of the Hub
    are downloaded once; without `weights` only the tokenizer is. If the `default` is neither on the
    disk nor on the Hub, the bundled model of `fallback` is used, with a note on standard error.
    Raises `ScriptError` if there is no model called `name`.
    """
    if (name or default) == "bundled":
        return fallback()
    if name and Path(name).is_dir():
        return Path(name)
    repository = name or default
    try:
        for weights_file in WEIGHTS_FILES if weights else ("tokenizer*",):
            folder = fetch_from_hub(repository, [*SETTINGS_FILES, weights_file])
            if any(folder.glob(weights_file)):
                return folder
        raise ScriptError(f"{repository}: the repository has no PyTorch weights")
    except ScriptError as error:
        if name:
            raise ScriptError(f"{error}; name a folder or a model of the Hub") from error
        folder = fallback()  # before the note, because it may fail too
        kind = fallback.__name__.replace("_", " ")
        note(f"{error}. The bundled {kind} replaces it; run again with a network to download it")
        return folder


def fetch_from_hub(repository: str, patterns: list[str], **options: Any) -> Path:
    """Return the folder of a repository in the Hub's cache, downloaded if it is not there.

    `patterns` name its files; the options are those of `snapshot_download`. Raises `ScriptError` if
    the files cannot be downloaded.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    folder, options = None, {"allow_patterns": patterns, **options}
    problem = f"{repository} cannot be downloaded"
    with errors_in(problem):
        with contextlib.suppress(LocalEntryNotFoundError):  # not in the cache, or not complete
            folder = Path(snapshot_download(repository, local_files_only=True, **options))
            # Without this list of the repository's files, nobody knows if the folder is complete.
            if (folder.parents[1] / "trees" / f"{folder.name}.json").exists():
                return folder
        try:  # snapshot_download itself waits for minutes for a server that does not respond
            kind = options.get("repo_type")
            with errors_in(problem):
                HfApi().repo_info(repository, repo_type=kind, timeout=NETWORK_TIMEOUT)
        except ScriptError:
            if not folder:
                raise
            note(f"{repository} is used from the cache; if files are missing, run with a network")
            return folder
        return Path(snapshot_download(repository, **options))


def load(auto_class: Any, folder: Path) -> Any:
    """Load a model, a tokenizer or a configuration from a folder with a class of transformers.

    A model is in float32, on the CPU and in eval mode. A decoder forgets its own settings for
    `generate`, such as sampling, so that those of the call decide. Raises `ScriptError` if the
    folder does not contain such a checkpoint. It also raises it for four mistakes that transformers
    accepts silently: a tokenizer without a vocabulary, missing weights, weights that are not
    finite, and a model that reads in both directions loaded as a causal model.
    """
    import transformers

    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    transformers.logging.disable_progress_bar()
    name = auto_class.__name__
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    if is_model := not any(kind in name for kind in ("Tokenizer", "Config")):
        options |= {"dtype": torch.float32, "output_loading_info": True}
    with errors_in(f"{folder}: not a checkpoint for {name}"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Recommended: pip install sacremoses")
        loaded = auto_class.from_pretrained(folder, **options)
        if "Tokenizer" in name and len(set(loaded.get_vocab()) - {*loaded.all_special_tokens}) < 20:
            raise ScriptError(f"{folder}: the vocabulary of the tokenizer is missing")
        if not is_model:
            return loaded
        model, report = loaded
        missing = sorted(report["missing_keys"])  # transformers draws these weights at random
        if any(not weight.startswith("pooler.") for weight in missing):
            raise ScriptError(f"{folder}: the checkpoint has no {missing[0]}, which {name} needs")
        if missing:
            model.pooler = None  # no script uses it
        for weight_name, weight in model.named_parameters():
            if not weight.isfinite().all():
                raise ScriptError(f"{folder}: {weight_name} has values that are not finite numbers")
        if "CausalLM" in name and not is_causal(model):
            raise ScriptError(f"{folder}: not a causal model; it also reads the tokens that follow")
        if model.can_generate() and not model.config.is_encoder_decoder:
            own = model.generation_config.to_dict()
            ids = {key: own[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
            model.generation_config = transformers.GenerationConfig(**ids)
    return model


@torch.inference_mode()
def is_causal(model: "PreTrainedModel") -> bool:
    """Return whether the predictions of a model are independent of the tokens that follow."""
    tokens = torch.tensor([[1, 2, 3, 4], [1, 2, 5, 6]])  # (2, time), equal up to the second token
    first, second = model(tokens).logits[:, 1]  # (vocabulary,) each
    return torch.allclose(first, second, rtol=1e-3, atol=1e-3)


def context_length(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> int:
    """Return the number of tokens that a model reads at once; a large number if it has no limit.

    RoBERTa counts positions from its padding id on, so it has fewer than its configuration says.
    """
    positions = getattr(model.config, "max_position_embeddings", None) or 10**9
    if "roberta" in model.config.model_type:
        positions -= model.config.pad_token_id + 1
    return min(positions, tokenizer.model_max_length)


def check_length(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", length: int
) -> None:
    """Raise `ScriptError` if `length` tokens do not fit into the context of a model."""
    if length > (longest := context_length(model, tokenizer)):
        raise ScriptError(
            f"the text takes {length} tokens, but this model reads at most {longest}; "
            "use a shorter text or another model"
        )


def add_head(auto_class: Any, folder: Path, id2label: dict[int, str]) -> "PreTrainedModel":
    """Return the encoder of a checkpoint with a new head, whose weights are random.

    A head is the last layer, which turns hidden states into the outputs of one task. `auto_class`
    is an Auto class with such a head; `id2label` names its outputs. `from_pretrained` with as many
    labels as before would keep the old head. BERT has another layer below the head, the pooler. If
    the checkpoint has none, it starts at random and is trained with the head. Raises `ScriptError`
    if the folder contains no checkpoint for this class.
    """
    from transformers import AutoModel

    encoder = load(AutoModel, folder)
    config = encoder.config
    config.problem_type = None  # of the old head
    config.id2label, config.label2id = id2label, {name: key for key, name in id2label.items()}
    with errors_in(folder):
        model = auto_class.from_config(config)
        report = model.base_model.load_state_dict(encoder.state_dict(), strict=False)
    if missing := [name for name in report.missing_keys if not name.startswith("pooler.")]:
        raise ScriptError(f"{folder}: the encoder has no {missing[0]}")
    return model


def local_metric(function: Callable[..., dict[str, Any]]) -> "evaluate.Metric":
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
    # in memory, and with a folder that can be written: the Hub's cache may be read-only
    return Metric(keep_in_memory=True, cache_dir=tempfile.gettempdir())


# --- 3. Running a script -------------------------------------------------------------------------

DATA = Path(__file__).resolve().parent / "DATA"
RESULTS = Path(__file__).resolve().parent / "results"  # pictures and saved networks


class ScriptError(Exception):
    """An error the user can fix. Its message is printed as a single line."""


@contextlib.contextmanager
def errors_in(source: object) -> Iterator[None]:
    """Turn any error of a library into a `ScriptError` that names `source`, a file or a model.

    It stands around reading a user's file and around computing with a user's model, where nearly
    anything can be wrong.
    """
    try:
        yield
    except ScriptError:
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error).strip().partition("\n")[0]
        message = f"{source} ({type(error).__name__}: {reason[:200]})"
        raise ScriptError(message) from error


def run(main: Callable[[], int]) -> int:
    """Run `main` and return the exit code of the script.

    The code is 0 on success, 130 after Ctrl-C or `kill`, and 1 after an error the user can fix: a
    `ScriptError`, too little memory, or an error of the operating system such as a full disk. Those
    errors are printed as one line on standard error. Any other exception is a bug and keeps its
    traceback.
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
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "tried to allocate" not in str(error).lower():
            raise  # PyTorch raises a RuntimeError for memory too, on each device
        code, message = 1, "too little memory; close other programs, or use less data"
    note(message)
    try:
        sys.stdout.flush()
    except OSError:  # drop the unwritten output; otherwise Python fails again during shutdown
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def prepare_process() -> None:
    """Make the output of the process independent of the user's settings."""
    if sys.stderr is None:  # closed; print would write to standard output instead
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        raise ScriptError("standard output is closed, so no result can be printed")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # characters that the terminal cannot encode are escaped
            stream.reconfigure(errors="backslashreplace")
    if matplotlib := sys.modules.get("matplotlib"):
        matplotlib.rcdefaults()  # whatever the user's matplotlibrc says
        matplotlib.rcParams["text.parse_math"] = False  # a label such as "$10-$20" is plain text


def note(message: str) -> None:
    """Print one line on standard error, prefixed with the name of the script."""
    print(f"{Path(sys.argv[0]).name}: {printable(message)}", file=sys.stderr)


def printable(text: str) -> str:
    """Return a text in one line, without control characters, which could change the terminal."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))


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


def not_empty(text: str) -> str:
    """Return a text of the user. Raises `ScriptError` if it is blank."""
    if not text.strip():
        raise ScriptError("the text is empty; give at least a word")
    return text


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
    "--text": {"type": Path, "metavar": "FILE", "help": "text file to use instead"},
}


def argument_parser(docstring: str, *options: str, **models: str) -> argparse.ArgumentParser:
    """Return a parser with a script's docstring as its help and the named shared options.

    Each keyword argument adds a model option: `model="gpt2"` adds `--model`. Its value is None if
    the user does not name a model; the help shows the default.
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
def complete_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path for a file or a folder; it is renamed to `path` on success.

    An old folder is removed only when the new one has its name. A link stays a link.
    """
    path = Path(os.path.realpath(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            new, old = Path(folder, path.name), Path(folder, f"{path.name}.old")
            yield new
            try:
                if new.is_dir() and path.is_dir():  # a folder cannot replace one in a single step
                    path.rename(old)
                new.replace(path)
            finally:  # after an error or Ctrl-C the old folder gets its name back
                if old.exists() and not path.exists():
                    old.rename(path)
    except OSError as error:
        error.filename = str(path)  # not the temporary name
        raise


def save_figure(figure: "Figure", path: Path) -> None:
    """Save a matplotlib figure, with a note on standard error."""
    with complete_path(path) as temporary_path, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # letters that the font does not have
        figure.savefig(temporary_path, dpi=150)
    note(f"saved the picture {path}")


def save_tensors(path: Path, content: dict[str, Any]) -> None:
    """Save a dictionary of tensors, numbers and strings, nested or not, with `torch.save`."""
    buffer = io.BytesIO()  # torch itself reports a full disk as a RuntimeError
    torch.save(content, buffer)
    with complete_path(path) as file:
        file.write_bytes(buffer.getbuffer())


def load_tensors(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Load a file of `save_tensors`. Raises `ScriptError` naming the file if torch cannot."""
    with errors_in(path):
        return torch.load(path, device, weights_only=True)


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, with or without a byte order mark; line breaks become LF.

    Raises `ScriptError` naming the file, and the first byte that is not UTF-8.
    """
    with errors_in(f"{path}: cannot be read as UTF-8 text"):
        text = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
        if "\0" in text:
            raise ValueError("it contains a zero byte")
    return text


def read_csv(path: Path) -> pd.DataFrame:
    """Read a CSV file with every cell as text. Commas, semicolons or tabs separate the cells.

    Raises `ScriptError` naming file and row if a row has too few or too many cells, if two columns
    have the same name, or if a quotation mark is never closed, which would join rows.
    """
    text = read_text(path).strip("\n")
    header = text.partition("\n")[0]
    separator = max(",;\t", key=header.count)  # the comma, if the header has none of them
    options: dict[str, Any] = {"delimiter": separator, "skipinitialspace": True, "strict": True}
    reader = csv.reader(io.StringIO(text), **options)
    rows: list[list[str]] = []
    while True:
        line = reader.line_num + 1
        with errors_in(f"{path}: line {line}"):
            row = next(reader, None)
        if row is None:
            break
        if rows and len(row) != len(rows[0]):
            problem = f"{len(row)} cells, where the header has {len(rows[0])}"
            raise ScriptError(f"{path}: line {line}: {problem}")
        rows.append(row)
    names = [name.strip() for name in rows[0]] if rows else []
    if repeated := [name for name in names if names.count(name) > 1]:  # pandas would accept them
        raise ScriptError(f"{path}: line 1: two columns are named {repeated[0]!r}; rename one")
    return pd.DataFrame(rows[1:], columns=names, dtype=str)


def check_folder(folder: Path, *names: str) -> None:
    """Raise `ScriptError` naming the first of these files that is missing in a data folder."""
    for name in names:
        if not (folder / name).exists():
            raise ScriptError(
                f"{folder / name}: no such file; --data takes a folder with {' and '.join(names)}"
            )


def download(url: str, sha256: str | None, path: Path) -> None:
    """Download `url` to `path`, which appears only when the file is complete.

    Raises `ScriptError` if the server does not respond or the digest differs.
    """
    import pooch

    pooch.get_logger().setLevel("WARNING")
    # seconds until the connection counts as absent, and between two packets
    downloader = pooch.HTTPDownloader(progressbar=True, timeout=(5, 30))
    digest = f"sha256:{sha256}" if sha256 else None
    with complete_path(path) as file, errors_in(f"{url} cannot be downloaded"):
        pooch.retrieve(url, digest, file.name, file.parent, downloader=downloader)
