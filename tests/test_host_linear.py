"""conv and matmul of the host: each result one chain of fp32 fused multiply-adds, bit for bit.

The referee is gemm(reference=True), the chain in plain loops; NumPy in float64 checks the referee.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from anefast import _C
from anefast.chips.behaviour import find_profile

from .host_programs import In, run_op


@pytest.fixture(scope="module")
def host() -> Any:
    return _C.Device("host")


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float16)


def chain(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(.., m, k) by (.., k, n), broadcast, each element one chain, rounded to fp16."""
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a = np.broadcast_to(a, batch + a.shape[-2:])
    b = np.broadcast_to(b, batch + b.shape[-2:])
    out = np.empty((*batch, a.shape[-2], b.shape[-1]), np.float16)
    for i in np.ndindex(*batch):
        _C.gemm(a[i], b[i], out[i], reference=True)
    wide = np.matmul(a.astype(np.float64), b.astype(np.float64))
    np.testing.assert_allclose(out, wide, rtol=2e-3, atol=2e-3)
    return out


def same_bits(a: np.ndarray, b: np.ndarray) -> None:
    assert a.shape == b.shape
    np.testing.assert_array_equal(a.view(np.uint16), b.view(np.uint16))


def conv_arguments(**changed: Any) -> dict[str, Any]:
    plain = dict(strides=[1, 1], pad_type="valid", pad=[0, 0, 0, 0], dilations=[1, 1], groups=1)
    return plain | changed


@pytest.mark.parametrize(
    ("b", "ci", "co", "s"), [(1, 5, 7, 32), (2, 33, 65, 33), (1, 288, 96, 256), (3, 16, 8, 1)]
)
def test_pointwise_conv(host: Any, b: int, ci: int, co: int, s: int) -> None:
    x, w = normal(b, ci, 1, s, seed=1), normal(co, ci, 1, 1, seed=2)
    want = chain(w[:, :, 0, 0], x[:, :, 0, :])[:, :, None, :]
    same_bits(run_op(host, "conv", want, x=In(x), weight=w, **conv_arguments()), want)
    same_bits(run_op(host, "conv", want, x=In(x), weight=In(w), **conv_arguments()), want)


def unfold(
    x: np.ndarray, k: tuple[int, int], stride: int, dilation: int, pad: tuple[int, int, int, int]
) -> tuple[np.ndarray, int, int]:
    x = np.pad(x, ((0, 0), (0, 0), pad[:2], pad[2:]))
    h = (x.shape[2] - dilation * (k[0] - 1) - 1) // stride + 1
    w = (x.shape[3] - dilation * (k[1] - 1) - 1) // stride + 1
    columns = [
        x[:, :, i * dilation :, j * dilation :][:, :, ::stride, ::stride][:, :, :h, :w]
        for i in range(k[0])
        for j in range(k[1])
    ]
    return np.stack(columns, 2).reshape(x.shape[0], -1, h * w), h, w


