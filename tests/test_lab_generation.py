"""lab_generation.py: ways of decoding, and measures of the text."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import mean

import common
import lab_generation
import pretrained
from lab_generation import MODEL, PROMPT, SETTINGS, distinct_2, longest_repeat, measure

import pytest
import torch
from conftest import load_pair

Capture, Patch = pytest.CaptureFixture, pytest.MonkeyPatch


@pytest.fixture(autouse=True)
def short_texts(monkeypatch: Patch) -> None:
    monkeypatch.setattr(lab_generation, "MAX_NEW_TOKENS", 12)  # the tiny model has 64 positions


def test_measures_by_hand() -> None:
    assert (distinct_2([1, 2, 1, 2, 1]), distinct_2([1, 2, 3])) == (2 / 4, 1)
    for tokens, length in (([1, 2], 0), ([1, 1], 1), ([1, 2, 9, 1, 2], 2), ([5, 5, 5, 5], 3)):
        assert longest_repeat(tokens) == length


def test_settings_and_seeds_have_an_effect_and_greedy_is_greedy(checkpoints: Path) -> None:
    model, tokenizer = load_pair(checkpoints / MODEL)
    pretrained.clear_generation_settings(model)

    def generate(name: str, seed: int = 0) -> list[int]:
        common.seed_everything(seed)
        return lab_generation.generate(model, tokenizer, SETTINGS[name])[0].tolist()

    texts = [generate(name) for name in ("temperature 0.3", "temperature 1.0", "top-k 50")]
    texts += [generate("top-p 0.9"), generate("temperature 1.0", 1), greedy := generate("greedy")]
    assert len(set(map(tuple, texts))) == 6
    assert generate("temperature 1.0") == texts[1]
    with torch.inference_mode():
        logits = model(torch.tensor([greedy])).logits[0]  # (time, vocabulary)
    assert logits.argmax(-1).tolist()[-13:-1] == greedy[-12:]
    repeat = measure(model, torch.tensor([1, 2, 3, 1, 2, 3, 4, 5]), 6)["longest repeat"]
    assert repeat == 0  # the prompt does not count


@pytest.mark.parametrize("seeds", [[3], [3, 4, 5, 6, 7]])
def test_a_run_prints_the_mean_measures_of_texts_from_these_seeds(
    seeds: list[int], checkpoints: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    monkeypatch.setattr(
        lab_generation, "measure", lambda *rest: measure(*rest) | {"entropy": torch.initial_seed()}
    )
    options = ["--model", str(checkpoints / MODEL), "--seed=3", "--quick"]
    assert lab_generation.main(options if len(seeds) == 1 else options[:-1]) == 0
    out = capsys.readouterr().out
    for name in SETTINGS:
        assert f"{name}:\n{PROMPT}" in out
        seed = 3 if name == "greedy" else mean(seeds)  # printed instead of the entropy
        row = rf"^{name} +[01]\.\d\d +\d+\.\d\d +\d+\.\d\d +{seed}\.00$"
        assert re.search(row, out, re.MULTILINE)
    assert (common.RESULTS / "lab_generation.png").read_bytes().startswith(b"\x89PNG")
