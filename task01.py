"""Task 01: cut the electricity consumption into input windows and targets.

The function that the task asks for is `common.create_sequences`, the first thing in common.py. It
turns a series into training pairs: a window of readings, and the reading that follows it. This
script applies it to the numbers from 0 to 100, with windows of 5. Then it applies it to three years
of recordings, with windows of 96 readings, which is one day. The windows become the `TensorDataset`
that task 02 trains on.

    python task01.py
    python task01.py --data DIR      with electricity_train.csv and electricity_test.csv in DIR

Takes seconds. Expect 105,119 windows of 96 readings, also of the synthetic curve, which replaces
the recordings if they cannot be downloaded. The first five windows and targets of the recordings
are printed on standard error, because the statement does not show them.
"""

import sys

import numpy as np
import pandas as pd

import common
import electricity

EXAMPLE_LENGTH = 5  # short enough to check the windows by eye
SHOWN = 5  # entries printed of each array


def main(argv: list[str] | None = None) -> int:
    """Apply `create_sequences` to the numbers from 0 to 100, then to the recordings."""
    arguments = common.argument_parser(__doc__, "--data").parse_args(argv)

    numbers = pd.DataFrame({"position": range(101), "value": range(101)})
    X, y = common.create_sequences(numbers, EXAMPLE_LENGTH)  # (96, 5), (96,)
    print('Validating "create_sequences"')
    print(f"First five training examples in dataset with the numbers from 0 to 100: {X[:SHOWN]}")
    print("First five target values:", y[:SHOWN])

    train = electricity.load("train", electricity.find_recordings(arguments.data))
    X_train, y_train = common.create_sequences(train, common.SEQUENCE_LENGTH)
    print('\nApplying "create_sequences" on the electricity consumption data')
    print(f"{X_train.shape=}")  # (windows, 96)
    print(f"{y_train.shape=}")  # (windows,)
    dataset = common.sequence_dataset(X_train, y_train)
    print(f"Length of training TensorDataset: {len(dataset):,}")

    with np.printoptions(precision=3, suppress=True, threshold=0):
        print(f"First five electricity examples:\n{X_train[:SHOWN]}", file=sys.stderr)
        print(f"First five electricity targets:\n{y_train[:SHOWN]}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
