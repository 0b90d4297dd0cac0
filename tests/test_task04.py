"""Task 04: the summary, and the checkpoint's own settings for summaries."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import patch

import task04

from conftest import EXPECTED, load_pair


def test_settings_are_the_checkpoints_but_for_the_limit(checkpoints: Path) -> None:
    recorded = json.loads((EXPECTED / "pipelines.json").read_text("utf-8"))["summary"]
    pair = load_pair(checkpoints / task04.MODEL)
    settings = pair[0].config.task_specific_params["summarization"]
    for limit in (settings["max_length"], 10):
        settings["max_length"] = limit
        assert task04.summarise(*pair, task04.LONG_TEXT) == recorded
    with patch.object(task04, "MAX_LENGTH", 35):
        assert len(task04.summarise(*pair, task04.LONG_TEXT)) < len(recorded)
    settings["max_new_tokens"] = 5  # does not beat the task's limit
    assert task04.summarise(*pair, task04.LONG_TEXT) == recorded
    settings["prefix"] = "in Bulgarian: "
    with_prefix = task04.summarise(*pair, task04.LONG_TEXT)
    del settings["prefix"]
    assert task04.summarise(*pair, "in Bulgarian: " + task04.LONG_TEXT) == with_prefix
    assert task04.summarise(*pair, task04.LONG_TEXT) != with_prefix
