"""Every script is killed, interrupted, left without room or permission, and not alone.

Whatever happens, no file may stand half-written under its name, what is wrong is told in one line,
and the next plain run is as if nothing had happened. That a download breaks off is tested where the
stand-ins for the servers are: in test_data, test_inferno and test_hub.

    python -m pytest tests/test_survival.py               one case of each kind
    python -m pytest -m slow tests/test_survival.py       every case of every script: minutes
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from conftest import NOBODY, ROOT
from launch import launch

import task04
import task05
import task06
import task07
import task08
import task09
import task11
import task12

ENCODER = f"--model={{checkpoints}}/{task08.TOKENIZER.name}"
GPT2 = f"--model={{checkpoints}}/{task11.MODEL.name}"
SCRIPTS = {  # with the options of a run of a few seconds
    "task01": "",
    "task02": "--quick --data={good}/task02",
    "task03": "--quick --data={good}/task03",
    "task04": f"--model={{checkpoints}}/{task04.MODEL.name}",
    "task05": f"--model={{checkpoints}}/{task05.MODEL.name}",
    "task06": f"--model={{checkpoints}}/{task06.MODEL.name}",
    "task07": f"--extractive-model={{checkpoints}}/{task07.EXTRACTIVE_MODEL.name} "
    f"--generative-model={{checkpoints}}/{task07.GENERATIVE_MODEL.name}",
    "task08": ENCODER,
    "task09": f"--model={{checkpoints}}/{task09.MODEL.name}",
    "task10": f"--model={{checkpoints}}/{task07.GENERATIVE_MODEL.name}",
    "task11": GPT2,
    "task12": f"--model={{checkpoints}}/{task12.MODEL.name}",
    "task13": "",
    "dante_gpt": "--steps=40 --batch-size=4 --block-size=16 --n-layer=2 --n-head=2 --n-embd=16",
    "lab_tokenizer": GPT2,
    "lab_generation": f"--quick --model={{checkpoints}}/{task05.MODEL.name}",  # reads long texts
    "lab_classifier": f"--quick --finetune --data={{good}}/lab_classifier {ENCODER}",
    "lab_multiple_choice": f"--quick --finetune --data={{good}}/lab_multiple_choice {ENCODER}",
    "lab_retrieval": f"--quick --data={{good}}/lab_retrieval {ENCODER}",
}
WITHOUT_DATA = {"task02": "--quick"}  # which it then makes and keeps, as task01 and task03 do
WRITERS = (
    "task01", "task02", "task03", "task09", "dante_gpt",
    "lab_tokenizer", "lab_generation", "lab_classifier", "lab_multiple_choice", "lab_retrieval",
)  # fmt: skip
READERS = tuple(script for script in SCRIPTS if script not in WRITERS)  # they write no file
IMPORTERS = ("task01", "task03", "task09", "lab_retrieval")  # together they use all libraries
MODEL_FOLDER = task09.FOLDER.name  # complete as a whole, and not only file by file
CHANGING = {"task03": r" +\d+\.\d(?= )"}  # what of the output the clock decides: seconds
LIBRARIES = ["pandas", "pooch", "requests", "torch.utils.data"]
MORE_LIBRARIES = [  # that `REPRESENTATIVE` does without
    "accelerate", "bm25s", "datasets", "matplotlib.backends.backend_agg", "matplotlib.figure",
    "nltk", "rouge_score.rouge_scorer", "sacrebleu", "sentencepiece", "sklearn.ensemble",
    "sklearn.feature_extraction.text", "sklearn.linear_model", "sklearn.svm", "Stemmer",
    "torch._dynamo", "torchmetrics.functional",
    "transformers.models.distilbert.modeling_distilbert",
    "transformers.models.gpt2.modeling_gpt2", "transformers.models.llama.modeling_llama",
    "transformers.models.marian.modeling_marian", "transformers.models.t5.modeling_t5",
    "transformers.trainer",
]  # fmt: skip
TIMEOUT = 600  # seconds; a run takes a few, but the machine may be busy

MOMENTS = 10  # of a run, spread over it, at which it is killed or interrupted
ROOMS = (0, 0.25, 0.5, 0.75, 0.95)  # left on the disk, of what a run writes
LAGS = (0, 0.5, 0.9)  # of a run's time, by which the second of two starts later
REPRESENTATIVE = "task01"  # is tried in every run of the tests, for it takes half a second


def combine(scripts: Iterable[str], tried: Iterable, quick: object = None) -> list:
    """Combine scripts with what is tried on each; all but one combination are slow."""
    return [
        pytest.param(*case, marks=[] if case == (REPRESENTATIVE, quick) else pytest.mark.slow)
        for case in ((script, each) for script in scripts for each in tried)
    ]


KILLS = combine(SCRIPTS, range(MOMENTS), quick=3)
INTERRUPTS = combine(SCRIPTS, range(MOMENTS), quick=5)
IMPORTS = combine(IMPORTERS, range(MOMENTS))
FULL_DISKS = combine(WRITERS, ROOMS, quick=0.5) + combine(READERS, [0])
LIMITS = combine(WRITERS, [1], quick=1)  # bytes that the largest file has too many
PERMISSIONS = combine(SCRIPTS, ["read-only"], quick="read-only")
PAIRS = combine(SCRIPTS, LAGS, quick=0)
CASES = [*KILLS, *INTERRUPTS, *IMPORTS, *FULL_DISKS, *LIMITS, *PERMISSIONS, *PAIRS]


@dataclass
class Run:
    """A script that was started, in a process of its own."""

    process: subprocess.Popen | BaseProcess
    place: Path  # of what it prints

    def wait_for_main(self) -> None:
        """Wait until Python has started and the script's own work begins."""
        end = time.monotonic() + TIMEOUT
        while not (self.place / "begun").exists():
            assert time.monotonic() < end, self.printed("err")
            time.sleep(0.001)

    def end(self) -> int:
        """Wait for its end and return its exit code, or minus the signal that killed it."""
        if isinstance(self.process, subprocess.Popen):
            return self.process.wait(TIMEOUT)
        self.process.join(TIMEOUT)
        assert self.process.exitcode is not None, self.printed("err")
        return self.process.exitcode

    def printed(self, stream: str) -> str:
        return (self.place / stream).read_text(encoding="utf-8")


