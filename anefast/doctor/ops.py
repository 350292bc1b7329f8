"""Every operation that programs are written with, each in a program of its own, against NumPy.

A sample's result is halved before it leaves: a program of nothing but a reshape was seen refused.
NumPy's side is ir.interpret, which rounds after every operation as a device does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from anefast import ir
from anefast.config import ModelConfig
from anefast.doctor.result import Check, Found, Wrong
from anefast.doctor.subject import Subject, error_of
from anefast.fuse import cut, find_plan, lower_all
from anefast.models import training_graph

X = (1, 32, 1, 64)


@dataclass(frozen=True)
class Sample:
    """`build` gets an input per shape, with values drawn from `span`.

    tolerance: of the largest value. Chips evaluate curved functions by tables; the widest errors
    that were published of those are about 0.4% of a result, a part of which is rounding.
    """

    build: Callable[..., ir.Tensor]
    shapes: tuple[tuple[int, ...], ...] = (X,)
    span: tuple[float, float] = (-2.0, 2.0)
    tolerance: float = 4e-3


CURVED = 1.5e-2

SAMPLES: dict[str, Sample] = {
    "add": Sample(ir.add, (X, X)),
    "sub": Sample(ir.sub, (X, (1, 32, 1, 64))),
    "mul": Sample(ir.mul, (X, X)),
    "real_div": Sample(ir.real_div, (X, X), (0.5, 2)),
    "pow": Sample(lambda x: ir.pow(x, -0.5), span=(0.3, 3), tolerance=CURVED),
    "maximum": Sample(ir.maximum, (X, X)),
    "minimum": Sample(ir.minimum, (X, X)),
    "square": Sample(ir.square),
    "abs": Sample(ir.abs),
    "sqrt": Sample(ir.sqrt, span=(0.2, 3), tolerance=CURVED),
    "exp": Sample(ir.exp, tolerance=CURVED),
    "erf": Sample(ir.erf, tolerance=CURVED),
    "tanh": Sample(ir.tanh, tolerance=CURVED),
    "sigmoid": Sample(ir.sigmoid, tolerance=CURVED),
    "relu": Sample(ir.relu),
    "log": Sample(lambda x: ir.log(x, 0.1), span=(0.2, 3), tolerance=CURVED),
    "rsqrt": Sample(lambda x: ir.rsqrt(x, 0.1), span=(0.2, 3), tolerance=CURVED),
    "clip": Sample(lambda x: ir.clip(x, -0.75, 1.125)),
    "reshape": Sample(lambda x: ir.reshape(x, (1, 4, 8, 64))),
    "transpose": Sample(lambda x: ir.transpose(x, (0, 3, 2, 1))),
    "expand_dims": Sample(lambda x: ir.expand_dims(x, (1,)), ((4, 32, 64),)),
    "squeeze": Sample(lambda x: ir.squeeze(x, (2,))),
    "concat": Sample(lambda x, y: ir.concat([x, y], 1), (X, X)),
    "slice_by_size": Sample(lambda x: ir.slice_by_size(x, (0, 8, 0, 0), (1, 16, 1, 64))),
    "slice_by_index": Sample(lambda x: ir.slice_by_index(x, (0, 8, 0, 0), (1, 24, 1, 64))),
    "pad": Sample(lambda x: ir.pad(x, (0, 0, 0, 0, 0, 0, 0, 32), 0.0)),
    "tile": Sample(lambda x: ir.tile(x, (1, 2, 1, 1))),
    "reduce_sum": Sample(lambda x: ir.reduce_sum(x, 1), tolerance=8e-3),
    "reduce_mean": Sample(lambda x: ir.reduce_mean(x, 1), tolerance=8e-3),
    "reduce_max": Sample(lambda x: ir.reduce_max(x, 1)),
    "softmax": Sample(lambda x: ir.softmax(x, -1), tolerance=CURVED),
    "conv": Sample(lambda x: ir.conv(x, ir.parameter("w", (64, 32, 1, 1)))),
    "matmul": Sample(ir.matmul, ((1, 4, 32, 64), (1, 4, 64, 32))),
}


def used() -> set[str]:
    """The operations that a training step's programs consist of, under any plan."""
    config = ModelConfig(dim=32, n_layers=2, n_heads=2, n_kv_heads=1, hidden_dim=64, vocab_size=32)
    graph = training_graph(config, 1, 32)
    specs = ("all", "layer,recompute,ports=packed", "all,weights=params", "all,weights=packed")
    found: set[str] = set()
    for plan in map(find_plan, specs):
        for lowered in lower_all(cut(graph, plan.key), plan):
            found |= {t.op for t in lowered.program.nodes if not t.is_leaf}
    return found


def try_op(name: str) -> Callable[[Subject], Found]:
    """The check of one operation."""

    def run(subject: Subject) -> Found:
        sample = SAMPLES[name]
        rng = np.random.default_rng(sum(name.encode()))
        xs = {f"a{i}_x": ir.input(f"a{i}_x", shape) for i, shape in enumerate(sample.shapes)}
        feeds = {k: rng.uniform(*sample.span, t.shape).astype(np.float16) for k, t in xs.items()}
        outputs = {"b0_y": sample.build(*xs.values()) * 0.5}
        weights = {"w": rng.standard_normal((64, 32)).astype(np.float32)}
        kernel = subject.kernel(xs, outputs, params=weights)
        try:
            got = kernel.run(**feeds)["b0_y"]
        finally:
            kernel.unload()
        want = ir.interpret(kernel.program, {**feeds, **weights}, np.float16)["b0_y"]
        error = error_of(got, want)
        number = (subject.number("largest error", 100 * error, "% of the largest value"),)
        if not error <= sample.tolerance:
            raise Wrong(
                f"{100 * error:.2g}% off NumPy, {100 * sample.tolerance:.2g}% allowed", number
            )
        return Found("", number)

    return run


def checks() -> list[Check]:
    return [Check(f"op {name}", "operations", try_op(name)) for name in SAMPLES]
