"""Task 09: fine-tune an encoder to separate customers at high risk from customers at low risk.

Four texts cannot teach a model what unhappy customers write. So the training starts from an encoder
that was fine-tuned for sentiment, and separates unhappy from happy texts already. The four texts
only teach which of the two groups has which label. The head is the last layer, which turns a hidden
state into a score for each label. The old head is replaced, because its label 1 is a happy text. In
the new head label 1 is high risk.

    python task09.py
    python task09.py --model bundled                  a smaller encoder, without a network
    python task09.py --predict "Where is my order?"   use the saved model, without training

Takes seconds after a download of 268 MB. With the bundled encoder expect an accuracy of 1.0 on the
training texts and on the two test texts (of ten seeds, one has a test text wrong), and low, high
and high risk for the samples. DistilBERT was not tried. The fine-tuned model and its tokenizer are
saved in finetuned-customer-support-model/.
"""

import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)

import bundled
import common
import task08

MODEL = "distilbert/distilbert-base-uncased-finetuned-sst-2-english"  # knows complaints already
FOLDER = Path(__file__).resolve().parent / "finetuned-customer-support-model"
LABELS = {0: "low risk", 1: "high risk"}
EPOCHS = 20  # of one gradient step each: the four rows are one batch
LEARNING_RATE = 1e-4  # decays linearly to 0; 5e-5 leaves the training texts less clearly separated
INPUT_TEXT = [
    "I'd just like to say, I love the product! Thank you!",
    "Worst product I've used in my entire life!",
    "Disgusting...",
]
# set by launchers such as torchrun and mpirun; Trainer would wait for other processes
LAUNCHER = ("LOCAL_RANK", "WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def accuracy(results: EvalPrediction) -> dict[str, float]:
    """Return the fraction of rows whose most probable label is the right one."""
    predicted = results.predictions.argmax(-1)  # (rows,), from logits (rows, labels)
    return {"accuracy": float((predicted == results.label_ids).mean())}


def fine_tune(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, seed: int
) -> dict[str, float]:
    """Train all weights on the four training rows of task 08; return the accuracy on both sets."""
    inputs = task08.tokenize_train(tokenizer, task08.TRAIN_DATA["text"])  # (row, token) by name
    train_rows = Dataset.from_dict({**inputs, "label": task08.TRAIN_DATA["label"]})
    test_rows = task08.tokenize_test(tokenizer, task08.TEST_DATA)
    for name in LAUNCHER:
        os.environ.pop(name, None)
    with TemporaryDirectory() as folder, redirect_stdout(sys.stderr):  # Trainer prints a log
        arguments = TrainingArguments(
            output_dir=folder,  # required, although nothing is saved during the training
            num_train_epochs=EPOCHS,
            per_device_train_batch_size=len(train_rows),
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="linear",
            seed=seed,
            use_cpu=model.device.type == "cpu",
            save_strategy="no",
            disable_tqdm=False,  # show a progress bar in any kind of terminal
        )
        trainer = Trainer(
            model,
            arguments,
            train_dataset=train_rows,
            eval_dataset=test_rows,
            compute_metrics=accuracy,
        )
        trainer.train()
        test, training = trainer.evaluate(), trainer.evaluate(train_rows)
    return {"Training": training["eval_accuracy"], "Test": test["eval_accuracy"]}


@torch.inference_mode()
def predict(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str]
) -> torch.Tensor:
    """Return the probability of each label for each text: (texts, labels).

    Texts that are longer than the model's context are cut off, with a note.
    """
    longest = common.context_length(model, tokenizer)  # tokens
    if any(len(ids) > longest for ids in tokenizer(texts)["input_ids"]):
        common.note(f"the model reads {longest} tokens of a text; the rest is cut off")
    settings = task08.SETTINGS | {"padding": True, "max_length": longest}  # whole texts
    inputs = tokenizer(texts, return_tensors="pt", **settings).to(model.device)  # (texts, time)
    model.eval()  # without dropout
    return model(**inputs).logits.softmax(-1).cpu()


def print_predictions(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str]
) -> None:
    """Print the most probable label of each text, with its probability."""
    probabilities, labels = predict(model, tokenizer, texts).max(-1)  # (texts,) each
    for value, label, text in zip(probabilities.tolist(), labels.tolist(), texts, strict=True):
        probability = common.finite(value, "the probability of a label")
        print(f"{model.config.id2label[label]:9} {probability:.3f}  {common.printable(text)}")


def main(argv: list[str] | None = None) -> int:
    """Fine-tune the model, apply it, and save it; with --predict, apply the saved model."""
    parser = common.argument_parser(__doc__, "--seed", "--device", model=MODEL)
    parser.add_argument("--predict", nargs="+", metavar="TEXT", help="classify these texts")
    arguments = parser.parse_args(argv)
    device = common.select_device(arguments.device)
    if arguments.predict:
        if not FOLDER.exists():
            raise common.ScriptError(f"{FOLDER}: no saved model; run the script without --predict")
        tokenizer = common.load(AutoTokenizer, FOLDER)
        model = common.load(AutoModelForSequenceClassification, FOLDER).to(device)
        with common.errors_in(FOLDER):
            print_predictions(model, tokenizer, arguments.predict)
        return 0

    folder = common.find_model(arguments.model, MODEL, bundled.sentiment_encoder)
    tokenizer = common.load(AutoTokenizer, folder)
    common.seed_everything(arguments.seed)
    model = common.add_head(AutoModelForSequenceClassification, folder, LABELS).to(device)
    with common.errors_in(folder):
        accuracies = fine_tune(model, tokenizer, arguments.seed)
        for name, data in (("Training", task08.TRAIN_DATA), ("Test", task08.TEST_DATA)):
            print_predictions(model, tokenizer, data["text"])
            print(f"{name} accuracy: {accuracies[name]}\n")
        print_predictions(model, tokenizer, INPUT_TEXT)
    with common.errors_in(f"{FOLDER}: not saved"), common.complete_path(FOLDER) as new_folder:
        model.save_pretrained(new_folder)
        tokenizer.save_pretrained(new_folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
