"""Lab exercise 1: train a small character GPT on Dante's Inferno, and judge what it writes.

The model is a decoder-only transformer that reads and writes single characters. It learns from the
first nine tenths of the poem and is measured on every character of the last tenth.

    python dante_gpt.py                          train, then write and judge a sample
    python dante_gpt.py --minutes 25 --n-layer 6 --dropout 0.35         longer, deeper and better
    python dante_gpt.py --resume                 go on after Ctrl-C, a crash or a full disk
    python dante_gpt.py --generate --prompt "Nel mezzo" --length 1000 --temperature 0.8 --top-k 40
    accelerate launch --multi_gpu --num_processes 2 dante_gpt.py        two share every batch

About five minutes on two CPU cores. Expect 1.41 nats per character; counting 5-grams gets 1.62.
The trained weights and the loss curve, as a picture and as CSV, are kept in results/dante_gpt/.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import math
import pickle
import re
import sys
import time
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, TypeVar

import numpy as np

import common

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
else:
    torch = common.LazyModule("torch")

TRAIN_SHARE = 0.9  # of the text, its beginning; the rest is only measured on
STRIDE = 32  # of the measurement's windows; of each, only the last 32 predictions count
EVALUATIONS = 10  # of a run; each keeps a checkpoint
NGRAMS = {"unigram": 1, "bigram": 2, "Witten-Bell 5-gram": 5}  # what the loss is compared with
WARM_UP = 20  # steps over which the rates rise, to fall in a line to nothing
MOMENTUM, DECAY = 0.95, 0.1  # of the matrices; the decay is times their rate
MEMORY = 0.99  # what the average of the weights keeps at a step
SHARED = 8191  # embeddings that triples of characters share, a prime so that they spread
NGRAM_DROPOUT = 0.4  # share of blocks, if anything is dropped, that are read by characters alone
SOFT_CAP = 15.0  # no logit goes beyond, so that a small model is never too sure
TIMED_STEPS = 12  # by which --minutes becomes a number of steps
LENGTH, TEMPERATURE, TOP_K = 1000, 0.8, 40  # of the sample
JUDGED = 5000  # characters that are judged: a canto
COPY = 20  # characters in a row that are unlikely to be the same by chance
WEIGHTS, STATE = "weights.safetensors", "state.pt"  # the best weights; all that --resume needs


Number = TypeVar("Number", int, float)


def size(default: Number, text: str) -> Number:
    """Make a field of `Config`, of which `parse` makes an option with this help text."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Config:
    """A model and its training: 2.3 M parameters, most of them of pairs and triples."""

    steps: int
    batch_size: int = size(8, "blocks that a step learns from")
    block_size: int = size(256, "characters of context: six verses")
    n_layer: int = size(4, "layers")
    n_head: int = size(4, "attention heads of a layer")
    n_embd: int = size(128, "channels, a multiple of twice the heads")
    dropout: float = size(0.2, "share of channels dropped; with less the text is learnt by heart")
    muon_rate: float = size(0.02, "learning rate of the layers' matrices, by Muon")
    adam_rate: float = size(0.003, "learning rate of embeddings and head, by AdamW")
    seed: int = 0


STEPS, QUICK_STEPS = 2000, 100  # 24 passes over the text; what --quick makes do with

Weights = dict[str, "torch.Tensor"]
Model = Callable[["torch.Tensor"], "torch.Tensor"]  # tokens to logits


def split(text: str) -> tuple[str, str]:
    """Cut the text into the part to train on and the part to validate on."""
    cut = int(TRAIN_SHARE * len(text))
    return text[:cut], text[cut:]


def ngram_loss(train: str, validation: str, order: int) -> float:
    """Return the mean negative log-likelihood of an n-gram model, in nats per character.

    After a context seen n times with t different successors, a share t / (n + t) of the
    probability is what the context less its first character says, and so on down to no context,
    where that share is spread evenly (Witten and Bell 1991). `order` is the n of n-gram.
    """
    text, probabilities = train + validation, []
    vocabulary = len(set(text))
    seen: defaultdict[str, Counter] = defaultdict(Counter)
    for end in range(len(train)):
        for start in range(max(0, end - order + 1), end + 1):
            seen[train[start:end]][train[end]] += 1
    totals = {context: counts.total() for context, counts in seen.items()}
    for end in range(len(train), len(text)):
        probability = 1 / vocabulary
        for start in range(end, end - order, -1):
            if (context := text[start:end]) not in totals:
                break
            counts, kinds = seen[context], len(seen[context])
            probability = (counts[text[end]] + kinds * probability) / (totals[context] + kinds)
        probabilities.append(probability)
    return -float(np.log(probabilities).mean())


