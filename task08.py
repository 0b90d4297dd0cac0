"""Task 08: tokenize messages to a support team, labelled by the risk of losing the customer.

Label 1 is high risk, an unhappy customer; label 0 is low risk. The tokenizer is called once on all
training texts, which returns a dictionary of tensors. The test texts are tokenized row by row with
`Dataset.map`, which adds columns to the data set. Task 09 trains on the training texts.

    python task08.py
    python task08.py --model bundled        the tokenizer of the bundled encoder, without a network

Takes seconds. Expect the token ids of the statement, also with the bundled tokenizer: all English
uncased BERT models have the same vocabulary. Each text begins with 101, the token [CLS], and ends
with 102, the token [SEP]; 0 is padding, where the attention mask is 0 too. The statement prints
`num_rows: 1` for the test data, which have two rows. 2 is right.
"""

from typing import Any

import torch
from datasets import Dataset
from transformers import AutoTokenizer, PreTrainedTokenizerBase

import bundled
import common

TOKENIZER = "distilbert/distilbert-base-uncased"  # the tokenizer of the encoder in task 09
SETTINGS = {
    "padding": "max_length",  # all rows have one length, even if each is tokenized alone
    "truncation": True,  # cut off at `max_length`
    "max_length": 20,  # tokens; one text loses its last sentence, as in the statement
    "return_token_type_ids": False,  # they would mark a second text, and there is none
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


def tokenize_train(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> dict[str, torch.Tensor]:
    """Tokenize all texts in one call: tensors (row, token) by name."""
    # `return_tensors`: the texts are one batch, and a model takes tensors
    return dict(tokenizer(texts, return_tensors="pt", **SETTINGS))


def tokenize_test(tokenizer: PreTrainedTokenizerBase, data: dict[str, list]) -> Dataset:
    """Tokenize the texts row by row into new columns of a `Dataset`."""
    dataset = Dataset.from_dict(data)
    # no `return_tensors`: for one row it would return (1, token), a list within a list
    return dataset.map(lambda row: dict(tokenizer(row["text"], **SETTINGS)))


def main(argv: list[str] | None = None) -> int:
    """Tokenize both sets and print them."""
    arguments = common.argument_parser(__doc__, model=TOKENIZER).parse_args(argv)
    folder = common.find_model(arguments.model, TOKENIZER, bundled.encoder, weights=False)
    tokenizer = common.load(AutoTokenizer, folder)
    with common.errors_in(folder):
        print(f"Tokenized training data:\n{tokenize_train(tokenizer, TRAIN_DATA['text'])}")
        print(f"Tokenized test data:\n{tokenize_test(tokenizer, TEST_DATA)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
