"""Every elementwise, unary, reducing and normalising operation of the host against NumPy.

The meaning: operands as they are, arithmetic wide, one rounding to the result's dtype. Linear
algebra is in test_host_linear.py, movement of data in test_host_layout.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from anefast import _C

from .host_programs import In, Name, Text, run, run_op

HALVES = np.arange(65536, dtype=np.uint16).view(np.float16).reshape(1, 2048, 1, 32)


@pytest.fixture(scope="module")
def host() -> Any:
    return _C.Device("host")


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float16)


def wide(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float64)


def half(x: Any) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.asarray(x).astype(np.float16)


def same_bits(a: np.ndarray, b: np.ndarray) -> None:
    assert a.dtype == b.dtype and a.shape == b.shape
    np.testing.assert_array_equal(a.view(np.uint8), b.view(np.uint8))


def ulps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distance in fp16 steps; 0 where both are NaN, or zeros of any sign."""

    def line(x: np.ndarray) -> np.ndarray:
        bits = x.view(np.int16).astype(np.int32)
        return np.where(bits < 0, -32768 - bits, bits)

    gap = np.abs(line(a) - line(b))
    return np.where(np.isnan(a) & np.isnan(b), 0, np.where(np.isnan(a) | np.isnan(b), 65536, gap))


BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "real_div": np.divide,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "floor_div": lambda a, b: np.floor(a / b),
    "mod": lambda a, b: a - np.floor(a / b) * b,
}

SHAPES = [
    ((1, 7, 1, 32), (1, 7, 1, 32)),
    ((2, 65, 1, 33), (2, 65, 1, 33)),  # rows of 66 bytes in 128
    ((2, 65, 1, 64), (1, 65, 1, 1)),  # per channel
    ((3, 17, 1, 96), (3, 1, 1, 96)),  # per token
    ((3, 17, 1, 96), (1, 17, 1, 96)),  # across the batch
    ((1, 4, 5, 6), (4, 1, 6)),  # of lower rank
    ((1, 1, 9, 1), (2, 3, 1, 5)),  # both stretch
    ((2, 3, 2, 3, 2), (1, 3, 1, 3, 1)),
    ((2, 300, 1, 128), ()),  # a scalar, and enough work for two threads
    ((256,), (1, 3, 1, 256)),
]


@pytest.mark.parametrize("kind", list(BINARY)[:6])
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_binary_broadcasts_bit_for_bit(host: Any, kind: str, shapes: Any) -> None:
    x, y = normal(*shapes[0], seed=1), normal(*shapes[1], seed=2)
    want = half(BINARY[kind](wide(x), wide(y)))
    same_bits(run_op(host, kind, want, x=In(x), y=In(y) if y.ndim else y), want)
    want = half(BINARY[kind](wide(y), wide(x)))
    same_bits(run_op(host, kind, want, x=In(y) if y.ndim else y, y=In(x)), want)


@pytest.mark.parametrize("kind", BINARY)
def test_binary_of_unlikely_halves(host: Any, kind: str) -> None:
    """Subnormals, overflow, infinities, NaN: every half against a shuffled one."""
    y = np.random.default_rng(3).permutation(HALVES.ravel()).reshape(HALVES.shape)
    if kind in ("floor_div", "mod"):  # quotients beyond 2^53 have no floor to agree on
        x, y = normal(1, 64, 1, 32, seed=4, scale=9), normal(1, 64, 1, 32, seed=5)
    else:
        x = HALVES
    with np.errstate(all="ignore"):
        want = half(BINARY[kind](wide(x), wide(y)))
    np.testing.assert_array_equal(run_op(host, kind, want, x=In(x), y=In(y)), want)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
@pytest.mark.parametrize("kind", ["add", "sub", "mul", "maximum", "minimum"])
def test_binary_of_other_dtypes(host: Any, kind: str, dtype: Any) -> None:
    rng = np.random.default_rng(6)
    x, y = (rng.integers(-30000, 30000, (2, 5, 1, 16)).astype(dtype) for _ in range(2))
    if dtype == np.float32:
        x, y = x / np.float32(7), y / np.float32(3)
    want = BINARY[kind](x, y)
    same_bits(run_op(host, kind, want, x=In(x), y=In(y)), want)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


