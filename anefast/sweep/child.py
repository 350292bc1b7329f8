"""The process of one run of a sweep: `python -m anefast.sweep.child NOTE [flags of train]`.

It is the train command, which besides leaves a line in the file NOTE where the run fails, and saves
and ends where the sweep that started it is gone: no run goes on behind the back of the next sweep.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from anefast import train
from anefast.cli import one_line
from anefast.errors import shown
from anefast.files import write_atomic
from anefast.results import FitResult


def main() -> None:
    """Runs `train`, with its exit codes."""
    note, *arguments = sys.argv[1:]

    def fit(*args: Any, **named: Any) -> FitResult:
        try:
            return train.fit(*args, **named)
        except Exception as error:
            told = one_line(error) or f"{type(error).__name__}: {shown(error)}"
            write_atomic(Path(note), f"{told}\n".encode("utf-8", "replace"), "sweep")
            raise

    threading.Thread(target=_outlive_nobody, name="anefast-sweep", daemon=True).start()
    train.main(arguments, fit)


def _outlive_nobody() -> None:
    """Ends this process when the sweep ends, whose pipe is its standard input."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
