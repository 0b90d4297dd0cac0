"""Task 05: the prompt, and the reply that is generated from it."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import task05

import pytest
from conftest import load_pair
from transformers import GenerationConfig


def test_prompt_has_review_and_rules_and_a_chat_without_thinking(checkpoints: Path) -> None:
    model, tokenizer = load_pair(checkpoints / task05.MODEL)
    plain = task05.PROMPT.format(review="Nice")
    for part in ("Riverview Hotel", "Thank", "Apologise", "Never invent", "Review: Nice"):
        assert part in plain
    chat = f"<|start|>user\n{plain}<|end|>\n<|start|>assistant\n<think></think>"
    for prompt in (chat, plain):
        with patch.object(model, "generate", wraps=model.generate) as generate:
            reply = task05.reply(model, tokenizer, "Nice", 0)
        assert tokenizer.decode(generate.call_args.kwargs["input_ids"][0]) == prompt
        assert "Write a reply" not in reply  # which does not repeat the prompt
        tokenizer.chat_template = None  # for the second prompt


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
