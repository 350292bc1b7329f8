"""conv (1x1: the linear layer of this hardware) and matmul.

Derivatives never transpose at run time: matmul has its flags, and conv's backward weight is the
transpose of a parameter, which MIL emission bakes into the weight file already transposed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..graph import SWAP, baked
from ..op import Array, Attrs, Const, Mil, Op, apply, each, register, shapes
from ..tensor import Shape, ShapeError, Tensor
from .movement import transpose


def _conv_shape(xs: Sequence[Tensor], attrs: Attrs) -> Shape:
    x, w = xs
    if x.rank != 4 or w.rank != 4:
        raise ShapeError("conv", "x [B, Ci, H, S] and weight [Co, Ci, 1, 1]", shapes(xs))
    if w.shape[2:] != (1, 1):
        raise ShapeError("conv", "a 1x1 weight [Co, Ci, 1, 1]", list(w.shape))
    if x.shape[1] != w.shape[1]:
        hint = "weights are [out, in, 1, 1]; was this one given as [in, out]?"
        raise ShapeError("conv", f"weight [Co, {x.shape[1]}, 1, 1]", list(w.shape), hint)
    return (x.shape[0], w.shape[0], *x.shape[2:])


def _conv(xs: Sequence[Array], attrs: Attrs) -> Array:
    x, w = xs
    b, _, h, s = x.shape
    y: Array = np.matmul(w[:, :, 0, 0], x.reshape(b, x.shape[1], h * s))
    return y.reshape(b, w.shape[0], h, s)


def _conv_x(n: Tensor, dy: Tensor) -> Tensor:
    w = n.inputs[1]
    found = baked(w)
    return conv(dy, found[0] if found and found[1] else transpose(w, SWAP))


def _conv_w(n: Tensor, dy: Tensor) -> Tensor:
    hint = "differentiate first, then let a plan turn parameters into inputs"
    raise ShapeError("conv", "a parameter as the weight differentiated", repr(n.inputs[1]), hint)


def _conv_parameter(n: Tensor, dy: Tensor, i: int) -> Tensor:
    if i == 0:
        raise ShapeError("conv", "a parameter in the place of the weight only", repr(n.inputs[0]))
    return apply("weight_grad", dy, n.inputs[0])


register(
    Op(
        "conv",
        _conv_shape,
        _conv,
        each(_conv_x, _conv_w),
        _conv_parameter,
        # All six arguments, always: the ANE compiler's defaults are not to be relied on. No bias=.
        mil=Mil(
            ("x", "weight"),
            (
                Const("strides", "ints", value=(1, 1)),
                Const("pad_type", "string", value="valid"),
                Const("pad", "ints", value=(0, 0, 0, 0)),
                Const("dilations", "ints", value=(1, 1)),
                Const("groups", "int", value=1),
            ),
        ),
    )
)


def conv(x: Tensor, weight: Tensor) -> Tensor:
    """x: (B, Ci, H, S), weight: (Co, Ci, 1, 1). Returns (B, Co, H, S)."""
    return apply("conv", x, weight)


def _matrix(shape: Shape, transposed: bool) -> Shape:
    return (*shape[:-2], shape[-1], shape[-2]) if transposed else shape


def _matmul_shape(xs: Sequence[Tensor], attrs: Attrs) -> Shape:
    if min(t.rank for t in xs) < 2:
        raise ShapeError("matmul", "ranks of at least 2", shapes(xs))
    x = _matrix(xs[0].shape, attrs["transpose_x"])
    y = _matrix(xs[1].shape, attrs["transpose_y"])
    if x[-1] != y[-2]:
        got = f"{x[-1]} and {y[-2]} from {shapes(xs)}"
        hint = f"transpose_x={attrs['transpose_x']}, transpose_y={attrs['transpose_y']}"
        raise ShapeError("matmul", "equal inner sizes", got, hint)
    try:
        batch = np.broadcast_shapes(x[:-2], y[:-2])
    except ValueError:
        raise ShapeError("matmul", "leading axes that broadcast", shapes(xs)) from None
    return (*batch, x[-2], y[-1])


def _matmul(xs: Sequence[Array], attrs: Attrs) -> Array:
    x = np.swapaxes(xs[0], -1, -2) if attrs["transpose_x"] else xs[0]
    y = np.swapaxes(xs[1], -1, -2) if attrs["transpose_y"] else xs[1]
    result: Array = np.matmul(x, y)
    return result


def _matmul_x(n: Tensor, dz: Tensor) -> Tensor:
    y, ty = n.inputs[1], n.attrs["transpose_y"]
    if n.attrs["transpose_x"]:
        return matmul(y, dz, transpose_x=ty, transpose_y=True)
    return matmul(dz, y, transpose_y=not ty)


def _matmul_y(n: Tensor, dz: Tensor) -> Tensor:
    x, tx = n.inputs[0], n.attrs["transpose_x"]
    if n.attrs["transpose_y"]:
        return matmul(dz, x, transpose_x=True, transpose_y=tx)
    return matmul(x, dz, transpose_x=not tx)


register(
    Op(
        "matmul",
        _matmul_shape,
        _matmul,
        each(_matmul_x, _matmul_y),
        mil=Mil(("x", "y"), (Const("transpose_x", "bool"), Const("transpose_y", "bool"))),
    )
)


def matmul(x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    """Product over the last two axes; the leading ones broadcast."""
    return apply("matmul", x, y, transpose_x=bool(transpose_x), transpose_y=bool(transpose_y))
