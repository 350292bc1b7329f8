"""What this machine can do at most, measured now: multiply-adds, and the traffic of AdamW.

`roofline.c` is compiled for this processor alone into a temporary folder. Both figures are of
`threads` Python threads, which ctypes lets run side by side.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest

ROUNDS = 5
PANEL = 32768  # weights handed to a thread at a time


@dataclass(frozen=True)
class Roofline:
    """flops: fp32 operations per second in registers. stream: bytes per second of AdamW's kind."""

    flops: float
    stream: float

    def seconds(self, flops: float, weights: int) -> float:
        """The least time of so much arithmetic and then an AdamW update, nothing overlapped."""
        return flops / self.flops + 28 * weights / self.stream

    def __str__(self) -> str:
        return f"{self.flops / 1e9:.0f} GFLOP/s fp32, {self.stream / 1e9:.1f} GB/s as AdamW streams"


def build() -> Any:
    """roofline.c as a library; skips where there is no C compiler."""
    compiler = shutil.which("cc")
    if not compiler:
        pytest.skip("no C compiler called cc: the machine's roofline cannot be measured")
    source = Path(__file__).with_name("roofline.c")
    out = Path(tempfile.mkdtemp()) / "roofline.so"
    flags = ["-O3", "-march=native", "-ffp-contract=fast", "-Wno-psabi", "-shared", "-fPIC"]
    flags += ["-fno-tree-loop-distribute-patterns"]  # or a copy becomes a call of memcpy
    subprocess.run([compiler, *flags, str(source), "-o", str(out)], check=True)
    library = ctypes.CDLL(str(out))
    library.fma_rounds.restype = ctypes.c_double
    library.fma_rounds.argtypes = [ctypes.c_size_t, ctypes.c_void_p]
    library.copy_floats.argtypes = [ctypes.c_void_p] * 2 + [ctypes.c_size_t]
    library.stream_adam.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_size_t]
    return library


class Machine:
    """Measures, and remembers the library and the threads it measures with."""

    def __init__(self, threads: int) -> None:
        self.threads, self._library = threads, build()
        self._workers = ThreadPoolExecutor(threads)

    def fma(self, rounds: int = 3_000_000) -> float:
        """Operations per second of all threads together."""
        sinks = [ctypes.c_float() for _ in range(self.threads)]
        start = time.perf_counter()
        done = self._workers.map(
            lambda s: self._library.fma_rounds(rounds, ctypes.addressof(s)), sinks
        )
        return float(sum(done)) / (time.perf_counter() - start)

    def stream(self, arrays: list[np.ndarray]) -> float:
        """Seconds of one pass over four fp32 arrays, in panels as AdamW takes them."""
        n, group = arrays[0].size, 8 * PANEL
        at = [a.ctypes.data for a in arrays]

        def part(first: int) -> None:
            count = min(group, n - first)
            self._library.stream_adam(*(p + 4 * first for p in at), count)

        start = time.perf_counter()
        list(self._workers.map(part, range(0, n, group)))
        return time.perf_counter() - start

    def copy(self, to: np.ndarray, source: np.ndarray) -> None:
        """One fp32 array into another, on this thread."""
        self._library.copy_floats(to.ctypes.data, source.ctypes.data, source.size)

    def roofline(self, weights: int = 15_000_000) -> Roofline:
        arrays = [np.full(weights, 1e-3, np.float32) for _ in range(4)]
        taken = [self.stream(arrays) for _ in range(ROUNDS)]
        return Roofline(max(self.fma() for _ in range(ROUNDS)), 28 * weights / median(taken))
