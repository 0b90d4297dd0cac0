"""Speed, as ratios measured in one run: machines differ, and the same one differs by the hour.

    python tests/bench.py lstm      the training loop of task 02 against the usual one
    python tests/bench.py dante --text FILE       dante_gpt.py against nanoGPT's recipe for CPUs,
                                                  and writing with and without a cache
    python tests/bench.py ablation --text FILE    dante_gpt.py with one part changed at a time
    python tests/bench.py metrics   task 13 against evaluate.load, where that can run
    python tests/bench.py seeds --model bundled   task 09 with ten seeds
    python tests/bench.py features --text FILE    encoding the lines of a text in batches, and one
                                                  at a time
    python tests/bench.py retrieval --data DIR    how fast SciFact is indexed and searched
    python tests/bench.py hub       tasks 04 to 12, each against importing transformers and
                                    loading the same tiny models

Every contestant has a process of its own, as in life: how one uses threads and memory changes
nothing for the others. They take turns, round after round. Printed are the median rate of each,
and the median, smallest and largest of the ratios of the rounds. Without --text, the text is what
dante_gpt.py would take. The ablation is no race: it compares losses, one run on each core.
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from subprocess import DEVNULL
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from unittest import mock

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from any folder

import common
import dante_gpt
import lab_classifier
import lab_retrieval
import task02
import task09

if TYPE_CHECKING:
    import torch

ROUNDS, FEW_ROUNDS = 9, 3  # few of what takes seconds
STEPS = 150  # training steps of one turn
WRITTEN = 1000  # characters of one turn
SEEDS = 10  # of fine-tuning

Run = Callable[[], None]
Turn = Callable[[], object]  # a run that reports what it did


def serve(make: Callable[[], Turn], connection: Connection) -> None:
    """Make a contestant, then let it take a turn and report whenever it is asked to."""
    turn = make()
    connection.send("ready")
    while connection.recv() == "go on":
        connection.send(turn())


def take_turns(contestants: dict[str, Callable[[], Turn]], rounds: int) -> dict[str, list]:
    """Let every contestant take a turn a round, in its own process; return what they report."""
    context, connections = get_context("spawn"), {}
    for name, make in contestants.items():
        connections[name], theirs = context.Pipe()
        context.Process(target=serve, args=(make, theirs), daemon=True).start()
        connections[name].recv()
    reports = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, connection in connections.items():
            connection.send("go on")
            reports[name].append(connection.recv())
    for connection in connections.values():
        connection.send("stop")
    return reports


def make_timed(make: Callable[[], Run], amount: int) -> Turn:
    """Make a contestant whose turn reports how much of its amount it does per second."""
    run = make()
    run()  # the first steps are slower, and do not count

    def turn() -> float:
        start = time.perf_counter()
        run()
        return amount / (time.perf_counter() - start)

    return turn


def compare_rates(
    contestants: dict[str, Callable[[], Run]], amount: int, unit: str, rounds: int = ROUNDS
) -> dict[str, list[float]]:
    """Time every contestant once a round and print its median rate; return all rates."""
    timed = {name: partial(make_timed, make, amount) for name, make in contestants.items()}
    rates = take_turns(timed, rounds)
    for name, values in rates.items():
        print(f"{name:<40} {statistics.median(values):7.4g} {unit}/s")
    return rates


def print_ratio(text: str, above: list[float], below: list[float]) -> None:
    """Print how the rates of two contestants compare, round by round."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    print(
        f"{text:<40} {statistics.median(ratios):7.2f} "
        f"(from {min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} rounds)"
    )


def make_usual_lstm() -> Run:
    """Make the loop everyone writes, on copied windows."""
    import torch
    from torch.utils.data import DataLoader, TensorDataset
    from torchmetrics import MeanSquaredError

    inputs, targets = lstm_arrays()
    dataset = TensorDataset(torch.tensor(inputs).unsqueeze(-1), torch.tensor(targets))
    loader = DataLoader(dataset, task02.TRAINING["batch_size"], shuffle=True, drop_last=True)
    model = common.ConsumptionLSTM()
    optimizer = torch.optim.AdamW(model.parameters(), task02.TRAINING["learning_rate"])
    metric = MeanSquaredError()
    batches = iter(loader)

    def run() -> None:
        for windows, nexts in islice(batches, STEPS):
            optimizer.zero_grad()
            loss = metric(model(windows), nexts)
            loss.backward()
            optimizer.step()

    return run


