"""The optimisation stack: more micro-steps per update, compiles behind them, no overhead at all."""

from __future__ import annotations

from statistics import median

from anefast.bench import clock
from anefast.bench.context import Bench, nudge
from anefast.bench.tables.accumulation import batch, rate, scale

TITLE = "what each optimisation adds to throughput"
ACCUMULATION = 100


def measure(bench: Bench) -> tuple[list[str], dict[str, float]]:
    found = batch(bench)
    preset, seq = scale(bench)
    updates = 1 if bench.quick else 2
    with bench.training(bench.config(preset), seq, "unfused,async", 25) as (step, x, y):

        def update() -> None:
            nudge(step)
            step.update_weights()
            for _ in range(ACCUMULATION):
                step.micro_step(x, y, 16.0)
                step.wait()

        update()
        behind = median(clock.seconds(update) for _ in range(updates))
    return [
        f"here {preset}, {seq} positions, compiles on the same cores as everything else",
        "published and modelled stories110m",
    ], {
        "accumulation 10": rate(found, 10),
        "accumulation 100": rate(found, 100),
        "and async compile": ACCUMULATION / behind,
        "asymptote": 1 / median(found.steps),
    }
