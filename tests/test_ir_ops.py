"""Every op, row by row: shape, value against plain NumPy, derivative against central differences.

A new op is one more row. Values run in float64, where the two sides must agree to rounding; a last
column runs each row in fp16 and asks for fp16's precision. Rows print themselves when they fail.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from anefast import ir


@dataclass(frozen=True)
class Row:
    """`build` and `numpy` get tensors and arrays of `shapes`, drawn from `span`."""

    build: Callable[..., ir.Tensor]
    shapes: tuple[tuple[int, ...], ...]
    numpy: Callable[..., np.ndarray]
    span: tuple[float, float] = (-2.0, 2.0)
    covers: str = ""  # op record, where the row's name does not say
    wrt: tuple[int, ...] | None = None  # inputs with a derivative; None: all
    tolerance: float = 4e-3  # in fp16, of the largest element


X = (2, 4, 1, 6)
COS, SIN = np.cos(np.arange(12.0)).reshape(1, 2, 1, 6), np.sin(np.arange(12.0)).reshape(1, 2, 1, 6)


def rms(x, eps=1e-5):
    return x / np.sqrt((x * x).mean(1, keepdims=True) + eps)


def rotated(x):
    z = (x[:, 0::2] + 1j * x[:, 1::2]) * (COS + 1j * SIN)
    return np.stack([z.real, z.imag], 2).reshape(x.shape)


def softmax(x, axis):
    e = np.exp(x)
    return e / e.sum(axis, keepdims=True)


ROWS = {
    # elementwise
    "add": Row(ir.add, (X, X), np.add),
    "add broadcast": Row(ir.add, (X, (1, 4, 1, 1)), np.add, covers="add"),
    "add ranks": Row(ir.add, ((6,), X), np.add, covers="add"),
    "add itself": Row(lambda x: x + x, (X,), lambda x: 2 * x, covers="add"),
    "sub": Row(ir.sub, (X, (2, 1, 1, 6)), np.subtract),
    "mul": Row(ir.mul, ((1, 4, 1, 6), (2, 1, 1, 1)), np.multiply),
    "numbers": Row(lambda x: 3 - 2 / (1 + x * 0.5), (X,), lambda x: 3 - 2 / (1 + x / 2), (0, 2),
                   covers="real_div"),
    "real_div": Row(ir.real_div, (X, (1, 4, 1, 1)), np.divide, (0.5, 2)),
    "pow": Row(lambda x: ir.pow(x, -0.5), (X,), lambda x: x**-0.5, (0.3, 3)),
    "maximum": Row(ir.maximum, (X, (4, 1, 1)), np.maximum),
    "minimum": Row(ir.minimum, (X, (1, 1, 1, 6)), np.minimum),
    "square": Row(ir.square, (X,), np.square),
    "abs": Row(ir.abs, (X,), np.abs),
    "sqrt": Row(ir.sqrt, (X,), np.sqrt, (0.2, 3)),
    "exp": Row(ir.exp, (X,), np.exp),
    "log": Row(lambda x: ir.log(x, 0.1), (X,), lambda x: np.log(x + 0.1), (0.2, 3)),
    "rsqrt": Row(lambda x: ir.rsqrt(x, 0.1), (X,), lambda x: (x + 0.1) ** -0.5, (0.2, 3)),
    "erf": Row(ir.erf, (X,), np.vectorize(math.erf)),
    "tanh": Row(ir.tanh, (X,), np.tanh),
    "sigmoid": Row(ir.sigmoid, (X,), lambda x: 1 / (1 + np.exp(-x))),
    "relu": Row(ir.relu, (X,), lambda x: x * (x > 0)),
    "clip": Row(lambda x: ir.clip(x, -0.7, 1.1), (X,), lambda x: np.clip(x, -0.7, 1.1)),
    # reductions
    "reduce_sum": Row(lambda x: ir.reduce_sum(x, (1, 3)), (X,),
                      lambda x: x.sum((1, 3), keepdims=True)),
    "reduce_sum dropped": Row(lambda x: ir.reduce_sum(x, -3, False), (X,), lambda x: x.sum(1),
                              covers="reduce_sum"),
    "reduce_mean": Row(lambda x: ir.reduce_mean(x, 1), (X,), lambda x: x.mean(1, keepdims=True)),
    "reduce_max": Row(lambda x: ir.reduce_max(x, -1, False), (X,), lambda x: x.max(-1)),
    "softmax": Row(lambda x: ir.softmax(x, 1), (X,), lambda x: softmax(x, 1)),
    "softmax last": Row(ir.softmax, ((3, 5),), lambda x: softmax(x, -1), covers="softmax"),
    # linear
    "conv": Row(ir.conv, (X, (3, 4, 1, 1)),
                lambda x, w: np.einsum("oi,bihs->bohs", w[..., 0, 0], x), wrt=(0,)),
    "matmul": Row(ir.matmul, ((2, 3, 4), (2, 4, 5)), np.matmul),
    "matmul x": Row(lambda x, y: ir.matmul(x, y, True), ((2, 4, 3), (4, 5)),
                    lambda x, y: x.swapaxes(-1, -2) @ y, covers="matmul"),
    "matmul y": Row(lambda x, y: ir.matmul(x, y, False, True), ((1, 3, 4), (2, 5, 4)),
                    lambda x, y: x @ y.swapaxes(-1, -2), covers="matmul"),
    "matmul xy": Row(lambda x, y: ir.matmul(x, y, True, True), ((2, 1, 4, 3), (3, 5, 4)),
                     lambda x, y: x.swapaxes(-1, -2) @ y.swapaxes(-1, -2), covers="matmul"),
    # layout
    "reshape": Row(lambda x: ir.reshape(x, (2, -1, 3)), (X,), lambda x: x.reshape(2, 8, 3)),
    "transpose": Row(lambda x: ir.transpose(x, (3, 0, 2, 1)), (X,),
                     lambda x: x.transpose(3, 0, 2, 1)),
    "concat": Row(lambda x, y, z: ir.concat([x, y, z], -3), (X, (2, 1, 1, 6), X),
                  lambda *xs: np.concatenate(xs, 1)),
    "slice_by_size": Row(lambda x: ir.slice_by_size(x, (0, 1, 0, 2), (-1, 2, 1, 3)), (X,),
                         lambda x: x[:, 1:3, :, 2:5]),
    "slice_by_index": Row(lambda x: ir.slice_by_index(x, (0, -3, 0, 1), (2, -1, 1, 6)), (X,),
                          lambda x: x[:, 1:3, :, 1:]),
    "slice stride": Row(lambda x: ir.slice_by_index(x, (0,) * 4, X, (1, 2, 1, 4)), (X,),
                        lambda x: x[:, ::2, :, ::4], covers="slice_by_index", wrt=()),
    "split": Row(lambda x: ir.mul(*ir.split(x, 2, 1)), (X,), lambda x: x[:, :2] * x[:, 2:],
                 covers="slice_by_size"),
    "pad": Row(lambda x: ir.pad(x, (0, 0, 1, 2, 0, 0, 3, 0), 0.5), (X,),
               lambda x: np.pad(x, ((0, 0), (1, 2), (0, 0), (3, 0)), constant_values=0.5)),
    "tile": Row(lambda x: ir.tile(x, (2, 3, 1, 2)), (X,), lambda x: np.tile(x, (2, 3, 1, 2))),
    "tile ones": Row(lambda x: ir.tile(x, (1, 3, 1, 1)), ((2, 1, 3, 4),),
                     lambda x: np.repeat(x, 3, 1), covers="tile"),
    "expand_dims": Row(lambda x: ir.expand_dims(x, (0, -1)), ((2, 3),),
                       lambda x: x[None, ..., None]),
    "squeeze": Row(lambda x: ir.squeeze(x, (-2,)), (X,), lambda x: x[:, :, 0]),
    # composites
    "rms_norm": Row(ir.rms_norm, (X,), rms, tolerance=8e-3),
    "rms_norm wide": Row(ir.rms_norm, ((1, 768, 1, 2),), rms, covers="rms_norm", tolerance=8e-3),
    "rms_rstd": Row(ir.rms_rstd, (X,), lambda x: ((x * x).mean(1, keepdims=True) + 1e-5) ** -0.5,
                    tolerance=8e-3),
    "layer_norm": Row(ir.layer_norm, (X,), lambda x: rms(x - x.mean(1, keepdims=True)),
                      tolerance=8e-3),
    "rope": Row(lambda x: ir.rope(x, ir.constant(COS), ir.constant(SIN)), (X,), rotated),
    "rope on axis 3": Row(
        lambda x: ir.rope(x, ir.constant(COS), ir.constant(SIN), "axis3"), (X,), rotated,
        covers="rope",
    ),
    "rope by conv": Row(
        lambda x: ir.rope(x, ir.constant(COS), ir.constant(SIN), "conv"), (X,), rotated,
        covers="rope",
    ),
    "silu": Row(ir.silu, (X,), lambda x: x / (1 + np.exp(-x)), (-4, 4)),
    "gelu": Row(ir.gelu, (X,), lambda x: x / (1 + np.exp(-math.sqrt(8 / math.pi)
                * (x + 0.044715 * x**3))), (-4, 4), tolerance=8e-3),
}  # fmt: skip
CPU = {"weight_grad", "scale_grad", "bias_grad", "batch_grad", "grad_sum"}  # tests/test_ir_grad.py


def draw(row: Row, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {f"x{i}": rng.uniform(*row.span, shape) for i, shape in enumerate(row.shapes)}


def leaves(row: Row) -> list[ir.Tensor]:
    return [ir.input(f"x{i}", shape) for i, shape in enumerate(row.shapes)]


@pytest.fixture(params=ROWS)
def row(request) -> Row:
    return ROWS[request.param]


def test_every_op_has_a_row():
    assert {r.covers or name for name, r in ROWS.items()} == set(ir.OPS) - CPU


def test_value(row):
    """The meaning, and what simplify makes of it (composites expanded), are plain NumPy's."""
    xs, feeds = leaves(row), draw(row)
    y = row.build(*xs)
    expected = row.numpy(*feeds.values())
    assert y.shape == expected.shape
    graph = ir.Graph(xs, {"y": y})
    np.testing.assert_allclose(ir.interpret(graph, feeds)["y"], expected, rtol=1e-12, atol=1e-12)
    small = ir.simplify(graph)
    assert all(t.is_leaf or ir.OPS[t.op].mil for t in small.nodes)
    np.testing.assert_allclose(ir.interpret(small, feeds)["y"], expected, rtol=1e-12, atol=1e-12)
    half = ir.interpret(small, feeds, np.float16)["y"]
    assert half.dtype == np.float16
    # The inputs are rounded too, so a relative error of 2^-11 is there before any op.
    assert np.abs(half - expected).max() <= row.tolerance * np.abs(expected).max()


