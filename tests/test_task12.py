"""Task 12: the translations and their BLEU."""

import json
import math
from pathlib import Path

import pytest

import task12
from conftest import EXPECTED, Run, load_pair, only_line

TRANSLATIONS = ["Hey, how are you?", "I'm great, thanks."]  # those of the statement


def test_output_without_a_network(run: Run) -> None:
    code, out, err = run("task12")
    assert (code, out) == (0, (EXPECTED / "task12.txt").read_text(encoding="utf-8"))
    only_line(err, "The bundled ")


def test_translations_of_the_statement_have_the_expected_bleu(
    run: Run, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    translations = dict(zip(task12.INPUT_SENTENCES_2, TRANSLATIONS, strict=True))
    monkeypatch.setattr(task12, "translate", lambda _, __, sentence: translations[sentence])
    assert run("task12", "--model", checkpoints / task12.MODEL)[1].splitlines() == [
        'Translation for "input_sentence_1": Hey, how are you?',
        'Metric for "input_sentence_1": 0.7598356856515925',
        f'Translations for "input_sentence_2": {TRANSLATIONS}',
        'Metric for "input_sentence_2": 0.8627788640890415',
    ]


def test_translations_equal_those_of_the_pipeline_of_transformers_4(checkpoints: Path) -> None:
    pair = load_pair(checkpoints / task12.MODEL)
    recorded = json.loads((EXPECTED / "pipelines.json").read_text(encoding="utf-8"))
    found = [task12.translate(*pair, sentence) for sentence in task12.INPUT_SENTENCES_2]
    assert found == recorded["english"]


def test_short_prediction_is_penalised() -> None:
    """All of its n-grams are right, and it has 4 words instead of 6 (Papineni et al. 2002)."""
    result = task12.bleu(["the cat sat on"], [["the cat sat on the mat"]])
    assert result["brevity_penalty"] == pytest.approx(math.exp(1 - 6 / 4))
    assert result["bleu"] == pytest.approx(math.exp(1 - 6 / 4))
