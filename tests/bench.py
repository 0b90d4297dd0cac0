"""Two speed ratios, measured within one run, because machines differ and change from hour to hour.

    python tests/bench.py lstm      the loop of task 02 against the usual loop of a course, which
                                    looks up each row of a batch, and against bare training steps
    python tests/bench.py dante     the time in which nanoGPT's recipe for CPUs reaches its loss,
                                    against that of dante_gpt.py; --text FILE names the Inferno

For `lstm`, each loop has its own process, so threads and memory of one do not influence the others.
They take turns, round after round. The output is the median of the batches per second, and of the
ratios of the rounds. `lstm` takes a minute and `dante` four. Use a quiet machine.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
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
    steps=330, batch_size=8, block_size=128, dropout=0.0, muon_lr=0.03, adam_lr=0.01
)
VALIDATIONS = 20  # of the short run

Run = Callable[[], object]
run: Run  # in the process of a contestant: makes `STEPS` steps


def make_usual_loop(dataset: TensorDataset) -> Run:
    """Return the usual loop: a DataLoader over rows, all threads, a metric object."""
    loader = DataLoader(dataset, task02.BATCH_SIZE, shuffle=True)
    model, metric = common.ConsumptionLSTM(), MeanSquaredError()
    optimizer = torch.optim.AdamW(model.parameters(), task02.LEARNING_RATE)

    def run() -> None:
        for inputs, targets in loader:
            optimizer.zero_grad()
            loss = metric(model(inputs), targets)
            loss.backward()
            optimizer.step()

    return run


def make_our_loop(dataset: TensorDataset) -> Run:
    """Return the loop of task 02, with its settings."""
    torch.set_num_threads(1)
    loader, model = task02.make_batches(dataset, task02.BATCH_SIZE), common.ConsumptionLSTM()
    optimizer = torch.optim.AdamW(model.parameters(), task02.LEARNING_RATE, fused=True)
    return partial(task02.train_epoch, model, loader, optimizer)


def make_bare_steps(dataset: TensorDataset, threads: int) -> Run:
    """Return forward, backward and step, always on the same batch."""
    torch.set_num_threads(threads)
    inputs, targets = (column.clone() for column in dataset[: task02.BATCH_SIZE])
    model = common.ConsumptionLSTM()
    optimizer = torch.optim.AdamW(model.parameters(), task02.LEARNING_RATE, fused=True)

    def run() -> None:
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = task02.mean_squared_error(model(inputs), targets)
            loss.backward()
            optimizer.step()

    return run


def prepare(make: Callable[[TensorDataset], Run], folder: Path) -> None:
    """Make the contestant of this process and let it run once, which is slower than later runs.

    The data come from a file, as in the script: reading it changes how glibc keeps freed memory,
    and with that the speed.
    """
    global run
    frame = electricity.load("train", folder)
    dataset = common.sequence_dataset(*common.create_sequences(frame, common.SEQUENCE_LENGTH))
    run = make(TensorDataset(*dataset[: STEPS * task02.BATCH_SIZE]))
    run()


def take_turn() -> float:
    """Return the number of steps per second."""
    start = time.perf_counter()
    run()
    return STEPS / (time.perf_counter() - start)


def bench_lstm(folder: Path) -> None:
    """Compare task 02 with the usual loop, and with bare steps on the better number of threads."""
    electricity.synthetic_curve("train").to_csv(folder / "electricity_train.csv", index=False)
    threads = {1, torch.get_num_threads()}
    bare = {f"bare steps, {n} threads": partial(make_bare_steps, threads=n) for n in threads}
    contestants = {"usual loop": make_usual_loop, "task 02's loop": make_our_loop} | bare
    context = get_context("spawn")
    pools = {
        name: ProcessPoolExecutor(1, context, initializer=prepare, initargs=(make, folder))
        for name, make in contestants.items()
    }
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(ROUNDS):
        for name, pool in pools.items():
            rates[name].append(pool.submit(take_turn).result())
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, median in medians.items():
        print(f"{name:<24} {median:6.1f} batches/s")
    for other in ("usual loop", max(bare, key=medians.__getitem__)):
        pairs = zip(rates["task 02's loop"], rates[other], strict=True)
        print(f"task 02's loop / {other:<24} {statistics.median(a / b for a, b in pairs):5.2f}")


def bench_dante(path: Path | None) -> None:
    """Compare the times in which dante_gpt.py and nanoGPT's recipe reach the loss of the recipe."""
    text = inferno.load(path)
    start = time.perf_counter()
    goal = experiments.PLAIN.train(text, RECIPE)
    theirs = time.perf_counter() - start
    print(f"nanoGPT's recipe: validation loss {goal:.3f} after {theirs:.1f} s")
    training, ours, loss = dante_gpt.Training(SHORT_RUN, text, torch.device("cpu")), 0.0, goal + 1
    for step in range(SHORT_RUN.steps):
        start = time.perf_counter()
        training.step(step)
        ours += time.perf_counter() - start
        if (step + 1) % (SHORT_RUN.steps // VALIDATIONS) == 0 and (
            loss := training.validate()
        ) <= goal:
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
        with tempfile.TemporaryDirectory() as folder:
            bench_lstm(Path(folder))
    else:
        bench_dante(arguments.text)
