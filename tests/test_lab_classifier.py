"""lab_classifier.py: nothing is trained or chosen on texts that measure the result."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
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


Classify = Callable[..., tuple[str, list[float]]]


@pytest.fixture
def classify(
    run: Run, tmp_path: Path, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> Classify:
    """Return a function that runs the script on some splits.

    It returns the standard output, and the sum of the trained weights of each candidate.
    """

    def record(names: tuple[str, str, str], classifier: Any, *rest: Any) -> Row:
        row = benchmark(names, classifier, *rest)
        if hasattr(classifier, "network_"):
            weights.append(sum(w.double().sum().item() for w in classifier.network_.parameters()))
        elif hasattr(classifier, "coef_"):
            weights.append(classifier.coef_.sum())
        return row

    benchmark, weights = lab_classifier.benchmark, []
    monkeypatch.setattr(lab_classifier, "MLP_EPOCHS", 2)
    monkeypatch.setattr(lab_classifier, "benchmark", record)
    monkeypatch.setattr(lab_classifier, "draw_confusion", lambda *_: None)

    def classify(splits: Splits, *options: str) -> tuple[str, list[float]]:
        weights.clear()
        arguments = ("--model", checkpoints / ENCODER, "--data", write(splits, tmp_path / "data"))
        code, out, err = run("lab_classifier", *arguments, *options)
        assert code == 0, err
        return out, [*weights]

    return classify


# --- Protocol ------------------------------------------------------------------------------------


def choices(out: str) -> list[str]:
    """Return the rows of the table without their test scores, and the titles of the reports."""
    return re.findall(r"^.{84}(?=(?: +\d\.\d{4}){2}$)|^.+, .+(?=\n +precision)", out, re.MULTILINE)


def test_other_test_labels_change_no_choice(classify: Classify) -> None:
    splits = make_splits()
    labels = splits["test"]["label"].map({"good": "bad", "bad": "good"})
    first, _ = classify(splits)
    second, _ = classify(splits | {"test": splits["test"].assign(label=labels)})
    assert len(choices(first)) == 15 + 2
    assert choices(first) == choices(second)
    assert first != second


def test_only_training_texts_train(classify: Classify) -> None:
    splits = make_splits()
    changed = {
        name: splits[name].assign(
            text=splits[name]["text"] + " new", label=splits[name]["label"].to_numpy()[::-1]
        )
        for name in ("validation", "test")
    }
    (out, weights), (_, other_weights) = (
        classify(tables, "--finetune", "--quick") for tables in (splits, splits | changed)
    )
    assert re.findall(r"^(LoRA|tuned) ", out, re.MULTILINE) == ["LoRA", "tuned"]
    assert weights == other_weights


def test_another_seed_trains_other_networks(classify: Classify) -> None:
    first, second = (classify(make_splits(), "--seed", seed)[1] for seed in "01")
    assert first != second


class Fixed(BaseEstimator):
    """A classifier that predicts the same labels for each split, whatever it is fitted on."""

    def __init__(self, predicted: dict[str, list[int]], class_weight: str | None = None) -> None:
        self.predicted, self.class_weight = predicted, class_weight

    def fit(self, split: str, labels: np.ndarray) -> None:
        assert split == "train"

    def predict(self, split: str) -> np.ndarray:
        return np.array(self.predicted[split])


LABELS = {"train": np.zeros(4), "validation": np.array([0, 0, 0, 1]), "test": np.ones(4)}
MAJORITY = {"validation": [0, 0, 0, 0], "test": [1, 1, 1, 1]}  # accuracy 0.75, macro-F1 0.43
RARE = {"validation": [0, 1, 1, 1], "test": [0, 0, 0, 0]}  # accuracy 0.5, macro-F1 0.5
BAD = {"validation": [1, 1, 1, 0], "test": [1, 1, 1, 1]}


@pytest.mark.parametrize("order", [(MAJORITY, RARE, BAD), (BAD, RARE, MAJORITY)])
def test_accuracy_chooses_a_setting_and_macro_f1_with_class_weights(
    order: tuple[dict, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates = dict(zip("abc", map(Fixed, order), strict=True))
    monkeypatch.setitem(lab_classifier.CLASSIFIERS, "fixed", candidates)
    rows = lab_classifier.compare("texts", "fixed", {name: name for name in SPLITS}, LABELS)
    assert [row.predicted.tolist() for row in rows] == [MAJORITY["test"], RARE["test"]]
    assert [row.validation for row in rows] == [(0.75, pytest.approx(3 / 7)), (0.5, 0.5)]


# --- Classifiers ---------------------------------------------------------------------------------


def test_class_weights_find_the_rare_label() -> None:
    labels = (np.arange(1000) % 20 == 0).astype(int)
    noise = np.random.default_rng(0).standard_normal((1000, 2))
    features = (noise + labels[:, None]).astype(np.float32)
    common.seed_everything(0)
    plain, weighted = (MLP(0.3, weights).fit(features, labels) for weights in (None, "balanced"))
    found = [mlp.predict(features)[labels == 1].mean() for mlp in (plain, weighted)]
    assert found[0] < 0.4 < 0.6 < found[1]


def test_mlp_has_dropout_in_training_alone() -> None:
    labels = np.arange(100) % 2
    features = np.eye(2, dtype=np.float32)[labels]
    accuracies = [MLP(dropout=p).fit(features, labels).score(features, labels) for p in (0.0, 1.0)]
    assert accuracies == [1.0, 0.5]  # a fraction of 1 leaves nothing of the features
    mlp = MLP(dropout=0.9).fit(features, labels)
    assert mlp.score(features, labels) == 1.0


@pytest.mark.parametrize("kind", ["LoRA", "tuned"])
def test_finetuning_is_on_the_label_of_each_text(
    kind: str, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [" ".join(WORDS[:count]) for count in (9, 1, 4, 2)]  # padded in a batch
    train, labels = Mock(), np.array([0, 2, 1, 0])
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


def test_table_has_every_pair_of_features_and_classifier(classify: Classify) -> None:
    out, _ = classify(make_splits())
    rows = re.findall(r"^(.{52}) +([\d,]+)(?: +\d\.\d{4}){4}$", out, re.MULTILINE)
    trained = {" ".join(title.split()[:2]): int(count.replace(",", "")) for title, count in rows}
    assert (len(rows), rows[0][0].split()) == (1 + 2 + 3 * 4, ["none", "always", "good"])
    assert trained["mean logistic"] == 32 + 1  # width of the hidden states, intercept
    assert trained["layers logistic"] == 2 * 3 * 32 + 1  # mean and maximum of three states
    assert trained["mean MLP"] == (32 + 1) * 256 + (256 + 1) * 2


@pytest.mark.filterwarnings("error:constrained_layout")  # of labels that leave no room
def test_odd_labels_are_printed_and_drawn(tmp_path: Path, checkpoints: Path, run: Run) -> None:
    labels = ["$_$", "$10-$20", "a\\b^{_%s", "\N{CYRILLIC SMALL LETTER ZHE}" * 80]
    splits = {name: table.assign(label=labels * 15) for name, table in make_splits().items()}
    write(splits, tmp_path / "my.data")
    options = ("--model", checkpoints / ENCODER, "--data", "my.data", "--finetune", "--quick")
    code, out, err = run("lab_classifier", *options)
    assert code == 0, err
    assert all(f"{label}  " in out for label in labels)
    pictures = {path.name for path in common.RESULTS.glob("*.png")}
    assert pictures == {"lab_classifier_my.data.png", "lab_classifier_my.data_weights.png"}


def test_model_without_cls_has_no_cls_rows(checkpoints: Path, run: Run, tmp_path: Path) -> None:
    options = ("--data", write(make_splits(), tmp_path / "data"), "--quick")
    code, out, err = run("lab_classifier", "--model", checkpoints / DECODER, *options)
    assert code == 0
    assert "this model has no [CLS], so its rows are left out" in err
    assert "[CLS]" not in out
    assert "layers   MLP" in out


def test_conclusion_about_class_weights_is_about_the_test_texts(
    capsys: pytest.CaptureFixture,
) -> None:
    low, high = Score(0.5, 0.2), Score(0.5, 0.4)
    plain = Row("mean", "MLP", "", 0, validation=low, test=high, predicted=np.zeros(0))
    weighted = plain._replace(classifier="MLP, weighted", validation=high, test=low)
    lab_classifier.print_conclusions([plain, weighted], {"mean": plain})
    assert "raise macro-F1 in 0 of 1 pairs" in capsys.readouterr().err