def new_weights(config: Config, vocabulary: int) -> Weights:
    """Draw the weights of a new model. What ends a layer is zero: at first it changes nothing."""
    width = config.n_embd
    rows = vocabulary + min(vocabulary**2, SHARED) + SHARED  # characters, pairs, triples
    weights = {"embedding": torch.randn(rows, width), "head": torch.zeros(vocabulary, width)}
    for layer in range(config.n_layer):
        for name, shape in (
            ("attention.in", (3 * width, width)),  # queries, keys and values
            ("attention.out", (width, width)),
            ("forward.in", (4 * width, width)),
            ("forward.out", (width, 4 * width)),
        ):
            scale = width**-0.5 if name.endswith("in") else 0.0
            weights[f"{layer}.{name}"] = torch.empty(shape).uniform_(-scale, scale)
    return weights


class Cache:
    """What a model keeps of a text it has read, so that a next token needs no more than itself."""

    def __init__(self, config: Config, device: torch.device) -> None:
        size = config.n_embd // config.n_head
        self.length = 0  # of the text
        self.last = torch.zeros(1, 2, dtype=torch.long, device=device)  # tokens
        # The keys and the values of every layer: (layer, 2, 1, head, time, size).
        shape = (config.n_layer, 2, 1, config.n_head, config.block_size, size)
        self.past = torch.empty(shape, device=device)


def norm(x: torch.Tensor) -> torch.Tensor:
    """Shift and scale the last dimension to a mean of 0 and a mean square of 1 (layer norm)."""
    return torch.nn.functional.layer_norm(x, x.shape[-1:])


def embed(
    tokens: torch.Tensor, last: torch.Tensor, weights: Weights, dropout: float
) -> torch.Tensor:
    """Look up every token, its pair with the one before, and its triple: (batch, time, n_embd).

    `tokens` are (batch, time), `last` the two before them, (batch, 2). Triples share the rows of
    their table by the remainder of their number, and so do pairs where there are too many.
    """
    table, vocabulary = weights["embedding"], len(weights["head"])
    text = torch.cat([last, tokens], dim=1)  # (batch, 2 + time)
    pairs = vocabulary * text[:, 1:-1] + tokens
    triples = vocabulary**2 * text[:, :-2] + pairs
    triples_start = len(table) - SHARED
    rows = [
        tokens,
        vocabulary + pairs % (triples_start - vocabulary),
        triples_start + triples % SHARED,
    ]  # (batch, time) each
    parts = torch.nn.functional.embedding(torch.stack(rows), table)  # (3, batch, time, n_embd)
    if dropout:  # who always sees triples learns them by heart
        parts[1:] *= torch.rand(len(tokens), 1, 1, device=tokens.device) >= NGRAM_DROPOUT
    return parts.sum(0)


def drop(x: torch.Tensor, dropout: float) -> torch.Tensor:
    """Drop channels of `x` (batch, time, channel), each at all times: few numbers to draw."""
    if dropout == 0:
        return x
    kept = torch.rand(x.shape[0], 1, x.shape[2], device=x.device) >= dropout
    return x * (kept / (1 - dropout))


def angles(
    start: int, time: int, size: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cosines and sines of the angles that positions turn by: (time, size / 2) each.

    `start` is the first position; `size` is that of a head. The angle grows with the position,
    slower from one pair of channels to the next (rotary positions, Su et al. 2021).
    """
    half = size // 2
    speed = 1024 ** -(torch.arange(half, device=device) / half)  # (size / 2,)
    angle = torch.arange(start, start + time, device=device)[:, None] * speed  # (time, size / 2)
    return angle.cos(), angle.sin()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn pairs of channels of `x` (…, time, size) by the angles of their positions.

    A query and a key then meet at an angle that tells how far apart they are.
    """
    left, right = x.chunk(2, dim=-1)  # (…, time, size / 2) each
    return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)


