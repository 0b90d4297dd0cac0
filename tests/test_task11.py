"""Task 11: the completed sentence and its perplexity."""

import math
import re
from pathlib import Path

import pytest
import torch

import task11
from conftest import EXPECTED, ModelAndTokenizer, Run, load_pair, only_line

TEXTS = [task11.PROMPT, "Who painted the Mona Lisa?", "a bc"]


@pytest.fixture
def gpt2(checkpoints: Path) -> ModelAndTokenizer:
    return load_pair(checkpoints / task11.MODEL)


def by_loss(pair: ModelAndTokenizer, start: list[int], text: str) -> float:
    """Compute the perplexity from the loss of transformers, which does not predict the start."""
    model, tokenizer = pair
    tokens = torch.tensor([[*start, *tokenizer(text)["input_ids"]]])
    with torch.inference_mode():
        return math.exp(model(tokens, labels=tokens).loss)


def test_output_without_a_network(run: Run) -> None:
    code, out, err = run("task11")
    *recorded, perplexity = (EXPECTED / "task11.txt").read_text(encoding="utf-8").split()
    assert (code, out.split()[:-1]) == (0, recorded)
    assert float(out.split()[-1]) == pytest.approx(float(perplexity), rel=1e-5)
    only_line(err, "The bundled ")
    parts = [float(part) for part in re.findall(r"alone: (.*)", err)]
    assert parts[0] > parts[1]  # the prompt surprises the model more than its own continuation
    mean_loss = sum(map(math.log, parts)) / 2  # prompt and continuation have 10 tokens each
    assert math.exp(mean_loss) == pytest.approx(float(perplexity), abs=0.01)


def test_long_prompt_is_continued_too(gpt2: ModelAndTokenizer) -> None:
    prompt = task11.PROMPT * 3
    text = task11.complete(*gpt2, prompt)
    new_tokens = len(gpt2[1](text)["input_ids"]) - len(gpt2[1](prompt)["input_ids"])
    assert (text.startswith(prompt), new_tokens) == (True, 10)


def test_perplexities_equal_those_from_the_loss_of_transformers(gpt2: ModelAndTokenizer) -> None:
    for add_start_token, start in ((True, [0]), (False, [])):
        expected = [by_loss(gpt2, start, text) for text in TEXTS]
        found = task11.perplexity(TEXTS, *gpt2, add_start_token)
        assert found["perplexities"] == pytest.approx(expected)
        assert found["mean_perplexity"] == pytest.approx(sum(expected) / 3)


def test_text_starts_like_a_document_and_not_like_a_message(
    gpt2: ModelAndTokenizer, checkpoints: Path
) -> None:
    expected = by_loss(gpt2, [0], "A text")
    gpt2[1].bos_token = gpt2[1].convert_ids_to_tokens(5)  # as in SmolLM2, where it starts a message
    assert task11.perplexity(["A text"], *gpt2)["mean_perplexity"] == pytest.approx(expected)

    chat = load_pair(checkpoints / "Qwen/Qwen3-0.6B")  # has no token that starts documents
    without_start, with_start = by_loss(chat, [], "A text"), by_loss(chat, [1], "A text")
    assert task11.perplexity(["A text"], *chat)["mean_perplexity"] == pytest.approx(without_start)
    chat[1].bos_token = chat[1].convert_ids_to_tokens(1)
    assert task11.perplexity(["A text"], *chat)["mean_perplexity"] == pytest.approx(with_start)
