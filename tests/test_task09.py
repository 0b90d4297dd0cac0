"""Task 09: the new head, the training, the saved model and its predictions."""

from __future__ import annotations

import json
import re
from pathlib import Path
from shutil import copytree
from unittest.mock import patch

import common
import pretrained
import task08
import task09

import pytest
import torch
from conftest import EXPECTED, ModelAndTokenizer, load_pair, only_line
from safetensors import SafetensorError
from transformers import AutoModelForSequenceClassification, AutoTokenizer


@pytest.fixture
def classifier(checkpoints: Path) -> Path:
    return checkpoints / task09.MODEL  # with the head of another task


@pytest.fixture
def pair(classifier: Path) -> ModelAndTokenizer:
    model = task09.add_head(AutoModelForSequenceClassification, classifier, task09.LABELS)
    return model, pretrained.load(AutoTokenizer, classifier)


def test_long_texts_are_read_to_the_models_limit_and_a_note_says_so(
    pair: ModelAndTokenizer, capsys: pytest.CaptureFixture
) -> None:
    model, tokenizer = pair[0].eval(), pair[1]
    texts = ["the tower " * 20, "the tower " * 20 + "is bad", "the tower " * 300]
    first, second, _ = task09.predict(model, tokenizer, texts[:2] + texts[:1]).tolist()
    assert first != second  # after 20 tokens, the length in task 08
    assert capsys.readouterr().err == ""
    task09.predict(model, tokenizer, texts)
    only_line(capsys.readouterr().err, "the model reads 512 tokens of a text; the rest is cut off")


def test_probability_that_is_no_number_is_an_error(pair: ModelAndTokenizer) -> None:
    torch.nn.init.constant_(pair[0].classifier.bias, torch.nan)
    with pytest.raises(common.ScriptError, match="an output of this model is nan, not a finite"):
        task09.predict(*pair, task09.INPUT_TEXT)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_head_is_new_and_encoder_is_unchanged(classifier: Path, pair: ModelAndTokenizer) -> None:
    source = pretrained.load(AutoModelForSequenceClassification, classifier)
    for name, weight in source.named_parameters():
        if weight.dim() > 1:  # the biases of both heads are zero
            is_equal = torch.equal(weight, pair[0].get_parameter(name))
            assert is_equal == name.startswith("distilbert."), name
    assert pair[0].config.id2label == {0: "low risk", 1: "high risk"}


def test_the_loss_is_not_that_of_the_old_head(classifier: Path, tmp_path: Path) -> None:
    folder = copytree(classifier, tmp_path / "copy")
    settings = json.loads((folder / "config.json").read_text())
    settings["problem_type"] = "multi_label_classification"
    (folder / "config.json").write_text(json.dumps(settings))
    model = task09.add_head(AutoModelForSequenceClassification, folder, task09.LABELS)
    assert model(torch.tensor([[5, 6]]), labels=torch.tensor([1])).loss > 0


def test_model_trains_in_train_mode_and_predicts_in_eval_mode(pair: ModelAndTokenizer) -> None:
    modes = []
    pair[0].register_forward_pre_hook(lambda module, _: modes.append(module.training))
    task09.train(*pair, seed=0)
    task09.predict(*pair, task09.INPUT_TEXT)
    assert modes == [True] * task09.EPOCHS + [False]


def test_weights_depend_on_the_seed_but_not_on_test_texts(classifier: Path, tmp_path: Path) -> None:
    def train(seed: int) -> bytes:
        options = ["--model", str(classifier), "--out-dir", str(tmp_path / "saved")]
        assert task09.main([*options, "--seed", str(seed)]) == 0
        return (tmp_path / "saved" / "model.safetensors").read_bytes()

    expected = train(1)
    assert train(2) != expected
    with patch.object(task08, "TEST_DATA", {"text": ["Good.", "Bad."], "label": [0, 1]}):
        assert train(1) == expected


def test_saved_model_is_equal_and_survives_errors(pair: ModelAndTokenizer, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    pair[0].eval()
    task09.save(*pair, folder)
    loaded = load_pair(folder, AutoModelForSequenceClassification)
    assert torch.equal(*(task09.predict(*each, task09.INPUT_TEXT) for each in (pair, loaded)))
    before, full = contents(folder), SafetensorError("No space left on device")
    with (
        patch.object(pair[1], "save_pretrained", side_effect=full),  # after the model
        pytest.raises(common.ScriptError, match=r"saved: not saved \(No space left on device"),
    ):
        task09.save(*pair, folder)
    assert list(tmp_path.iterdir()) == [folder]  # no temporary folder
    assert contents(folder) == before


def test_force_replaces_other_folders_but_never_files(classifier: Path, tmp_path: Path) -> None:
    folder, file = copytree(classifier, tmp_path / "other"), tmp_path / "thesis"
    options = ["--model", str(classifier), "--out-dir", str(folder)]
    with pytest.raises(
        common.ScriptError, match="not a model of this script; name another --out-dir"
    ):
        task09.main(options)
    with pytest.raises(common.ScriptError, match="no saved model; run the script without"):
        task09.main([*options, "--predict", "hello"])
    assert contents(folder) == contents(classifier)
    assert task09.main([*options, "--force"]) == 0
    assert task09.main(options) == 0  # a model of this script
    file.write_text("years of work")
    with pytest.raises(common.ScriptError, match="is a file; choose another folder"):
        task09.main(["--force", "--out-dir", str(file)])
    assert file.read_text() == "years of work"


def test_output_equals_the_recorded_one(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = ["--out-dir", str(tmp_path / "saved")]
    assert task09.main(["--model", "bundled", *folder]) == 0
    output, expected = capsys.readouterr().out, (EXPECTED / "task09.txt").read_text()
    number = r"\d\.\d{3}"  # its last digit may differ on another processor
    assert re.sub(number, "", output) == re.sub(number, "", expected)
    found, recorded = ([float(x) for x in re.findall(number, each)] for each in (output, expected))
    assert found == pytest.approx(recorded, abs=0.0015)
    assert task09.main([*folder, "--predict", *task09.INPUT_TEXT]) == 0
    assert capsys.readouterr().out.splitlines() == output.splitlines()[-3:]
