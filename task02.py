"""Task 02: a two-layer LSTM that predicts the next reading of the electricity consumption.

Trains `common.ConsumptionLSTM` for three epochs on the windows of task 01 and tests it on 2014.

    python task02.py
    python task02.py --data DIR      with electricity_train.csv and electricity_test.csv in DIR
    python task02.py --quick         one epoch on a tenth of the windows

About a minute on two CPU cores. On the recordings expect losses of 0.195, 0.057 and
0.054, and a test MSE of 0.041.

The statement shows 0.195, 0.127, 0.103 and 0.096. Those are running means: its metric object was
never reset, so each figure averages all windows since the first batch. The true ones explain them:
(0.195 + 0.057) / 2 = 0.126, (0.195 + 0.057 + 0.054) / 3 = 0.102 and, with 34,944 test windows
after 3 times 105,088, (315,264 * 0.102 + 34,944 * 0.041) / 350,208 = 0.096.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import common

if TYPE_CHECKING:
    import torch
    from torch.utils.data import TensorDataset

TRAINING: dict[str, Any] = {
    "epochs": 3,  # the statement's
    "batch_size": 32,  # the statement's
    "learning_rate": 1e-4,  # the statement's
}
QUICK_SHARE = 10  # --quick trains on one window in so many, the earliest


def mean_loss(model: torch.nn.Module, dataset: TensorDataset) -> float:
    """Return the mean squared error of the model over the whole dataset."""
    from torchmetrics.functional import mean_squared_error

    inputs, targets = dataset.tensors
    return mean_squared_error(common.predict(model, inputs), targets).item()


def main(argv: list[str] | None = None) -> int:
    """Train on 2011 to 2013, print the loss of each epoch, then the error on 2014."""
    parser = common.argument_parser(__doc__, "--data", "--seed", "--device", "--quick")
    arguments = parser.parse_args(argv)
    folder = common.find_electricity(arguments.data)
    datasets = []
    for split in ("train", "test"):
        frame = common.load_electricity(split, folder)
        sequences = common.create_sequences(frame, common.SEQUENCE_LENGTH)
        datasets.append(common.sequence_dataset(*sequences))

    from torch.utils.data import TensorDataset

    if arguments.quick:
        datasets[0] = TensorDataset(*datasets[0][: len(datasets[0]) // QUICK_SHARE])
    common.seed_everything(arguments.seed)
    device = common.select_device(arguments.device)
    model, (train_set, test_set) = common.place(common.ConsumptionLSTM(), datasets, device)

    training = {**TRAINING, "epochs": 1} if arguments.quick else TRAINING
    losses = common.fit(model, train_set, **training)
    for epoch, loss in enumerate(losses, start=1):
        print(f"Epoch {epoch}, Average MSE loss: {loss}", flush=True)
    print(f"Test MSE: {mean_loss(model, test_set)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
