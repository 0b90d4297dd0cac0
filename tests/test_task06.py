"""Task 06: the translation, and its limit."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import patch

import common
import task06

import pytest
from conftest import EXPECTED, load_pair


@patch.object(task06, "MAX_LENGTH", 20)
def test_translation_equals_the_record_and_checkpoints_limit_wins(checkpoints: Path) -> None:
    recorded = json.loads((EXPECTED / "pipelines.json").read_text("utf-8"))["bulgarian"]
    pair = load_pair(checkpoints / task06.MODEL)
    assert task06.translate(*pair, task06.SPANISH_TEXT) == recorded
    pair[0].generation_config.max_length = None
    assert len(task06.translate(*pair, task06.SPANISH_TEXT)) < len(recorded)
    pair[1].src_lang = "spa_Latn"  # as in the tokenizers of NLLB and mBART
    with pytest.raises(common.ScriptError, match="needs the names of two languages"):
        task06.translate(*pair, task06.SPANISH_TEXT)
