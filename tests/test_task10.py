"""Task 10: the prompt with two examples, and the probabilities of the labels."""

import math
import re
from pathlib import Path

import pytest
import torch

import task10
from conftest import EXPECTED, Run, load_pair, only_line

DECODER = "openai-community/gpt2"


def test_output_without_a_network(run: Run) -> None:
    code, out, err = run("task10")
    assert (code, out) == (0, (EXPECTED / "task10.txt").read_text(encoding="utf-8"))
    only_line(err, "The bundled ")
    assert f"Prompt:\n{task10.build_prompt(task10.TEXT, task10.EXAMPLES)}\n" in err


def test_prompt_has_one_solved_example_for_each_label_before_the_text() -> None:
    assert sorted(label for _, label in task10.EXAMPLES) == sorted(task10.LABELS)
    question = "Classify the sentiment of this sentence as either positive or negative.\nText: "
    (first, positive), (second, negative) = task10.EXAMPLES
    assert task10.build_prompt(task10.TEXT, task10.EXAMPLES) == (
        f'{question}"{first}"\nSentiment: {positive}\n\n'
        f'{question}"{second}"\nSentiment: {negative}\n\n'
        f'{question}"{task10.TEXT}"\nSentiment:'  # without its answer
    )


@pytest.mark.parametrize("name", [DECODER, task10.MODEL])
def test_probabilities_are_those_of_the_tokens_of_the_labels(name: str, checkpoints: Path) -> None:
    model, tokenizer = load_pair(checkpoints / name)
    inputs = tokenizer("Is it?", return_tensors="pt")
    has_encoder = model.config.is_encoder_decoder
    likelihoods = {}
    for label in task10.LABELS:
        tokens = torch.tensor([[0]]) if has_encoder else inputs["input_ids"]
        likelihoods[label] = 1.0
        for token in tokenizer(label if has_encoder else f" {label}")["input_ids"]:
            with torch.inference_mode():
                output = model(**inputs, decoder_input_ids=tokens) if has_encoder else model(tokens)
            likelihoods[label] *= output.logits[0, -1].softmax(0)[token].item()
            tokens = torch.cat([tokens, torch.tensor([[token]])], dim=1)
    for label, likelihood in likelihoods.items():
        found = task10.log_likelihood(model, tokenizer, "Is it?", label)
        assert found == pytest.approx(math.log(likelihood), rel=1e-5)
    expected = {key: value / sum(likelihoods.values()) for key, value in likelihoods.items()}
    assert task10.classify(model, tokenizer, "Is it?") == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("positive", [0.4, 0.6])
def test_more_probable_label_after_both_examples_is_printed(
    run: Run, checkpoints: Path, monkeypatch: pytest.MonkeyPatch, positive: float
) -> None:
    two_shot = task10.build_prompt("My text", task10.EXAMPLES)

    def classify(_model: object, _tokenizer: object, prompt: str) -> dict[str, float]:
        p = positive if prompt == two_shot else 1 - positive
        return {"positive": p, "negative": 1 - p}

    monkeypatch.setattr(task10, "classify", classify)
    code, out, err = run("task10", "--model", checkpoints / task10.MODEL, "My text")
    assert (code, out) == (0, "POSITIVE\n" if positive > 0.5 else "NEGATIVE\n")
    found = [float(p) for p in re.findall(r"positive with.*: (.*)", err)]
    assert found == pytest.approx([positive, 1 - positive, 1 - positive])
