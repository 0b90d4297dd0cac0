"""lab_classifier.py: leaks, classifiers, and settings that are chosen by validation alone."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import common
import lab_classifier
import lab_common
import task07
from lab_classifier import fit_linear, fit_mlp
from lab_data import SPLITS

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import load_pair, text_table
from sklearn.metrics import accuracy_score
from torch.nn import functional as F
from transformers import AutoModel

Capture, Patch = pytest.CaptureFixture, pytest.MonkeyPatch
WORDS = re.findall(r"[a-z]+", task07.CONTEXT.lower())  # that the tiny encoder knows


def test_leaks_are_counted_and_removed(capsys: Capture) -> None:
    splits = {
        "train": text_table("a b,A  b,c,d,e", "x y x x x"),
        "validation": text_table("C,f,g", "x x y"),
        "test": text_table("f,d ,h", "x x x"),
    }
    kept = [rows["text"].tolist() for rows in lab_classifier.remove_leaks(splits).values()]
    assert kept == [["a b", "A  b", "e"], ["C", "g"], ["f", "d ", "h"]]
    out = capsys.readouterr().out
    assert out.startswith("texts more than once in train: 1, of these with several labels: 1\n")
    assert re.findall(r"left out: (\d)\n", out) == ["2", "1"]


@pytest.mark.parametrize("texts", [["a a", "b a"], ["\N{GRINNING FACE} \N{CAT}", "\N{CAT}"]])
def test_texts_without_words_have_features(texts: list[str]) -> None:
    features = lab_classifier.word_features(dict.fromkeys(SPLITS, texts))["test"]
    assert features.shape[0] == 2
    assert abs(features[0] - features[1]).sum() > 0


@pytest.mark.parametrize("labels", [
    [str(number) for number in range(6)],  # as many as the emotions
    ["$_$", "$10-$20", "a\\b^{_%s", "\N{CYRILLIC SMALL LETTER ZHE}" * 80],
    [f"label {number}" for number in range(31)],
], ids=["numbers", "symbols", "many"])  # fmt: skip
@pytest.mark.filterwarnings("error:constrained_layout")  # of labels that leave no room
def test_labels_of_a_file_are_printed_and_drawn(
    labels: list[str], tmp_path: Path, checkpoints: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    monkeypatch.setitem(matplotlib.rcParams, "text.parse_math", True)
    monkeypatch.setattr(lab_classifier, "QUICK_TEXTS", 40)  # all labels are drawn nevertheless
    rows = [(f"{WORDS[i % 9]} {i}", labels[i % len(labels)]) for i in range(200)]
    for name in SPLITS:
        texts = [(f"{name} {text}", label) for text, label in rows]
        pd.DataFrame(texts, columns=["text", "label"]).to_csv(tmp_path / f"{name}.csv", index=False)
    options = ["--data", str(tmp_path), "--model", str(checkpoints / task07.EXTRACTIVE_MODEL)]
    assert common.run(partial(lab_classifier.main, [*options, "--quick"])) == 0
    out, err = capsys.readouterr()
    report = out.partition("support\n\n")[2].partition("\n\n")[0].splitlines()
    assert {line[:-40].strip() for line in report} == set(labels)
    is_drawn = (common.RESULTS / f"lab_classifier_{tmp_path.name}.png").exists()
    assert is_drawn == (len(labels) <= 30) == ("no confusion matrix" not in err)


@pytest.mark.parametrize(("content", "problem"), [
    ("\n\ntext,label\n", "rows.csv: row 1 has no column names"),
    ("Text,Label\na,1\n", "rows.csv: row 1: no column label among Text, Label"),
    ("text,label\na,1\n ,2\n", "rows.csv: row 3: text is empty; every row needs one"),
    ("text,label\n" + "a,1\nb,2\n" * 20, "too few texts: none is left for train"),  # all leaks
    ("text,label\na,1\nb,2\n", "too few texts: none is left for validation and test"),
    ("text,label\na,1\nb,1\nc,1\nd,1\ne,1\n" + "f,1\n" * 9, "the training texts have 1 label"),
])  # fmt: skip
def test_wrong_table_is_one_line(tmp_path: Path, content: str, problem: str) -> None:
    (tmp_path / "rows.csv").write_text(content)
    with pytest.raises(common.ScriptError, match=problem):
        lab_classifier.main(["--dataset", str(tmp_path / "rows.csv"), "--model", "bundled"])


def test_features_are_fitted_on_the_training_texts_alone() -> None:
    texts = {"train": ["one two", "two three"], "validation": ["one"], "test": ["two four"]}
    first = lab_classifier.word_features(texts)
    for changed in ("validation", "test"):
        other = lab_classifier.word_features(texts | {changed: ["three four", "one five"]})
        for name in set(SPLITS) - {changed}:
            assert np.array_equal(first[name].toarray(), other[name].toarray())
    features = {"train": [[1, 5], [3, 5]], "validation": [[2, 6]], "test": [[5, 5]]}
    standard = lab_classifier.standardise({name: np.array(features[name]) for name in SPLITS})
    assert [standard[name].tolist() for name in SPLITS] == [[[-1, 0], [1, 0]], [[0, 1]], [[3, 0]]]


@pytest.mark.parametrize("fit", [fit_mlp, partial(fit_linear, lab_classifier.SVM)])
def test_weights_find_the_rare_label(fit: Any, monkeypatch: Patch) -> None:
    monkeypatch.setattr(lab_classifier, "MLP_EPOCHS", 30)
    generator, found = np.random.default_rng(0), []
    labels = (np.arange(1000) % 20 == 0).astype(int)
    inputs = (generator.standard_normal((1000, 2)) + labels[:, None]).astype(np.float32)
    for weighted in (False, True):
        common.seed_everything(0)
        predict = fit(inputs, labels, weighted, 0.3)
        assert np.array_equal(predict(inputs), predict(inputs))  # without dropout
        found.append(predict(inputs)[labels == 1].mean())
    assert found[0] < 0.4 < 0.6 < found[1]


def make_splits() -> dict[str, pd.DataFrame]:
    """Return splits of 60 texts each; in about half of the texts, a word is the label."""
    generator, splits = np.random.default_rng(0), {}
    for name in SPLITS:
        labels = generator.choice(["bad", "good", "good"], 60)
        words = np.where(generator.random(60) < 0.5, labels, generator.choice(WORDS, 60))
        texts = ",".join(f"{name}{i} {word}" for i, word in enumerate(words))
        splits[name] = text_table(texts, " ".join(labels))
    return splits


def test_a_run_prints_classifiers_with_settings_chosen_by_validation(
    tmp_path: Path, checkpoints: Path, trained: list[float], monkeypatch: Patch, capsys: Capture
) -> None:
    recorders = []
    for name in ("print_table", "draw_confusion"):
        recorders.append(Mock(wraps=getattr(lab_classifier, name)))
        monkeypatch.setattr(lab_classifier, name, recorders[-1])
    monkeypatch.setattr(lab_classifier, "QUICK_TEXTS", 59)
    splits, outputs = make_splits(), []
    labels = splits["test"]["label"].map({"good": "bad", "bad": "good"})
    texts = "new " + splits["test"]["text"][::-1]
    test = [{}, {}, {"label": labels}, {"text": texts.tolist()}]
    validation = {"label": splits["validation"]["label"][::-1].tolist(), "text": texts.tolist()}
    for number in range(6):
        changed = {"test": test[number]} if number < 4 else {"validation": validation}
        for name, rows in splits.items():
            rows.assign(**changed.get(name, {})).to_csv(tmp_path / f"{name}.csv", index=False)
        options = ["--data", str(tmp_path), "--model", str(checkpoints / task07.EXTRACTIVE_MODEL)]
        options += ["--seed=1"] * (number == 5)
        assert lab_classifier.main([*options, "--quick", "--finetune"]) == 0
        outputs.append(capsys.readouterr().out)
    tables, best = ([call.args[0] for call in each.call_args_list] for each in recorders)
    count = 3 * 2 * len(lab_classifier.DROPOUT) + 1  # MLPs, and the encoder
    # neither validation nor test texts train anything
    assert trained[:-count] == trained[:count] * 5
    assert len(set(trained)) == 2 * count  # features, weights, setting and seed matter
    right = recorders[0].call_args_list[0].args[1]["validation"]
    for row, group in zip(best[0], (["TF-IDF"], lab_classifier.POOLINGS, ["tuned"]), strict=True):
        rows = [each for each in tables[0] if each.features in group]
        accuracies = [accuracy_score(right, each.validation) for each in rows]
        assert accuracy_score(right, row.validation) == max(accuracies)
    for number in (2, 3):
        assert [row.classifier for row in best[number]] == [row.classifier for row in best[0]]
        for row, first in zip(tables[number], tables[0], strict=True):
            assert row.setting == first.setting
            assert np.array_equal(row.validation, first.validation)
            assert number == 3 or np.array_equal(row.test, first.test)  # of changed texts
    assert outputs[0] == outputs[1]  # the second time with cached features
    assert "\n59 train, 59 validation, 59 test texts\n" in outputs[0]
    rows = re.findall(r"^(.{53})(?: +\d\.\d{4}){3}$", outputs[0], re.MULTILINE)
    assert (len(rows), rows[0].split()) == (1 + 2 + 3 * 4 + 1, ["none", "always", "good"])
    assert re.search(r"^tuned, linear layer\n.*\n\n +bad( +[01]\.\d{4}){3}", outputs[0], re.M)


def test_setting_with_the_highest_validation_accuracy_is_chosen() -> None:
    def fit(inputs: Any, labels: np.ndarray, weighted: bool, setting: float) -> Any:
        return lambda rows: np.full(len(rows), setting)

    labels = {"train": np.zeros(3), "validation": np.ones(3), "test": np.full(3, 2)}
    for settings in ((0, 1, 2), (2, 1, 0)):
        assert lab_classifier.choose(fit, settings, labels, labels, False, 0)[0] == 1


def test_finetuning_is_on_the_label_of_each_text(checkpoints: Path, monkeypatch: Patch) -> None:
    train, (model, tokenizer) = Mock(), load_pair(checkpoints / task07.EXTRACTIVE_MODEL, AutoModel)
    monkeypatch.setattr(lab_common, "train", train)
    texts, labels = dict.fromkeys(SPLITS, WORDS[:4]), dict.fromkeys(SPLITS, np.array([0, 2, 1, 0]))
    lab_classifier.finetune(model, tokenizer, texts, labels, 0, 1)
    (_, head), batch_loss = train.call_args.args[:2]
    ids = lab_common.tokenize(tokenizer, WORDS[:4])
    features = lab_common.compute_features(model, ids, lab_classifier.POOLINGS)["mean"]
    logits = head(torch.from_numpy(features))  # (texts, labels)
    for batch in ([3, 1], [2, 0, 1]):
        expected = F.cross_entropy(logits[batch], torch.tensor(labels["train"][batch])).item()
        assert batch_loss(batch).item() == pytest.approx(expected, abs=1e-4)
