"""Two ways of doing the same, taken in turns in one process, and compared pair by pair.

A shared machine drifts by tens of percent within a minute; neighbours in time drift alike. So the
ratio within each round is what counts, their median is the figure, and a bootstrap over the rounds
says how far that can be trusted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Ratio:
    """Median of paired ratios with its 95% interval."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.4f} (95%: {self.low:.4f} to {self.high:.4f})"


def taken(ways: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each way in each round; every second round runs in the opposite order."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(rounds):
        for name in list(ways) if i % 2 == 0 else list(ways)[::-1]:
            began = time.perf_counter()
            ways[name]()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def ratio(seconds: list[float], base: list[float]) -> Ratio:
    """Of paired times."""
    ratios = np.array(seconds) / np.array(base)
    rng = np.random.default_rng(0)
    drawn = np.median(rng.choice(ratios, (4000, len(ratios))), axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Ratio(float(np.median(ratios)), float(low), float(high))
