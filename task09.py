"""Task 09: fine-tune an encoder to tell customers at high risk from those at low risk.

There are four texts to learn from. They cannot teach a model what an unhappy customer sounds like;
they can only tell one that knows already which of its notions is meant. So the start is an encoder
tuned to sentiment. Its own head is thrown away: it would say that label 1 is a happy text, and here
1 is high risk. The new head has names for its labels, and is saved with them.

    python task09.py
    python task09.py --model bundled                  a general encoder, without a network
    python task09.py --predict "Where is my order?"   use the saved model, without training

Takes seconds after a download of 268 MB. The training texts are all learnt. The fine-tuned model
and its tokenizer are kept in finetuned-customer-support-model/.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import sys
from contextlib import redirect_stdout, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import common
import task08

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
else:
    torch = common.LazyModule("torch")

MODEL = common.HubModel(  # knows already what a complaint sounds like
    "distilbert/distilbert-base-uncased-finetuned-sst-2-english", "Apache-2.0", 268
)
FOLDER = Path(__file__).resolve().parent / "finetuned-customer-support-model"
LABELS = {0: "low risk", 1: "high risk"}
KIND = "AutoModelForSequenceClassification"
EPOCHS = 20  # of one step each: the four rows are one batch
LEARNING_RATE = 1e-4  # falls to nothing; with half of it the texts are learnt less surely
INPUT_TEXT = [
    "I'd just like to say, I love the product! Thank you!",
    "Worst product I've used in my entire life!",
    "Disgusting...",
]


def train(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, seed: int) -> None:
    """Train the whole model on the four rows of task 08."""
    from transformers import Trainer, TrainingArguments

    columns = {
        **task08.tokenize_train(tokenizer),
        "labels": torch.tensor(task08.TRAIN_DATA["label"]),
    }
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    with TemporaryDirectory() as folder:  # Trainer wants one; nothing is kept there
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=EPOCHS,
            per_device_train_batch_size=len(rows),
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="linear",
            seed=seed,
            use_cpu=model.device.type == "cpu",
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=False,
        )
        with redirect_stdout(sys.stderr):  # where Trainer prints how long it took
            Trainer(model, arguments, train_dataset=rows).train()
    model.eval()


def probabilities(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str]
) -> torch.Tensor:
    """Return the probability of each label for each text: (text, label)."""
    inputs = tokenizer(texts, return_tensors="pt", **task08.SETTINGS).to(model.device)
    with torch.inference_mode():
        return model(**inputs).logits.softmax(-1).cpu()


def is_ours(folder: Path) -> bool:
    """Tell whether a folder holds a model that this script saved."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return config["id2label"] == {str(label): name for label, name in LABELS.items()}
    except (OSError, ValueError, LookupError, TypeError):
        return False


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save both to `folder`, which takes the place of the one before only once it is complete.

    Raises `ScriptError` where they cannot be written, as on a full disk.
    """
    remove_leftovers(folder)
    new, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{kind}") for kind in ("new", "old"))
    try:
        with common.Refusal(f"{folder}: not saved"):
            model.save_pretrained(new)
            tokenizer.save_pretrained(new)
        put_in_place(new, folder, old)
    finally:
        with suppress(OSError):  # only where the new one did not take its place
            old.replace(folder)
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what runs that were killed have left beside `folder`."""
    import psutil

    for path in folder.parent.iterdir():
        left = re.fullmatch(rf"\.{re.escape(folder.name)}\.(\d+)\.(new|old)", path.name)
        if left and not psutil.pid_exists(int(left[1])):
            shutil.rmtree(path, ignore_errors=True)


def put_in_place(new: Path, folder: Path, old: Path) -> None:
    """Rename `folder` to `old` and `new` to `folder`, though another run may do so just now."""
    while True:
        shutil.rmtree(old, ignore_errors=True)
        with suppress(FileNotFoundError):
            folder.replace(old)
        try:
            new.replace(folder)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise  # else the other run was faster, and its model is now the one before


def print_rows(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str]
) -> list[int]:
    """Print every text with its label and the probability of that; return the labels."""
    shares, labels = probabilities(model, tokenizer, texts).max(-1)
    for text, share, label in zip(texts, shares.tolist(), labels.tolist(), strict=True):
        print(f"{LABELS[label]:9} {share:.3f}  {text}")
    return labels.tolist()


def main(argv: list[str] | None = None) -> int:
    """Fine-tune, apply and save the model; or only apply the one that was saved."""
    parser = common.argument_parser(__doc__, "--seed", "--device", model=MODEL)
    parser.add_argument("--predict", nargs="+", metavar="TEXT", help="classify these, and end")
    parser.add_argument("--out-dir", type=Path, metavar="DIR", default=FOLDER, help="saved model")
    parser.add_argument("--force", action="store_true", help="replace DIR whatever it holds")
    arguments = parser.parse_args(argv)
    folder = arguments.out_dir
    if arguments.predict:
        if not is_ours(folder):
            raise common.ScriptError(f"{folder}: no model of this script; run it without --predict")
        device = common.select_device(arguments.device)
        tokenizer = common.load_tokenizer(folder)
        print_rows(common.load_model(folder, KIND, device), tokenizer, arguments.predict)
        return 0

    if folder.is_file():
        raise common.ScriptError(f"{folder}: a file, and no folder for a model")
    if folder.exists() and not (is_ours(folder) or arguments.force):
        raise common.ScriptError(f"{folder}: not a model of this script; --force replaces it")
    common.make_folder(folder.parent)  # before the training, not after it
    encoder = common.find_encoder(arguments.model, MODEL)
    tokenizer = common.load_tokenizer(encoder)
    common.seed_everything(arguments.seed)
    model = common.add_head(encoder, KIND, common.select_device(arguments.device), LABELS)
    train(model, tokenizer, arguments.seed)
    save(model, tokenizer, folder)
    for name, data in (("Training", task08.TRAIN_DATA), ("Test", task08.TEST_DATA)):
        labels = print_rows(model, tokenizer, data["text"])
        hits = sum(a == b for a, b in zip(labels, data["label"], strict=True))
        print(f"{name} accuracy: {hits / len(labels)}\n")
    print_rows(model, tokenizer, INPUT_TEXT)
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