UNARY: dict[str, tuple[Callable[[Any], Any], dict[str, Any]]] = {
    "abs": (np.abs, {}),
    "square": (np.square, {}),
    "sqrt": (np.sqrt, {}),
    "exp": (np.exp, {}),
    "exp2": (np.exp2, {}),
    "erf": (np.vectorize(math.erf, otypes=[float]), {}),
    "tanh": (np.tanh, {}),
    "atan": (np.arctan, {}),
    "sin": (np.sin, {}),
    "cos": (np.cos, {}),
    "sigmoid": (sigmoid, {}),
    "silu": (lambda x: x / (1 + np.exp(-x)), {}),
    "softplus": (lambda x: np.logaddexp(x, 0), {}),
    "softsign": (lambda x: x / (1 + np.abs(x)), {}),
    "relu": (lambda x: np.maximum(x, 0), {}),
    "relu6": (lambda x: np.clip(x, 0, 6), {}),
    "sign": (np.sign, {}),
    "floor": (np.floor, {}),
    "ceil": (np.ceil, {}),
    "round": (np.rint, {}),
    "clip": (lambda x: np.clip(x, -1.5, 2.25), dict(alpha=np.float16(-1.5), beta=np.float16(2.25))),
    "log": (lambda x: np.log(x + 0.5), dict(epsilon=np.float16(0.5))),
    "rsqrt": (lambda x: 1 / np.sqrt(x + 0.25), dict(epsilon=np.float16(0.25))),
    "inverse": (lambda x: 1 / (x + 0.125), dict(epsilon=np.float16(0.125))),
    "pow": (lambda x: np.power(x, -0.5), dict(y=np.float16(-0.5))),
    "gelu": (
        lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        dict(mode="TANH_APPROXIMATION"),
    ),
}


@pytest.mark.parametrize("kind", UNARY)
def test_unary_of_every_half(host: Any, kind: str) -> None:
    f, arguments = UNARY[kind]
    with np.errstate(all="ignore"):
        want = half(f(wide(HALVES)))
    got = run_op(host, kind, want, x=In(HALVES), **arguments)
    gap = ulps(got, want)
    assert gap.max() <= 1, HALVES.ravel()[gap.ravel().argmax()]
    assert np.count_nonzero(gap) <= 4  # where double libms disagree across a rounding boundary


@pytest.mark.parametrize("kind", ["exp", "sigmoid", "sqrt", "abs", "tanh"])
def test_unary_of_floats(host: Any, kind: str) -> None:
    x = np.linspace(0.01, 5, 320, dtype=np.float32).reshape(1, 10, 1, 32)
    want = UNARY[kind][0](wide(x)).astype(np.float32)
    np.testing.assert_allclose(run_op(host, kind, want, x=In(x)), want, rtol=1.3e-7)


def test_pow_of_tensors(host: Any) -> None:
    x, y = np.abs(normal(2, 3, 1, 32, seed=1)) + np.float16(0.1), normal(1, 3, 1, 32, seed=2)
    want = half(np.power(wide(x), wide(y)))
    same_bits(run_op(host, "pow", want, x=In(x), y=In(y)), want)


REDUCTIONS: dict[str, Callable[..., Any]] = {
    "reduce_sum": np.sum,
    "reduce_mean": np.mean,
    "reduce_max": np.max,
    "reduce_min": np.min,
    "reduce_l1_norm": lambda x, **k: np.sum(np.abs(x), **k),
    "reduce_l2_norm": lambda x, **k: np.sqrt(np.sum(x * x, **k)),
    "reduce_sum_square": lambda x, **k: np.sum(x * x, **k),
    "reduce_log_sum_exp": lambda x, **k: np.log(np.sum(np.exp(x), **k)),
}


@pytest.mark.parametrize("kind", REDUCTIONS)
@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((1, 67, 1, 96), [1]),
        ((2, 67, 1, 33), [1]),
        ((2, 5, 3, 37), [-1]),
        ((2, 5, 3, 37), [0, 2]),
        ((2, 5, 3, 37), [1, 3]),
        ((2, 5, 3, 37), [0, 1, 2, 3]),
        ((1, 288, 1, 256), [1]),
        ((2, 64, 8, 300), [3]),
    ],
    ids=str,
)
def test_reductions(host: Any, kind: str, shape: Any, axes: list[int]) -> None:
    x = normal(*shape, seed=7)
    for keep in (True, False):
        if not keep and len(axes) == len(shape):
            continue
        want = half(REDUCTIONS[kind](wide(x), axis=tuple(axes), keepdims=keep))
        got = run_op(host, kind, want, x=In(x), axes=axes, keep_dims=keep)
        exact = kind not in ("reduce_l2_norm", "reduce_log_sum_exp")
        assert ulps(got, want).max() <= (0 if exact else 1)