@dataclass(frozen=True)
class Usual:
    """What a run is like that nothing happens to."""

    seconds: float
    out: str
    files: dict[str, bytes]


@dataclass
class Project:
    """A copy of the project for one script, and what its runs need and print."""

    script: str
    options: list[str]
    place: Path
    folder: Path  # of the copy
    runs: list[Run] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.place / "home").mkdir(parents=True)
        (self.folder / "DATA").mkdir(parents=True)
        for path in (*ROOT.glob("*.py"), ROOT / "DATA" / "verses.txt"):
            shutil.copy(path, self.folder / path.relative_to(ROOT))

    def start(self, *, forked: bool = True, **conditions: object) -> Run:
        """Start the script, in a new Python or in a fork of one that has its libraries already.

        It has a home of its own and no network. For the conditions see `launch`.
        """
        place = self.place / f"run {len(self.runs)}"
        place.mkdir()
        home = str(self.place / "home")
        job = {
            "script": str(self.folder / f"{self.script}.py"),
            "arguments": self.options,
            "environment": {
                **{name: os.environ[name] for name in ("PATH", "OMP_NUM_THREADS")},
                **dict.fromkeys(("HOME", "HF_HOME", "TMPDIR"), home),
                **dict.fromkeys(("HF_ENDPOINT", "http_proxy", "https_proxy"), NOBODY),
            },
            **{name: str(place / name) for name in ("out", "err", "begun")},
            "forked": forked,
            **conditions,
        }
        if forked:
            process = multiprocessing.get_context("forkserver").Process(target=launch, kwargs=job)
            process.start()
        else:
            launcher = str(ROOT / "tests" / "launch.py")
            process = subprocess.Popen([sys.executable, launcher, json.dumps(job)])
        self.runs.append(Run(process, place))
        return self.runs[-1]

    def names(self) -> list[Path]:
        """Name all files that runs have left."""
        paths = (path.relative_to(self.folder) for path in self.folder.rglob("*") if path.is_file())
        return [path for path in paths if path.suffix != ".py" and path.name != "verses.txt"]

    def files(self) -> dict[str, bytes]:
        """Return the files that runs have left under final names: those that are not hidden."""
        visible = (name for name in self.names() if not re.search(r"(^|/)\.", name.as_posix()))
        return {name.as_posix(): (self.folder / name).read_bytes() for name in visible}

    def is_tidy(self) -> bool:
        """Tell whether all files have final names."""
        return len(self.names()) == len(self.files())


def load(path: Path) -> object:
    """Load a file, which fails if it is not complete."""
    if path.suffix == ".png":
        from matplotlib.image import imread

        return imread(path)
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        return load_file(path)
    import torch

    assert path.suffix == ".pt"  # of a text one cannot tell
    return torch.load(path, weights_only=True)


