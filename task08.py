"""Task 08: tokenize what customers wrote to a support team, to classify the risk to lose them.

Label 1 is high risk, an unhappy customer; 0 is low risk. The training set is tokenized by calling
the tokenizer on all of its texts, which gives a dictionary of tensors; the test set row by row,
which adds columns to a `Dataset`. Task 09 trains on both.

    python task08.py
    python task08.py --model bundled        the tokenizer of the bundled encoder, without a network

Takes seconds. Expect the ids of the task's statement, whatever uncased BERT they come from. The
statement shows `num_rows: 1` for the test data, which have two rows: 2 is right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import common

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

TOKENIZER = common.HubModel(  # that of the encoder that task 09 trains
    "distilbert/distilbert-base-uncased", "Apache-2.0", 1, weights=False
)
SETTINGS = {
    "padding": "max_length",  # rows of one length, also if each is tokenized alone
    "truncation": True,  # to the length below
    "max_length": 20,  # tokens; of these texts one is longer, by a few
    "return_token_type_ids": False,  # there is no second text that they would mark
}
TRAIN_DATA: dict[str, Any] = {
    "text": [
        "I'm really upset with the delays on delivering this item. Where is it?",
        "The support I've had on this issue has been terrible and really unhelpful. "
        "Why will no one help me?",
        "I have a question about how to use this product. Can you help me?",
        "This product is listed as out of stock. When will it be available again?",
    ],
    "label": [1, 1, 0, 0],
}
TEST_DATA: dict[str, Any] = {
    "text": ["You charged me twice for the one item. I need a refund.", "Very good - thank you!"],
    "label": [1, 0],
}


def tokenize_train(tokenizer: PreTrainedTokenizerBase) -> dict[str, torch.Tensor]:
    """Tokenize all training texts at once: tensors (row, token) by name."""
    # tensors, as a model takes them: the whole set is one batch
    return dict(tokenizer(TRAIN_DATA["text"], return_tensors="pt", **SETTINGS))


def tokenize_test(tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """Tokenize the test texts row by row into the columns of a `Dataset`."""
    from datasets import Dataset

    # no tensors: of a single row they would be (1, token), a list within a list
    dataset = Dataset.from_dict(TEST_DATA)
    return dataset.map(lambda row: dict(tokenizer(row["text"], **SETTINGS)))


def main(argv: list[str] | None = None) -> int:
    """Tokenize both sets and show them."""
    arguments = common.argument_parser(__doc__, model=TOKENIZER).parse_args(argv)
    tokenizer = common.load_tokenizer(common.find_encoder(arguments.model, TOKENIZER))
    print(f"Tokenized training data:\n{tokenize_train(tokenizer)}")
    print(f"Tokenized test data:\n{tokenize_test(tokenizer)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
