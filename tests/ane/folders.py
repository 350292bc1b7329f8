"""Inside a fake build: programs' folders, beside other processes and threads. Not a test.

`folders.py killed`: dies with a program loaded. `held`: loads one, waits for a line, evaluates and
unloads. `once`: the same without waiting. `hammer`: many, one after another. `threads`: two threads
with equal programs. `alike`: two with other weights and one name. `forked`: a fork with a program
of its parent's. What a test asks about is printed.
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

import inside
from faults import Trial

from anefast import _C


def seen() -> str:
    """What the temporary folder holds now."""
    return json.dumps(sorted(p.name for p in Path(tempfile.gettempdir()).iterdir()))


def killed() -> None:
    trial = Trial()
    trial.compile(2.0)
    print(seen(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def held() -> None:
    trial = Trial()
    trial.compile()
    print(seen(), flush=True)
    sys.stdin.readline()
    trial.evaluate()
    trial.program.unload()


def once() -> None:
    trial = Trial()
    trial.evaluate()
    print(seen())
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


def hammer() -> None:
    """Compiles, evaluates and unloads equal programs, over and over, beside another process."""
    sys.stdin.readline()
    for i in range(60):
        trial = Trial()
        trial.compile(beside=f"weights/{i % 3}.bin")
        trial.evaluate()
        trial.program.unload()


def alike() -> None:
    """Two programs that differ in their weights alone, on a system that names them alike."""
    inside.set_("names_by_text", 1)

    def said(act: Callable[[], object]) -> str:
        try:
            act()
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return ""

    first, second = Trial(), Trial()
    told = {"first": said(first.evaluate), "both": said(lambda: second.compile(2.0))}
    first.evaluate()
    first.program.unload()
    told["after"] = said(lambda: second.compile(2.0))
    second.program.unload()
    print(json.dumps(told))


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