def make_our_lstm() -> Run:
    """Make the loop of task 02, with the threads that it chooses."""
    from torch.utils.data import TensorDataset

    batch_size = task02.TRAINING["batch_size"]
    dataset = common.sequence_dataset(*lstm_arrays())
    some = TensorDataset(*dataset[: STEPS * batch_size])
    training = {**task02.TRAINING, "epochs": 10 * ROUNDS}
    epochs = common.fit(common.ConsumptionLSTM(), some, **training, leave=False)
    return partial(next, epochs)


def make_bare_lstm(threads: int) -> Run:
    """Make forward, backward and step on one batch that never changes."""
    import torch
    from torchmetrics.functional import mean_squared_error

    common.keep_freed_memory()
    torch.set_num_threads(threads)
    dataset = common.sequence_dataset(*lstm_arrays())
    windows, nexts = (column.contiguous() for column in dataset[: task02.TRAINING["batch_size"]])
    model = common.ConsumptionLSTM()
    optimizer = torch.optim.AdamW(model.parameters(), task02.TRAINING["learning_rate"], fused=True)

    def run() -> None:
        for _ in range(STEPS):
            loss = mean_squared_error(model(windows), nexts)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return run


def lstm_arrays() -> tuple:
    """Return the windows and targets of the synthetic load curve, in single precision."""
    frame = common.synthetic_electricity("train").astype({"consumption": "float32"})
    return common.create_sequences(frame, common.SEQUENCE_LENGTH)


def bench_lstm() -> None:
    """Compare the usual loop, ours, and the bare steps at the best number of threads."""
    import torch

    threads = torch.get_num_threads()
    usual, ours = f"(a) the usual loop, {threads} threads", "(b) task 02's loop"
    bare = {f"(c) bare steps, {n} threads": partial(make_bare_lstm, n) for n in {1, threads}}
    contestants = {usual: make_usual_lstm, ours: make_our_lstm} | bare
    rates = compare_rates(contestants, STEPS, "batches")
    best = max(bare, key=lambda name: statistics.median(rates[name]))
    print_ratio("(b) / (a)", rates[ours], rates[usual])
    print_ratio(f"(b) / {best}", rates[ours], rates[best])


# dante_gpt.py

RECIPE = {"steps": 2000, "batch": 12, "block": 64, "layers": 4, "heads": 4, "width": 128}
OURS = {  # sizes and rates of a short run
    "steps": 140,
    "batch_size": 8,
    "block_size": 128,
    "dropout": 0.0,
    "muon_rate": 0.03,
    "adam_rate": 0.06,
}
TURNS = 20  # into which both trainings are cut


