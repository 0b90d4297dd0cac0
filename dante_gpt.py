"""Lab exercise 1: train a small character GPT on Dante's Inferno and let it write.

    python dante_gpt.py                          train, then write and measure a sample
    python dante_gpt.py --resume                 continue after Ctrl-C, a crash or a full disk
    python dante_gpt.py --generate --prompt "Nel mezzo" --length 500 --temperature 0.5 --top-k 10
    python dante_gpt.py --steps 300 --n-layer 2 --n-embd 64 --out-dir results/small

The lesson is the model of Andrej Karpathy's video "Let's build GPT". It predicts each character
from the characters before it. Read these parts first, in this order: `CausalSelfAttention`,
`Block` and `GPT` (the model), `Training.step` (one gradient step) and `generate` (sampling).

A first reading can skip the part called tuning, which the video's GPT does not have: positions as
rotations (`rotate`) and an optimiser for matrices (`Muon`). `python tests/experiments.py ablation`
compares the loss with and without them. The learning rate rises and falls (`common.one_cycle`). As
in nanoGPT, the activation is GELU, and the linear layers have no biases.

The loss is the mean of -log(probability of the character) over the last tenth of the poem, in nats;
lower is better. Expect 1.42 to 1.44 nats, depending on the seed: as uncertain as a choice among
four equally likely characters (e^1.43 = 4.2). A 5-gram model, which counts sequences of five
characters, reaches 1.62. Settings are compared by training on eight tenths and measuring the loss
on the ninth (`tests/experiments.py settings`): the last tenth is used for the result alone.

Six to sixteen minutes on two CPU cores. Without a network, the text is verses that were written for
this project, and the run takes a minute. The checkpoint and a picture of the loss are saved in
results/dante_gpt/.
"""

import argparse
import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: idle threads yield the CPU

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

import common
import inferno

# the first part of the text; the rest is the validation text, which is only used to measure
TRAIN_FRACTION = 0.9
NGRAMS = {"unigram": 1, "bigram": 2, "Witten-Bell 5-gram": 5}  # baselines for the loss
EVALUATIONS = 10  # during a run; each saves a checkpoint
STRIDE = 32  # characters from the start of one evaluation window to the start of the next
QUICK_STEPS = 100  # of --quick
MAX_EPOCHS = 37  # over a short text, unless --steps is given; as many as over the Inferno
SAMPLE_LENGTH, TEMPERATURE, TOP_K = 1000, 0.8, 40
MEASURED_LENGTH = 5000  # characters of the sample that are measured: about one canto
CHECKPOINT = "checkpoint.pt"
STATES = ("model", "muon", "adam", "muon_schedule", "adam_schedule")  # in a checkpoint


@dataclass(frozen=True)
class Config:
    """The model and its training. Each field is an option of the command line."""

    seed: int = 0
    steps: int = 3000  # gradient steps; fewer for a short text, see MAX_EPOCHS
    batch_size: int = 8  # windows of the text in a batch
    block_size: int = 256  # characters that a prediction can depend on: about six verses
    n_layer: int = 4  # transformer blocks
    n_head: int = 4  # attention heads per transformer block
    n_embd: int = 128  # width of the vectors, a multiple of twice the heads
    dropout: float = 0.25  # probability that a number is set to zero in training
    muon_lr: float = 0.02  # learning rate of the blocks' matrices
    adam_lr: float = 0.003  # learning rate of all other weights


# --- The model ----------------------------------------------------------------------------------


