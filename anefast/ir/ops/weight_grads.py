"""Gradients with respect to parameters: what the CPU queue does, in fp32, beside the device.

These ops end a graph. They are never written as MIL, and nothing on the device reads them. Each one
is a call of the native queue: acc += result.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..op import Array, Attrs, Op, register, shapes
from ..tensor import Shape, ShapeError, Tensor


def _taps(name: str, xs: Sequence[Tensor]) -> None:
    for t in xs:
        if t.rank != 4 or t.shape[2] != 1:
            raise ShapeError(name, "[B, C, 1, S]", shapes(xs))
    if len({(t.shape[0], t.shape[3]) for t in xs}) != 1:
        raise ShapeError(name, "equal B and S", shapes(xs))


def _weight_shape(xs: Sequence[Tensor], attrs: Attrs) -> Shape:
    _taps("weight_grad", xs)
    return (xs[0].shape[1], xs[1].shape[1], 1, 1)


def _scale_shape(xs: Sequence[Tensor], attrs: Attrs) -> Shape:
    _taps("scale_grad", xs)
    if xs[0].shape != xs[1].shape:
        raise ShapeError("scale_grad", "dy and x of one shape", shapes(xs))
    return (1, xs[0].shape[1], 1, 1)


def _bias_shape(xs: Sequence[Tensor], attrs: Attrs) -> Shape:
    _taps("bias_grad", xs)
    return (1, xs[0].shape[1], 1, 1)


def _batch_shape(xs: Sequence[Tensor], attrs: Attrs) -> Shape:
    if xs[0].rank != 4 or xs[0].shape[1] != 1:
        raise ShapeError("batch_grad", "[B, 1, Co, Ci]", shapes(xs))
    return (*xs[0].shape[2:], 1, 1)


def _sum_shape(xs: Sequence[Tensor], attrs: Attrs) -> Shape:
    if any(t.op not in CPU_OPS or t.shape != xs[0].shape for t in xs):
        raise ShapeError("grad_sum", "CPU gradients of one shape", shapes(xs))
    return xs[0].shape


def _weight(xs: Sequence[Array], attrs: Attrs) -> Array:
    dy, x = xs
    out: Array = np.matmul(dy[:, :, 0], np.swapaxes(x[:, :, 0], 1, 2)).sum(axis=0)
    return out[:, :, None, None]


def _scale(xs: Sequence[Array], attrs: Attrs) -> Array:
    result: Array = (xs[0] * xs[1]).sum(axis=(0, 3), keepdims=True)
    return result


def _bias(xs: Sequence[Array], attrs: Attrs) -> Array:
    result: Array = xs[0].sum(axis=(0, 3), keepdims=True)
    return result


def _batch(xs: Sequence[Array], attrs: Attrs) -> Array:
    result: Array = xs[0].sum(axis=(0, 1))[:, :, None, None]
    return result


# weight_grad(dy, x): sum over B and S of dy x^T, (Co, Ci, 1, 1), for the weight of a conv.
register(Op("weight_grad", _weight_shape, _weight, device=False))
# scale_grad(dy, x): sum of dy x, (1, C, 1, 1), for a gain multiplied to x.
register(Op("scale_grad", _scale_shape, _scale, device=False))
# bias_grad(dy): sum of dy, (1, C, 1, 1), for an added bias.
register(Op("bias_grad", _bias_shape, _bias, device=False))
# batch_grad(g): sum over B of [B, 1, Co, Ci], (Co, Ci, 1, 1): what is left of a weight_grad whose
# products the device makes.
register(Op("batch_grad", _batch_shape, _batch, device=False))
# grad_sum(g, ...): a parameter used more than once; see grad.terms.
register(Op("grad_sum", _sum_shape, lambda xs, attrs: np.sum(np.stack(xs), axis=0), device=False))

CPU_OPS = frozenset({"weight_grad", "scale_grad", "bias_grad", "batch_grad", "grad_sum"})
