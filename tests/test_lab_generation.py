"""lab_generation.py: ways of decoding, and measures of the texts."""

import math
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from scipy.stats import entropy

import common
import lab_generation
from conftest import Run, load_pair, only_line
from lab_generation import MODEL, PROMPT, SETTINGS, distinct_2, longest_repeat, measure


@pytest.fixture(autouse=True)
def short_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab_generation, "NEW_TOKENS", 12)  # the tiny model has 64 positions


def test_distinct_2_and_longest_repeat_by_hand() -> None:
    assert (distinct_2([1, 2, 1, 2, 1]), distinct_2([1, 2, 3])) == (2 / 4, 1)
    for tokens, length in (([1, 2], 0), ([1, 1], 1), ([1, 2, 9, 1, 2], 2), ([5, 5, 5, 5], 3)):
        assert longest_repeat(tokens) == length


def test_loss_and_entropy_equal_those_of_transformers_and_scipy(checkpoints: Path) -> None:
    model, tokenizer = load_pair(checkpoints / MODEL)
    inputs, start = tokenizer("Who knows if God exists, but for sure", return_tensors="pt"), 3
    labels = inputs["input_ids"].clone()  # (1, time)
    labels[0, :start] = -100  # the prompt does not count
    with torch.inference_mode():
        output = model(**inputs, labels=labels)
    probabilities = output.logits[0, start - 1 : -1].softmax(-1).numpy()  # (new, vocabulary)
    found = measure(model, inputs["input_ids"][0], start)
    assert found["loss"] == pytest.approx(output.loss.item(), rel=1e-4)
    assert found["entropy"] == pytest.approx(entropy(probabilities, axis=1).mean(), rel=1e-4)


def test_the_prompt_is_not_measured(checkpoints: Path) -> None:
    model, _ = load_pair(checkpoints / MODEL)
    found = measure(model, torch.tensor([1, 2, 3, 1, 2, 3, 4, 5, 6]), 6)
    assert (found["distinct-2"], found["longest repeat"]) == (1, 0)


def test_perplexity_comes_from_the_mean_loss_and_large_ones_are_short(
    capsys: pytest.CaptureFixture,
) -> None:
    means = pd.DataFrame({"loss": [2.0, 11.0]}, index=["low", "high"])
    lab_generation.print_table(means, means * 0)
    output = capsys.readouterr().out
    assert only_line(output, "low").split()[-1] == f"{math.e**2:.3g}" == "7.39"
    assert only_line(output, "high").split()[-1] == "5.99e+04"


@pytest.fixture
def generate(checkpoints: Path) -> Callable[..., list[list[int]]]:
    """Return a function that generates eight texts, or one greedy text."""
    model, tokenizer = load_pair(checkpoints / MODEL)
    inputs = tokenizer(PROMPT, return_tensors="pt")

    def generate(name: str, seed: int = 0) -> list[list[int]]:
        common.seed_everything(seed)
        return lab_generation.generate(model, inputs, SETTINGS[name], 8).tolist()

    return generate


def test_each_setting_and_each_seed_samples_other_texts(
    generate: Callable[..., list[list[int]]],
) -> None:
    names = ["temperature 0.3", "temperature 1.0", "temperature 2.0", "top-k 50", "top-p 0.9"]
    texts = [generate(name) for name in names]
    assert generate("temperature 1.0", seed=1) not in texts
    assert all(texts.count(rows) == 1 for rows in texts)
    assert generate("temperature 1.0") == texts[1]


def test_texts_are_equally_long(generate: Callable[..., list[list[int]]]) -> None:
    lengths = {len(tokens) for name in SETTINGS for tokens in generate(name)}
    assert lengths == {len(generate("greedy")[0])}


@pytest.mark.parametrize(("options", "count"), [(["--quick"], 2), ([], 20)])
def test_run_prints_a_text_and_the_mean_measures_of_each_setting(
    options: list[str], count: int, checkpoints: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []

    def number_the_texts(*rest: object) -> dict[str, float]:
        measured.append(rest)
        return measure(*rest) | {"entropy": len(measured)}

    monkeypatch.setattr(lab_generation, "measure", number_the_texts)
    code, output, error = run("lab_generation", "--model", checkpoints / MODEL, *options)
    assert code == 0
    assert len(measured) == 1 + count * (len(SETTINGS) - 1)
    row = only_line(output, "temperature 0.3  ")  # the texts 2 to count + 1
    deviation = pd.Series(range(count)).std()
    assert f"{2 + (count - 1) / 2:.2f} ± {deviation:.2f}" in row
    assert output.count(f":\n{PROMPT}") == len(SETTINGS)
    only_line(error, "so the loss, ")
    assert (common.RESULTS / "lab_generation.png").read_bytes().startswith(b"\x89PNG")


def test_own_text_is_continued(checkpoints: Path, run: Run) -> None:
    _, output, _ = run("lab_generation", "My text", "--quick", "--model", checkpoints / MODEL)
    assert output.count(":\nMy text") == len(SETTINGS)
