"""One rank of `mpiexec`: `python -m tests.dist_child FOLDER FAULT RANK AT train-flags...`

FAULT happens on rank RANK at its AT-th micro-batch: none, raise, exit (cleanly, too early), vanish
(the same, and not even Python knows), kill (SIGKILL), stop (SIGTERM) or sleep. Before MPI starts:
late (it sleeps) and early (it exits cleanly). Each rank leaves its process id in FOLDER. With
IMPATIENT in the environment ranks wait for seconds where it would be minutes.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from anefast.data import Batches
from anefast.distributed import start, waiting
from anefast.train import main

LONG = 120  # seconds, more than a test takes


def rank() -> int:
    """What the launcher says, before MPI is asked."""
    names = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK")
    return int(next(os.environ[name] for name in names if name in os.environ))


def armed(fault: str, at: int) -> None:
    read, count = Batches.batch, 0

    def batch(self: Batches, step: int) -> Any:
        nonlocal count
        count += 1
        if count == at:
            if fault == "raise":
                raise RuntimeError("a fault of the test")
            if fault == "exit":
                sys.exit(0)
            if fault == "vanish":
                os._exit(0)
            if fault == "sleep":
                time.sleep(LONG)
            os.kill(os.getpid(), signal.SIGKILL if fault == "kill" else signal.SIGTERM)
        return read(self, step)

    Batches.batch = batch  # type: ignore[method-assign]


if __name__ == "__main__":
    folder, fault, whose, at, *flags = sys.argv[1:]
    (Path(folder) / f"pid-{rank()}").write_text(str(os.getpid()))
    if "IMPATIENT" in os.environ:
        waiting.LATE_SECONDS = waiting.LATE_AT_FIRST = waiting.LATE_BETWEEN = waiting.ANSWERS = 1.0
        start.START_SECONDS = 2.0
    if rank() == int(whose):
        if fault in ("late", "early"):
            time.sleep(LONG * (fault == "late"))
            sys.exit(0)
        armed(fault, int(at))
    main(flags)
