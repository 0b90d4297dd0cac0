"""Task 07: the extracted and the generated answer."""

from __future__ import annotations

import json
from pathlib import Path

import common
import task04
import task05
import task07

import pytest
import torch
from conftest import EXPECTED, load_pair
from transformers import AutoModelForQuestionAnswering


def test_extracted_answer_is_the_best_of_all_spans(checkpoints: Path) -> None:
    reader = load_pair(checkpoints / task07.EXTRACTIVE_MODEL, AutoModelForQuestionAnswering)
    inputs = reader[1](task07.QUESTION, task07.CONTEXT, return_tensors="pt")
    with torch.inference_mode():
        output = reader[0](inputs["input_ids"], inputs["attention_mask"])
    tokens = [token for token, part in enumerate(inputs.sequence_ids(0)) if part == 1]
    start, end = (  # the first token, [CLS], has a probability too
        logits[0][[0, *tokens]].softmax(0)[1:].tolist()
        for logits in (output.start_logits, output.end_logits)
    )
    spans = [start[i] * end[j] for i in range(len(start)) for j in range(i, len(end)) if j < i + 15]
    found = task07.extract(*reader, task07.QUESTION, task07.CONTEXT)
    assert found.score == pytest.approx(max(spans))
    records = json.loads((EXPECTED / "pipelines.json").read_text("utf-8"))
    long_context = " ".join([task04.LONG_TEXT, task07.CONTEXT] * 3)  # several windows
    for name, context in (("answer", task07.CONTEXT), ("answer in a long context", long_context)):
        found = task07.extract(*reader, task07.QUESTION, context)
        assert found.text == context[found.start : found.end] == records[name]["answer"]
        assert found.start == records[name]["start"]
    with pytest.raises(common.ScriptError, match=r"the question has .* tokens; at most 255 leave"):
        task07.extract(*reader, "Who? " * 150, task07.CONTEXT)


def test_generated_answer_of_a_decoder_does_not_repeat_the_prompt(checkpoints: Path) -> None:
    model, tokenizer = load_pair(checkpoints / task05.MODEL)
    prompt = task07.PROMPT.format(context="It is red.", question="What?")
    message = [{"role": "user", "content": prompt}]
    prompt = tokenizer.apply_chat_template(
        message, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    with torch.inference_mode():
        inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        logits = model(**inputs).logits
    first_word = tokenizer.decode(logits[0, -1].argmax()).strip()
    answer = task07.generate_answer(model, tokenizer, "What?", "It is red.")
    assert answer.startswith(first_word)
    assert "Read this" not in answer


def test_answer_of_an_encoder_decoder_is_greedy_and_has_at_most_30_tokens(
    checkpoints: Path,
) -> None:
    model, tokenizer = load_pair(checkpoints / task07.GENERATIVE_MODEL)
    prompt = task07.PROMPT.format(context=task07.CONTEXT, question=task07.QUESTION)
    inputs, tokens = tokenizer(prompt, return_tensors="pt"), [0]
    while len(tokens) <= 30 and tokens[-1] != tokenizer.eos_token_id:
        with torch.inference_mode():
            logits = model(**inputs, decoder_input_ids=torch.tensor([tokens])).logits[0, -1]
        tokens.append(int(logits.argmax()))
    expected = " ".join(tokenizer.decode(tokens, skip_special_tokens=True).split())
    assert task07.generate_answer(model, tokenizer, task07.QUESTION, task07.CONTEXT) == expected
