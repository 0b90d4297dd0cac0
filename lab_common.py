"""Encoders in exercises 3.1 to 3.3: features of texts, batches, and the training loop.

An encoder turns each token of a text into a hidden state, a vector that depends on the whole text.
A pooling turns the states of a text into one vector, the features of the text.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

import common

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH_TOKENS = 2048  # tokens in a batch of frozen features; more do not fit into the CPU's caches
MAX_TOKENS = 256  # of a text, as in the evaluation of MiniLM by its authors; the rest is cut off
LORA_RANK = 8  # inner width of the product of two matrices that LoRA adds to a weight matrix

# The arguments of a pooling are the output of the embeddings and of each layer, each (batch, time,
# width), and the attention mask (batch, time). It returns one row per text.
Pooling = Callable[[tuple[torch.Tensor, ...], torch.Tensor], torch.Tensor]
Poolings = Mapping[str, Pooling]

# --- 1. Poolings ---------------------------------------------------------------------------------


def cls_pooling(states: tuple[torch.Tensor, ...], mask: torch.Tensor) -> torch.Tensor:
    """Return the last hidden state of the first token, BERT's [CLS]: (batch, width)."""
    return states[-1][:, 0]


def mean_pooling(states: tuple[torch.Tensor, ...], mask: torch.Tensor) -> torch.Tensor:
    """Return the mean of the last hidden states over the tokens of a text: (batch, width)."""
    weights = mask / mask.sum(1, keepdim=True)  # (batch, time); padding has weight 0
    return torch.einsum("btw,bt->bw", states[-1], weights)


def all_layers_pooling(states: tuple[torch.Tensor, ...], mask: torch.Tensor) -> torch.Tensor:
    """Return mean and maximum over the tokens of every state: (batch, 2 * (layers + 1) * width)."""
    is_padding = (mask == 0).unsqueeze(-1)  # (batch, time, 1)
    # (batch, width) each
    means = [mean_pooling((state,), mask) for state in states]
    maxima = [state.masked_fill(is_padding, -torch.inf).amax(1) for state in states]
    return torch.cat([*means, *maxima], dim=-1)


def usable_poolings(tokenizer: "PreTrainedTokenizerBase", poolings: Poolings) -> Poolings:
    """Return the poolings, but not "[CLS]" if the tokenizer has no such token.

    The first token of a decoder such as GPT-2 sees no other.
    """
    if tokenizer.cls_token_id is not None:
        return poolings
    common.note("this model has no [CLS], so its rows are left out")
    return {name: pooling for name, pooling in poolings.items() if name != "[CLS]"}


# --- 2. Features ---------------------------------------------------------------------------------


def tokenize(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", texts: list[str]
) -> list[list[int]]:
    """Return the token ids of each text, with special tokens, truncated to `MAX_TOKENS`.

    They are truncated further if the model reads fewer tokens. Raises `ScriptError` for a text
    without tokens.
    """
    length = min(MAX_TOKENS, common.context_length(model, tokenizer))
    ids = tokenizer(texts, truncation=True, max_length=length)["input_ids"] if texts else []
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


@torch.inference_mode()
def encode(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    texts: list[str],
    poolings: Poolings,
) -> dict[str, np.ndarray]:
    """Return the features of texts by each pooling: (texts, width), float32.

    Texts of similar length share a batch, so that little is padded. The features of a text do not
    depend on the other texts of its batch. The model is in eval mode afterwards. Raises
    `ScriptError` naming the model if it cannot read the texts.
    """
    model.eval()
    features: dict[str, np.ndarray] = {}
    start = 0
    bar = tqdm(total=len(texts), unit=" texts", delay=1)
    with common.errors_in(model.name_or_path), bar:
        ids = tokenize(model, tokenizer, texts)
        order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
        while start < len(ids):
            size = max(1, BATCH_TOKENS // len(ids[order[start]]))  # the longest text comes first
            rows = order[start : start + size]
            start += size
            batch = pad_batch([ids[row] for row in rows], model.device)
            states = model(**batch, output_hidden_states=True).hidden_states
            for name, pooling in poolings.items():
                pooled = pooling(states, batch["attention_mask"]).float().cpu().numpy()
                # copied into place, because a view of the states would keep all of them in memory
                if name not in features:
                    features[name] = np.empty((len(ids), pooled.shape[1]), np.float32)
                features[name][rows] = pooled  # (batch, width)
            bar.update(len(rows))
    return features


# --- 3. Training ---------------------------------------------------------------------------------


def add_lora(encoder: "PreTrainedModel") -> None:
    """Freeze an encoder and add LoRA, low-rank adaptation, to its linear layers.

    The change of a weight matrix is the product of two narrow matrices, which alone are trained.
    """
    config = LoraConfig(r=LORA_RANK, lora_alpha=2 * LORA_RANK, target_modules="all-linear")
    inject_adapter_in_model(config, encoder)


def trained_weights(model: torch.nn.Module) -> int:
    """Return the number of weights that are trained."""
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


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
    weight_decay: float = 0.01,
) -> None:
    """Train a model with AdamW and the one-cycle schedule, one gradient step per batch of rows.

    `batch_loss` returns the loss of a batch. The caller chooses train or eval mode.
    """
    parameters = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(parameters, learning_rate, weight_decay=weight_decay, fused=True)
    schedule = common.one_cycle(optimizer, len(batches))
    bar = tqdm(batches, unit=" steps", delay=1)
    for batch in bar:
        loss = batch_loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        value = common.finite(loss.item(), "the training loss")
        bar.set_postfix({"loss": f"{value:.3f}"}, refresh=False)
