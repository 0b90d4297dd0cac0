"""lab_tokenizer.py: the tokens of short texts and of the Inferno."""

import re
from pathlib import Path

import pytest
from transformers import AutoTokenizer, GPT2Tokenizer

import bundled
import common
import inferno
import lab_tokenizer
import task04
import task05
import task08
from conftest import EXPECTED, Run, only_line


def test_run_prints_the_recorded_output(run: Run, inferno_file: Path) -> None:
    code, output, error = run("lab_tokenizer", "--model", "bundled", "--text", inferno_file)
    expected = (EXPECTED / "lab_tokenizer.txt").read_text(encoding="utf-8")
    assert (code, output) == (0, expected)
    only_line(error, "Hello, hello and hello after a space: 3 first tokens, 15496, 31373, 23748")
    assert (common.RESULTS / "lab_tokenizer.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", [task04.MODEL, task05.MODEL, task08.TOKENIZER])
def test_tokenizer_of_another_model_has_its_own_class(
    name: str, checkpoints: Path, run: Run
) -> None:
    folder = checkpoints / name
    _, output, _ = run("lab_tokenizer", "--model", folder, "--text", inferno.VERSES)
    ids = common.load(AutoTokenizer, folder)("Hello World")["input_ids"]
    assert f"{ids}" in only_line(output, "'Hello World'  ")


def test_special_tokens_do_not_count_in_the_long_text(
    checkpoints: Path, run: Run, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("la via\nla via\n", encoding="utf-8")
    _, output, _ = run("lab_tokenizer", "--model", checkpoints / task08.TOKENIZER, "--text", text)
    line = only_line(output, "tokenized line by line")
    found = re.search(r"([\d,]+) characters, ([\d,]+) tokens", line)
    assert found
    assert found.groups() == ("13", "4")  # [CLS] and [SEP] are not in the text


def test_parts_of_characters_are_shown_as_dots() -> None:
    tokenizer = common.load(GPT2Tokenizer, bundled.gpt2_tokenizer())
    pieces = lab_tokenizer.format_pieces(tokenizer, tokenizer("a\n \N{GRINNING FACE}")["input_ids"])
    assert pieces == "a|\\n|·|·"
