"""Lab exercise 1: train a small character GPT on Dante's Inferno and let it write.

The model is a decoder-only transformer over single characters. It is trained on the first nine
tenths of the poem and evaluated on every character of the last tenth. Steps and dropout were chosen
by training on eight tenths and evaluating on the ninth (python tests/bench.py settings).

    python dante_gpt.py                          train, then write and evaluate a sample
    python dante_gpt.py --steps 4000 --n-layer 6 --dropout 0.35         a deeper model, for longer
    python dante_gpt.py --resume                 continue after Ctrl-C, a crash or a full disk
    python dante_gpt.py --generate --prompt "Nel mezzo" --length 1000 --temperature 0.8 --top-k 40

Six to ten minutes on two CPU cores. Expect 1.42 nats per character; a 5-gram model reaches 1.62.
Without a network, verses of this project replace the poem, and take half a minute.
The checkpoint and a picture of the loss curve are saved in results/dante_gpt/.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import common
import lab_common
from dante_verse import ngram_loss, print_measures

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

TRAIN_FRACTION = 0.9  # of the text, from its beginning; the rest is the validation text
STRIDE = 32  # characters from the start of one evaluation window to the start of the next
EVALUATIONS = 10  # during a run; each saves a checkpoint
NGRAMS = {"unigram": 1, "bigram": 2, "Witten-Bell 5-gram": 5}  # baselines for the loss
QUICK_STEPS = 100  # of --quick
MAX_PASSES = 37  # over the text, unless --steps is given; with more a short text is memorised
WARM_UP = 20  # steps during which the learning rates rise; then they fall linearly to 0
MOMENTUM, WEIGHT_DECAY = 0.95, 0.1  # of Muon
HASH_ROWS = 8191  # embeddings that the character triples share
NGRAM_DROPOUT = 0.4  # probability that a block is trained without embeddings of pairs and triples
SAMPLE_LENGTH, TEMPERATURE, TOP_K = 1000, 0.8, 40
MEASURED_LENGTH = 5000  # characters of the sample that are measured: about one canto
CHECKPOINT = "checkpoint.pt"


def option(default: float, text: str) -> Any:
    """Return a field of `Config` with a help text; each of these fields is an option."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Config:
    """The model and its training: 2.3 M parameters, most in embeddings of pairs and triples."""

    seed: int = 0
    steps: int = option(3000, f"gradient steps; for a short text at most {MAX_PASSES} passes")
    batch_size: int = option(8, "blocks in a batch")
    block_size: int = option(256, "characters of context: about six verses")
    n_layer: int = option(4, "transformer blocks")
    n_head: int = option(4, "attention heads per block")
    n_embd: int = option(128, "embedding width, a multiple of twice the heads")
    dropout: float = option(0.2, "dropout probability")
    muon_rate: float = option(0.02, "learning rate of the blocks' matrices (Muon)")
    adam_rate: float = option(0.003, "learning rate of embeddings and output layer (AdamW)")


