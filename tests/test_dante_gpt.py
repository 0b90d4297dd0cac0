"""dante_gpt.py: its protocol, its formulas, its runs, and the text it writes."""

import copy
import math
import re
import signal
from dataclasses import asdict, replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import common
import dante_gpt
import inferno
from conftest import CPU, EXPECTED, Run, only_line
from dante_gpt import CHECKPOINT, GPT, Config, Training

TEXT = inferno.clean_text(inferno.VERSES.read_text(encoding="utf-8"))
SIZE = len(set(TEXT))  # of the vocabulary
TINY = Config(steps=40, batch_size=4, block_size=16, n_layer=2, n_head=2, n_embd=16, dropout=0.1)
OPTIONS = [f"--{name.replace('_', '-')}={value}" for name, value in asdict(TINY).items()]


@pytest.fixture(autouse=True)
def seed_and_short_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(dante_gpt, "MEASURED_LENGTH", 300)


def random_model() -> GPT:
    """Return a model in eval mode whose predictions differ clearly, as if it had been trained."""
    model = GPT(TINY, SIZE).eval().requires_grad_(False)
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


def weights(folder: Path) -> torch.Tensor:
    """Return the saved weights of the model as one vector."""
    saved = common.load_tensors(folder / CHECKPOINT)["model"]
    return torch.cat([weight.flatten() for weight in saved.values()])


# --- Protocol -----------------------------------------------------------------------------------


def test_validation_text_is_the_last_tenth() -> None:
    learned, held_out = dante_gpt.split(TEXT)
    assert learned + held_out == TEXT
    assert len(held_out) == math.ceil(len(TEXT) / 10)


def test_every_seed_and_step_draws_windows_of_the_whole_training_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draw, drawn = torch.randint, []
    monkeypatch.setattr(torch, "randint", lambda *size: drawn.append(draw(*size)) or drawn[-1])
    for seed in (0, 1):
        training = Training(replace(TINY, seed=seed), TEXT[:100], CPU)
        for step in range(60):
            training.step(step)
    assert len({tuple(starts.tolist()) for starts in drawn}) == 120
    starts = torch.cat(drawn)
    assert (starts.min(), starts.max()) == (0, 90 - 16 - 1)  # a window has 17 characters


def test_training_uses_no_character_of_the_validation_text(tmp_path: Path) -> None:
    learned, held_out = dante_gpt.split(TEXT[:100])  # so short that any window is drawn
    losses, saved = [], []
    for validation in (held_out, held_out[::-1]):
        losses.append(train(tmp_path, text=learned + validation).history[-1][2])
        saved.append(weights(tmp_path))
    assert torch.equal(*saved)
    assert losses[0] != losses[1]


