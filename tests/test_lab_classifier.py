"""lab_classifier.py: nothing is trained or chosen on texts that measure the result."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import BaseEstimator
from torch.nn import functional as F

import common
import lab_classifier
import lab_common
from conftest import CPU, EXPECTED, Run
from lab_classifier import MLP, Row, Score, TunedEncoder
from lab_data import SPLITS

ENCODER, DECODER = "distilbert/distilbert-base-uncased", "openai-community/gpt2"
WORDS = re.findall(r"[a-z]{3,}", (EXPECTED / "texts.txt").read_text(encoding="utf-8"))[:40]
Splits = dict[str, pd.DataFrame]


def make_splits() -> Splits:
    """Return 60 different texts of each split; in about half of them, a word is the label."""
    generator, splits = np.random.default_rng(0), {}
    for name in SPLITS:
        labels = generator.choice(["bad", "good", "good"], 60)
        words = np.where(generator.random(60) < 0.5, labels, generator.choice(WORDS, 60))
        texts = [f"{name} {WORDS[i % 7]} {WORDS[i // 7]} {word}" for i, word in enumerate(words)]
        splits[name] = pd.DataFrame({"text": texts, "label": labels})
    return splits


def write(splits: Splits, folder: Path) -> Path:
    """Write a CSV file for each split; return the folder."""
    folder.mkdir(exist_ok=True)
    for name, table in splits.items():
        table.to_csv(folder / f"{name}.csv", index=False)
    return folder


class Result(NamedTuple):
    """A run of the script."""

    rows: list[Row]
    shown: list[Row]  # of which reports and pictures are made
    weights: list[float]  # the sum of the trained weights of each candidate
    out: str


@pytest.fixture
def classify(
    run: Run, tmp_path: Path, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    """Return a function that runs the script on some splits."""
    benchmark, weights = lab_classifier.benchmark, []

    def record(kind: str, name: str, classifier: Any, *rest: Any) -> Row:
        row = benchmark(kind, name, classifier, *rest)
        if hasattr(classifier, "network_"):
            weights.append(sum(w.double().sum().item() for w in classifier.network_.parameters()))
        elif hasattr(classifier, "coef_"):
            weights.append(classifier.coef_.sum())
        return row

    table, picture = Mock(wraps=lab_classifier.print_table), Mock()
    replacements = {"benchmark": record, "print_table": table, "draw_confusion": picture}
    for name, replacement in ({"MLP_EPOCHS": 2} | replacements).items():
        monkeypatch.setattr(lab_classifier, name, replacement)

    def classify(splits: Splits, *options: str) -> Result:
        weights.clear()
        arguments = ("--model", checkpoints / ENCODER, "--data", write(splits, tmp_path / "data"))
        code, out, err = run("lab_classifier", *arguments, *options)
        assert code == 0, err
        return Result(table.call_args.args[0], picture.call_args.args[0], [*weights], out)

    return classify


FIRST: list[Result] = []  # of make_splits(), for all tests


@pytest.fixture
def first(classify: Callable[..., Result]) -> Result:
    """Return a run on `make_splits()`."""
    if not FIRST:
        FIRST.append(classify(make_splits()))
    return FIRST[0]


def choices(result: Result) -> list[Any]:
    """Return everything that is chosen or measured before the test texts are used."""
    rows = [(row.features, row.classifier, row.setting, row.validation) for row in result.rows]
    return [rows, [(row.features, row.classifier) for row in result.shown]]


# --- Protocol ------------------------------------------------------------------------------------


def test_other_test_labels_change_no_choice(first: Result, classify: Callable[..., Result]) -> None:
    splits = make_splits()
    labels = splits["test"]["label"].map({"good": "bad", "bad": "good"})
    other = classify(splits | {"test": splits["test"].assign(label=labels)})
    assert choices(first) == choices(other)
    for row, other_row in zip(first.rows, other.rows, strict=True):
        assert np.array_equal(row.predicted, other_row.predicted)
        assert row.test != other_row.test


def test_only_training_texts_train(classify: Callable[..., Result]) -> None:
    splits = make_splits()
    changed = {
        name: splits[name].assign(
            text=splits[name]["text"] + " new", label=splits[name]["label"].to_numpy()[::-1]
        )
        for name in ("validation", "test")
    }
    results = [classify(each, "--finetune", "--quick") for each in (splits, splits | changed)]
    assert [row.features for row in results[0].rows[-2:]] == ["LoRA", "tuned"]
    assert results[0].weights == results[1].weights


def test_second_run_is_equal(first: Result, classify: Callable[..., Result]) -> None:
    second = classify(make_splits())
    assert (first.out, first.weights) == (second.out, second.weights)


def test_another_seed_trains_other_networks(first: Result, classify: Callable[..., Result]) -> None:
    assert first.weights != classify(make_splits(), "--seed", "1").weights


class Fixed(BaseEstimator):
    """A classifier that predicts the same labels for each split, whatever it is fitted on."""

    def __init__(self, predicted: dict[str, list[int]], class_weight: str | None = None) -> None:
        self.predicted, self.class_weight = predicted, class_weight

    def fit(self, split: str, labels: np.ndarray) -> None:
        assert split == "train"

    def predict(self, split: str) -> np.ndarray:
        return np.array(self.predicted[split])


LABELLED = {"train": [0, 0, 0, 1], "validation": [0, 0, 0, 1], "test": [1, 1, 1, 1]}
LABELS = {name: np.array(labels) for name, labels in LABELLED.items()}
MAJORITY = {"validation": [0, 0, 0, 0], "test": [1, 1, 1, 1]}  # accuracy 0.75, macro-F1 0.43
RARE = {"validation": [0, 1, 1, 1], "test": [0, 0, 0, 0]}  # accuracy 0.5, macro-F1 0.5
BAD = {"validation": [1, 1, 1, 0], "test": [1, 1, 1, 1]}


@pytest.mark.parametrize("order", [(MAJORITY, RARE, BAD), (BAD, RARE, MAJORITY)])
def test_accuracy_chooses_a_setting_and_macro_f1_with_class_weights(
    order: tuple[dict, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates = [Fixed(predicted) for predicted in order]
    monkeypatch.setitem(lab_classifier.CLASSIFIERS, "fixed", candidates)
    rows = lab_classifier.compare("texts", "fixed", {name: name for name in SPLITS}, LABELS)
    assert [row.predicted.tolist() for row in rows] == [MAJORITY["test"], RARE["test"]]
    assert [row.validation for row in rows] == [(0.75, pytest.approx(3 / 7)), (0.5, 0.5)]


def test_row_with_the_best_validation_accuracy_is_reported() -> None:
    accuracies = [(0.5, 0.9), (0.6, 0.7), (0.6, 0.8)]  # in validation and on the test texts
    rows = [Row("", "", "", 0, Score(v, 0), Score(t, 0), np.array([])) for v, t in accuracies]
    assert lab_classifier.best(rows) is rows[1]


def test_conclusions_are_computed_from_the_test_texts(capsys: pytest.CaptureFixture) -> None:
    def row(classifier: str, accuracy: float, macro_f1: float) -> Row:
        other = Score(1 - accuracy, 1 - macro_f1)
        return Row("mean", classifier, "", 0, other, Score(accuracy, macro_f1), np.array([]))

    rows = [row("MLP", 0.7, 0.6), row("MLP, weighted", 0.6, 0.65)]
    rows += [row("SVM", 0.8, 0.7), row("SVM, weighted", 0.9, 0.6)]
    lab_classifier.print_conclusions(rows, {"mean": rows[0]})
    err = capsys.readouterr().err
    assert ": mean 0.700\n" in err
    assert "raise macro-F1 in 1 of 2 pairs" in err


# --- Classifiers ---------------------------------------------------------------------------------


def test_class_weights_find_the_rare_label() -> None:
    labels = (np.arange(1000) % 20 == 0).astype(int)
    noise = np.random.default_rng(0).standard_normal((1000, 2))
    features = (noise + labels[:, None]).astype(np.float32)
    common.seed_everything(0)
    plain, weighted = (MLP(0.3, weights).fit(features, labels) for weights in (None, "balanced"))
    found = [mlp.predict(features)[labels == 1].mean() for mlp in (plain, weighted)]
    assert found[0] < 0.4 < 0.6 < found[1]


def test_mlp_predicts_without_dropout() -> None:
    features = np.random.default_rng(0).standard_normal((100, 3)).astype(np.float32)
    mlp = MLP(dropout=0.9).fit(features, np.arange(100) % 3)
    assert np.array_equal(mlp.predict(features), mlp.predict(features))


def test_mlp_is_trained_with_its_dropout() -> None:
    """A fraction of 1 leaves nothing of the features."""
    features = np.eye(2, dtype=np.float32)[np.arange(100) % 2]
    labels = np.arange(100) % 2
    accuracies = [MLP(dropout=p).fit(features, labels).score(features, labels) for p in (0.0, 1.0)]
    assert accuracies == [1.0, 0.5]


@pytest.mark.parametrize("kind", ["LoRA", "tuned"])
def test_finetuning_is_on_the_label_of_each_text(
    kind: str, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, texts, labels = Mock(), WORDS[:4], np.array([0, 2, 1, 0])
    monkeypatch.setattr(lab_common, "train", train)
    tuned = TunedEncoder(checkpoints / ENCODER, kind, 1, CPU).fit(texts, labels)
    network, batch_loss = train.call_args.args[:2]
    assert network.training  # with dropout
    assert all(weight.requires_grad for weight in network.parameters()) == (kind == "tuned")
    encoder, head = network.eval()
    features = lab_common.encode(encoder, tuned.tokenizer_, texts, lab_classifier.POOLINGS)["mean"]
    logits = head(torch.from_numpy(features))  # (texts, labels)
    assert np.array_equal(tuned.predict(texts), logits.argmax(-1).numpy())
    for batch in ([3, 1], [2, 0, 1]):
        expected = F.cross_entropy(logits[batch], torch.tensor(labels[batch])).item()
        assert batch_loss(batch).item() == pytest.approx(expected, abs=1e-4)


# --- The script ----------------------------------------------------------------------------------


def test_table_has_every_pair_of_features_and_classifier(first: Result) -> None:
    rows = re.findall(r"^(.{52}) +([\d,]+)(?: +\d\.\d{4}){4}$", first.out, re.MULTILINE)
    assert (len(rows), rows[0][0].split()) == (1 + 2 + 3 * 4, ["none", "always", "good"])
    trained = {" ".join(title.split()[:2]): int(count.replace(",", "")) for title, count in rows}
    assert trained["none always"] == 0
    assert trained["mean logistic"] == 32 + 1  # width of the hidden states, intercept
    assert trained["layers logistic"] == 2 * 3 * 32 + 1  # mean and maximum of three states
    assert trained["mean MLP"] == (32 + 1) * 256 + (256 + 1) * 2


@pytest.mark.filterwarnings("error:constrained_layout")  # of labels that leave no room
def test_labels_of_a_file_are_printed_and_drawn(
    tmp_path: Path, checkpoints: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = ["$_$", "$10-$20", "a\\b^{_%s", "\N{CYRILLIC SMALL LETTER ZHE}" * 80]
    monkeypatch.setattr(lab_classifier, "MLP_EPOCHS", 2)
    texts = {name: [f"{name} {WORDS[i % 9]} {WORDS[i // 9]}" for i in range(99)] for name in SPLITS}
    label = [labels[i % len(labels)] for i in range(99)]
    tables = {name: pd.DataFrame({"text": texts[name], "label": label}) for name in SPLITS}
    monkeypatch.chdir(write(tables, tmp_path / "my.data"))
    options = ("--model", checkpoints / ENCODER, "--data", ".", "--finetune", "--quick")
    code, out, err = run("lab_classifier", *options)
    assert code == 0, err
    report = out.partition("support\n\n")[2].partition("\n\n")[0].splitlines()
    assert {line[:-40].strip() for line in report} == set(labels)
    pictures = {path.name for path in common.RESULTS.glob("*.png")}
    assert pictures == {"lab_classifier_my.data.png", "lab_classifier_my.data_weights.png"}


def test_labels_of_a_copy_of_a_data_set_get_their_names(
    classify: Callable[..., Result],
) -> None:
    numbers = [str(number) for number in range(4)] * 15
    splits = {name: table.assign(label=numbers) for name, table in make_splits().items()}
    assert " Sports " in classify(splits, "--dataset", "ag_news").out


@pytest.mark.parametrize(("content", "problem"), [
    ("text,label\na,1\nb,2\n", "too few texts"),
    ("text,label\n" + "".join(f"some text {i},1\n" for i in range(40)), "only one class"),
    ("text,label\n" + "".join(f"! {'?' * i},{i % 2}\n" for i in range(40)), "empty vocabulary"),
])  # fmt: skip
def test_useless_texts_end_in_one_line(
    content: str, problem: str, tmp_path: Path, checkpoints: Path, run: Run
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(content, encoding="utf-8")
    code, _, err = run("lab_classifier", "--data", path, "--model", checkpoints / ENCODER)
    assert code == 1
    assert problem in err.splitlines()[-1]


def test_model_without_cls_has_no_cls_rows(checkpoints: Path, run: Run, tmp_path: Path) -> None:
    options = ("--data", write(make_splits(), tmp_path / "data"), "--quick")
    code, out, err = run("lab_classifier", "--model", checkpoints / DECODER, *options)
    assert code == 0
    assert "this model has no [CLS], so its rows are left out" in err
    assert "[CLS]" not in out
    assert "layers   MLP" in out
