"""Compiles found again in a cache: programs without weights are, those with changed ones never."""

from __future__ import annotations

from anefast.bench.context import Bench, nudge
from anefast.bench.table import Line
from anefast.bench.tables.compiles import SMALL

TITLE = "cache of compiled programs"


def measure(bench: Bench) -> tuple[list[str], list[Line]]:
    counters = bench.device.programs.counters
    with bench.training(SMALL, 64, "unfused") as (step, _, _):
        started = counters.compiles
        step.update_weights()  # nothing has changed
        same = counters.compiles - started
        nudge(step)
        before = counters.hits, counters.misses
        step.update_weights()
        hits, misses = counters.hits - before[0], counters.misses - before[1]
        free = len(step.compiled.kernels) - step.compiler.per_update
        shared = step.device.programs.live
    return [
        f"here 12 layers, unfused: {len(step.compiled.kernels)} programs, {free} of them without "
        "weights, which are of one text and held once",
        "published: the system's daemon, across processes; here: one process",
    ], [
        Line("programs without weights, compiled per update", "", 0, 0, "hits: 0"),
        Line("programs with changed weights: hits", "", hits, 0, "always miss"),
        Line("programs with changed weights: compiled", "", misses, 60, "60"),
        Line("programs with the same bytes: compiled", "", same, 0, "0"),
        Line("programs alive", "", shared, None, "72"),
    ]
