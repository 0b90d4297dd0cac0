"""Helpers of the laboratory: the Inferno's text, data sets, features of texts, fine-tuning."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import html
import importlib
import inspect
import json
import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import common

import numpy as np
import pandas as pd
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

T = TypeVar("T")

# --- 1. The Inferno -----------------------------------------------------------------------------

INFERNO_FILE = "1ddcd09.txt"  # Project Gutenberg's etext of the first cantica, 7-bit, 9th edition
INFERNO_SOURCES = {  # tried in this order; the digest of the first file is not known
    f"https://archive.org/download/ladivinacommedia00997gut/{INFERNO_FILE}": None,
    "https://raw.githubusercontent.com/melizo4ka/DLA-labs/"
    f"02982275108b78aa84d8cfc8d43fcc81c0a9502c/{INFERNO_FILE}": (
        "fea89eb8c82207be2d91fcea93d8bcb669ee3d920d48fb8fe4af2655851a81b7"
    ),
}
INFERNO_SHA256 = "6691b66b95d84ca00c85e863980f2b5d9238f01ec117489f36c48f08490371db"  # cleaned text
INFERNO_START, INFERNO_END = "Nel mezzo del cammin", "riveder le stelle."
VERSES = common.DATA / "verses.txt"  # verses in terza rima, written for this project


def clean_text(text: str) -> str:
    """Return a text without trailing whitespace, or the Inferno alone if it is in the text.

    HTML pages become plain text. The edition with the published figures is cut out, from its first
    verse to its last: the file has a head and a foot, or is a page.
    """
    if re.match(r"\s*<(!doctype|html|pre)\b", text, re.IGNORECASE):
        preformatted = re.search(r"<pre\b[^>]*>(.*)</pre>", text, re.IGNORECASE | re.DOTALL)
        text = html.unescape(re.sub(r"<[^>]*>", "", preformatted[1] if preformatted else text))
        text = text.replace("\xa0", " ")  # HTML pages use non-breaking spaces
    text = "\n".join(line.rstrip() for line in text.split("\n")).strip("\n")
    start = text.find(INFERNO_START)
    poem = text[start : text.find(INFERNO_END, start) + len(INFERNO_END)]
    return poem if is_inferno(poem) else text


def is_inferno(text: str) -> bool:
    """Return whether a cleaned text is the edition of the Inferno with the published figures."""
    return hashlib.sha256(text.encode()).hexdigest() == INFERNO_SHA256


def find_inferno() -> Path:
    """Return `DATA/dante/1ddcd09.txt`, downloaded if necessary.

    Without a network, return the verses of this project, with a note on standard error.
    """
    path, failures = common.DATA / "dante" / INFERNO_FILE, []
    if path.exists():
        return path
    for url, sha256 in INFERNO_SOURCES.items():
        try:
            with common.complete_file(path) as temporary_path:
                common.download(url, sha256, temporary_path)
                if not is_inferno(clean_text(common.read_text(temporary_path))):
                    raise common.ScriptError(f"the file at {url} is not the poem")
            return path
        except common.ScriptError as error:
            failures.append(str(error))
    common.note(
        f"{'; '.join(failures)}; using {VERSES}, verses written for this project, instead of the "
        "Inferno. Run again with a network, or name a text file with --text FILE"
    )
    return VERSES


def load_inferno(path: Path | None = None) -> str:
    """Load the text in the file `path`, or Dante's Inferno: see `clean_text`, `find_inferno`.

    A note on standard error says if a file contains another text, or more than the Inferno. Raises
    `ScriptError` naming the file if it is missing or contains no text.
    """
    file = path or find_inferno()
    try:
        whole = common.read_text(file)
    except FileNotFoundError as error:
        raise common.ScriptError(f"{file}: no such file; --text takes a text file") from error
    text = clean_text(whole)
    if not text:
        raise common.ScriptError(f"{file}: the file is empty")
    if not is_inferno(text) and file != VERSES:
        common.note(f"{file}: not the edition of the Inferno that the published figures are for")
    elif len(whole) > 1.2 * len(text):  # more than the head and the foot of an etext
        common.note(f"{file}: only the Inferno is used, {len(text):,} of {len(whole):,} characters")
    return text


# --- 2. Data sets -------------------------------------------------------------------------------

PARQUET = "refs/convert/parquet"  # the branch where the Hub keeps a copy of each data set


class HubDataset(NamedTuple):
    """A data set on the Hugging Face Hub."""

    name: str
    megabytes: int  # of the download
    config: str = "default"


def hub_table(dataset: HubDataset, split: str) -> pd.DataFrame:
    """Load a split of a data set from the Hub's cache, downloading it if necessary.

    Raises `ScriptError` if it is neither in the cache nor available from the Hub.
    """
    pattern = f"{dataset.config}/{split}/*.parquet"
    options = {"repo_type": "dataset", "revision": PARQUET, "allow_patterns": pattern}
    files: list[Path] = []
    with contextlib.suppress(LocalEntryNotFoundError):
        folder = snapshot_download(dataset.name, local_files_only=True, **options)
        files = sorted(Path(folder).glob(pattern))
    if not files:
        try:
            with common.hub_errors(f"datasets/{dataset.name}") as page:
                files = sorted(Path(snapshot_download(dataset.name, **options)).glob(pattern))
                if not files:
                    raise common.ScriptError(f"{page} has no files {pattern}")
        except common.ScriptError as error:
            raise common.ScriptError(
                f"{error}; the data set {dataset.name} ({dataset.megabytes} MB) is not on this "
                "machine. Run again with a network, or name the folder of a copy with --data DIR"
            ) from error
    return pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)


def read_jsonl(path: Path, **types: type) -> dict[int, dict[str, Any]]:
    """Read a file with one JSON object per line, each with these keys and types of values.

    Returns the objects by their line numbers, from 1. Blank lines are skipped. Raises
    `ScriptError` naming file and line of the first error.
    """
    names = {str: "a string", int: "an integer", list: "a list"}
    rows = {}
    lines = common.read_text(path).split("\n")  # str.splitlines would also split at U+2028
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            json.dumps(row, ensure_ascii=False).encode()  # fails for half of a surrogate pair
        except (ValueError, RecursionError) as error:
            raise common.ScriptError(f"{path}: line {number} is not JSON ({error})") from error
        for key, kind in types.items():
            if not isinstance(row, dict) or type(row.get(key)) is not kind:
                problem = f"{key!r} must be {names[kind]}"
                raise common.ScriptError(f"{path}: line {number}: {problem}")
        rows[number] = row
    if not rows:
        raise common.ScriptError(f"{path}: the file is empty")
    return rows


# Modules and classes of installed libraries. Their docstrings are the embedded data set.
DOCUMENTED = {
    "numpy": ["", "fft", "linalg", "ma", "polynomial", "random", "strings"],
    "scipy": [
        *("cluster.hierarchy", "fft", "integrate", "interpolate", "linalg", "ndimage", "optimize"),
        *("signal", "sparse", "sparse.csgraph", "sparse.linalg", "spatial", "spatial.distance"),
        *("special", "stats"),
    ],
    "pandas": ["", "DataFrame", "Series", "Index", "DatetimeIndex", "Timestamp"],
    "sklearn": [
        *("cluster", "covariance", "datasets", "decomposition", "ensemble", "feature_extraction"),
        *("feature_selection", "linear_model", "manifold", "metrics", "metrics.pairwise"),
        *("model_selection", "naive_bayes", "neighbors", "preprocessing", "svm", "tree", "utils"),
    ],
    "torch": [
        *("", "distributions", "fft", "linalg", "nn", "nn.functional", "nn.init", "optim"),
        *("optim.lr_scheduler", "special", "utils.data"),
    ],
}
LIBRARY_NAMES = r"\b(numpy|np|scipy|pandas|pd|scikit-learn|sklearn|(?:py)?torch)\b"
# The first section after the description, such as "Parameters" above a line of dashes, or "Args:"
SECTION = r"\n(?=[A-Z][\w ]*\n---|(?:Args|Arguments|Shape|Returns|Examples?)::?)"
SHORTEST = 100  # characters of a description without its summary


class Docstring(NamedTuple):
    """The docstring of a function, a class or a method."""

    library: str
    module: str
    group: str  # equal for docstrings that may be copies of each other
    summary: str  # the first paragraph
    description: str  # the paragraphs between the summary and the list of parameters


def load_docstrings() -> list[Docstring]:
    """Return the docstrings of the installed libraries, in a fixed order.

    Nothing but imports is executed. The names of the libraries are replaced by "library".
    Functions of the same name, such as `numpy.fft.fft` and `torch.fft.fft`, are one group, because
    one description is often a copy of the other.
    """
    docstrings, seen = [], set()
    for library, modules in DOCUMENTED.items():
        for module in modules:
            title = f"{library}.{module}".rstrip(".")
            parent, _, last = title.rpartition(".")
            is_class = last[0].isupper()
            owner = importlib.import_module(parent if is_class else title)
            owner = getattr(owner, last) if is_class else owner
            for name in sorted(vars(owner)):
                member = getattr(owner, name)
                if name.startswith("_") or not callable(member):
                    continue
                summary, description = split_docstring(inspect.getdoc(member) or "")
                if len(description) >= SHORTEST and summary not in seen:
                    seen.add(summary)
                    docstrings.append(Docstring(library, title, name.lower(), summary, description))
    return docstrings


def split_docstrings(by: str) -> dict[str, list[Docstring]]:
    """Return the docstrings of `load_docstrings` in training, validation and test sets.

    `by` is "group" or "module"; docstrings that are equal in it are in the same set.
    """
    splits: dict[str, list[Docstring]] = {"train": [], "validation": [], "test": []}
    for docstring in load_docstrings():
        part = zlib.crc32(getattr(docstring, by).encode()) % 10  # the same on every machine
        splits["test" if part < 2 else "validation" if part < 4 else "train"].append(docstring)
    return splits


def load_dataset(
    arguments: argparse.Namespace, default: str, load: Callable[[str], T]
) -> tuple[str, T]:
    """Return the name of a data set and `load(name)`.

    The name is that of the option --dataset, empty if --data names a folder, or else `default`. If
    the default cannot be loaded, it is "docstrings", with a note on standard error.
    """
    if arguments.dataset or arguments.data:
        name = arguments.dataset or ""
        return name, load(name)
    try:
        return default, load(default)
    except common.ScriptError as error:
        common.note(f"{error}. Meanwhile using the docstrings of installed libraries as data")
        return "docstrings", load("docstrings")


def split_docstring(text: str) -> tuple[str, str]:
    """Return the summary of a docstring and its description, without signatures and markup."""
    text = re.split(SECTION, text, maxsplit=1)[0]
    text = re.sub(r"\A(?:[\w.]+\(.*\n+)+|\.\. .*|:\w+:|[`*]|>>>.*", "", text)  # signatures, markup
    text = re.sub(LIBRARY_NAMES, "library", text, flags=re.IGNORECASE)
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text.strip())]
    return paragraphs[0], " ".join(paragraphs[1:])


# --- 3. Features of texts -----------------------------------------------------------------------

BATCH_TOKENS = 2048  # tokens in a batch; larger batches do not fit into the processor's caches
MAX_TOKENS = 256  # of a text; the rest is cut off

# A pooling turns the hidden states of a batch into one vector per text. The states are the output
# of the embeddings and of each layer, (batch, time, width) each; the mask is (batch, time).
Pooling = Callable[[tuple[torch.Tensor, ...], torch.Tensor], torch.Tensor]
Poolings = Mapping[str, Pooling]


def cls_pooling(states: tuple[torch.Tensor, ...], mask: torch.Tensor) -> torch.Tensor:
    """Return the last hidden state of the first token, BERT's [CLS]: (batch, width)."""
    return states[-1][:, 0]


