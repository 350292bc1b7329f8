"""Compiles many programs in one process: 312 as training does, and 150 one after the other."""

from __future__ import annotations

from functools import partial
from statistics import median

import numpy as np

from anefast import ir
from anefast.bench import clock
from anefast.bench.context import Bench, nudge
from anefast.bench.table import Line
from anefast.config import ModelConfig
from anefast.runtime.kernel import Kernel

TITLE = "compiles in one process, without a restart"
UPDATES, STANDALONE = 5, 150
SMALL = ModelConfig(dim=64, n_layers=12, n_heads=4, hidden_dim=128, vocab_size=64)


def measure(bench: Bench) -> tuple[list[str], list[Line]]:
    trained, live, first, last = training(bench)
    loaded, slower = standalone(bench)
    return [
        f"here 12 layers of 64 channels, unfused, {UPDATES} updates of 60 programs (the 12 without "
        f"weights are one); then {STANDALONE} programs of one 768-channel convolution, all loaded",
        "the model has no limit to say: the published process had none, others stopped near 119",
    ], [
        Line("compiles while training", "", trained, None, "312, no failure"),
        Line("programs alive after them", "", live, None, None),
        Line("compiling 60 programs, first update", "ms", first, None, None),
        Line("compiling 60 programs, last update", "ms", last, None, "no degradation"),
        Line("convolutions compiled and loaded", "", loaded, None, "150, all pass"),
        Line("last ten over first ten, time", "x", slower, None, None),
    ]


def training(bench: Bench) -> tuple[int, int, float, float]:
    """(compiles, programs alive, ms of the first update's and of the last's)."""
    device = bench.device
    before, alive = device.programs.counters.compiles, device.programs.live
    with bench.training(SMALL, 64, "unfused") as (step, x, y):
        times = []
        for _ in range(UPDATES):
            step.micro_step(x, y, 16.0)
            step.wait()
            nudge(step)
            times.append(clock.seconds(step.update_weights))
        made = device.programs.counters.compiles - before
        shared = device.programs.live - alive
    return made, shared, 1e3 * times[0], 1e3 * times[-1]


def standalone(bench: Bench) -> tuple[int, float]:
    """(programs that evaluate, how much slower the last compiles are than the first)."""
    dim = 768
    x = ir.input("a0_x", (1, dim, 1, 64))
    y = ir.conv(x, ir.parameter("w", (dim, dim, 1, 1)))
    program = ir.Program.cut("conv", [("a0_x", x)], [("z0_y", y)])
    into, out = bench.device.surface(x.shape), bench.device.surface(y.shape)
    weight = np.full((dim, dim), 1e-3, np.float32)
    kernels, times = [], []
    for i in range(STANDALONE):
        kernel = Kernel(bench.device, program, "ios18")
        weight[0, 0] = i  # another weight, another program
        times.append(clock.seconds(partial(kernel.load, {"w": weight})))
        kernels.append(kernel)
    for kernel in kernels:
        kernel.evaluate([into], [out])
        kernel.unload()
    return len(kernels), median(times[-10:]) / median(times[:10])
