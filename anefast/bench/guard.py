"""One benchmark at a time, on a machine that is not busy: a lock, and a look at the neighbours.

A busy machine gives a warning, or an error with `refuse`: ratios within a run stay sound, which
is why only they are judged. The lock is the user's, across folders and processes.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from anefast.errors import AnefastError
from anefast.files import Locked, lock, read_text

BUSY = 0.25  # of all CPUs, taken by others


class Busy(AnefastError, RuntimeError):
    """Another benchmark runs, or the machine is busy. One line."""


@contextmanager
def one_at_a_time(path: Path | None = None) -> Iterator[None]:
    """Holds the lock while the context lasts. Raises Busy if another process has it."""
    path = path or Path(tempfile.gettempdir()) / f"anefast-bench-{os.getuid()}.lock"
    try:
        handle = lock(path, "bench")
    except Locked:
        raise Busy(
            f"[bench] another benchmark is running: it holds {path}. Hint: wait for it."
        ) from None
    try:
        yield
    finally:
        os.close(handle)


def busy_share(seconds: float = 0.3) -> float:
    """The share of CPU time, 0 to 1, that other processes use now; by load if it is unknown."""
    before = _ticks()
    if before is None:
        return min(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    mine = time.process_time()
    time.sleep(seconds)
    after = _ticks()
    assert after is not None
    busy, total = (b - a for a, b in zip(before, after, strict=True))
    own = (time.process_time() - mine) * os.sysconf("SC_CLK_TCK")
    return max(0.0, min(1.0, (busy - own) / max(total, 1)))


def look_around(refuse: bool = False, share: float | None = None) -> str:
    """A line if the machine is busy, else empty. With `refuse` it raises Busy."""
    taken = busy_share() if share is None else share
    if taken <= BUSY:
        return ""
    line = (
        f"[bench] other processes use {100 * taken:.0f} % of this machine's CPU time: absolute "
        "times are too long; ratios within a run hold."
    )
    if refuse:
        raise Busy(f"{line} Hint: wait, or go without the flag that refuses.")
    return line


def _ticks() -> tuple[int, int] | None:
    """(busy, all) CPU time of the machine since it started, where Linux counts it."""
    with contextlib.suppress(OSError, ValueError):
        fields = [
            int(n) for n in read_text("/proc/stat", where="bench").split("\n")[0].split()[1:9]
        ]
        idle = fields[3] + fields[4]
        return sum(fields) - idle, sum(fields)
    return None
