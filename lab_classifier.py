"""Lab exercise 3.1: classify texts by what a frozen encoder makes of them, and in other ways.

An encoder turns every text into features once; what is trained on them is small, a logistic
regression or an MLP with one hidden layer. Which features matters more than which classifier:

- [CLS], the last layer's first token. Nothing has trained it to stand for a text, unless the
  encoder was tuned so.
- mean: of the last layer over the tokens. Every word counts, but the last layer has turned words
  into what the encoder was trained for, and what a classifier wants may be gone.
- layers: means and maxima over the tokens, of every layer, side by side. The lower layers still
  know the words. A maximum keeps the one word that says it all, where a mean would dilute it.

Beside them stands a linear model of word counts (TF-IDF), which knows nothing but the words.

    python lab_classifier.py                                six emotions
    python lab_classifier.py --dataset ag_news              four kinds of news
    python lab_classifier.py --dataset FILE.csv             any with the columns text and label
    python lab_classifier.py --data DIR                     train.csv, test.csv and validation.csv
    python lab_classifier.py --finetune                     train the whole encoder too

Takes some minutes with --model bundled, which needs no download, and longer with DistilBERT (268
MB), which is three times as large; --finetune takes ten minutes more. Of the emotions, the bundled
encoder's frozen features find 0.79, words alone 0.89, and the trained encoder 0.93.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import common

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
else:
    torch = common.LazyModule("torch")

MODEL = common.HubModel("distilbert/distilbert-base-uncased", "Apache-2.0", 268)
DATASETS = {
    "emotion": common.HubDataset("dair-ai/emotion", 2, config="split"),
    "ag_news": common.HubDataset("fancyzhx/ag_news", 20),
}
LABELS = {  # what the numbers in the data sets stand for
    "emotion": ("sadness", "joy", "love", "anger", "fear", "surprise"),
    "ag_news": ("World", "Sports", "Business", "Sci/Tech"),
}
SPLITS = ("train", "validation", "test")
MOST_TEXTS = 16_000  # to train on; of more, a random part
QUICK_TEXTS = 800
HELD_OUT = 0.1  # of the training texts for validation, where there are none; of one file, for both
TFIDF_C = (0.1, 0.3, 1.0)  # the smaller C, the smaller the weights are kept
LOGISTIC_C = (0.001, 0.003, 0.01)
DROPOUT = (0.3, 0.6)
HIDDEN = 256
MLP_EPOCHS, MLP_BATCH, MLP_RATE = 10, 128, 1e-3
TUNING_EPOCHS, TUNING_BATCH, TUNING_RATE = 3, 32, 2e-4

Classifier = Callable[[np.ndarray], np.ndarray]  # from features to labels, as numbers
Fit = Callable[..., Classifier]  # from features, labels, whether to weight them, and a setting


@dataclass
class Row:
    """One way of classifying: what it sees and how, the setting chosen, and what it says."""

    features: str
    name: str
    weighted: bool
    setting: str
    validation: np.ndarray  # predicted labels of its texts
    test: np.ndarray

    def title(self) -> str:
        """Return what the classifier is called."""
        return f"{self.name}{', weighted' if self.weighted else ''}"


def all_layers(states: tuple[torch.Tensor, ...], mask: torch.Tensor) -> torch.Tensor:
    """Return means and maxima over a text's own tokens, of every layer: (batch, features)."""
    weights = mask / mask.sum(1, keepdim=True)  # (batch, time)
    padding = (mask == 0).unsqueeze(-1)  # (batch, time, 1)
    means = [torch.einsum("btw,bt->bw", state, weights) for state in states]
    maxima = [state.masked_fill(padding, -torch.inf).amax(1) for state in states]
    return torch.cat([*means, *maxima], -1)


