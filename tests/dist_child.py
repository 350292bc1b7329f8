"""One rank of `mpiexec`: `python -m tests.dist_child FOLDER FAULT RANK AT train-flags...`

FAULT happens on rank RANK at its AT-th micro-batch: none, raise, exit (cleanly, too early), kill
(SIGKILL) or stop (SIGTERM). Each rank leaves its process id in FOLDER.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from anefast.data import Batches
from anefast.train import main


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
            os.kill(os.getpid(), signal.SIGKILL if fault == "kill" else signal.SIGTERM)
        return read(self, step)

    Batches.batch = batch  # type: ignore[method-assign]


if __name__ == "__main__":
    folder, fault, whose, at, *flags = sys.argv[1:]
    (Path(folder) / f"pid-{rank()}").write_text(str(os.getpid()))
    if rank() == int(whose):
        armed(fault, int(at))
    main(flags)