@pytest.mark.parametrize(
    ("k", "stride", "dilation", "pad", "groups"),
    [
        ((3, 3), 1, 1, (1, 1, 1, 1), 1),
        ((3, 2), 2, 1, (0, 1, 2, 0), 1),
        ((1, 3), 1, 2, (0, 0, 2, 2), 1),
        ((3, 3), 1, 1, (1, 1, 1, 1), 2),
        ((1, 1), 2, 1, (0, 0, 0, 0), 4),
    ],
)
def test_conv_with_a_window(
    host: Any, k: Any, stride: int, dilation: int, pad: Any, groups: int
) -> None:
    x, w = normal(2, 8, 6, 9, seed=3), normal(12, 8 // groups, *k, seed=4)
    parts = []
    for g in range(groups):
        c = slice(g * 8 // groups, (g + 1) * 8 // groups)
        columns, oh, ow = unfold(x[:, c], k, stride, dilation, pad)
        rows = w[g * 12 // groups : (g + 1) * 12 // groups].reshape(12 // groups, -1)
        parts.append(chain(rows, columns).reshape(2, -1, oh, ow))
    want = np.concatenate(parts, 1)
    got = run_op(
        host, "conv", want, x=In(x), weight=w,
        **conv_arguments(
            strides=[stride] * 2, dilations=[dilation] * 2, groups=groups,
            pad_type="custom", pad=list(pad),
        ),
    )  # fmt: skip
    same_bits(got, want)


@pytest.mark.parametrize("tx", [False, True])
@pytest.mark.parametrize("ty", [False, True])
@pytest.mark.parametrize(
    ("x", "y"),
    [
        ((2, 3, 17, 33), (2, 3, 33, 9)),
        ((1, 6, 64, 48), (1, 6, 48, 64)),
        ((2, 1, 5, 32), (1, 3, 32, 7)),
        ((4, 32), (32, 64)),
        ((3, 4, 32), (32, 64)),
    ],
)
def test_matmul(host: Any, x: Any, y: Any, tx: bool, ty: bool) -> None:
    a, b = normal(*x, seed=5), normal(*y, seed=6)
    want = chain(a, b)
    given = [
        np.ascontiguousarray(np.swapaxes(m, -1, -2)) if t else m for m, t in ((a, tx), (b, ty))
    ]
    arguments = dict(transpose_x=tx, transpose_y=ty)
    same_bits(run_op(host, "matmul", want, x=In(given[0]), y=In(given[1]), **arguments), want)
    same_bits(run_op(host, "matmul", want, x=In(given[0]), y=given[1], **arguments), want)


def test_linear(host: Any) -> None:
    x, w = normal(2, 5, 33, seed=7), normal(40, 33, seed=8)
    want = chain(x.reshape(10, 33), w.T).reshape(2, 5, 40)
    same_bits(run_op(host, "linear", want, x=In(x), weight=w), want)


def biased(a: np.ndarray, b: np.ndarray, bias: np.ndarray, arithmetic: dict[str, bool]) -> Any:
    """a (m, k) by b (k, n), each row's chain begun by bias (m,) times 1."""
    a = np.concatenate([bias[:, None], a], 1)
    b = np.concatenate([np.ones((1, b.shape[1]), b.dtype), b])
    out = np.empty((a.shape[0], b.shape[1]), np.float16)
    _C.gemm(a, b, out, reference=True, **arithmetic)
    return out


CHIPS = [("", {}), (find_profile("m4").options, {"fixed": True})]


@pytest.mark.parametrize(("options", "arithmetic"), CHIPS)
def test_a_bias_is_where_the_sum_begins(options: str, arithmetic: dict[str, bool]) -> None:
    host = _C.Device("host", options)
    x, w, bias = normal(1, 33, 1, 40, seed=1), normal(24, 33, 1, 1, seed=2), normal(24, seed=9)
    want = biased(w[:, :, 0, 0], x[0, :, 0, :], bias, arithmetic)[None, :, None, :]
    got = run_op(host, "conv", want, x=In(x), weight=w, bias=bias, **conv_arguments())
    same_bits(got, want)
    if not arithmetic:
        wide = np.einsum("oc,bchs->bohs", w[:, :, 0, 0].astype(float), x.astype(float))
        np.testing.assert_allclose(got, wide + bias[:, None, None], rtol=2e-3, atol=2e-3)
    rows = normal(3, 7, 33, seed=3)
    want = np.ascontiguousarray(biased(w[:, :, 0, 0], rows.reshape(21, 33).T, bias, arithmetic).T)
    got = run_op(
        host, "linear", want.reshape(3, 7, 24), x=In(rows), weight=w[:, :, 0, 0], bias=bias
    )
    same_bits(got.reshape(21, 24), want)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_bias_of_a_conv_with_a_window_and_groups(host: Any, groups: int) -> None:
    x, w, bias = normal(2, 8, 6, 9, seed=3), normal(12, 8 // groups, 3, 3, seed=4), normal(12)
    parts = []
    for g in range(groups):
        columns, oh, ow = unfold(x[:, g * 8 // groups :][:, : 8 // groups], (3, 3), 1, 1, (1,) * 4)
        of = slice(g * 12 // groups, (g + 1) * 12 // groups)
        rows = w[of].reshape(12 // groups, -1)
        parts.append(np.stack([biased(rows, c, bias[of], {}).reshape(-1, oh, ow) for c in columns]))
    want = np.concatenate(parts, 1)
    custom = conv_arguments(pad_type="custom", pad=[1] * 4, groups=groups)
    same_bits(run_op(host, "conv", want, x=In(x), weight=w, bias=bias, **custom), want)


T = 2.0
BIASED = [  # bias, terms, and what M4 and M6 were measured to give
    (-16384, (16384, 16384), 16384),
    (32, (32752,), np.inf),
    (32, (32736,), np.inf),
    (T**-20, (0,), 0),
    (T**-17, (0,), T**-16),
    (T**-17, (T**-17,), T**-15),
]


@pytest.mark.parametrize(("bias", "terms", "wanted"), BIASED)
def test_published_cases_of_a_bias(bias: float, terms: tuple[float, ...], wanted: float) -> None:
    host = _C.Device("host", find_profile("m4").options)
    x = np.array(terms, np.float16).reshape(1, -1, 1, 1)
    w, b = np.ones((1, x.shape[1], 1, 1), np.float16), np.array([bias], np.float16)
    got = run_op(host, "conv", x[:, :1], x=In(x), weight=w, bias=b, **conv_arguments())
    assert got.item() == wanted