@pytest.mark.parametrize("shape", [(1, 37, 1, 65), (2, 6, 64, 64), (1, 300, 1, 128), (3, 1, 1, 1)])
@pytest.mark.parametrize("axis", [-1, 1])
def test_softmax(host: Any, shape: Any, axis: int) -> None:
    x = normal(*shape, seed=8, scale=4)
    e = np.exp(wide(x) - wide(x).max(axis, keepdims=True))
    want = half(e / e.sum(axis, keepdims=True))
    gap = ulps(run_op(host, "softmax", want, x=In(x), axis=axis), want)
    assert gap.max() <= 1 and np.count_nonzero(gap) <= 1 + gap.size // 500


def test_softmax_of_a_mask(host: Any) -> None:
    x = np.full((1, 1, 4, 32), -np.inf, np.float16)
    x[..., 0], x[0, 0, 1, 1:3], x[0, 0, 2] = 1, 1, 1000
    want = np.zeros_like(x)
    want[..., 0], want[0, 0, 1, :3], want[0, 0, 2] = 1, 1 / 3, 1 / 32
    same_bits(run_op(host, "softmax", want, x=In(x), axis=-1), want)


HEADS = (2, 3, 33, 20)
ATTENTION = {
    "plain": ((2, 3, 45, 20), (2, 3, 45, 28), None),
    "mask": ((2, 3, 45, 20), (2, 3, 45, 20), (1, 3, 33, 45)),
    "mask of one row": ((2, 3, 40, 20), (2, 3, 40, 4), (45 - 5,)),
    "bool mask": ((2, 3, 45, 20), (2, 3, 45, 28), (33, 45)),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_in_one_operation(host: Any, name: str) -> None:
    key, value, mask = ATTENTION[name]
    q, k, v = normal(*HEADS, seed=21), normal(*key, seed=22), normal(*value, seed=23)
    scores = wide(q) @ np.swapaxes(wide(k), -1, -2) / math.sqrt(HEADS[-1])
    given: dict[str, Any] = {}
    if mask:
        m = normal(*mask, seed=24)
        given = {"attn_mask": In(m > -0.5 if name == "bool mask" else m)}
        scores = np.where(m > -0.5, scores, -np.inf) if name == "bool mask" else scores + wide(m)
    e = np.exp(scores - scores.max(-1, keepdims=True))
    want = half(e / e.sum(-1, keepdims=True) @ wide(v))
    kind = "scaled_dot_product_attention"
    assert (
        ulps(run_op(host, kind, want, query=In(q), key=In(k), value=In(v), **given), want).max()
        <= 1
    )


@pytest.mark.parametrize("equation", [
    "nchw,nwhu->nchu", "chw,whr->chr", "ab,bc->ac", "ab,ab->b", "ab,cd->dacb", "abc,b->ca",
])  # fmt: skip
def test_einsum(host: Any, equation: str) -> None:
    size = dict(zip("nchwurabd", (2, 3, 5, 4, 6, 7, 8, 9, 3), strict=True))
    left, right = equation.split("->")[0].split(",")
    x, y = (normal(*(size[i] for i in side), seed=s) for s, side in enumerate((left, right)))
    want = half(np.einsum(equation, wide(x), wide(y)))
    assert (
        ulps(run_op(host, "einsum", want, values=(In(x), In(y)), equation=equation), want).max()
        <= 1
    )


@pytest.mark.parametrize(("equation", "why"), [
    ("ab,bc", "a comma and an arrow"), ("aab,bc->ac", "once in each operand"),
    ("ab,bc->ad", "indices that the operands have"), ("abc,bc->ac", "an axis for each letter"),
    ("ab,ac->bc", "one size for the index a"), ("a.,bc->ac", "of letters"),
])  # fmt: skip
def test_an_einsum_that_makes_no_sense(host: Any, equation: str, why: str) -> None:
    x, y = normal(4, 6), normal(6, 5)
    with pytest.raises(_C.MILError, match=why):
        run_op(host, "einsum", x, values=(In(x), In(y)), equation=equation)


@pytest.mark.parametrize(("axis", "many"), [(0, True), (1, True), (-1, False)])
def test_weights_stored_as_integers(host: Any, axis: int, many: bool) -> None:
    rng = np.random.default_rng(3)
    data = rng.integers(-128, 128, (6, 8, 1, 1)).astype(np.int8)
    n = data.shape[axis] if many else 1
    scale, zero = normal(n, seed=4), rng.integers(-20, 20, n).astype(np.int8)
    along = [1] * 4
    along[axis] = n
    want = half((wide(data) - wide(zero).reshape(along)) * wide(scale).reshape(along))

    def tensor(kind: str, a: np.ndarray) -> str:
        said = repr(a.tolist()).replace("'", "")
        return f"{kind}({a[0]})" if not many else f"tensor<{kind}, {list(a.shape)}>({said})"

    x = np.ones((1, 8, 1, 32), np.float16)
    text = f"""program(1.3)
{{
    func main<ios18>(tensor<fp16, [1, 8, 1, 32]> x) {{
        tensor<fp16, [6, 8, 1, 1]> w = constexpr_affine_dequantize()[axis = int32({axis}), \
name = string("w"), quantized_data = tensor<int8, [6, 8, 1, 1]>({data.tolist()}), \
scale = {tensor("fp16", scale)}, zero_point = {tensor("int8", zero)}];
        tensor<fp16, [1, 6, 1, 32]> y = conv(weight = w, x = x)[name = string("y")];
    }} -> (y);
}}
"""
    got = run(host, text, {}, {"x": x})["y"]
    total = half(wide(want).sum(1).reshape(1, 6, 1, 1) * np.ones((1, 1, 1, 32)))
    assert ulps(got, total).max() <= 2


@pytest.mark.parametrize(("shape", "axes"), [((2, 48, 1, 96), [1]), ((2, 3, 4, 40), [2, 3])])
def test_layer_norm(host: Any, shape: Any, axes: list[int]) -> None:
    x = normal(*shape, seed=9, scale=3) + np.float16(1)
    inner = [shape[a] for a in axes]
    g, b = normal(*inner, seed=10), normal(*inner, seed=11)
    axis = tuple(axes)
    w = wide(x) - wide(x).mean(axis, keepdims=True)
    y = w / np.sqrt((w * w).mean(axis, keepdims=True) + wide(np.float16(1e-3)))
    along = [n if i in axes else 1 for i, n in enumerate(shape)]
    want = half(y * wide(g).reshape(along) + wide(b).reshape(along))
    got = run_op(
        host, "layer_norm", want, x=In(x), axes=axes, gamma=g, beta=b, epsilon=np.float16(1e-3)
    )
    assert ulps(got, want).max() <= 1


def test_compare_and_select(host: Any) -> None:
    x, y = normal(2, 9, 1, 33, seed=1), normal(1, 9, 1, 1, seed=2)
    x[0, :, 0, 0] = y[0, :, 0, 0]
    compare = {"greater": np.greater, "less_equal": np.less_equal, "equal": np.equal}
    for kind, f in compare.items():
        t = Text(a=x, b=y)
        c = t.op(kind, f(x, y), x=Name("a"), y=Name("b"))
        s = t.op("select", x, cond=c, a=Name("a"), b=Name("b"))
        got = run(host, t.program([s]), t.blobs, {"a": x, "b": y})[s]
        same_bits(got, np.where(f(x, y), x, y))


@pytest.mark.parametrize("to", ["fp32", "int32", "bool", "fp16", "int8"])
def test_cast(host: Any, to: str) -> None:
    numpy = {
        "fp32": np.float32,
        "fp16": np.float16,
        "int32": np.int32,
        "bool": bool,
        "int8": np.int8,
    }
    x = normal(1, 3, 1, 65, seed=5, scale=20)
    x.ravel()[::7] = 0
    want = x.astype(numpy[to])
    same_bits(run_op(host, "cast", want, x=In(x), dtype=to), want)


def test_cast_of_floats_rounds_to_even(host: Any) -> None:
    x = np.array([[1 + 2**-11, 1 + 3 * 2**-11, 2**-25, 2**-24 * 1.5, 65519.9, 65520, 1e9, -0.0]])
    x = x.astype(np.float32)
    want = half(x)
    same_bits(run_op(host, "cast", want, x=In(x), dtype="fp16"), want)
