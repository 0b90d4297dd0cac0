"""Lab exercise 3.1: classify texts by the features of a frozen encoder, and in other ways.

An encoder turns each text into features once. Only a small classifier is trained on them: a
logistic regression, or an MLP with one hidden layer. The choice of features matters more than the
choice of classifier:

- [CLS]: the last hidden state of the first token. The bundled encoder was trained with the mean.
- mean: the mean of the last hidden states. Every word counts, but information that a classifier
  needs may be lost in the last layer.
- layers: mean and maximum over the tokens of every layer. The lower layers may still
  represent the words, and a maximum keeps a single word that a mean would dilute.

A linear model of the counts of words and pairs of words (TF-IDF) is in the same table.

    python lab_classifier.py                                six emotions
    python lab_classifier.py --dataset ag_news              four kinds of news
    python lab_classifier.py --dataset FILE.csv             a file with the columns text and label
    python lab_classifier.py --data DIR                     train.csv, test.csv and validation.csv
    python lab_classifier.py --dataset docstrings           the library of a description
    python lab_classifier.py --finetune                     also fine-tune the whole encoder

Takes five minutes with --model bundled, which needs no download, and longer with DistilBERT (268
MB), which is three times as large. --finetune takes ten minutes more. On emotion expect an accuracy
of 0.79 for the bundled encoder's frozen features and 0.89 for TF-IDF.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import common
import lab_common
import lab_data
import pretrained
from lab_data import LABELS, SPLITS

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from sklearn.base import BaseEstimator, clone
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    ConfusionMatrixDisplay,
    accuracy_score,
    classification_report,
    confusion_matrix,
    f1_score,
)
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.utils.class_weight import compute_class_weight
from threadpoolctl import threadpool_limits
from torch import nn
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

MODEL = "distilbert/distilbert-base-uncased"  # one of the two models that the exercise names
MAX_DRAWN = 30  # labels in a confusion matrix that can still be read
MAX_LETTERS = 20  # of a label in a confusion matrix
MAX_TEXTS, QUICK_TEXTS = 16_000, 800  # of a split; larger splits are sampled
POOLINGS = {
    "[CLS]": lab_common.cls_pooling,
    "mean": lab_common.mean_pooling,
    "layers": lab_common.all_layers_pooling,
}
CHUNK = 1000  # texts whose features are averaged at a time
SVM, SVM_C = LinearSVC(), (0.1, 0.3, 1.0)  # a smaller C keeps the weights smaller
LOGISTIC, LOGISTIC_C = LogisticRegression(tol=3e-3, max_iter=1000), (0.001, 0.003, 0.01)
DROPOUT = (0.3, 0.6)  # of the MLP
HIDDEN_SIZE = 256  # units of the MLP's hidden layer
MLP_EPOCHS, MLP_BATCH, MLP_RATE = 10, 128, 1e-3  # batches of texts, learning rate
TUNING_EPOCHS, TUNING_BATCH, TUNING_RATE = 3, 32, 2e-4  # the same for --finetune

Predict = Callable[[Any], np.ndarray]  # features (texts, width) to labels (texts,)
Fit = Callable[[Any, np.ndarray, bool, float], Predict]  # features, labels, weighted?, setting


@dataclass
class Row:
    """A row of the table: features, classifier, the chosen setting, and its predictions."""

    features: str
    classifier: str
    setting: str
    validation: np.ndarray  # predicted labels (texts,)
    test: np.ndarray  # predicted labels (texts,)


def remove_leaks(splits: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Print how many texts are repeated, and remove those that also occur in a later split.

    Texts that differ only in case or whitespace are equal.
    """
    keys = {
        name: table["text"].str.lower().str.split().str.join(" ") for name, table in splits.items()
    }
    for name, table in splits.items():
        labels = table["label"].groupby(keys[name]).agg(["size", "nunique"])
        repeated = labels[labels["size"] > 1]
        print(
            f"texts more than once in {name}: {len(repeated)}, "
            f"of these with several labels: {(repeated['nunique'] > 1).sum()}"
        )
    kept = dict(splits)
    for name, later in (("train", ("validation", "test")), ("validation", ("test",))):
        is_leak = keys[name].isin(set().union(*(keys[other] for other in later)))
        kept[name] = splits[name][~is_leak]
        print(f"texts of {name} that are in {' or '.join(later)} too, left out: {is_leak.sum()}")
    return kept


def fit_linear(
    estimator: BaseEstimator, inputs: Any, labels: np.ndarray, weighted: bool, c: float
) -> Predict:
    """Fit a linear classifier of scikit-learn, with the inverse `c` of its regularisation.

    NumPy computes on one thread: a second one slows it down whenever another process is busy.
    """
    estimator = clone(estimator).set_params(C=c, class_weight="balanced" if weighted else None)
    with threadpool_limits(1, "blas"):
        return estimator.fit(inputs, labels).predict


