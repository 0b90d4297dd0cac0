"""The character GPT: its parts against naive versions, its runs against interruptions."""

from __future__ import annotations

import math
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

import common
import dante_gpt
from dante_gpt import Config, Training

TEXT = common.clean_text(common.VERSES.read_bytes())
CHARACTERS = "".join(sorted(set(TEXT)))
ABSENT = "mps" if torch.cuda.is_available() else "cuda"
TINY = Config(steps=40, batch_size=4, block_size=16, n_layer=2, n_head=2, n_embd=16, dropout=0.1)
TINY_OPTIONS = "--steps=40 --batch-size=4 --block-size=16 --n-layer=2 --n-head=2 --n-embd=16"
Run = Callable[..., subprocess.CompletedProcess]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Compute on one thread, as the sums of several may differ in the last digit."""
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def accelerator() -> object:
    """Give the accelerator of a single process on the CPU."""
    from accelerate import Accelerator

    return Accelerator(cpu=True)


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    """Draw weights none of which is zero, as if they had been trained."""
    drawn = dante_gpt.new_weights(TINY, len(CHARACTERS))
    return {name: torch.randn(weight.shape) * 0.3 for name, weight in drawn.items()}


# Counting


def test_ngrams_by_hand() -> None:
    # "aab" then "a": unigram counts a 2, b 1, of 2 kinds, and 2 characters in all:
    # p(a) = (2 + 2 * 1/2) / (3 + 2). After "b" nothing was seen, so the bigram says the same.
    assert dante_gpt.ngram_loss("aab", "a", 1) == pytest.approx(-math.log(3 / 5))
    assert dante_gpt.ngram_loss("aab", "a", 2) == pytest.approx(-math.log(3 / 5))
    # "aab" then "ab": after "a" came a and b, once each: p(b | a) = (1 + 2 * p(b)) / (2 + 2)
    p_b = (1 + 2 * 1 / 2) / 5
    losses = -math.log(3 / 5), -math.log((1 + 2 * p_b) / 4)
    assert dante_gpt.ngram_loss("aab", "ab", 2) == pytest.approx(sum(losses) / 2)


def witten_bell(train: str, vocabulary: str, context: str, character: str) -> float:
    """The definition, as a recursion over all of the text."""
    after = Counter(
        train[i + len(context)]
        for i in range(len(train) - len(context))
        if train.startswith(context, i)
    )
    shorter = witten_bell(train, vocabulary, context[1:], character) if context else 0.0
    shorter = shorter or 1 / len(vocabulary)
    if not after:
        return shorter
    return (after[character] + len(after) * shorter) / (after.total() + len(after))


@settings(max_examples=30, deadline=None)
@given(
    st.text("abc", min_size=1, max_size=30),
    st.text("abcd", min_size=1, max_size=8),
    st.integers(1, 5),
)
def test_ngrams_are_witten_and_bell_s(train: str, validation: str, order: int) -> None:
    text, vocabulary = train + validation, "".join(set(train + validation))
    loss = 0.0
    for end in range(len(train), len(text)):
        context = text[max(0, end - order + 1) : end]
        given_context = [witten_bell(train, vocabulary, context, c) for c in vocabulary]
        assert sum(given_context) == pytest.approx(1)
        loss -= math.log(witten_bell(train, vocabulary, context, text[end]))
    assert dante_gpt.ngram_loss(train, validation, order) == pytest.approx(loss / len(validation))


def test_ngrams_of_the_inferno(inferno: Path) -> None:
    train, validation = dante_gpt.split(common.load_inferno(inferno))
    assert (len(train), len(validation)) == (168_095, 18_678)
    losses = [dante_gpt.ngram_loss(train, validation, order) for order in (1, 2, 5)]
    assert losses == pytest.approx([3.0426, 2.3245, 1.6244], abs=1e-4)


# The model


def test_a_new_model_finds_all_characters_equally_likely() -> None:
    fresh = dante_gpt.new_weights(TINY, len(CHARACTERS))
    logits = dante_gpt.gpt(fresh, TINY, torch.randint(len(CHARACTERS), (3, 16)))
    assert logits.shape == (3, 16, len(CHARACTERS))
    assert (logits == 0).all()


def test_no_position_sees_a_later_one(weights: dict) -> None:
    tokens = torch.randint(len(CHARACTERS), (2, 16))
    before = dante_gpt.gpt(weights, TINY, tokens)
    for changed in range(16):
        others = tokens.clone()
        others[:, changed] = (others[:, changed] + 1) % len(CHARACTERS)
        after = dante_gpt.gpt(weights, TINY, others)
        torch.testing.assert_close(after[:, :changed], before[:, :changed])
        assert not torch.allclose(after[:, changed], before[:, changed])


def test_rows_of_a_batch_do_not_meet(weights: dict) -> None:
    tokens = torch.randint(len(CHARACTERS), (3, 16))
    together = dante_gpt.gpt(weights, TINY, tokens)
    alone = torch.cat([dante_gpt.gpt(weights, TINY, row[None]) for row in tokens])
    torch.testing.assert_close(together, alone)


def test_attention_is_the_textbook_s(weights: dict) -> None:
    x, turn = torch.randn(1, 5, 16), dante_gpt.angles(0, 5, 8, torch.device("cpu"))
    q, k, v = (x[0] @ weights["0.attention.in"].T).chunk(3, dim=-1)  # (time, n_embd) each
    heads = []
    for head in range(2):
        part = slice(8 * head, 8 * head + 8)
        queries, keys = (
            dante_gpt.rotate(torch.nn.functional.layer_norm(y[:, part], (8,)), *turn)
            for y in (q, k)
        )
        scores = queries @ keys.T / math.sqrt(8)
        scores[torch.ones(5, 5).triu(1).bool()] = -math.inf
        heads.append(scores.softmax(-1) @ v[:, part])
    by_hand = torch.cat(heads, dim=-1) @ weights["0.attention.out"].T
    torch.testing.assert_close(dante_gpt.attend(x, weights, 0, turn, None)[0], by_hand)


def test_a_token_is_looked_up_with_the_two_before_it(weights: dict) -> None:
    size = len(CHARACTERS)
    tokens = torch.tensor([[5, 3, 8]])
    found = dante_gpt.embed(tokens, torch.tensor([[2, 7]]), weights, 0.0)[0]  # (time, n_embd)
    table, text = weights["embedding"], [2, 7, 5, 3, 8]
    pairs, triples = table[size:], table[size + size * size :]
    for place, (a, b, c) in enumerate(zip(text, text[1:], text[2:], strict=False)):
        shared = ((a * size + b) * size + c) % dante_gpt.SHARED
        by_hand = table[c] + pairs[b * size + c] + triples[shared]
        torch.testing.assert_close(found[place], by_hand)


def test_many_kinds_of_characters_do_not_need_a_row_for_every_pair() -> None:
    weights = dante_gpt.new_weights(TINY, 4000)  # a Chinese novel's
    assert len(weights["embedding"]) == 4000 + 2 * dante_gpt.SHARED
    tokens = torch.tensor([[3999, 3998, 0, 1]])
    found = dante_gpt.embed(tokens, torch.tensor([[3999, 3999]]), weights, 0.0)
    assert found.shape == (1, 4, TINY.n_embd)


def test_some_blocks_are_read_by_characters_alone(weights: dict) -> None:
    tokens, last = torch.tensor([[5, 3]] * 2000), torch.tensor([[2, 7]] * 2000)
    found = dante_gpt.embed(tokens, last, weights, 0.1)  # (batch, time, n_embd)
    alone = (found == weights["embedding"][tokens]).all(dim=-1)  # (batch, time)
    assert (alone[:, 0] == alone[:, 1]).all()
    assert alone[:, 0].float().mean().item() == pytest.approx(dante_gpt.NGRAM_DROPOUT, abs=0.04)


def test_rotated_queries_and_keys_know_their_distance_only() -> None:
    q, k = torch.randn(1, 8), torch.randn(1, 8)

    def turned(x: torch.Tensor, position: int) -> torch.Tensor:
        return dante_gpt.rotate(x, *dante_gpt.angles(position, 1, 8, torch.device("cpu")))

    products = [(turned(q, start + 3) * turned(k, start)).sum().item() for start in (0, 1, 50)]
    assert products == pytest.approx([products[0]] * 3, abs=1e-5)
    assert (turned(q, 4) * turned(k, 0)).sum().item() != pytest.approx(products[0], abs=1e-3)
    assert turned(q, 7).norm().item() == pytest.approx(q.norm().item(), rel=1e-6)


def test_dropping_keeps_the_mean_and_drops_a_channel_at_all_times() -> None:
    dropped = dante_gpt.drop(torch.ones(200, 3, 50), 0.25)
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (dropped == dropped[:, :1]).all()


def test_muon_s_step_has_singular_values_near_one() -> None:
    for shape in ((16, 64), (64, 16), (32, 32)):
        values = torch.linalg.svdvals(dante_gpt.orthogonalise(torch.randn(shape)))
        assert values.min() > 0.5
        assert values.max() < 1.3


def test_the_update_is_torch_s_muon_and_adamw(accelerator: object) -> None:
    training = Training(TINY, TEXT, accelerator)
    ours = {name: weight.detach().clone() for name, weight in training.weights.items()}
    theirs = {name: weight.clone().requires_grad_() for name, weight in ours.items()}
    matrices = [weight for name, weight in theirs.items() if "." in name]
    muon = torch.optim.Muon(matrices, TINY.muon_rate, weight_decay=0.1, momentum=0.95)
    adam = torch.optim.AdamW(
        [weight for name, weight in theirs.items() if "." not in name],
        TINY.adam_rate, betas=(0.8, 0.95), weight_decay=0,
    )  # fmt: skip
    torch.manual_seed(1)
    for step in range(20, 24):  # the warm-up is over
        gradients = {name: torch.randn(weight.shape) for name, weight in theirs.items()}
        with torch.no_grad():
            training.update(step, gradients)
        for optimizer, rate in ((muon, TINY.muon_rate), (adam, TINY.adam_rate)):
            optimizer.param_groups[0]["lr"] = rate * (1 - step / TINY.steps)
        for name, weight in theirs.items():
            weight.grad = gradients[name]
        muon.step()
        adam.step()
    for name, weight in theirs.items():
        moved, expected = training.weights[name] - ours[name], weight - ours[name]
        tolerance = 0.03 if "." in name else 1e-4  # torch's Muon computes in bfloat16
        assert (moved - expected).norm() < tolerance * expected.norm(), name


@pytest.mark.parametrize("length", [100, 160, 161, 175, 176])
def test_the_validation_loss_is_that_of_every_character_once(weights: dict, length: int) -> None:
    tokens = torch.tensor(dante_gpt.encode(TEXT[:length], CHARACTERS))
    start, block, stride = 90, TINY.block_size, 16  # the stride is at most a block
    losses = []
    for position in range(start, length):
        window = (position - start) // stride
        first = start + window * stride - 1 - (block - stride)
        logits = dante_gpt.gpt(weights, TINY, tokens[None, first:position])[0, -1]
        losses.append(-logits.log_softmax(0)[tokens[position]].item())
    found = dante_gpt.validation_loss(partial(dante_gpt.gpt, weights, TINY), tokens, start, block)
    assert found == pytest.approx(np.mean(losses), rel=1e-5)


# Training


def train(config: Config, folder: Path, accelerator: object, text: str = TEXT) -> Training:
    training = Training(config, text, accelerator)
    training.run(folder)
    return training


def test_a_run_learns_and_keeps_its_best_weights(tmp_path: Path, accelerator: object) -> None:
    sizes = {"batch_size": 8, "block_size": 16, "n_layer": 1, "n_head": 2, "n_embd": 32}
    config = Config(steps=100, dropout=0.0, **sizes)
    training = train(config, tmp_path, accelerator)
    steps, losses, validation = zip(*training.history, strict=True)
    assert steps == tuple(range(10, 101, 10))
    assert losses[-1] < 2.7 < 3.5 < losses[0]
    weights, read, characters = dante_gpt.read_weights(tmp_path, torch.device("cpu"))
    assert (read, characters) == (config, CHARACTERS)
    training.average = weights
    again = training.validate()
    assert again == pytest.approx(min(validation), abs=1e-9)


def test_the_best_weights_stay_when_later_ones_are_worse(
    tmp_path: Path, accelerator: object
) -> None:
    training = Training(TINY, TEXT, accelerator)
    training.save(tmp_path, [4, 3.0, 2.5])
    training.history = [[4, 3.0, 2.5]]
    best = (tmp_path / dante_gpt.WEIGHTS).read_bytes()
    training.average["head"] += 1
    training.save(tmp_path, [8, 2.9, 2.6])
    assert (tmp_path / dante_gpt.WEIGHTS).read_bytes() == best


def test_bfloat16_learns_like_float32(accelerator: object) -> None:
    losses = []
    for precision in (torch.float32, torch.bfloat16):
        training = Training(TINY, TEXT, accelerator)
        training.accelerator = SimpleNamespace(
            process_index=0, num_processes=1,
            autocast=partial(torch.autocast, "cpu", precision, enabled=precision is torch.bfloat16),
        )  # fmt: skip
        losses.append([training.step(step) for step in range(20)])
    assert losses[1] == pytest.approx(losses[0], abs=0.02)
    assert losses[1] != losses[0]


@pytest.mark.slow
def test_the_compiled_model_is_one_graph_and_the_same(accelerator: object) -> None:
    config = Config(**{**vars(TINY), "dropout": 0.0})
    compiled, plain = (Training(config, TEXT, accelerator) for _ in range(2))
    compiled.forward = torch.compile(dante_gpt.gpt, backend="aot_eager", fullgraph=True)
    losses = [[training.step(step) for step in range(8)] for training in (compiled, plain)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_a_batch_that_cannot_be_shared_is_one_line() -> None:
    three = SimpleNamespace(device=torch.device("cpu"), num_processes=3)
    with pytest.raises(common.ScriptError, match="--batch-size 4 cannot be shared evenly by 3 pr"):
        Training(TINY, TEXT, three)


def test_the_same_seed_gives_the_same_losses(tmp_path: Path, accelerator: object) -> None:
    first, second = (train(TINY, tmp_path / name, accelerator) for name in "ab")
    assert first.history == second.history
    other = train(Config(**{**vars(TINY), "seed": 1}), tmp_path / "c", accelerator)
    assert other.history != first.history


def test_a_resumed_run_is_one_never_interrupted(
    tmp_path: Path, accelerator: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(TINY, tmp_path / "whole", accelerator)
    for last in (4, 17, 39):
        with monkeypatch.context() as patch:
            step = Training.step

            def stop(self: Training, number: int, last: int = last, step: Run = step) -> float:
                if number == last:
                    raise KeyboardInterrupt
                return step(self, number)

            patch.setattr(Training, "step", stop)
            with pytest.raises(KeyboardInterrupt):
                train(TINY, tmp_path / "cut", accelerator)
        torch.rand(5)  # what was drawn in between changes nothing
        training = Training(TINY, TEXT, accelerator)
        training.load(tmp_path / "cut")
        assert training.history == whole.history[: last // 4]
        training.run(tmp_path / "cut")
        assert training.history == whole.history
        best, expected = (
            dante_gpt.read_weights(tmp_path / name, torch.device("cpu"))[0]
            for name in ("cut", "whole")
        )
        assert all(torch.equal(best[name], expected[name]) for name in expected)


@pytest.mark.parametrize("length", [100, 1000, 1024])
def test_every_pass_takes_every_block_once(length: int) -> None:
    blocks = (length - 1) // TINY.block_size - 1
    orders = []
    for number in range(3):
        numbers = range(number * blocks, (number + 1) * blocks)
        starts = [dante_gpt.block_start(n, length, TINY) for n in numbers]
        assert min(starts) >= 0
        assert max(starts) + TINY.block_size + 1 <= length  # a block and what follows it
        assert set(np.diff(sorted(starts))) <= {TINY.block_size}
        orders.append(starts)
    assert orders[0] != orders[1] != orders[2]


@pytest.mark.parametrize(
    ("config", "text", "named"),
    [
        (Config(**{**vars(TINY), "seed": 1}), TEXT, "seed, 0 and not 1"),
        (Config(**{**vars(TINY), "dropout": 0.2}), TEXT, "dropout, 0.1 and not 0.2"),
        (TINY, TEXT + "!", "text, "),
    ],
)
def test_another_run_is_not_resumed(
    config: Config, text: str, named: str, tmp_path: Path, accelerator: object
) -> None:
    training = Training(TINY, TEXT, accelerator)
    training.save(tmp_path, [4, 3.0, 2.5])
    with pytest.raises(common.ScriptError, match=re.escape(f"a run of other {named}")):
        Training(config, text, accelerator).load(tmp_path)


def test_a_state_that_is_none_is_one_line(tmp_path: Path, accelerator: object) -> None:
    with pytest.raises(common.ScriptError, match=r"state.pt: no run to go on with; leave out --re"):
        dante_gpt.read_state(tmp_path)
    training = Training(TINY, TEXT, accelerator)
    training.save(tmp_path, [4, 3.0, 2.5])
    path = tmp_path / dante_gpt.STATE
    whole = path.read_bytes()
    torch.save({"weights": torch.zeros(2)}, tmp_path / "other.pt")
    other = (tmp_path / "other.pt").read_bytes()
    for content in (b"", b"hello", whole[: len(whole) // 2], whole[:-1], other, b"\x80\x02N."):
        path.write_bytes(content)
        with pytest.raises(common.ScriptError, match="not a run that can be resumed"):
            dante_gpt.read_state(tmp_path)


def test_weights_that_are_none_are_one_line(tmp_path: Path) -> None:
    path, cpu = tmp_path / dante_gpt.WEIGHTS, torch.device("cpu")
    with pytest.raises(common.ScriptError, match="train first"):
        dante_gpt.read_weights(tmp_path, cpu)
    common.save_weights(path, {"w": torch.zeros(2)}, {"experiment": "{}"})
    with pytest.raises(common.ScriptError, match="not the weights of a run"):
        dante_gpt.read_weights(tmp_path, cpu)
    for content in (b"", b"hello", path.read_bytes()[:-1]):
        path.write_bytes(content)
        with pytest.raises(common.ScriptError, match="not a file of saved weights"):
            dante_gpt.read_weights(tmp_path, cpu)


def test_minutes_are_turned_into_steps(accelerator: object) -> None:
    steps = dante_gpt.steps_for(0.05, Training(TINY, TEXT, accelerator))
    assert 50 < steps < 5000  # three seconds of steps that take milliseconds
    assert dante_gpt.steps_for(0, Training(TINY, TEXT, accelerator)) == dante_gpt.EVALUATIONS


# Writing


def uncached(weights: dict, prompt: list[int], length: int) -> list[int]:
    """Choose the likeliest token, computing the whole window anew for each."""
    tokens = list(prompt)
    for _ in range(length):
        window = tokens[dante_gpt.window_start(len(tokens), TINY.block_size) :]
        logits = dante_gpt.gpt(weights, TINY, torch.tensor([window]))[0, -1]
        tokens.append(int(logits.argmax()))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("prompt", [1, 2, 15, 16, 17, 40])
def test_the_cache_changes_no_token(weights: dict, prompt: int) -> None:
    tokens = torch.randint(len(CHARACTERS), (prompt,)).tolist()
    cached = dante_gpt.generate(weights, TINY, tokens, temperature=0, top_k=5, seed=0)
    assert list(islice(cached, 60)) == uncached(weights, tokens, 60)  # far past the block of 16


@given(st.integers(1, 3000), st.integers(1, 200))
def test_the_window_moves_by_half_a_block_when_it_is_full(length: int, block: int) -> None:
    start = dante_gpt.window_start(length, block)
    assert start == 0 if length <= block else length - block <= start < length
    assert start % max(1, block // 2) == 0
    assert dante_gpt.window_start(length + 1, block) - start in (0, max(1, block // 2))


def test_sampling_keeps_to_the_likeliest_and_to_its_seed(weights: dict) -> None:
    def write(temperature: float, top_k: int, seed: int = 0) -> list[int]:
        return list(islice(dante_gpt.generate(weights, TINY, [0], temperature, top_k, seed), 40))

    greedy = write(0, 5)
    assert write(1.5, 1) == write(1e-30, 5) == greedy
    assert write(1.0, 1000) == write(1.0, 1000) != write(1.0, 1000, seed=1)
    assert greedy != write(1.0, 1000)
    logits = dante_gpt.gpt(weights, TINY, torch.tensor([[0]]))[0, -1]
    likeliest = set(logits.topk(3).indices.tolist())
    firsts = {next(dante_gpt.generate(weights, TINY, [0], 5.0, 3, seed)) for seed in range(60)}
    assert firsts == likeliest


def test_drawn_tokens_have_the_shares_of_the_softmax(weights: dict) -> None:
    shares = (dante_gpt.gpt(weights, TINY, torch.tensor([[3]]))[0, -1] / 2).softmax(0)
    drawn = Counter(next(dante_gpt.generate(weights, TINY, [3], 2.0, 99, s)) for s in range(1500))
    for token in shares.topk(5).indices.tolist():
        assert drawn[token] / 1500 == pytest.approx(shares[token].item(), abs=0.04)


def test_a_prompt_of_other_characters_is_one_line() -> None:
    with pytest.raises(common.ScriptError, match=r"never uses '€', '中'$"):
        dante_gpt.encode("nel €中中 mezzo", CHARACTERS)
    numbers = dante_gpt.encode("il mare", CHARACTERS)
    assert "".join(CHARACTERS[number] for number in numbers) == "il mare"


# Judging


def test_the_longest_copy_by_hand() -> None:
    assert dante_gpt.longest_copy("una selva scura", "per una selva oscura") == "una selva "
    assert dante_gpt.longest_copy("abc", "xyz") == ""
    assert dante_gpt.longest_copy("", "xyz") == ""


@given(st.text("ab", max_size=12), st.text("ab", max_size=12))
def test_the_longest_copy_is_the_longest(text: str, source: str) -> None:
    stretches = {text[i:j] for i in range(len(text)) for j in range(i + 1, len(text) + 1)} | {""}
    longest = max(len(stretch) for stretch in stretches if stretch in source)
    assert len(dante_gpt.longest_copy(text, source)) == longest


def test_the_share_of_copied_stretches_by_hand() -> None:
    source = "abcdefghijklmnopqrstuvwxyz"
    assert dante_gpt.copied_share(source[:20] + "!!", source) == pytest.approx(1 / 3)
    assert dante_gpt.copied_share("too short", source) == 0


def test_the_share_of_known_words_by_hand() -> None:
    assert dante_gpt.known_words("Che' piu` PIU' 7 vita!", "la vita, che' piu`") == 3 / 4
    assert dante_gpt.known_words("perché è", "perche` e`") == 1
    assert dante_gpt.known_words("", "la vita") == 0


@pytest.mark.parametrize(
    ("verse", "syllables"),
    [
        ("Nel mezzo del cammin di nostra vita", 11),
        ("  mi ritrovai per una selva oscura", 11),  # selva_oscura are joined
        ("Tant'e` amara che poco e` piu` morte;", 10),  # is 11 with amara apart from e`
        ("La bocca sollevo` dal fiero pasto", 11),
        ("quel peccator, forbendola a' capelli", 11),
        ("in sul paese ch'Adice e Po riga", 10),  # pa-e-se is a hiatus
        ("che di la` cangia stile", 7),
        ("abbandono`", 5),
        ("perché", 3),  # a last accent counts one more, as a letter or as a sign
        ("", 0),
    ],
)
def test_syllables_by_hand(verse: str, syllables: int) -> None:
    assert dante_gpt.count_syllables(verse) == syllables


@pytest.mark.parametrize(
    ("verse", "ending"),
    [
        ("Nel mezzo del cammin di nostra vita", "ita"),
        ("  che' la diritta via era smarrita.", "ita"),
        ("diro` de l'altre cose ch'i' v'ho scorte.", "orte"),
        ("che tu mi segui, e io saro` tua guida, pero`", "o`"),
        ("e disse: perché", "e`"),
        ("re", "e"),
        ("...", ""),
    ],
)
def test_rhymes_by_hand(verse: str, ending: str) -> None:
    assert dante_gpt.rhyme(verse) == ending


def test_terza_rima_by_hand() -> None:
    good = "vita\nscura\nsmarrita\n\ndura\nforte\npaura\n\nmorte\ntrovai\nscorte"
    assert dante_gpt.terza_rima(good) == 1
    assert dante_gpt.terza_rima(good.replace("forte", "verde")) == 1 / 2
    assert dante_gpt.terza_rima(good.replace("smarrita", "verde")) == 1 / 2
    assert dante_gpt.terza_rima("vita\nscura\nsmarrita") == 0  # no tercet follows
    assert dante_gpt.terza_rima("one\n\ntwo lines\nhere") == 0


def test_the_poem_keeps_its_own_rules(inferno: Path) -> None:
    poem = common.load_inferno(inferno)
    assert dante_gpt.terza_rima(poem) > 0.95
    assert dante_gpt.eleven_syllables(poem) == pytest.approx(0.73, abs=0.01)
    shuffled = poem.split("\n")
    np.random.default_rng(0).shuffle(shuffled)
    assert dante_gpt.eleven_syllables("\n".join(shuffled)) == dante_gpt.eleven_syllables(poem)
    assert dante_gpt.terza_rima("\n".join(shuffled)) < 0.1


def test_our_verses_keep_them_too() -> None:
    assert dante_gpt.terza_rima(TEXT) == 1
    assert dante_gpt.eleven_syllables(TEXT) > 0.6


# At the terminal


def options(folder: Path, *more: object) -> list[str]:
    """Return the command line of a tiny run on our verses."""
    text = [] if "--text" in more else ["--text", common.VERSES]
    return [*TINY_OPTIONS.split(), "--dropout=0.1", *map(str, [*text, "--out-dir", folder, *more])]


def run_here(*arguments: object) -> int:
    """Run the script in this process and return its exit code."""
    return common.run(lambda: dante_gpt.main([str(argument) for argument in arguments]))


def start(folder: Path, *more: object, **others: object) -> subprocess.Popen:
    """Start a tiny run in a process of its own."""
    command = [sys.executable, str(ROOT / "dante_gpt.py"), *options(folder, *more)]
    # a job in the background starts with Ctrl-C ignored, and so do the tests it runs
    others = {"preexec_fn": partial(signal.signal, signal.SIGINT, signal.SIG_DFL)} | others
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **others
    )


def read_until(process: subprocess.Popen, what: str) -> None:
    """Read what a process says until it says this."""
    assert any(what in line for line in process.stderr)


def kill(process: subprocess.Popen) -> None:
    """Kill a process and let go of what it wrote to."""
    process.kill()
    process.communicate(timeout=60)


def curve_of(folder: Path) -> str:
    return (folder / "loss.csv").read_text()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    torch.set_num_threads(1)
    assert run_here(*options(folder)) == 0
    return folder


def test_a_whole_run_and_what_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "run"
    assert run_here(*options(folder, "--prompt", "Nel", "--length", 200)) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{int(0.9 * len(TEXT)):,} characters to train on, ")
    losses = dict(re.findall(r"^(\w.*?) {2,}(\d\.\d{4})", out, flags=re.MULTILINE))
    assert list(losses)[:3] == ["unigram", "bigram", "Witten-Bell 5-gram"]
    curve = [line.split(",") for line in curve_of(folder).splitlines()]
    assert curve[0] == ["step", "train", "validation"]
    assert [row[0] for row in curve[1:]] == [str(step) for step in range(4, 41, 4)]
    ours = next(float(loss) for name, loss in losses.items() if name.startswith("GPT, "))
    assert ours == round(min(float(row[2]) for row in curve[1:]), 4)
    assert re.search(r"verses of eleven syllables +\d+\.\d% +\d+\.\d%\n", out)
    assert err.count("characters/s, ") == dante_gpt.EVALUATIONS
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")

    write = ["--generate", "--out-dir", folder]
    assert run_here(*write, "--prompt", "Nel", "--length", 100) == 0
    written = capsys.readouterr().out
    assert len(written) == len("Nel") + 100 + 1
    assert f"\n\n{written.rstrip(chr(10))}" in out  # from the same seed
    assert run_here(*write, "--prompt", "Nel", "--length", 0) == 0
    assert capsys.readouterr().out == "Nel\n"
    assert run_here(*write, "--prompt", "日本") == 1
    line = "the text that was learnt from never uses '日', '本'\n"
    assert capsys.readouterr().err.endswith(f": {line}")


@pytest.mark.parametrize(
    "option",
    [
        "--temperature=-1", "--temperature=nan", "--length=-1", "--length=1e3", "--top-k=0",
        "--dropout=1", "--minutes=-1", "--steps=0",
    ],
)  # fmt: skip
def test_a_number_out_of_range_exits_with_2(option: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        dante_gpt.main([option])
    assert ended.value.code == 2
    assert re.search(r"is not a (whole )?number from \d+ to \d", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["--text", "none.txt"], "none.txt: no such file; --text takes a text file"),
        (["--resume"], "state.pt: no run to go on with; leave out --resume"),
        (["--generate"], "weights.safetensors: no such weights; train first, or give --out-dir"),
        (["--prompt", "ß"], "the text that was learnt from never uses 'ß'"),
        (["--n-embd", "20", "--n-head", "4"], "--n-embd 20 is not a multiple of twice --n-head 4"),
        (["--block-size", "4096"], "a --block-size of 4096 needs at least 40,970"),
        (
            ["--device", ABSENT],
            f"no {ABSENT} device on this machine; leave out --device or use cpu",
        ),
        (["--out-dir", "/dev/null/run"], "/dev/null/run: Not a directory"),
    ],
)
def test_what_cannot_work_is_one_line(
    more: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run_here(*options(tmp_path / "run", *more)) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert line in err.splitlines()[-1]
    assert not list(tmp_path.glob("run/*"))


def test_a_wrong_path_is_answered_at_once(run_script: Run) -> None:
    shown = run_script("dante_gpt.py", "--text", "none.txt")
    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr == "dante_gpt.py: none.txt: no such file; --text takes a text file\n"


def test_ctrl_c_keeps_the_best_and_still_writes(tmp_path: Path) -> None:
    process = start(tmp_path, "--steps=1000")
    read_until(process, "step 100:")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert re.search(r"^dante_gpt.py: interrupted; --resume goes on from step \d+00$", err, re.M)
    assert "GPT, " in out
    assert "tercets in terza rima" in out
    assert (tmp_path / dante_gpt.WEIGHTS).exists()


def test_killed_and_then_out_of_disk_it_ends_with_the_same_losses(
    tmp_path: Path, whole: Path
) -> None:
    process = start(tmp_path)
    read_until(process, "step 16:")
    kill(process)
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (5_000, 5_000))  # bytes a file
    kept = {path.name: path.read_bytes() for path in tmp_path.glob("[!.]*")}
    process = start(tmp_path, "--resume", preexec_fn=limit)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert "Traceback" not in err
    assert err.splitlines()[-1].endswith("File too large")
    assert {path.name: path.read_bytes() for path in tmp_path.glob("[!.]*")} == kept
    assert run_here(*options(tmp_path, "--resume")) == 0
    assert curve_of(tmp_path) == curve_of(whole)


def test_a_run_is_resumed_without_repeating_its_sizes(tmp_path: Path, whole: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "loss.csv").unlink()
    again = ["--resume", "--out-dir", tmp_path / "run", "--text", common.VERSES]
    assert run_here(*again) == 0
    assert curve_of(tmp_path / "run") == curve_of(whole)


@pytest.mark.parametrize("other", ["--n-layer=3", "--steps=50", "--seed=1"])
def test_other_sizes_are_refused(other: str, whole: Path, capsys: pytest.CaptureFixture) -> None:
    before = {path.name: path.read_bytes() for path in whole.iterdir()}
    assert run_here("--resume", "--out-dir", whole, "--text", common.VERSES, other) == 1
    name = other.strip("-").partition("=")[0].replace("-", "_")
    assert f"state.pt: a run of other {name}, " in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in whole.iterdir()} == before


def test_a_new_run_keeps_the_one_before(tmp_path: Path, whole: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    (folder / "notes.txt").write_text("mine")
    assert run_here(*options(folder, "--seed", "1")) == 0
    for name in (dante_gpt.WEIGHTS, dante_gpt.STATE):
        before = (whole / name).read_bytes()
        assert (folder / f"previous-{name}").read_bytes() == before
        assert (folder / name).read_bytes() != before
    assert (folder / "notes.txt").read_text() == "mine"


def test_another_run_in_the_folder_does_not_change_what_is_written(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    run = Training.run

    def run_beside_another(training: Training, folder: Path) -> None:
        run(training, folder)
        (folder / dante_gpt.WEIGHTS).unlink()  # as the other does, to put its own there

    monkeypatch.setattr(Training, "run", run_beside_another)
    assert run_here(*options(tmp_path / "run")) == 0
    written = capsys.readouterr().out
    assert run_here("--generate", "--out-dir", whole) == 0
    assert capsys.readouterr().out.rstrip() in written


@pytest.mark.slow
def test_two_processes_share_the_work(tmp_path: Path, accelerator: object) -> None:
    config = Config(**{**vars(TINY), "dropout": 0.0})
    alone = train(config, tmp_path / "alone", accelerator).history
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    shown = subprocess.run(
        [*launch, "--num_processes=2", ROOT / "dante_gpt.py",
         *options(tmp_path / "two", "--dropout=0", "--device=cpu")],
        capture_output=True, text=True, check=False, cwd=tmp_path, timeout=100,
        env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count("characters to train on") == 1
    assert dante_gpt.read_state(tmp_path / "two")["settings"]["processes"] == 2
    rows = [[float(n) for n in line.split(",")] for line in curve_of(tmp_path / "two").split()[1:]]
    np.testing.assert_allclose(rows, alone, rtol=2e-3)  # the same batches, summed otherwise


@pytest.mark.slow
def test_ten_kills_at_any_moment_change_no_loss(tmp_path: Path) -> None:
    steps, random = "--steps=2000", np.random.default_rng(0)
    assert run_here(*options(tmp_path / "whole", steps)) == 0
    for _ in range(10):
        resume = ["--resume"] if (tmp_path / "cut" / dante_gpt.STATE).exists() else []
        process = start(tmp_path / "cut", steps, *resume)
        read_until(process, "0%|")
        time.sleep(random.uniform(0, 3))
        kill(process)
    assert run_here(*options(tmp_path / "cut", steps, "--resume")) == 0
    assert curve_of(tmp_path / "cut") == curve_of(tmp_path / "whole")
