"""Speed, measured as ratios within one run, because machines differ and change from hour to hour.

    python tests/bench.py lstm      the training loop of task 02 against the usual one
    python tests/bench.py dante --text FILE       dante_gpt.py against nanoGPT's recipe for CPUs,
                                                  and writing with and without a cache
    python tests/bench.py ablation --text FILE    losses of dante_gpt.py with one part changed
    python tests/bench.py settings --text FILE    losses of dante_gpt.py with other settings
    python tests/bench.py metrics   task 13 against evaluate.load, if that can run
    python tests/bench.py seeds --model bundled   task 09 with ten seeds
    python tests/bench.py shots --model bundled   accuracy of task 10 with 0, 1 and 2 examples
    python tests/bench.py busy      short runs alone and beside an endless loop, with our settings
                                    for waiting threads and with the default ones
    python tests/bench.py features --text FILE    encoding the lines of a text, against the bare
                                                  matrix products of the same shapes
    python tests/bench.py retrieval --data DIR    speed of indexing and searching SciFact
    python tests/bench.py retrieval-settings --data DIR    settings of the fine-tuning, compared on
                                                  a held-out tenth of the training claims
    python tests/bench.py hub       tasks with a model, each against importing transformers and
                                    loading the same tiny models

Each contestant has its own process, so threads and memory of one do not influence the others. They
take turns, round after round. The output is the median rate of each, and median, minimum and
maximum of the ratios of the rounds. Without --text, the text is that of dante_gpt.py. The ablation
and the settings train on eight tenths of the text, from each seed, with one run per core. They
measure the loss on the ninth tenth, so that the last tenth chooses nothing.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import islice, product
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from subprocess import DEVNULL
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanSquaredError
from tqdm import tqdm
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of the scripts

import common
import dante_gpt
import lab_classifier
import lab_common
import lab_data
import lab_retrieval
import pretrained
import task02
import task09
import task10

ROUNDS, FEW_ROUNDS = 9, 3  # few for contestants that take seconds
STEPS = 150  # training steps per turn
WRITTEN = 1000  # characters per turn
SEEDS = 10  # of fine-tuning
LINES = 1000  # of a text, encoded in one turn

Run = Callable[[], object]
Turn = Callable[[], object]  # a run that returns its report


def serve(make: Callable[[], Turn], connection: Connection) -> None:
    """Make a contestant; then take a turn and send its report for each request."""
    turn = make()
    connection.send("ready")
    while connection.recv() == "go on":
        connection.send(turn())


def take_turns(contestants: Mapping[Any, Callable[[], Turn]], rounds: int) -> dict[Any, list]:
    """Run one turn of each contestant per round, each in its own process; return the reports."""
    context, connections = get_context("spawn"), {}
    for name, make in contestants.items():
        connections[name], theirs = context.Pipe()
        context.Process(target=serve, args=(make, theirs), daemon=True).start()
        connections[name].recv()
    reports: dict[Any, list] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, connection in connections.items():
            connection.send("go on")
            reports[name].append(connection.recv())
    for connection in connections.values():
        connection.send("stop")
    return reports


def make_timed(make: Callable[[], Run], amount: int) -> Turn:
    """Return a contestant whose report is the amount that it does per second."""
    run = make()
    run()  # the first run is slower and is not measured

    def turn() -> float:
        start = time.perf_counter()
        run()
        return amount / (time.perf_counter() - start)

    return turn


def compare_rates(
    contestants: Mapping[str, Callable[[], Run]], amount: int, unit: str, rounds: int = ROUNDS
) -> dict[str, list[float]]:
    """Time each contestant once per round, print its median rate, and return all rates."""
    timed = {name: partial(make_timed, make, amount) for name, make in contestants.items()}
    rates = take_turns(timed, rounds)
    for name, values in rates.items():
        print(f"{name:<40} {statistics.median(values):7.4g} {unit}/s")
    return rates


def print_ratio(text: str, numerator: list[float], denominator: list[float]) -> None:
    """Print median, minimum and maximum of the ratios of two contestants' rates."""
    ratios = [a / b for a, b in zip(numerator, denominator, strict=True)]
    print(
        f"{text:<40} {statistics.median(ratios):7.2f} "
        f"(from {min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} rounds)"
    )


def make_process(command: list[str], environment: dict[str, str]) -> Run:
    """Return a contestant that runs a command."""
    options: dict[str, Any] = {"check": True, "stdout": DEVNULL, "stderr": DEVNULL}
    return partial(subprocess.run, command, env=environment, **options)


# task02.py


