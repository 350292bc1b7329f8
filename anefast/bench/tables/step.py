"""Measures where a training step's time goes, forward and backward, with the native spans."""

from __future__ import annotations

from anefast import _C
from anefast.bench import published
from anefast.bench.context import Bench
from anefast.telemetry.timeline import Sums

TITLE = "one unfused micro-step by part, in steady state"
PARTS = {  # published row: our components
    "ANE, {n} evaluations": ("evaluate",),
    "I/O": ("stage", "lock", "read_back"),
    "classifier": ("classifier",),
    "elementwise": ("embedding", "elementwise", "cross_entropy"),
    "CPU operations": ("embedding", "elementwise", "dw_submit"),
}


def measure(bench: Bench) -> tuple[list[str], dict[str, float]]:
    preset, turns = ("stories15m", 4) if bench.quick else ("stories110m", 8)
    thread, sums = _C.spans_thread(), Sums()
    with bench.training(bench.config(preset), published.SEQ, "unfused") as (step, x, y):
        for turn in range(turns + 1):
            _C.spans_drain()
            _C.spans_record(True)
            began = _C.spans_clock()
            step.micro_step(x, y, 16.0)
            step.wait()
            lasted = _C.spans_clock() - began
            _C.spans_record(False)
            if turn:  # the first only warms up
                sums.take(_C.spans_drain(), thread)
                sums.wall_ns += lasted
        forward, backward = len(step._forward), len(step._backward)
    return conditions(preset, forward, backward), parts(sums, turns)


def parts(sums: Sums, turns: int) -> dict[str, float]:
    """Published rows in ms per micro-step."""
    row = {name: ms / turns for name, ms in sums.row().items()}
    here: dict[str, float] = {}
    for phase, n in (("forward", 24), ("backward", 48)):
        here[phase] = sum(ms for name, ms in row.items() if name.startswith(f"{phase}/"))
        for part, components in PARTS.items():
            name = f"{phase}: {part.format(n=n)}"
            if name in published.STEP_MS:
                here[name] = sum(row.get(f"{phase}/{c}", 0.0) for c in components)
    here["weight gradients, overlapped"] = sums.beside[0][_C.Component.DW_RUN] / turns / 1e6
    here["step"] = sums.wall_ns / turns / 1e6
    return here


def conditions(preset: str, forward: int, backward: int) -> list[str]:
    return [
        f"here {preset}, {published.SEQ} positions, {forward} and {backward} evaluations; all "
        "three products of the classifier are made forward",
        "published and modelled stories110m, 24 and 48; its backward parts are its own estimates",
        "overlapped: on other threads, beside the rest",
    ]
