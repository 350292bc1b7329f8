"""Measures this device's rates in a second or two, and remembers them.

A handful of small programs whose work is known are timed: an empty one for the cost of a dispatch,
a chain of products, a product that is all weights, one layer of a transformer, and the CPU's share.
The rates go to a file in the user's cache, keyed by machine, device and version, so that `auto`
decides alike from run to run. Delete the file to measure again. What a rate is used for is
`fuse/cost.py`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np

from anefast import _C, ir
from anefast.config import ModelConfig
from anefast.files import FileError, make_folder, read_json, write_json
from anefast.fuse import Region, find_plan
from anefast.fuse.count import Counter, StepCount
from anefast.fuse.timing import Rates
from anefast.models import Params, init_params
from anefast.runtime.compiled_graph import CompiledGraph, stage
from anefast.runtime.device import Device
from anefast.runtime.doctor_facts import cache_folder
from anefast.runtime.kernel import Kernel
from anefast.runtime.taken import first_taken
from anefast.schema import flag, line, number, record, table

log = logging.getLogger("anefast")

SHORTEST = 0.02  # s that one figure is measured for, at least
FORMAT = 3  # of the cached file, counted up when rates mean something else
SECONDS, PER_SECOND = number(0, 1e6), number(1, 1e30)  # what a figure of the file may be
DIVISORS = {"flops", "stream", "fill", "cpu_flops", "pair_flops", "cpu_pair_flops"} | {
    f"{what}_bytes" for what in ("value", "port", "copied", "staged")
}
LAYER = ModelConfig(dim=256, n_layers=1, n_heads=4, hidden_dim=704, vocab_size=32)
SEQ = 256
RANK, WIDE = 8, 2048  # of an adapter's pair


_RATES = record(
    {f.name: PER_SECOND if f.name in DIVISORS else SECONDS for f in fields(Rates)}
    | {"label": line(80), "source": line(), "fill_limit": number(0), "beside": flag}
)


def calibrate(device: Device, cache: Path | None = None) -> Rates:
    """Rates of this device: from the cache, else measured now. `cache`: the file to use."""
    path = cache or cache_file()
    key = machine(device)
    known = _read(path)
    if key in known:
        return known[key]
    began = time.perf_counter()
    rates = measure(device)
    log.debug("calibrated %s in %.1f s", device.description, time.perf_counter() - began)
    _write(path, {**known, key: rates})
    return rates


def machine(device: Device) -> str:
    """The key of a calibration: anything that could change a rate and can be known."""
    from anefast import __version__

    parts = [device.description, platform.machine(), platform.processor(), str(os.cpu_count())]
    return f"anefast {__version__} format {FORMAT}: {', '.join(parts)}"


def cache_file() -> Path:
    """calibration.json in the user's cache folder; ANEFAST_CACHE names another folder."""
    return cache_folder() / "calibration.json"


def measure(device: Device) -> Rates:
    """Times each kind of work. Single figures are the best of several runs: load only adds."""
    # 1) a program that does nothing to speak of
    small = ir.input("a0_x", (1, 32, 1, 32))
    gain = {"w": np.ones(32, np.float32)}
    empty = Timed(device, "empty", small, small * ir.parameter("w", (1, 32, 1, 1)), gain)
    per_program = empty.compile_seconds()
    dispatch = empty.seconds()
    # 2) products: a chain that is all arithmetic, and one that is all weights
    x = ir.input("a0_x", (1, 512, 1, SEQ))
    y, chain = x, {}
    for i in range(4):
        chain[f"w{i}"] = np.full((512, 512), 1e-3, np.float32)
        y = ir.conv(y, ir.parameter(f"w{i}", (512, 512, 1, 1)))
    flops = 4 * 2 * 512 * 512 * SEQ / _over(Timed(device, "chain", x, y, chain).seconds(), dispatch)
    x = ir.input("a0_x", (1, 2048, 1, 32))
    heavy = {"w": np.full((2048, 2048), 1e-3, np.float32)}
    heavy_bytes = 2 * 2048 * 2048
    product = ir.conv(x, ir.parameter("w", (2048, 2048, 1, 1)))
    weights = Timed(device, "weights", x, product, heavy)
    compile_weights = weights.compile_seconds()
    weight_bytes = heavy_bytes / _over(weights.seconds(), dispatch)
    # 3) a real layer, forward and backward: what is left is moving values
    packed = device.learned.ports == ("packed",)
    counter, params = Counter(LAYER, 1, SEQ), init_params(LAYER, 0)

    def loaded(spec: str) -> tuple[StepCount, CompiledGraph]:
        plan = find_plan(spec)
        count = counter.count(plan)
        made = CompiledGraph(device, (p.lowered for p in count.programs), plan.dialect)
        try:
            made.load(params)
        except Exception:
            made.close()
            raise
        return count, made

    ways = [*(["all"] if not packed else []), "all,ports=packed", "all,ports=padded,rope=conv"]
    _, (count, layer) = first_taken(ways, loaded)

    def compile_all() -> None:
        for kernel in layer.kernels:
            kernel.unload()
        device.programs.clear()  # else they are found again
        layer.load(params)

    compile_layer = best(compile_all)
    spent = best(lambda: layer.run(range(count.evaluations)))
    layer.close()
    products = sum(
        max(p.flops / flops, p.weight_bytes / weight_bytes)
        for program in count.programs
        for p in program.products
    )
    moved = sum(p.value_bytes + p.port_bytes for p in count.programs)
    value_bytes = moved / _over(spent, count.evaluations * dispatch + products)
    # 4) compiling: per program, per byte, per operation
    per_byte = max(0.0, compile_weights - per_program) / heavy_bytes
    ops = sum(p.operations for p in count.programs)
    rest = compile_layer - count.evaluations * per_program - per_byte * count.weight_bytes
    # 5) the CPU's side, and products that either may make
    return Rates(
        label=device.label,
        source=f"calibrated on {device.description}",
        dispatch=dispatch,
        product=0.0,
        flops=flops,
        stream=weight_bytes,
        fill=weight_bytes,
        fill_limit=0.0,  # weights are in memory like everything else
        value_bytes=value_bytes,
        port_bytes=value_bytes,
        copied_bytes=_copies(device),
        staged_bytes=_stages(device),
        cpu_flops=_weight_gradients(device, 512, 512),
        pair_flops=_pair_gradients(device, dispatch),
        cpu_pair_flops=_weight_gradients(device, RANK, WIDE),
        logit=0.0,  # the same in every plan
        compile_first=0.0,
        compile_program=per_program,
        compile_op=max(0.0, rest) / ops,
        compile_byte=per_byte,
        compile_attention=0.0,
        background=1.0,
        beside=device.label == "measured",
    )


