"""The host executor against the plain interpreter: every op row and its derivative, then a layer.

Both round after every op. add, mul and the like must agree to the bit; where the executor sums in
fp32 and the interpreter in float64, or their libm differ, a result may fall to the next half, and
what is computed from it may follow.
"""

from __future__ import annotations

import numpy as np
import pytest

from anefast import ir, mil
from tests import host_programs
from tests.test_ir_ops import ROWS, draw
from tests.test_mil_emit import layer, weights

_C = pytest.importorskip("anefast._C", reason="the native module is not built")
EXACT = {"add", "sub", "mul", "real_div", "maximum", "minimum", "square", "abs", "relu", "clip",
         "sqrt", "reshape", "transpose", "concat", "slice_by_size", "slice_by_index", "pad", "tile",
         "expand_dims", "squeeze", "reduce_max"}  # fmt: skip


def run(program: ir.Program, feeds: dict[str, np.ndarray], params: dict[str, np.ndarray]):
    """Through text, parser and executor."""
    text, layout = mil.emit(program)
    halves = {port: feeds[port].astype(np.float16) for port, _ in program.inputs}
    return host_programs.run(_C.Device("host"), text, layout.fill(params), halves)


def ulps(a: np.ndarray, b: np.ndarray) -> int:
    def index(x):
        bits = x.astype(np.float16).view(np.int16).astype(np.int64)
        return np.where(bits < 0, -32768 - bits, bits)

    return int(np.abs(index(a) - index(b)).max())


@pytest.mark.parametrize("name", ROWS)
def test_row(name):
    row = ROWS[name]
    xs = [ir.input(f"a{i}", shape) for i, shape in enumerate(row.shapes)]
    feeds = {f"a{i}": v for i, v in enumerate(draw(row).values())}
    y = row.build(*xs)
    outputs = {"z0": y}
    if row.wrt != ():
        dy = ir.input("b", y.shape)
        feeds["b"] = np.random.default_rng(5).standard_normal(y.shape)
        wrt = xs if row.wrt is None else [xs[i] for i in row.wrt]
        outputs |= {f"z{i + 1}": t for i, t in enumerate(ir.gradients([y], [dy], wrt))}
        xs.append(dy)
    graph = ir.simplify(ir.Graph(xs, outputs))
    results = {t: n for n, t in graph.outputs.items() if not t.is_leaf}
    program = ir.Program.cut(
        name, [(t.name, t) for t in graph.inputs], [(n, t) for t, n in results.items()]
    )
    got = run(program, feeds, {})
    expected = ir.interpret(program, feeds, np.float16)
    used = {t.op for t in program.nodes if not t.is_leaf}
    for port, value in expected.items():
        if used <= EXACT:
            np.testing.assert_array_equal(got[port], value)
        else:
            scale = np.abs(value.astype(np.float64)).max()
            near = np.abs(got[port].astype(np.float64) - value).max() <= 4e-3 * scale
            assert near or ulps(got[port], value) <= 2, (port, got[port], value)


def test_layer_forward_and_backward():
    program = layer()
    _, layout = mil.emit(program)
    params = {n: w * 0.3 for n, w in weights(layout, 1).items()}
    rng = np.random.default_rng(2)
    feeds = {port: rng.standard_normal(t.shape) for port, t in program.inputs}
    got = run(program, feeds, params)
    expected = ir.interpret(program, feeds | params, np.float16)
    for port, value in expected.items():
        error = np.abs(got[port].astype(np.float64) - value).max()
        assert error <= 4e-3 * np.abs(value.astype(np.float64)).max(), port
