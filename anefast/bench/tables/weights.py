"""Ways to change weights without a compile: what was refused there, and what each does here."""

from __future__ import annotations

import numpy as np

from anefast import ir
from anefast.bench.context import Bench
from anefast.bench.table import Cell, Line
from anefast.config import ModelConfig
from anefast.runtime.device import Half, Surface
from anefast.runtime.kernel import Kernel

TITLE = "whether weights can change without a compile"
SMALL = ModelConfig(dim=64, n_layers=2, n_heads=4, hidden_dim=128, vocab_size=64)


def measure(bench: Bench) -> tuple[list[str], list[Line]]:
    refused = "refused"
    return [
        "here the same training step under three plans, after an update of every weight; the last "
        "row overwrites the weight file's bytes behind a compiled program",
        "modelled: what is known of the chip; other M1s took several inputs",
    ], [
        Line("inputs of their own (weights=params)", "", plan(bench, "params"), None, refused),
        Line("inside the input (weights=packed)", "", plan(bench, "packed"), None, refused),
        Line("baked (weights=const)", "", plan(bench, "const"), None, "compile per update"),
        Line("weight file overwritten", "", overwritten(bench), None, "no effect"),
    ]


def plan(bench: Bench, weights: str) -> Cell:
    """The counts of an update under this plan, if training after it differs as it must."""
    counters = bench.device.programs.counters
    with bench.training(SMALL, 64, f"all,weights={weights}") as (step, x, y):
        before, _ = step.micro_step(x, y, 16.0)
        step.wait()
        compiled = counters.compiles
        for value in step.params.values():
            value *= 1.25
        step.update_weights()
        after, _ = step.micro_step(x, y, 16.0)
        step.wait()
        made = counters.compiles - compiled
    if before == after:
        return "no effect"
    return f"{made} compiles per update" if made else "taken, 0 compiles"


def overwritten(bench: Bench) -> str:
    """Evaluates a program before and after the bytes that it was compiled from change."""
    x = ir.input("a0_x", (1, 64, 1, 32))
    y = ir.conv(x, ir.parameter("w", (64, 64, 1, 1)))
    kernel = Kernel(bench.device, ir.Program.cut("conv", [("a0_x", x)], [("z0_y", y)]), "ios18")
    weight = np.full((64, 64), 0.5, np.float32)
    blobs = kernel.fill({"w": weight}) or {}
    native = bench.device.compile(kernel.text, blobs)
    into, out = bench.device.surface(x.shape), bench.device.surface(y.shape)
    with into.write() as data:
        data[...] = 1
    first = evaluated(native.evaluate, into, out)
    for blob in blobs.values():
        np.asarray(blob)[...] = 0
    second = evaluated(native.evaluate, into, out)
    native.unload()
    return "no effect" if first.tobytes() == second.tobytes() else "changes what is computed"


def evaluated(evaluate: object, into: Surface, out: Surface) -> Half:
    assert callable(evaluate)
    evaluate([into.native], [out.native])
    with out.read() as data:
        return data.copy()