class Timed:
    """A program of one input and one output, loaded and ready to be timed."""

    def __init__(
        self, device: Device, name: str, x: ir.Tensor, y: ir.Tensor, params: Params
    ) -> None:
        program = ir.Program.cut(name, [("a0_x", x)], [("z0_y", y)])
        self.kernel = Kernel(device, program, "ios18")
        self.kernel.load(params)
        self.params = params
        self.inputs, self.outputs = [device.surface(x.shape)], [device.surface(y.shape)]

    def compile_seconds(self) -> float:
        """Filling the weight file and compiling once more."""

        def compile() -> None:
            self.kernel.unload()
            self.kernel.device.programs.clear()  # else it is found again
            self.kernel.load(self.params)

        return best(compile)

    def seconds(self) -> float:
        """One evaluation; the program is unloaded afterwards."""
        found = best(lambda: self.kernel.evaluate(self.inputs, self.outputs))
        self.kernel.unload()
        return found


def best(call: Callable[[], object]) -> float:
    """Seconds of the fastest call of three or more, SHORTEST s in all; the first only warms up."""
    call()
    fastest, spent, calls = float("inf"), 0.0, 0
    while spent < SHORTEST or calls < 3:
        began = time.perf_counter()
        call()
        took = time.perf_counter() - began
        fastest, spent, calls = min(fastest, took), spent + took, calls + 1
    return fastest


def _over(seconds: float, known: float) -> float:
    """A time minus its known part; never less than a tenth of it."""
    return max(seconds - known, seconds / 10)


def _copies(device: Device) -> float:
    a, b = device.surface((1, 1024, 1, 512)), device.surface((1, 1024, 1, 512))

    def copy() -> None:
        with a.read() as source, b.write() as to:
            to[...] = source

    return 2 * 1024 * 512 / best(copy)


def _stages(device: Device) -> float:
    weight = ir.parameter("w", (1024, 512, 1, 1))
    surface = device.surface((1, 1, 1024, 512))
    region = Region(weight, (0, 0, 0, 0), (1, 1, 1024, 512))
    params = {"w": np.ones((1024, 512), np.float32)}
    return 2 * 1024 * 512 / best(lambda: stage([(region, surface)], params))


def _weight_gradients(device: Device, rows: int, columns: int) -> float:
    """Flops per second of weight gradients [rows, columns] on the CPU."""
    dy, x = device.surface((1, rows, 1, SEQ)), device.surface((1, columns, 1, SEQ))
    queue, grad = _C.Queue(), np.zeros((rows, columns), np.float32)

    def gradient() -> None:
        for _ in range(4):
            queue.weight_grad(dy.native, x.native, grad, 1, SEQ)
        queue.wait()

    return 4 * 2 * rows * columns * SEQ / best(gradient)


def _pair_gradients(device: Device, dispatch: float) -> float:
    """The same of an adapter's pairs on the device: products of values, RANK wide."""
    x = ir.input("a0_x", (1, WIDE, 1, SEQ))
    right, made = ir.reshape(x, (1, 1, WIDE, SEQ)), []
    for i in range(4):
        left = ir.slice_by_size(x, (0, i * RANK, 0, 0), (1, RANK, 1, SEQ))
        left = ir.reshape(left, (1, 1, RANK, SEQ))
        made.append(ir.matmul(left, right, transpose_y=True))
    y = made[0] + made[1] + made[2] + made[3]
    spent = Timed(device, "pairs", x, y, {}).seconds()
    return 4 * 2 * RANK * WIDE * SEQ / _over(spent, dispatch)


def _read(path: Path) -> dict[str, Rates]:
    """Sound calibrations in the file; what is damaged is measured again."""
    try:
        found = read_json(path, where="calibration", form=table(lambda value: value))
    except FileError as error:
        log.debug("no calibration: %s", error)
        return {}
    known = {}
    for key, value in found.items():
        with contextlib.suppress(ValueError):
            known[key] = Rates(**_RATES(value))
    return known


def _write(path: Path, known: dict[str, Rates]) -> None:
    """Remembers; a cache that cannot be written costs time and nothing else."""
    try:
        make_folder(path.parent, "calibration")
        write_json(path, {k: asdict(v) for k, v in known.items()}, "calibration")
    except FileError as error:
        log.debug("calibration not remembered: %s", error)
