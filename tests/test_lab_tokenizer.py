"""lab_tokenizer.py: the tokens of the statement and of the Inferno."""

from __future__ import annotations

from pathlib import Path

import common
import lab_common
import lab_tokenizer
import pretrained
import task04
import task05
import task06
import task08
import task11

import pytest
from conftest import EXPECTED, SHARED
from transformers import AutoTokenizer, GPT2Tokenizer


@pytest.mark.parametrize(
    "name", [task04.MODEL, task05.MODEL, task06.MODEL, task08.TOKENIZER, task11.MODEL]
)
def test_tokenizer_has_its_own_class(
    name: str, checkpoints: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = checkpoints / name
    options = ["--model", str(folder), "--text", str(lab_common.VERSES)]
    assert lab_tokenizer.main(options) == 0
    ids = pretrained.load(AutoTokenizer, folder)("Hello World")["input_ids"]
    assert capsys.readouterr().out.splitlines()[1].endswith(f"  {ids}")


def test_a_space_before_a_word_is_shown_for_sentencepiece_too(checkpoints: Path) -> None:
    tokenizer = pretrained.load(AutoTokenizer, checkpoints / task04.MODEL)
    pieces = lab_tokenizer.format_pieces(tokenizer, tokenizer("la via la")["input_ids"])
    assert pieces.replace("|", "") == " la via la</s>"


def test_run_prints_the_recorded_output(inferno: Path, capsys: pytest.CaptureFixture) -> None:
    vocabulary = SHARED / "models" / "gpt2-tokenizer"
    if not vocabulary.exists():
        pytest.skip("GPT-2's vocabulary is not on this machine")
    assert lab_tokenizer.main(["--model", str(vocabulary), "--text", str(inferno)]) == 0
    assert capsys.readouterr().out == (EXPECTED / "lab_tokenizer.txt").read_text(encoding="utf-8")
    tokenizer, text = (
        pretrained.load(GPT2Tokenizer, vocabulary),
        inferno.read_bytes().decode("latin-1"),
    )
    assert tokenizer("Hello World")["input_ids"] == [15496, 2159]
    assert (len(text), len(tokenizer(text)["input_ids"])) == (186_980, 79_225)
    assert (common.RESULTS / "lab_tokenizer.png").read_bytes().startswith(b"\x89PNG")