def attend(
    x: torch.Tensor,
    weights: Weights,
    layer: int,
    turn: tuple[torch.Tensor, torch.Tensor],
    cache: Cache | None,
) -> torch.Tensor:
    """Let every position gather from itself and those before it: (batch, time, n_embd) to the same.

    `turn` holds the `angles` of the positions. The keys and values in `cache` come before those
    of `x`, which are added to it.
    """
    batch, time, n_embd = x.shape
    size = 2 * turn[0].shape[-1]  # of a head
    qkv = (x @ weights[f"{layer}.attention.in"].T).view(batch, time, 3, -1, size)
    qkv = qkv.permute(2, 0, 3, 1, 4)  # (3, batch, head, time, size)
    q, k = rotate(norm(qkv[:2]), *turn)  # (batch, head, time, size) each, as is v
    v = qkv[2]
    if cache is not None:
        end = cache.length + time
        cache.past[layer, 0, :, :, cache.length : end] = k
        cache.past[layer, 1, :, :, cache.length : end] = v
        k, v = cache.past[layer, :, :, :, :end]  # (batch, head, time so far, size) each
    is_causal = time == k.shape[-2]  # a single new position sees all
    gathered = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=is_causal)
    gathered = gathered.transpose(1, 2).reshape(batch, time, n_embd)  # heads side by side again
    return gathered @ weights[f"{layer}.attention.out"].T


def feed_forward(x: torch.Tensor, weights: Weights, layer: int) -> torch.Tensor:
    """Work on every position alone, with a squared ReLU: (batch, time, n_embd) to the same."""
    hidden = (x @ weights[f"{layer}.forward.in"].T).relu().square()  # (batch, time, 4 * n_embd)
    return hidden @ weights[f"{layer}.forward.out"].T


def gpt(
    weights: Weights,
    config: Config,
    tokens: torch.Tensor,
    dropout: float = 0.0,
    cache: Cache | None = None,
) -> torch.Tensor:
    """Return the logits of the token after each: (batch, time) to (batch, time, vocabulary).

    With a `cache`, which it fills, `tokens` are the first or the one next token of a text.
    """
    start, last = 0, tokens.new_zeros(len(tokens), 2)
    if cache is not None:
        start, last = cache.length, cache.last
    x = drop(norm(embed(tokens, last, weights, dropout)), dropout)  # (batch, time, n_embd)
    turn = angles(start, tokens.shape[1], config.n_embd // config.n_head, x.device)
    for layer in range(config.n_layer):
        x = x + drop(attend(norm(x), weights, layer, turn, cache), dropout)
        x = x + drop(feed_forward(norm(x), weights, layer), dropout)
    if cache is not None:
        cache.length += tokens.shape[1]
        cache.last = torch.cat([last, tokens], dim=1)[:, -2:]
    logits = (norm(x) @ weights["head"].T).float()  # (batch, time, vocabulary)
    return SOFT_CAP * (logits / SOFT_CAP).tanh()


def validation_loss(model: Model, tokens: torch.Tensor, start: int, block: int) -> float:
    """Return the mean loss over `tokens[start:]`, each predicted once, in nats per token.

    Windows of a block's length lie `STRIDE` apart, and of each only the last `STRIDE` predictions
    count: so a token is predicted from a full block, less `STRIDE - 1` tokens at most. What it is
    predicted from may lie before `start`.
    """
    stride = min(STRIDE, block)
    tokens = tokens[start - 1 - (block - stride) :]
    pad = torch.nn.functional.pad  # the last window is filled up with targets that do not count
    inputs = pad(tokens[:-1], (0, stride - 1)).unfold(0, block, stride)  # (windows, block)
    targets = pad(tokens[1:], (0, stride - 1), value=-100).unfold(0, block, stride)
    total = 0.0
    with torch.inference_mode():
        for some, nexts in zip(inputs.split(64), targets[:, -stride:].split(64), strict=True):
            logits = model(some)[:, -stride:]  # (batch, stride, vocabulary)
            total += torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), nexts.flatten(), reduction="sum", ignore_index=-100
            ).item()
    return total / (len(tokens) - 1 - (block - stride))