def test_derivative(row):
    """<dx, v> against (f(x + hv) - f(x - hv)) / 2h, element by element, for <f, seed>."""
    xs, feeds = leaves(row), draw(row, 1)
    y = row.build(*xs)
    seed = np.random.default_rng(2).standard_normal(y.shape)
    wrt = [xs[i] for i in (range(len(xs)) if row.wrt is None else row.wrt)]
    if not wrt:
        with pytest.raises(ir.ShapeError):
            ir.gradients([y], [ir.constant(seed)], xs)
        return
    dxs = ir.gradients([y], [ir.constant(seed)], wrt)
    graph = ir.Graph(xs, {t.name: dx for t, dx in zip(wrt, dxs, strict=True)})
    exact = ir.interpret(graph, feeds)
    simple = ir.interpret(ir.simplify(graph), feeds)
    for t, dx in zip(wrt, dxs, strict=True):
        assert dx.shape == t.shape
        np.testing.assert_allclose(simple[t.name], exact[t.name], rtol=1e-9, atol=1e-12)
        for at in list(np.ndindex(t.shape))[:60]:
            h = np.zeros(t.shape)
            h[at] = 1e-6
            up = row.numpy(*{**feeds, t.name: feeds[t.name] + h}.values())
            down = row.numpy(*{**feeds, t.name: feeds[t.name] - h}.values())
            slope = ((up - down) * seed).sum() / 2e-6
            assert exact[t.name][at] == pytest.approx(slope, rel=1e-6, abs=2e-8), (t, at)


