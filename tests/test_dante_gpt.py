"""dante_gpt.py: the model, its optimisers, its runs, and the text it writes."""

from __future__ import annotations

import copy
import math
import re
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

import common
import dante_gpt
import dante_verse
import lab_common
from dante_gpt import CHECKPOINT, GPT, HASH_ROWS, Config, Training

import numpy as np
import pytest
import torch
from conftest import CPU, ROOT, only_line
from torch.nn import functional as F

Capture, Patch = pytest.CaptureFixture, pytest.MonkeyPatch
VERSES = lab_common.VERSES
TEXT = lab_common.clean_text(VERSES.read_text(encoding="utf-8"))
SIZE = len(set(TEXT))  # of the vocabulary
TINY = Config(steps=40, batch_size=4, block_size=16, n_layer=2, n_head=2, n_embd=16, dropout=0.1)
OPTIONS = [f"--{name.replace('_', '-')}={value}" for name, value in asdict(TINY).items()]


@pytest.fixture(autouse=True)
def seed_and_short_sample(monkeypatch: Patch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(dante_gpt, "MEASURED_LENGTH", 300)


def random_model(vocabulary: int = SIZE) -> GPT:
    """Return a model in eval mode without zero weights, as if it had been trained."""
    model = GPT(TINY, vocabulary).eval().requires_grad_(False)
    for weight in model.parameters():
        weight.normal_(std=0.3)
    return model


def train(folder: Path, config: Config = TINY, text: str = TEXT) -> Training:
    training = Training(config, text, CPU)
    training.run(folder)
    return training


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    torch.set_num_threads(1)
    train(folder)
    return folder


def checkpoint(folder: Path) -> bytes:
    return (folder / CHECKPOINT).read_bytes()


def run_here(folder: Path, *more: object) -> int:
    """Run the script in this process, by default on the embedded verses."""
    options = ["--out-dir", folder, "--text", VERSES, *more]
    return common.run(lambda: dante_gpt.main([str(option) for option in options]))


def test_no_position_sees_a_later_one_or_another_row() -> None:
    model, tokens = random_model(), torch.randint(SIZE, (2, 16))
    for position in range(16):
        changed = tokens.clone()
        changed[0, position] = (changed[0, position] + 1) % SIZE
        is_equal = torch.isclose(model(changed), model(tokens), atol=1e-5).all(dim=-1)
        assert is_equal[0].tolist()[: position + 1] == [True] * position + [False]
        assert is_equal[1].all()


def test_attention_is_that_of_the_textbook() -> None:
    model, x, heads = random_model(), torch.randn(1, 5, 16), []
    attention, rotation = model.blocks[0].attention, model.rotation[:, :5]
    q, k, v = (x[0] @ attention.qkv.weight.T).chunk(3, dim=-1)  # (time, n_embd) each
    for head in (slice(0, 8), slice(8, 16)):
        normed = (F.layer_norm(y[:, head], (8,)) for y in (q, k))
        queries, keys = (dante_gpt.rotate(y, rotation) for y in normed)
        scores = queries @ keys.T / math.sqrt(8)
        scores[torch.ones(5, 5).triu(1).bool()] = -math.inf
        heads.append(scores.softmax(-1) @ v[:, head])
    expected = torch.cat(heads, dim=-1) @ attention.output.weight.T
    torch.testing.assert_close(attention(x, rotation, None)[0], expected)


def test_attention_scores_depend_on_distance_alone() -> None:
    rotation, q, k = GPT(TINY, SIZE).rotation, torch.randn(8), torch.randn(8)
    queries, keys = (dante_gpt.rotate(x.expand(16, 8), rotation) for x in (q, k))
    scores = queries @ keys.T  # (time, time)
    torch.testing.assert_close(scores[1:, 1:], scores[:-1, :-1])
    assert scores[0, 0].item() == pytest.approx((q @ k).item(), abs=1e-5)
    assert len(scores[:, 0].round(decimals=3).unique()) == 16


@pytest.mark.parametrize("vocabulary", [9, 4000])  # with 4000 the pairs share rows by hashing
def test_embedding_is_the_sum_of_character_pair_and_triple(vocabulary: int) -> None:
    model, text = random_model(vocabulary), [2, 7, 5, 3, vocabulary - 1]
    embedded = model.embed(torch.tensor([text[2:]]), torch.tensor([text[:2]]))[0]  # (3, n_embd)
    rows = min(vocabulary**2, HASH_ROWS)
    characters, pairs, triples = model.embedding.weight.split([vocabulary, rows, HASH_ROWS])
    for row, (a, b, c) in zip(embedded, zip(text, text[1:], text[2:], strict=False), strict=True):
        pair, triple = b * vocabulary + c, (a * vocabulary + b) * vocabulary + c
        expected = characters[c] + pairs[pair % rows] + triples[triple % HASH_ROWS]
        torch.testing.assert_close(row, expected)


def test_training_drops_channels_at_all_times_and_ngrams_of_blocks() -> None:
    model = random_model()
    tokens, last_two = torch.tensor([[5, 3]] * 2000), torch.tensor([[2, 7]] * 2000)
    inputs: list[torch.Tensor] = []  # of the first block: (batch, time, n_embd) each
    model.blocks[0].register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    for is_training in (False, True):
        model.train(is_training)(tokens)
        alone = (model.embed(tokens, last_two) == model.embedding.weight[tokens]).all(dim=-1)
        is_dropped = inputs[-1] == 0
        for flags, expected in ((is_dropped, 0.1), (alone, dante_gpt.NGRAM_DROPOUT)):
            assert (flags == flags[:, :1]).all()  # equal at all times
            assert flags.float().mean() == pytest.approx(expected * is_training, abs=0.04)


def test_steps_are_those_of_a_loop_with_the_optimizers_of_torch() -> None:
    config = replace(TINY, dropout=0.0)
    training = Training(config, TEXT, CPU)
    assert not training.model(torch.randint(SIZE, (3, 16))).any()  # a new model: equal logits
    training.model.load_state_dict(random_model().state_dict())
    model = copy.deepcopy(training.model)
    before = copy.deepcopy(model.state_dict())
    muon = torch.optim.Muon(model.blocks.parameters(), weight_decay=0.1, momentum=0.95)
    others = [model.embedding.weight, model.head.weight]
    adam = torch.optim.AdamW(others, betas=(0.8, 0.95), weight_decay=0)
    for step in (0, 1, 2, 18, 19, 20, 21):  # the learning rates rise for 20 steps
        numbers = range(4 * step, 4 * step + 4)
        starts = [dante_gpt.block_start(n, training.train_length, config) for n in numbers]
        windows = torch.stack([training.tokens[start : start + 17] for start in starts])
        loss = F.cross_entropy(model(windows[:, :-1]).mT, windows[:, 1:])
        assert training.step(step) == pytest.approx(loss.item(), rel=1e-3)
        for optimizer, rate in ((muon, config.muon_rate), (adam, config.adam_rate)):
            optimizer.param_groups[0]["lr"] = rate * min((step + 1) / 20, 1 - step / 40)
            optimizer.zero_grad()
        loss.backward()
        muon.step()
        adam.step()
    values = torch.linalg.svdvals(dante_gpt.orthogonalise(torch.randn(64, 16)))
    assert (values - 0.9).abs().max() < 0.4
    for name, weight in model.named_parameters():
        moved, expected = training.model.get_parameter(name) - before[name], weight - before[name]
        assert (moved - expected).norm() < 0.05 * moved.norm()  # torch's Muon uses bfloat16


def test_loss_that_is_no_number_is_an_error() -> None:
    training = Training(TINY, TEXT, CPU)
    torch.nn.init.constant_(training.model.head.weight, math.nan)
    for compute, name in (
        (training.validate, "validation"),
        (lambda: training.step(0), "training"),
    ):
        with pytest.raises(
            common.ScriptError, match=f"the {name} loss is nan, not a finite number"
        ):
            compute()


def test_validation_loss_counts_every_character_once(monkeypatch: Patch) -> None:
    model = random_model()
    monkeypatch.setattr(dante_gpt, "STRIDE", 8)
    text = torch.tensor(dante_gpt.encode(TEXT[:170], "".join(sorted(set(TEXT)))))
    losses = []
    for position in range(90, 170):
        first = 90 + (position - 90) // 8 * 8 - 1 - (16 - 8)  # of its window
        logits = model(text[None, first:position])[0, -1]
        losses.append(-logits.log_softmax(0)[text[position]].item())
        loss = dante_gpt.validation_loss(model, text[: position + 1], 90, 16)
        assert loss == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize("length", [100, 1000, 1024])
def test_every_pass_uses_each_block_once_in_another_order(length: int) -> None:
    blocks, orders = (length - 1) // 16 - 1, set()
    for first in range(0, 3 * blocks, blocks):
        starts = [dante_gpt.block_start(first + n, length, TINY) for n in range(blocks)]
        assert 0 <= min(starts) <= max(starts) <= length - 16 - 1  # a block and the next character
        assert set(np.diff(sorted(starts))) == {16}
        orders.add(tuple(starts))
    orders.add(
        tuple(dante_gpt.block_start(n, length, replace(TINY, seed=1)) for n in range(blocks))
    )
    assert len(orders) == 4


def test_training_uses_no_character_of_the_validation_text(tmp_path: Path) -> None:
    learned, held_out = dante_gpt.split(TEXT[:2000])  # 40 steps are more than one pass over it
    first, second = (train(tmp_path, text=learned + x) for x in (held_out, held_out[::-1]))
    pairs = zip(first.model.parameters(), second.model.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)
    assert first.history[-1][2] != second.history[-1][2]


def test_a_run_learns_and_its_final_weights_are_saved_and_validated(tmp_path: Path) -> None:
    training = train(tmp_path, replace(TINY, steps=100, n_embd=32))
    steps, losses, validation = zip(*training.history, strict=True)
    assert steps == tuple(range(10, 101, 10))
    assert losses[-1] < 2.9 < 3.3 < losses[0]
    training.model.load_state_dict(dante_gpt.load_checkpoint(tmp_path, CPU)["model"])
    start = len(dante_gpt.split(TEXT)[0])  # of the validation text
    loss = dante_gpt.validation_loss(training.model.eval(), training.tokens, start, 16)
    assert training.validate() == training.validate() == loss == validation[-1]  # no dropout
    modes: list[bool] = []
    training.model.register_forward_pre_hook(lambda model, _: modes.append(model.training))
    training.step(50)
    assert modes == [True]  # with dropout, although `validate` has switched it off


def test_seed_decides_the_run_and_the_former_one_is_kept(tmp_path: Path, whole: Path) -> None:
    for seed in (0, 1):
        train(tmp_path, replace(TINY, seed=seed))
        assert (checkpoint(tmp_path) == checkpoint(whole)) == (seed == 0)
    assert (tmp_path / f"previous-{CHECKPOINT}").read_bytes() == checkpoint(whole)
    first, second = (Training(replace(TINY, seed=seed), TEXT, CPU) for seed in (0, 1))
    pairs = zip(first.model.blocks.parameters(), second.model.blocks.parameters(), strict=True)
    assert not all(torch.equal(*pair) for pair in pairs)  # new weights, not only another order


def test_every_option_of_the_sample_has_an_effect(whole: Path, capsys: Capture) -> None:
    saved, samples = dante_gpt.load_checkpoint(whole, CPU), []
    model = GPT(saved["config"], SIZE).eval()
    model.load_state_dict(saved["model"])
    for temperature, top_k, seed in ((0.8, 40, 0), (2.5, 40, 0), (0.8, 2, 0), (0.8, 40, 1)):
        options = ["--temperature", temperature, "--top-k", top_k, "--seed", seed]
        assert run_here(whole, "--generate", "--length", 50, *options) == 0
        samples.append(capsys.readouterr().out[:-1])
        tokens = dante_gpt.generate(model, [0], temperature, top_k, seed)
        assert samples[-1] == "".join(saved["characters"][t] for t in islice(tokens, 50))
    assert len(set(samples)) == 4


@pytest.mark.parametrize(("options", "length", "steps"), [
    ("", 168_095, 3000),  # the Inferno
    ("", 6_590, 119),  # the verses: a longer run would memorise them
    ("--batch-size 16", 6_590, 59),
    ("--quick", 6_590, 100),
    ("--steps 500", 6_590, 500),
])  # fmt: skip
def test_a_short_text_is_read_37_times(options: str, length: int, steps: int) -> None:
    arguments = dante_gpt.parse_arguments(options.split())
    assert dante_gpt.make_config(arguments, None, length).steps == steps


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 40])
def test_the_cache_changes_no_character(length: int) -> None:
    model, prompt = random_model(), torch.randint(SIZE, (length,)).tolist()
    tokens, window, expected = list(prompt), prompt[-16:], []
    for _ in range(60):  # far beyond the block of 16
        expected.append(int(model(torch.tensor([window]))[0, -1].argmax()))
        tokens.append(expected[-1])
        window = tokens[-len(window) - 1 :] if len(window) < 16 else tokens[-8:]
    generated = dante_gpt.generate(model, prompt, temperature=0, top_k=5, seed=0)
    assert list(islice(generated, 60)) == expected


