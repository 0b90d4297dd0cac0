"""What the test files share."""

from __future__ import annotations

import argparse
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
from shutil import copytree
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

import common

if TYPE_CHECKING:
    import torch

os.environ["OMP_NUM_THREADS"] = "1"  # threads that wait for each other are slow on a busy machine
# HYPOTHESIS_PROFILE=deep tries thirty times as many examples of every property, and others
# each time. A busy machine has no deadlines.
settings.register_profile("quick", max_examples=30, deadline=None, derandomize=True)
settings.register_profile("deep", max_examples=1000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))
ROOT = Path(common.__file__).parent
NOBODY = "http://127.0.0.1:9"  # listens there
Pair = tuple["torch.nn.Module", object]  # a model and its tokenizer


def only_line(err: str, about: str) -> str:
    """Return the one line on standard error that says this."""
    lines = [line for line in err.splitlines() if about in line]
    assert len(lines) == 1
    return lines[0]


def load_pair(folder: Path, kind: str = "generator") -> Pair:
    """Load a model, of this class of transformers, on the CPU, and its tokenizer."""
    import torch

    return common.load_model(folder, kind, torch.device("cpu")), common.load_tokenizer(folder)


class Parsed(BaseException):
    """The command line was read without complaint; nothing else is to happen."""


parse_args = argparse.ArgumentParser.parse_args


def only_parse(parser: argparse.ArgumentParser, argv: list[str] | None = None) -> None:
    """Stand in for `ArgumentParser.parse_args`: read the command line, and go no further."""
    parse_args(parser, argv)
    raise Parsed


@pytest.fixture(autouse=True)
def keep_the_project_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test write into the project's folders or reach the network."""
    monkeypatch.setattr(common, "DATA", tmp_path / "DATA")
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(common, "ELECTRICITY_URL", f"{NOBODY}/")
    monkeypatch.setattr(common, "INFERNO_SOURCES", {f"{NOBODY}/": None})


@pytest.fixture
def run_script(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Run a script as a person would, from another working directory."""

    def run(script: str, *arguments: object, **options: object) -> subprocess.CompletedProcess:
        command = [sys.executable, ROOT / script, *map(str, arguments)]
        options = {"cwd": tmp_path, "capture_output": True, "text": True} | options
        return subprocess.run(command, check=False, **options)

    return run


class Server(ThreadingHTTPServer):
    """A stand-in for what the scripts download from, on the loopback interface."""

    files: dict[str, bytes]
    requests: list[str]
    behaviour = "honest"


class Handler(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        if self.server.behaviour == "silent":
            time.sleep(2)
        self.send_response(200)
        self.end_headers()

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        content = self.server.files.get(self.path.rsplit("/", 1)[-1])
        if content is None or self.server.behaviour == "gone":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        half = self.server.behaviour in ("breaks off", "stalls")
        self.wfile.write(content[: len(content) // 2] if half else content)
        if self.server.behaviour == "stalls":
            self.rfile.read(1)  # until the other side is gone

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    """Start a stand-in that has no files yet."""
    with Server(("127.0.0.1", 0), Handler) as server:
        server.files, server.requests = {}, []
        threading.Thread(target=partial(server.serve_forever, 0.01), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make two months of training data and ten days of test data, in the recordings' form."""
    folder = tmp_path_factory.mktemp("electricity")
    for split, rows in (("train", slice(-6000, None)), ("test", slice(0, 1000))):
        frame = common.synthetic_electricity(split)[rows]
        frame.to_csv(folder / f"electricity_{split}.csv", index=False)
    return folder


@pytest.fixture(scope="session")
def good(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder of data for every script, in which nothing is wrong."""
    folder = tmp_path_factory.mktemp("good")
    for script in ("task01", "task02", "task03"):
        copytree(small_data, folder / script)
    classifier, choice, retrieval = (
        folder / name for name in ("lab_classifier", "lab_multiple_choice", "lab_retrieval")
    )
    for each in (classifier, choice, retrieval / "qrels"):
        each.mkdir(parents=True)
    for split in ("train", "validation", "test"):
        rows = "".join(f"{split} text {row},{row % 2}\n" for row in range(20))
        (classifier / f"{split}.csv").write_text(f"text,label\n{rows}")
        question = {"question": "Which one?", "choices": ["this", "that"], "answer": 1}
        (choice / f"{split}.jsonl").write_text("\n".join([json.dumps(question)] * 20))
        rows = "".join(f"c{row}\td{row}\t1\n" for row in range(10))
        (retrieval / "qrels" / f"{split}.tsv").write_text(f"query-id\tcorpus-id\tscore\n{rows}")
    for name, letter in (("corpus", "d"), ("queries", "c")):
        rows = [{"_id": f"{letter}{row}", "title": "", "text": "Some text."} for row in range(10)]
        (retrieval / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture(scope="session")
def recordings() -> Path:
    """Find the recordings, which are not part of the project; skip where they are not."""
    places = (ROOT / "DATA", ROOT.parent / "shared" / "data")
    for folder in (place / "electricity_consumption" for place in places):
        if (folder / "electricity_train.csv").exists():
            return folder
    pytest.skip("the recordings are not here; `python task01.py` downloads them")


@pytest.fixture(scope="session")
def inferno() -> Path:
    """Find the etext of the Inferno, which is not part of the project; skip where it is not."""
    for folder in (ROOT / "DATA" / "dante", ROOT.parent / "shared" / "data" / "dante"):
        if (folder / common.INFERNO_FILE).exists():
            return folder / common.INFERNO_FILE
    pytest.skip("the Inferno is not here; `python dante_gpt.py` downloads it")


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a tiny checkpoint for every default model, in a folder of its name."""
    from checkpoints import make_all  # imports transformers

    folder = tmp_path_factory.mktemp("checkpoints")
    make_all(folder)
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give this process an empty Hub's cache, and a Hub that nobody answers for."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", NOBODY)
    return tmp_path