def nano_gpt(vocabulary: int) -> torch.nn.Module:
    """Build the model of nanoGPT's recipe for CPUs: GPT-2's parts, no biases, tied embeddings."""
    from torch import nn

    width, layers = RECIPE["width"], RECIPE["layers"]

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norms = nn.ModuleList(nn.LayerNorm(width, bias=False) for _ in range(2))
            self.qkv = nn.Linear(width, 3 * width, bias=False)
            self.out = nn.Linear(width, width, bias=False)
            self.up = nn.Linear(width, 4 * width, bias=False)
            self.down = nn.Linear(4 * width, width, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:  # (batch, time, width) to the same
            q, k, v = (
                part.unflatten(-1, (RECIPE["heads"], -1)).transpose(1, 2)
                for part in self.qkv(self.norms[0](x)).chunk(3, dim=-1)
            )  # (batch, head, time, size) each
            y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(y.transpose(1, 2).flatten(2))
            return x + self.down(nn.functional.gelu(self.up(self.norms[1](x))))

    class GPT2(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = nn.Embedding(vocabulary, width)
            self.positions = nn.Embedding(RECIPE["block"], width)
            self.blocks = nn.Sequential(*(Block() for _ in range(layers)))
            self.norm = nn.LayerNorm(width, bias=False)
            for name, weight in self.named_parameters():
                if weight.dim() == 2:
                    last = name.endswith(("out.weight", "down.weight"))
                    nn.init.normal_(weight, std=0.02 / math.sqrt(2 * layers if last else 1))

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:  # (batch, time) to logits
            x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
            return self.norm(self.blocks(x)) @ self.tokens.weight.T

    return GPT2()


def train_recipe(text: str) -> Iterator[tuple[float, float]]:
    """Train by nanoGPT's recipe for CPUs; yield seconds of training and validation loss."""
    import torch

    characters, block = "".join(sorted(set(text))), RECIPE["block"]
    tokens = torch.tensor(dante_gpt.encode(text, characters))
    cut = len(dante_gpt.split(text)[0])
    torch.manual_seed(0)
    model = nano_gpt(len(characters))
    groups = [
        {"params": [w for w in model.parameters() if w.dim() == 2], "weight_decay": 0.1},
        {"params": [w for w in model.parameters() if w.dim() == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, 1e-3, betas=(0.9, 0.99))
    seconds = 0.0
    for step in range(RECIPE["steps"]):
        start = time.perf_counter()
        share = (step - 100) / (RECIPE["steps"] - 100)
        rate = 1e-4 + (1e-3 - 1e-4) * (1 + math.cos(math.pi * share)) / 2
        for group in optimizer.param_groups:
            group["lr"] = min(rate, 1e-3 * (step + 1) / 101)
        offsets = torch.randint(cut - block, (RECIPE["batch"],))
        windows = torch.stack([tokens[offset : offset + block + 1] for offset in offsets])
        logits = model(windows[:, :-1])  # (batch, block, vocabulary)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seconds += time.perf_counter() - start
        if (step + 1) % (RECIPE["steps"] // TURNS) == 0:
            yield seconds, dante_gpt.validation_loss(model, tokens, cut, block)


def train_ours(text: str) -> Iterator[tuple[float, float]]:
    """Train a short run of dante_gpt.py; yield seconds of training and validation loss."""
    from accelerate import Accelerator

    start = time.perf_counter()
    training = dante_gpt.Training(dante_gpt.Config(**OURS), text, Accelerator(cpu=True))
    seconds = time.perf_counter() - start
    for step in range(OURS["steps"]):
        start = time.perf_counter()
        training.step(step)
        seconds += time.perf_counter() - start
        if (step + 1) % (OURS["steps"] // TURNS) == 0:
            yield seconds, training.validate()


def make_training(train: Callable[[str], Iterator[tuple[float, float]]], text: str) -> Turn:
    """Make a contestant that trains on to its next measurement, and reports that."""
    return partial(next, train(text))


def make_writer(text: str, block_size: int, cached: bool) -> Run:
    """Make a model of the default size write, from its cache or from its whole window anew."""
    import torch

    config = dante_gpt.Config(steps=1, block_size=block_size)
    weights = dante_gpt.new_weights(config, len(set(text)))

    def write() -> None:
        torch.set_num_threads(1)  # as dante_gpt.py does: one character is too little to share
        for _ in islice(dante_gpt.generate(weights, config, [0], 0.0, 1, 0), WRITTEN):
            pass

    def write_anew() -> None:
        tokens = [0]
        with torch.inference_mode():
            for _ in range(WRITTEN):
                window = tokens[dante_gpt.window_start(len(tokens), block_size) :]
                logits = dante_gpt.gpt(weights, config, torch.tensor([window]))[0, -1]
                tokens.append(int(logits.argmax()))

    return write if cached else write_anew


def bench_dante(text: str) -> None:
    """Compare the times to one loss, and the speed of writing."""
    trainings = {train: partial(make_training, train, text) for train in (train_recipe, train_ours)}
    rows = take_turns(trainings, TURNS)
    (*_, (theirs, goal)), ours = rows[train_recipe], rows[train_ours]
    print(f"nanoGPT's recipe: validation loss {goal:.3f} after {theirs:.1f} s")
    for seconds, loss in ours:
        if loss <= goal:
            print(f"dante_gpt.py:     validation loss {loss:.3f} after {seconds:.1f} s")
            print(f"time of the recipe / time of dante_gpt.py: {theirs / seconds:.1f}")
            break
    else:
        print(f"dante_gpt.py did not get there: {min(loss for _, loss in ours):.3f}")
    for block_size in (128, 256):
        cached, anew = f"cached, block {block_size}", f"window anew, block {block_size}"
        writers = {
            name: partial(make_writer, text, block_size, name == cached) for name in (cached, anew)
        }
        rates = compare_rates(writers, WRITTEN, "characters")
        print_ratio("with / without a cache", rates[cached], rates[anew])


def adam_for_all(training: dante_gpt.Training) -> None:
    """Take the matrices in the layers away from Muon."""
    from torch.optim import AdamW

    training.momenta = {}
    weights = training.weights.values()
    training.adam = AdamW(weights, betas=(0.9, 0.99), weight_decay=0.1, fused=True)


def gelu_forward(x: torch.Tensor, weights: dante_gpt.Weights, layer: int) -> torch.Tensor:
    """Work on every position alone, as GPT-2 does."""
    import torch

    hidden = torch.nn.functional.gelu(x @ weights[f"{layer}.forward.in"].T)
    return hidden @ weights[f"{layer}.forward.out"].T


def random_start(number: int, length: int, config: dante_gpt.Config) -> int:
    """Draw where a block starts, whatever was drawn before."""

    return int(np.random.default_rng([config.seed, number]).integers(length - config.block_size))


def embed_alone(
    tokens: torch.Tensor, last: torch.Tensor, weights: dante_gpt.Weights, dropout: float
) -> torch.Tensor:
    """Look up every token without those before it."""
    import torch

    return torch.nn.functional.embedding(tokens, weights["embedding"])


ABLATIONS = {  # what is changed: sizes of `Config`, names of dante_gpt.py, steps, the optimizer
    "as it is": {},
    "without dropout": {"sizes": {"dropout": 0.0}},
    "AdamW everywhere, not Muon": {"optimizer": adam_for_all},
    "blocks drawn at random, not in passes": {"names": {"block_start": random_start}},
    "characters alone, no pairs or triples": {"names": {"embed": embed_alone}},
    "batches of 16, half the steps": {"sizes": {"batch_size": 16}, "steps": 1 / 2},
    "last weights, not their average": {"names": {"MEMORY": 0.0}},
    "GELU, not squared ReLU": {"names": {"feed_forward": gelu_forward}},
}


def run_ablation(text: str, steps: int, name: str) -> tuple[str, float, float]:
    """Train with one thing changed; return its name, and the best and the last validation loss."""
    import torch
    from accelerate import Accelerator

    torch.set_num_threads(1)
    change = ABLATIONS[name]
    sizes = {"steps": int(steps * change.get("steps", 1)), **change.get("sizes", {})}
    config = dante_gpt.Config(**sizes)
    with mock.patch.dict(vars(dante_gpt), change.get("names", {})):
        training = dante_gpt.Training(config, text, Accelerator(cpu=True))
        if "optimizer" in change:
            change["optimizer"](training)
        losses = []
        for step in range(config.steps):
            training.step(step)
            if (step + 1) % (config.steps // dante_gpt.EVALUATIONS) == 0:
                losses.append(training.validate())
    return name, min(losses), losses[-1]


def bench_ablation(text: str, steps: int) -> None:
    """Print what every change does to the loss."""
    print(f"{'validation loss, nats per character':40}{'best':>8}{'last':>8}")
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        for name, best, last in pool.map(partial(run_ablation, text, steps), ABLATIONS):
            print(f"{name:40}{best:8.4f}{last:8.4f}", flush=True)


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
    """Time task 13 from start to end, beside what evaluate fetches from the Hub and runs."""
    root = str(Path(common.__file__).parent)
    environment = os.environ | {"PYTHONPATH": root}
    contestants = {"task13": [sys.executable, f"{root}/task13.py"]}
    if common.answers("https://huggingface.co"):
        contestants["evaluate.load"] = [sys.executable, "-c", EVALUATE]
    else:
        print("evaluate.load cannot run here: no answer from huggingface.co")
    rates = compare_rates(
        {name: partial(make_process, line, environment) for name, line in contestants.items()},
        1,
        "runs",
        FEW_ROUNDS,
    )
    print(f"seconds of task13: {1 / statistics.median(rates['task13']):.2f}")
    if "evaluate.load" in rates:
        print_ratio("time of evaluate.load / task13", rates["task13"], rates["evaluate.load"])


def bench_seeds(name: str) -> None:
    """Fine-tune as task 09 does, once for every seed; print the probabilities of a high risk."""
    import torch

    folder = common.find_encoder(name, task09.MODEL)
    tokenizer, shares = common.load_tokenizer(folder), []
    for seed in range(SEEDS):
        common.seed_everything(seed)
        model = common.add_head(folder, task09.KIND, torch.device("cpu"), task09.LABELS)
        task09.train(model, tokenizer, seed)
        shares.append(task09.probabilities(model, tokenizer, task09.INPUT_TEXT)[:, 1].tolist())
    for text, column in zip(task09.INPUT_TEXT, zip(*shares, strict=True), strict=True):
        print(f"{statistics.mean(column):.2f} ± {statistics.stdev(column):.2f}  {text}")
    right = sum(first < 0.5 < min(others) for first, *others in shares)
    print(f"low, high, high: {right} of {SEEDS} seeds")


LOADED = {  # what each script loads: its model, and the class of transformers
    "task04": [("MODEL", "AutoModelForSeq2SeqLM")],
    "task05": [("MODEL", "AutoModelForCausalLM")],
    "task06": [("MODEL", "AutoModelForSeq2SeqLM")],
    "task07": [
        ("EXTRACTIVE_MODEL", "AutoModelForQuestionAnswering"),
        ("GENERATIVE_MODEL", "AutoModelForSeq2SeqLM"),
    ],
    "task10": [("GENERATIVE_MODEL", "AutoModelForSeq2SeqLM")],
    "task11": [("MODEL", "AutoModelForCausalLM")],
    "task12": [("MODEL", "AutoModelForSeq2SeqLM")],
}


def make_process(command: list[str], environment: dict[str, str]) -> Run:
    """Make a contestant that starts a process and waits for its end."""
    return partial(
        subprocess.run, command, env=environment, check=True, stdout=DEVNULL, stderr=DEVNULL
    )


def bench_hub() -> None:
    """Time every script from start to end, with its models in the Hub's cache."""
    import checkpoints

    with TemporaryDirectory() as folder:
        home, made = Path(folder, "home"), Path(folder, "made")
        checkpoints.make_all(made)
        checkpoints.fill_cache(home, made)
        environment = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
        for script, models in LOADED.items():
            loads = [
                f"transformers.{kind}.from_pretrained({name!r}, dtype=torch.float32); "
                f"transformers.AutoTokenizer.from_pretrained({name!r})"
                for name, kind in (
                    (vars(importlib.import_module(script))[constant].name, kind)
                    for constant, kind in models
                )
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


LINES = 1000  # of a text, encoded in one turn


def load_encoder(name: str) -> tuple[object, object]:
    """Load an encoder and its tokenizer on the CPU."""
    import torch

    folder = common.find_encoder(name)
    tokenizer = common.load_tokenizer(folder)
    return common.load_model(folder, "AutoModel", torch.device("cpu")), tokenizer


def make_features(name: str, texts: list[str], together: bool) -> Run:
    """Make a contestant that encodes texts, in batches or one at a time as in a plain loop."""
    import torch

    model, tokenizer = load_encoder(name)

    def in_batches() -> None:
        common.compute_features(model, common.tokenize(tokenizer, texts), lab_classifier.POOLS)

    @torch.inference_mode()
    def alone() -> None:
        for text in texts:
            inputs = tokenizer(text, truncation=True, return_tensors="pt")
            states = model(**inputs, output_hidden_states=True).hidden_states
            for pool in lab_classifier.POOLS.values():
                pool(states, inputs["attention_mask"])

    return in_batches if together else alone


def bench_features(name: str, text: str) -> None:
    """Compare encoding in batches with one text at a time, in time and in what comes out."""
    lines = [line for line in text.splitlines() if line.strip()]
    texts = [lines[i] for i in np.random.default_rng(0).permutation(len(lines))[:LINES]]
    contestants = {
        "batches of like length": partial(make_features, name, texts, True),
        "one text at a time": partial(make_features, name, texts, False),
    }
    rates = compare_rates(contestants, len(texts), "texts", FEW_ROUNDS)
    print_ratio("batches / one at a time", *rates.values())
    model, tokenizer = load_encoder(name)
    ids, pools = common.tokenize(tokenizer, texts), lab_classifier.POOLS
    together = common.compute_features(model, ids, pools)
    alone = [common.compute_features(model, [each], pools) for each in ids]
    for pool, features in together.items():
        rows = np.concatenate([each[pool] for each in alone])
        difference = np.abs(features - rows).max() / np.abs(rows).max()
        print(f"{pool}: largest difference {difference:.1e} of the largest feature")


def bench_retrieval(name: str, folder: Path | None) -> None:
    """Print how many documents a second are indexed, and how long a question takes."""
    lab = lab_retrieval
    collection = lab.read_collection(folder)
    model, tokenizer = load_encoder(name)
    documents = collection.documents()
    claims = [collection.claims[claim] for claim in collection.qrels["test"]]

    def timed(function: Callable, *arguments: object) -> tuple[float, object]:
        start = time.perf_counter()
        result = function(*arguments)
        return time.perf_counter() - start, result

    def encode(texts: list[str]) -> np.ndarray:
        ids = common.tokenize(tokenizer, texts, lab.LONGEST)
        return common.compute_features(model, ids, lab.MEAN)["mean"]

    def ask(claim: str) -> np.ndarray:
        return lab.best_documents(lab.cosines(encode([claim]), features))

    few = documents[:: max(1, len(documents) // 300)]
    features = np.random.default_rng(0).standard_normal(
        (len(documents), model.config.hidden_size), dtype=np.float32
    )
    ask(claims[0])
    for round_ in range(1, FEW_ROUNDS + 1):
        splitting, words = timed(lab.split_words, documents)
        one, _ = timed(lab.bm25, words, claims[:1], 1.5, 0.75)  # nearly all of it: the index
        many, _ = timed(lab.bm25, words, claims, 1.5, 0.75)
        dense, _ = timed(lambda: [ask(claim) for claim in claims[:50]])
        encoding, _ = timed(encode, few)
        print(
            f"round {round_}: documents/s BM25 {len(documents) / (splitting + one):.0f}, "
            f"encoder {len(few) / encoding:.1f}; milliseconds a question "
            f"BM25 {1000 * (many - one) / (len(claims) - 1):.2f}, encoder {1000 * dense / 50:.1f}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=common.HelpFormatter)
    parser.add_argument(
        "bench",
        choices=(
            *("lstm", "dante", "ablation", "features", "retrieval", "hub", "metrics", "seeds"),
        ),
        help="what to measure",
    )
    parser.add_argument(
        "--text", type=Path, metavar="FILE", help="for dante, ablation and features"
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="for retrieval")
    parser.add_argument("--steps", type=int, default=dante_gpt.STEPS, help="of an ablation's run")
    parser.add_argument(
        "--model", default="bundled", metavar="ID_OR_DIR", help="for seeds, features and retrieval"
    )
    arguments = parser.parse_args()
    if arguments.bench == "lstm":
        bench_lstm()
    elif arguments.bench == "hub":
        bench_hub()
    elif arguments.bench == "metrics":
        bench_metrics()
    elif arguments.bench == "features":
        bench_features(arguments.model, common.load_inferno(arguments.text))
    elif arguments.bench == "retrieval":
        bench_retrieval(arguments.model, arguments.data)
    elif arguments.bench == "seeds":
        bench_seeds(arguments.model)
    elif arguments.bench == "dante":
        bench_dante(common.load_inferno(arguments.text))
    else:
        bench_ablation(common.load_inferno(arguments.text), arguments.steps)