def fit_mlp(inputs: np.ndarray, labels: np.ndarray, weighted: bool, dropout: float) -> Predict:
    """Train an MLP with one hidden layer on the cross-entropy loss."""
    features, targets = torch.from_numpy(inputs), torch.from_numpy(labels)
    weight = None
    if weighted:  # a larger weight for a rarer label
        balanced = compute_class_weight("balanced", classes=np.unique(labels), y=labels)
        weight = torch.tensor(balanced, dtype=torch.float32)
    network = nn.Sequential(
        nn.Linear(inputs.shape[1], HIDDEN_SIZE),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(HIDDEN_SIZE, int(targets.max()) + 1),
    )

    def batch_loss(batch: list[int]) -> torch.Tensor:
        return nn.functional.cross_entropy(network(features[batch]), targets[batch], weight)

    batches = lab_common.random_batches(len(features), MLP_BATCH, MLP_EPOCHS)
    lab_common.train(network.train(), batch_loss, batches, MLP_RATE)
    network.eval()

    @torch.inference_mode()
    def predict(inputs: np.ndarray) -> np.ndarray:
        return network(torch.from_numpy(inputs)).argmax(-1).numpy()

    return predict


def choose(
    fit: Fit, settings: tuple[float, ...], inputs: dict[str, Any], labels: dict[str, np.ndarray],
    weighted: bool, seed: int,
) -> tuple[float, Predict]:  # fmt: skip
    """Fit with each setting; return the best one on the validation texts and its `predict`."""
    fitted = []
    for setting in settings:
        common.seed_everything(seed)
        predict = fit(inputs["train"], labels["train"], weighted, setting)
        accuracy = accuracy_score(labels["validation"], predict(inputs["validation"]))
        fitted.append((accuracy, setting, predict))
    _, setting, predict = max(fitted, key=lambda each: each[0])
    return setting, predict


def word_features(texts: dict[str, list[str]]) -> dict[str, Any]:
    """Return the TF-IDF features of words and pairs of words, fitted on the training texts.

    Words have two letters or more. If there are none, anything between whitespace is a word.
    """
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    try:
        vectorizer.fit(texts["train"])
    except ValueError:  # an empty vocabulary
        vectorizer.set_params(token_pattern=r"\S+").fit(texts["train"])
    return {name: vectorizer.transform(texts[name]) for name in SPLITS}


