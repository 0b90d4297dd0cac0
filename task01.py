"""Task 01: cut the electricity consumption into input windows and targets.

`create_sequences` turns a series into training pairs: a window of 96 readings, which is one day,
and the reading that follows it. It is tried on the numbers from 0 to 100. Then it is applied to
three years of recordings, which become the `TensorDataset` that task 02 trains on.

    python task01.py
    python task01.py --data DIR      with electricity_train.csv and electricity_test.csv in DIR

Takes seconds. Expect 105,119 windows of 96 readings. The first five windows and targets of the
recordings are printed on standard error.
"""

from __future__ import annotations

import sys

import common

import numpy as np
import pandas as pd

EXAMPLE_LENGTH = 5  # short enough to check the windows by eye
SHOWN = 5  # entries printed of each array


def main(argv: list[str] | None = None) -> int:
    """Apply `create_sequences` to the numbers from 0 to 100, then to the recordings."""
    arguments = common.argument_parser(__doc__, "--data").parse_args(argv)
    train = common.load_electricity("train", common.find_electricity(arguments.data))

    numbers = pd.DataFrame({"position": range(101), "value": range(101)})
    X, y = common.create_sequences(numbers, EXAMPLE_LENGTH)
    print('Validating "create_sequences"')
    print(f"First five training examples in dataset with the numbers from 0 to 100: {X[:SHOWN]}")
    print("First five target values:", y[:SHOWN])

    X_train, y_train = common.create_sequences(train, common.SEQUENCE_LENGTH)
    print('\nApplying "create_sequences" on the electricity consumption data')
    print(f"{X_train.shape=}")
    print(f"{y_train.shape=}")
    dataset = common.sequence_dataset(X_train, y_train)
    print(f"Length of training TensorDataset: {len(dataset):,}")

    with np.printoptions(precision=3, suppress=True, threshold=0):
        print(f"First five electricity examples:\n{X_train[:SHOWN]}", file=sys.stderr)
        print(f"First five electricity targets:\n{y_train[:SHOWN]}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
