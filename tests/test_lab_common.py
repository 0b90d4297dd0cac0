"""lab_common.py: features of texts, batches, and the training loop."""

import json
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


@pytest.mark.parametrize(("limit", "positions", "expected"), [(6, 512, 6), (256, 9, 9)])
def test_long_texts_are_truncated_to_what_the_model_reads(
    limit: int, positions: int, expected: int, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lab_common, "MAX_TOKENS", limit)
    model, tokenizer = load_pair(checkpoints / ENCODER, AutoModel)
    tokenizer.model_max_length = 10**30  # as in a checkpoint without tokenizer_config.json
    model.config.max_position_embeddings = positions
    (tokens,) = lab_common.tokenize(model, tokenizer, [" ".join(WORDS)])
    assert len(tokens) == expected


def test_text_without_tokens_is_an_error(checkpoints: Path) -> None:
    model, tokenizer = load_pair(checkpoints / DECODER, AutoModel)  # adds no special tokens
    with pytest.raises(common.ScriptError, match="the text '' has no tokens"):
        lab_common.tokenize(model, tokenizer, ["a text", ""])


@pytest.mark.parametrize(("modes", "pooling", "note"), [
    (None, mean_pooling, ""),
    ({"pooling_mode_cls_token": True, "pooling_mode_max_tokens": False}, cls_pooling, ""),
    ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, mean_pooling, ""),
    ({"pooling_mode_lasttoken": True}, mean_pooling, "trained with pooling_mode_lasttoken; "),
])  # fmt: skip
def test_pooling_is_the_one_that_the_encoder_was_trained_with(
    modes: dict | None, pooling: lab_common.Pooling, note: str, tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    model = torch.nn.Module()
    model.name_or_path = str(tmp_path)
    if modes:
        (tmp_path / "1_Pooling").mkdir()
        settings = json.dumps({"word_embedding_dimension": 8} | modes)
        (tmp_path / "1_Pooling" / "config.json").write_text(settings, encoding="utf-8")
    assert lab_common.sentence_pooling(model) is pooling
    err = capsys.readouterr().err
    assert note in err if note else err == ""


def test_prompts_of_an_encoder_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    model = torch.nn.Module()
    model.name_or_path = str(tmp_path)
    path = tmp_path / "config_sentence_transformers.json"
    for query, is_noted in (("", False), ("query: ", True)):
        path.write_text(json.dumps({"prompts": {"query": query}}), encoding="utf-8")
        assert lab_common.sentence_pooling(model) is mean_pooling
        assert ("trained with prompts" in capsys.readouterr().err) == is_noted


@pytest.mark.parametrize("rows", [1, 50, 1003])
@pytest.mark.parametrize("with_lengths", [False, True])
def test_batches_contain_every_row_once_per_epoch_in_new_orders(
    rows: int, with_lengths: bool
) -> None:
    lengths = np.random.default_rng(0).integers(1, 200, rows).tolist() if with_lengths else None
    batches = lab_common.random_batches(rows, 5, 2, lengths)
    epochs = batches[: len(batches) // 2], batches[len(batches) // 2 :]
    for epoch in epochs:
        assert len(epoch) == -(-rows // 5)
        assert sorted(chain.from_iterable(epoch)) == list(range(rows))
    assert rows == 1 or epochs[0] != epochs[1]


def test_rows_of_similar_length_share_a_batch() -> None:
    lengths = np.random.default_rng(0).integers(1, 200, 1003).tolist()
    batches = lab_common.random_batches(1003, 5, 1, lengths)
    padded = sum(max(lengths[row] for row in batch) * len(batch) for batch in batches)
    assert padded < 1.1 * sum(lengths)


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
