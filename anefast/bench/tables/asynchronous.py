"""Evaluations while twenty programs compile on another thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import NamedTuple

import numpy as np

from anefast.bench import clock, published
from anefast.bench.context import Bench, nudge
from anefast.runtime import TrainingStep

TITLE = "one evaluation, alone and beside background compiles"
PROGRAMS = 20


class Beside(NamedTuple):
    """Seconds of a forward pass by the clock and of its thread's CPU, alone and beside compiles."""

    alone: float
    busy: float
    cpu_alone: float
    cpu_busy: float
    evaluations: int


def measure(bench: Bench) -> tuple[list[str], dict[str, float]]:
    with clock.one_thread():
        found = beside(bench, rounds=2 if bench.quick else 5)
    alone, busy = found.alone / found.evaluations, found.busy / found.evaluations
    return [
        f"here the unfused forward pass of stories15m, {found.evaluations} evaluations on one "
        f"thread, {PROGRAMS} programs compiled over and over on another",
        "published a 768-channel kernel (modelled as a convolution of 256 positions), 20 kernels",
        f"ratio by the clock here {busy / alone:.2f}, of its own CPU time "
        f"{found.cpu_busy / found.cpu_alone:.2f}; published 1.13",
    ], {"alone": 1e3 * alone, "while 20 kernels compile": 1e3 * busy}


def beside(bench: Bench, rounds: int) -> Beside:
    """Quiet and busy rounds alternate; medians."""
    with bench.training(bench.config("stories15m"), published.SEQ, "unfused") as (step, _, _):
        quiet: list[tuple[float, float]] = []
        busy: list[tuple[float, float]] = []
        passes(step)
        for _ in range(rounds):
            quiet += passes(step)
            with compiling(step):
                busy += passes(step)
        n = len(step._forward)
    (wall, cpu), (busy_wall, busy_cpu) = (
        tuple(median(column) for column in zip(*taken, strict=True)) for taken in (quiet, busy)
    )
    return Beside(wall, busy_wall, cpu, busy_cpu, n)


def passes(step: TrainingStep) -> list[tuple[float, float]]:
    """Seconds by the clock and of this thread, of eight forward passes."""
    taken = []
    for _ in range(8):
        cpu = time.thread_time()
        wall = clock.seconds(lambda: step.compiled.run(step._forward))
        taken.append((wall, time.thread_time() - cpu))
    return taken


@contextmanager
def compiling(step: TrainingStep) -> Iterator[None]:
    """A thread compiles PROGRAMS of the step's programs, again and again."""
    kernels = [k for k in step.compiled.kernels if k.baked][:PROGRAMS]
    nudge(step)  # what is loaded would not be filled again
    filled = [(k.text, k.fill(step.params)) for k in kernels]
    jobs = [(text, {p: np.array(b) for p, b in f.items()}) for text, f in filled if f]
    stop = threading.Event()

    def behind() -> None:
        while not stop.is_set():
            for text, blobs in jobs:
                step.device.programs.acquire(text, blobs, keep=False).release()

    thread = threading.Thread(target=behind)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
