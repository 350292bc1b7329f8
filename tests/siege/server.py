"""Training commands in children of one process, so that importing is paid for once.

`Server` is the test's side. `python -m tests.siege.server` is the other: it reads a job a line,
forks a child for it, and answers with its process id and then its wait status.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
HOWS = ("fail", "short", "kill", "torn", "power")  # as the enum in fault.c
NEVER = 2**62


@dataclass(frozen=True)
class Fault:
    """What goes wrong in a child: see fault.c."""

    root: str  # in the path of the files concerned
    at: int = NEVER
    how: str = "fail"
    kind: str = ""
    number: int = 1
    error: int = 0
    log: str = ""  # a file for a line per call


@dataclass(frozen=True)
class End:
    """How a command ended: exit code or minus the signal, and all that it printed."""

    code: int
    text: str

    @property
    def last(self) -> str:
        return self.text.strip().rpartition("\n")[2]


class Server:
    """A process that runs commands, one at a time."""

    def __init__(self, folder: Path, shim: Path | None = None) -> None:
        self.folder = folder
        environment = {**os.environ, "PATH": "", "ANEFAST_THREADS": "1"}  # no git: it costs most
        if shim is not None:
            environment["LD_PRELOAD"] = str(shim)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.siege.server"],
            cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._answer() == "ready"

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def run(
        self,
        argv: list[str],
        fault: Fault | None = None,
        send: tuple[signal.Signals, float] | None = None,
        behind: str = "",
        seconds: float = 120.0,
    ) -> End:
        """Runs `anefast train ARGV`.

        send: a signal, so many seconds after it began, or after it printed `behind`.
        """
        log = self.folder / "output.txt"
        log.write_text("")
        job = {"argv": argv, "log": str(log), "fault": vars(fault) if fault else None}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        child = int(self._answer())
        timers = [threading.Timer(seconds, _send, (child, signal.SIGKILL))]
        if send is not None:
            wait = 0.0 if behind else send[1]
            timers.append(threading.Timer(wait, _send, (child, send[0], log, behind, send[1])))
        for timer in timers:
            timer.start()
        status = int(self._answer())
        late = not timers[0].is_alive()
        for timer in timers:
            timer.cancel()
            timer.join()
        assert not late, f"hangs: {argv}, {fault}, {send}"
        return End(os.waitstatus_to_exitcode(status), log.read_text("utf-8", "replace"))

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def _send(
    process: int, number: int, log: Path | None = None, behind: str = "", wait: float = 0.0
) -> None:
    try:
        while behind and log is not None and behind not in log.read_text("utf-8", "replace"):
            os.kill(process, 0)
            time.sleep(0.001)
        time.sleep(wait if behind else 0.0)
        os.kill(process, number)
    except ProcessLookupError:
        pass


def serve() -> None:
    """The server's side. A child is waited for, but not reaped, before its end is told."""
    import safetensors.numpy  # noqa: F401
    import tomli_w  # noqa: F401

    import anefast.fuse
    import anefast.model
    import anefast.runtime  # noqa: F401
    from anefast.cli import train_config
    from anefast.train import main

    train_config([])
    answers = os.fdopen(os.dup(1), "w")
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            _work(job, main)
        print(child, file=answers, flush=True)
        print(os.waitpid(child, 0)[1], file=answers, flush=True)


def _work(job: dict[str, Any], main: Any) -> None:
    code = 70
    try:
        out = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number in (1, 2):
            os.dup2(out, number)
        sys.argv = ["train", *job["argv"]]
        if fault := job["fault"]:
            _arm(Fault(**fault))
        main(job["argv"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except KeyboardInterrupt:  # before the command was ready for it
        code = 130
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def _arm(fault: Fault) -> None:
    log = -1
    if fault.log:
        log = os.open(fault.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    arm = ctypes.CDLL(None).fault_arm
    arm.argtypes = [ctypes.c_char_p] * 2 + [ctypes.c_long] * 2 + [ctypes.c_int] * 3
    how = HOWS.index(fault.how)
    arm(fault.root.encode(), fault.kind.encode(), fault.at, fault.number, fault.error, how, log)


if __name__ == "__main__":
    serve()
