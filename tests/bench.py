"""Speed, as ratios measured in one run: machines differ, and the same one differs by the hour.

    python tests/bench.py lstm      the training loop of task 02 against the usual one

Each measurement takes turns with the others, round after round; what is printed is the median
rate of each and the median, smallest and largest of the ratios of the rounds.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from any folder

import common
import task02

ROUNDS = 7
STEPS = 100  # training steps of one measurement


def take_turns(contestants: dict[str, Callable[[], None]]) -> dict[str, list[float]]:
    """Time every contestant in every round, after one that does not count: steps per second."""
    rates = {name: [] for name in contestants}
    for round_number in range(ROUNDS + 1):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            if round_number > 0:
                rates[name].append(STEPS / (time.perf_counter() - start))
    for name, values in rates.items():
        print(f"{name:<44} {statistics.median(values):7.1f} batches/s")
    return rates


def print_ratio(text: str, above: list[float], below: list[float]) -> None:
    """Print how the rates of two contestants compare, round by round."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    print(
        f"{text:<44} {statistics.median(ratios):7.2f} "
        f"(from {min(ratios):.2f} to {max(ratios):.2f} in {ROUNDS} rounds)"
    )


def bench_lstm() -> None:
    """Compare the loop everyone writes, ours, and bare steps on one batch that never changes."""
    import torch
    from torch.utils.data import DataLoader, TensorDataset
    from torchmetrics import MeanSquaredError
    from torchmetrics.functional import mean_squared_error

    frame = common.synthetic_electricity("train").astype({"consumption": "float32"})
    inputs, targets = common.create_sequences(frame, common.SEQUENCE_LENGTH)
    dataset = common.sequence_dataset(inputs, targets)
    copied = TensorDataset(torch.tensor(inputs).unsqueeze(-1), torch.tensor(targets))
    default_threads = torch.get_num_threads()
    batch_size, learning_rate = task02.TRAINING["batch_size"], task02.TRAINING["learning_rate"]

    def make_usual() -> Callable[[], None]:
        model = common.ConsumptionLSTM()
        optimizer = torch.optim.AdamW(model.parameters(), learning_rate)
        metric = MeanSquaredError()
        loader = DataLoader(copied, batch_size=batch_size, shuffle=True, drop_last=True)
        batches = iter(loader)

        def run() -> None:
            torch.set_num_threads(default_threads)
            for windows, nexts in islice(batches, STEPS):
                optimizer.zero_grad()
                loss = metric(model(windows), nexts)
                loss.backward()
                optimizer.step()

        return run

    def make_ours() -> Callable[[], None]:
        torch.set_num_threads(1)
        model = common.ConsumptionLSTM()
        parts = task02.TRAINING["parts"]
        threads = common.choose_threads(model, dataset, batch_size, parts)
        optimizer = torch.optim.AdamW(model.parameters(), learning_rate, fused=True)
        schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
        some = TensorDataset(*dataset[: STEPS * batch_size])

        def run() -> None:
            torch.set_num_threads(1)
            common.train_epoch(
                model, some, optimizer, schedule, batch_size, parts, threads, leave=False
            )

        return run

    def make_bare(threads: int) -> Callable[[], None]:
        model = common.ConsumptionLSTM()
        optimizer = torch.optim.AdamW(model.parameters(), learning_rate, fused=True)
        windows, nexts = copied[:batch_size]

        def run() -> None:
            torch.set_num_threads(threads)
            for _ in range(STEPS):
                optimizer.zero_grad()
                mean_squared_error(model(windows), nexts).backward()
                optimizer.step()

        return run

    bare = [f"(c) bare steps, {n} of torch's threads" for n in range(1, default_threads + 1)]
    usual, ours = f"(a) usual loop, {default_threads} of torch's threads", "(b) task 02's loop"
    rates = take_turns(
        {usual: make_usual(), ours: make_ours()}
        | {name: make_bare(n) for n, name in enumerate(bare, start=1)}
    )
    best = max(bare, key=lambda name: statistics.median(rates[name]))
    print_ratio("(b) / (a)", rates[ours], rates[usual])
    print_ratio(f"(b) / {best}", rates[ours], rates[best])


BENCHES = {"lstm": bench_lstm}

if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in BENCHES:
        raise SystemExit(f"usage: python tests/bench.py {'|'.join(BENCHES)}")
    BENCHES[sys.argv[1]]()