def mean_pooling(states: tuple[torch.Tensor, ...], mask: torch.Tensor) -> torch.Tensor:
    """Return the mean of the last hidden states over the tokens of a text: (batch, width)."""
    weights = mask / mask.sum(1, keepdim=True)  # (batch, time); padding has weight 0
    return torch.einsum("btw,bt->bw", states[-1], weights)


def all_layers_pooling(states: tuple[torch.Tensor, ...], mask: torch.Tensor) -> torch.Tensor:
    """Return mean and maximum over the tokens of every layer: (batch, 2 * layers * width)."""
    weights = mask / mask.sum(1, keepdim=True)  # (batch, time)
    is_padding = (mask == 0).unsqueeze(-1)  # (batch, time, 1)
    means = [torch.einsum("btw,bt->bw", state, weights) for state in states]
    maxima = [state.masked_fill(is_padding, -torch.inf).amax(1) for state in states]
    return torch.cat([*means, *maxima], dim=-1)


def tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], max_tokens: int = MAX_TOKENS
) -> list[list[int]]:
    """Return the token ids of each text, with special tokens, truncated to `max_tokens`.

    Raises `ScriptError` for a text without tokens.
    """
    max_length = min(max_tokens, tokenizer.model_max_length)
    ids = tokenizer(texts, truncation=True, max_length=max_length)["input_ids"] if texts else []
    if not all(ids):
        raise common.ScriptError(f"the text {texts[ids.index([])]!r} has no tokens")
    return ids


