"""Models from the Hugging Face Hub: finding, fetching and loading them, and what they write."""

from __future__ import annotations

import hashlib
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
from pathlib import Path
from shutil import copytree

import huggingface_hub
import pandas as pd
import pytest
import torch
from checkpoints import CHECKPOINTS, COMMIT, fill_cache, put_in_cache
from conftest import NOBODY, ROOT, Pair, load_pair
from transformers import AutoTokenizer

import common
import task04
import task05
import task07
import task08
import task10
import task11

RECORDED = json.loads((ROOT / "tests" / "expected" / "pipelines.json").read_text("utf-8"))
CPU = torch.device("cpu")
Run = Callable[..., subprocess.CompletedProcess]


@pytest.fixture(scope="session")
def home(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a cache that holds every default model."""
    home = tmp_path_factory.mktemp("huggingface")
    fill_cache(home, checkpoints)
    return home


def without_network(home: Path) -> dict[str, str]:
    """Return the environment of a script whose Hub is nowhere, with this cache."""
    names = ("PATH", "SYSTEMROOT", "OMP_NUM_THREADS")
    kept = {name: value for name, value in os.environ.items() if name in names}
    return kept | {"HF_HOME": str(home), "HF_ENDPOINT": NOBODY, "HOME": str(home)}


@pytest.fixture(scope="session")
def gpt2(checkpoints: Path) -> Pair:
    return load_pair(checkpoints / task11.MODEL.name)


@pytest.fixture(scope="session")
def t5(checkpoints: Path) -> Pair:
    return load_pair(checkpoints / task07.GENERATIVE_MODEL.name)


@pytest.fixture(scope="session")
def chat(checkpoints: Path) -> Pair:
    return load_pair(checkpoints / task05.MODEL.name)


@pytest.fixture(scope="session")
def reader(checkpoints: Path) -> Pair:
    folder = checkpoints / task07.EXTRACTIVE_MODEL.name
    return load_pair(folder, "AutoModelForQuestionAnswering")


# The scripts, as they are typed

ENGLISH = RECORDED["english"]
PRINTED = {  # the whole standard output of every script, as a pattern
    "task04.py": re.escape(RECORDED["summary"] + "\n"),
    "task05.py": re.escape(f"Customer review:\n{task05.REVIEW}\n\nHotel reponse to the customer:\n")
    + r"(?s:.+)\n",
    "task06.py": re.escape(RECORDED["bulgarian"] + "\n"),
    "task07.py": re.escape(
        f"Answer extractive question-answering: {RECORDED['answer']['answer']}\n"
    )
    + r"Answer generative question-answering: .+\n",
    "task08.py": r"(?s:Tokenized training data:\n\{'input_ids': .+num_rows: 2\n\}\)\n)",
    "task09.py": r"(?s:.+Training accuracy: \d\.\d+\n.+Test accuracy: \d\.\d\n.+)",
    "task10.py": r"(POSITIVE|NEGATIVE)\n",
    "task11.py": rf"(?s:Generated Text: {re.escape(task11.PROMPT)}.+)\n"
    r"Mean perplexity: \d+\.\d+\n",
    "task12.py": re.escape(f'Translation for "input_sentence_1": {ENGLISH[0]}\n')
    + r'Metric for "input_sentence_1": \d\.\d+\n'
    + re.escape(f'Translations for "input_sentence_2": {ENGLISH}\n')
    + r'Metric for "input_sentence_2": \d\.\d+\n',
}


RUN_ALL = """
import os, runpy, sys
# Once for all: this takes longer than any of the scripts.
import datasets, sacrebleu, torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, GenerationMixin, Trainer
from transformers import DistilBertForQuestionAnswering, GPT2LMHeadModel, LlamaForCausalLM
from transformers import MarianMTModel, T5ForConditionalGeneration
for script in sys.argv[2:]:
    child = os.fork()
    if child == 0:
        for stream, kind in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{script}.{kind}", os.O_CREAT | os.O_WRONLY), stream)
        sys.path.insert(0, sys.argv[1])
        sys.argv = [script, *(["--out-dir", "kept"] if script == "task09.py" else [])]
        try:
            runpy.run_path(f"{sys.path[0]}/{script}", run_name="__main__")
        except SystemExit as end:
            sys.stdout.flush()
            os._exit(end.code)  # without the second that it takes to tidy up
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_every_script_runs_as_typed_with_its_models_in_the_cache(
    home: Path, tmp_path: Path
) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", RUN_ALL, str(ROOT), *PRINTED],
        env=without_network(home), cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for script, code in zip(PRINTED, ended.stdout.split(), strict=True):
        shown, noted = ((tmp_path / f"{script}.{kind}").read_text() for kind in ("out", "err"))
        assert code == "0", (script, noted)
        assert re.fullmatch(PRINTED[script], shown), (script, shown)
        assert not re.search("Traceback|Warning|bundled", noted), (script, noted)


# Finding a model


def test_without_network_and_cache_it_is_one_line_within_five_seconds(
    tmp_path: Path, run_script: Run
) -> None:
    start = time.monotonic()
    done = run_script("task04.py", env=without_network(tmp_path))
    assert time.monotonic() - start < 5 + 3  # to start Python and the Hub's library
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        "task04.py: the model cnicu/t5-small-booksum (242 MB) is not on this machine, and no "
        "answer from 127.0.0.1:9; fetch it once with `python common.py --fetch "
        "cnicu/t5-small-booksum`, or give the folder of a copy with --model DIR\n"
    )