class CausalSelfAttention(nn.Module):
    """Attention of each position to itself and to the positions before it, in several heads.

    A head compares the query of a position with the keys of all positions up to it, and returns the
    mean of their values, weighted by how well query and key match.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.qkv = nn.Linear(config.n_embd, 3 * config.n_embd, bias=False)
        self.output = nn.Linear(config.n_embd, config.n_embd, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply attention: (batch, time, n_embd) to (batch, time, n_embd)."""
        batch, time, n_embd = x.shape
        shape = batch, time, self.n_head, n_embd // self.n_head  # (batch, time, head, size)
        # (batch, head, time, size) each
        q, k, v = (part.view(shape).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        q, k = rotate(q), rotate(k)  # the positions
        # The next call computes these three lines without keeping all scores in memory:
        #     scores = q @ k.mT / size**0.5  # (batch, head, time, time)
        #     scores[..., later] = -torch.inf  # later: the positions above the diagonal
        #     y = scores.softmax(-1) @ v  # (batch, head, time, size)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.output(y.transpose(1, 2).reshape(batch, time, n_embd))  # the heads are joined


class Block(nn.Module):
    """A transformer block: attention and a feed-forward network, with residual connections."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention = CausalSelfAttention(config)
        self.up = nn.Linear(config.n_embd, 4 * config.n_embd, bias=False)
        self.down = nn.Linear(4 * config.n_embd, config.n_embd, bias=False)
        self.norm1, self.norm2 = nn.LayerNorm(config.n_embd), nn.LayerNorm(config.n_embd)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply both parts: (batch, time, n_embd) to (batch, time, n_embd)."""
        x = x + self.dropout(self.attention(self.norm1(x)))
        hidden = F.gelu(self.up(self.norm2(x)))  # (batch, time, 4 * n_embd)
        return x + self.dropout(self.down(hidden))


class GPT(nn.Module):
    """A GPT over characters: an embedding, blocks, and a linear layer to the next character."""

    def __init__(self, config: Config, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(vocab_size, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.Sequential(*(Block(config) for _ in range(config.n_layer)))
        self.norm = nn.LayerNorm(config.n_embd)
        self.head = nn.Linear(config.n_embd, vocab_size, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the logits of the next character: (batch, time) to (batch, time, vocab_size)."""
        x = self.dropout(self.embedding(tokens))  # (batch, time, n_embd)
        return self.head(self.norm(self.blocks(x)))  # (batch, time, vocab_size)


@torch.inference_mode()
def generate(
    model: GPT, tokens: torch.Tensor, length: int, temperature: float, top_k: int
) -> Iterator[int]:
    """Yield `length` tokens that continue `tokens` (1, time).

    At temperature 0 each is the most likely one. Otherwise it is drawn from the `top_k` most likely
    ones; a low temperature prefers the likeliest, a high one makes the probabilities more equal.
    """
    if temperature < 1e-6:
        temperature, top_k = 1.0, 1  # the most likely token alone
    for _ in range(length):
        context = tokens[:, -model.config.block_size :]  # the model reads at most block_size
        logits, indices = model(context)[0, -1].sort(descending=True)  # (vocab_size,) each
        probabilities = (logits[:top_k] / temperature).softmax(0)  # (top_k,)
        choice = torch.multinomial(probabilities, 1)  # (1,)
        tokens = torch.cat([tokens, indices[choice][None]], dim=1)  # (1, time + 1)
        yield int(tokens[0, -1])


# --- Text and loss ------------------------------------------------------------------------------


def split(text: str) -> tuple[str, str]:
    """Return the training text and the validation text."""
    cut = int(TRAIN_FRACTION * len(text))
    return text[:cut], text[cut:]


def encode(text: str, characters: str) -> list[int]:
    """Return the number of each character. Raises `ScriptError` for one not in `characters`."""
    if unknown := sorted(set(text) - set(characters)):
        names = ", ".join(map(repr, unknown))
        raise common.ScriptError(f"the text does not contain {names}; change --prompt")
    numbers = {character: number for number, character in enumerate(characters)}
    return [numbers[character] for character in text]


@torch.inference_mode()
def validation_loss(
    model: Callable[[torch.Tensor], torch.Tensor], tokens: torch.Tensor, start: int, block_size: int
) -> float:
    """Return the mean loss over `tokens[start:]`, in nats per character.

    Windows predict `STRIDE` characters each, from nearly `block_size` characters before them. With
    a `block_size` of 6 and a stride of 2, the first window is `tokens[start - 5 : start + 2]`.
    """
    stride = min(STRIDE, block_size)
    context, total = block_size - stride, 0.0
    for first in range(start, len(tokens), stride):
        window = tokens[first - 1 - context : first + stride]  # its context may lie before `start`
        logits = model(window[None, :-1])[0, context:]  # (stride, vocab_size); fewer at the end
        total += F.cross_entropy(logits, window[1 + context :], reduction="sum").item()
    return total / (len(tokens) - start)


# --- Training -----------------------------------------------------------------------------------


class Training:
    """A training run: the model, its optimisers and its losses so far."""

    def __init__(self, config: Config, text: str, device: torch.device) -> None:
        self.config = config
        self.text_hash = hashlib.sha256(text.encode()).hexdigest()
        self.characters = "".join(sorted(set(text)))  # the vocabulary
        self.tokens = torch.tensor(encode(text, self.characters), device=device)  # (characters,)
        self.train_length = len(split(text)[0])
        common.seed_everything(config.seed)
        self.model = GPT(config, len(self.characters)).to(device)
        matrices = [weight for weight in self.model.blocks.parameters() if weight.ndim == 2]
        others = [weight for weight in self.model.parameters() if weight not in set(matrices)]
        self.muon = Muon(matrices, config.muon_lr)
        self.adam = torch.optim.AdamW(others, config.adam_lr, weight_decay=0, fused=True)
        self.muon_schedule = common.one_cycle(self.muon, config.steps)
        self.adam_schedule = common.one_cycle(self.adam, config.steps)
        self.history: list[list[float]] = []  # step, training loss, validation loss

    def step(self, number: int) -> float:
        """Take gradient step `number` on a random batch, and return the loss of the batch."""
        config = self.config
        # a resumed run draws the same windows and dropout as a whole one
        seed = np.random.SeedSequence([config.seed, number]).generate_state(1)[0]
        torch.manual_seed(int(seed))
        starts = torch.randint(self.train_length - config.block_size, (config.batch_size,))
        # (batch, block_size + 1)
        windows = torch.stack([self.tokens[i : i + config.block_size + 1] for i in starts])
        inputs, targets = windows[:, :-1], windows[:, 1:]  # (batch, block_size) each
        self.model.train()  # with dropout
        logits = self.model(inputs)  # (batch, block_size, vocab_size)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        self.model.zero_grad()
        loss.backward()
        self.muon.step()
        self.adam.step()
        self.muon_schedule.step()
        self.adam_schedule.step()
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
            with common.complete_path(folder / f"previous-{CHECKPOINT}") as temporary_path:
                shutil.copyfile(path, temporary_path)
        content = {name: getattr(self, name) for name in ("characters", "text_hash", "history")}
        content["config"] = asdict(self.config)
        content |= {name: getattr(self, name).state_dict() for name in STATES}
        common.save_tensors(path, content)

    def load(self, checkpoint: dict[str, Any]) -> None:
        """Continue from a checkpoint. Raises `ScriptError` if it is of another text."""
        if checkpoint["text_hash"] != self.text_hash:
            raise common.ScriptError("the saved run has another text; leave out --resume")
        with common.errors_in(CHECKPOINT):
            for name in STATES:
                getattr(self, name).load_state_dict(checkpoint[name])
            self.history = checkpoint["history"]


def load_checkpoint(folder: Path, device: torch.device) -> dict[str, Any]:
    """Load the checkpoint of a run. Raises `ScriptError` if there is none or it is damaged."""
    path = folder / CHECKPOINT
    if not path.exists():
        raise common.ScriptError(f"{path}: no such checkpoint; train first")
    with common.errors_in(path):
        checkpoint = common.load_tensors(path, device)
        checkpoint["config"] = Config(**checkpoint["config"])
        return checkpoint


# --- Tuning: a first reading can skip this part ---------------------------------------------------


def rotate(x: torch.Tensor) -> torch.Tensor:
    """Rotate `x` (…, time, size): channels i and i + size / 2 by an angle that grows with time.

    So the positions of a query and a key change their product only by their distance. These rotary
    positions (Su et al. 2021) replace the video's embedding of the position.
    """
    time, half = x.shape[-2], x.shape[-1] // 2
    # radians per position for each pair of channels, from 1 towards 1/1024: (size / 2,)
    frequencies = 1024 ** -(torch.arange(half, device=x.device) / half)
    angle = torch.arange(time, device=x.device)[:, None] * frequencies  # (time, size / 2)
    cos, sin = angle.cos(), angle.sin()
    left, right = x.chunk(2, dim=-1)  # (…, time, size / 2) each
    return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonalised updates of matrices (Jordan et al. 2024).

    All singular values of an update become about 1, so that no direction dominates the update.
    `torch.optim.Muon` computes in bfloat16, which is 20 times slower on a CPU without it.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.1,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update every matrix once."""
        for group in self.param_groups:
            for weight in group["params"]:
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                average = state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                # Nesterov's momentum: the average, moved once more towards the gradient
                update = orthogonalise(weight.grad.lerp(average, group["momentum"]))
                height, width = weight.shape  # a tall matrix takes larger steps
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.sub_(update, alpha=group["lr"] * max(1, height / width) ** 0.5)


def orthogonalise(matrix: torch.Tensor) -> torch.Tensor:
    """Bring the singular values of a matrix close to 1, by five Newton-Schulz iterations.

    Each one maps every singular value s to 3.4445 s - 4.7750 s^3 + 2.0315 s^5 (Jordan et al. 2024),
    which lets small ones grow fast.
    """
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (2.0315 * square @ square - 4.7750 * square) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


# --- The script ---------------------------------------------------------------------------------


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = common.argument_parser(__doc__, "--text", "--seed", "--device", "--quick")
    for field in fields(Config)[1:]:  # --seed exists already
        is_integer = isinstance(field.default, int)
        kind = common.in_range(int, 1, 10**9) if is_integer else common.in_range(float, 0, 0.9)
        option, text = f"--{field.name.replace('_', '-')}", f"default: {field.default}"
        parser.add_argument(option, type=kind, default=field.default, help=text)
    parser.set_defaults(steps=None)  # then a short text takes fewer
    parser.add_argument("--out-dir", type=Path, metavar="DIR", help="folder of the checkpoint")
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--resume", action="store_true", help="continue the saved run as it is")
    either.add_argument("--generate", action="store_true", help="write with the saved model")
    parser.add_argument("--prompt", default="", help="beginning of the text to write")
    for name, kind, default, text in (
        ("--length", common.in_range(int, 0, 10**9), SAMPLE_LENGTH, "characters to write"),
        ("--temperature", common.in_range(float, 0, 1000), TEMPERATURE, "0: no sampling"),
        ("--top-k", common.in_range(int, 1, 10**6), TOP_K, "sample among the k most likely"),
    ):
        parser.add_argument(name, type=kind, default=default, help=f"{text} (default: {default})")
    arguments = parser.parse_args(argv)
    if arguments.n_embd % (2 * arguments.n_head):
        parser.error("--n-embd must be a multiple of twice --n-head")
    if arguments.out_dir is None:  # a smoke run does not replace a real one
        arguments.out_dir = common.RESULTS / ("dante_gpt_quick" if arguments.quick else "dante_gpt")
    return arguments


def make_config(arguments: argparse.Namespace, length: int) -> Config:
    """Return the configuration of the options, for a training text of `length` characters."""
    options = {field.name: getattr(arguments, field.name) for field in fields(Config)}
    if arguments.steps is None:
        steps = QUICK_STEPS if arguments.quick else Config.steps
        longest = MAX_EPOCHS * length // (arguments.batch_size * arguments.block_size)
        options["steps"] = max(1, min(steps, longest))
    return Config(**options)


def write(model: GPT, characters: str, length: int, arguments: argparse.Namespace) -> Iterator[str]:
    """Yield the characters that continue the prompt.

    Without a prompt they follow the first character of the vocabulary, usually a line break.
    """
    prompt = encode(arguments.prompt or characters[0], characters)
    tokens = torch.tensor([prompt], device=model.head.weight.device)  # (1, time)
    options = arguments.temperature, arguments.top_k
    return (characters[token] for token in generate(model.eval(), tokens, length, *options))


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


def main(argv: list[str] | None = None) -> int:
    """Train a model and write a sample with it; with --generate, only write."""
    arguments = parse_arguments(argv)
    folder, device = arguments.out_dir, common.select_device(arguments.device)
    if arguments.generate:
        saved = load_checkpoint(folder, device)
        with common.errors_in(folder / CHECKPOINT):
            model = GPT(saved["config"], len(saved["characters"])).to(device)
            model.load_state_dict(saved["model"])
        torch.manual_seed(arguments.seed)
        characters = write(model, saved["characters"], arguments.length, arguments)
        print(arguments.prompt, end="")
        for character in characters:
            print(character, end="", flush=True)
        print()
        return 0

    # 1. The text, the model and the baselines
    text = inferno.load(arguments.text)
    train, validation = split(text)
    checkpoint = load_checkpoint(folder, device) if arguments.resume else None
    config = checkpoint["config"] if checkpoint else make_config(arguments, len(train))
    if len(text) < (shortest := 10 * (config.block_size + 1)):
        raise common.ScriptError(
            f"the text has {len(text):,} characters; with --block-size {config.block_size} at "
            f"least {shortest:,} are needed"
        )
    training = Training(config, text, device)
    if checkpoint:
        training.load(checkpoint)
    encode(arguments.prompt, training.characters)  # fail before the training, not after it
    print(f"{len(train):,} characters to train on, {len(validation):,} to validate on")
    print("validation loss             nats per character")
    baselines = {name: inferno.ngram_loss(train, validation, n) for name, n in NGRAMS.items()}
    for name, loss in baselines.items():
        print(f"{name:24}{loss:8.4f}")

    # 2. The training
    try:
        training.run(folder)
    except KeyboardInterrupt:
        if training.history:
            common.note(f"saved after step {training.history[-1][0]}; continue with --resume")
        else:
            common.note("stopped before the first evaluation, so nothing of this run is saved")
        raise
    parameters = sum(weight.numel() for weight in training.model.parameters())
    name = f"GPT, {parameters:,} parameters"
    print(f"{name:24}{training.history[-1][2]:8.4f}")

    # 3. A sample and its measures
    torch.manual_seed(config.seed)
    length = max(arguments.length, MEASURED_LENGTH)
    sample = "".join(write(training.model, training.characters, length, arguments))
    print(f"\n{arguments.prompt}{sample[: arguments.length]}\n")
    inferno.print_measures(sample, train, validation)
    draw_curve(training.history, baselines, folder / "loss.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
