"""Runs side by side: which is best, which differ in their seed alone, on what axis they are drawn.

Losses of different tokenizers compare per byte of text, so that is the unit wherever every run has
it. Read next: figures.py draws the groups, page.py tells them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anefast.telemetry.history import History, Series

SEEDS = {"seed", "data.seed"}
OWN = SEEDS | {"out", "resume", "trace", "sinks", "prompt", "sample_tokens"}
AXES = {"update": "updates", "tokens": "tokens", "time": "minutes of training"}


@dataclass(frozen=True)
class Unit:
    """A unit of loss. name: the end of its column in metrics.jsonl."""

    name: str
    words: str

    def train(self, run: History) -> Series:
        return run.series(f"train/{self.name}")

    def val(self, run: History) -> Series:
        return run.series(f"val/{self.name}")

    def floor(self, run: History) -> float | None:
        """The loss that no model beats on average, or None if unknown."""
        if run.floor is None or self is PER_TOKEN:
            return run.floor
        bits, nats = self.val(run).last, PER_TOKEN.val(run).last
        return run.floor * bits / nats if nats > 0 else None

    def best(self, run: History) -> float:
        """The lowest validation loss, inf if there is none."""
        return min(self.val(run).values, default=math.inf)


PER_BYTE = Unit("bits_per_byte", "bits per byte")
PER_TOKEN = Unit("loss", "nats per token")


def unit_of(runs: Sequence[History]) -> Unit:
    """Bits per byte where every run that was validated has them, else nats per token."""
    judged = [run for run in runs if run.series("val/loss")]
    return PER_BYTE if judged and all(map(PER_BYTE.val, judged)) else PER_TOKEN


def ranked(runs: Sequence[History]) -> list[History]:
    """The best validation loss first, runs without one last."""
    return sorted(runs, key=unit_of(runs).best)


def groups(runs: Sequence[History]) -> list[list[History]]:
    """Groups of runs that differ only in their seed, in the order of their first runs."""
    found: dict[tuple[tuple[str, str], ...], list[History]] = {}
    for run in runs:
        key = tuple(sorted((k, str(v)) for k, v in run.settings.items() if k not in OWN))
        found.setdefault(key, []).append(run)
    return list(found.values())


def named(group: Sequence[History]) -> str:
    """A run's name, or the first one's with the number of seeds."""
    return group[0].name if len(group) == 1 else f"{group[0].name} ({len(group)} seeds)"


def along(run: History, series: Series, axis: str) -> Series:
    """`series` over an axis of AXES. Time counts updates alone, without validation and saving."""
    if axis == "update" or not series:
        return series
    told = run.series("tokens") if axis == "tokens" else run.series("ms")
    values = np.array(told.values)
    if axis == "time":
        values = np.cumsum(values) / 60e3
    steps, reached = [0, *told.steps], [0.0, *values.tolist()]
    if told.steps and told.steps[0] == 0:
        steps, reached = told.steps, values.tolist()
    return Series(np.interp(series.steps, steps, reached).tolist(), series.values)


def band(many: Sequence[Series]) -> tuple[list[float], list[float], list[float], list[float]]:
    """x where all runs have values, and the mean, lowest and highest of the values there."""
    start = max(s.steps[0] for s in many)
    end = min(s.steps[-1] for s in many)
    x = [step for step in many[0].steps if start <= step <= end]
    rows = np.array([np.interp(x, s.steps, s.values) for s in many])
    return list(x), rows.mean(0).tolist(), rows.min(0).tolist(), rows.max(0).tolist()


def ceiling(runs: Sequence[History], unit: Unit) -> float:
    """The top of a plot of losses, which only the first twentieth of a run may exceed."""
    late = []
    for run in runs:
        for series in (unit.train(run), unit.val(run)):
            begins = run.step / 20
            late += [v for x, v in zip(series.steps, series.values, strict=True) if x >= begins]
    return max(late, default=math.nan)