def test_the_line_names_the_option_of_the_model_that_is_missing(cache: Path) -> None:
    with pytest.raises(common.ScriptError, match="with --generative-model DIR"):
        common.load_pretrained("x", "a/b", task07.GENERATIVE_MODEL, "cpu", "--generative-model")


@pytest.mark.parametrize("name", ["./nowhere", "/no/where", "a/b/c", "a b", "-x", "a..b"])
def test_what_is_no_folder_and_no_name_is_one_line(name: str, cache: Path) -> None:
    with pytest.raises(common.ScriptError, match="no such folder, and no name of a model"):
        common.find_model(name, task04.MODEL)


def test_a_folder_goes_before_the_hub(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkpoints)
    assert common.find_model("cnicu/t5-small-booksum", task04.MODEL).samefile(
        checkpoints / "cnicu" / "t5-small-booksum"
    )


def test_a_name_that_offline_mode_forbids_to_ask_for(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(common.ScriptError, match="HF_HUB_OFFLINE forbids"):
        common.find_model("a/b", task04.MODEL)


@pytest.mark.parametrize("missing", ["model.safetensors", "spiece.model tokenizer_config.json"])
def test_half_a_model_in_the_cache_is_not_taken_for_one(
    missing: str, cache: Path, checkpoints: Path
) -> None:
    put_in_cache(cache, task04.MODEL.name, checkpoints / task04.MODEL.name)
    folder = common.cached_model(task04.MODEL.name)
    assert folder is not None
    for name in missing.split():
        (folder / name).unlink()
    assert common.cached_model(task04.MODEL.name) is None


# Fetching a model, from a stand-in for the Hub


class Hub(ThreadingHTTPServer):
    """A stand-in that serves one checkpoint, or one data set, under one name."""

    name = "someone/some-model"
    kind = "models"
    folder: Path
    behaviour = "honest"
    served: list[str]


class HubHandler(BaseHTTPRequestHandler):
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
        paths = (path for path in hub.folder.rglob("*") if path.is_file())
        files = sorted(path.relative_to(hub.folder).as_posix() for path in paths)
        about = {"id": hub.name, "sha": COMMIT, "siblings": [{"rfilename": n} for n in files]}
        api = f"/api/{hub.kind}/{hub.name}"
        if path in (api, f"{api}/revision/main", f"{api}/revision/refs%2Fconvert%2Fparquet"):
            return self.answer(200, json.dumps(about).encode())
        if path == f"{api}/tree/{COMMIT}":
            tree = [
                {"type": "file", "path": n, "size": (hub.folder / n).stat().st_size, "oid": n}
                for n in files
            ]
            return self.answer(200, json.dumps(tree).encode())
        place = hub.name if hub.kind == "models" else f"{hub.kind}/{hub.name}"
        prefix = f"/{place}/resolve/{COMMIT}/"
        if path.startswith(prefix) and (name := path.removeprefix(prefix)) in files:
            return self.send_file(name)
        return self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})

    def send_file(self, name: str) -> None:
        content = (self.server.folder / name).read_bytes()
        etag = hashlib.sha256(content).hexdigest()
        about = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}
        if self.command == "GET":
            self.server.served.append(name)
        if self.server.behaviour == "breaks off" and name.endswith((".safetensors", ".parquet")):
            self.send_response(200)
            for header, value in (about | {"Content-Length": str(len(content))}).items():
                self.send_header(header, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return
        if self.server.behaviour == "slow":
            time.sleep(0.2)
        self.answer(200, content, about)

    def answer(self, status: int, content: bytes, about: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for header, value in {"Content-Length": str(len(content)), **(about or {})}.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(cache: Path, checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Start a stand-in for the Hub, and have this process use it."""
    with Hub(("127.0.0.1", 0), HubHandler) as hub:
        hub.folder, hub.served = checkpoints / task11.MODEL.name, []
        threading.Thread(target=partial(hub.serve_forever, 0.01), daemon=True).start()
        address = f"http://127.0.0.1:{hub.server_port}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        monkeypatch.setattr(
            huggingface_hub.constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            address + "/{repo_id}/resolve/{revision}/{filename}",
        )
        yield hub
        hub.shutdown()


@pytest.mark.parametrize("behaviour", ["honest", "slow"])
def test_a_model_is_fetched_once(behaviour: str, hub: Hub) -> None:
    hub.behaviour = behaviour
    folder = common.find_model(hub.name, task11.MODEL)
    for path in hub.folder.iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()
    served = list(hub.served)
    hub.behaviour = "503"
    assert common.find_model(hub.name, task11.MODEL) == folder
    assert hub.served == served


def test_a_script_fetches_its_model_at_its_first_run_and_imports_nothing_that_it_does_not_use(
    hub: Hub, tmp_path: Path, run_script: Run
) -> None:
    hub.name = task11.MODEL.name
    more = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "PYTHONPROFILEIMPORTTIME": "1"}
    done = run_script("task11.py", env=without_network(tmp_path) | more)
    assert done.returncode == 0, done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "transformers" in imported
    assert not {"pandas", "datasets", "evaluate", "sacrebleu", "matplotlib", "pooch"} & imported
    assert "100%" in done.stderr  # of a bar
    hub.behaviour = "503"
    assert common.find_model(hub.name, task11.MODEL).is_relative_to(tmp_path)


def test_only_one_copy_of_the_weights_is_fetched(hub: Hub, tmp_path: Path) -> None:
    hub.folder = copytree(hub.folder, tmp_path / "copies")
    for name in ("pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "README.md"):
        (hub.folder / name).write_bytes(b"another copy")
    folder = common.find_model(hub.name, task11.MODEL)
    assert "model.safetensors" in hub.served
    assert not {"pytorch_model.bin", "tf_model.h5", "flax_model.msgpack"} & set(hub.served)
    assert common.cached_model(hub.name) == folder
    (hub.folder / "model.safetensors").unlink()
    hub.name = "someone/older"
    folder = common.find_model(hub.name, task11.MODEL)
    assert (folder / "pytorch_model.bin").read_bytes() == b"another copy"
    assert common.cached_model(hub.name) == folder


@pytest.mark.parametrize(
    ("behaviour", "name", "line"),
    [
        ("honest", "someone/else", "someone/else does not exist, or is hidden"),
        ("gated", "someone/some-model", "asks to accept its terms and to log in"),
        ("503", "someone/some-model", "cannot be fetched .*503"),
        ("breaks off", "someone/some-model", "cannot be fetched "),
    ],
)
def test_a_failed_download_is_one_line_and_leaves_no_model(
    behaviour: str, name: str, line: str, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)  # between attempts
    hub.behaviour = behaviour
    with pytest.raises(common.ScriptError, match=line) as raised:
        common.find_model(name, task11.MODEL)
    assert f"python common.py --fetch {name}" in str(raised.value)
    assert common.cached_model(name) is None


def test_a_download_that_broke_off_is_taken_up_again(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    hub.behaviour = "breaks off"
    with pytest.raises(common.ScriptError):
        common.find_model(hub.name, task11.MODEL)
    hub.behaviour = "honest"
    model, _ = load_pair(common.find_model(hub.name, task11.MODEL))
    assert model.config.n_embd == 32


def test_of_a_tokenizer_s_repository_no_weights_are_fetched(hub: Hub, checkpoints: Path) -> None:
    hub.name, hub.folder = task08.TOKENIZER.name, checkpoints / task08.TOKENIZER.name
    folder = common.find_encoder(hub.name, task08.TOKENIZER)
    assert "model.safetensors" not in hub.served
    assert common.load_tokenizer(folder)("a")["input_ids"]
    assert common.cached_model(hub.name, weights=False) == folder
    assert common.cached_model(hub.name) is None


def test_a_repository_without_weights_is_one_line(hub: Hub, tmp_path: Path) -> None:
    hub.folder = copytree(hub.folder, tmp_path / "none")
    (hub.folder / "model.safetensors").unlink()
    with pytest.raises(common.ScriptError, match="has no weights for torch"):
        common.find_model(hub.name, task11.MODEL)


def test_a_table_of_a_data_set_is_fetched_once(hub: Hub, tmp_path: Path) -> None:
    hub.kind, hub.name, hub.folder = "datasets", "someone/texts", tmp_path / "tables"
    for split in ("train", "test"):
        for number in range(2):
            path = hub.folder / "part" / split / f"{number:04}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pd.DataFrame({"text": [f"{split} {number}"]}).to_parquet(path)
    dataset = common.HubDataset(hub.name, 3, config="part")
    assert common.hub_table(dataset, "train")["text"].tolist() == ["train 0", "train 1"]
    assert sorted(hub.served) == ["part/train/0000.parquet", "part/train/0001.parquet"]
    with pytest.raises(common.ScriptError, match=r"has no tables part/validation"):
        common.hub_table(dataset, "validation")
    hub.behaviour = "503"
    assert common.hub_table(dataset, "train")["text"].tolist() == ["train 0", "train 1"]
    with pytest.raises(common.ScriptError, match="cannot be fetched"):
        common.hub_table(dataset, "test")


def test_a_table_whose_download_broke_off_is_one_line_and_is_fetched_the_next_time(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)  # between attempts
    hub.kind, hub.name, hub.folder = "datasets", "someone/texts", tmp_path / "tables"
    path = hub.folder / "default" / "train" / "0000.parquet"
    path.parent.mkdir(parents=True)
    table = pd.DataFrame({"text": [f"text {row}" for row in range(1000)]})
    table.to_parquet(path)
    dataset = common.HubDataset(hub.name, 3)
    hub.behaviour = "breaks off"
    with pytest.raises(common.ScriptError, match=r"cannot be fetched .*; run again"):
        common.hub_table(dataset, "train")
    hub.behaviour = "honest"
    pd.testing.assert_frame_equal(common.hub_table(dataset, "train"), table)


def test_a_data_set_that_cannot_be_had_is_one_line(cache: Path) -> None:
    line = (
        r"the data set someone/texts \(3 MB\) is not on this machine, and no answer from .*; run "
        r"again with a network, or give the folder of a copy with --data DIR"
    )
    with pytest.raises(common.ScriptError, match=line):
        common.hub_table(common.HubDataset("someone/texts", 3), "train")


def test_the_inventory_shows_and_fetches_what_is_missing(
    hub: Hub, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.name = task11.MODEL.name
    assert common.main([]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert {row[0] for row in rows} == {"model", *(model.name for model in CHECKPOINTS)}
    gpt2 = ["openai-community/gpt2", "MIT"]
    assert [*gpt2, "551", "no", "lab_generation,", "task11"] in rows
    assert [*gpt2, "3", "no", "lab_tokenizer"] in rows
    assert ["task07,", "task10"] in [row[-2:] for row in rows]
    only = {task11.MODEL: ["task11"]}
    monkeypatch.setattr(common, "hub_models", lambda: only)
    assert common.main(["--fetch"]) == 0
    shown = capsys.readouterr()
    assert "fetching openai-community/gpt2" in shown.err
    assert shown.out.splitlines()[1].split()[-2:] == ["yes", "task11"]
    served = list(hub.served)
    assert common.main(["--fetch"]) == 0
    assert common.main(["--fetch", "openai-community/gpt2"]) == 0
    assert hub.served == served


# Loading a checkpoint

SEQ2SEQ = "AutoModelForSeq2SeqLM"


def drop(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def overwrite(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content)


def halve(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def pickle_a_program(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Path("/bin/sh")}, folder / "pytorch_model.bin")


def lose_a_weight(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["decoder.final_layer_norm.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def claim(architecture: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"architectures": [architecture]}))

    return edit


@pytest.mark.parametrize(
    ("kind", "edit"),
    [
        (SEQ2SEQ, drop("config.json")),
        (SEQ2SEQ, drop("model.safetensors")),
        (SEQ2SEQ, halve),
        (SEQ2SEQ, overwrite("model.safetensors", b"")),
        (SEQ2SEQ, overwrite("model.safetensors", b"nothing of the kind")),
        (SEQ2SEQ, overwrite("config.json", b"{")),
        (SEQ2SEQ, overwrite("config.json", b"{}")),
        (SEQ2SEQ, overwrite("config.json", b'{"model_type": "of tomorrow"}')),
        (SEQ2SEQ, pickle_a_program),
        (SEQ2SEQ, lose_a_weight),
        (SEQ2SEQ, claim("T5ForSequenceClassification")),
        ("AutoModelForQuestionAnswering", lambda _: None),
        ("AutoModelForCausalLM", lambda _: None),
    ],
)
def test_what_cannot_be_loaded_is_one_short_line(
    kind: str, edit: Callable, checkpoints: Path, tmp_path: Path
) -> None:
    folder = copytree(checkpoints / task04.MODEL.name, tmp_path / "edited")
    edit(folder)
    with pytest.raises(common.ScriptError, match=f"not a checkpoint for {kind}") as raised:
        common.load_model(folder, kind, CPU)
    assert str(raised.value).startswith(str(folder))
    assert len(str(raised.value)) < len(str(folder)) + 250


def test_a_classifier_is_no_translator(checkpoints: Path) -> None:
    folder = checkpoints / task07.EXTRACTIVE_MODEL.name
    with pytest.raises(common.ScriptError, match=f"not a checkpoint for {SEQ2SEQ}"):
        common.load_model(folder, SEQ2SEQ, CPU)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("spiece.model", None),
        ("spiece.model", b"no sentence piece"),
        ("tokenizer_config.json", b"{"),
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", b"{"),
    ],
)
def test_a_broken_tokenizer_is_one_line(
    name: str, content: bytes | None, checkpoints: Path, tmp_path: Path
) -> None:
    folder = copytree(checkpoints / task04.MODEL.name, tmp_path / "edited")
    if content is None:
        (folder / "tokenizer_config.json").unlink()
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(common.ScriptError, match="tokenizer"):
        common.load_tokenizer(folder)


def test_half_precision_is_loaded_in_full(checkpoints: Path, tmp_path: Path) -> None:
    model, _ = load_pair(checkpoints / task11.MODEL.name)
    model.half().save_pretrained(tmp_path)
    assert common.load_model(tmp_path, "generator", CPU).dtype == torch.float32


# What the pipelines of transformers 4.47.1 wrote


def test_the_pipelines_that_are_gone_are_those_of_the_statement_s_time() -> None:
    assert RECORDED["version"] == "4.47.1"


def test_an_answer_is_found_by_trying_every_span(reader: Pair) -> None:
    model, tokenizer = reader
    inputs = tokenizer(task07.QUESTION, task07.CONTEXT, return_tensors="pt")
    with torch.inference_mode():
        output = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    parts = inputs.sequence_ids(0)
    context = [place for place, part in enumerate(parts) if part == 1]
    counted = [0, *context]  # the first token is [CLS]
    start = output.start_logits[0][counted].softmax(0)[1:].tolist()
    end = output.end_logits[0][counted].softmax(0)[1:].tolist()
    best = max(
        start[first] * end[last]
        for first in range(len(context))
        for last in range(first, min(first + 15, len(context)))
    )
    assert task07.extract(*reader, task07.QUESTION, task07.CONTEXT).score == pytest.approx(best)


def test_an_answer_deep_in_a_long_context_has_its_place_there(reader: Pair) -> None:
    context = "bla " * 700 + task07.CONTEXT
    answer = task07.extract(*reader, task07.QUESTION, context)
    assert answer.text == context[answer.start : answer.end]
    assert 0 < answer.score <= 1


def test_a_question_that_leaves_no_room_is_one_line(reader: Pair) -> None:
    with pytest.raises(common.ScriptError, match="question is too long"):
        task07.extract(*reader, "Who? " * 300, task07.CONTEXT)


# Writing


def test_greedy_writing_takes_the_likeliest_token_each_time(gpt2: Pair) -> None:
    model, tokenizer = gpt2
    tokens = tokenizer(task11.PROMPT)["input_ids"]
    for _ in range(6):
        with torch.inference_mode():
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    written = common.generate(model, tokenizer, task11.PROMPT, with_prompt=True, max_new_tokens=6)
    assert written == tokenizer.decode(tokens)
    assert written.startswith(task11.PROMPT)
    alone = common.generate(model, tokenizer, task11.PROMPT, max_new_tokens=6)
    assert task11.PROMPT + alone == written


def test_a_checkpoint_s_own_taste_does_not_make_greedy_writing_random(chat: Pair) -> None:
    model, tokenizer = chat
    assert model.generation_config.do_sample
    written = {common.generate(model, tokenizer, "Review:", max_new_tokens=8) for _ in range(3)}
    assert len(written) == 1


def test_a_seed_decides_what_is_drawn(chat: Pair) -> None:
    written = []
    for seed in (1, 1, 2):
        common.seed_everything(seed)
        drawn = {"do_sample": True, "temperature": 1.5, "max_new_tokens": 20}
        written.append(common.generate(*chat, "Review:", **drawn))
    assert written[0] == written[1] != written[2]


def test_what_a_model_has_no_positions_for_is_one_line(gpt2: Pair) -> None:
    with pytest.raises(common.ScriptError, match="are too many for this model: it takes 64"):
        common.generate(*gpt2, "word " * 70, max_new_tokens=1)
    with pytest.raises(common.ScriptError, match="too many"):
        common.generate(*gpt2, "word", max_new_tokens=80)
    with pytest.raises(common.ScriptError, match="leave no room"):
        common.generate(*gpt2, "one two three four five", max_length=3)


def test_a_prompt_becomes_a_user_s_message_with_thinking_off(chat: Pair) -> None:
    assert task05.as_chat(chat[1], "Hello") == (
        "<|start|>user\nHello<|end|>\n<|start|>assistant\n<think></think>"
    )


@pytest.mark.parametrize(
    ("reply", "kept"),
    [
        ("Thank you. We are sor", "Thank you."),
        ("Thank you! Come again.", "Thank you! Come again."),
        ('She said "wow!" and', 'She said "wow!"'),
        ("We had 3.5 stars. Now 4.5 st", "We had 3.5 stars."),
        ("Thank you.\n\nBest regards,\nJane", "Thank you."),
        ("no end in sight", "no end in sight"),
        ("", ""),
    ],
)
def test_a_reply_ends_on_a_finished_sentence(reply: str, kept: str) -> None:
    assert task05.finished(reply) == kept


def test_the_prompt_says_all_that_the_reply_needs() -> None:
    prompt = task05.PROMPT.format(review=task05.REVIEW)
    assert task05.REVIEW in prompt
    for word in (
        "Riverview Hotel",
        "three to five sentences",
        "Thank",
        "Apologise",
        "Never invent",
    ):
        assert word in prompt


# Two-shot classification


def test_the_prompt_shows_an_example_of_each_label_before_the_text() -> None:
    prompt = task10.build_prompt(task10.TEXT, task10.EXAMPLES)
    assert {label for _, label in task10.EXAMPLES} == set(task10.LABELS)
    assert prompt.count("Classify the sentiment of this sentence as either positive or") == 3
    assert prompt.endswith(f"{task10.QUESTION.format(text=task10.TEXT)}")
    for text, label in task10.EXAMPLES:
        assert f"{task10.QUESTION.format(text=text)} {label}\n\n" in prompt
    assert task10.build_prompt(task10.TEXT, ()) == task10.QUESTION.format(text=task10.TEXT)


def test_a_label_s_likelihood_is_the_product_of_its_tokens_decoder(gpt2: Pair) -> None:
    model, tokenizer = gpt2
    tokens, expected = tokenizer("Is it?")["input_ids"], 0.0
    for token in tokenizer(" positive")["input_ids"]:
        with torch.inference_mode():
            logits = model(torch.tensor([tokens])).logits[0, -1]
        expected += logits.log_softmax(0)[token].item()
        tokens = [*tokens, token]
    found = task10.log_likelihood(model, tokenizer, "Is it?", "positive")
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_label_s_likelihood_is_the_product_of_its_tokens_encoder_decoder(t5: Pair) -> None:
    model, tokenizer = t5
    inputs, written, expected = tokenizer("Is it?", return_tensors="pt"), [0], 0.0
    for token in tokenizer("positive")["input_ids"]:
        with torch.inference_mode():
            output = model(**inputs, decoder_input_ids=torch.tensor([written]))
        expected += output.logits[0, -1].log_softmax(0)[token].item()
        written = [*written, token]
    assert written[-1] == tokenizer.eos_token_id
    found = task10.log_likelihood(model, tokenizer, "Is it?", "positive")
    assert found == pytest.approx(expected, rel=1e-5)


def test_the_two_probabilities_are_all_there_is(t5: Pair) -> None:
    probabilities = task10.classify(*t5, "Is it?")
    scores = [task10.log_likelihood(*t5, "Is it?", label) for label in task10.LABELS]
    assert sum(probabilities.values()) == pytest.approx(1)
    ratio = probabilities["positive"] / probabilities["negative"]
    assert math.log(ratio) == pytest.approx(scores[0] - scores[1], abs=1e-3)


# Perplexity


def test_perplexity_of_nothing_is_one_line(gpt2: Pair) -> None:
    model, tokenizer = gpt2
    metric = common.load_metric("perplexity")
    for text, start in (("", True), ("a", False)):
        with pytest.raises(common.ScriptError, match="nothing to predict"):
            metric.compute(
                predictions=[text], model=model, tokenizer=tokenizer, add_start_token=start
            )


def test_without_a_start_token_the_first_one_is_not_counted(gpt2: Pair) -> None:
    model, _ = gpt2
    tokenizer = AutoTokenizer.from_pretrained(gpt2[1].name_or_path)
    tokenizer.bos_token = None
    found = task11.perplexity([task11.PROMPT], model, tokenizer)
    assert found == task11.perplexity([task11.PROMPT], *gpt2, add_start_token=False)
