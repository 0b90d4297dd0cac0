"""experiments.py: no experiment chooses on test data, and each trains the whole model."""

import copy
from functools import partial

import pytest
import torch

import dante_gpt
import experiments
import inferno
from conftest import CPU

TEXT = inferno.clean_text(inferno.VERSES.read_text(encoding="utf-8"))
small = partial(dante_gpt.Config, block_size=32, n_layer=1, n_embd=16)


@pytest.mark.parametrize("name", experiments.ABLATION)
def test_variants_of_dante_never_see_the_last_tenth(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dante_gpt, "Config", small)
    text, last_tenth = dante_gpt.split(TEXT)
    learned, ninth_tenth = text[: len(text) * 8 // 9], text[len(text) * 8 // 9 :]
    loss, other_last, other_ninth = (
        experiments.final_loss(whole, 1, (name, 0))
        for whole in (
            text + last_tenth,
            text + last_tenth[::-1],
            learned + ninth_tenth[::-1] + last_tenth,
        )
    )
    assert loss == other_last
    assert loss != other_ninth


@pytest.mark.parametrize("name", experiments.ABLATION)
def test_variants_of_dante_train_every_weight(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variant = experiments.ABLATION[name]
    for patched, value in variant.patches.items():
        monkeypatch.setattr(dante_gpt, patched, value)
    training = dante_gpt.Training(small(), TEXT, CPU)
    variant.change(training)
    muon, adam = (
        {id(weight) for group in optimizer.param_groups for weight in group["params"]}
        for optimizer in (training.muon, training.adam)
    )
    assert not muon & adam
    before = copy.deepcopy(training.model)
    training.step(0)
    for name, weight in training.model.named_parameters():
        assert not torch.equal(weight, before.get_parameter(name)), name


def test_variants_of_dante_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dante_gpt, "Config", small)
    losses = {experiments.final_loss(TEXT, 2, (name, 0)) for name in experiments.ABLATION}
    assert len(losses) == len(experiments.ABLATION)