def lstm_arrays() -> tuple[np.ndarray, np.ndarray]:
    """Return windows and targets of the synthetic load curve, in single precision."""
    frame = common.synthetic_electricity("train").astype({"consumption": "float32"})
    return common.create_sequences(frame, common.SEQUENCE_LENGTH)


def make_usual_lstm() -> Run:
    """Return the usual loop: a DataLoader, all threads, a metric object."""
    inputs, targets = lstm_arrays()
    dataset = TensorDataset(torch.tensor(inputs).unsqueeze(-1), torch.tensor(targets))
    batches = iter(DataLoader(dataset, task02.BATCH_SIZE, shuffle=True, drop_last=True))
    model, metric = common.ConsumptionLSTM(), MeanSquaredError()
    optimizer = torch.optim.AdamW(model.parameters(), task02.LEARNING_RATE)

    def run() -> None:
        for windows, nexts in islice(batches, STEPS):
            optimizer.zero_grad()
            loss = metric(model(windows), nexts)
            loss.backward()
            optimizer.step()

    return run


def make_our_lstm() -> Run:
    """Return the loop of task 02, with its settings of threads and memory."""
    common.keep_freed_memory()
    torch.set_num_threads(1)
    some = common.sequence_dataset(*lstm_arrays())[: STEPS * task02.BATCH_SIZE]
    dataset, model = TensorDataset(*some), common.ConsumptionLSTM()
    optimizer = torch.optim.AdamW(model.parameters(), task02.LEARNING_RATE, fused=True)
    arguments = model, dataset, task02.BATCH_SIZE, optimizer
    return partial(task02.train_epoch, *arguments, show_bar=False)


def make_bare_lstm(threads: int) -> Run:
    """Return forward, backward and step on one and the same batch."""
    common.keep_freed_memory()
    torch.set_num_threads(threads)
    dataset = common.sequence_dataset(*lstm_arrays())
    windows, nexts = (column.contiguous() for column in dataset[: task02.BATCH_SIZE])
    model = common.ConsumptionLSTM()
    optimizer = torch.optim.AdamW(model.parameters(), task02.LEARNING_RATE, fused=True)

    def run() -> None:
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = task02.mean_squared_error(model(windows), nexts)
            loss.backward()
            optimizer.step()

    return run


def bench_lstm() -> None:
    """Compare the usual loop, ours, and the bare steps with the better number of threads."""
    threads = torch.get_num_threads()
    usual, ours = f"(a) the usual loop, {threads} threads", "(b) task 02's loop"
    bare = {f"(c) bare steps, {n} threads": partial(make_bare_lstm, n) for n in {1, threads}}
    contestants = {usual: make_usual_lstm, ours: make_our_lstm} | bare
    rates = compare_rates(contestants, STEPS, "batches")
    best = max(bare, key=lambda name: statistics.median(rates[name]))
    print_ratio("(b) / (a)", rates[ours], rates[usual])
    print_ratio(f"(b) / {best}", rates[ours], rates[best])


# dante_gpt.py

RECIPE = dante_gpt.Config(steps=2000, batch_size=12, block_size=64, dropout=0.0)  # of nanoGPT
SHORT_RUN = dante_gpt.Config(
    steps=140, batch_size=8, block_size=128, dropout=0.0, muon_rate=0.03, adam_rate=0.06
)
TURNS = 20  # of both trainings
Trainer = Callable[[str, dante_gpt.Config], Iterator[tuple[float, float]]]


