"""Task 08: the tokenized training and test texts."""

from __future__ import annotations

from unittest.mock import patch

import pretrained
import task08

import pytest
from conftest import EXPECTED
from transformers import AutoTokenizer


def test_output_equals_the_statement(capsys: pytest.CaptureFixture) -> None:
    assert task08.main(["--model", "bundled"]) == 0
    assert capsys.readouterr().out == (EXPECTED / "task08.txt").read_text()


@patch.object(task08, "TRAIN_DATA", task08.TEST_DATA)
def test_both_sets_are_tokenized_alike() -> None:
    tokenizer = pretrained.load(AutoTokenizer, pretrained.ENCODER.folder())
    rows = task08.tokenize_test(tokenizer)
    tensors = {name: tensor.tolist() for name, tensor in task08.tokenize_train(tokenizer).items()}
    assert rows.to_dict() == task08.TEST_DATA | tensors
    assert rows.column_names == ["text", "label", "input_ids", "attention_mask"]
