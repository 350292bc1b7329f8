"""Accumulation: how compiles thin out as micro-steps per update grow, and how a batch warms up."""

from __future__ import annotations

from functools import cache
from itertools import accumulate
from typing import NamedTuple

from anefast.bench import clock, published
from anefast.bench.context import Bench, nudge

TITLE = "unfused training, micro-steps per update"


class Batch(NamedTuple):
    """Seconds of each micro-step of one long batch, and of the compiles of an update."""

    steps: tuple[float, ...]
    update: float


def scale(bench: Bench) -> tuple[str, int]:
    """(preset, positions) that are run here."""
    return ("stories260k", 64) if bench.quick else ("stories15m", published.SEQ)


@cache
def batch(bench: Bench, plan: str = "unfused") -> Batch:
    """The longest batch of the sweep; shorter ones are its beginnings."""
    preset, seq = scale(bench)
    longest = max(s.accumulation for s in published.SWEEP)
    with bench.training(bench.config(preset), seq, plan) as (step, x, y):

        def micro_step() -> None:
            step.micro_step(x, y, 16.0)
            step.wait()

        def changed() -> None:
            nudge(step)
            step.update_weights()

        steps = tuple(clock.seconds(micro_step) for _ in range(longest))
        update = clock.typical(changed, 0.5 * bench.budget)
    return Batch(steps, update)


def rate(found: Batch, n: int) -> float:
    """Steps per second of batches of `n`, an update after each."""
    return n / (sum(found.steps[:n]) + found.update)


def measure(bench: Bench) -> tuple[list[str], dict[str, float]]:
    found = batch(bench)
    sums = list(accumulate(found.steps))
    here: dict[str, float] = {}
    for s in published.SWEEP:
        n = s.accumulation
        here |= {
            f"{n}: step": 1e3 * sums[n - 1] / n,
            f"{n}: rate": rate(found, n),
            f"{n}: compiling": 100 * found.update / (sums[n - 1] + found.update),
        }
    here |= {f"step {n} of a batch": 1e3 * found.steps[n - 1] for n in published.WARM_UP}
    preset, seq = scale(bench)
    return [
        f"here {preset}, {seq} positions, one batch of {len(found.steps)} micro-steps and its "
        "beginnings, the update after each timed apart",
        "published and modelled stories110m, 256 positions, 60 programs compiled per update; its "
        "batch of 500 was cut after 279 steps, which the model does too",
    ], here