x = ir.input("x", X)
REFUSED = {
    "[add] expected shapes that broadcast": lambda: x + ir.input("y", (3, 1, 1)),
    "[conv] expected weight [Co, 4, 1, 1]": lambda: ir.conv(x, ir.parameter("w", (4, 5, 1, 1))),
    "[conv] expected a 1x1 weight": lambda: ir.conv(x, ir.parameter("w", (4, 4, 1, 3))),
    "[conv] expected x [B, Ci, H, S]": lambda: ir.conv(x, ir.parameter("w", (4, 4))),
    "[matmul] expected equal inner sizes": lambda: ir.matmul(x, x),
    "[matmul] expected ranks of at least 2": lambda: ir.matmul(x, ir.input("y", (6,))),
    "[matmul] expected leading axes": lambda: ir.matmul(x, ir.input("y", (3, 1, 6, 2))),
    "[reshape] expected a shape of 48 elements": lambda: ir.reshape(x, (5, -1)),
    "[transpose] expected an order of 4 axes": lambda: ir.transpose(x, (0, 1, 2)),
    "[concat] expected shapes equal but for axis 1": lambda: ir.concat([x, ir.input("y", (2,))], 1),
    "[concat] expected at least one": lambda: ir.concat([], 1),
    "[slice_by_size] expected a part": lambda: ir.slice_by_size(x, (0, 3, 0, 0), (2, 2, 1, 6)),
    "[slice_by_size] expected begin with 4": lambda: ir.slice_by_size(x, (0,), (2,)),
    "[slice_by_index] expected a part": lambda: ir.slice_by_index(x, (0, 2, 0, 0), (2, 2, 1, 6)),
    "[split] expected a divisor of 4": lambda: ir.split(x, 3, 1),
    "[split] expected sizes that sum to 4": lambda: ir.split(x, [1, 2], 1),
    "[pad] expected before and after": lambda: ir.pad(x, (1, 2)),
    "[tile] expected 4 positive repeats": lambda: ir.tile(x, (1, 0, 1, 1)),
    "[squeeze] expected axes of size 1": lambda: ir.squeeze(x, (1,)),
    "[softmax] expected an axis of a rank-4": lambda: ir.softmax(x, 4),
    "[reduce_sum] expected different axes": lambda: ir.reduce_sum(x, (1, -3)),
    "[clip] expected alpha <= beta": lambda: ir.clip(x, 1, 0),
    "[rms_norm] expected x [B, C, 1, S]": lambda: ir.rms_norm(ir.input("y", (4, 6))),
    "[rope] expected cos and sin [1, 2, 1, 6]": lambda: ir.rope(x, x, x),
    "[rope] expected x [B, H*D, 1, S]": lambda: ir.rope(ir.input("y", (1, 3, 1, 6)), x, x),
    "[input] expected positive sizes": lambda: ir.input("y", (1, 0)),
    "[weight_grad] expected equal B and S": lambda: ir.apply(
        "weight_grad", x, ir.input("y", (1, 4, 1, 6))
    ),
    "[add] expected fp16 inputs": lambda: ir.apply("bias_grad", x) + 1,
}