@pytest.mark.parametrize("top_k", [3, 99])
def test_characters_are_sampled_by_seed_temperature_and_top_k(top_k: int) -> None:
    model = random_model()
    logits = model(torch.tensor([[3]]))[0, -1]
    logits[logits < logits.topk(min(top_k, SIZE)).values[-1]] = -math.inf
    first = [next(dante_gpt.generate(model, [3], 2.0, top_k, seed)) for seed in range(400)]
    for token, probability in enumerate((logits / 2).softmax(0).tolist()):
        assert first.count(token) / 400 == pytest.approx(probability, abs=0.07 * (probability > 0))
    assert next(dante_gpt.generate(model, [3], 2.0, top_k, 1)) == first[1]
    assert next(dante_gpt.generate(model, [3], 1e-30, top_k, 1)) == logits.argmax()


def test_a_whole_run_prints_losses_sample_and_measures(
    tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    folder, prompt = Path("run"), TEXT[200:240]  # which counts neither as written nor as copied
    write = ["--prompt", prompt, "--length", 200]
    assert run_here(folder, *OPTIONS, "--seed", 1, *write) == 0
    out, saved = capsys.readouterr().out, dante_gpt.load_checkpoint(folder, CPU)
    lines, sizes, loss = out.splitlines(), map(len, dante_gpt.split(TEXT)), saved["history"][-1][2]
    assert lines[0] == "{:,} characters to train on, {:,} to validate on".format(*sizes)
    for line, (name, order) in zip(lines[2:5], dante_gpt.NGRAMS.items(), strict=True):
        baseline = dante_verse.ngram_loss(*dante_gpt.split(TEXT), order)
        assert line.startswith(f"{name:24}{baseline:8.4f}")
    assert lines[5] == f"GPT, 0.2 M parameters   {loss:8.4f}{loss / math.log(2):8.4f}"
    assert re.search(r"\n\n {40}  the sample   held-out canto\n(.{69}\n){5}$", out)
    assert (tmp_path / "run" / "loss.png").read_bytes().startswith(b"\x89PNG")
    copies = map(int, re.findall(r"\nlongest copy\D+(\d+) +(\d+)\n", out)[0])
    assert max(copies) < len(prompt)  # the canto is no copy of itself
    assert saved["config"] == replace(TINY, seed=1)
    assert run_here(folder, "--generate", *write) == 0  # writes the sample of the run again
    assert f"\n\n{capsys.readouterr().out}\n" in out
    assert run_here(folder, "--resume", *write) == 0  # no step is left
    assert capsys.readouterr().out == out


@pytest.mark.parametrize(("more", "message"), [
    ("--resume", "checkpoint.pt: no such checkpoint; train first"),
    ("--prompt ß中", "the training text does not contain 'ß', '中'; change --prompt"),
    ("--n-embd 20 --n-head 4", "--n-embd 20 is not a multiple of twice --n-head 4"),
    ("--block-size 4096", "with --block-size 4096 at least 40,970 are needed"),
])  # fmt: skip
def test_error_is_one_line(more: str, message: str, tmp_path: Path, capsys: Capture) -> None:
    assert run_here(tmp_path / "run", *OPTIONS, *more.split()) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n"), message in err) == ("", 1, True)
    assert not list(tmp_path.glob("run/*"))


@pytest.mark.parametrize("last", [4, 17, 39])
def test_a_run_resumed_after_ctrl_c_equals_a_whole_one(
    last: int, tmp_path: Path, whole: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    def start(number: int, *rest: object) -> int:
        return signal.default_int_handler(2, None) if number == 4 * last else find(number, *rest)

    find = dante_gpt.block_start
    with monkeypatch.context() as patch:
        patch.setattr(dante_gpt, "block_start", start)
        assert run_here(tmp_path, *OPTIONS) == 130
    note = f"saved after step {last // 4 * 4}; continue with --resume"
    assert only_line(capsys.readouterr().err, note)
    assert run_here(tmp_path, "--resume") == 0  # with the saved configuration
    assert checkpoint(tmp_path) == checkpoint(whole)


def test_a_run_resumed_after_a_kill_equals_a_whole_one(tmp_path: Path, whole: Path) -> None:
    command = [sys.executable, ROOT / "dante_gpt.py", *OPTIONS, "--text", VERSES]
    command += ["--out-dir", tmp_path]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert any("step 16:" in line for line in process.stderr or [])
        process.kill()
    assert run_here(tmp_path, "--resume") == 0
    assert checkpoint(tmp_path) == checkpoint(whole)


@pytest.mark.parametrize(("option", "message"), [
    ("--seed=1", "--resume: the saved run has other options, Config("),
    ("--text=text.txt", "the saved run has another text; leave out --resume"),
])  # fmt: skip
def test_another_run_is_not_resumed(
    option: str, message: str, whole: Path, tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT.replace("mare", "male"), encoding="utf-8")
    assert run_here(whole, "--resume", option) == 1
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_damaged_checkpoint_is_named(tmp_path: Path, whole: Path) -> None:
    content, path = checkpoint(whole), tmp_path / CHECKPOINT
    common.save_tensors(path, {"config": {"layers": 2}})  # of another program
    for damaged in (b"", content[: len(content) // 2], content[:-9], path.read_bytes()):
        path.write_bytes(damaged)
        with pytest.raises(common.ScriptError, match=r"checkpoint.pt: not a checkpoint \("):
            dante_gpt.load_checkpoint(tmp_path, CPU)


def test_the_loss_after_the_last_step_is_the_result(
    tmp_path: Path, whole: Path, capsys: Capture
) -> None:
    saved = common.load_tensors(whole / CHECKPOINT)
    last, saved["history"][4][2] = saved["history"][-1][2], 0.5  # a better one on the way
    common.save_tensors(tmp_path / CHECKPOINT, saved)
    assert run_here(tmp_path, "--resume", "--length", 10) == 0  # no step is left
    lines = capsys.readouterr().out.splitlines()
    assert [line[:24].strip() for line in lines[5:7]] == [
        "GPT, 0.2 M parameters",
        "best during the run",
    ]
    assert [line.split()[-2] for line in lines[5:7]] == [f"{last:.4f}", "0.5000"]
