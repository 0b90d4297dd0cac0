"""Task 06: the translation, its beam search and its limits."""

from pathlib import Path

import task06
from conftest import EXPECTED, PIPELINES, Run, load_pair, only_line


def test_output_without_a_network(run: Run) -> None:
    code, out, err = run("task06")
    assert (code, out) == (0, (EXPECTED / "task06.txt").read_text(encoding="utf-8"))
    only_line(err, "The bundled ")


def test_translation_equals_that_of_the_pipeline(checkpoints: Path) -> None:
    marian = load_pair(checkpoints / task06.MODEL)
    recorded = PIPELINES["bulgarian"]
    assert task06.translate(*marian, task06.SPANISH_TEXT) == recorded


def test_translation_without_end_stops_at_the_last_position(checkpoints: Path) -> None:
    model, tokenizer = load_pair(checkpoints / task06.MODEL)
    model.generation_config.max_length = 512  # as of a real checkpoint; this one has 128 positions
    translation = task06.translate(model, tokenizer, "Hola")
    model.generation_config.max_length = 128
    assert task06.translate(model, tokenizer, "Hola") == translation
    model.generation_config.max_length = 127
    assert task06.translate(model, tokenizer, "Hola") != translation
