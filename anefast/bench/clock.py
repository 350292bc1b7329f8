"""Timing that a shared machine does not spoil: runs taken in turns, medians, ratios within a run.

A machine's absolute times drift; the ratio of two runs taken back to back hardly does. A ratio
below `floor` is raced again, up to ATTEMPTS times in all, and the best race counts: what is really
slower is slower in every race, and a neighbour is not there in all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from statistics import median

from anefast import _C

Run = Callable[[], object]
Timer = Callable[[], float]
FLOOR, ATTEMPTS = 0.97, 3


def seconds(run: Run, timer: Timer = time.perf_counter) -> float:
    """Seconds of one call. timer: `time.thread_time` counts this thread's CPU time only."""
    start = timer()
    run()
    return timer() - start


@contextmanager
def one_thread() -> Iterator[None]:
    """Runs everything on the calling thread, so that its CPU time is the whole cost."""
    before = _C.threads()
    _C.set_threads(1)
    try:
        yield
    finally:
        _C.set_threads(before)


def cpu_ratios(runs: Mapping[str, Run], against: str, turns: int = 9) -> dict[str, float]:
    """{other: other / against} in CPU time on one thread, which decides about regressions."""
    with one_thread():
        return race(runs, against, turns=turns, timer=time.thread_time)[1]


def typical(run: Run, budget: float, least: int = 3, most: int = 200) -> float:
    """Median seconds of calls that fill `budget` seconds, after one that only warms up."""
    warm = seconds(run)
    turns = max(least, min(most, int(budget / max(warm, 1e-9))))
    return median(seconds(run) for _ in range(turns))


def race(
    runs: Mapping[str, Run],
    against: str,
    budget: float = 4.0,
    turns: int = 0,
    floor: float = FLOOR,
    attempts: int = ATTEMPTS,
    timer: Timer = time.perf_counter,
) -> tuple[dict[str, float], dict[str, float]]:
    """(median seconds by name, {other: median of other / against}) of the best of several races.

    runs: functions by name, which take turns; `against` is the one that others are compared with.
    """
    best: tuple[dict[str, float], dict[str, float]] = ({}, {})
    for _ in range(attempts):
        warm = sum(seconds(run) for run in runs.values())
        count = turns or max(5, min(200, int(budget / max(warm, 1e-9))))
        taken: dict[str, list[float]] = {name: [] for name in runs}
        order = list(runs)
        for _ in range(count):
            for name in order:
                taken[name].append(seconds(runs[name], timer))
            order.reverse()  # so that neither is always the first
        ratios = {
            name: median(a / b for a, b in zip(times, taken[against], strict=True))
            for name, times in taken.items()
            if name != against
        }
        if not best[1] or min(ratios.values()) > min(best[1].values()):
            best = {name: median(times) for name, times in taken.items()}, ratios
        if min(ratios.values(), default=floor) >= floor:
            break
    return best
