"""Composites: what models are written with, each expanded into simple ops before emission.

A composite's derivative is written against the composite itself, with the pieces its expansion
also makes (rms_rstd, sigmoid...), so common-subexpression elimination joins the two: backward reads
what forward computed. The order of operations is chosen for fp16 (largest 65504, and precision lost
below 6e-5): what is squared or summed is divided by its largest magnitude first, nothing is cubed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from ..op import Array, Attrs, Op, apply, register
from ..tensor import Shape, ShapeError, Tensor
from .elementwise import abs, clip, maximum, minimum, positive, pow, rsqrt, sigmoid, square, tanh
from .reduce import reduce_max, reduce_mean

MOST = 65504.0
LEAST = 2.0**-14  # what numbers are divided by at least: 1 / LEAST is far from overflowing
LEAST_EPSILON = 2.0**-30  # from here on 1 / sqrt(epsilon), the largest rstd, is a half
LEAST_IN_A_ROW = 2.0**-24  # the smallest half: what is less is no number to add
LEAST_ROOT = 2.0**-26  # sqrt(epsilon) at least: with it a channel of zeros has a finite rstd


def _same(xs: Sequence[Tensor], attrs: Attrs) -> Shape:
    return xs[0].shape


def _channels(xs: Sequence[Tensor], attrs: Attrs) -> Shape:
    b, _, *rest = xs[0].shape
    return (b, 1, *rest)


def _normalised(name: str, x: Tensor, epsilon: float, **more: str) -> Tensor:
    if x.rank != 4:
        raise ShapeError(name, "x [B, C, 1, S]", list(x.shape))
    if not 0 <= epsilon <= 1:
        raise ShapeError(name, "an epsilon from 0 to 1", epsilon, "1e-5 is usual")
    return apply(name, x, epsilon=float(epsilon), **more)


# RMS norm, layer norm: over the channel axis


def _rstd(x: Array, epsilon: float) -> Array:
    result: Array = 1 / np.sqrt(np.mean(x * x, axis=1, keepdims=True) + epsilon)
    return result


def _largest(x: Tensor) -> Tensor:
    """max(|x|) over channels: x over it lies in [-1, 1], and C such squares sum to at most C.
    x: (B, C, 1, S). Returns (B, 1, 1, S)."""
    return reduce_max(abs(x), 1)


def _mean(x: Tensor) -> Tensor:
    """mean(x) over channels, whose sum does not overflow on the way."""
    m = maximum(_largest(x), LEAST)
    return reduce_mean(x * (1.0 / m), 1) * m


def _rstd_parts(x: Tensor, epsilon: float, scale: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
    """(1 / m, rstd(x / m)), where m is the largest magnitude: rstd(x) is their product.

    The epsilon is that of x / scale. That of x / m is (sqrt(epsilon) scale / m)^2, formed as a
    square so that one too small for fp16 counts as well.
    """
    root = max(math.sqrt(epsilon), LEAST_ROOT)
    m = maximum(_largest(x), max(root, LEAST))
    up = 1.0 if root >= LEAST else 2.0**12  # sqrt(epsilon) up, 1 / m down: both are normal halves
    if isinstance(scale, Tensor):
        m = maximum(m, scale * root)
    inverse = 1.0 / m
    share = (inverse * (1 / up)) * (scale * (root * up))
    xs = x * inverse
    return inverse, pow(reduce_mean(xs * xs, 1) + share * share, -0.5)


def _times(g: Tensor, m: Tensor, inverse: Tensor, rstd: Tensor) -> Tensor:
    """g m inverse rstd, where all but g are rows. `inverse` is shared out, so that neither factor
    leaves fp16 unless the product does."""
    return g * ((rstd * minimum(inverse, 1.0)) * (m * maximum(inverse, 1.0)))


# How the root of a norm is written. scaled: of x over its largest magnitude, so that no square
# leaves fp16. row: square, mean, epsilon and root in a row, which Apple's compiler was seen to make
# one or two tasks of (joshuaswarren/mil-hwx-compiler, research/fusion-rules.md). A device that
# rounds in between loses numbers of 256 and more, whose squares are infinite.
NormForm = Literal["scaled", "row"]


def _in_a_row(x: Tensor, epsilon: float) -> Tensor:
    return rsqrt(reduce_mean(square(x), 1) + epsilon)


def _row(node: Tensor) -> bool:
    """True if a root is written in a row: it is not with an epsilon that is none in fp16."""
    return bool(node.attrs["form"] == "row" and node.attrs["epsilon"] >= LEAST_IN_A_ROW)


def _expand_rstd(node: Tensor) -> Tensor:
    if _row(node):
        return _in_a_row(node.inputs[0], node.attrs["epsilon"])
    inverse, rstd = _rstd_parts(node.inputs[0], node.attrs["epsilon"])
    return rstd * inverse


def _rstd_grad(node: Tensor, dy: Tensor, i: int) -> Tensor:
    x = node.inputs[0]
    y = rms_norm(x, node.attrs["epsilon"], node.attrs["form"])
    share = node * (1 / math.sqrt(x.shape[1]))
    return (dy * share) * (y * -share)


def _expand_rms_norm(y: Tensor) -> Tensor:
    x, epsilon = y.inputs[0], y.attrs["epsilon"]
    if epsilon >= LEAST_EPSILON:
        return x * rms_rstd(x, epsilon, y.attrs["form"])
    inverse, rstd = _rstd_parts(x, epsilon)
    return x * inverse * rstd


def _projected(dy: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """(dy - y mean(dy y)) / m and m, the largest magnitude of dy. It is limited, so that what
    overflowed before stays infinite: 1 / infinity would make 0 of it, on chips without a NaN."""
    m = minimum(maximum(_largest(dy), LEAST), MOST)
    g = dy * (1.0 / m)
    return g - y * reduce_mean(g * y, 1), m


def _rms_norm_grad(y: Tensor, dy: Tensor, i: int) -> Tensor:
    """dx = rstd (dy - y mean(dy y)): overflows only where dx itself is no half."""
    x, epsilon = y.inputs[0], y.attrs["epsilon"]
    g, m = _projected(dy, y)
    if epsilon >= LEAST_EPSILON:
        return g * (rms_rstd(x, epsilon, y.attrs["form"]) * m)
    return _times(g, m, *_rstd_parts(x, epsilon))


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
        expand=_expand_rms_norm,
    )
)


def rms_rstd(x: Tensor, epsilon: float = 1e-5, form: NormForm = "scaled") -> Tensor:
    """1 / sqrt(mean(x^2) + epsilon) over channels. x: (B, C, 1, S). Returns (B, 1, 1, S)."""
    return _normalised("rms_rstd", x, epsilon, form=form)


def rms_norm(x: Tensor, epsilon: float = 1e-5, form: NormForm = "scaled") -> Tensor:
    """x * rms_rstd(x), without a gain: multiply by a parameter (1, C, 1, 1) for that."""
    return _normalised("rms_norm", x, epsilon, form=form)


def _layer_norm(xs: Sequence[Array], attrs: Attrs) -> Array:
    centred = xs[0] - xs[0].mean(axis=1, keepdims=True)
    result: Array = centred * _rstd(centred, attrs["epsilon"])
    return result


def _centred(x: Tensor) -> tuple[Tensor, Tensor]:
    """(x - mean(x)) scale, and scale. x: (B, C, 1, S). Returns the same shape and (B, 1, 1, S).

    scale: 1/2, for the difference of two halves may be no half; where x has no normal half, which
    would lose a bit, 2^14. The mean is taken out twice, for the first one is rounded: what it
    leaves matters where x varies little around it.
    """
    scale = positive(LEAST - _largest(x)) * (1 / LEAST - 0.5) + 0.5
    x = x * scale
    x = x - _mean(x)
    return x - _mean(x), scale


def _expand_layer_norm(y: Tensor) -> Tensor:
    x, scale = _centred(y.inputs[0])
    inverse, rstd = _rstd_parts(x, y.attrs["epsilon"], scale)
    return x * inverse * rstd


def _layer_norm_grad(y: Tensor, dy: Tensor, i: int) -> Tensor:
    """The gradient of rms_norm for the centred x, minus its mean over channels."""
    x, scale = _centred(y.inputs[0])
    g, m = _projected(dy, y)
    inverse, rstd = _rstd_parts(x, y.attrs["epsilon"], scale)
    return _times(g - reduce_mean(g, 1), m, inverse, rstd * scale)


register(
    Op(
        "layer_norm",
        _same,
        _layer_norm,
        _layer_norm_grad,
        expand=_expand_layer_norm,
    )
)


def layer_norm(x: Tensor, epsilon: float = 1e-5) -> Tensor:
    """(x - mean) / sqrt(var + epsilon) over channels, without gain and bias. x: (B, C, 1, S)."""
    return _normalised("layer_norm", x, epsilon)


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
