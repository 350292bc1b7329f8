"""Ops that move elements without changing them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..op import Array, Attrs, Const, Mil, Op, apply, axis_of, register, shapes
from ..tensor import Shape, ShapeError, Tensor


def _ints(values: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(v) for v in values)


def _per_axis(name: str, what: str, values: Sequence[int], x: Tensor) -> tuple[int, ...]:
    if len(values) != x.rank:
        raise ShapeError(name, f"{what} with {x.rank} entries", list(values))
    return _ints(values)


# reshape, transpose


def _reshape_shape(xs: Sequence[Tensor], attrs: Attrs) -> Shape:
    shape: Shape = attrs["shape"]
    if math.prod(shape) != xs[0].size or any(d < 1 for d in shape):
        got = f"{list(shape)} from {list(xs[0].shape)}"
        raise ShapeError("reshape", f"a shape of {xs[0].size} elements", got)
    return shape


register(
    Op(
        "reshape",
        _reshape_shape,
        lambda xs, attrs: xs[0].reshape(attrs["shape"]),
        lambda y, dy, i: reshape(dy, y.inputs[0].shape),
        mil=Mil(("x",), (Const("shape", "ints"),)),
    )
)


def reshape(x: Tensor, shape: Sequence[int]) -> Tensor:
    """x with another shape, of which one entry may be -1. The same shape gives x itself."""
    wanted = _ints(shape)
    if wanted.count(-1) == 1:
        rest = -math.prod(wanted)
        if rest > 0 and x.size % rest == 0:
            wanted = tuple(x.size // rest if d == -1 else d for d in wanted)
    return x if wanted == x.shape else apply("reshape", x, shape=wanted)


def _transpose_shape(xs: Sequence[Tensor], attrs: Attrs) -> Shape:
    perm = attrs["perm"]
    if sorted(perm) != list(range(xs[0].rank)):
        raise ShapeError("transpose", f"an order of {xs[0].rank} axes", list(perm))
    return tuple(xs[0].shape[p] for p in perm)


register(
    Op(
        "transpose",
        _transpose_shape,
        lambda xs, attrs: np.transpose(xs[0], attrs["perm"]),
        lambda y, dy, i: transpose(dy, _ints(np.argsort(y.attrs["perm"]).tolist())),
        mil=Mil(("x",), (Const("perm", "ints"),)),
    )
)


def transpose(x: Tensor, perm: Sequence[int]) -> Tensor:
    return apply("transpose", x, perm=_ints(perm))


def expand_dims(x: Tensor, axes: Sequence[int]) -> Tensor:
    """x with new axes of size 1; axes count in the result."""
    return apply("expand_dims", x, axes=_new_axes(x, axes))


def _new_axes(x: Tensor, axes: Sequence[int]) -> tuple[int, ...]:
    rank = x.rank + len(axes)
    return tuple(sorted(axis_of("expand_dims", a, rank) for a in axes))


def squeeze(x: Tensor, axes: Sequence[int]) -> Tensor:
    """x without these axes, each of size 1."""
    return apply("squeeze", x, axes=tuple(sorted(axis_of("squeeze", a, x.rank) for a in axes)))


def _squeeze_shape(xs: Sequence[Tensor], attrs: Attrs) -> Shape:
    axes, shape = attrs["axes"], xs[0].shape
    if any(shape[a] != 1 for a in axes):
        raise ShapeError("squeeze", "axes of size 1", f"axes {list(axes)} of {list(shape)}")
    return tuple(d for i, d in enumerate(shape) if i not in axes)


def _expand_dims_shape(xs: Sequence[Tensor], attrs: Attrs) -> Shape:
    sizes = iter(xs[0].shape)
    rank = xs[0].rank + len(attrs["axes"])
    return tuple(1 if i in attrs["axes"] else next(sizes) for i in range(rank))


register(
    Op(
        "expand_dims",
        _expand_dims_shape,
        lambda xs, attrs: np.expand_dims(xs[0], attrs["axes"]),
        lambda y, dy, i: reshape(dy, y.inputs[0].shape),
        mil=Mil(("x",), (Const("axes", "ints"),)),
    )
)
register(
    Op(
        "squeeze",
        _squeeze_shape,
        lambda xs, attrs: np.squeeze(xs[0], attrs["axes"]),
        lambda y, dy, i: reshape(dy, y.inputs[0].shape),
        mil=Mil(("x",), (Const("axes", "ints"),)),
    )
)


# concat, slices, pad


def _concat_shape(xs: Sequence[Tensor], attrs: Attrs) -> Shape:
    axis, first = attrs["axis"], xs[0].shape
    for t in xs:
        if t.rank != len(first) or any(
            a != b for i, (a, b) in enumerate(zip(first, t.shape, strict=True)) if i != axis
        ):
            raise ShapeError("concat", f"shapes equal but for axis {axis}", shapes(xs))
    total = sum(t.shape[axis] for t in xs)
    return (*first[:axis], total, *first[axis + 1 :])


def _concat_grad(y: Tensor, dy: Tensor, i: int) -> Tensor:
    axis = y.attrs["axis"]
    begin = [0] * y.rank
    begin[axis] = sum(t.shape[axis] for t in y.inputs[:i])
    return slice_by_size(dy, begin, y.inputs[i].shape)


register(
    Op(
        "concat",
        _concat_shape,
        lambda xs, attrs: np.concatenate(xs, axis=attrs["axis"]),
        _concat_grad,
        mil=Mil(
            ("values",), (Const("axis", "int"), Const("interleave", "bool", value=False)), True
        ),
    )
)


def concat(values: Sequence[Tensor], axis: int) -> Tensor:
    if not values:
        raise ShapeError("concat", "at least one tensor", "none")
    return apply("concat", *values, axis=axis_of("concat", axis, values[0].rank))


def _slice_size_shape(xs: Sequence[Tensor], attrs: Attrs) -> Shape:
    x, begin, size = xs[0], attrs["begin"], attrs["size"]
    for b, s, d in zip(begin, size, x.shape, strict=True):
        if b < 0 or s < 1 or b + s > d:
            got = f"begin {list(begin)}, size {list(size)}"
            raise ShapeError("slice_by_size", f"a part of {list(x.shape)}", got)
    return tuple(size)


def _slice_size(xs: Sequence[Array], attrs: Attrs) -> Array:
    pairs = zip(attrs["begin"], attrs["size"], strict=True)
    return xs[0][tuple(slice(b, b + s) for b, s in pairs)]


def _outside(x: Tensor, begin: Shape, size: Shape) -> tuple[int, ...]:
    triples = zip(x.shape, begin, size, strict=True)
    return tuple(v for d, b, s in triples for v in (b, d - b - s))


register(
    Op(
        "slice_by_size",
        _slice_size_shape,
        _slice_size,
        lambda y, dy, i: pad(dy, _outside(y.inputs[0], y.attrs["begin"], y.attrs["size"])),
        mil=Mil(("x",), (Const("begin", "ints"), Const("size", "ints"))),
    )
)


def slice_by_size(x: Tensor, begin: Sequence[int], size: Sequence[int]) -> Tensor:
    """size entries of -1 mean up to the end."""
    start = _per_axis("slice_by_size", "begin", begin, x)
    wanted = _per_axis("slice_by_size", "size", size, x)
    whole = zip(wanted, start, x.shape, strict=True)
    return apply(
        "slice_by_size", x, begin=start, size=tuple(d - b if s == -1 else s for s, b, d in whole)
    )


def _slice_index_shape(xs: Sequence[Tensor], attrs: Attrs) -> Shape:
    x, begin, end, stride = xs[0], attrs["begin"], attrs["end"], attrs["stride"]
    for b, e, s, d in zip(begin, end, stride, x.shape, strict=True):
        if not 0 <= b < e <= d or s < 1:
            got = f"begin {list(begin)}, end {list(end)}, stride {list(stride)}"
            raise ShapeError("slice_by_index", f"a part of {list(x.shape)}", got)
    return tuple(-(-(e - b) // s) for b, e, s in zip(begin, end, stride, strict=True))


def _slice_index(xs: Sequence[Array], attrs: Attrs) -> Array:
    triples = zip(attrs["begin"], attrs["end"], attrs["stride"], strict=True)
    return xs[0][tuple(slice(*t) for t in triples)]


def _slice_index_grad(y: Tensor, dy: Tensor, i: int) -> Tensor:
    if any(s != 1 for s in y.attrs["stride"]):
        hint = "reshape, then slice_by_size"
        raise ShapeError("slice_by_index", "stride 1 under a derivative", y.attrs["stride"], hint)
    return pad(dy, _outside(y.inputs[0], y.attrs["begin"], y.shape))


register(
    Op(
        "slice_by_index",
        _slice_index_shape,
        _slice_index,
        _slice_index_grad,
        mil=Mil(("x",), (Const("begin", "ints"), Const("end", "ints"), Const("stride", "ints"))),
    )
)


def slice_by_index(
    x: Tensor, begin: Sequence[int], end: Sequence[int], stride: Sequence[int] | None = None
) -> Tensor:
    """x[begin:end:stride] on every axis; begin and end may count from the end (-1 is the last)."""
    name = "slice_by_index"
    starts = zip(_per_axis(name, "begin", begin, x), x.shape, strict=True)
    ends = zip(_per_axis(name, "end", end, x), x.shape, strict=True)
    return apply(
        name,
        x,
        begin=tuple(b + d if b < 0 else b for b, d in starts),
        end=tuple(e + d if e < 0 else e for e, d in ends),
        stride=_per_axis(name, "stride", stride or [1] * x.rank, x),
    )


def split(x: Tensor, sizes: int | Sequence[int], axis: int) -> list[Tensor]:
    """Parts of x along one axis: `sizes` equal parts, or parts of these sizes.

    Made of slice_by_size: MIL's own split has several results, and some chips refuse it beside
    matmul, softmax and tile.
    """
    axis = axis_of("split", axis, x.rank)
    if isinstance(sizes, int):
        if sizes < 1 or x.shape[axis] % sizes:
            raise ShapeError("split", f"a divisor of {x.shape[axis]}", sizes)
        sizes = [x.shape[axis] // sizes] * sizes
    if sum(sizes) != x.shape[axis]:
        raise ShapeError("split", f"sizes that sum to {x.shape[axis]}", list(sizes))
    parts, begin = [], [0] * x.rank
    for n in sizes:
        parts.append(slice_by_size(x, begin, [*x.shape[:axis], n, *x.shape[axis + 1 :]]))
        begin[axis] += n
    return parts


def _pad_shape(xs: Sequence[Tensor], attrs: Attrs) -> Shape:
    p = attrs["pad"]
    if len(p) != 2 * xs[0].rank or min(p, default=0) < 0:
        raise ShapeError("pad", f"before and after for each of {xs[0].rank} axes", list(p))
    return tuple(d + p[2 * i] + p[2 * i + 1] for i, d in enumerate(xs[0].shape))


def _pairs(p: Sequence[int]) -> list[tuple[int, int]]:
    return [(p[i], p[i + 1]) for i in range(0, len(p), 2)]


register(
    Op(
        "pad",
        _pad_shape,
        lambda xs, attrs: np.pad(xs[0], _pairs(attrs["pad"]), constant_values=attrs["value"]),
        lambda y, dy, i: slice_by_size(dy, y.attrs["pad"][::2], y.inputs[0].shape),
        mil=Mil(
            ("x",),
            (
                Const("pad", "ints"),
                Const("mode", "string", value="constant"),
                Const("constant_val", "float", attr="value"),
            ),
        ),
    )
)


def pad(x: Tensor, pad: Sequence[int], value: float = 0.0) -> Tensor:
    """pad: (before, after) of every axis in turn."""
    return apply("pad", x, pad=_ints(pad), value=float(value))


# tile


def _tile_shape(xs: Sequence[Tensor], attrs: Attrs) -> Shape:
    reps = attrs["reps"]
    if len(reps) != xs[0].rank or any(r < 1 for r in reps):
        raise ShapeError("tile", f"{xs[0].rank} positive repeats", list(reps))
    return tuple(d * r for d, r in zip(xs[0].shape, reps, strict=True))


def _tile_grad(y: Tensor, dy: Tensor, i: int) -> Tensor:
    """Sum over the repeats, one axis at a time so that ranks stay within 5."""
    x = y.inputs[0]
    for axis, r in enumerate(y.attrs["reps"]):
        if r == 1:
            continue
        before, d, after = dy.shape[:axis], x.shape[axis], dy.shape[axis + 1 :]
        if d == 1:
            dy = apply("reduce_sum", dy, axes=(axis,), keep_dims=True)
            continue
        runs = reshape(dy, (math.prod(before), r, d, math.prod(after)))
        summed = apply("reduce_sum", runs, axes=(1,), keep_dims=True)
        dy = reshape(summed, (*before, d, *after))
    return dy


register(
    Op(
        "tile",
        _tile_shape,
        lambda xs, attrs: np.tile(xs[0], attrs["reps"]),
        _tile_grad,
        mil=Mil(("x",), (Const("reps", "ints"),)),
    )
)


def tile(x: Tensor, reps: Sequence[int]) -> Tensor:
    return apply("tile", x, reps=_ints(reps))


def broadcast_to(x: Tensor, shape: Shape) -> Tensor:
    """x repeated up to shape, of the same rank."""
    reps = tuple(d // n for n, d in zip(x.shape, shape, strict=True))
    return x if x.shape == shape else tile(x, reps)
