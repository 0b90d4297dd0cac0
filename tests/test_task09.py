"""Task 09: the new head, the training, the saved model and its predictions."""

import os
import re
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import common
import task08
import task09
from conftest import EXPECTED, ModelAndTokenizer, Run, load_pair, only_line


@pytest.fixture
def classifier(checkpoints: Path) -> Path:
    """Return a tiny classifier with the head of another task."""
    return checkpoints / task09.MODEL


def make_pair(classifier: Path) -> ModelAndTokenizer:
    """Return the same untrained model each time, and its tokenizer."""
    common.seed_everything(0)
    model = common.add_head(AutoModelForSequenceClassification, classifier, task09.LABELS)
    return model, common.load(AutoTokenizer, classifier)


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


def test_test_rows_are_only_evaluated(classifier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = make_pair(classifier)
    training = task09.fine_tune(model, tokenizer, 0)["Training"]
    text = task08.TEST_DATA["text"]
    predicted = task09.predict(model, tokenizer, text).argmax(-1)  # (rows,)
    for accuracy, labels in ((1.0, predicted), (0.0, 1 - predicted)):
        rows = {"text": text, "label": labels.tolist()}
        monkeypatch.setattr(task08, "TEST_DATA", rows)
        other_model, tokenizer = make_pair(classifier)
        accuracies = task09.fine_tune(other_model, tokenizer, 0)
        assert accuracies == {"Training": training, "Test": accuracy}
        for name, weight in model.state_dict().items():
            assert torch.equal(weight, other_model.state_dict()[name]), name


def test_long_texts_are_read_to_the_models_limit_with_a_note(
    classifier: Path, capsys: pytest.CaptureFixture
) -> None:
    model, tokenizer = load_pair(classifier, AutoModelForSequenceClassification)
    texts = ["the tower " * 20, "the tower " * 20 + "is bad"]
    first, second = task09.predict(model, tokenizer, texts).tolist()
    assert first != second  # after 20 tokens, the length in task 08
    assert capsys.readouterr().err == ""
    task09.predict(model, tokenizer, ["the tower " * 300])
    only_line(capsys.readouterr().err, "the model reads 512 tokens of a text; the rest is cut off")


@pytest.mark.parametrize("name", ["WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE"])
def test_training_does_not_wait_for_the_processes_of_a_launcher(
    classifier: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(torch.distributed, "init_process_group", Mock(side_effect=AssertionError))
    monkeypatch.setenv(name, "2")
    task09.fine_tune(*make_pair(classifier), 0)
    assert name not in os.environ


def test_predict_without_a_saved_model_is_one_line(run: Run) -> None:
    code, output, error = run("task09", "--predict", "Thanks!")
    assert (code, output) == (1, "")
    only_line(error, "saved: no saved model; run the script without --predict")


def test_file_in_place_of_the_folder_is_kept(
    run: Run, classifier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task09, "fine_tune", Mock(return_value={"Training": 1.0, "Test": 1.0}))
    task09.FOLDER.write_text("years of work", encoding="utf-8")
    code, _, err = run("task09", "--model", classifier)
    assert code == 1
    only_line(err, f"{task09.FOLDER}: not saved (")
    assert task09.FOLDER.read_text(encoding="utf-8") == "years of work"


def test_seed_decides_the_new_head(
    run: Run, classifier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fine_tune(model: Any, *_: Any) -> dict[str, float]:
        heads.append(model.classifier.weight.sum().item())
        return {"Training": 1.0, "Test": 1.0}

    heads: list[float] = []
    monkeypatch.setattr(task09, "fine_tune", fine_tune)
    for seed in (1, 1, 2):
        run("task09", "--model", classifier, "--seed", seed)
    assert heads[0] == heads[1] != heads[2]
