"""Task 10: the prompt with two examples, and the probabilities of the labels."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import task10
import task11

import pytest
import torch
from conftest import load_pair


def test_prompt_has_one_solved_example_for_each_label_before_the_text() -> None:
    assert sorted(label for _, label in task10.EXAMPLES) == sorted(task10.LABELS)
    texts = [*(text for text, _ in task10.EXAMPLES), task10.TEXT]
    first, second, last = (f'Text: "{text}"\nSentiment:' for text in texts)
    prompt = task10.build_prompt(task10.TEXT, task10.EXAMPLES)
    blocks = [task10.INSTRUCTION, f"{first} positive", f"{second} negative", last]
    assert prompt == "\n\n".join(blocks)  # the last without its answer


@pytest.mark.parametrize("name", [task11.MODEL, task10.MODEL])
def test_log_likelihood_is_the_product_of_token_probabilities(name: str, checkpoints: Path) -> None:
    model, tokenizer = load_pair(checkpoints / name)
    inputs = tokenizer("Is it?", return_tensors="pt")
    has_encoder = model.config.is_encoder_decoder
    tokens = torch.tensor([[0]]) if has_encoder else inputs["input_ids"]
    expected = 0.0
    for token in tokenizer("positive" if has_encoder else " positive")["input_ids"]:
        with torch.inference_mode():
            output = model(**inputs, decoder_input_ids=tokens) if has_encoder else model(tokens)
        expected += output.logits[0, -1].log_softmax(0)[token].item()
        tokens = torch.cat([tokens, torch.tensor([[token]])], dim=1)
    found = task10.log_likelihood(model, tokenizer, "Is it?", "positive")
    assert found == pytest.approx(expected, rel=1e-5)


def test_likelier_label_is_printed(checkpoints: Path, capsys: pytest.CaptureFixture) -> None:
    probabilities = [{"positive": p, "negative": 1 - p} for p in (0.1, 0.2, 0.7)]
    with patch.object(task10, "classify", side_effect=probabilities) as classify:
        assert task10.main(["--model", str(checkpoints / task10.MODEL)]) == 0
    prompts = [call.args[2] for call in classify.call_args_list]
    orders = (), task10.EXAMPLES[::-1], task10.EXAMPLES
    assert prompts == [task10.build_prompt(task10.TEXT, each) for each in orders]
    out, err = capsys.readouterr()
    assert out == "POSITIVE\n"
    orders = [line.partition(";")[0] for line in err.splitlines() if line.startswith("examples")]
    assert orders == [
        f"examples: {x}" for x in ("none", "negative, positive", "positive, negative")
    ]