def pad_batch(ids: list[list[int]], device: torch.device) -> dict[str, torch.Tensor]:
    """Return token ids, padded at the end, and their attention mask: (batch, time) each.

    The mask excludes the padding, so its id does not matter.
    """
    rows = [torch.tensor(tokens, device=device) for tokens in ids]
    masks = [torch.ones_like(row) for row in rows]
    return {
        "input_ids": pad_sequence(rows, batch_first=True),
        "attention_mask": pad_sequence(masks, batch_first=True),
    }


def compute_features(
    model: PreTrainedModel, ids: list[list[int]], poolings: Poolings
) -> dict[str, np.ndarray]:
    """Return the features of tokenized texts by each pooling: (texts, width), float32.

    Texts of similar length share a batch, so that little is padded. The features of a text do not
    depend on the other texts of its batch.
    """
    common.keep_freed_memory()
    model.eval()
    order = sorted(range(len(ids)), key=lambda text: -len(ids[text]))
    features: dict[str, np.ndarray] = {}
    start = 0
    with tqdm(total=len(ids), unit=" texts", delay=1) as bar, torch.inference_mode():
        while start < len(ids):
            size = max(1, BATCH_TOKENS // len(ids[order[start]]))  # the longest text comes first
            texts = order[start : start + size]
            start += size
            batch = pad_batch([ids[text] for text in texts], model.device)
            states = model(**batch, output_hidden_states=True).hidden_states
            for name, pooling in poolings.items():
                rows = pooling(states, batch["attention_mask"]).float().cpu().numpy()
                # copied into place, because a view of the states would keep all of them in memory
                if name not in features:
                    features[name] = np.empty((len(ids), rows.shape[1]), np.float32)
                features[name][texts] = rows  # (batch, width)
            bar.update(len(texts))
    return features


def encode(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: list[str],
    poolings: Poolings,
    max_tokens: int = MAX_TOKENS,
) -> dict[str, np.ndarray]:
    """Return the features of texts by each pooling, as `compute_features` does, with a cache.

    The cache is `results/features/`. A file's name is a hash of the weights, the tokens and the
    name of the pooling function: delete the folder after changing a pooling.
    """
    folder = Path(model.name_or_path)
    with common.checkpoint_errors(folder):
        ids = tokenize(tokenizer, texts, max_tokens)
    content = content_hash(model, ids)
    features, paths = {}, {}
    for name, pooling in poolings.items():
        key = hashlib.sha256(f"{content} {pooling.__name__}".encode()).hexdigest()
        paths[name] = common.RESULTS / "features" / f"{key[:32]}.pt"
        with contextlib.suppress(FileNotFoundError, ValueError, LookupError):  # missing or damaged
            features[name] = common.load_tensors(paths[name])["features"].numpy()
    missing = {name: poolings[name] for name in poolings if name not in features}
    with common.checkpoint_errors(folder):
        computed = compute_features(model, ids, missing) if missing else {}
    for name, rows in computed.items():
        common.save_tensors(paths[name], {"features": torch.from_numpy(rows)})
    return features | computed


def content_hash(model: PreTrainedModel, *others: object) -> str:
    """Return a SHA-256 of a model's configuration and weights and of the `repr` of `others`."""
    sha256 = hashlib.sha256(model.config.to_json_string().encode())
    for name, weight in sorted(model.state_dict().items()):
        sha256.update(name.encode() + weight.cpu().contiguous().numpy().tobytes())
    sha256.update(repr(others).encode())
    return sha256.hexdigest()


# --- 4. Training --------------------------------------------------------------------------------


def random_batches(
    rows: int, size: int, epochs: int, lengths: list[int] | None = None
) -> list[list[int]]:
    """Return the batches of row numbers for some epochs, each epoch in a new random order.

    With the `lengths` of the rows, rows of similar length share a batch, so that little is padded.
    """
    batches = []
    for _ in range(epochs):
        order = torch.randperm(rows).tolist()
        if lengths is not None:  # sort only within chunks of 50 batches, so that batches vary
            chunks = [order[i : i + 50 * size] for i in range(0, rows, 50 * size)]
            order = [row for chunk in chunks for row in sorted(chunk, key=lengths.__getitem__)]
        epoch = [order[i : i + size] for i in range(0, rows, size)]
        batches += [epoch[i] for i in torch.randperm(len(epoch)).tolist()]
    return batches


def train(
    model: torch.nn.Module,
    batch_loss: Callable[[list[int]], torch.Tensor],
    batches: list[list[int]],
    learning_rate: float,
) -> None:
    """Train a model with AdamW and the one-cycle schedule, one gradient step per batch of rows.

    `batch_loss` returns the loss of a batch. The caller chooses train or eval mode.
    """
    common.keep_freed_memory()
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, fused=True)
    schedule = common.one_cycle(optimizer, len(batches))
    with tqdm(batches, unit=" steps") as bar:
        for batch in bar:
            loss = batch_loss(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            value = common.finite(loss.item(), "the training loss")
            bar.set_postfix({"loss": f"{value:.3f}"}, refresh=False)
