"""lab_generation.py: ways of decoding, and measures of the texts."""

import math
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


def test_measures_are_those_of_the_text_after_the_prompt(checkpoints: Path) -> None:
    model, _ = load_pair(checkpoints / MODEL)
    tokens, start = torch.tensor([1, 2, 3, 1, 2, 3, 4, 5, 6]), 6
    labels = tokens.clone()  # (time,)
    labels[:start] = -100
    with torch.inference_mode():
        output = model(tokens[None], labels=labels[None])
    probabilities = output.logits[0, start - 1 : -1].softmax(-1).numpy()  # (new, vocabulary)
    expected = (1, 0, output.loss.item(), entropy(probabilities, axis=1).mean())
    assert (*measure(model, tokens, start).values(),) == pytest.approx(expected, rel=1e-4)


def test_perplexity_comes_from_the_mean_loss(capsys: pytest.CaptureFixture) -> None:
    means = pd.DataFrame({"loss": [2.0]}, index=["greedy"])
    lab_generation.print_table(means, means * 0)
    assert capsys.readouterr().out.split()[-1] == f"{math.e**2:.3g}"


def test_each_setting_and_each_seed_samples_other_texts_of_equal_length(checkpoints: Path) -> None:
    model, tokenizer = load_pair(checkpoints / MODEL)
    inputs = tokenizer(PROMPT, return_tensors="pt")

    def generate(name: str, seed: int = 0) -> str:
        common.seed_everything(seed)
        tokens = lab_generation.generate(model, inputs, SETTINGS[name], 8)  # (texts, time)
        assert tokens.shape == (1 if name == "greedy" else 8, inputs["input_ids"].shape[1] + 12)
        return str(tokens.tolist())

    texts = [generate(name) for name in SETTINGS]
    assert len({*texts, generate("temperature 1.0", seed=1)}) == len(SETTINGS) + 1
    assert [generate(name) for name in SETTINGS] == texts


@pytest.mark.parametrize(("options", "count"), [(["--quick"], 2), ([], 20)])
def test_run_prints_a_text_and_the_mean_measures_of_each_setting(
    options: list[str], count: int, checkpoints: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = iter(range(1000))  # of the measured texts
    monkeypatch.setattr(
        lab_generation, "measure", lambda *_: dict.fromkeys(lab_generation.MEASURES, next(numbers))
    )
    code, output, _ = run("lab_generation", "My text", "--model", checkpoints / MODEL, *options)
    assert code == 0
    assert next(numbers) == 1 + count * (len(SETTINGS) - 1)
    row = only_line(output, "temperature 0.3  ")  # the texts 1 to count
    assert f"{(count + 1) / 2:.2f} ± {pd.Series(range(count)).std():.2f}" in row
    assert output.count(":\nMy text") == len(SETTINGS)
    assert (common.RESULTS / "lab_generation.png").exists()


def test_only_top_k_and_top_p_leave_out_tokens(checkpoints: Path) -> None:
    model, tokenizer = load_pair(checkpoints / MODEL)
    inputs = tokenizer(PROMPT, return_tensors="pt")
    options = {"output_scores": True, "return_dict_in_generate": True}
    kept = {}
    for name in ("temperature 1.0", "top-k 50", "top-p 0.9"):
        output = lab_generation.generate(model, inputs, SETTINGS[name] | options, 1)
        kept[name] = output.scores[0].isfinite().sum().item()  # of the first new token
    with torch.inference_mode():
        logits = model(**inputs).logits[0, -1]  # (vocabulary,)
        logits[tokenizer.eos_token_id] = -torch.inf  # no text ends early
    nucleus = 1 + (logits.softmax(0).sort(descending=True)[0].cumsum(0) < 0.9).sum().item()
    assert nucleus > 50  # otherwise a top-k of 50, the default of transformers, changes nothing
    assert kept == {"temperature 1.0": len(logits) - 1, "top-k 50": 50, "top-p 0.9": nucleus}
