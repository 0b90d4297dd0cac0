"""Task 08: the tokenized training and test texts."""

from transformers import AutoTokenizer

import bundled
import common
import task08
from conftest import EXPECTED, Run, only_line


def test_output_without_a_network(run: Run) -> None:
    code, out, err = run("task08")
    assert (code, out) == (0, (EXPECTED / "task08.txt").read_text(encoding="utf-8"))
    only_line(err, "The bundled ")


def test_both_sets_are_tokenized_alike() -> None:
    tokenizer = common.load(AutoTokenizer, bundled.encoder())
    tensors = task08.tokenize_train(tokenizer, task08.TEST_DATA["text"])
    rows = task08.tokenize_test(tokenizer, task08.TEST_DATA)
    assert rows.column_names == ["text", "label", "input_ids", "attention_mask"]
    columns = {name: tensor.tolist() for name, tensor in tensors.items()}
    assert rows.to_dict() == task08.TEST_DATA | columns