def test_validation_losses_change_no_weight_and_the_last_one_is_the_result(
    tmp_path: Path, whole: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([9, 8, 7, 6, 5, 1, 2, 3, 4, 4.5])  # the best after step 24
    monkeypatch.setattr(dante_gpt, "validation_loss", lambda *_: next(losses))
    _, out, _ = run("dante_gpt", *OPTIONS, "--text", inferno.VERSES, "--out-dir", tmp_path)
    assert only_line(out, "parameters ").split()[-1] == "4.5000"
    assert torch.equal(weights(tmp_path), weights(whole))


def test_loss_is_that_of_the_validation_text_without_dropout(whole: Path) -> None:
    saved, training = dante_gpt.load_checkpoint(whole, CPU), Training(TINY, TEXT, CPU)
    training.load(saved)
    start, model = len(dante_gpt.split(TEXT)[0]), training.model.eval()
    loss = dante_gpt.validation_loss(model, training.tokens, start, 16)
    assert training.validate() == loss == saved["history"][-1][2]


# --- Formulas -----------------------------------------------------------------------------------


def test_no_position_sees_a_later_one_or_another_row() -> None:
    model, tokens = random_model(), torch.randint(SIZE, (2, 16))
    for position in range(16):
        changed = tokens.clone()
        changed[0, position] = (changed[0, position] + 1) % SIZE
        is_close = torch.isclose(model(changed), model(tokens), atol=1e-5).all(dim=-1)
        assert is_close[0].tolist()[: position + 1] == [True] * position + [False]
        assert is_close[1].all()


def test_attention_is_that_of_the_textbook() -> None:
    model, x, heads = random_model(), torch.randn(1, 5, 16), []
    attention = model.blocks[0].attention
    q, k, v = (x[0] @ attention.qkv.weight.T).chunk(3, dim=-1)  # (time, n_embd) each
    later = torch.ones(5, 5).triu(1).bool()
    for head in (slice(0, 8), slice(8, 16)):
        queries, keys = (dante_gpt.rotate(y[:, head]) for y in (q, k))
        scores = queries @ keys.T / math.sqrt(8)
        scores[..., later] = -math.inf
        heads.append(scores.softmax(-1) @ v[:, head])
    expected = torch.cat(heads, dim=-1) @ attention.output.weight.T
    torch.testing.assert_close(attention(x)[0], expected)


def test_attention_scores_depend_on_distance_alone() -> None:
    q, k = torch.randn(8), torch.randn(8)
    queries, keys = (dante_gpt.rotate(x.expand(16, 8)) for x in (q, k))
    scores = queries @ keys.T  # (time, time)
    torch.testing.assert_close(scores[1:, 1:], scores[:-1, :-1])
    assert scores[0, 0].item() == pytest.approx((q @ k).item(), abs=1e-5)
    assert len(scores[:, 0].round(decimals=3).unique()) == 16


def test_dropout_acts_on_the_embedding_and_on_both_parts_of_a_block() -> None:
    model, x = GPT(replace(TINY, dropout=1.0), SIZE), torch.randn(1, 16, 16)
    assert torch.equal(model.blocks[0](x), x)
    assert not model(torch.zeros(1, 16, dtype=torch.int64)).any()


def test_steps_are_those_of_a_loop_with_the_optimizers_of_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)  # in torch.optim.Muon
    config = replace(TINY, dropout=0.0)
    training = Training(config, TEXT, CPU)
    model, before = (copy.deepcopy(training.model) for _ in range(2))
    matrices = [weight for weight in model.blocks.parameters() if weight.ndim == 2]
    others = [weight for weight in model.parameters() if all(weight is not m for m in matrices)]
    muon = torch.optim.Muon(matrices, config.muon_lr, weight_decay=0.1, momentum=0.95)
    adam = torch.optim.AdamW(others, config.adam_lr, weight_decay=0)
    schedules = [common.one_cycle(optimizer, config.steps) for optimizer in (muon, adam)]
    for step, starts in enumerate(torch.randint(1000, (6, 4))):
        monkeypatch.setattr(torch, "randint", lambda *_, starts=starts: starts)
        windows = torch.stack([training.tokens[start : start + 17] for start in starts])
        loss = F.cross_entropy(model(windows[:, :-1]).mT, windows[:, 1:])
        assert training.step(step) == pytest.approx(loss.item(), rel=1e-4)
        model.zero_grad()
        loss.backward()
        for part in (muon, adam, *schedules):
            part.step()
    for name, weight in model.named_parameters():
        update, expected = (
            x - before.get_parameter(name) for x in (training.model.get_parameter(name), weight)
        )
        assert (update - expected).norm() < 0.01 * expected.norm(), name


def test_validation_loss_counts_every_character_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, losses = random_model(), []
    monkeypatch.setattr(dante_gpt, "STRIDE", 8)
    text = torch.tensor(dante_gpt.encode(TEXT[:170], "".join(sorted(set(TEXT)))))
    for position in range(90, 170):
        first = 90 + (position - 90) // 8 * 8 - 1 - (16 - 8)  # of its window
        logits = model(text[None, first:position])[0, -1]
        losses.append(-logits.log_softmax(0)[text[position]].item())
        loss = dante_gpt.validation_loss(model, text[: position + 1], 90, 16)
        assert loss == pytest.approx(np.mean(losses), rel=1e-5)


# --- Writing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(0, 5), (2.5, 1), (1e-30, 5)])
def test_greedy_text_is_the_most_likely_one(options: tuple[float, int]) -> None:
    model, tokens = random_model(), torch.randint(SIZE, (1, 40))
    for token in dante_gpt.generate(model, tokens, 30, *options):
        assert token == model(tokens[:, -16:])[0, -1].argmax()  # the last block alone
        tokens = torch.cat([tokens, torch.tensor([[token]])], dim=1)
    assert tokens.shape == (1, 70)