def block_start(number: int, length: int, config: Config) -> int:
    """Return where in a text of this length the block of this number starts, counted over a run.

    Every pass over the text cuts it anew into blocks side by side, in an order of its own: each
    character is then learnt from once a pass.
    """
    blocks = (length - 1) // config.block_size - 1  # of a pass
    random = np.random.default_rng([config.seed, number // blocks])
    offset = int(random.integers(config.block_size))
    return offset + config.block_size * int(random.permutation(blocks)[number % blocks])


def orthogonalise(matrix: torch.Tensor) -> torch.Tensor:
    """Bring the singular values of a matrix close to 1, by five Newton-Schulz steps.

    So rare directions of a gradient count as much as frequent ones (Muon, Jordan et al. 2024).
    torch.optim.Muon does this in bfloat16, 20 times slower on a CPU that has none.
    """
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (2.0315 * square @ square - 4.7750 * square) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


class Training:
    """A run: the weights and their average, what the optimisers remember, what was measured."""

    def __init__(self, config: Config, text: str, accelerator: Accelerator) -> None:
        common.seed_everything(config.seed)
        common.keep_freed_memory()
        device, self.config, self.accelerator = accelerator.device, config, accelerator
        if config.batch_size % accelerator.num_processes:
            raise common.ScriptError(
                f"--batch-size {config.batch_size} cannot be shared evenly by "
                f"{accelerator.num_processes} processes"
            )
        self.characters = "".join(sorted(set(text)))
        self.tokens = torch.tensor(encode(text, self.characters), device=device)  # (characters,)
        self.cut = len(split(text)[0])
        weights = new_weights(config, len(self.characters))
        self.weights = {name: w.to(device).requires_grad_() for name, w in weights.items()}
        self.average = {name: w.detach().clone() for name, w in self.weights.items()}
        self.momenta = {
            name: torch.zeros_like(w) for name, w in self.average.items() if "." in name
        }
        others = [weight for name, weight in self.weights.items() if name not in self.momenta]
        self.adam = torch.optim.AdamW(
            others, config.adam_rate, betas=(0.8, 0.95), weight_decay=0, fused=True
        )
        self.forward = torch.compile(gpt) if device.type == "cuda" else gpt
        self.history: list[list[float]] = []  # steps done, training loss, validation loss
        self.best: Weights = {}  # the average with the lowest validation loss
        digest, processes = hashlib.sha256(text.encode()).hexdigest(), accelerator.num_processes
        self.settings = {**asdict(config), "processes": processes, "text": digest}

    def step(self, step: int) -> float:
        """Train on one batch and return its loss. All that is random depends on the step alone."""
        config, accelerator = self.config, self.accelerator
        process, processes = accelerator.process_index, accelerator.num_processes
        noise = np.random.SeedSequence([config.seed, step, process]).generate_state(1)
        torch.manual_seed(int(noise[0]))  # for what is dropped
        numbers = range(step * config.batch_size, (step + 1) * config.batch_size)
        starts = [block_start(n, self.cut, config) for n in numbers[process::processes]]
        windows = self.tokens.unfold(0, config.block_size + 1, 1)[starts]  # (batch, block + 1)
        with accelerator.autocast():
            logits = self.forward(self.weights, config, windows[:, :-1], config.dropout)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
        gradients = torch.autograd.grad(loss, self.weights.values())
        if processes > 1:
            loss, gradients = accelerator.reduce((loss.detach(), gradients), "mean")
        with torch.no_grad():
            self.update(step, dict(zip(self.weights, gradients, strict=True)))
        return loss.item()

    def update(self, step: int, gradients: Weights) -> None:
        """Move the matrices of the layers by Muon, the rest by AdamW, and the average of all."""
        rate = min((step + 1) / WARM_UP, 1 - step / self.config.steps)
        muon_rate = self.config.muon_rate * rate
        for name, weight in self.weights.items():
            weight.grad = gradients[name]
            if name in self.momenta:
                momentum = self.momenta[name].lerp_(weight.grad, 1 - MOMENTUM)
                change = orthogonalise(weight.grad.lerp(momentum, MOMENTUM))
                tall = max(1, weight.shape[0] / weight.shape[1]) ** 0.5
                weight.mul_(1 - muon_rate * DECAY)
                weight.sub_(change, alpha=muon_rate * tall)
        self.adam.param_groups[0]["lr"] = self.config.adam_rate * rate
        self.adam.step()
        memory = min(MEMORY, (step + 1) / (step + 10))  # the first weights are soon forgotten
        for name, average in self.average.items():
            average.lerp_(self.weights[name], 1 - memory)

    def validate(self) -> float:
        """Return the validation loss of the averaged weights."""
        model = partial(gpt, self.average, self.config)
        return validation_loss(model, self.tokens, self.cut, self.config.block_size)

    def run(self, folder: Path) -> None:
        """Train from where it stands to the end; measure and save on the way."""
        from tqdm import tqdm

        config, main = self.config, self.accelerator.is_main_process
        first = int(self.history[-1][0]) if self.history else 0
        measured = {config.steps * n // EVALUATIONS for n in range(1, EVALUATIONS + 1)}
        losses, began = [], time.perf_counter()
        with tqdm(total=config.steps, initial=first, disable=not main) as bar:
            for done in range(first + 1, config.steps + 1):
                losses.append(self.step(done - 1))
                bar.update()
                if done not in measured:
                    continue
                validation = self.validate()
                row = [done, float(np.mean(losses)), validation]
                losses.clear()
                if main:
                    self.save(folder, row)
                self.history.append(row)
                pace = (time.perf_counter() - began) / (done - first)  # seconds a step
                speed = config.batch_size * config.block_size / pace
                left = int(pace * (config.steps - done))
                if main:
                    bar.write(
                        f"step {done}: train {row[1]:.4f}, validation {validation:.4f}, "
                        f"{speed:,.0f} characters/s, {left // 60}:{left % 60:02} left",
                        file=sys.stderr,
                    )

    def save(self, folder: Path, row: list[float]) -> None:
        """Keep all that `load` needs, with a new row of the history; and the best weights so far.

        The first time, what another run left in the folder is put aside.
        """
        if not self.history:
            for path in (folder / WEIGHTS, folder / STATE):
                with contextlib.suppress(FileNotFoundError):
                    path.replace(path.with_name(f"previous-{path.name}"))
        if row[-1] < min((known[-1] for known in self.history), default=math.inf):
            about = {"config": json.dumps(asdict(self.config)), "characters": self.characters}
            self.best = {name: average.clone() for name, average in self.average.items()}
            common.save_weights(folder / WEIGHTS, self.best, about)
        state = {
            name: getattr(self, name) for name in ("settings", "weights", "average", "momenta")
        }
        state |= {"adam": self.adam.state_dict(), "history": [*self.history, row]}
        buffer = io.BytesIO()  # so that a full disk is the system's error, not torch's
        torch.save(state, buffer)
        with common.complete_file(folder / STATE) as beside:
            beside.write_bytes(buffer.getbuffer())

    def load(self, folder: Path) -> None:
        """Take up the run that `save` kept. Raises `ScriptError` unless it is this very run."""
        state = read_state(folder)
        for name, value in self.settings.items():
            if (other := state["settings"].get(name)) != value:
                raise common.ScriptError(
                    f"{folder / STATE}: a run of other {name}, {other} and not {value}; give its "
                    "own options to resume it, or start anew without --resume"
                )
        with torch.no_grad():
            for kind in ("weights", "average", "momenta"):
                for name, tensor in getattr(self, kind).items():
                    tensor.copy_(state[kind][name])
        self.adam.load_state_dict(state["adam"])
        self.history = state["history"]
        self.best = read_weights(folder, self.accelerator.device)[0]


def read_state(folder: Path) -> dict:
    """Read what `Training.save` kept of a run. Raises `ScriptError` where there is none."""
    path = folder / STATE
    try:
        state = torch.load(path, "cpu", weights_only=True)
        state["settings"]["steps"]  # another file may hold anything
        return state
    except FileNotFoundError as error:
        raise common.ScriptError(f"{path}: no run to go on with; leave out --resume") from error
    except (pickle.PickleError, OSError, EOFError, RuntimeError, LookupError, TypeError) as error:
        raise common.ScriptError(f"{path}: not a run that can be resumed ({error})") from error


def read_weights(folder: Path, device: torch.device) -> tuple[Weights, Config, str]:
    """Read the best weights of a run, its configuration, and the characters it knows."""
    path = folder / WEIGHTS
    try:
        weights, about = common.load_weights(path, device)
        return weights, Config(**json.loads(about["config"])), about["characters"]
    except FileNotFoundError as error:
        hint = "no such weights; train first, or give --out-dir"
        raise common.ScriptError(f"{path}: {hint}") from error
    except (OSError, LookupError, TypeError, ValueError) as error:
        raise common.ScriptError(f"{path}: not the weights of a run ({error})") from error


def encode(text: str, characters: str) -> list[int]:
    """Number the characters of a text. Raises `ScriptError` for those not in `characters`."""
    if unknown := sorted(set(text) - set(characters)):
        names = ", ".join(map(repr, unknown))
        raise common.ScriptError(f"the text that was learnt from never uses {names}")
    numbers = {character: number for number, character in enumerate(characters)}
    return [numbers[character] for character in text]


def window_start(length: int, block: int) -> int:
    """Return where the context of the next token starts, after `length` tokens.

    It starts at the first token until a block is full, and then moves on by half a block at once.
    """
    half = max(1, block // 2)
    return max(0, math.ceil((length - block) / half) * half)


def generate(
    weights: Weights, config: Config, prompt: list[int], temperature: float, top_k: int, seed: int
) -> Iterator[int]:
    """Continue the tokens of `prompt` without end; keys and values are computed once a window.

    At temperature 0 each token is the likeliest. Else it is drawn from the `top_k` likeliest, by
    their logits over the temperature.
    """
    random = torch.Generator().manual_seed(seed)
    device = weights["head"].device
    tokens, start, seen, cache = list(prompt), 0, 0, Cache(config, device)
    while True:
        moved = window_start(len(tokens), config.block_size)
        if moved > start:
            start, seen, cache = moved, moved, Cache(config, device)
        with torch.inference_mode():
            fresh = torch.tensor([tokens[seen:]], device=device)  # (1, time)
            logits = gpt(weights, config, fresh, cache=cache)[0, -1].cpu()  # (vocabulary,)
        seen, token = len(tokens), logits.argmax()
        if temperature > 0:
            logits, indices = logits.topk(min(top_k, len(logits)))  # (top_k,), the largest first
            shares = ((logits - logits[0]) / temperature).softmax(0)  # (top_k,)
            token = indices[torch.multinomial(shares, 1, generator=random)]
        tokens.append(int(token))
        yield tokens[-1]


def plain(text: str) -> str:
    """Write a text in lower case, and every accent as a ` behind its vowel, as the etext does."""
    return re.sub("[\u0300\u0301]", "`", unicodedata.normalize("NFD", text.lower()))


def share(flags: Iterable[bool]) -> float:
    """Return the share of those that are true, 0 of none."""
    flags = list(flags)
    return sum(flags) / max(1, len(flags))


def longest_copy(text: str, source: str) -> str:
    """Return the longest stretch of `text` that `source` holds letter for letter."""
    best = ""
    for start in range(len(text)):
        while start + len(best) < len(text) and text[start : start + len(best) + 1] in source:
            best = text[start : start + len(best) + 1]
    return best


def copied_share(text: str, source: str) -> float:
    """Return the share of the stretches of `COPY` characters of `text` that `source` holds."""
    known = {source[start : start + COPY] for start in range(len(source) - COPY + 1)}
    return share(text[start : start + COPY] in known for start in range(len(text) - COPY + 1))


def known_words(text: str, source: str) -> float:
    """Return the share of the words of `text`, accents counting, that `source` uses too."""
    words, used = (re.findall("[^\\W\\d_]+`?", plain(side)) for side in (text, source))
    vocabulary = set(used)
    return share(word in vocabulary for word in words)


def count_syllables(verse: str) -> int:
    """Count the syllables of an Italian verse as its metre does, by a simple rule.

    Every run of vowels is one, also from one word to the next; h is silent. A verse that ends in
    an accent has one more. A hiatus (pa-u-ra) is missed: its two syllables count as one.
    """
    letters = re.sub("[^a-z`]|h", "", plain(verse))
    return len(re.findall("[aeiou`]+", letters)) + letters.endswith("`")


def eleven_syllables(text: str) -> float:
    """Return the share of the verses of `text`, canto headings apart, that have 11 syllables."""
    verses = [line for line in text.splitlines() if line.strip() and "Canto " not in line]
    return share(count_syllables(verse) == 11 for verse in verses)


def rhyme(verse: str) -> str:
    """Return what a verse rhymes on: its letters from the last vowel but one, or a last accent."""
    letters = re.sub("[^a-z`]", "", plain(verse))
    return re.findall("[aeiou]`$|[aeiou][^aeiou`]*[aeiou]?[^aeiou`]*$|$", letters)[0]


def terza_rima(text: str) -> float:
    """Return the share of tercets that keep terza rima: ABA, then BCB.

    A tercet is three verses between blank lines, with another behind. It keeps the rule if its
    first and last verse rhyme, and its middle one with the first of the next.
    """
    stanzas = [stanza.splitlines() for stanza in re.split("\n\n+", text)]
    rhymes = [[rhyme(verse) for verse in stanza] for stanza in stanzas]
    tercets = [(a, b) for a, b in pairwise(rhymes) if len(a) == len(b) == 3]
    return share(a[0] == a[2] and a[1] == b[0] for a, b in tercets)


def print_measures(sample: str, train: str, validation: str) -> None:
    """Print the measures of the sample beside those of the last canto, never trained on."""
    canto = re.split("Canto .*\n", validation)[-1].strip()[: len(sample)]
    print(f"{'':40}{'the sample':>12}{'held-out canto':>17}")
    for name, measure, form in (
        ("longest copy from the training text", lambda t: len(longest_copy(t, train)), ""),
        (f"stretches of {COPY} characters copied", lambda t: copied_share(t, train), ".1%"),
        ("words that the training text has", lambda t: known_words(t, train), ".1%"),
        ("verses of eleven syllables", eleven_syllables, ".1%"),
        ("tercets in terza rima", terza_rima, ".1%"),
    ):
        print(f"{name:40}{measure(sample):12{form}}{measure(canto):17{form}}")


def draw_curve(history: list[list[float]], rows: dict[str, float], folder: Path) -> None:
    """Save the losses as a picture, with what counting reaches, and as CSV."""
    from matplotlib.figure import Figure

    with common.complete_file(folder / "loss.csv") as beside:
        lines = [",".join(map(str, row)) for row in history]
        beside.write_text("\n".join(["step,train,validation", *lines]) + "\n")
    steps, train, validation = zip(*history, strict=True)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, train, "o-", label="training text")
    axes.plot(steps, validation, "o-", label="validation text")
    for name, loss in rows.items():
        axes.axhline(loss, color="gray", linestyle="--", linewidth=1)
        axes.text(steps[-1], loss, name, va="bottom", ha="right", color="gray")
    axes.set(xlabel="step", ylabel="loss (nats per character)", title="Learning to write")
    axes.legend()
    common.save_figure(figure, folder / "loss.png")


def print_loss(name: str, loss: float) -> None:
    """Print a row of losses, in nats and in bits per character."""
    print(f"{name:24}{loss:8.4f}{loss / math.log(2):8.4f}")


def check(config: Config, text: str) -> None:
    """Raise `ScriptError` unless the model can be built, and trained on the text."""
    if config.n_embd % (2 * config.n_head):
        raise common.ScriptError(
            f"--n-embd {config.n_embd} is not a multiple of twice --n-head {config.n_head}"
        )
    if len(text) < (least := 10 * (config.block_size + 1)):
        raise common.ScriptError(
            f"the text has {len(text):,} characters; a --block-size of {config.block_size} needs "
            f"at least {least:,}"
        )


def steps_for(minutes: float, trial: Training) -> int:
    """Time a few steps and a measurement, and return how many steps `minutes` hold."""
    seconds = []
    for step in range(TIMED_STEPS):
        start = time.perf_counter()
        trial.step(step)
        seconds.append(time.perf_counter() - start)
    start = time.perf_counter()
    trial.validate()
    left = 60 * minutes - EVALUATIONS * (time.perf_counter() - start)
    steps = torch.tensor(left / median(seconds), device=trial.tokens.device)
    return max(EVALUATIONS, int(trial.accelerator.reduce(steps, "mean")))  # the same for all


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line; every number of `Config` is an option."""
    parser = common.argument_parser(__doc__, "--text", "--seed", "--device", "--quick")
    whole, number, add = common.whole_number, common.number, parser.add_argument
    length = parser.add_mutually_exclusive_group()
    text, absent = f"of training (default: {STEPS}, or {QUICK_STEPS} if quick)", argparse.SUPPRESS
    length.add_argument("--steps", type=whole(1, 10**9), default=absent, help=text)
    length.add_argument("--minutes", type=number(0, 1e5), help="train for about so long")
    for option in fields(Config)[1:-1]:  # steps and seed are there already
        kind = whole(1, 10**6) if isinstance(option.default, int) else number(0, 0.9)
        name, text = option.name.replace("_", "-"), option.metadata["help"]
        add(f"--{name}", type=kind, default=absent, help=f"{text} (default: {option.default})")
    add("--out-dir", type=Path, metavar="DIR", help="folder of the run; in results/ if not given")
    add("--resume", action="store_true", help="go on with the run kept in its folder")
    add("--generate", action="store_true", help="only write, with the weights kept there")
    add("--prompt", default="", help="what is to be continued; a line end if not given")
    add("--length", type=whole(0, 10**9), default=LENGTH, help="characters to write")
    add("--temperature", type=number(0, 1e9), default=TEMPERATURE, help="0: always the likeliest")
    add("--top-k", type=whole(1, 10**6), default=TOP_K, help="likeliest characters to choose from")
    arguments = parser.parse_args(argv)
    if arguments.out_dir is None:  # a quick run does not touch the real one
        name = "dante_gpt_quick" if arguments.quick else "dante_gpt"
        arguments.out_dir = common.RESULTS / name
    return arguments


def write(
    arguments: argparse.Namespace, weights: Weights, config: Config, characters: str
) -> Iterator[str]:
    """Continue the prompt with the weights of a run, character by character without end.

    Without a prompt it continues the first of its characters, which in most texts ends a line.
    """
    torch.set_num_threads(1)  # a single character is too little work to share
    prompt = encode(arguments.prompt or characters[0], characters)
    settings = arguments.temperature, arguments.top_k, arguments.seed
    return (characters[token] for token in generate(weights, config, prompt, *settings))


def main(argv: list[str] | None = None) -> int:
    """Count, train, write and judge; or only write."""
    arguments = parse(argv)
    if arguments.generate:
        device = common.select_device(arguments.device)
        written = write(arguments, *read_weights(arguments.out_dir, device))
        print(arguments.prompt, end="")
        try:
            for character in islice(written, arguments.length):
                print(character, end="", flush=True)
        finally:  # after Ctrl-C too
            print()
        return 0

    text = common.load_inferno(arguments.text)
    train, validation = split(text)
    encode(arguments.prompt, text)  # before the training, not after it
    if arguments.resume and arguments.minutes:
        raise common.ScriptError("--resume keeps the length of its run; leave out --minutes")
    sizes = {"steps": QUICK_STEPS if arguments.quick else STEPS}
    sizes |= read_state(arguments.out_dir)["settings"] if arguments.resume else {}
    sizes |= vars(arguments)  # what is given goes before
    names = [option.name for option in fields(Config)]
    config = Config(**{name: sizes[name] for name in names if name in sizes})
    check(config, text)
    common.make_folder(arguments.out_dir)
    device = common.select_device(arguments.device)

    from accelerate import Accelerator

    precision = "bf16" if device.type == "cuda" else "no"
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=precision)
    if arguments.minutes:
        trial = Training(config, text, accelerator)
        config = replace(config, steps=steps_for(arguments.minutes, trial))
        common.note(f"--minutes {arguments.minutes:g} is --steps {config.steps}")
    training = Training(config, text, accelerator)
    if arguments.resume:
        training.load(arguments.out_dir)
    if not accelerator.is_main_process:
        training.run(arguments.out_dir)
        return 0

    print(f"{len(train):,} characters to train on, {len(validation):,} to validate on")
    print(f"{'validation loss':24}{'nats':>8}{'bits':>8}  per character")
    counted = {name: ngram_loss(train, validation, order) for name, order in NGRAMS.items()}
    for name, loss in counted.items():
        print_loss(name, loss)
    code = 0
    try:
        training.run(arguments.out_dir)
    except KeyboardInterrupt:
        if not training.history:  # nothing is kept yet
            raise
        common.note(f"interrupted; --resume goes on from step {training.history[-1][0]}")
        code = 130
    parameters = sum(weight.numel() for weight in training.weights.values())
    print_loss(
        f"GPT, {parameters / 1e6:.1f} M parameters", min(row[-1] for row in training.history)
    )
    # from memory: in the folder another run may have put its own by now
    written = write(arguments, training.best, config, training.characters)
    sample = arguments.prompt + "".join(islice(written, max(JUDGED, arguments.length)))
    print(f"\n{sample[: len(arguments.prompt) + arguments.length]}\n")
    print_measures(sample, train, validation)
    draw_curve(training.history, counted, arguments.out_dir)
    return code


if __name__ == "__main__":
    raise SystemExit(common.run(main))
