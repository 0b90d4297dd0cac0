"""Lab exercise 3.1: classify texts by the features of a frozen encoder, and in other ways.

Read these first: the poolings in lab_common.py, `CLASSIFIERS`, `compare`, then `main`.

An encoder turns each text into features once. It is *frozen*: only a shallow classifier is trained
on the features, a logistic regression or an MLP with one hidden layer. A linear SVM is trained on
counts of words. On the data set emotion, the choice of the features matters more than that of the
classifier. There are four kinds of features; a pooling of lab_common.py computes each of the first
three:

- [CLS]: the last hidden state of the first token, which BERT puts before every text. The bundled
  encoder was not trained to use it; it was trained with mean pooling.
- mean: the mean of the last hidden states. Every word counts, but information that a classifier
  needs may be lost in the last layer.
- layers: mean and maximum over the tokens of every layer. The lower layers may still represent the
  words, and a maximum keeps a single word that a mean would dilute.
- TF-IDF: no encoder, but counts of words and of pairs of words. A word that few texts contain
  counts more.

Macro-F1 is the mean of the F1 scores of all labels: a rare label counts as much as a frequent one.
Weighted classifiers count the training texts of rare labels more, for the same purpose.

    python lab_classifier.py                                six emotions
    python lab_classifier.py --dataset ag_news              four kinds of news
    python lab_classifier.py --dataset docstrings           the library of a description
    python lab_classifier.py --data DIR                     train.csv, test.csv, validation.csv
    python lab_classifier.py --data FILE.csv                a file with the columns text and label
    python lab_classifier.py --dataset emotion --data DIR   emotion, read from a folder
    python lab_classifier.py --model NAME                   another encoder
    python lab_classifier.py --finetune                     also train the encoder

Takes ten to fifteen minutes with --model bundled, which needs no download, and longer with
DistilBERT (268 MB), which is three times as large. On emotion expect an accuracy of about 0.80 for
the best frozen features of the bundled encoder, and of 0.89 for TF-IDF.

--finetune takes an hour more. It trains the encoder in two ways: LoRA trains only two narrow
matrices next to each weight matrix, and the other way trains all weights. Both reach 0.93 on
emotion.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: idle threads yield the CPU

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import ConfusionMatrixDisplay, accuracy_score, classification_report, f1_score
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import AutoModel, AutoTokenizer

import bundled
import common
import lab_common
import lab_data
from lab_data import SPLITS

MODEL = "distilbert/distilbert-base-uncased"  # one of the two models that the exercise names
MAX_TEXTS, QUICK_TEXTS = 16_000, 800  # of a split; larger splits are sampled
POOLINGS = {
    "[CLS]": lab_common.cls_pooling,
    "mean": lab_common.mean_pooling,
    "layers": lab_common.all_layers_pooling,
}
HIDDEN_SIZE = 256  # units of the MLP's hidden layer
MLP_EPOCHS, MLP_BATCH_SIZE, MLP_LEARNING_RATE = 30, 128, 1e-3
TUNING_EPOCHS, TUNING_BATCH_SIZE = 3, 32  # of --finetune
TUNING_LEARNING_RATES = {"LoRA": 1e-3, "tuned": 2e-4}  # LoRA with 5e-3 predicts one label only

Labels = dict[str, np.ndarray]  # the labels of each split, as numbers from 0: (texts,)


class MLP(ClassifierMixin, BaseEstimator):
    """A network with one hidden layer, with the interface of scikit-learn's classifiers."""

    def __init__(self, dropout: float = 0.3, class_weight: str | None = None) -> None:
        self.dropout = dropout
        self.class_weight = class_weight

    def fit(self, features: np.ndarray, labels: np.ndarray) -> "MLP":
        """Train on features (texts, width) and labels (texts,) from 0."""
        inputs, targets = torch.from_numpy(features), torch.from_numpy(labels)
        self.classes_ = np.unique(labels)
        weights = compute_class_weight(self.class_weight, classes=self.classes_, y=labels)
        class_weights = torch.tensor(weights, dtype=torch.float32)  # (labels,)
        network = self.network_ = nn.Sequential(
            nn.Linear(inputs.shape[1], HIDDEN_SIZE),
            nn.ReLU(),
            nn.Dropout(self.dropout),
            nn.Linear(HIDDEN_SIZE, len(self.classes_)),
        )

        def batch_loss(batch: list[int]) -> torch.Tensor:
            return cross_entropy(network(inputs[batch]), targets[batch], class_weights)

        batches = lab_common.random_batches(len(inputs), MLP_BATCH_SIZE, MLP_EPOCHS)
        lab_common.train(network, batch_loss, batches, MLP_LEARNING_RATE)
        network.eval()  # without dropout
        return self

    @torch.inference_mode()
    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return the label of each text: (texts, width) to (texts,)."""
        return self.network_(torch.from_numpy(features)).argmax(-1).numpy()


class TunedEncoder(ClassifierMixin, BaseEstimator):
    """An encoder with a linear layer on the mean of its last hidden states, trained together.

    With the kind "LoRA" the weights of the encoder are frozen; with "tuned" all are trained.
    """

    def __init__(self, folder: Path, kind: str, epochs: int, device: torch.device) -> None:
        self.folder, self.kind, self.epochs, self.device = folder, kind, epochs, device

    def fit(self, texts: list[str], labels: np.ndarray) -> "TunedEncoder":
        """Train on texts and their labels (texts,) from 0."""
        self.tokenizer_ = common.load(AutoTokenizer, self.folder)
        encoder = common.load(AutoModel, self.folder).to(self.device)
        encoder.pooler = None  # BERT's; mean pooling does not use it, so do not count its weights
        if self.kind == "LoRA":
            lab_common.add_lora(encoder)
        self.classes_ = np.unique(labels)
        head = nn.Linear(encoder.config.hidden_size, len(self.classes_)).to(self.device)
        self.network_ = nn.ModuleList([encoder, head])
        targets = torch.from_numpy(labels).to(self.device)
        ids = lab_common.tokenize(encoder, self.tokenizer_, texts)

        def batch_loss(batch: list[int]) -> torch.Tensor:
            inputs = lab_common.pad_batch([ids[text] for text in batch], self.device)
            states = encoder(**inputs).last_hidden_state  # (batch, time, width)
            means = lab_common.mean_pooling((states,), inputs["attention_mask"])  # (batch, width)
            return cross_entropy(head(means), targets[batch])

        lengths = [len(tokens) for tokens in ids]
        batches = lab_common.random_batches(len(ids), TUNING_BATCH_SIZE, self.epochs, lengths)
        lab_common.train(
            self.network_.train(), batch_loss, batches, TUNING_LEARNING_RATES[self.kind]
        )
        return self

    @torch.inference_mode()
    def predict(self, texts: list[str]) -> np.ndarray:
        """Return the label of each text: (texts,)."""
        encoder, head = self.network_
        poolings = {"mean": POOLINGS["mean"]}
        means = lab_common.encode(encoder, self.tokenizer_, texts, poolings)["mean"]
        return head(torch.from_numpy(means).to(self.device)).argmax(-1).cpu().numpy()


# Candidates by their settings, of which the validation texts choose one. To try another classifier,
# which must accept `class_weight`, add it here and to step 3 of `main`.
CLASSIFIERS: dict[str, dict[str, Any]] = {
    # a small C keeps the weights small
    "linear SVM": {f"C {c}": LinearSVC(C=c) for c in (0.1, 0.3, 1.0, 3.0)},
    "logistic regression": {
        f"C {c}": LogisticRegression(C=c, tol=3e-3, max_iter=1000)
        for c in (0.001, 0.003, 0.01, 0.03)
    },
    # the fraction of units that is left out
    "MLP": {f"dropout {p}": MLP(dropout=p) for p in (0.1, 0.3, 0.6)},
}


class Score(NamedTuple):
    """Two measures of predicted labels."""

    accuracy: float
    macro_f1: float


class Row(NamedTuple):
    """A row of the table: the chosen candidate on one kind of features."""

    features: str
    classifier: str
    setting: str
    trained: int  # number of trained weights
    validation: Score
    test: Score
    predicted: np.ndarray  # labels of the test texts: (texts,)


def fit_and_transform(transformer: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """Fit a transformer of scikit-learn on the training texts, and transform every split."""
    transformer.fit(inputs["train"])
    return {name: transformer.transform(inputs[name]) for name in SPLITS}


def frozen_features(
    folder: Path, device: torch.device, texts: dict[str, list[str]]
) -> dict[str, dict[str, np.ndarray]]:
    """Return, by pooling, the standardised features of each split: (texts, width)."""
    tokenizer = common.load(AutoTokenizer, folder)
    encoder = common.load(AutoModel, folder).to(device)
    poolings = lab_common.usable_poolings(tokenizer, POOLINGS)
    encoded = {
        name: lab_common.encode(encoder, tokenizer, texts[name], poolings) for name in SPLITS
    }
    features = {}
    for pooling in poolings:
        splits = {name: encoded[name][pooling] for name in SPLITS}
        # each feature gets mean 0 and standard deviation 1; a copy would take 350 MB
        features[pooling] = fit_and_transform(StandardScaler(copy=False), splits)
    return features


def score(labels: np.ndarray, predicted: np.ndarray) -> Score:
    """Return the accuracy and macro-F1 of predicted labels, (texts,)."""
    f1 = f1_score(labels, predicted, average="macro", zero_division=0.0)
    return Score(accuracy_score(labels, predicted), f1)


def benchmark(
    names: tuple[str, str, str], classifier: Any, features: dict[str, Any], labels: Labels
) -> Row:
    """Fit a classifier on the training texts; return its row, which starts with three names."""
    classifier.fit(features["train"], labels["train"])
    predicted = {split: classifier.predict(features[split]) for split in ("validation", "test")}
    validation, test = (score(labels[split], predicted[split]) for split in predicted)
    if hasattr(classifier, "network_"):
        trained = lab_common.trained_weights(classifier.network_)
    else:
        weights = (getattr(classifier, weight, None) for weight in ("coef_", "intercept_"))
        trained = sum(weight.size for weight in weights if weight is not None)
    return Row(*names, trained, validation, test, predicted["test"])


def best(rows: Iterable[Row], measure: str = "accuracy") -> Row:
    """Return the row with the highest accuracy, or other measure, on the validation texts."""
    return max(rows, key=lambda row: getattr(row.validation, measure))


def compare(
    features_name: str, classifier_name: str, features: dict[str, Any], labels: Labels
) -> list[Row]:
    """Return the best row of a classifier without class weights and the best one with them.

    Validation accuracy chooses the setting. With class weights it is macro-F1, because that is what
    weights are for.
    """
    rows = []
    for title, class_weight, measure in (
        (classifier_name, None, "accuracy"),
        (f"{classifier_name}, weighted", "balanced", "macro_f1"),
    ):
        results = []
        for setting, candidate in CLASSIFIERS[classifier_name].items():
            classifier = clone(candidate).set_params(class_weight=class_weight)
            names = features_name, title, setting
            results.append(benchmark(names, classifier, features, labels))
        rows.append(best(results, measure))
        common.note(f"trained {features_name}, {title}")
    return rows


def print_table(rows: list[Row]) -> None:
    """Print the rows."""
    print(f"\n{'':52}{'trained':>12}{'validation':>20}{'test':>20}")
    print(f"{'features':9}{'classifier':31}{'setting':12}{'weights':>12}", end="")
    print("  accuracy  macro-F1" * 2)
    for row in rows:
        print(f"{row.features:9}{row.classifier:31}{row.setting:12}{row.trained:12,}", end="")
        print("".join(f"{value:10.4f}" for value in (*row.validation, *row.test)))


def print_conclusions(rows: list[Row], best_of: dict[str, Row]) -> None:
    """Print conclusions on standard error. `best_of` has the best row of each kind of features."""
    accuracies = ", ".join(f"{kind} {row.test.accuracy:.3f}" for kind, row in best_of.items())
    common.note(f"test accuracy of the best classifier on each kind of features: {accuracies}")
    # the row with class weights follows the one without
    pairs = [pair for pair in pairwise(rows) if pair[1].classifier.endswith("weighted")]
    raised = sum(weighted.test.macro_f1 > plain.test.macro_f1 for plain, weighted in pairs)
    common.note(f"class weights raise macro-F1 in {raised} of {len(pairs)} pairs of rows")


def draw_confusion(rows: list[Row], labels: np.ndarray, names: list[str], path: Path) -> None:
    """Draw the confusion matrix of each row on the test texts, normalised by the true label."""
    figure = Figure(figsize=(5.5 * len(rows), 6), layout="constrained")
    options = {"normalize": "true", "values_format": ".2f", "cmap": "Blues", "colorbar": False}
    options |= {"labels": range(len(names)), "display_labels": [name[:20] for name in names]}
    options["include_values"] = len(names) <= 20  # the numbers of more labels cannot be read
    for axes, row in zip(figure.subplots(1, len(rows), squeeze=False)[0], rows, strict=True):
        ConfusionMatrixDisplay.from_predictions(labels, row.predicted, ax=axes, **options)
        axes.tick_params("x", rotation=45)
        axes.set_title(f"{row.features}, {row.classifier}: {row.test.accuracy:.1%}")
    common.save_figure(figure, path)


def draw_trained_weights(rows: list[Row], path: Path) -> None:
    """Draw the test accuracy of rows against the number of their trained weights."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    axes.set(xscale="log", xlabel="trained weights", ylabel="test accuracy")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.margins(x=0.35)  # for the names
    for row in rows:
        point = row.trained, row.test.accuracy
        axes.scatter(*point)
        axes.annotate(f" {row.features}, {row.classifier}", point)
    common.save_figure(figure, path)