def standardise(features: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Scale each feature, in place, to mean 0 and standard deviation 1 over the training texts."""
    train, scaler = features["train"], StandardScaler(copy=False)
    for start in range(0, len(train), CHUNK):  # `fit` would copy all of them in double precision
        scaler.partial_fit(train[start : start + CHUNK])
    return {name: scaler.transform(rows) for name, rows in features.items()}


def finetune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: dict[str, list[str]],
    labels: dict[str, np.ndarray],
    seed: int,
    epochs: int,
) -> dict[str, np.ndarray]:
    """Train the whole encoder with a linear layer on the mean of its last hidden states.

    Returns the predicted labels of the validation and test texts.
    """
    common.seed_everything(seed)
    ids = {name: lab_common.tokenize(tokenizer, texts[name]) for name in SPLITS}
    targets = torch.tensor(labels["train"], device=model.device)
    head = nn.Linear(model.config.hidden_size, int(targets.max()) + 1).to(model.device)
    network = nn.ModuleList([model, head])

    def batch_loss(batch: list[int]) -> torch.Tensor:
        inputs = lab_common.pad_batch([ids["train"][text] for text in batch], model.device)
        states = (model(**inputs).last_hidden_state,)  # (batch, time, width)
        logits = head(lab_common.mean_pooling(states, inputs["attention_mask"]))  # (batch, labels)
        return nn.functional.cross_entropy(logits, targets[batch])

    lengths = [len(tokens) for tokens in ids["train"]]
    batches = lab_common.random_batches(len(lengths), TUNING_BATCH, epochs, lengths)
    lab_common.train(network.train(), batch_loss, batches, TUNING_RATE)
    predictions = {}
    for name in ("validation", "test"):
        features = lab_common.compute_features(model, ids[name], {"mean": POOLINGS["mean"]})["mean"]
        with torch.inference_mode():
            logits = head(torch.from_numpy(features).to(model.device))  # (texts, labels)
        predictions[name] = logits.argmax(-1).cpu().numpy()
    return predictions


def print_table(rows: list[Row], labels: dict[str, np.ndarray]) -> None:
    """Print accuracy and macro-F1, the mean F1 of the labels, of each row."""
    print(f"\n{'':53}validation        test")
    print(f"{'features':10}{'classifier':31}{'setting':12}  accuracy  accuracy  macro-F1")
    numbers = np.unique(labels["train"])  # of all labels, so that the means can be compared
    for row in rows:
        scores = (
            accuracy_score(labels["validation"], row.validation),
            accuracy_score(labels["test"], row.test),
            f1_score(labels["test"], row.test, labels=numbers, average="macro", zero_division=0),
        )
        print(f"{row.features:10}{row.classifier:31}{row.setting:12}", end="")
        print("".join(f"{score:10.4f}" for score in scores))


def print_report(row: Row, labels: np.ndarray, names: list[str]) -> None:
    """Print precision, recall and F1 of each label on the test texts."""
    print(f"\n{row.features}, {row.classifier}")
    options = {"labels": range(len(names)), "target_names": names, "zero_division": 0.0}
    print(classification_report(labels, row.test, digits=4, **options))


def draw_confusion(rows: list[Row], labels: np.ndarray, names: list[str], path: Path) -> None:
    """Draw the confusion matrix of each row on the test texts, normalised by the true label."""
    shown = [name[:MAX_LETTERS] for name in names]
    figure = Figure(figsize=(5.5 * len(rows), 6), layout="constrained")
    for axes, row in zip(figure.subplots(1, len(rows), squeeze=False)[0], rows, strict=True):
        matrix = confusion_matrix(labels, row.test, labels=range(len(names)), normalize="true")
        display = ConfusionMatrixDisplay(matrix, display_labels=shown)
        display.plot(ax=axes, cmap="Blues", values_format=".2f", colorbar=False)
        axes.tick_params("x", rotation=45)
        accuracy = accuracy_score(labels, row.test)
        axes.set_title(f"{row.features}, {row.classifier}: {accuracy:.1%}")
    common.save_figure(figure, path)


def main(argv: list[str] | None = None) -> int:
    """Choose settings on the validation texts, then print the results on the test texts."""
    parser = common.argument_parser(__doc__, "--seed", "--device", "--quick", "--data", model=MODEL)
    text = "emotion, ag_news, docstrings or a CSV file (default: emotion)"
    parser.add_argument("--dataset", metavar="NAME_OR_CSV", help=text)
    parser.add_argument("--finetune", action="store_true", help="also fine-tune the whole encoder")
    arguments = parser.parse_args(argv)
    seed = arguments.seed

    dataset, splits = lab_data.load_or_docstrings(
        arguments, "emotion", lab_data.load_labelled_texts
    )
    splits = lab_data.hold_out_texts(splits, seed)
    folder = pretrained.find_model(arguments.model, pretrained.ENCODER, MODEL)
    splits = remove_leaks(splits)
    size = QUICK_TEXTS if arguments.quick else MAX_TEXTS
    splits = {name: lab_data.sample_rows(table, size, seed) for name, table in splits.items()}
    labels, names = lab_data.encode_labels(splits, LABELS.get(dataset, ()))
    texts = {name: table["text"].tolist() for name, table in splits.items()}
    print(", ".join(f"{len(texts[name]):,} {name}" for name in SPLITS), "texts")

    tokenizer = pretrained.load(AutoTokenizer, folder)
    model = pretrained.load(AutoModel, folder).to(common.select_device(arguments.device))
    poolings = dict(POOLINGS)
    if tokenizer.cls_token_id is None:  # as in GPT-2, whose first token sees no other
        common.note("this model has no [CLS], so its rows are left out")
        del poolings["[CLS]"]
    encoded = {name: lab_common.encode(model, tokenizer, texts[name], poolings) for name in SPLITS}

    most_frequent = np.bincount(labels["train"]).argmax()
    constant = (np.full_like(labels[name], most_frequent) for name in ("validation", "test"))
    rows = [Row("none", f"always {names[most_frequent]}", "", *constant)]

    def compare(
        inputs: dict, features: str, classifier: str, fit: Fit, setting: str, values: tuple
    ) -> None:
        for weighted in (False, True):
            title = f"{classifier}{', weighted' if weighted else ''}"
            value, predict = choose(fit, values, inputs, labels, weighted, seed)
            predictions = (predict(inputs[name]) for name in ("validation", "test"))
            rows.append(Row(features, title, f"{setting} {value:g}", *predictions))
            common.note(f"trained {features}, {title}")

    logistic = partial(fit_linear, LOGISTIC)
    words = word_features(texts)
    compare(words, "TF-IDF", "linear SVM", partial(fit_linear, SVM), "C", SVM_C)
    for name in poolings:
        inputs = standardise({split: encoded[split].pop(name) for split in SPLITS})
        compare(inputs, name, "logistic regression", logistic, "C", LOGISTIC_C)
        compare(inputs, name, "MLP", fit_mlp, "dropout", DROPOUT)
    if arguments.finetune:
        epochs = 1 if arguments.quick else TUNING_EPOCHS
        predictions = finetune(model, tokenizer, texts, labels, seed, epochs)
        rows.append(Row("tuned", "linear layer", f"epochs {epochs}", **predictions))

    print_table(rows, labels)
    best = []  # of the words, the frozen features and the tuned encoder, by validation
    for group in (["TF-IDF"], list(POOLINGS), ["tuned"]):
        members = [row for row in rows if row.features in group]
        accuracies = [accuracy_score(labels["validation"], row.validation) for row in members]
        if members:
            best.append(members[int(np.argmax(accuracies))])
    for row in best:
        print_report(row, labels["test"], names)
    name = (arguments.data or Path(dataset)).stem
    if len(names) > MAX_DRAWN:
        common.note(f"no confusion matrix is drawn for more than {MAX_DRAWN} labels")
    else:
        draw_confusion(best, labels["test"], names, common.RESULTS / f"lab_classifier_{name}.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