@pytest.mark.parametrize("top_k", [3, 99])
def test_characters_are_sampled_by_temperature_and_top_k(top_k: int) -> None:
    model, tokens = random_model(), torch.tensor([[3]])
    logits = model(tokens)[0, -1]
    logits[logits < logits.topk(min(top_k, SIZE)).values[-1]] = -math.inf
    first = [next(dante_gpt.generate(model, tokens, 1, 2.0, top_k)) for _ in range(500)]
    for token, probability in enumerate((logits / 2).softmax(0).tolist()):
        assert first.count(token) / 500 == pytest.approx(probability, abs=0.07 * (probability > 0))


def test_every_option_of_the_sample_has_an_effect(whole: Path, run: Run) -> None:
    options = ("", "", "--temperature 2.5", "--top-k 2", "--seed 1", "--prompt mare")
    write = ["--generate", "--out-dir", whole, "--length", 50]
    first, again, *others = (run("dante_gpt", *write, *option.split())[1] for option in options)
    assert first == again
    assert len({first, *others}) == 5
    assert [len(text) for text in (first, *others)] == [51, 51, 51, 51, 55]  # and a line break
    assert others[-1].startswith("mare")


# --- Runs ---------------------------------------------------------------------------------------


def test_a_whole_run_prints_losses_sample_and_measures(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = TEXT[200:240]  # which counts neither as written nor copied
    options = ["--text", inferno.VERSES, "--out-dir", tmp_path, "--prompt", prompt]
    _, out, _ = run("dante_gpt", *OPTIONS, *options)
    learned, held_out = dante_gpt.split(TEXT)
    assert out.startswith(f"{len(learned):,} characters to train on, {len(held_out):,} to validate")
    for name, order in dante_gpt.NGRAMS.items():
        assert f"\n{name:24}{inferno.ngram_loss(learned, held_out, order):8.4f}" in out
    copies = map(int, re.findall(r"\nlongest copy\D+(\d+) +(\d+)\n", out)[0])
    assert max(copies) < len(prompt)  # the canto is no copy of itself
    assert (tmp_path / "loss.png").exists()
    options += ["--length", "200"]
    sample = run("dante_gpt", "--generate", *options)[1]
    monkeypatch.setattr(inferno, "print_measures", measure := Mock())
    assert f"\n\n{sample}\n" in run("dante_gpt", "--resume", *options)[1]  # no step is left
    assert measure.call_args.args[1:] == (learned, held_out)


@pytest.mark.parametrize(("options", "expected_code", "message"), [
    ("--resume", 1, "checkpoint.pt: no such checkpoint; train first"),
    ("--prompt ß中", 1, "the text does not contain 'ß', '中'; change --prompt"),
    ("--block-size 4096", 1, "with --block-size 4096 at least 40,970 are needed"),
    ("--n-embd 20 --n-head 4", 2, "--n-embd must be a multiple of twice --n-head"),
])  # fmt: skip
def test_error_is_one_line_before_the_training(
    options: str, expected_code: int, message: str, tmp_path: Path, run: Run
) -> None:
    files = ["--text", inferno.VERSES, "--out-dir", tmp_path / "run"]
    code, out, err = run("dante_gpt", *OPTIONS, *files, *options.split())
    assert (code, out) == (expected_code, "")
    assert message in err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_unknown_character_is_an_error_before_anything_is_written(whole: Path, run: Run) -> None:
    code, out, err = run("dante_gpt", "--generate", "--out-dir", whole, "--prompt", "ß")
    assert (code, out) == (1, "")
    only_line(err, "the text does not contain 'ß'; change --prompt")


def test_loss_that_is_not_finite_is_an_error() -> None:
    training = Training(TINY, TEXT, CPU)
    torch.nn.init.constant_(training.model.head.weight, math.nan)
    with pytest.raises(common.ScriptError, match="the validation loss is nan"):
        training.validate()
    with pytest.raises(common.ScriptError, match="the training loss is nan"):
        training.step(0)


@pytest.mark.parametrize(("options", "length", "steps"), [
    ("", 168_095, 3000),  # the Inferno
    ("", 6_590, 119),  # the verses: a longer run would memorise them
    ("--steps 500", 6_590, 500),
])  # fmt: skip
def test_a_short_text_is_read_37_times(options: str, length: int, steps: int) -> None:
    arguments = dante_gpt.parse_arguments(options.split())
    assert dante_gpt.make_config(arguments, length).steps == steps


def test_seed_decides_the_run_and_the_former_one_is_kept(tmp_path: Path, whole: Path) -> None:
    for seed in (0, 1):
        train(tmp_path, replace(TINY, seed=seed))
        assert (checkpoint(tmp_path) == checkpoint(whole)) == (seed == 0)
    assert (tmp_path / f"previous-{CHECKPOINT}").read_bytes() == checkpoint(whole)


@pytest.mark.parametrize("last", [4, 17, 39])
def test_a_run_resumed_after_ctrl_c_equals_a_whole_one(
    last: int, tmp_path: Path, whole: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(training: Training, number: int) -> float:
        return signal.default_int_handler(2, None) if number == last else make(training, number)

    make, files = Training.step, ["--text", inferno.VERSES, "--out-dir", tmp_path]
    with monkeypatch.context() as patch:
        patch.setattr(Training, "step", step)
        code, _, err = run("dante_gpt", *OPTIONS, *files)
    assert code == 130
    only_line(err, f"saved after step {last // 4 * 4}; continue with --resume")
    code, _, _ = run("dante_gpt", "--resume", *files, "--steps", 7)  # the saved options are used
    assert code == 0
    assert checkpoint(tmp_path) == checkpoint(whole)


def test_run_of_another_text_is_not_resumed(whole: Path) -> None:
    training = Training(TINY, TEXT.replace("mare", "male"), CPU)
    with pytest.raises(common.ScriptError, match="the saved run has another text"):
        training.load(dante_gpt.load_checkpoint(whole, CPU))


@pytest.mark.parametrize("option", ["--resume", "--generate"])
@pytest.mark.parametrize("config", [{"layers": 2}, {**asdict(TINY), "n_layer": 1}])
def test_damaged_checkpoint_is_named(
    config: dict, option: str, tmp_path: Path, whole: Path, run: Run
) -> None:
    saved = common.load_tensors(whole / CHECKPOINT)
    common.save_tensors(tmp_path / CHECKPOINT, saved | {"config": config})
    code, out, err = run("dante_gpt", option, "--text", inferno.VERSES, "--out-dir", tmp_path)
    assert (code, out) == (1, "")
    only_line(err, CHECKPOINT)


def test_the_recorded_run_is_that_of_the_default_options() -> None:
    recorded = (EXPECTED / "dante_gpt.txt").read_text(encoding="utf-8")
    parameters = sum(weight.numel() for weight in GPT(Config(), 58).parameters())
    assert f"\nGPT, {parameters:,} parameters" in recorded


def test_curve_shows_the_loss_of_each_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "save_figure", save := Mock())
    dante_gpt.draw_curve([[4, 2.0, 3.0]], {}, tmp_path)
    (axes,) = save.call_args.args[0].axes
    drawn = {line.get_label(): [*line.get_ydata()] for line in axes.lines}
    assert drawn == {"training text": [2.0], "validation text": [3.0]}


def test_training_loss_is_the_mean_since_the_last_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Training, "step", lambda _, step: float(step))
    assert [row[1] for row in train(tmp_path).history[:2]] == [1.5, 5.5]  # of steps 0 to 3, 4 to 7


def test_frequencies_fall_from_1_to_nearly_a_1024th() -> None:
    x = torch.tensor([1.0] * 4 + [0.0] * 4).expand(2, 8)
    cos, sin = dante_gpt.rotate(x)[1].chunk(2)  # (4,) each, of the angles at position 1
    frequencies = torch.tensor([1, 1024**-0.25, 1024**-0.5, 1024**-0.75])
    torch.testing.assert_close(torch.atan2(sin, cos), frequencies)


def test_seed_decides_the_first_weights() -> None:
    models = [Training(replace(TINY, seed=seed), TEXT, CPU).model for seed in (0, 1)]
    assert not torch.equal(*(model.embedding.weight for model in models))
