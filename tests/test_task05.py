"""Task 05: the prompt, and the reply that is generated from it."""

from __future__ import annotations

import re
from pathlib import Path
from unittest.mock import patch

import task05

import pytest
import torch
from conftest import load_pair
from transformers import GenerationConfig


def test_prompt_has_rules_solved_examples_and_the_review_last(checkpoints: Path) -> None:
    model, tokenizer = load_pair(checkpoints / task05.MODEL)
    prompt = task05.build_prompt("Nice")
    assert prompt.startswith(task05.RULES)
    assert prompt.endswith("\nReview: Nice\nReply:")
    replies = re.findall("^Reply: (.*)", prompt, re.MULTILINE)
    complaints = [complaint for _, _, complaint in task05.EXAMPLES]
    assert [" We apologise for " in each for each in replies] == list(map(bool, complaints))
    with patch.object(model, "generate", wraps=model.generate) as generate:
        reply = task05.reply(model, tokenizer, "Nice", 0)
    assert tokenizer.decode(generate.call_args.kwargs["input_ids"][0]) == prompt
    assert "Riverview" not in reply  # which does not repeat the prompt


@patch.object(task05, "MAX_NEW_TOKENS", 12)  # faster
def test_reply_at_temperature_0_ignores_settings_of_the_checkpoint(checkpoints: Path) -> None:
    model, tokenizer = load_pair(checkpoints / task05.MODEL)
    greedy = task05.reply(model, tokenizer, "Nice", 0)
    for settings in ({"do_sample": True}, {"num_beams": 3}, {"repetition_penalty": 5.0}):
        model.generation_config = GenerationConfig(eos_token_id=0, **settings)
        assert task05.reply(model, tokenizer, "Nice", 0) == greedy


@patch.object(task05, "MAX_NEW_TOKENS", 12)  # faster
def test_seed_and_temperature_matter(checkpoints: Path, capsys: pytest.CaptureFixture) -> None:
    outputs = []
    for temperature, seed in ((0, 1), (0, 2), (1.5, 1), (1.5, 1), (1.5, 2), (5, 1)):
        options = [f"--model={checkpoints / task05.MODEL}", f"--seed={seed}"]
        assert task05.main([*options, f"--temperature={temperature}"]) == 0
        outputs.append(capsys.readouterr().out)
    assert [outputs.index(output) for output in outputs] == [0, 0, 2, 2, 4, 5]
    assert f"{task05.REVIEW}\n\nHotel reponse to the customer:\n" in outputs[0]


def test_text_ends_after_its_last_complete_sentence() -> None:
    assert task05.complete_sentences('She said "wow!" and') == 'She said "wow!"'
    assert task05.complete_sentences("We had 3.5 stars.\nNow 4.5 st") == "We had 3.5 stars."
    assert task05.complete_sentences("no end in sight") == "no end in sight"


def test_reply_is_sampled_from_the_whole_vocabulary(checkpoints: Path) -> None:
    model, tokenizer = load_pair(checkpoints / task05.MODEL)
    with patch.object(
        model, "generate", return_value=torch.zeros(1, 900, dtype=torch.long)
    ) as generate:
        task05.reply(model, tokenizer, "Nice", 0.7)
    sampling = [generate.call_args.kwargs[name] for name in ("do_sample", "temperature", "top_k")]
    assert sampling == [True, 0.7, 0]