def check_files(project: Project, usual: Usual) -> None:
    """Check that every file is one of the undisturbed run's, or at least can be loaded."""
    files = project.files()
    for name, content in files.items():
        original = usual.files[name.replace("previous-", "")]  # as dante_gpt puts one aside
        if name.endswith("loss.csv"):  # after Ctrl-C it tells of the steps that were made
            assert original.startswith(content)
            assert content.endswith(b"\n")
        elif content != original:
            load(project.folder / name)
    saved = {name for name in files if name.startswith(MODEL_FOLDER)}
    assert not saved or saved == set(usual.files)


def check_end(project: Project, run: Run, usual: Usual) -> None:
    """Check that a run ended well, printed what it should and left every file as it should be."""
    assert run.end() == 0, run.printed("err")
    changing = CHANGING.get(project.script, "$^")
    assert re.sub(changing, "", run.printed("out")) == re.sub(changing, "", usual.out)
    check_files(project, usual)
    files = project.files()
    assert {name: files.get(name) for name in usual.files} == usual.files


def check_next_run(project: Project, usual: Usual) -> None:
    """Check that a plain run is as if nothing had happened before."""
    check_end(project, project.start(), usual)


def check_one_line(project: Project, run: Run, what: str) -> None:
    """Check that a run ended with the one line that names what was wrong, and tidied up."""
    assert run.end() == 1, run.printed("err")
    check_quiet(run)
    lines = run.printed("err").splitlines()
    assert lines[-1].startswith(f"{project.script}.py: ")
    assert [line for line in lines if what in line] == lines[-1:]
    assert project.is_tidy()


def check_quiet(run: Run) -> None:
    """Check that Python itself had nothing to say."""
    for sign in ("Traceback", "Exception ignored", "Warning"):
        assert sign not in run.printed("err")


@pytest.fixture(scope="module", autouse=True)
def libraries(request: pytest.FixtureRequest) -> None:
    """Have the process from which scripts are forked import what the chosen cases need."""
    chosen = [item for item in request.session.items if item.path == request.path]
    slow = any(item.get_closest_marker("slow") for item in chosen)
    names = [*LIBRARIES, *MORE_LIBRARIES] if slow else LIBRARIES
    multiprocessing.get_context("forkserver").set_forkserver_preload(names)


Make = Callable[..., Project]


@pytest.fixture(scope="module")
def make(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Make]:
    """Give what copies the project for a script, to a folder of its own unless one is given."""
    made = []

    def make(script: str, without_data: bool = False, folder: Path | None = None) -> Project:
        options = (SCRIPTS | WITHOUT_DATA if without_data else SCRIPTS)[script]
        for name in ("good", "checkpoints"):  # made where they are needed: that takes seconds
            if f"{{{name}}}" in options:
                options = options.replace(f"{{{name}}}", str(request.getfixturevalue(name)))
        place = tmp_path_factory.mktemp(script)
        made.append(Project(script, options.split(), place, folder or place / "project"))
        return made[-1]

    yield make
    for run in (run for project in made for run in project.runs):
        run.process.kill()  # if a test failed
        run.end()


Measure = Callable[..., Usual]


@pytest.fixture(scope="module")
def measure(make: Make) -> Measure:
    """Give what runs a script undisturbed, once for each way of running it.

    Of two runs the faster counts: the first of all is slow, and would make moments too late.
    """

    @cache
    def measure(script: str, without_data: bool = False, forked: bool = True) -> Usual:
        runs = []
        for _ in range(2):
            project = make(script, without_data)
            run = project.start(forked=forked)
            run.wait_for_main()
            start = time.perf_counter()
            assert run.end() == 0, run.printed("err")
            seconds = time.perf_counter() - start
            assert project.is_tidy()
            runs.append(Usual(seconds, run.printed("out"), project.files()))
            check_end(project, run, runs[0])
        return min(runs, key=lambda usual: usual.seconds)

    return measure


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a small disk."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder]
    if sys.platform != "linux" or subprocess.run(command, check=False).returncode:
        pytest.skip("no disk can be mounted here; on Linux, `unshare -rm` before the command helps")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def wait_for_moment(moment: int, usual: Usual) -> None:
    """Wait for one of the `MOMENTS` of a run."""
    time.sleep(usual.seconds * (moment + 0.5) / MOMENTS)


@pytest.mark.parametrize(("script", "moment"), KILLS)
def test_a_killed_run_leaves_nothing_half_written_and_the_next_one_is_right(
    script: str, moment: int, make: Make, measure: Measure
) -> None:
    usual, project = measure(script), make(script)
    run = project.start()
    run.wait_for_main()
    wait_for_moment(moment, usual)
    run.process.kill()
    run.end()
    check_files(project, usual)
    check_next_run(project, usual)


