"""Task 09: fine-tune an encoder to separate customers at high risk from customers at low risk.

Four texts cannot teach a model the language of unhappy customers. They can only map a distinction
that it already knows to the two labels. So training starts from an encoder that was fine-tuned for
sentiment. The classification head of that model is replaced by a new one, because its label 1 is a
happy text, while here label 1 is high risk.

    python task09.py
    python task09.py --model bundled                  a general encoder, without a network
    python task09.py --predict "Where is my order?"   use the saved model, without training

Takes seconds after a download of 268 MB. All four training texts are learned. The fine-tuned model
and its tokenizer are saved in finetuned-customer-support-model/.
"""

from __future__ import annotations

import copy
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import common
import pretrained
import task08

import torch
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)

MODEL = "distilbert/distilbert-base-uncased-finetuned-sst-2-english"  # knows complaints already
FOLDER = Path(__file__).resolve().parent / "finetuned-customer-support-model"
LABELS = {0: "low risk", 1: "high risk"}
EPOCHS = 20  # of one gradient step each: the four rows are one batch
LEARNING_RATE = 1e-4  # decays linearly to 0; with 5e-5 the training texts are learned less surely
INPUT_TEXT = [
    "I'd just like to say, I love the product! Thank you!",
    "Worst product I've used in my entire life!",
    "Disgusting...",
]


def add_head(auto_class: Any, folder: Path, id2label: dict[int, str]) -> PreTrainedModel:
    """Return the encoder of a checkpoint with a new, randomly initialised head.

    `auto_class` is an Auto class with such a head; `id2label` names its outputs. Raises
    `ScriptError` if the folder contains no checkpoint for it.
    """
    encoder = pretrained.load(AutoModel, folder)
    config = copy.deepcopy(encoder.config)
    config.problem_type = None  # of the old head
    config.id2label, config.label2id = id2label, {name: key for key, name in id2label.items()}
    try:
        model = auto_class.from_config(config, trust_remote_code=False)
    except ValueError as error:
        raise common.ScriptError(f"{folder}: no model for {auto_class.__name__}") from error
    model.base_model.load_state_dict(encoder.state_dict(), strict=False)  # with or without a pooler
    model.register_forward_hook(pretrained.check_output)
    return model


def train(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, seed: int) -> None:
    """Train the whole model on the four rows of task 08."""
    columns = task08.tokenize_train(tokenizer)
    columns["labels"] = torch.tensor(task08.TRAIN_DATA["label"])
    rows = [{name: columns[name][row] for name in columns} for row in range(len(columns["labels"]))]
    with TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,  # required, although nothing is saved during the training
            num_train_epochs=EPOCHS,
            per_device_train_batch_size=len(rows),
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="linear",
            seed=seed,
            use_cpu=model.device.type == "cpu",
            save_strategy="no",
            logging_strategy="no",
            report_to="none",  # no online service
            disable_tqdm=False,  # show a progress bar in any kind of terminal
        )
        trainer = Trainer(model, arguments, train_dataset=rows)
        with redirect_stdout(sys.stderr):  # Trainer prints its statistics on standard output
            trainer.train()
    model.eval()


@torch.inference_mode()
def predict(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str]
) -> torch.Tensor:
    """Return the probability of each label for each text: (texts, labels).

    Texts that are longer than the model's context are cut off, with a note.
    """
    positions = getattr(model.config, "max_position_embeddings", 512)
    limit = min(tokenizer.model_max_length, positions)  # tokens
    if any(len(ids) > limit for ids in tokenizer(texts)["input_ids"]):
        common.note(f"the model reads {limit} tokens of a text; the rest is cut off")
    inputs = tokenizer(
        texts,
        padding=True,  # to the length of the longest text
        truncation=True,
        max_length=limit,
        return_tensors="pt",
        return_token_type_ids=False,
    ).to(model.device)
    return model(**inputs).logits.softmax(-1).cpu()


def print_predictions(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str]
) -> list[int]:
    """Print the most probable label of each text with its probability; return the labels."""
    probabilities, labels = predict(model, tokenizer, texts).max(-1)
    rows = list(zip(probabilities.tolist(), labels.tolist(), texts, strict=True))
    for probability, label, text in rows:
        print(f"{LABELS[label]:9} {probability:.3f}  {text}")
    return [label for _, label, _ in rows]


def is_saved_model(folder: Path) -> bool:
    """Return whether a folder contains a saved model with the labels of this script."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return config["id2label"] == {str(label): name for label, name in LABELS.items()}
    except (OSError, ValueError, LookupError, TypeError):
        return False


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save model and tokenizer in a new folder, which replaces `folder` when it is complete."""
    with common.complete_folder(folder) as new_folder:
        model.save_pretrained(new_folder)
        tokenizer.save_pretrained(new_folder)


def main(argv: list[str] | None = None) -> int:
    """Fine-tune, apply and save the model; with --predict, apply the saved model."""
    parser = common.argument_parser(__doc__, "--seed", "--device", model=MODEL)
    parser.add_argument("--predict", nargs="+", metavar="TEXT", help="classify these texts")
    parser.add_argument("--out-dir", type=Path, metavar="DIR", default=FOLDER, help="saved model")
    parser.add_argument("--force", action="store_true", help="replace DIR, whatever it contains")
    arguments = parser.parse_args(argv)
    folder, device = arguments.out_dir, common.select_device(arguments.device)
    if arguments.predict:
        if not is_saved_model(folder):
            raise common.ScriptError(f"{folder}: no saved model; run the script without --predict")
        tokenizer = pretrained.load(AutoTokenizer, folder)
        model = pretrained.load(AutoModelForSequenceClassification, folder).to(device)
        print_predictions(model, tokenizer, arguments.predict)
        return 0

    if folder.is_file():
        raise common.ScriptError(f"{folder}: is a file; choose another folder with --out-dir")
    if folder.exists() and not (is_saved_model(folder) or arguments.force):
        raise common.ScriptError(
            f"{folder}: not a model of this script; name another --out-dir, or use --force to "
            "replace it"
        )
    common.make_folder(folder.parent)  # fail before the training, not after it
    encoder_folder = pretrained.find_model(arguments.model, pretrained.ENCODER, MODEL)
    tokenizer = pretrained.load(AutoTokenizer, encoder_folder)
    common.seed_everything(arguments.seed)
    model = add_head(AutoModelForSequenceClassification, encoder_folder, LABELS).to(device)
    with common.checkpoint_errors(encoder_folder):
        train(model, tokenizer, arguments.seed)
    save(model, tokenizer, folder)
    for name, data in (("Training", task08.TRAIN_DATA), ("Test", task08.TEST_DATA)):
        labels = print_predictions(model, tokenizer, data["text"])
        correct = sum(a == b for a, b in zip(labels, data["label"], strict=True))
        print(f"{name} accuracy: {correct / len(labels)}\n")
    print_predictions(model, tokenizer, INPUT_TEXT)
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
