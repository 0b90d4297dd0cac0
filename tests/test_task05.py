"""Task 05: the prompt, and the reply that is generated from it."""

from pathlib import Path

import pytest
import torch

import common
import task05
from conftest import EXPECTED, ModelAndTokenizer, Run, load_pair, only_line


@pytest.fixture
def chat(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> ModelAndTokenizer:
    """Load a tiny model whose own settings ask for sampling; it writes few tokens."""
    monkeypatch.setattr(task05, "MAX_NEW_TOKENS", 12)
    return load_pair(checkpoints / task05.MODEL)


def test_output_without_a_network(run: Run) -> None:
    code, out, err = run("task05")
    assert (code, out) == (0, (EXPECTED / "task05.txt").read_text(encoding="utf-8"))
    only_line(err, "The bundled ")
    assert f"Prompt:\n{task05.PROMPT.format(review=task05.REVIEW)}\n" in err


def test_reply_is_sampled_from_all_tokens(chat: ModelAndTokenizer) -> None:
    model, tokenizer = chat
    tokens = tokenizer("Nice")["input_ids"]
    length = len(tokens)
    common.seed_everything(1)
    for _ in range(task05.MAX_NEW_TOKENS):
        with torch.inference_mode():
            logits = model(torch.tensor([tokens])).logits[0, -1]
        tokens.append(int(torch.multinomial((logits / 3.0).softmax(0), 1)))
    expected = tokenizer.decode(tokens[length:], skip_special_tokens=True).strip()
    common.seed_everything(1)
    assert task05.reply(model, tokenizer, "Nice", 3.0) == expected


def test_seed_matters_only_with_a_temperature(
    run: Run, checkpoints: Path, chat: ModelAndTokenizer
) -> None:
    outputs = []
    for temperature, seed in ((0, 1), (0, 2), (1.5, 1), (1.5, 1), (1.5, 2)):
        options = f"--seed={seed}", f"--temperature={temperature}"
        code, out, _ = run("task05", "--model", checkpoints / task05.MODEL, *options, "Nice")
        assert code == 0
        assert out.startswith("Customer review:\nNice\n\nHotel reponse to the customer:\n")
        outputs.append(out)
    assert [outputs.index(output) for output in outputs] == [0, 0, 2, 2, 4]


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ('She said\x1b "wow!" and', 'She said  "wow!"'),
        ("We had 3.5 stars.\nNow 4.5 st", "We had 3.5 stars."),
        ("no end in sight", "no end in sight"),
    ],
)
def test_reply_is_printed_up_to_its_last_complete_sentence(
    text: str, printed: str, run: Run, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task05, "reply", lambda *_: text)
    _, out, _ = run("task05", "--model", checkpoints / task05.MODEL, "Nice")
    assert out.endswith(f"customer:\n{printed}\n")


def test_temperature_that_overflows_is_an_error(run: Run, checkpoints: Path) -> None:
    code, out, err = run("task05", "--model", checkpoints / task05.MODEL, "--temperature=1e-300")
    assert (code, out) == (1, "")
    only_line(err, "task05.py: ")
