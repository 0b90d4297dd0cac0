"""Task 02: train an LSTM that predicts the next reading of the electricity consumption.

The network is `common.ConsumptionLSTM`, at the top of common.py. It reads a window of 96 readings,
a day, and predicts the next one. The lesson is `train_epoch`. The network is trained for three
epochs on the windows of task 01 (2011 to 2013) and tested on those of 2014.

    python task02.py
    python task02.py --data DIR      with electricity_train.csv and electricity_test.csv in DIR
    python task02.py --quick         one epoch on a tenth of the windows

About a minute on two CPU cores. Expect losses of 0.197, 0.057 and 0.054, and a test MSE of 0.041.
Their unit is the squared standard deviation of the recordings. Offline, a synthetic curve replaces
the recordings. On it expect losses of 0.158, 0.056 and 0.052, and a test MSE of 0.052.

The statement prints 0.195, 0.127, 0.103 and 0.096. These are running means: its metric object was
never reset, so each figure is the mean over all windows since the first batch. The figures of this
script lead to about the same: (0.197 + 0.057) / 2 = 0.127, (0.197 + 0.057 + 0.054) / 3 = 0.103, and
with 34,944 test windows after 3 * 105,088 training windows
(315,264 * 0.103 + 34,944 * 0.041) / 350,208 = 0.097.
"""

from collections.abc import Iterable

import torch
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset
from torchmetrics.functional import mean_squared_error
from tqdm import tqdm

import common
import electricity

EPOCHS = 3  # the statement's
BATCH_SIZE = 32  # the statement's
LEARNING_RATE = 1e-4  # the statement's
QUICK_FRACTION = 0.1  # --quick trains on the first tenth of the windows


def make_batches(dataset: TensorDataset, size: int) -> DataLoader:
    """Return the batches of an epoch, in a new random order each time they are iterated over.

    The last, incomplete batch is dropped. Raises `ScriptError` if there is no complete batch.
    """
    if len(dataset) < size:
        raise common.ScriptError(
            f"{len(dataset)} training windows do not fill a batch of {size}; use more data"
        )
    sampler = BatchSampler(RandomSampler(dataset), size, drop_last=True)
    # DataLoader(dataset, size, shuffle=True, drop_last=True) would look up one window at a time,
    # which is slower. This sampler yields the indices of a whole batch; None says that these are
    # batches already.
    return DataLoader(dataset, sampler=sampler, batch_size=None)


def train_epoch(
    model: torch.nn.Module,
    loader: Iterable[list[torch.Tensor]],
    optimizer: torch.optim.Optimizer,
    schedule: LRScheduler | None = None,
) -> float:
    """Train on every batch once and return the mean loss of the batches.

    Task 03 also passes a schedule, which changes the learning rate after each batch.
    """
    model.train()
    losses = []
    for inputs, targets in loader:  # (batch, time, 1) or, in task 03, (batch, inputs); (batch,)
        optimizer.zero_grad()
        loss = mean_squared_error(model(inputs), targets)
        loss.backward()
        optimizer.step()
        if schedule is not None:
            schedule.step()
        losses.append(loss.detach())
    return common.finite(torch.stack(losses).mean().item(), "the training loss")


@torch.inference_mode()
def predict(model: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Return the predictions for all rows of `inputs`: (rows, …) to (rows,)."""
    model.eval()
    return torch.cat([model(batch) for batch in inputs.split(1024)])  # in parts, to save memory


def main(argv: list[str] | None = None) -> int:
    """Train on 2011 to 2013, printing the loss of each epoch, then test on 2014."""
    parser = common.argument_parser(__doc__, "--data", "--seed", "--device", "--quick")
    arguments = parser.parse_args(argv)
    device = common.select_device(arguments.device)
    folder = electricity.find_recordings(arguments.data)
    datasets = []
    for split in ("train", "test"):
        frame = electricity.load(split, folder)
        windows, targets = common.create_sequences(frame, common.SEQUENCE_LENGTH)
        datasets.append(common.sequence_dataset(windows, targets, device))
    train_set, test_set = datasets
    if arguments.quick:
        count = int(QUICK_FRACTION * len(train_set))
        train_set = TensorDataset(*train_set[:count])  # a slice is a tuple of tensors

    common.seed_everything(arguments.seed)
    torch.set_num_threads(1)  # the matrices are too small to be worth sharing between threads
    model = common.ConsumptionLSTM().to(device)
    # fused: all weights are updated in one operation, which is faster
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, fused=True)
    loader = make_batches(train_set, BATCH_SIZE)
    epochs = 1 if arguments.quick else EPOCHS
    for epoch in range(1, epochs + 1):
        loss = train_epoch(model, tqdm(loader), optimizer)
        print(f"Epoch {epoch}, Average MSE loss: {loss}", flush=True)
    inputs, targets = test_set.tensors  # (windows, time, 1), (windows,)
    error = mean_squared_error(predict(model, inputs), targets).item()
    print(f"Test MSE: {common.finite(error, 'the test MSE')}")
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
