"""Programs that the device lost, brought back: after a sleep, or when the system's service ended.

A system may evict a loaded program; the next evaluation then fails though nothing is wrong with it.
The program is loaded again, or compiled anew where the system has forgotten it, and the evaluation
repeated: it had not written its inputs, so the bytes are those of one that never failed. A program
that fails again soon is not lost but broken, and its error is the run's.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import NoReturn

from anefast import _C
from anefast.runtime.budget import PROCESS

log = logging.getLogger("anefast")

TRIES = 2  # a service that ended may end once more
SOON = 60.0  # seconds after which a program may be brought back once more


class Revivals:
    """Brings programs back, counts it, and reports it once. Safe from any thread."""

    def __init__(self) -> None:
        self.count = 0  # programs that were brought back so far
        self.compiled = 0  # those of them that had to be compiled anew
        self._lock = threading.Lock()

    def again(
        self,
        name: str,
        program: _C.Program,
        error: _C.DeviceError,
        evaluate: Callable[[], None],
        last: float = -math.inf,
    ) -> float:
        """Brings `program` back after `error` and calls `evaluate` again, twice at most.

        last: what this returned for it before. Raises the error, with what else went wrong behind
        it, where nothing helps.
        """
        now = time.monotonic()
        if now - last < SOON:
            failed(error, f"{name}, which was brought back {now - last:.0f} s before")
        compiled = False
        for left in reversed(range(TRIES)):
            try:
                if program.reload():
                    compiled = True
                    PROCESS.spend()
                evaluate()
                break
            except _C.DeviceError:
                if not left:
                    failed(error, f"{name}, and again once it was brought back")
            except (RuntimeError, ValueError, MemoryError) as second:
                failed(error, f"{name}, which could not be brought back: {second}")
        with self._lock:
            self.count += 1
            self.compiled += compiled
            first = self.count == 1
        if first:
            log.warning(
                "[device] %s was lost (%s). It was %s and the evaluation repeated, which changes "
                "no value. The next ones are only counted: reloads in timings.jsonl.",
                name, plain(error), "compiled anew" if compiled else "loaded again",
            )  # fmt: skip
        return now


def plain(error: Exception) -> str:
    """The message without its hint, which is for somebody who has to act."""
    return str(error).partition(" Hint:")[0].rstrip(".")


def failed(error: _C.DeviceError, about: str) -> NoReturn:
    """The same error, with what it is about behind it."""
    error.args = (f"{error} (program {about})",)
    raise error


PROCESS_WIDE = Revivals()
