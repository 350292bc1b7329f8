"""Going on in a new process: the same command, resuming the run it was working on.

For when a process has used up what it may compile (runtime/budget.py). The run folder holds every
setting, so `--resume RUN` says all there is to say. Only a command may be replaced: a notebook or
somebody's own script would lose what it holds.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from anefast.runtime import CompileService

BEGAN = time.monotonic()
# Seconds that a process lives at least before another takes its place, on an ANE: after quick
# restarts every process of an M3 Pro failed to compile until a reboot (macOS 26.3.1,
# slavko-at-klincov-it/ANE-Training): what is used up is the system's, not the process's.
LEAST = 30.0
COUNT = "ANEFAST_RESTARTS"  # in the environment: how often this command has been replaced


def restarts() -> int:
    """The number of processes of this run that `restart` replaced before this one."""
    value = os.environ.get(COUNT, "0")
    return int(value) if value.isdigit() else 0


def pace(say: Callable[[str], None], least: float = LEAST) -> None:
    """Waits until this process is old enough to be replaced."""
    rest = BEGAN + least - time.monotonic()
    if rest > 0:
        say(f"waiting {rest:.0f} s: quick restarts used up what some systems compile")
        time.sleep(rest)


def stopped(error: Exception) -> str:
    """The message for a compile that failed in a restarted process. None is
    tried again: quick restarts make it worse."""
    return (
        f"[compile] restart {restarts()} failed to compile, and there is no other try: {error} "
        "Hint: --resume goes on from the checkpoint; if every process fails to compile, reboot."
    )


def command(run: Path, sinks: str = "") -> list[str]:
    """The command that resumes `run` with this interpreter and its options (`python -X dev -m ..`).

    sinks: the dashboards that are fed; a resumed folder's own word for them does not count.
    """
    feeding = ["--sinks", sinks] if sinks else []
    return [*interpreter(), "-m", "anefast.train", "--resume", str(run), *feeding]


def interpreter() -> list[str]:
    """This interpreter with its options."""
    words = sys.orig_argv
    return [sys.executable, *(words[1 : words.index("-m")] if "-m" in words else [])]


def restart(run: Path, sinks: str = "") -> NoReturn:
    """Replaces this process. Everything of the run must be on disk and its lock given back."""
    os.environ[COUNT] = str(restarts() + 1)
    sys.stdout.flush()
    sys.stderr.flush()
    words = command(run, sinks)
    os.execv(words[0], words)


def check_budget(compiler: CompileService, left: int, most: int, can_restart: bool) -> None:
    """Refuses a run that could not go on where its process has used up its compiles.

    left: updates to make. most: max_compiles.
    """
    if compiler.affords(left):
        return
    from anefast.runtime import CompileBudgetError

    if not can_restart:
        raise CompileBudgetError(
            f"[train] expected {left} updates within max_compiles {most}, but each takes "
            f"{compiler.per_update} compiles and a process that is not the train command cannot be "
            "replaced. Hint: anefast train, fewer steps, or on_budget continue."
        )
    if not compiler.affords():
        raise CompileBudgetError(
            f"[train] expected max_compiles of at least {compiler.needs()}, which the start and "
            f"one update take, got {most}. Hint: raise it, or choose a plan with fewer programs."
        )
