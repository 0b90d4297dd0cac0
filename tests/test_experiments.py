"""experiments.py: no experiment chooses on test data."""

from functools import partial

import pytest

import dante_gpt
import experiments
import inferno


@pytest.mark.parametrize("name", [experiments.PLAIN, "dante_gpt.py"])
def test_variants_of_dante_never_see_the_last_tenth(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = partial(dante_gpt.Config, block_size=32, n_layer=1, n_embd=16)
    monkeypatch.setattr(dante_gpt, "Config", small)
    text = inferno.clean_text(inferno.VERSES.read_text(encoding="utf-8"))
    text, last_tenth = dante_gpt.split(text)
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
