"""Task 11: the completed sentence and its perplexity."""

from __future__ import annotations

from pathlib import Path

import common
import task11

import pytest
import torch
from conftest import load_pair
from transformers import GenerationConfig


def test_prompt_is_completed_greedily_to_20_tokens_in_all(checkpoints: Path) -> None:
    model, tokenizer = load_pair(checkpoints / task11.MODEL)
    model.generation_config = GenerationConfig(do_sample=True, temperature=3.0, max_length=50)
    tokens = tokenizer(task11.PROMPT)["input_ids"]
    while len(tokens) < 20:
        with torch.inference_mode():
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    assert task11.complete(model, tokenizer, task11.PROMPT) == tokenizer.decode(tokens)


def test_first_token_counts_if_a_start_token_precedes_it(checkpoints: Path) -> None:
    model, tokenizer = load_pair(checkpoints / task11.MODEL)
    for text, start in (("", True), ("a", False)):
        with pytest.raises(common.ScriptError, match=f"the text '{text}' has no token to predict"):
            task11.perplexity(["a longer text", text], model, tokenizer, add_start_token=start)
    with_start = task11.perplexity([task11.PROMPT], model, tokenizer)
    expected = task11.perplexity([task11.PROMPT], model, tokenizer, add_start_token=False)
    tokenizer.bos_token = None
    assert task11.perplexity([task11.PROMPT], model, tokenizer) == expected != with_start
