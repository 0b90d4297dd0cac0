"""What the test files share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import common

os.environ["OMP_NUM_THREADS"] = "1"  # threads that wait for each other are slow on a busy machine
ROOT = Path(common.__file__).parent


@pytest.fixture(autouse=True)
def keep_the_project_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test write into the project's folders or reach the network."""
    monkeypatch.setattr(common, "DATA", tmp_path / "DATA")
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(common, "ELECTRICITY_URL", "http://127.0.0.1:9/")  # nobody listens there


@pytest.fixture
def run_script(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Run a script as a person would, from another working directory."""

    def run(script: str, *arguments: object, **options: object) -> subprocess.CompletedProcess:
        command = [sys.executable, ROOT / script, *map(str, arguments)]
        options = {"cwd": tmp_path, "capture_output": True, "text": True} | options
        return subprocess.run(command, check=False, **options)

    return run


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make two months of training data and ten days of test data, in the recordings' form."""
    folder = tmp_path_factory.mktemp("electricity")
    for split, rows in (("train", slice(-6000, None)), ("test", slice(0, 1000))):
        frame = common.synthetic_electricity(split)[rows]
        frame.to_csv(folder / f"electricity_{split}.csv", index=False)
    return folder


@pytest.fixture(scope="session")
def recordings() -> Path:
    """Find the recordings, which are not part of the project; skip where they are not."""
    places = (ROOT / "DATA", ROOT.parent / "shared" / "data")
    for folder in (place / "electricity_consumption" for place in places):
        if (folder / "electricity_train.csv").exists():
            return folder
    pytest.skip("the recordings are not here; `python task01.py` downloads them")
