"""Composites: what models are written with, each expanded into simple ops before emission.

A composite's derivative is written against the composite itself, with the pieces its expansion
also makes (rms_rstd, sigmoid...), so common-subexpression elimination joins the two: backward reads
what forward computed. The order of operations is chosen for fp16 (largest 65504, and precision lost
below 6e-5): squares are scaled down first, nothing is cubed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..op import Array, Attrs, Op, apply, register
from ..tensor import Shape, ShapeError, Tensor
from .elementwise import clip, pow, sigmoid, square, tanh
from .reduce import reduce_mean, reduce_sum

LARGEST_RMS = 64.0  # the root mean square that normalisation must survive in fp16


def square_shift(channels: int) -> int:
    """Smallest k >= 0 such that C squares of x * 2^-k still sum below 65504 at an rms of 64."""
    k = 0
    while 2**k * math.sqrt(65504 / channels) < LARGEST_RMS:
        k += 1
    return k


def _same(xs: Sequence[Tensor], attrs: Attrs) -> Shape:
    return xs[0].shape


def _channels(xs: Sequence[Tensor], attrs: Attrs) -> Shape:
    b, _, *rest = xs[0].shape
    return (b, 1, *rest)


def _channel_first(name: str, x: Tensor) -> None:
    if x.rank != 4:
        raise ShapeError(name, "x [B, C, 1, S]", list(x.shape))


# RMS norm, layer norm: over the channel axis


def _rstd(x: Array, epsilon: float) -> Array:
    result: Array = 1 / np.sqrt(np.mean(x * x, axis=1, keepdims=True) + epsilon)
    return result


def _expand_rstd(node: Tensor) -> Tensor:
    x, channels = node.inputs[0], node.inputs[0].shape[1]
    k = square_shift(channels)
    xs = x * 2.0**-k if k else x
    total = reduce_sum(xs * xs, 1)
    return pow(total * (4.0**k / channels) + node.attrs["epsilon"], -0.5)


def _rstd_grad(node: Tensor, dy: Tensor, i: int) -> Tensor:
    x = node.inputs[0]
    y = rms_norm(x, node.attrs["epsilon"])
    return (dy * node) * (y * node) * (-1.0 / x.shape[1])


def _rms_norm_grad(y: Tensor, dy: Tensor, i: int) -> Tensor:
    """dx = rstd (dy - y mean(dy y)): of the size of dy throughout, whatever the size of x."""
    x = y.inputs[0]
    mean = reduce_sum(dy * y, 1) * (1.0 / x.shape[1])
    return rms_rstd(x, y.attrs["epsilon"]) * (dy - y * mean)


register(
    Op(
        "rms_rstd",
        _channels,
        lambda xs, attrs: _rstd(xs[0], attrs["epsilon"]),
        _rstd_grad,
        expand=_expand_rstd,
    )
)
register(
    Op(
        "rms_norm",
        _same,
        lambda xs, attrs: xs[0] * _rstd(xs[0], attrs["epsilon"]),
        _rms_norm_grad,
        expand=lambda y: y.inputs[0] * rms_rstd(y.inputs[0], y.attrs["epsilon"]),
    )
)


def rms_rstd(x: Tensor, epsilon: float = 1e-5) -> Tensor:
    """1 / sqrt(mean(x^2) + epsilon) over channels. x: (B, C, 1, S). Returns (B, 1, 1, S)."""
    _channel_first("rms_rstd", x)
    return apply("rms_rstd", x, epsilon=float(epsilon))


def rms_norm(x: Tensor, epsilon: float = 1e-5) -> Tensor:
    """x * rms_rstd(x), without a gain: multiply by a parameter (1, C, 1, 1) for that."""
    _channel_first("rms_norm", x)
    return apply("rms_norm", x, epsilon=float(epsilon))


def _layer_norm(xs: Sequence[Array], attrs: Attrs) -> Array:
    centred = xs[0] - xs[0].mean(axis=1, keepdims=True)
    result: Array = centred * _rstd(centred, attrs["epsilon"])
    return result


def _centred(x: Tensor) -> Tensor:
    return x - reduce_mean(x, 1)


def _layer_norm_grad(y: Tensor, dy: Tensor, i: int) -> Tensor:
    """As rms_norm of the centred x; its mean over channels is then taken out."""
    xc, channels = _centred(y.inputs[0]), y.shape[1]
    rstd = rms_rstd(xc, y.attrs["epsilon"])
    mean = reduce_sum(dy * y, 1) * (1.0 / channels)
    return rstd * ((dy - reduce_mean(dy, 1)) - y * mean)


register(
    Op(
        "layer_norm",
        _same,
        _layer_norm,
        _layer_norm_grad,
        expand=lambda y: rms_norm(_centred(y.inputs[0]), y.attrs["epsilon"]),
    )
)


def layer_norm(x: Tensor, epsilon: float = 1e-5) -> Tensor:
    """(x - mean) / sqrt(var + epsilon) over channels, without gain and bias. x: (B, C, 1, S)."""
    _channel_first("layer_norm", x)
    return apply("layer_norm", x, epsilon=float(epsilon))


# Activations


def _silu(xs: Sequence[Array], attrs: Attrs) -> Array:
    result: Array = xs[0] / (1 + np.exp(-xs[0]))
    return result


def _silu_grad(y: Tensor, dy: Tensor, i: int) -> Tensor:
    s = sigmoid(y.inputs[0])
    return dy * (s + y * (1.0 - s))


register(Op("silu", _same, _silu, _silu_grad, expand=lambda y: y.inputs[0] * sigmoid(y.inputs[0])))


def silu(x: Tensor) -> Tensor:
    return apply("silu", x)


# tanh(SLOPE * (x + CUBIC x^3)), the usual approximation; |x| is limited to 10 inside, where tanh is
# 1 to the last bit of fp16, so that no power of x overflows.
SLOPE, CUBIC, LIMIT = math.sqrt(2 / math.pi), 0.044715, 10.0


def _gelu(xs: Sequence[Array], attrs: Attrs) -> Array:
    x = xs[0]
    result: Array = 0.5 * x * (1 + np.tanh(SLOPE * (x + CUBIC * x**3)))
    return result


def _gelu_tanh(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    near = clip(x, -LIMIT, LIMIT)
    squares = square(near)
    return near, squares, tanh(near * (squares * (SLOPE * CUBIC) + SLOPE))


def _expand_gelu(node: Tensor) -> Tensor:
    x = node.inputs[0]
    return x * (_gelu_tanh(x)[2] * 0.5 + 0.5)


def _gelu_grad(y: Tensor, dy: Tensor, i: int) -> Tensor:
    near, squares, t = _gelu_tanh(y.inputs[0])
    slope = near * (squares * (1.5 * SLOPE * CUBIC) + 0.5 * SLOPE)
    return dy * ((t * 0.5 + 0.5) + slope * (1.0 - square(t)))


register(Op("gelu", _same, _gelu, _gelu_grad, expand=_expand_gelu))


def gelu(x: Tensor) -> Tensor:
    """0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))."""
    return apply("gelu", x)