def interrupt(project: Project, usual: Usual, moment: int, forked: bool) -> None:
    """Check that Ctrl-C at a moment of a run is one line, and that the next run is right."""
    run = project.start(forked=forked)
    run.wait_for_main()
    wait_for_moment(moment, usual)
    with suppress(ProcessLookupError):  # it may have ended
        os.kill(run.process.pid, signal.SIGINT)
    code, lines = run.end(), run.printed("err").splitlines()
    check_quiet(run)
    assert project.is_tidy()
    if code == -signal.SIGSEGV and not forked:  # of a hundred times it did so once
        pytest.skip(
            "pandas crashed, which it may if it is interrupted while its C parts are loaded"
        )
    if code == 0:  # there was nothing left to interrupt
        check_end(project, run, usual)
    else:
        assert code == 130
        begins = f"{project.script}.py: interrupted"
        told = [line for line in lines if line.startswith(begins)]
        assert len(told) == 1
        if "; --resume goes on" not in told[0]:  # dante_gpt still writes with what it has learnt
            assert told == lines[-1:] == [begins]
        check_files(project, usual)
    check_next_run(project, usual)


@pytest.mark.parametrize(("script", "moment"), INTERRUPTS)
def test_ctrl_c_is_one_line_at_any_moment_and_the_next_run_is_right(
    script: str, moment: int, make: Make, measure: Measure
) -> None:
    interrupt(make(script), measure(script), moment, forked=True)


@pytest.mark.parametrize(("script", "moment"), IMPORTS)
def test_ctrl_c_is_one_line_while_libraries_are_imported_and_when_python_ends(
    script: str, moment: int, make: Make, measure: Measure
) -> None:
    interrupt(make(script), measure(script, forked=False), moment, forked=False)


def fill(disk: Path, room: int) -> None:
    """Write a file that leaves so many bytes of room on the disk."""
    free = os.statvfs(disk)
    with open(disk / "filler", "wb") as filler:
        os.posix_fallocate(filler.fileno(), 0, free.f_bavail * free.f_frsize - room)


@pytest.mark.parametrize(("script", "room"), FULL_DISKS)
def test_a_full_disk_is_one_line_and_with_room_the_next_run_is_right(
    script: str, room: float, make: Make, measure: Measure, disk: Path
) -> None:
    usual = measure(script, without_data=True)
    project = make(script, without_data=True, folder=disk / "project")
    page = os.statvfs(disk).f_frsize
    pages = sum(-(-len(content) // page) for content in usual.files.values())
    assert bool(pages) == (script in WRITERS)
    fill(disk, page * int(room * pages))
    run = project.start()
    if script in READERS:
        check_end(project, run, usual)
        return
    check_one_line(project, run, "No space left on device")
    check_files(project, usual)
    (disk / "filler").unlink()
    check_next_run(project, usual)


@pytest.mark.parametrize(("script", "missing"), LIMITS)
def test_a_file_that_may_not_grow_is_one_line_and_the_next_run_is_right(
    script: str, missing: int, make: Make, measure: Measure
) -> None:
    usual, project = measure(script, without_data=True), make(script, without_data=True)
    largest = max(map(len, usual.files.values()))
    run = project.start(limit=largest - missing)
    check_one_line(project, run, "File too large")
    check_files(project, usual)
    check_next_run(project, usual)


def permit(project: Project, files: int, folders: int) -> None:
    """Set the permissions of the whole copy."""
    for path in (project.folder, *project.folder.rglob("*")):
        path.chmod(folders if path.is_dir() else files)


@pytest.mark.skipif(
    os.geteuid() == 0 and sys.platform != "linux", reason="here root may write wherever it likes"
)
@pytest.mark.parametrize(("script", "permission"), PERMISSIONS)
def test_a_folder_without_permission_to_write_is_one_line_and_with_it_the_next_run_is_right(
    script: str, permission: str, make: Make, measure: Measure
) -> None:
    usual, project = measure(script, without_data=True), make(script, without_data=True)
    permit(project, files=0o444, folders=0o555)
    run = project.start(obedient=os.geteuid() == 0)
    if script in READERS:
        check_end(project, run, usual)
        return
    check_one_line(project, run, "Permission denied")
    assert f"{script}.py: {project.folder}" in run.printed("err")
    assert not project.names()
    permit(project, files=0o644, folders=0o755)
    check_next_run(project, usual)


@pytest.mark.parametrize(("script", "lag"), PAIRS)
def test_two_runs_at_once_do_not_disturb_each_other(
    script: str, lag: float, make: Make, measure: Measure
) -> None:
    usual, project = measure(script, without_data=True), make(script, without_data=True)
    first = project.start()
    if lag:
        first.wait_for_main()
        time.sleep(lag * usual.seconds)
    second = project.start()
    for run in (first, second):
        run.end()
    for run in (first, second):
        check_end(project, run, usual)
    assert project.is_tidy()
