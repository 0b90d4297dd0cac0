"""The laboratory's exercises 2.1 and 2.2: tokens, and ways of generating text."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from conftest import ROOT, Pair, load_pair

import common
import lab_generation
import lab_tokenizer


@pytest.fixture
def gpt2(checkpoints: Path) -> Path:
    """Find the tiny GPT-2."""
    return checkpoints / lab_generation.MODEL.name


@pytest.fixture
def pair(gpt2: Path) -> Pair:
    return load_pair(gpt2, "AutoModelForCausalLM")


@pytest.fixture(scope="session")
def vocabulary() -> Path:
    """Find GPT-2's own vocabulary, which is not part of the project; skip where it is not."""
    folder = ROOT.parent / "shared" / "models" / "gpt2-tokenizer"
    if not folder.exists():
        pytest.skip("GPT-2's vocabulary is not beside the project")
    return folder


# Tokens


def test_the_statement_s_texts_have_the_statement_s_ids(vocabulary: Path) -> None:
    tokenizer = common.load_tokenizer(vocabulary, "GPT2Tokenizer")
    ids = [tokenizer(text)["input_ids"] for text in lab_tokenizer.HELLO_WORLDS]
    assert ids == [[15496, 2159], [31373, 2159], [23748, 2159], [15496, 10603], [15496, 2159, 220]]
    assert lab_tokenizer.pieces(tokenizer, ids[4]) == "Hello| World| "
    assert lab_tokenizer.pieces(tokenizer, tokenizer("a\nи\N{GRINNING FACE}")["input_ids"]) == (
        "a|\\n|и|\N{MIDDLE DOT}|\N{MIDDLE DOT}"
    )


def test_the_stored_file_has_the_known_number_of_tokens(vocabulary: Path, inferno: Path) -> None:
    tokenizer = common.load_tokenizer(vocabulary, "GPT2Tokenizer")
    text = inferno.read_bytes().decode("latin-1")
    assert (len(text), len(tokenizer(text)["input_ids"])) == (186_980, 79_225)


def test_the_pieces_of_a_text_are_the_text(gpt2: Path) -> None:
    tokenizer = common.load_tokenizer(gpt2, "GPT2Tokenizer")
    for text in (*lab_tokenizer.HELLO_WORLDS, "Nel mezzo del cammin"):
        ids = tokenizer(text)["input_ids"]
        assert lab_tokenizer.pieces(tokenizer, ids).replace("|", "") == text
        assert len(lab_tokenizer.pieces(tokenizer, ids).split("|")) == len(ids)


def test_the_lengths_shown_are_those_of_the_tokens(
    gpt2: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("One line here.\nAnother line, a longer one.\n" * 20)
    assert lab_tokenizer.main(["--model", str(gpt2), "--text", str(text)]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, example in lab_tokenizer.TEXTS.items():
        row = next(line for line in lines if line.startswith(name + "  "))
        figures, ids = row[len(name) :].split("[")
        characters, tokens, ratio = figures.split()
        assert int(characters) == len(example)
        assert int(tokens) == len(ids.split(","))
        assert float(ratio) == pytest.approx(int(characters) / int(tokens), abs=0.006)
    total = re.fullmatch(r"the text: ([\d,]+) characters, ([\d,]+) tokens .*", lines[-1])
    tokenizer = common.load_tokenizer(gpt2)
    read = common.load_inferno(text)
    counts = lab_tokenizer.token_counts(tokenizer, read.splitlines(keepends=True))
    assert total[1] == f"{len(read):,}"
    assert total[2] == f"{sum(counts):,}"
    assert (common.RESULTS / "lab_tokenizer.png").stat().st_size > 10_000


# Ways of generating text


def test_distinct_pairs_by_hand() -> None:
    assert lab_generation.distinct_2([1, 2, 1, 2, 1]) == 2 / 4
    assert lab_generation.distinct_2([1, 2, 3]) == 1.0


@pytest.mark.parametrize(
    ("tokens", "length"),
    [([1, 2, 3], 0), ([1, 1], 1), ([1, 2, 3, 1, 2], 2), ([5, 5, 5, 5], 3), ([1, 2, 3, 9, 2, 3], 2)],
)
def test_the_longest_repeat_by_hand(tokens: list[int], length: int) -> None:
    assert lab_generation.longest_repeat(tokens) == length


def test_surprise_is_that_of_a_loop_over_the_tokens(pair: Pair) -> None:
    model, tokenizer = pair
    tokens = tokenizer("Who knows if God exists", return_tensors="pt")["input_ids"][0]
    losses, entropies = [], []
    for place in range(3, len(tokens)):
        with torch.inference_mode():
            shares = model(tokens[None, :place]).logits[0, -1].softmax(-1)
        losses.append(-math.log(shares[tokens[place]]))
        entropies.append(-sum(p * math.log(p) for p in shares.tolist()))
    perplexity, entropy = lab_generation.surprise(model, tokens, 3)
    assert perplexity == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-4)
    assert entropy == pytest.approx(sum(entropies) / len(entropies), rel=1e-4)


def test_writing_follows_its_settings_and_its_seed(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lab_generation, "MAX_NEW_TOKENS", 12)

    def written(seed: int, name: str) -> list[int]:
        common.seed_everything(seed)
        tokens, start = lab_generation.write(*pair, **lab_generation.SETTINGS[name])
        return tokens[start:].tolist()

    assert written(0, "greedy") == written(1, "greedy")
    assert written(0, "temperature 2.0") == written(0, "temperature 2.0")
    assert written(0, "temperature 2.0") != written(1, "temperature 2.0")
    tokens, start = lab_generation.write(*pair)
    with torch.inference_mode():
        assert tokens[start] == pair[0](tokens[None, :start]).logits[0, -1].argmax()


def test_every_setting_is_shown_and_measured(
    gpt2: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(lab_generation, "MAX_NEW_TOKENS", 12)
    outputs = []
    for _ in range(2):
        assert lab_generation.main(["--quick", "--model", str(gpt2)]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]
    for name in lab_generation.SETTINGS:
        assert f"{name}:\n{lab_generation.PROMPT}" in outputs[0]
        row = re.search(rf"^{name} +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+)$", outputs[0], re.M)
        assert 0 <= float(row[1]) <= 1
        assert float(row[3]) >= 1
    assert (common.RESULTS / "lab_generation.png").stat().st_size > 10_000


def test_a_model_with_too_few_positions_is_one_line(gpt2: Path) -> None:
    with pytest.raises(common.ScriptError, match="too many for this model: it takes 64"):
        lab_generation.main(["--model", str(gpt2)])