class Cache:
    """Keys and values of the characters read so far, so that the next one is computed alone."""

    def __init__(self, config: Config, device: torch.device) -> None:
        size = config.n_embd // config.n_head
        shape = (config.n_layer, 2, 1, config.n_head, config.block_size, size)
        self.past = torch.empty(shape, device=device)  # (layer, key or value, 1, head, time, size)
        self.last_two = torch.zeros(1, 2, dtype=torch.long, device=device)  # characters
        self.length = 0  # characters read so far

    def append(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Add (1, head, time, size) each and return all: (2, 1, head, time so far, size)."""
        end = self.length + keys.shape[2]
        self.past[layer, 0, :, :, self.length : end] = keys
        self.past[layer, 1, :, :, self.length : end] = values
        return self.past[layer, :, :, :, :end]


def norm(x: torch.Tensor) -> torch.Tensor:
    """Apply layer norm without learned parameters to the last dimension."""
    return F.layer_norm(x, x.shape[-1:])


def rotate(x: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
    """Rotate pairs of channels of `x` (…, time, size) by the angles of their positions."""
    cos, sin = rotation  # (time, size / 2) each
    left, right = x.chunk(2, dim=-1)  # (…, time, size / 2) each
    return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)


class CausalSelfAttention(nn.Module):
    """Multi-head attention of each position to itself and to the positions before it."""

    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.n_head, self.layer = config.n_head, layer
        self.qkv = nn.Linear(config.n_embd, 3 * config.n_embd, bias=False)
        self.output = nn.Linear(config.n_embd, config.n_embd, bias=False)

    def forward(self, x: torch.Tensor, rotation: torch.Tensor, cache: Cache | None) -> torch.Tensor:
        """Return the attention output, (batch, time, n_embd). `x` follows the text in `cache`."""
        batch, time, n_embd = x.shape
        qkv = self.qkv(x).view(batch, time, 3, self.n_head, n_embd // self.n_head)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (batch, head, time, size) each
        q, k = rotate(norm(q), rotation), rotate(norm(k), rotation)
        if cache is not None:
            k, v = cache.append(self.layer, k, v)  # (batch, head, time so far, size) each
        is_causal = time == k.shape[-2]  # a single new position sees all others
        y = F.scaled_dot_product_attention(q, k, v, is_causal=is_causal)  # the shape of q
        y = y.transpose(1, 2).reshape(batch, time, n_embd)  # the heads are joined
        return self.output(y)


class ChannelDropout(nn.Dropout):
    """Dropout of whole channels of (batch, time, channel): few random numbers, so fast on a CPU."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply dropout: (batch, time, channel) to (batch, time, channel)."""
        if not self.training or self.p == 0:
            return x
        kept = torch.rand(x.shape[0], 1, x.shape[2], device=x.device) >= self.p
        return x * (kept / (1 - self.p))


class Block(nn.Module):
    """A transformer block: attention and a feed-forward network, with residual connections."""

    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.attention = CausalSelfAttention(config, layer)
        self.up = nn.Linear(config.n_embd, 4 * config.n_embd, bias=False)
        self.down = nn.Linear(4 * config.n_embd, config.n_embd, bias=False)
        self.dropout = ChannelDropout(config.dropout)

    def forward(self, x: torch.Tensor, rotation: torch.Tensor, cache: Cache | None) -> torch.Tensor:
        """Apply attention and feed-forward: (batch, time, n_embd) to (batch, time, n_embd)."""
        x = x + self.dropout(self.attention(norm(x), rotation, cache))
        hidden = self.up(norm(x)).relu().square()  # (batch, time, 4 * n_embd), a squared ReLU
        return x + self.dropout(self.down(hidden))


class GPT(nn.Module):
    """A GPT over characters. Each is embedded together with the two characters before it.

    Its input is the sum of the embeddings of the character, of the pair with the one before it, and
    of the triple with the two before it. Positions are rotary (Su et al. 2021).
    """

    def __init__(self, config: Config, vocabulary: int) -> None:
        super().__init__()
        self.config, self.vocabulary = config, vocabulary
        self.pair_rows = min(vocabulary**2, HASH_ROWS)
        self.embedding = nn.Embedding(vocabulary + self.pair_rows + HASH_ROWS, config.n_embd)
        self.dropout = ChannelDropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.head = nn.Linear(config.n_embd, vocabulary, bias=False)
        half = config.n_embd // config.n_head // 2
        speed = 1024 ** -(torch.arange(half) / half)  # of each pair of channels: (size / 2,)
        angle = torch.arange(config.block_size)[:, None] * speed  # (block, size / 2)
        self.register_buffer("rotation", torch.stack([angle.cos(), angle.sin()]), persistent=False)

    def initialise(self, seed: int) -> None:
        """Draw new weights. Output layers start at zero, so each block starts as the identity."""
        common.seed_everything(seed)
        nn.init.normal_(self.embedding.weight)
        nn.init.zeros_(self.head.weight)
        bound = self.config.n_embd**-0.5
        for block in self.blocks:
            nn.init.uniform_(block.attention.qkv.weight, -bound, bound)
            nn.init.zeros_(block.attention.output.weight)
            nn.init.uniform_(block.up.weight, -bound, bound)
            nn.init.zeros_(block.down.weight)

    def embed(self, tokens: torch.Tensor, last_two: torch.Tensor) -> torch.Tensor:
        """Return the sum of the embeddings: (batch, time) to (batch, time, n_embd).

        `last_two` (batch, 2) are the characters before the first. Pairs and triples share the rows
        of their tables by hashing.
        """
        text = torch.cat([last_two, tokens], dim=1)  # (batch, 2 + time)
        pairs = self.vocabulary * text[:, 1:-1] + tokens  # (batch, time)
        triples = self.vocabulary**2 * text[:, :-2] + pairs  # (batch, time)
        first_triple = self.vocabulary + self.pair_rows
        rows = [
            tokens,
            self.vocabulary + pairs % self.pair_rows,
            first_triple + triples % HASH_ROWS,
        ]
        parts = self.embedding(torch.stack(rows))  # (3, batch, time, n_embd)
        if self.training and self.config.dropout:  # else the model memorises the triples
            kept = torch.rand(len(tokens), 1, 1, device=tokens.device) >= NGRAM_DROPOUT
            parts = torch.cat([parts[:1], parts[1:] * kept])  # (3, batch, time, n_embd)
        return parts.sum(0)  # (batch, time, n_embd)

    def forward(self, tokens: torch.Tensor, cache: Cache | None = None) -> torch.Tensor:
        """Return the logits of the next character: (batch, time) to (batch, time, vocabulary).

        With an empty cache, `tokens` is the beginning of a text. With a filled cache, it is the
        single next character. The cache then includes it.
        """
        start = 0 if cache is None else cache.length
        last_two = tokens.new_zeros(len(tokens), 2) if cache is None else cache.last_two
        x = self.dropout(norm(self.embed(tokens, last_two)))  # (batch, time, n_embd)
        rotation = self.rotation[:, start : start + tokens.shape[1]]  # (2, time, size / 2)
        for block in self.blocks:
            x = block(x, rotation, cache)
        if cache is not None:
            cache.length += tokens.shape[1]
            cache.last_two = torch.cat([last_two, tokens], dim=1)[:, -2:]
        return self.head(norm(x))  # (batch, time, vocabulary)


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonalised updates of matrices (Jordan et al. 2024).

    `torch.optim.Muon` computes in bfloat16, which is 20 times slower on a CPU without it.
    """

    def __init__(self, parameters: Any, rate: float, momentum: float, weight_decay: float) -> None:
        defaults = {"lr": rate, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update every matrix once."""
        for group in self.param_groups:
            for weight in group["params"]:
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                average = state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                update = orthogonalise(weight.grad.lerp(average, group["momentum"]))
                height, width = weight.shape
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.sub_(update, alpha=group["lr"] * max(1, height / width) ** 0.5)


def orthogonalise(matrix: torch.Tensor) -> torch.Tensor:
    """Bring the singular values of a matrix close to 1, by five Newton-Schulz iterations."""
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (2.0315 * square @ square - 4.7750 * square) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def split(text: str) -> tuple[str, str]:
    """Return the training text and the validation text."""
    cut = int(TRAIN_FRACTION * len(text))
    return text[:cut], text[cut:]


def encode(text: str, characters: str) -> list[int]:
    """Return the number of each character. Raises `ScriptError` for one not in `characters`."""
    if unknown := sorted(set(text) - set(characters)):
        names = ", ".join(map(repr, unknown))
        raise common.ScriptError(f"the training text does not contain {names}; change --prompt")
    numbers = {character: number for number, character in enumerate(characters)}
    return [numbers[character] for character in text]


def block_start(number: int, length: int, config: Config) -> int:
    """Return the start of a training block; blocks are numbered from the beginning of a run.

    Each pass over the text cuts it into blocks side by side, at another offset and in another
    order, so that no character is used twice in a pass.
    """
    blocks = (length - 1) // config.block_size - 1  # per pass
    generator = np.random.default_rng([config.seed, number // blocks])
    offset = int(generator.integers(config.block_size))
    return offset + config.block_size * int(generator.permutation(blocks)[number % blocks])


@torch.inference_mode()
def validation_loss(
    model: Callable[[torch.Tensor], torch.Tensor], tokens: torch.Tensor, start: int, block: int
) -> float:
    """Return the mean loss over `tokens[start:]`, in nats per character.

    Windows of a block's length start `STRIDE` characters apart, and only the last `STRIDE`
    predictions of each count. So each character is predicted once, from nearly a full block.
    """
    stride = min(STRIDE, block)
    tokens = tokens[start - 1 - (block - stride) :]  # the context may lie before `start`
    inputs = F.pad(tokens[:-1], (0, stride - 1)).unfold(0, block, stride)  # (windows, block)
    targets = F.pad(tokens[1:], (0, stride - 1), value=-100).unfold(0, block, stride)
    total = 0.0
    for batch, expected in zip(inputs.split(64), targets[:, -stride:].split(64), strict=True):
        logits = model(batch)[:, -stride:].flatten(0, 1)  # (batch * stride, vocabulary)
        total += F.cross_entropy(logits, expected.flatten(), reduction="sum").item()  # skips -100
    return total / (len(tokens) - 1 - (block - stride))


class Training:
    """A training run: the model and its optimisers."""

    def __init__(self, config: Config, text: str, device: torch.device) -> None:
        self.config = config
        self.text_hash = hashlib.sha256(text.encode()).hexdigest()
        self.characters = "".join(sorted(set(text)))
        self.tokens = torch.tensor(encode(text, self.characters), device=device)  # (characters,)
        self.train_length = len(split(text)[0])
        self.model = GPT(config, len(self.characters)).to(device)
        self.model.initialise(config.seed)
        matrices = list(self.model.blocks.parameters())
        others = [self.model.embedding.weight, self.model.head.weight]
        self.muon = Muon(matrices, config.muon_rate, MOMENTUM, WEIGHT_DECAY)
        self.adam = torch.optim.AdamW(
            others, config.adam_rate, betas=(0.8, 0.95), weight_decay=0, fused=True
        )
        self.history: list[list[float]] = []  # step, training loss, validation loss
        common.keep_freed_memory()

    def step(self, step: int) -> float:
        """Train on one batch and return its loss. Its random numbers depend on seed and step."""
        config = self.config
        seed = np.random.SeedSequence([config.seed, step]).generate_state(1)[0]
        torch.manual_seed(int(seed))  # of the dropout
        numbers = range(step * config.batch_size, (step + 1) * config.batch_size)
        starts = [block_start(number, self.train_length, config) for number in numbers]
        windows = self.tokens.unfold(0, config.block_size + 1, 1)[starts]  # (batch, block + 1)
        inputs, targets = windows[:, :-1], windows[:, 1:]  # (batch, block) each
        logits = self.model.train()(inputs)  # (batch, block, vocabulary), with dropout
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        scale = min((step + 1) / WARM_UP, 1 - step / config.steps)
        for optimizer, rate in ((self.muon, config.muon_rate), (self.adam, config.adam_rate)):
            optimizer.param_groups[0]["lr"] = scale * rate
            optimizer.zero_grad()
        loss.backward()
        self.muon.step()
        self.adam.step()
        return common.finite(loss.item(), "the training loss")

    def validate(self) -> float:
        """Return the validation loss of the model. Leaves it in eval mode."""
        model = self.model.eval()
        loss = validation_loss(model, self.tokens, self.train_length, self.config.block_size)
        return common.finite(loss, "the validation loss")

    def run(self, folder: Path) -> None:
        """Train to the last step, evaluating and saving on the way."""
        config = self.config
        first = int(self.history[-1][0]) if self.history else 0
        evaluated = {config.steps * n // EVALUATIONS for n in range(1, EVALUATIONS + 1)}
        losses = []
        with tqdm(range(first, config.steps), initial=first, total=config.steps) as bar:
            for step in bar:
                losses.append(self.step(step))
                if step + 1 in evaluated:
                    self.history.append([step + 1, float(np.mean(losses)), self.validate()])
                    losses.clear()
                    self.save(folder)
                    row = "step {}: train {:.4f}, validation {:.4f}".format(*self.history[-1])
                    tqdm.write(row, file=sys.stderr)

    def save(self, folder: Path) -> None:
        """Save the run in its folder. The first time, keep the checkpoint of an earlier run."""
        path = folder / CHECKPOINT
        if len(self.history) == 1 and path.exists():
            path.replace(path.with_name(f"previous-{path.name}"))
        content = {name: getattr(self, name) for name in ("characters", "text_hash", "history")}
        content["config"] = asdict(self.config)
        for name in ("model", "muon", "adam"):
            content[name] = getattr(self, name).state_dict()
        common.save_tensors(path, content)

    def load(self, checkpoint: dict[str, Any]) -> None:
        """Continue from a checkpoint. Raises `ScriptError` if it is of another text."""
        if checkpoint["text_hash"] != self.text_hash:
            raise common.ScriptError("the saved run has another text; leave out --resume")
        for name in ("model", "muon", "adam"):
            getattr(self, name).load_state_dict(checkpoint[name])
        self.history = checkpoint["history"]


def load_checkpoint(folder: Path, device: torch.device) -> dict[str, Any]:
    """Load the checkpoint of a run. Raises `ScriptError` if there is none or it is damaged."""
    path = folder / CHECKPOINT
    try:
        checkpoint = common.load_tensors(path, device)
        checkpoint["config"] = Config(**checkpoint["config"])
        return checkpoint
    except FileNotFoundError as error:
        raise common.ScriptError(f"{path}: no such checkpoint; train first") from error
    except (ValueError, LookupError, TypeError) as error:
        raise common.ScriptError(
            f"{path}: not a checkpoint ({common.first_line(error)})"
        ) from error


def generate(
    model: GPT, prompt: list[int], temperature: float, top_k: int, seed: int
) -> Iterator[int]:
    """Yield the numbers of the characters that continue the prompt, without end.

    At temperature 0 each is the most likely one. Otherwise it is sampled from the `top_k` most
    likely ones, with the logits divided by the temperature.
    """
    generator = torch.Generator().manual_seed(seed)
    block_size, device = model.config.block_size, model.head.weight.device
    tokens, unread, cache = list(prompt), prompt[-block_size:], Cache(model.config, device)
    while True:
        with torch.inference_mode():
            logits = model(torch.tensor([unread], device=device), cache)[0, -1].cpu()  # (vocab,)
        token = logits.argmax()
        if temperature > 0:
            logits, indices = logits.topk(min(top_k, len(logits)))  # (top_k,), the largest first
            probabilities = ((logits - logits[0]) / temperature).softmax(0)  # (top_k,)
            token = indices[torch.multinomial(probabilities, 1, generator=generator)]
        tokens.append(int(token))
        unread = tokens[-1:]
        if cache.length == block_size:  # full: read the second half of the block again
            unread, cache = tokens[-max(1, block_size // 2) :], Cache(model.config, device)
        yield tokens[-1]


def write(model: GPT, characters: str, arguments: argparse.Namespace) -> Iterator[str]:
    """Yield the characters that continue the prompt, which by default is a line break."""
    torch.set_num_threads(1)  # one character at a time is too little work for several threads
    prompt = encode(arguments.prompt or characters[0], characters)
    seed = model.config.seed if arguments.seed is None else arguments.seed
    tokens = generate(model.eval(), prompt, arguments.temperature, arguments.top_k, seed)
    return (characters[token] for token in tokens)


def draw_curve(history: list[list[float]], baselines: dict[str, float], path: Path) -> None:
    """Save a picture of the loss curve, with the losses of the n-gram models."""
    steps, train, validation = zip(*history, strict=True)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, train, "o-", label="training text")
    axes.plot(steps, validation, "o-", label="validation text")
    for name, loss in baselines.items():
        axes.axhline(loss, color="gray", linestyle="--", linewidth=1)
        axes.text(steps[-1], loss, name, va="bottom", ha="right", color="gray")
    axes.set(xlabel="step", ylabel="loss (nats per character)", title="Learning to write")
    axes.legend()
    common.save_figure(figure, path)


def print_loss(name: str, loss: float) -> None:
    """Print a loss in nats and in bits per character."""
    print(f"{name:24}{loss:8.4f}{loss / math.log(2):8.4f}")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line. A field of `Config` is None where no option is given."""
    parser = common.argument_parser(__doc__, "--text", "--seed", "--device", "--quick")
    parser.set_defaults(seed=None)
    for each in fields(Config)[1:]:  # --seed exists already
        is_integer = isinstance(each.default, int)
        kind = common.in_range(int, 1, 10**9) if is_integer else common.in_range(float, 0, 0.9)
        text = f"{each.metadata['help']} (default: {each.default})"
        parser.add_argument(f"--{each.name.replace('_', '-')}", type=kind, help=text)
    parser.add_argument("--out-dir", type=Path, metavar="DIR", help="folder of the checkpoint")
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--resume", action="store_true", help="continue the run in its folder")
    either.add_argument("--generate", action="store_true", help="write with the saved model")
    parser.add_argument("--prompt", default="", help="beginning of the text to write")
    for name, kind, default, text in (
        ("--length", common.in_range(int, 0, 10**9), SAMPLE_LENGTH, "characters to write"),
        ("--temperature", common.temperature, TEMPERATURE, "divides the logits; 0: no sampling"),
        ("--top-k", common.in_range(int, 1, 10**6), TOP_K, "sample among the k most likely"),
    ):
        parser.add_argument(name, type=kind, default=default, help=f"{text} (default: {default})")
    arguments = parser.parse_args(argv)
    if arguments.out_dir is None:  # a smoke run does not replace a real one
        arguments.out_dir = common.RESULTS / ("dante_gpt_quick" if arguments.quick else "dante_gpt")
    return arguments


def make_config(arguments: argparse.Namespace, saved: Config | None, length: int) -> Config:
    """Return the configuration of the saved run, or else that of the options.

    `length` is that of the training text. Raises `ScriptError` if an option contradicts the saved
    run.
    """
    values = ((each.name, getattr(arguments, each.name)) for each in fields(Config))
    config = replace(saved or Config(), **{k: v for k, v in values if v is not None})
    if saved and config != saved:
        raise common.ScriptError(
            f"--resume: the saved run has other options, {saved}; "
            "give the same ones or leave out --resume"
        )
    if saved is None and arguments.steps is None:
        passes = MAX_PASSES * length // (config.batch_size * config.block_size)
        steps = QUICK_STEPS if arguments.quick else config.steps
        config = replace(config, steps=max(1, min(steps, passes)))
    if config.n_embd % (2 * config.n_head):
        raise common.ScriptError(
            f"--n-embd {config.n_embd} is not a multiple of twice --n-head {config.n_head}"
        )
    return config


def main(argv: list[str] | None = None) -> int:
    """Train a model and write a sample with it; with --generate, only write."""
    arguments = parse_arguments(argv)
    folder, device = arguments.out_dir, common.select_device(arguments.device)
    if arguments.generate:
        saved = load_checkpoint(folder, device)
        model = GPT(saved["config"], len(saved["characters"])).to(device)
        model.load_state_dict(saved["model"])
        print(arguments.prompt, end="")
        try:
            for character in islice(write(model, saved["characters"], arguments), arguments.length):
                print(character, end="", flush=True)
        finally:  # after Ctrl-C too
            print()
        return 0

    text = lab_common.load_inferno(arguments.text)
    train, validation = split(text)
    encode(arguments.prompt, text)  # fail before the training, not after it
    checkpoint = load_checkpoint(folder, device) if arguments.resume else None
    config = make_config(arguments, checkpoint["config"] if checkpoint else None, len(train))
    if len(text) < (shortest := 10 * (config.block_size + 1)):
        raise common.ScriptError(
            f"the text has {len(text):,} characters; with --block-size {config.block_size} at "
            f"least {shortest:,} are needed"
        )
    common.make_folder(folder)
    training = Training(config, text, device)
    if checkpoint:
        training.load(checkpoint)
    print(f"{len(train):,} characters to train on, {len(validation):,} to validate on")
    print(f"{'validation loss':24}{'nats':>8}{'bits':>8}  per character")
    baselines = {name: ngram_loss(train, validation, order) for name, order in NGRAMS.items()}
    for name, loss in baselines.items():
        print_loss(name, loss)
    try:
        training.run(folder)
    except KeyboardInterrupt:
        if training.history:
            common.note(f"saved after step {training.history[-1][0]}; continue with --resume")
        else:
            common.note("stopped before the first evaluation, so nothing of this run is saved")
        raise
    millions = sum(weight.numel() for weight in training.model.parameters()) / 1e6
    losses = [validation for _, _, validation in training.history]
    print_loss(f"GPT, {millions:.1f} M parameters", losses[-1])
    if min(losses) < losses[-1]:  # chosen on the validation text, as published figures often are
        print_loss("best during the run", min(losses))
    written = write(training.model, training.characters, arguments)
    length = max(arguments.length, MEASURED_LENGTH)
    sample = arguments.prompt + "".join(islice(written, length))
    print(f"\n{sample[: len(arguments.prompt) + arguments.length]}\n")
    print_measures(sample[len(arguments.prompt) :], train, validation)
    draw_curve(training.history, baselines, folder / "loss.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