def main(argv: list[str] | None = None) -> int:
    """Choose settings on the validation texts, then print the results on the test texts."""
    parser = common.argument_parser(__doc__, "--seed", "--device", "--quick", model=MODEL)
    text = "folder with train.csv, test.csv and, if there is one, validation.csv; or one CSV file"
    parser.add_argument("--data", type=Path, metavar="DIR_OR_CSV", help=text)
    choices = (*lab_data.LABELS, "docstrings")
    parser.add_argument("--dataset", choices=choices, help="data set (default: emotion)")
    parser.add_argument("--finetune", action="store_true", help="also train the encoder")
    arguments = parser.parse_args(argv)
    device = common.select_device(arguments.device)
    common.seed_everything(arguments.seed)

    # 1. Texts and labels
    dataset, splits = lab_data.load_or_docstrings(
        arguments, "emotion", lab_data.load_labelled_texts
    )
    size = QUICK_TEXTS if arguments.quick else MAX_TEXTS
    splits = lab_data.prepare_texts(splits, size, arguments.seed)
    labels, names = lab_data.encode_labels(splits, lab_data.LABELS.get(dataset, ()))
    texts = {name: [row.text for row in rows] for name, rows in splits.items()}
    print(", ".join(f"{len(texts[name]):,} {name}" for name in SPLITS), "texts")

    # 2. Frozen features
    folder = common.find_model(arguments.model, MODEL, bundled.encoder)
    frozen = frozen_features(folder, device, texts)

    # 3. Classifiers
    majority = names[np.bincount(labels["train"]).argmax()]
    # DummyClassifier always predicts the most frequent label; it ignores its features, so any array
    # of the right length works
    rows = [benchmark(("none", f"always {majority}", ""), DummyClassifier(), labels, labels)]
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)  # words and pairs of words
    with common.errors_in(arguments.data or dataset):
        rows += compare("TF-IDF", "linear SVM", fit_and_transform(vectorizer, texts), labels)
        for kind, features in frozen.items():
            rows += compare(kind, "logistic regression", features, labels)
            rows += compare(kind, "MLP", features, labels)

    # 4. Fine-tuned encoders
    epochs = 1 if arguments.quick else TUNING_EPOCHS
    tuned_kinds = TUNING_LEARNING_RATES if arguments.finetune else ()
    for kind in tuned_kinds:
        with common.errors_in(folder):
            tuned = TunedEncoder(folder, kind, epochs, device)
            names_of_row = kind, "linear layer", f"epochs {epochs}"
            rows.append(benchmark(names_of_row, tuned, texts, labels))

    # 5. Results on the test texts
    print_table(rows)
    kinds = ("TF-IDF", *frozen, *tuned_kinds)
    best_of = {kind: best(row for row in rows if row.features == kind) for kind in kinds}
    # the best row of words, of frozen features and of fine-tuned encoders is shown in detail
    shown = [best_of["TF-IDF"], best(best_of[kind] for kind in frozen)]
    if tuned_kinds:
        shown.append(best(best_of[kind] for kind in tuned_kinds))
    for row in shown:
        print(f"\n{row.features}, {row.classifier}")
        options = {"labels": range(len(names)), "target_names": names, "zero_division": 0.0}
        print(classification_report(labels["test"], row.predicted, digits=4, **options))
    print_conclusions(rows, best_of)
    name = dataset or arguments.data.resolve().name
    path = common.RESULTS / f"lab_classifier_{name}.png"
    draw_confusion(shown, labels["test"], names, path)
    if arguments.finetune:
        draw_trained_weights([*best_of.values()], path.with_stem(f"{path.stem}_weights"))
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
