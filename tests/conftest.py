"""Fixtures and helpers that several test files use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import common
import lab_common
import pretrained

import pandas as pd
import pytest
import torch
from hypothesis import settings
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

os.environ["OMP_NUM_THREADS"] = "1"  # for subprocesses: several threads are slow on a busy machine
settings.register_profile("quick", max_examples=30, deadline=None, derandomize=True)
settings.load_profile("quick")
ROOT = Path(common.__file__).parent
EXPECTED = ROOT / "tests" / "expected"
SHARED = ROOT.parent / "shared"  # real data and models; tests that need them skip without them
NOBODY = "http://127.0.0.1:9"  # no server listens there
CPU = torch.device("cpu")
ModelAndTokenizer = tuple[Any, Any]
RunScript = Callable[..., subprocess.CompletedProcess]


def only_line(text: str, part: str) -> str:
    """Return the only line of `text` that contains `part`."""
    lines = [line for line in text.splitlines() if part in line]
    assert len(lines) == 1
    return lines[0]


def load_pair(folder: Path, auto_class: Any = None) -> ModelAndTokenizer:
    """Load a model and its tokenizer; by default the model is a generative one."""
    if auto_class is None:
        config = json.loads((folder / "config.json").read_text())
        auto_class = AutoModelForCausalLM
        if config.get("is_encoder_decoder"):
            auto_class = AutoModelForSeq2SeqLM
    return pretrained.load(auto_class, folder), pretrained.load(AutoTokenizer, folder)


def text_table(texts: str, labels: str) -> pd.DataFrame:
    """Return texts, separated by commas, and labels, separated by spaces, as a table."""
    return pd.DataFrame({"text": texts.split(","), "label": labels.split()})


@pytest.fixture(autouse=True)
def isolated_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redirect the project's folders and servers, so that no test writes or downloads there."""
    torch.set_num_threads(1)
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")  # task 03 starts no other processes
    monkeypatch.setattr(common, "DATA", tmp_path / "DATA")
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(common, "ELECTRICITY_URL", f"{NOBODY}/")
    monkeypatch.setattr(lab_common, "INFERNO_SOURCES", {f"{NOBODY}/": None})


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list to which each training adds the sum of the weights that it ends with."""

    def train(network: torch.nn.Module, *rest: Any) -> None:
        assert network.training  # with dropout
        train_network(network, *rest)
        sums.append(sum(weight.double().sum().item() for weight in network.parameters()))

    train_network, sums = lab_common.train, []
    monkeypatch.setattr(lab_common, "train", train)
    return sums


@pytest.fixture
def run_script(tmp_path: Path) -> RunScript:
    """Return a function that runs a script as a user would, from another working directory."""

    def run(script: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess:
        command = [sys.executable, ROOT / script, *map(str, arguments)]
        options = {"cwd": tmp_path, "capture_output": True, "text": True} | options
        return subprocess.run(command, check=False, **options)

    return run


class Server(ThreadingHTTPServer):
    """A local replacement for the servers from which the scripts download."""

    files: dict[str, bytes]
    requests: list[str]
    behaviour = "honest"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        if self.server.behaviour == "silent":
            time.sleep(2)
        self.send_response(200)
        self.end_headers()

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        content = self.server.files.get(self.path.rsplit("/", 1)[-1])
        if content is None or self.server.behaviour == "missing":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        is_partial = self.server.behaviour in ("breaks off", "stalls")
        self.wfile.write(content[: len(content) // 2] if is_partial else content)
        if self.server.behaviour == "stalls":
            self.rfile.read(1)  # waits until the client has gone

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
        frame = common.synthetic_electricity(split)[rows]
        frame.to_csv(folder / f"electricity_{split}.csv", index=False)
    return folder


@pytest.fixture(scope="session")
def recordings() -> Path:
    """Return the folder of the recordings, which are not part of the project."""
    for folder in (ROOT / "DATA", SHARED / "data"):
        if (folder / "electricity_consumption" / "electricity_train.csv").exists():
            return folder / "electricity_consumption"
    pytest.skip("the recordings are not on this machine; `python task01.py` downloads them")


@pytest.fixture(scope="session")
def inferno() -> Path:
    """Return the file of the Inferno, which is not part of the project."""
    for folder in (ROOT / "DATA" / "dante", SHARED / "data" / "dante"):
        if (folder / lab_common.INFERNO_FILE).exists():
            return folder / lab_common.INFERNO_FILE
    pytest.skip("the Inferno is not on this machine; `python dante_gpt.py` downloads it")


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a tiny random checkpoint for each default model, in a folder of its name."""
    from checkpoints import make_all

    folder = tmp_path_factory.mktemp("checkpoints")
    make_all(folder)
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give this process an empty cache of the Hub, and no network to reach the Hub."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", NOBODY)
    return tmp_path
