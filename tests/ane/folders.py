"""Inside a fake build: programs' folders, beside other processes and threads. Not a test.

`folders.py killed`: dies with a program loaded. `held`: loads one, waits for a line, evaluates and
unloads. `once`: the same without waiting. `threads`: two threads with equal programs. `forked`: a
fork with a program of its parent's. What a test asks about is printed.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

from faults import Trial

from anefast import _C


def inside() -> str:
    """What the temporary folder holds now."""
    return json.dumps(sorted(p.name for p in Path(tempfile.gettempdir()).iterdir()))


def killed() -> None:
    trial = Trial()
    trial.compile(2.0)
    print(inside(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def held() -> None:
    trial = Trial()
    trial.compile()
    print(inside(), flush=True)
    sys.stdin.readline()
    trial.evaluate()
    trial.program.unload()


def once() -> None:
    trial = Trial()
    trial.evaluate()
    print(inside())
    trial.program.unload()


def threads() -> None:
    wrong: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(100):
                Trial().evaluate()
        except BaseException as error:
            wrong.append(error)

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print(json.dumps([str(error) for error in wrong]))


def forked() -> None:
    """Prints what the fork was told; the parent goes on as if there had been none."""
    trial = Trial()
    program = trial.compile()
    surface = trial.device.surface(256)
    tries: list[Callable[[], object]] = [
        lambda: program.evaluate([surface, surface], [surface]),
        lambda: trial.device.compile("", {}),
        lambda: trial.device.surface(256),
        surface.lock,
        lambda: _C.Device("ane"),
    ]
    warnings.simplefilter("ignore")  # newer Pythons warn of forks beside threads
    if os.fork() == 0:
        said = []
        for act in tries:
            try:
                act()
            except _C.AneUnavailable as error:
                said.append(str(error))
        print(json.dumps(said))
        program.unload()
        del trial, program, surface, tries
        gc.collect()
        sys.exit(0)
    _, status = os.wait()
    assert status == 0
    trial.evaluate()
    program.unload()


if __name__ == "__main__":
    globals()[sys.argv[1]]()
