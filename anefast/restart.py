"""Going on in a new process: the same command, resuming the run it was working on.

For when a process has used up what it may compile (runtime/budget.py). The run folder holds every
setting, so `--resume RUN` says all there is to say. Only a command may be replaced: a notebook or
somebody's own script would lose what it holds.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

COUNT = "ANEFAST_RESTARTS"  # in the environment: how often this command has been replaced


def restarts() -> int:
    """How many processes of this run came before this one by `restart`."""
    value = os.environ.get(COUNT, "0")
    return int(value) if value.isdigit() else 0


def command(run: Path, sinks: str = "") -> list[str]:
    """What resumes `run`, with this interpreter and its options (`python -X dev -m ...`).

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
