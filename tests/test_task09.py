"""Task 09: the new head, the training, the saved model and its predictions."""

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import common
import task08
import task09
from conftest import EXPECTED, ModelAndTokenizer, Run, load_pair, only_line


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of the saved model, which does not exist yet."""
    monkeypatch.setattr(task09, "FOLDER", tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture
def classifier(checkpoints: Path) -> Path:
    """Return a tiny classifier with the head of another task."""
    return checkpoints / task09.MODEL


@pytest.fixture
def make_pair(classifier: Path) -> Callable[[], ModelAndTokenizer]:
    """Return a function that makes the same untrained model, with its tokenizer, each time."""

    def make() -> ModelAndTokenizer:
        common.seed_everything(0)
        model = common.add_head(AutoModelForSequenceClassification, classifier, task09.LABELS)
        return model, common.load(AutoTokenizer, classifier)

    return make


def fail(*_: object) -> None:
    raise AssertionError("the training has started")


def test_output_without_a_network_equals_the_recorded_one(run: Run) -> None:
    code, output, err = run("task09")
    assert "The bundled sentiment encoder replaces it" in err
    expected = (EXPECTED / "task09.txt").read_text(encoding="utf-8")
    number = r"\d\.\d{3}"  # its last digits may differ on another processor
    assert code == 0
    assert re.sub(number, "", output) == re.sub(number, "", expected)
    found, recorded = ([float(x) for x in re.findall(number, text)] for text in (output, expected))
    assert found == pytest.approx(recorded, abs=0.02)
    _, predictions, _ = run("task09", "--predict", *task09.INPUT_TEXT)
    assert predictions.splitlines() == output.splitlines()[-3:]


def test_test_rows_are_only_evaluated(
    make_pair: Callable[[], ModelAndTokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = make_pair()
    training = task09.fine_tune(model, tokenizer, 0)["Training"]
    text = task08.TEST_DATA["text"]
    predicted = task09.predict(model, tokenizer, text).argmax(-1)  # (rows,)
    for accuracy, labels in ((1.0, predicted), (0.0, 1 - predicted)):
        rows = {"text": text, "label": labels.tolist()}
        monkeypatch.setattr(task08, "TEST_DATA", rows)
        other_model, tokenizer = make_pair()
        accuracies = task09.fine_tune(other_model, tokenizer, 0)
        assert accuracies == {"Training": training, "Test": accuracy}
        for name, weight in model.state_dict().items():
            assert torch.equal(weight, other_model.state_dict()[name]), name


def test_training_changes_head_and_encoder_and_depends_on_the_seed(
    make_pair: Callable[[], ModelAndTokenizer],
) -> None:
    (before, tokenizer), (first, _), (second, _) = (make_pair() for _ in range(3))
    task09.fine_tune(first, tokenizer, 0)
    task09.fine_tune(second, tokenizer, 1)  # another dropout
    for name in ("classifier.weight", "distilbert.transformer.layer.0.ffn.lin1.weight"):
        weights = [model.get_parameter(name) for model in (before, first, second)]
        assert not torch.equal(weights[0], weights[1])
        assert not torch.equal(weights[1], weights[2])


def test_probabilities_equal_those_of_single_texts_by_hand(classifier: Path) -> None:
    model, tokenizer = load_pair(classifier, AutoModelForSequenceClassification)
    found = task09.predict(model.train(), tokenizer, task09.INPUT_TEXT)  # without its dropout
    for text, probabilities in zip(task09.INPUT_TEXT, found.tolist(), strict=True):
        with torch.inference_mode():
            logits = model(**tokenizer(text, return_tensors="pt")).logits[0].tolist()
        weights = [math.exp(logit) for logit in logits]
        assert probabilities == pytest.approx([weight / sum(weights) for weight in weights])


def test_long_texts_are_read_to_the_models_limit_with_a_note(
    make_pair: Callable[[], ModelAndTokenizer], capsys: pytest.CaptureFixture
) -> None:
    texts = ["the tower " * 20, "the tower " * 20 + "is bad"]
    first, second = task09.predict(*make_pair(), texts).tolist()
    assert first != second  # after 20 tokens, the length in task 08
    assert capsys.readouterr().err == ""
    task09.predict(*make_pair(), ["the tower " * 300])
    only_line(capsys.readouterr().err, "the model reads 512 tokens of a text; the rest is cut off")


def test_predict_without_a_saved_model_is_one_line(run: Run) -> None:
    code, output, error = run("task09", "--predict", "Thanks!")
    assert (code, output) == (1, "")
    only_line(error, "saved: no saved model; run the script without --predict")


def test_file_in_place_of_the_folder_ends_the_script_before_the_training(
    run: Run, classifier: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task09, "fine_tune", fail)
    folder.write_text("years of work", encoding="utf-8")
    assert run("task09", "--model", classifier)[:2] == (1, "")
    assert folder.read_text(encoding="utf-8") == "years of work"
