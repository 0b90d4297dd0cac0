"""lab_common.py: the Inferno's text, features of texts, and the tuning loop."""

from __future__ import annotations

import hashlib
import html
from itertools import chain
from pathlib import Path
from unittest.mock import Mock, patch

import common
import lab_common
import task07
import task11
from lab_common import all_layers_pooling, cls_pooling, mean_pooling

import numpy as np
import pytest
import torch
from conftest import Server, load_pair, only_line
from transformers import AutoModel

Capture, Patch = pytest.CaptureFixture, pytest.MonkeyPatch
POEM = 'Nel mezzo del cammin\n  <<verso & verso>>, "detto",\n\nCanto II\n\na riveder le stelle.'
ETEXT = f"LA DIVINA COMMEDIA\n\nInferno: Canto I\n\n\n{POEM}\n\n\nEnd of the etext\n"
PAGE = "<!DOCTYPE html>\n<title>Nel mezzo</title><p>Menu &amp; search</p>\n<pre class='x'>"
PAGE += f"{html.escape(ETEXT)}</pre></html>"
FORMS = {
    "poem alone": POEM.encode(),
    "CRLF": ETEXT.replace("\n", "\r\n").encode(),
    "byte-order mark": b"\xef\xbb\xbf" + ETEXT.encode(),
    "trailing whitespace": ETEXT.replace("\n", " \t\n").encode(),
    "HTML with CRLF": PAGE.replace("\n", "\r\n").encode(),
    "HTML with tags": PAGE.replace("mezzo", "<b>mezzo</b>").encode(),
    "HTML with non-breaking spaces": PAGE.replace("\n  ", "\n&nbsp; ").encode(),
    "Latin-1": ("\xc8 il poema\n" + ETEXT).encode("latin-1"),
}
WORDS = task07.CONTEXT.split()  # that the tiny encoder knows
TEXTS = [" ".join(WORDS[i : i + 1 + i % 7]) for i in range(40)]


@pytest.mark.parametrize("raw", FORMS.values(), ids=FORMS)
def test_every_form_of_the_etext_gives_the_poem(
    raw: bytes, tmp_path: Path, monkeypatch: Patch
) -> None:
    digest = hashlib.sha256(POEM.encode()).hexdigest()
    monkeypatch.setattr(lab_common, "INFERNO_SHA256", digest)
    (tmp_path / "etext").write_bytes(raw)
    assert lab_common.load_inferno(tmp_path / "etext") == POEM


OTHER_TEXTS = {
    "another edition": ETEXT.strip("\n"),
    "first and last words": f"Part one\n{POEM}\nPart two\n{POEM}\nPart three",
    "a quotation of HTML": "A page starts with\n<html><pre>\nand ends with </pre>.",
    "non-breaking spaces": "10\xa0km",
}


