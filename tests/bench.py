"""Two speed ratios, measured within one run, because machines differ and change from hour to hour.

    python tests/bench.py lstm      the loop of task 02 against the usual loop of a course, which
                                    looks up each row of a batch, and against bare training steps
    python tests/bench.py dante     the time in which nanoGPT's recipe for CPUs reaches its loss,
                                    against that of dante_gpt.py; --text FILE names the Inferno

The loops of `lstm` take turns, and the output is the median over the rounds. `lstm` takes a minute
and `dante` four. Use a quiet machine.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanSquaredError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of the scripts

import common
import dante_gpt
import electricity
import experiments
import inferno
import task02

ROUNDS = 9
STEPS = 150  # training steps of a turn
RECIPE = dante_gpt.Config(steps=2000, batch_size=12, block_size=64, dropout=0.0)  # of nanoGPT
SHORT_RUN = dante_gpt.Config(
    steps=300, batch_size=8, block_size=128, dropout=0.0, muon_lr=0.03, adam_lr=0.01
)
VALIDATIONS = 20  # of the short run

Run = Callable[[], object]


def make_loop(batches: Iterable, metric: Callable, fused: bool) -> Run:
    """Return a plain loop: forward, backward and step on each batch."""
    model = common.ConsumptionLSTM()
    optimizer = torch.optim.AdamW(model.parameters(), task02.LEARNING_RATE, fused=fused)

    def run() -> None:
        for inputs, targets in batches:
            optimizer.zero_grad()
            loss = metric(model(inputs), targets)
            loss.backward()
            optimizer.step()

    return run


def make_our_loop(dataset: TensorDataset) -> Run:
    """Return the loop of task 02, with its settings."""
    loader, model = task02.make_batches(dataset, task02.BATCH_SIZE), common.ConsumptionLSTM()
    optimizer = torch.optim.AdamW(model.parameters(), task02.LEARNING_RATE, fused=True)
    return partial(task02.train_epoch, model, loader, optimizer)


def bench_lstm() -> None:
    """Compare task 02's loop on one thread with the usual loop on all, and with bare steps."""
    frame = electricity.synthetic_curve("train").astype({"consumption": "float32"})
    windows = common.sequence_dataset(*common.create_sequences(frame, common.SEQUENCE_LENGTH))
    dataset = TensorDataset(*windows[: STEPS * task02.BATCH_SIZE])
    rows = DataLoader(dataset, task02.BATCH_SIZE, shuffle=True)
    batches = [dataset[: task02.BATCH_SIZE]] * STEPS
    contestants: dict[str, tuple[Run, int]] = {  # and their numbers of threads
        "task 02's loop": (make_our_loop(dataset), 1),
        "usual loop": (make_loop(rows, MeanSquaredError(), fused=False), torch.get_num_threads()),
        "bare steps": (make_loop(batches, task02.mean_squared_error, fused=True), 1),
    }
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(ROUNDS):
        for name, (run, threads) in contestants.items():
            torch.set_num_threads(threads)
            start = time.perf_counter()
            run()
            rates[name].append(STEPS / (time.perf_counter() - start))
    for name, values in rates.items():
        ratios = (a / b for a, b in zip(rates["task 02's loop"], values, strict=True))
        rate, ratio = statistics.median(values), statistics.median(ratios)
        print(f"{name:<14} {rate:6.1f} batches/s; speed of task 02 / this speed: {ratio:.2f}")


def bench_dante(path: Path | None) -> None:
    """Compare the times in which dante_gpt.py and nanoGPT's recipe reach the loss of the recipe."""
    text = inferno.load(path)
    start = time.perf_counter()
    goal = experiments.train_plain(text, RECIPE)
    theirs = time.perf_counter() - start
    print(f"nanoGPT's recipe: validation loss {goal:.3f} after {theirs:.1f} s")
    training, ours, loss = dante_gpt.Training(SHORT_RUN, text, torch.device("cpu")), 0.0, goal + 1
    for step in range(SHORT_RUN.steps):
        start = time.perf_counter()
        training.step(step)
        ours += time.perf_counter() - start
        if (step + 1) % (SHORT_RUN.steps // VALIDATIONS) == 0:
            loss = training.validate()
        if loss <= goal:
            break
    print(f"dante_gpt.py:     validation loss {loss:.3f} after {ours:.1f} s")
    if loss <= goal:
        print(f"time of the recipe / time of dante_gpt.py: {theirs / ours:.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ratio", choices=("lstm", "dante"))
    parser.add_argument("--text", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    if arguments.ratio == "lstm":
        bench_lstm()
    else:
        bench_dante(arguments.text)
