"""lab_common.py: features of texts, batches, and the training loop."""

from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel

import common
import lab_common
from conftest import load_pair
from lab_common import all_layers_pooling, cls_pooling, mean_pooling

ENCODER, DECODER = "distilbert/distilbert-base-uncased", "openai-community/gpt2"
SENTENCE = "the old house in the valley was quiet and the river ran slowly past its garden"
WORDS = SENTENCE.split()
TEXTS = [" ".join(WORDS[i % 9 : i % 9 + 1 + i % 7]) for i in range(40)]


@pytest.mark.parametrize("checkpoint", [ENCODER, DECODER])  # GPT-2 has no padding token
def test_features_equal_those_of_each_text_alone(
    checkpoint: str, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lab_common, "BATCH_TOKENS", 30)  # several batches
    monkeypatch.setattr(lab_common, "MAX_TOKENS", 6)
    model, tokenizer = load_pair(checkpoints / checkpoint, AutoModel)
    poolings = {"cls": cls_pooling, "mean": mean_pooling, "all": all_layers_pooling}
    features = lab_common.encode(model.train(), tokenizer, TEXTS, poolings)  # without dropout
    for row, text in enumerate(TEXTS):
        inputs = tokenizer(text, truncation=True, max_length=6, return_tensors="pt")
        with torch.inference_mode():
            states = model(**inputs, output_hidden_states=True).hidden_states
        layers = torch.stack(states)[:, 0].numpy()  # (layers, time, width)
        every = np.concatenate([layers.mean(1).ravel(), layers.max(1).ravel()])
        expected = {"cls": layers[-1][0], "mean": layers[-1].mean(0), "all": every}
        for name, feature in expected.items():
            np.testing.assert_allclose(features[name][row], feature, atol=3e-6)


def test_long_texts_are_truncated_to_the_positions_of_the_model(checkpoints: Path) -> None:
    model, tokenizer = load_pair(checkpoints / ENCODER, AutoModel)
    model.config.max_position_embeddings = 9
    assert [len(tokens) for tokens in lab_common.tokenize(model, tokenizer, [SENTENCE])] == [9]


def test_text_without_tokens_is_an_error(checkpoints: Path) -> None:
    model, tokenizer = load_pair(checkpoints / DECODER, AutoModel)  # adds no special tokens
    with pytest.raises(common.ScriptError, match="the text '' has no tokens"):
        lab_common.tokenize(model, tokenizer, ["a text", ""])


@pytest.mark.parametrize("lengths", [None, [*range(1003)]])
def test_batches_contain_every_row_once_per_epoch_in_new_orders(lengths: list[int] | None) -> None:
    batches = lab_common.random_batches(1003, 5, 2, lengths)
    epochs = batches[:201], batches[201:]
    for epoch in epochs:
        assert sorted(chain.from_iterable(epoch)) == list(range(1003))
    assert epochs[0] != epochs[1]


def test_training_takes_one_step_per_batch_and_ends_at_rate_zero() -> None:
    model, weights = torch.nn.Linear(1, 1, bias=False).eval(), []

    def batch_loss(batch: list[int]) -> torch.Tensor:
        weights.append(model.weight.item())
        return model.weight.sum()  # its gradient is always 1, so AdamW moves by the rate

    lab_common.train(model, batch_loss, [[0]] * 100, 0.01)
    moves = -np.diff([*weights, model.weight.item()])
    assert (len(moves), model.training) == (100, False)  # in eval mode as before
    assert moves[9] == max(moves) == pytest.approx(0.01, rel=0.05)
    assert max(5 * moves[0], 1000 * moves[-1]) < moves[9]


def test_loss_that_is_not_finite_ends_the_training() -> None:
    model = torch.nn.Linear(1, 1)
    with pytest.raises(common.ScriptError, match="the training loss is nan, not a finite number"):
        lab_common.train(model, lambda _: model.weight.sum() * torch.nan, [[0]], 0.01)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_weight_decay_is_the_given_one(decay: float) -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    before = model.weight.item()
    lab_common.train(model, lambda _: 0 * model.weight.sum(), [[0]] * 10, 0.1, decay)
    assert (model.weight.item() == before) == (decay == 0)
