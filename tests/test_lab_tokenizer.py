"""lab_tokenizer.py: the tokens of short texts and of the Inferno."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

import common
import inferno
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
    assert "13 characters, 4 tokens" in output  # [CLS] and [SEP] are not in the text