class PlainBlock(nn.Module):
    """A block of nanoGPT: GPT-2's parts without biases."""

    def __init__(self, config: dante_gpt.Config) -> None:
        super().__init__()
        width, self.heads = config.n_embd, config.n_head
        self.norms = nn.ModuleList(nn.LayerNorm(width, bias=False) for _ in range(2))
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, time, width) to the same."""
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(self.norms[0](x)).chunk(3, dim=-1)
        )  # (batch, head, time, size) each
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.dropout(self.out(y.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.down(F.gelu(self.up(self.norms[1](x)))))


class PlainGPT(nn.Module):
    """The model of Karpathy's video and of nanoGPT, with tied embeddings."""

    def __init__(self, config: dante_gpt.Config, vocabulary: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, config.n_embd)
        self.positions = nn.Embedding(config.block_size, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.Sequential(*(PlainBlock(config) for _ in range(config.n_layer)))
        self.norm = nn.LayerNorm(config.n_embd, bias=False)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                is_output = name.endswith(("out.weight", "down.weight"))
                scale = math.sqrt(2 * config.n_layer) if is_output else 1
                nn.init.normal_(weight, std=0.02 / scale)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(batch, time) to logits (batch, time, vocabulary)."""
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        return self.norm(self.blocks(self.dropout(x))) @ self.tokens.weight.T


def train_plain(text: str, config: dante_gpt.Config) -> Iterator[tuple[float, float]]:
    """Train a `PlainGPT` as nanoGPT does; yield seconds of training and validation loss."""
    characters, block = "".join(sorted(set(text))), config.block_size
    tokens = torch.tensor(dante_gpt.encode(text, characters))
    cut = len(dante_gpt.split(text)[0])
    torch.manual_seed(config.seed)
    model = PlainGPT(config, len(characters))
    groups: list[dict[str, Any]] = [
        {"params": [w for w in model.parameters() if w.dim() == 2], "weight_decay": 0.1},
        {"params": [w for w in model.parameters() if w.dim() == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, 1e-3, betas=(0.9, 0.99))
    seconds = 0.0
    for step in range(config.steps):
        start = time.perf_counter()
        progress = (step - 100) / max(1, config.steps - 100)
        rate = 1e-4 + (1e-3 - 1e-4) * (1 + math.cos(math.pi * progress)) / 2
        for group in optimizer.param_groups:
            group["lr"] = min(rate, 1e-3 * (step + 1) / 101)
        offsets = torch.randint(cut - block, (config.batch_size,))
        windows = torch.stack([tokens[offset : offset + block + 1] for offset in offsets])
        logits = model.train()(windows[:, :-1])  # (batch, block, vocabulary)
        loss = F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seconds += time.perf_counter() - start
        if (step + 1) % max(1, config.steps // TURNS) == 0 or step + 1 == config.steps:
            yield seconds, dante_gpt.validation_loss(model.eval(), tokens, cut, block)


def train_ours(text: str, config: dante_gpt.Config) -> Iterator[tuple[float, float]]:
    """Train as dante_gpt.py does; yield seconds of training and validation loss."""
    start = time.perf_counter()
    training = dante_gpt.Training(config, text, torch.device("cpu"))
    seconds = time.perf_counter() - start
    for step in range(config.steps):
        start = time.perf_counter()
        training.step(step)
        seconds += time.perf_counter() - start
        if (step + 1) % (config.steps // TURNS) == 0:
            yield seconds, training.validate()


def make_training(trainer: Trainer, text: str, config: dante_gpt.Config) -> Turn:
    """Return a contestant that trains until its next validation, and reports that."""
    return partial(next, trainer(text, config))


def make_writer(text: str, block_size: int, cached: bool) -> Run:
    """Return a model of the default size that writes with a cache, or without one."""
    config = dante_gpt.Config(block_size=block_size)
    model = dante_gpt.GPT(config, len(set(text))).eval()

    def write() -> None:
        torch.set_num_threads(1)  # as dante_gpt.py does
        for _ in islice(dante_gpt.generate(model, [0], 0.0, 1, 0), WRITTEN):
            pass

    @torch.inference_mode()
    def write_without_cache() -> None:
        torch.set_num_threads(1)
        window = [0]
        for _ in range(WRITTEN):
            window.append(int(model(torch.tensor([window]))[0, -1].argmax()))
            if len(window) > block_size:  # the window of dante_gpt.py
                window = window[-(block_size // 2) :]

    return write if cached else write_without_cache


def bench_dante(text: str) -> None:
    """Compare the times to reach one loss, and the speed of writing."""
    contestants: tuple[tuple[Trainer, dante_gpt.Config], ...]
    contestants = ((train_plain, RECIPE), (train_ours, SHORT_RUN))
    trainings = {
        trainer: partial(make_training, trainer, text, config) for trainer, config in contestants
    }
    rows = take_turns(trainings, TURNS)
    (*_, (theirs, goal)), ours = rows[train_plain], rows[train_ours]
    print(f"nanoGPT's recipe: validation loss {goal:.3f} after {theirs:.1f} s")
    for seconds, loss in ours:
        if loss <= goal:
            print(f"dante_gpt.py:     validation loss {loss:.3f} after {seconds:.1f} s")
            print(f"time of the recipe / time of dante_gpt.py: {theirs / seconds:.1f}")
            break
    else:
        print(f"dante_gpt.py did not reach it: {min(loss for _, loss in ours):.3f}")
    for block_size in (128, 256):
        cached, uncached = f"cached, block {block_size}", f"without cache, block {block_size}"
        writers = {
            name: partial(make_writer, text, block_size, name == cached)
            for name in (cached, uncached)
        }
        rates = compare_rates(writers, WRITTEN, "characters")
        print_ratio("with / without a cache", rates[cached], rates[uncached])


class LearnedPositions(dante_gpt.GPT):
    """Add an embedding of the position, as GPT-2 does."""

    def __init__(self, config: dante_gpt.Config, vocabulary: int) -> None:
        super().__init__(config, vocabulary)
        rows = self.embedding.num_embeddings + config.block_size
        self.embedding = nn.Embedding(rows, config.n_embd)

    def embed(self, tokens: torch.Tensor, last_two: torch.Tensor) -> torch.Tensor:
        """Add the embeddings of the positions, which are the last rows of the table."""
        positions = self.embedding.weight[-self.config.block_size :][: tokens.shape[1]]
        return super().embed(tokens, last_two) + positions  # (batch, time, n_embd)


def embed_characters(
    model: dante_gpt.GPT, tokens: torch.Tensor, last_two: torch.Tensor
) -> torch.Tensor:
    """Embed each character without the characters before it."""
    return model.embedding(tokens)


def gelu_block(
    block: dante_gpt.Block, x: torch.Tensor, rotation: torch.Tensor, cache: None
) -> torch.Tensor:
    """Use GELU, as GPT-2 does: (batch, time, n_embd) to the same."""
    x = x + block.dropout(block.attention(dante_gpt.norm(x), rotation, cache))
    return x + block.dropout(block.down(F.gelu(block.up(dante_gpt.norm(x)))))


def random_start(number: int, length: int, config: dante_gpt.Config) -> int:
    """Return a random start of a block, independent of the others."""
    return int(np.random.default_rng([config.seed, number]).integers(length - config.block_size))


def adam_for_all(training: dante_gpt.Training) -> None:
    """Train the matrices of the blocks with AdamW too."""
    training.muon.param_groups[0]["params"] = []
    weights = training.model.parameters()
    training.adam = torch.optim.AdamW(weights, betas=(0.9, 0.99), weight_decay=0.1, fused=True)


def random_outputs(training: dante_gpt.Training) -> None:
    """Draw the output projections instead of starting them at zero, as GPT-2 does."""
    for block in training.model.blocks:
        for layer in (block.attention.output, block.down):
            nn.init.normal_(layer.weight, std=0.02 / math.sqrt(2 * training.config.n_layer))


PLAIN = "a plain GPT, as in the video"
ABLATIONS: dict[str, dict[str, Any]] = {  # options of `Config`, patches, a change of the training
    PLAIN: {},
    "dante_gpt.py": {},
    "AdamW everywhere, no Muon": {"change": adam_for_all},
    "characters alone, no pairs or triples": {"patches": {"GPT.embed": embed_characters}},
    "pairs and triples never dropped": {"patches": {"NGRAM_DROPOUT": 0.0}},
    "learned positions, not rotary": {
        "patches": {"GPT": LearnedPositions, "rotate": lambda x, rotation: x}
    },
    "GELU, not squared ReLU": {"patches": {"Block.forward": gelu_block}},
    "output projections not zero at first": {"change": random_outputs},
    "blocks drawn at random, not in passes": {"patches": {"block_start": random_start}},
    "dropout of single units, not channels": {"patches": {"ChannelDropout": nn.Dropout}},
    "without any dropout": {"options": {"dropout": 0.0}},
}
SETTINGS: dict[str, dict[str, Any]] = {  # from which the defaults of dante_gpt.py were chosen
    f"{steps} steps, dropout {dropout}": {"options": {"steps": steps, "dropout": dropout}}
    for steps, dropout in ((2500, 0.2), (2500, 0.25), (3000, 0.15), (3000, 0.2), (3000, 0.25))
}


def final_loss(text: str, steps: int | None, run: tuple[str, int]) -> float:
    """Train once, with one thing changed, on eight tenths; return the loss on the ninth."""
    torch.set_num_threads(1)
    text = dante_gpt.split(text)[0]  # the last tenth chooses nothing
    mock.patch("dante_gpt.TRAIN_FRACTION", 8 / 9).start()  # the process ends with this run
    name, seed = run
    change = (ABLATIONS | SETTINGS)[name]
    config = replace(dante_gpt.Config(seed=seed), **change.get("options", {}))
    config = replace(config, steps=steps or config.steps)
    if name == PLAIN:
        *_, (_, loss) = train_plain(text, config)
        return loss
    for target, value in change.get("patches", {}).items():
        mock.patch(f"dante_gpt.{target}", value).start()
    training = dante_gpt.Training(config, text, torch.device("cpu"))
    change.get("change", lambda _: None)(training)
    for step in range(config.steps):
        training.step(step)
    return training.validate()


def bench_losses(text: str, names: Iterable[str], seeds: int, steps: int | None) -> None:
    """Print the final loss from each seed for each change, with mean and standard deviation."""
    runs = [(name, seed) for name in names for seed in range(seeds)]
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with ProcessPoolExecutor(workers, get_context("spawn"), max_tasks_per_child=1) as pool:
        losses = pool.map(partial(final_loss, text, steps), runs)
        header = [f"seed {seed}" for seed in range(seeds)]
        header += ["mean", "deviation"] if seeds > 1 else []
        print(f"{'nats per character':40}" + "".join(f"{each:>10}" for each in header))
        for name in names:
            row = list(islice(losses, seeds))
            row += [statistics.mean(row), statistics.stdev(row)] if seeds > 1 else []
            print(f"{name:40}" + "".join(f"{each:10.4f}" for each in row), flush=True)


# task13.py and task09.py

EVALUATE = """
import evaluate, task13 as t
print(evaluate.load("rouge").compute(
    predictions=t.SUMMARY_PREDICTIONS, references=t.SUMMARY_REFERENCES))
for name in ("meteor", "bleu", "sacrebleu", "chrf", "ter"):
    print(evaluate.load(name).compute(
        predictions=t.TRANSLATION_GENERATED, references=t.TRANSLATION_REFERENCE))
print(evaluate.load("squad").compute(
    predictions=[{"prediction_text": p, "id": p} for p in t.ANSWER_PREDICTIONS],
    references=[{"answers": {"answer_start": [0], "text": [r]}, "id": p}
                for p, r in zip(t.ANSWER_PREDICTIONS, t.ANSWER_REFERENCES)]))
"""


def bench_metrics() -> None:
    """Time task 13 from start to end, and the metrics that evaluate downloads from the Hub."""
    root = str(Path(common.__file__).parent)
    environment = os.environ | {"PYTHONPATH": root}
    contestants = {"task13": [sys.executable, f"{root}/task13.py"]}
    try:
        common.check_server("https://huggingface.co")
        contestants["evaluate.load"] = [sys.executable, "-c", EVALUATE]
    except common.ScriptError as error:
        print(f"evaluate.load cannot run: {error}")
    processes = {
        name: partial(make_process, line, environment) for name, line in contestants.items()
    }
    rates = compare_rates(processes, 1, "runs", FEW_ROUNDS)
    print(f"seconds of task13: {1 / statistics.median(rates['task13']):.2f}")
    if "evaluate.load" in rates:
        print_ratio("time of evaluate.load / task13", rates["task13"], rates["evaluate.load"])


def bench_seeds(name: str) -> None:
    """Fine-tune as task 09 does, with each seed; print the probabilities of high risk."""
    folder = pretrained.find_model(name, pretrained.ENCODER)
    tokenizer, rows = pretrained.load(AutoTokenizer, folder), []
    for seed in range(SEEDS):
        common.seed_everything(seed)
        model = task09.add_head(AutoModelForSequenceClassification, folder, task09.LABELS)
        task09.train(model, tokenizer, seed)
        rows.append(task09.predict(model, tokenizer, task09.INPUT_TEXT)[:, 1].tolist())
    for text, column in zip(task09.INPUT_TEXT, zip(*rows, strict=True), strict=True):
        print(f"{statistics.mean(column):.2f} ± {statistics.stdev(column):.2f}  {text}")
    right = sum(first < 0.5 < min(others) for first, *others in rows)
    print(f"low, high, high: {right} of {SEEDS} seeds")


# Scripts with models of the Hub

LOADED = {  # the constants of each script's models, and their Auto classes
    "task04": [("MODEL", "AutoModelForSeq2SeqLM")],
    "task05": [("MODEL", "AutoModelForCausalLM")],
    "task06": [("MODEL", "AutoModelForSeq2SeqLM")],
    "task07": [
        ("EXTRACTIVE_MODEL", "AutoModelForQuestionAnswering"),
        ("GENERATIVE_MODEL", "AutoModelForSeq2SeqLM"),
    ],
    "task10": [("MODEL", "AutoModelForSeq2SeqLM")],
    "task11": [("MODEL", "AutoModelForCausalLM")],
    "task12": [("MODEL", "AutoModelForSeq2SeqLM")],
}


def bench_hub() -> None:
    """Time each script from start to end, with its models in the Hub's cache."""
    import checkpoints  # next to this file

    with TemporaryDirectory() as folder:
        home, made = Path(folder, "home"), Path(folder, "made")
        checkpoints.make_all(made)
        checkpoints.fill_cache(home, made)
        environment = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
        for script, models in LOADED.items():
            module = importlib.import_module(script)
            loads = [
                f"transformers.{auto_class}.from_pretrained({getattr(module, name)!r}, "
                f"dtype=torch.float32); "
                f"transformers.AutoTokenizer.from_pretrained({getattr(module, name)!r})"
                for name, auto_class in models
            ]
            bare = [sys.executable, "-c", "; ".join(["import torch, transformers", *loads])]
            ours, theirs = script, f"{script}: the library and the models alone"
            whole = [sys.executable, str(Path(common.__file__).with_name(f"{script}.py"))]
            contestants = {
                ours: partial(make_process, whole, environment),
                theirs: partial(make_process, bare, environment),
            }
            rates = compare_rates(contestants, 1, "runs", FEW_ROUNDS)
            print_ratio(f"time of {script} / of these alone", rates[theirs], rates[ours])


# The laboratory


def load_encoder(name: str) -> tuple[Any, Any]:
    """Load an encoder and its tokenizer on the CPU."""
    folder = pretrained.find_model(name, pretrained.ENCODER)
    return pretrained.load(AutoModel, folder), pretrained.load(AutoTokenizer, folder)


def load_for_features(name: str, texts: list[str]) -> tuple[Any, Run]:
    """Return an encoder, and a run that computes the features of texts with it."""
    model, tokenizer = load_encoder(name)
    ids = lab_common.tokenize(tokenizer, texts)
    return model, partial(lab_common.compute_features, model, ids, lab_classifier.POOLINGS)


def make_features(name: str, texts: list[str]) -> Run:
    """Return a contestant that computes the features of texts."""
    return load_for_features(name, texts)[1]


def make_products(name: str, texts: list[str]) -> Run:
    """Return a contestant that only multiplies matrices of the shapes in `make_features`."""
    model, encode = load_for_features(name, texts)
    shapes: list[tuple[int, int]] = []  # batch and length
    hook = model.register_forward_pre_hook(
        lambda _, __, batch: shapes.append(tuple(batch["input_ids"].shape)), with_kwargs=True
    )
    encode()
    hook.remove()
    layers, heads = model.config.num_hidden_layers, model.config.num_attention_heads
    weights = [  # of queries, keys, values, output, up and down: (outputs, inputs) each
        layer.weight
        for title, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and "pooler" not in title
    ]
    longest = max(batch * length for batch, length in shapes)
    inputs = {size: torch.randn(longest, size) for size in {w.shape[1] for w in weights}}
    states = torch.randn(longest * model.config.hidden_size)

    @torch.inference_mode()
    def run() -> None:
        for batch, length in shapes:
            size = batch * length * model.config.hidden_size
            head = states[:size].view(batch * heads, length, -1)  # (batch * heads, length, width)
            for weight in weights:
                torch.mm(inputs[weight.shape[1]][: batch * length], weight.t())
            for _ in range(layers):
                torch.bmm(torch.bmm(head, head.transpose(1, 2)), head)

    return run


def bench_features(name: str, text: str) -> None:
    """Compare the encoding of lines with the matrix products that it consists of."""
    lines = [line for line in text.splitlines() if line.strip()]
    texts = [lines[i] for i in np.random.default_rng(0).permutation(len(lines))[:LINES]]
    contestants = {
        "features": partial(make_features, name, texts),
        "matrix products alone": partial(make_products, name, texts),
    }
    rates = compare_rates(contestants, len(texts), "texts")
    print_ratio("features / matrix products alone", *rates.values())


def bench_retrieval(name: str, folder: Path | None) -> None:
    """Print how many documents per second are indexed, and how long a query takes."""
    lab = lab_retrieval
    collection = lab_data.load_collection("scifact", folder)
    model, tokenizer = load_encoder(name)
    documents = collection.documents()
    claims = [collection.claims[claim] for claim in collection.qrels["test"].claims]

    def timed(function: Callable, *arguments: object) -> tuple[float, Any]:
        start = time.perf_counter()
        result = function(*arguments)
        return time.perf_counter() - start, result

    def encode(texts: list[str]) -> np.ndarray:
        ids = lab_common.tokenize(tokenizer, texts)
        return lab_common.compute_features(model, ids, lab.POOLINGS)["mean"]

    def search(claim: str) -> np.ndarray:
        return lab.rank_documents(lab.cosine_similarities(encode([claim]), features), lab.SHOWN)

    few = documents[:: max(1, len(documents) // 300)]
    features = np.random.default_rng(0).standard_normal(
        (len(documents), model.config.hidden_size), dtype=np.float32
    )
    search(claims[0])
    for round_ in range(1, FEW_ROUNDS + 1):
        splitting, words = timed(lab.split_words, documents)
        one, _ = timed(lab.bm25, words, claims[:1], 1.5, 0.75)  # nearly all of it is the index
        many, _ = timed(lab.bm25, words, claims, 1.5, 0.75)
        dense, _ = timed(lambda: [search(claim) for claim in claims[:50]])
        encoding, _ = timed(encode, few)
        print(
            f"round {round_}: documents/s BM25 {len(documents) / (splitting + one):.0f}, "
            f"encoder {len(few) / encoding:.1f}; milliseconds per query "
            f"BM25 {1000 * (many - one) / (len(claims) - 1):.2f}, encoder {1000 * dense / 50:.1f}"
        )


FINE_TUNING = (  # epochs, learning rate, temperature; lab_retrieval.py has the best of them
    (6, 2e-4, 0.05),
    (3, 2e-4, 0.05),
    (12, 2e-4, 0.05),
    (6, 1e-4, 0.05),
    (6, 4e-4, 0.05),
    (6, 2e-4, 0.03),
    (6, 2e-4, 0.1),
)


def bench_retrieval_settings(name: str, folder: Path | None) -> None:
    """Print the nDCG@10 on a held-out tenth of the training claims for settings of fine-tuning."""
    lab = lab_retrieval
    collection = lab_data.load_collection("scifact", folder)
    model, tokenizer = load_encoder(name)
    train = collection.qrels["train"]
    order = np.random.default_rng(0).permutation(len(train.claims))
    held_out, rest = (train.part(rows) for rows in np.split(order, [len(order) // 10]))
    texts = [collection.claims[claim] for claim in held_out.claims]
    documents = collection.documents()

    def encode(encoder: Any, texts: list[str]) -> np.ndarray:
        return lab_common.encode(encoder, tokenizer, texts, lab.POOLINGS)["mean"]

    vectors = encode(model, documents)  # (documents, width)
    scores = lab.cosine_similarities(encode(model, texts), vectors)
    print(f"without fine-tuning: {lab.mean_ndcg(scores, held_out.relevance):.4f}")
    for epochs, rate, temperature in FINE_TUNING:
        tuned = copy.deepcopy(model)
        common.seed_everything(0)
        with mock.patch.multiple(lab, RATE=rate, TEMPERATURE=temperature):
            lab.train_encoder(tuned, tokenizer, collection.claims, rest, vectors, epochs)
        scores = lab.cosine_similarities(encode(tuned, texts), vectors)
        ndcg = lab.mean_ndcg(scores, held_out.relevance)
        setting = f"{epochs} epochs, rate {rate:g}, temperature {temperature}"
        print(f"{setting}: {ndcg:.4f}", flush=True)


# Film reviews for task 10, written for this project; the first half of them is positive.
REVIEWS = """\
A tender, funny film whose two leads light up every scene.
The director finds beauty in the smallest gestures.
Gripping from the first minute to the last.
An old story, but told with such warmth that it feels new.
You leave the cinema with a smile and a few tears.
The best thing about this thriller is how much it trusts its audience.
A small miracle of a film, patient and full of grace.
Sharp dialogue, superb acting and a finale that nobody will forget.
Not a single minute of its three hours is wasted.
Children will laugh, and their parents even more.
A brave debut that announces a major talent.
The music alone would be worth the ticket, and everything else is as good.
It could have been sentimental; instead it is honest and moving.
Rarely has a war film been so quiet and so powerful.
I went in without expectations and came out in love with it.
A dull, endless film in which nobody seems to want to act.
The jokes are old, and the actors know it.
Two hours of noise without one character to care about.
It looks expensive and feels empty.
You will check your watch long before the end.
The plot makes no sense, and the dialogue makes it worse.
A lazy sequel that repeats everything except the charm.
What a waste of a wonderful cast.
The film wants to be a tragedy, but the audience was laughing.
Sentimental, predictable and far too long.
Even the special effects look tired.
The director mistakes confusion for depth.
I have seen more suspense in a weather report.
It could have been a good short film; as a feature it is unbearable.
Nothing here is new, and nothing here is good.""".splitlines()


def bench_shots(name: str) -> None:
    """Print the accuracy of task 10 on `REVIEWS` with 0, 1 and 2 examples in the prompt."""
    folder = pretrained.find_model(name, pretrained.CHAT_MODEL)
    tokenizer = pretrained.load(AutoTokenizer, folder)
    model = pretrained.load(AutoModelForCausalLM, folder)
    positive, negative = task10.EXAMPLES
    for examples in ((), (positive,), (negative,), (negative, positive), (positive, negative)):
        answers = []
        for review in tqdm(REVIEWS):
            prompt = task10.build_prompt(review, examples)
            probabilities = task10.classify(model, tokenizer, prompt)
            answers.append(max(probabilities, key=probabilities.__getitem__))
        half = len(REVIEWS) // 2
        right = [a == ("positive" if i < half else "negative") for i, a in enumerate(answers)]
        shown = ", ".join(label for _, label in examples) or "none"
        print(
            f"examples {shown}: accuracy {np.mean(right):.3f}, "
            f"answers positive: {answers.count('positive')} of {len(answers)}",
            flush=True,
        )


BUSY_RUNS = {  # short runs of programs that compute on several threads
    "dante_gpt": ["dante_gpt.py", "--steps", "30", "--out-dir", "{folder}"],
    "task03": ["task03.py", "--quick"],
    "encoding": ["tests/bench.py", "features", "--text", str(lab_common.VERSES)],
}
BUSY_ROUNDS = 3
WAITING = {  # how threads wait for each other: the variables of OpenMP
    "ours": {},  # those of common.py
    "default": {"GOMP_SPINCOUNT": "300000"},  # GNU OpenMP tries so often before a thread sleeps
}


def seconds_of_run(command: list[str], variables: dict[str, str], is_busy: bool) -> float:
    """Return the duration of a run with variables of the environment, alone or beside a loop."""
    script, *options = command
    environment = os.environ | variables | {"HF_HUB_OFFLINE": "1"}
    with TemporaryDirectory() as folder, ExitStack() as stack:
        options = [option.format(folder=folder) for option in options]
        path = str(common.DATA.parent / script)
        run = make_process([sys.executable, path, *options], environment)
        if is_busy:
            other = stack.enter_context(
                subprocess.Popen([sys.executable, "-c", "while True: pass"])
            )
            stack.callback(other.kill)  # after an error too
        start = time.monotonic()
        run()
        return time.monotonic() - start


def bench_busy() -> None:
    """Print the seconds of short runs, alone and beside an endless loop on one core."""
    cases = list(product(WAITING, (False, True)))
    for name, command in BUSY_RUNS.items():
        rounds = [
            [seconds_of_run(command, WAITING[waiting], is_busy) for waiting, is_busy in cases]
            for _ in range(BUSY_ROUNDS)
        ]
        medians = map(statistics.median, zip(*rounds, strict=True))
        median = dict(zip(cases, medians, strict=True))
        for waiting in WAITING:
            alone, busy = median[waiting, False], median[waiting, True]
            text = f"alone {alone:.1f} s, busy {busy:.1f} s, {busy / alone:.2f} x"
            print(f"{name}, {waiting}: {text}")
        ratio = median["default", False] / median["ours", False]
        print(f"{name}: speed alone, ours / default: {ratio:.2f}", flush=True)


def main() -> None:
    """Parse the command line and run one benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", type=Path, metavar="FILE", help="text file")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of a BEIR collection")
    parser.add_argument("--steps", type=int, help="of each run of ablation and settings")
    text = "of ablation and settings (default: %(default)s)"
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help=text)
    parser.add_argument("--model", default="bundled", metavar="ID_OR_DIR", help="encoder")
    run: dict[str, Callable[[], None]] = {
        "lstm": bench_lstm,
        "dante": lambda: bench_dante(lab_common.load_inferno(arguments.text)),
        "ablation": lambda: bench_losses(
            lab_common.load_inferno(arguments.text), ABLATIONS, arguments.seeds, arguments.steps
        ),
        "settings": lambda: bench_losses(
            lab_common.load_inferno(arguments.text), SETTINGS, arguments.seeds, arguments.steps
        ),
        "metrics": bench_metrics,
        "seeds": lambda: bench_seeds(arguments.model),
        "shots": lambda: bench_shots(arguments.model),
        "busy": bench_busy,
        "features": lambda: bench_features(
            arguments.model, lab_common.load_inferno(arguments.text)
        ),
        "retrieval": lambda: bench_retrieval(arguments.model, arguments.data),
        "retrieval-settings": lambda: bench_retrieval_settings(arguments.model, arguments.data),
        "hub": bench_hub,
    }
    parser.add_argument("bench", choices=tuple(run), help="benchmark to run")
    arguments = parser.parse_args()
    run[arguments.bench]()


if __name__ == "__main__":
    main()
