"""Reductions and softmax. Axes are stored non-negative and sorted, so equal ops look equal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..op import Array, Attrs, Const, Mil, Op, apply, axis_of, register
from ..tensor import Shape, ShapeError, Tensor
from .elementwise import positive
from .movement import broadcast_to, reshape

_MIL = Mil(("x",), (Const("axes", "ints", last=True), Const("keep_dims", "bool")))


def _shape(xs: Sequence[Tensor], attrs: Attrs) -> Shape:
    axes, shape = attrs["axes"], xs[0].shape
    if attrs["keep_dims"]:
        return tuple(1 if i in axes else d for i, d in enumerate(shape))
    return tuple(d for i, d in enumerate(shape) if i not in axes)


def _kept(node: Tensor, t: Tensor) -> Tensor:
    """t reshaped to node's result, with the reduced axes as size 1."""
    axes = node.attrs["axes"]
    return reshape(t, tuple(1 if i in axes else d for i, d in enumerate(node.inputs[0].shape)))


def _count(node: Tensor) -> int:
    return node.inputs[0].size // node.size


def _spread(node: Tensor, dy: Tensor) -> Tensor:
    return broadcast_to(_kept(node, dy), node.inputs[0].shape)


def _max_rule(node: Tensor, dy: Tensor, i: int) -> Tensor:
    below = positive(_kept(node, node) - node.inputs[0])
    return _kept(node, dy) * (1.0 - below)


def _reduction(
    name: str, f: Callable[..., Array], grad: Callable[[Tensor, Tensor, int], Tensor]
) -> None:
    def meaning(xs: Sequence[Array], attrs: Attrs) -> Array:
        result: Array = f(xs[0], axis=attrs["axes"], keepdims=attrs["keep_dims"])
        return result

    register(Op(name, _shape, meaning, grad, mil=_MIL))


_reduction("reduce_sum", np.sum, lambda n, dy, i: _spread(n, dy))
_reduction("reduce_mean", np.mean, lambda n, dy, i: _spread(n, dy * (1.0 / _count(n))))
_reduction("reduce_max", np.max, _max_rule)


def _reduce(name: str, x: Tensor, axes: int | Sequence[int], keep_dims: bool) -> Tensor:
    wanted = [axes] if isinstance(axes, int) else list(axes)
    found = sorted({axis_of(name, a, x.rank) for a in wanted})
    if not found or len(found) != len(wanted):
        raise ShapeError(name, "different axes, at least one", wanted)
    return apply(name, x, axes=tuple(found), keep_dims=bool(keep_dims))


def reduce_sum(x: Tensor, axes: int | Sequence[int], keep_dims: bool = True) -> Tensor:
    return _reduce("reduce_sum", x, axes, keep_dims)


def reduce_mean(x: Tensor, axes: int | Sequence[int], keep_dims: bool = True) -> Tensor:
    return _reduce("reduce_mean", x, axes, keep_dims)


def reduce_max(x: Tensor, axes: int | Sequence[int], keep_dims: bool = True) -> Tensor:
    """The maximum over axes. If several elements are the largest, each gets the whole gradient."""
    return _reduce("reduce_max", x, axes, keep_dims)


def _softmax(xs: Sequence[Array], attrs: Attrs) -> Array:
    x, axis = xs[0], attrs["axis"]
    e: Any = np.exp(x - x.max(axis=axis, keepdims=True))
    result: Array = e / e.sum(axis=axis, keepdims=True)
    return result


def _softmax_grad(y: Tensor, dy: Tensor, i: int) -> Tensor:
    return y * (dy - reduce_sum(dy * y, y.attrs["axis"]))


register(
    Op(
        "softmax",
        lambda xs, attrs: xs[0].shape,
        _softmax,
        _softmax_grad,
        mil=Mil(("x",), (Const("axis", "int", last=True),)),
    )
)


def softmax(x: Tensor, axis: int = -1) -> Tensor:
    return apply("softmax", x, axis=axis_of("softmax", axis, x.rank))
