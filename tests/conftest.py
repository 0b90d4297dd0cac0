"""Fixtures and helpers that several test files use."""

import hashlib
import importlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoTokenizer

import common
import electricity
import inferno
import task09
import task10
from checkpoints import make_all

os.environ["OMP_NUM_THREADS"] = "1"  # for subprocesses: several threads are slow on a busy machine
os.environ["PYTHONUTF8"] = "1"  # for subprocesses: the same output on every system
ROOT = Path(common.__file__).parent
EXPECTED = ROOT / "tests" / "expected"
# what the pipelines of transformers 4.47 printed
PIPELINES = json.loads((EXPECTED / "pipelines.json").read_text(encoding="utf-8"))
SHARED = ROOT.parent / "shared"  # real data and models; tests that need them skip without them
NOBODY = "http://127.0.0.1:9"  # no server listens there
COMMIT = "0123456789abcdef0123456789abcdef01234567"  # a revision, as the Hub names it
CPU = torch.device("cpu")
ModelAndTokenizer = tuple[Any, Any]
Run = Callable[..., tuple[int, str, str]]


def only_line(text: str, part: str) -> str:
    """Return the only line of `text` that contains `part`."""
    lines = [line for line in text.splitlines() if part in line]
    assert len(lines) == 1
    return lines[0]


def load_pair(folder: Path, auto_class: Any = None) -> ModelAndTokenizer:
    """Load a model and its tokenizer; by default the model is a generative one."""
    model = common.load(auto_class, folder) if auto_class else task10.load_model(folder)
    return model, common.load(AutoTokenizer, folder)


def put_in_cache(home: Path, name: str, checkpoint: Path) -> Path:
    """Copy a checkpoint to the place in the Hub's cache where older libraries saved it."""
    cached = home / "hub" / f"models--{name.replace('/', '--')}"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    return copytree(checkpoint, cached / "snapshots" / COMMIT)


@pytest.fixture(autouse=True)
def isolated_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redirect the project's folders and servers, so that no test writes or downloads there."""
    torch.set_num_threads(1)
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")  # task 03 starts no other processes
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(common, "DATA", tmp_path / "DATA")
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(task09, "FOLDER", tmp_path / "saved")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", NOBODY)  # in place of the Hub
    monkeypatch.setattr(electricity, "URL", f"{NOBODY}/")
    monkeypatch.setattr(inferno, "SOURCES", {f"{NOBODY}/": None})


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Run:
    """Return a function that runs a script in this process, as if typed: name and arguments.

    It returns the exit code, the standard output and the standard error.
    """

    def run(script: str, *arguments: object) -> tuple[int, str, str]:
        module = importlib.import_module(script)
        monkeypatch.setattr(sys, "argv", [f"{script}.py"])
        try:
            code = common.run(partial(module.main, [str(argument) for argument in arguments]))
        except SystemExit as end:  # of argparse
            code = int(end.code or 0)
        return code, *capsys.readouterr()

    return run


class Server(ThreadingHTTPServer):
    """A local replacement for the servers from which the scripts download."""

    files: dict[str, bytes]  # by the last part of their path
    requests: list[str]
    behaviour = "honest"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"

    def handle_error(self, *_: object) -> None:
        pass  # the client has gone


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path, behaviour = self.path.partition("?")[0], self.server.behaviour
        content = self.server.files.get(path.rsplit("/", 1)[-1])
        if self.command == "GET":
            self.server.requests.append(path)
        if behaviour == "silent":
            threading.Event().wait(1)  # `time.sleep` may be patched
        if behaviour == "a captive portal":
            content = b"<html>Log in to use this network</html>"
        if content is None or behaviour == "missing":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            is_broken = behaviour == "breaks off" and len(content) > 4999
            self.wfile.write(content[:4999] if is_broken else content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    """Start a local server without files."""
    with Server(("127.0.0.1", 0), Handler) as server:
        server.files, server.requests = {}, []
        threading.Thread(target=partial(server.serve_forever, 0.01), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write two months of training data and ten days of test data."""
    folder = tmp_path_factory.mktemp("electricity")
    for split, rows in (("train", slice(-6000, None)), ("test", slice(0, 1000))):
        frame = electricity.synthetic_curve(split)[rows]
        frame.to_csv(folder / f"electricity_{split}.csv", index=False)
    return folder


def find_or_skip(path: str, script: str) -> Path:
    """Return the path of data that are not part of the project."""
    for folder in (ROOT / "DATA", SHARED / "data"):
        if (folder / path).exists():
            return folder / path
    pytest.skip(f"{path} is not on this machine; `python {script}.py` downloads it")


@pytest.fixture(scope="session")
def recordings() -> Path:
    return find_or_skip("electricity_consumption/electricity_train.csv", "task01").parent


@pytest.fixture(scope="session")
def inferno_file() -> Path:
    return find_or_skip(f"dante/{inferno.FILE}", "dante_gpt")


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a tiny random checkpoint for each default model, in a folder of its name."""
    folder = tmp_path_factory.mktemp("checkpoints")
    make_all(folder)
    return folder