@pytest.mark.parametrize("text", OTHER_TEXTS.values(), ids=OTHER_TEXTS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1252"])
def test_other_text_is_used_whole_with_a_note(
    text: str, encoding: str, tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "song.txt"
    path.write_bytes((text + "\n").encode(encoding) + b"\x1a" * (encoding == "cp1252"))
    assert lab_common.load_inferno(path) == text
    assert f"{path}: not the edition of the Inferno used " in capsys.readouterr().err


def test_note_says_how_much_of_a_file_is_the_inferno(
    tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    digest = hashlib.sha256(POEM.encode()).hexdigest()
    monkeypatch.setattr(lab_common, "INFERNO_SHA256", digest)
    path = tmp_path / "comedy.txt"
    path.write_text(f"{POEM}\n\nPURGATORIO\n{'o' * 100}", encoding="utf-8")
    assert lab_common.load_inferno(path) == POEM
    only_line(capsys.readouterr().err, f"only the Inferno is used, {len(POEM)} of")


@pytest.mark.parametrize(("content", "problem"), [
    (b"<pre> \r\n</pre>", "the file is empty"),
    (b"\x81\x00\x81", "not a text file"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS"),
])  # fmt: skip
def test_file_without_text_is_named(content: bytes, problem: str, tmp_path: Path) -> None:
    (tmp_path / "song.txt").write_bytes(content)
    with pytest.raises(common.ScriptError, match=f"song.txt: {problem}"):
        lab_common.load_inferno(tmp_path / "song.txt")


@pytest.fixture
def archive(server: Server, monkeypatch: Patch) -> Server:
    """Serve a page without a digest as the first source, and a file with one as the second."""
    address, digest = f"http://127.0.0.1:{server.server_port}", hashlib.sha256(POEM.encode())
    sources = {f"{address}/page": None, f"{address}/copy": digest.hexdigest()}
    monkeypatch.setattr(lab_common, "INFERNO_SHA256", digest.hexdigest())
    monkeypatch.setattr(lab_common, "INFERNO_SOURCES", sources)
    return server


@pytest.mark.parametrize(("page", "copy", "behaviour", "reason"), [
    (PAGE, "", "honest", None),
    ("<pre>Log in to read on", POEM, "honest", None),
    ("", POEM.replace("verso", "versa"), "honest", "has the wrong SHA-256"),
    (PAGE, POEM, "missing", "404"),
    (PAGE, POEM, "breaks off", "failed"),
])  # fmt: skip
def test_sources_are_tried_in_order_and_the_embedded_verses_last(
    page: str, copy: str, behaviour: str, reason: str | None, archive: Server, capsys: Capture
) -> None:
    archive.files, archive.behaviour = {"page": page.encode(), "copy": copy.encode()}, behaviour
    path, requests = lab_common.find_inferno(), ["/page"] if copy == "" else ["/page", "/copy"]
    if reason is None:
        assert lab_common.clean_text(common.read_text(path)) == POEM
        assert lab_common.find_inferno() == path  # without a second download
    else:
        assert path == lab_common.VERSES
        assert not list((common.DATA / "dante").iterdir())
        assert reason in only_line(capsys.readouterr().err, "verses written for this project")
    assert archive.requests == requests


@pytest.mark.parametrize("checkpoint", [task07.EXTRACTIVE_MODEL, task11.MODEL])
def test_features_equal_those_of_each_text_alone(
    checkpoint: str, checkpoints: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(lab_common, "BATCH_TOKENS", 30)  # several batches
    monkeypatch.setattr(lab_common, "MAX_TOKENS", 6)
    model, tokenizer = load_pair(checkpoints / checkpoint, AutoModel)  # GPT-2 has no padding token
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


def test_features_are_cached_by_content(checkpoints: Path, monkeypatch: Patch) -> None:
    model, tokenizer = load_pair(checkpoints / task07.EXTRACTIVE_MODEL, AutoModel)
    compute = Mock(wraps=lab_common.compute_features)
    monkeypatch.setattr(lab_common, "compute_features", compute)

    def features(texts: list[str], pooling: lab_common.Pooling = mean_pooling) -> np.ndarray:
        return lab_common.encode(model, tokenizer, texts, {"x": pooling})["x"]

    first = features(TEXTS)
    assert np.array_equal(features(TEXTS), first)
    assert compute.call_count == 1
    assert not np.array_equal(features(TEXTS, cls_pooling), first)
    assert np.array_equal(features(TEXTS[::-1]), first[::-1])
    for path in (common.RESULTS / "features").iterdir():
        path.write_bytes(path.read_bytes()[:-100])  # damaged
    assert np.array_equal(features(TEXTS), first)
    assert compute.call_count == 4
    model.config.n_heads, former = 2, model.config.n_heads
    features(TEXTS)
    assert compute.call_count == 5  # another configuration
    model.config.n_heads = former
    next(model.parameters()).requires_grad_(False).mul_(2)
    assert not np.array_equal(features(TEXTS), first)


@pytest.mark.parametrize("rows", [1, 50, 1003])
def test_batches_hold_every_row_once_per_epoch_in_new_orders(rows: int) -> None:
    lengths = np.random.default_rng(0).integers(1, 200, rows).tolist()
    for batches in (lab_common.random_batches(rows, 5, 2, each) for each in (None, lengths)):
        epochs = batches[: len(batches) // 2], batches[len(batches) // 2 :]
        for epoch in epochs:
            assert (max(map(len, epoch)), len(epoch)) == (min(rows, 5), -(-rows // 5))
            assert sorted(chain.from_iterable(epoch)) == list(range(rows))
        assert rows == 1 or epochs[0] != epochs[1]
    if rows == 1003:  # rows of similar length share a batch
        padded = sum(max(lengths[row] for row in batch) * len(batch) for batch in batches)
        assert padded < 1.1 * 2 * sum(lengths)


def test_training_takes_one_step_per_batch_and_ends_at_rate_zero() -> None:
    model, weights = torch.nn.Linear(1, 1, bias=False).eval(), []

    def batch_loss(batch: list[int]) -> torch.Tensor:
        weights.append(model.weight.item())
        return model.weight.sum()  # its gradient is always 1, so AdamW moves by the rate

    with patch.object(common, "one_cycle", wraps=common.one_cycle) as one_cycle:
        lab_common.train(model, batch_loss, [[0]] * 100, 0.01)
    (group,) = one_cycle.call_args.args[0].param_groups
    assert group["lr"] == pytest.approx(0, abs=1e-12)
    moves = -np.diff([*weights, model.weight.item()])
    assert (len(moves), model.training) == (100, False)  # in eval mode as before
    assert moves[9] == max(moves) == pytest.approx(0.01, rel=0.05)
    assert max(5 * moves[0], 1000 * moves[-1]) < moves[9]
    with pytest.raises(common.ScriptError, match="the training loss is nan, not a finite number"):
        lab_common.train(model, lambda _: model.weight.sum() * torch.nan, [[0]], 0.01)
