"""Run a script of a copy of the project as if it had been typed there; see test_survival.py.

python tests/launch.py JOB        where JOB is a JSON object with the arguments of `launch`
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path


def launch(
    script: str,
    arguments: list[str],
    environment: dict[str, str],
    out: str,
    err: str,
    begun: str,
    forked: bool,
    limit: int | None = None,
    obedient: bool = False,
) -> None:
    """Run a script, which ends this process as it ends its own.

    Its two streams go to the files `out` and `err`. The file `begun` appears when `common.run`
    takes over: nothing of the project can answer for what happens while Python itself starts. A
    `forked` process ends at once, as it is not its own end that it would come to.
    `limit` is the most bytes that a file may get; `obedient` is for root, who then has to keep to
    the permissions of files as everybody else.
    """
    os.environ.clear()
    os.environ.update(environment)
    sys.dont_write_bytecode = True  # it would take up room on a full disk
    for stream, path in ((1, out), (2, err)):
        file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(file, stream)
        os.close(file)
    # a job in the background starts with Ctrl-C ignored, and so do the tests it runs
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if obedient:
        keep_to_permissions()
    os.chdir(Path(script).parent)
    sys.path.insert(0, str(Path(script).parent))
    common = importlib.import_module("common")
    run = common.run

    def run_and_tell(main: Callable[[], int]) -> int:
        Path(begun).touch()
        code = run(main)
        if forked:
            os._exit(code)
        return code

    common.run = run_and_tell
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


def keep_to_permissions() -> None:
    """Give up the capability of root to write wherever it likes (Linux, see capabilities(7))."""
    version, override = 0x20080522, 1  # _LINUX_CAPABILITY_VERSION_3, CAP_DAC_OVERRIDE
    header = (ctypes.c_uint32 * 2)(version, 0)  # of this process
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice, for 64 of them
    system = ctypes.CDLL(None, use_errno=True)
    if system.capget(header, sets):
        raise OSError(ctypes.get_errno(), "capget")
    sets[0] &= ~(1 << override)
    if system.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")


if __name__ == "__main__":
    launch(**json.loads(sys.argv[1]))
