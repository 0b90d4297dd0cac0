"""Helpers of the laboratory: the text of the Inferno, features of texts, fine-tuning."""

from __future__ import annotations

import contextlib
import hashlib
import html
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import common

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

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

    HTML pages become plain text. If the text contains the edition of RESULTS.md, only the poem is
    returned, without the header and the footer of the file.
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
        common.note(f"{file}: not the edition of the Inferno used for the figures in RESULTS.md")
    elif len(whole) > 1.2 * len(text):  # more than the head and the foot of an etext
        common.note(f"{file}: only the Inferno is used, {len(text):,} of {len(whole):,} characters")
    return text


# --- 2. Features of texts -----------------------------------------------------------------------

BATCH_TOKENS = 2048  # tokens in a batch; larger batches do not fit into the processor's caches
MAX_TOKENS = 256  # of a text, as in the evaluation of MiniLM by its authors; the rest is cut off

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
    """Return mean and maximum over the tokens of every state: (batch, 2 * (layers + 1) * width)."""
    weights = mask / mask.sum(1, keepdim=True)  # (batch, time)
    is_padding = (mask == 0).unsqueeze(-1)  # (batch, time, 1)
    # (batch, width) each
    means = [torch.einsum("btw,bt->bw", state, weights) for state in states]
    maxima = [state.masked_fill(is_padding, -torch.inf).amax(1) for state in states]
    return torch.cat([*means, *maxima], dim=-1)


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Return the token ids of each text, with special tokens, truncated to `MAX_TOKENS`.

    Raises `ScriptError` for a text without tokens.
    """
    max_length = min(MAX_TOKENS, tokenizer.model_max_length)
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
) -> dict[str, np.ndarray]:
    """Return the features of texts by each pooling, as `compute_features` does, with a cache.

    The cache is `results/features/`. A file's name is a hash of the weights, the tokens and the
    name of the pooling function: delete the folder after changing a pooling.
    """
    folder = Path(model.name_or_path)
    with common.checkpoint_errors(folder):
        ids = tokenize(tokenizer, texts)
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


# --- 3. Training --------------------------------------------------------------------------------


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
