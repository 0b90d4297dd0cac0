"""Task 12: BLEU of the translations."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import task12

import pytest

TRANSLATIONS = ["Hey, how are you?", "I'm great, thanks."]


def test_output_is_the_statements(checkpoints: Path, capsys: pytest.CaptureFixture) -> None:
    translations = dict(zip(task12.INPUT_SENTENCES_2, TRANSLATIONS, strict=True))
    with patch.object(task12, "translate", lambda _, __, text: translations[text]):
        assert task12.main(["--model", str(checkpoints / task12.MODEL)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        'Translation for "input_sentence_1": Hey, how are you?',
        'Metric for "input_sentence_1": 0.7598356856515925',
        f'Translations for "input_sentence_2": {TRANSLATIONS}',
        'Metric for "input_sentence_2": 0.8627788640890415',
    ]
    assert task12.bleu(TRANSLATIONS, task12.REFERENCES_2[::-1])["bleu"] == 0.0  # swapped
