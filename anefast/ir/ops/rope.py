"""Rotary position embedding, in llama2.c's order: channels 2i and 2i + 1 are the pair i.

Three ways to write it in simple ops, for no program of another project has the first, and a chip
may refuse any of them. All give the same bytes, but that `conv` makes +0 of -0, and of an infinity
NaN in its whole column:
    slices: pairs on axis 2, sliced apart and put together by concat.
    axis3: the same on axis 3, behind a transpose, as maderix/ANE's dynamic trainer does.
    conv: the neighbour of each channel, negated where it is the odd one, by a convolution with
        a matrix of 0, 1 and -1, as ncdrone/rustane does by matmul. Neither slices nor concat.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from ..op import Array, Attrs, Op, apply, register
from ..tensor import Shape, ShapeError, Tensor, constant
from .movement import concat, reshape, slice_by_size, tile, transpose
from .product import conv

RopeForm = Literal["slices", "axis3", "conv"]
SWAP = (0, 1, 3, 2)


def _shape(xs: Sequence[Tensor], attrs: Attrs) -> Shape:
    x, cos, sin = xs
    if x.rank != 4 or x.shape[1] % 2 or x.shape[2] != 1:
        raise ShapeError("rope", "x [B, H*D, 1, S] with an even number of channels", list(x.shape))
    table = (1, x.shape[1] // 2, 1, x.shape[3])
    for t in (cos, sin):
        if t.shape != table:
            hint = "one row per pair of channels, all heads: tile the table of one head"
            raise ShapeError("rope", f"cos and sin {list(table)}", list(t.shape), hint)
    return x.shape


def _rope(xs: Sequence[Array], attrs: Attrs) -> Array:
    x, cos, sin = xs
    e, o = x[:, 0::2], x[:, 1::2]
    y = np.empty_like(x)
    y[:, 0::2] = e * cos - o * sin
    y[:, 1::2] = e * sin + o * cos
    return y


def _grad(y: Tensor, dy: Tensor, i: int) -> Tensor:
    if i != 0:
        raise ShapeError("rope", "cos and sin that are not differentiated", repr(y.inputs[i]))
    return rope(dy, y.inputs[1], -y.inputs[2], y.attrs["form"])


def _by_slices(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    b, c, _, s = x.shape
    pairs = reshape(x, (b, c // 2, 2, s))
    e = slice_by_size(pairs, (0, 0, 0, 0), (b, c // 2, 1, s))
    o = slice_by_size(pairs, (0, 0, 1, 0), (b, c // 2, 1, s))
    return reshape(concat([e * cos - o * sin, e * sin + o * cos], 2), (b, c, 1, s))


def _on_axis_3(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    b, c, _, s = x.shape
    pairs = transpose(reshape(x, (b, c // 2, 2, s)), SWAP)
    e = slice_by_size(pairs, (0, 0, 0, 0), (b, c // 2, s, 1))
    o = slice_by_size(pairs, (0, 0, 0, 1), (b, c // 2, s, 1))
    cos, sin = (reshape(t, (1, c // 2, s, 1)) for t in (cos, sin))
    turned = concat([e * cos - o * sin, e * sin + o * cos], 3)
    return reshape(transpose(turned, SWAP), (b, c, 1, s))


def _by_conv(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    _, c, _, s = x.shape
    neighbour = np.zeros((c, c, 1, 1), np.float16)
    even = np.arange(0, c, 2)
    neighbour[even, even + 1] = -1
    neighbour[even + 1, even] = 1
    both = (reshape(tile(t, (1, 1, 2, 1)), (1, c, 1, s))
            for t in (cos, sin))  # fmt: skip
    cos, sin = both
    return x * cos + conv(x, constant(neighbour, name=f"rope.neighbour.{c}")) * sin


FORMS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "slices": _by_slices,
    "axis3": _on_axis_3,
    "conv": _by_conv,
}

register(Op("rope", _shape, _rope, _grad, expand=lambda y: FORMS[y.attrs["form"]](*y.inputs)))


def rope(x: Tensor, cos: Tensor, sin: Tensor, form: RopeForm = "slices") -> Tensor:
    """Turns each pair of channels by its angle. x: (B, H*D, 1, S); cos, sin: (1, H*D/2, 1, S)."""
    return apply("rope", x, cos, sin, form=form)