POOLS = {
    "[CLS]": common.first_token,
    "mean": common.mean_token,
    "layers": all_layers,
}


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV file with the columns text and label, both as text."""
    table = common.read_csv(path)
    if missing := {"text", "label"} - set(table.columns):
        raise common.ScriptError(f"{path}: row 1: there is no column {min(missing)}")
    if table.empty:
        raise common.ScriptError(f"{path}: there are no rows of data")
    for column in ("text", "label"):
        if (empty := table[column].str.strip() == "").any():
            raise common.ScriptError(f"{path}: row {int(empty.argmax()) + 2}: no {column}")
    return table[["text", "label"]]


def read_splits(dataset: str, folder: Path | None, seed: int) -> dict[str, pd.DataFrame]:
    """Return training, validation and test texts with their labels.

    From the folder, where one is given, else from the Hub or from one CSV file. Where there is
    nothing to validate or to test on, a random tenth of the rest is put aside for it.
    """
    if folder is not None:
        common.check_folder(folder, "train.csv", "test.csv")
        validation = folder / "validation.csv"  # a broken link is no reason to do without
        names = list(SPLITS) if os.path.lexists(validation) else ["train", "test"]
        splits = {name: read_table(folder / f"{name}.csv") for name in names}
    elif dataset in DATASETS:
        names = list(SPLITS) if dataset == "emotion" else ["train", "test"]
        splits = {name: common.hub_table(DATASETS[dataset], name) for name in names}
        splits = {name: table.astype({"label": str}) for name, table in splits.items()}
    elif Path(dataset).suffix == ".csv":
        splits = {"train": read_table(Path(dataset))}
    else:
        raise common.ScriptError(f"{dataset}: not {', '.join(DATASETS)}, and no CSV file")
    random = np.random.default_rng(seed)
    for name in ("test", "validation"):
        if name not in splits:
            order = random.permutation(len(splits["train"]))
            cut = round(HELD_OUT * len(order))
            splits[name] = splits["train"].iloc[np.sort(order[:cut])]
            splits["train"] = splits["train"].iloc[np.sort(order[cut:])]
    if short := [name for name in SPLITS if splits[name].empty]:
        raise common.ScriptError(f"too few texts: none is left for {' and '.join(short)}")
    return {name: splits[name].reset_index(drop=True) for name in SPLITS}


def draw(table: pd.DataFrame, most: int, seed: int) -> pd.DataFrame:
    """Return this many rows at random, in their order, or all if there are no more."""
    return table if len(table) <= most else table.sample(most, random_state=seed).sort_index()


def leave_out_repeated(splits: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Report texts that occur more than once, and leave out what was to be predicted later.

    That is every training text that is to be validated or tested on, and every validation text
    that is to be tested on. Case and blanks do not make a text another one.
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
        seen = set().union(*(keys[other] for other in later))
        repeated = keys[name].isin(seen)
        kept[name] = splits[name][~repeated]
        print(f"texts of {name} that are in {' or '.join(later)} too, left out: {repeated.sum()}")
    return kept


def number_labels(
    splits: dict[str, pd.DataFrame], dataset: str
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the labels of every split as numbers from 0, and what they are called."""
    known = sorted(set(splits["train"]["label"]), key=lambda label: (len(label), label))
    if len(known) < 2:
        raise common.ScriptError(f"the training texts have {len(known)} label; at least two needed")
    numbers = {}
    for name, table in splits.items():
        if unknown := set(table["label"]) - set(known):
            raise common.ScriptError(f"no training text has the label {min(unknown)} of {name}")
        numbers[name] = table["label"].map(known.index).to_numpy(dtype=np.int64)
    names = list(LABELS.get(dataset, ()))
    return numbers, names if known == [str(number) for number in range(len(names))] else known


def class_weights(labels: np.ndarray) -> np.ndarray:
    """Return a weight for each label, the larger the rarer: all labels count the same in total."""
    counts = np.bincount(labels)
    return len(labels) / (len(counts) * counts)


def fit_words(inputs: np.ndarray, labels: np.ndarray, weighted: bool, c: float) -> Classifier:
    """Fit a linear support vector machine to TF-IDF features (sparse)."""
    from sklearn.svm import LinearSVC

    return LinearSVC(C=c, class_weight="balanced" if weighted else None).fit(inputs, labels).predict


def fit_logistic(inputs: np.ndarray, labels: np.ndarray, weighted: bool, c: float) -> Classifier:
    """Fit a logistic regression."""
    from sklearn.linear_model import LogisticRegression

    weight = "balanced" if weighted else None
    model = LogisticRegression(C=c, class_weight=weight, tol=1e-3, max_iter=1000)
    return model.fit(inputs, labels).predict


def fit_mlp(inputs: np.ndarray, labels: np.ndarray, weighted: bool, dropout: float) -> Classifier:
    """Train a network with one hidden layer."""
    from torch import nn

    weight = torch.tensor(class_weights(labels), dtype=torch.float32) if weighted else None
    features, targets = torch.from_numpy(inputs), torch.tensor(labels)
    network = nn.Sequential(
        nn.Linear(features.shape[1], HIDDEN),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(HIDDEN, int(targets.max()) + 1),
    )

    def loss(batch: list[int]) -> torch.Tensor:
        return nn.functional.cross_entropy(network(features[batch]), targets[batch], weight)

    batches = common.random_batches(len(features), MLP_BATCH, MLP_EPOCHS)
    common.tune(network, loss, batches, MLP_RATE)
    network.eval()

    @torch.inference_mode()
    def predict(inputs: np.ndarray) -> np.ndarray:
        return network(torch.from_numpy(inputs)).argmax(-1).numpy()

    return predict