@pytest.mark.parametrize("message", REFUSED)
def test_wrong_shapes_are_refused(message):
    with pytest.raises(ir.ShapeError) as error:
        REFUSED[message]()
    assert str(error.value).startswith(message)
    assert ", got " in str(error.value)


def test_fp16_extremes():
    """Large activations survive normalisation, gelu and their derivatives; masks are exact."""
    y = ir.input("y", (1, 768, 1, 2))
    big = np.full(y.shape, 60.0)
    big[:, 0] = 600.0  # one outlier channel
    seed = np.full(y.shape, 2.0)
    for build, reference in ((ir.rms_norm, rms), (ir.gelu, lambda v: v)):
        out = build(y)
        dy = ir.input("dy", y.shape)
        graph = ir.Graph([y, dy], {"y": out, "dx": ir.gradients([out], [dy], [y])[0]})
        got = ir.interpret(ir.simplify(graph), {"y": big, "dy": seed}, np.float16)
        np.testing.assert_allclose(got["y"], reference(big), rtol=3e-3)
        assert np.isfinite(got["dx"]).all()

    halves = np.arange(65536, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    z = ir.input("z", halves.shape)
    slope = ir.gradients([ir.relu(z)], [ir.constant(np.ones(z.shape))], [z])[0]
    got = ir.interpret(ir.simplify(ir.Graph([z], {"d": slope})), {"z": halves}, np.float16)
    np.testing.assert_array_equal(got["d"], halves > 0)
