"""Speed, as ratios measured in one run: machines differ, and the same one differs by the hour.

    python tests/bench.py lstm      the training loop of task 02 against the usual one

Every contestant has a process of its own, as in life: how one uses threads and memory changes
nothing for the others. They take turns, round after round. Printed are the median rate of each,
and the median, smallest and largest of the ratios of the rounds.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from any folder

import common
import task02

ROUNDS = 9
STEPS = 150  # training steps of one turn

Run = Callable[[], None]


def serve(make: Callable[[], Run], connection: Connection) -> None:
    """Make a contestant, then let it run and report its steps per second when it is asked to."""
    run = make()
    run()  # the first steps are slower, and do not count
    connection.send("ready")
    while connection.recv() == "run":
        start = time.perf_counter()
        run()
        connection.send(STEPS / (time.perf_counter() - start))


def take_turns(contestants: dict[str, Callable[[], Run]]) -> dict[str, list[float]]:
    """Run every contestant once a round and print its median rate; return all rates."""
    context, connections = get_context("spawn"), {}
    for name, make in contestants.items():
        connections[name], theirs = context.Pipe()
        context.Process(target=serve, args=(make, theirs), daemon=True).start()
        connections[name].recv()
    rates = {name: [] for name in contestants}
    for _ in range(ROUNDS):
        for name, connection in connections.items():
            connection.send("run")
            rates[name].append(connection.recv())
    for name, values in rates.items():
        print(f"{name:<40} {statistics.median(values):7.1f} batches/s")
    return rates


def print_ratio(text: str, above: list[float], below: list[float]) -> None:
    """Print how the rates of two contestants compare, round by round."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    print(
        f"{text:<40} {statistics.median(ratios):7.2f} "
        f"(from {min(ratios):.2f} to {max(ratios):.2f} in {ROUNDS} rounds)"
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
    rates = take_turns({usual: make_usual_lstm, ours: make_our_lstm} | bare)
    best = max(bare, key=lambda name: statistics.median(rates[name]))
    print_ratio("(b) / (a)", rates[ours], rates[usual])
    print_ratio(f"(b) / {best}", rates[ours], rates[best])


BENCHES = {"lstm": bench_lstm}

if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in BENCHES:
        print(f"usage: python tests/bench.py {'|'.join(BENCHES)}", file=sys.stderr)
        raise SystemExit(2)
    BENCHES[sys.argv[1]]()