def choose(
    fit: Fit,
    settings: tuple[float, ...],
    inputs: dict[str, np.ndarray],
    labels: dict[str, np.ndarray],
    weighted: bool,
    seed: int,
) -> tuple[float, np.ndarray, np.ndarray]:
    """Fit with every setting and keep the one that classifies most validation texts rightly.

    Returns it, and what it predicts for the validation and the test texts.
    """
    fitted = []
    for setting in settings:
        common.seed_everything(seed)
        predict = fit(inputs["train"], labels["train"], weighted, setting)
        accuracy = (predict(inputs["validation"]) == labels["validation"]).mean()
        fitted.append((accuracy, setting, predict))
    _, setting, predict = max(fitted, key=lambda each: each[0])
    return setting, predict(inputs["validation"]), predict(inputs["test"])


def standardise(features: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Give every feature the mean 0 and the deviation 1, as measured on the training texts.

    One that is always the same, as the largest value of [CLS] below the first layer, becomes 0.
    """
    mean, deviation = features["train"].mean(0), features["train"].std(0)
    deviation[deviation < 1e-6] = 1.0
    return {name: (rows - mean) / deviation for name, rows in features.items()}


def word_counts(texts: dict[str, list[str]]) -> dict[str, object]:
    """Return the TF-IDF of words and of pairs of words, sparse, as counted in the training texts.

    A word's weight grows with the logarithm of how often it stands in a text, and falls with the
    number of texts that have it.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    counter = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit(texts["train"])
    return {name: counter.transform(texts[name]) for name in SPLITS}


def finetune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: dict[str, list[str]],
    labels: dict[str, np.ndarray],
    seed: int,
    epochs: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Train the whole encoder, and a linear layer on the mean of its tokens.

    Returns the predictions for the validation and the test texts.
    """
    common.seed_everything(seed)
    ids = {name: common.tokenize(tokenizer, texts[name]) for name in SPLITS}
    targets = torch.tensor(labels["train"], device=model.device)
    head = torch.nn.Linear(model.config.hidden_size, int(targets.max()) + 1)
    model.classifier = head.to(model.device)

    def loss(batch: list[int]) -> torch.Tensor:
        inputs = common.pad([ids["train"][text] for text in batch], model.device)
        states = (model(**inputs).last_hidden_state,)
        logits = model.classifier(common.mean_token(states, inputs["attention_mask"]))
        return torch.nn.functional.cross_entropy(logits, targets[batch])  # logits: (batch, label)

    lengths = [len(tokens) for tokens in ids["train"]]
    batches = common.random_batches(len(lengths), TUNING_BATCH, epochs, lengths)
    model.train()
    common.tune(model, loss, batches, TUNING_RATE)
    predictions = []
    for name in ("validation", "test"):
        features = common.compute_features(model, ids[name], {"mean": common.mean_token})["mean"]
        with torch.inference_mode():
            logits = model.classifier(torch.from_numpy(features).to(model.device))
        predictions.append(logits.argmax(-1).cpu().numpy())
    return tuple(predictions)


def print_table(rows: list[Row], labels: dict[str, np.ndarray]) -> None:
    """Print how many texts each row classifies rightly, and its macro-F1: the mean F1 of labels."""
    from sklearn.metrics import accuracy_score, f1_score

    print(f"\n{'':53}validation        test")
    print(f"{'features':10}{'classifier':31}{'setting':12}  accuracy  accuracy  macro-F1")
    for row in rows:
        figures = (
            accuracy_score(labels["validation"], row.validation),
            accuracy_score(labels["test"], row.test),
            f1_score(labels["test"], row.test, average="macro", zero_division=0.0),
        )
        print(f"{row.features:10}{row.title():31}{row.setting:12}", end="")
        print("".join(f"{figure:10.4f}" for figure in figures))


def print_labels(row: Row, labels: np.ndarray, names: list[str]) -> None:
    """Print precision, recall and F1 of every label, on the test texts."""
    from sklearn.metrics import precision_recall_fscore_support

    print(f"\n{f'{row.features}, {row.title()}':40}precision    recall        F1     texts")
    figures = precision_recall_fscore_support(
        labels, row.test, labels=range(len(names)), zero_division=0.0
    )
    for name, precision, recall, f1, texts in zip(names, *figures, strict=True):
        print(f"{name[:38]:39}{precision:10.4f}{recall:10.4f}{f1:10.4f}{texts:10}")


def draw_confusion(rows: list[Row], labels: np.ndarray, names: list[str], path: str) -> None:
    """Save a picture of which labels are taken for which, as shares of the true label's texts."""
    from matplotlib.figure import Figure
    from sklearn.metrics import confusion_matrix

    figure = Figure(figsize=(5.5 * len(rows), 6), layout="constrained")
    for axes, row in zip(figure.subplots(1, len(rows), squeeze=False)[0], rows, strict=True):
        shares = confusion_matrix(
            labels, row.test, labels=range(len(names)), normalize="true"
        )  # (true, predicted)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for true, predicted in np.ndindex(shares.shape):
            share = shares[true, predicted]
            color = "white" if share > 0.5 else "black"
            axes.text(predicted, true, f"{share:.2f}", ha="center", va="center", color=color)
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
        axes.set_yticks(range(len(names)), names)
        accuracy = (row.test == labels).mean()
        axes.set(title=f"{row.features}, {row.title()}: {accuracy:.1%}", xlabel="predicted")
        axes.set_ylabel("true")
    common.save_figure(figure, path)


def main(argv: list[str] | None = None) -> int:
    """Classify in every way; choose settings on the validation texts, then look at the test."""
    parser = common.argument_parser(__doc__, "--seed", "--device", "--quick", "--data", model=MODEL)
    parser.add_argument(
        "--dataset", default="emotion", metavar="NAME_OR_CSV", help="emotion, ag_news or a file"
    )
    parser.add_argument("--finetune", action="store_true", help="train the whole encoder too")
    arguments = parser.parse_args(argv)
    seed = arguments.seed

    splits = leave_out_repeated(read_splits(arguments.dataset, arguments.data, seed))
    most = QUICK_TEXTS if arguments.quick else MOST_TEXTS
    splits = {name: draw(table, most, seed) for name, table in splits.items()}
    labels, names = number_labels(splits, arguments.dataset)
    texts = {name: table["text"].tolist() for name, table in splits.items()}
    print(", ".join(f"{len(texts[name]):,} {name}" for name in SPLITS), "texts")

    folder = common.find_encoder(arguments.model, MODEL)
    tokenizer = common.load_tokenizer(folder)
    model = common.load_model(folder, "AutoModel", common.select_device(arguments.device))
    encoded = {name: common.encode(model, tokenizer, texts[name], POOLS) for name in SPLITS}

    frequent = np.bincount(labels["train"]).argmax()
    guesses = [np.full_like(labels[name], frequent) for name in ("validation", "test")]
    rows = [Row("none", f"always {names[frequent]}", False, "", *guesses)]

    def compare(
        features: str, name: str, fit: Fit, word: str, settings: tuple, inputs: dict
    ) -> None:
        for weighted in (False, True):
            setting, *predictions = choose(fit, settings, inputs, labels, weighted, seed)
            rows.append(Row(features, name, weighted, f"{word} {setting:g}", *predictions))
            common.note(f"fitted {features}, {rows[-1].title()}")

    compare("TF-IDF", "linear SVM", fit_words, "C", TFIDF_C, word_counts(texts))
    for pool in POOLS:
        inputs = standardise({name: encoded[name].pop(pool) for name in SPLITS})  # to save memory
        compare(pool, "logistic regression", fit_logistic, "C", LOGISTIC_C, inputs)
        compare(pool, "MLP", fit_mlp, "dropout", DROPOUT, inputs)
    if arguments.finetune:
        epochs = 1 if arguments.quick else TUNING_EPOCHS
        predictions = finetune(model, tokenizer, texts, labels, seed, epochs)
        rows.append(Row("tuned", "linear layer", False, f"epochs {epochs}", *predictions))

    print_table(rows, labels)
    shown = []
    for group in (["TF-IDF"], list(POOLS), ["tuned"]):
        if members := [row for row in rows if row.features in group]:
            hits = [(row.validation == labels["validation"]).mean() for row in members]
            shown.append(members[int(np.argmax(hits))])
            print_labels(shown[-1], labels["test"], names)
    name = (arguments.data or Path(arguments.dataset)).stem
    draw_confusion(shown, labels["test"], names, f"lab_classifier_{name}.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
