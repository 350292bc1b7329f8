"""Operations that only move elements, and the plan that makes most of them free."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from anefast import _C

from .host_programs import In, Name, Text, run, run_op


@pytest.fixture(scope="module")
def host() -> Any:
    return _C.Device("host")


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float16)


def same(got: np.ndarray, want: np.ndarray) -> None:
    assert got.dtype == want.dtype and got.shape == want.shape
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize(
    ("shape", "perm"),
    [
        ((1, 6, 48, 64), [0, 1, 3, 2]),
        ((2, 70, 1, 133), [3, 1, 2, 0]),
        ((2, 3, 4, 5), [0, 2, 1, 3]),
        ((2, 3, 4, 5, 6), [4, 0, 3, 1, 2]),
        ((1, 256, 6, 48), [0, 2, 3, 1]),
    ],
)
def test_transpose(host: Any, shape: Any, perm: list[int], dtype: Any) -> None:
    x = normal(*shape, seed=1).astype(dtype)
    want = np.ascontiguousarray(x.transpose(perm))
    same(run_op(host, "transpose", want, x=In(x), perm=perm), want)


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1])
@pytest.mark.parametrize("interleave", [False, True])
def test_concat(host: Any, axis: int, interleave: bool) -> None:
    parts = [normal(2, 3, 4, 33, seed=i) for i in range(3)]
    if interleave:
        want = np.stack(parts, axis % 4 + 1).reshape(np.concatenate(parts, axis).shape)
    else:
        parts[1] = np.take(parts[1], [0], axis)
        want = np.concatenate(parts, axis)
    values = tuple(map(In, parts))
    same(run_op(host, "concat", want, values=values, axis=axis, interleave=interleave), want)


@pytest.mark.parametrize(
    ("begin", "size"),
    [([0, 2, 0, 0], [2, 5, 1, 70]), ([1, 3, 0, 0], [1, 4, 1, 70]), ([0, 0, 0, 5], [2, -1, 1, 64])],
)
def test_slice_by_size(host: Any, begin: list[int], size: list[int]) -> None:
    x = normal(2, 9, 1, 70, seed=2)
    ends = [b + s if s >= 0 else n for b, s, n in zip(begin, size, x.shape, strict=True)]
    want = x[tuple(slice(b, e) for b, e in zip(begin, ends, strict=True))]
    same(run_op(host, "slice_by_size", want, x=In(x), begin=begin, size=size), want)


@pytest.mark.parametrize(
    ("index", "arguments"),
    [
        (np.s_[:, 1:8:3], dict(begin=[0, 1, 0, 0], end=[2, 8, 1, 70], stride=[1, 3, 1, 1])),
        (np.s_[..., ::2], dict(begin=[0, 0, 0, 0], end=[2, 9, 1, 70], stride=[1, 1, 1, 2])),
        (np.s_[..., 1::2], dict(begin=[0, 0, 0, 1], end=[2, 9, 1, 70], stride=[1, 1, 1, 2])),
        (np.s_[1:, :, :, :-3], dict(begin=[1, 0, 0, 0], end=[2, 9, 1, -3])),
        (
            np.s_[:, ::-1],
            dict(
                begin=[0, 0, 0, 0],
                end=[0, 0, 0, 0],
                stride=[1, -1, 1, 1],
                begin_mask=[True] * 4,
                end_mask=[True] * 4,
            ),
        ),
    ],
    ids=str,
)
def test_slice_by_index(host: Any, index: Any, arguments: Any) -> None:
    x = normal(2, 9, 1, 70, seed=3)
    want = np.ascontiguousarray(x[index])
    same(run_op(host, "slice_by_index", want, x=In(x), **arguments), want)


@pytest.mark.parametrize("axis", [1, 3])
@pytest.mark.parametrize("batch", [1, 2])
def test_split(host: Any, axis: int, batch: int) -> None:
    x = normal(batch, 6, 1, 96, seed=4)
    want = np.split(x, 3, axis)
    for got, w in zip(
        run_op(host, "split", want, x=In(x), num_splits=3, axis=axis), want, strict=True
    ):
        same(got, w)
    n = x.shape[axis]
    want = np.split(x, [n // 3], axis)
    got = run_op(host, "split", want, x=In(x), split_sizes=[n // 3, n - n // 3], axis=axis)
    for g, w in zip(got, want, strict=True):
        same(g, w)


def test_tile_pad_gather(host: Any) -> None:
    x = normal(2, 5, 3, 33, seed=5)
    want = np.tile(x, (1, 2, 1, 3))
    same(run_op(host, "tile", want, x=In(x), reps=[1, 2, 1, 3]), want)
    want = np.pad(x, ((0, 0), (1, 0), (0, 2), (3, 4)), constant_values=np.float16(1.5))
    got = run_op(
        host, "pad", want, x=In(x), pad=[0, 0, 1, 0, 0, 2, 3, 4], mode="constant",
        constant_val=np.float16(1.5),
    )  # fmt: skip
    same(got, want)
    indices = np.array([4, 0, 0, 2], np.int32)
    want = np.take(x, indices, 1)
    same(run_op(host, "gather", want, x=In(x), indices=indices, axis=1), want)


def test_views_of_views_reach_the_outputs(host: Any) -> None:
    """reshape, slices, split and concat chained: all views or in place, and outputs of them too."""
    x = normal(1, 8, 1, 64, seed=6)
    t = Text(a=x)
    y = t.op("square", x, x=Name("a"))
    half = t.op("slice_by_size", x[:, :4], x=y, begin=[0, 0, 0, 0], size=[1, 4, 1, 64])
    rest = t.op("slice_by_size", x[:, 4:], x=y, begin=[0, 4, 0, 0], size=[1, 4, 1, 64])
    flat = t.op("reshape", x[:, :4].reshape(1, 2, 2, 64), x=half, shape=[1, 2, 2, 64])
    back = t.op("reshape", x[:, :4], x=flat, shape=[1, 4, 1, 64])
    doubled = t.op("add", x[:, :4], x=back, y=rest)
    joined = t.op(
        "concat", np.tile(x, (1, 2, 1, 1)), values=(doubled, y, doubled), axis=1, interleave=False
    )
    again = t.op("identity", np.tile(x, (1, 2, 1, 1)), x=joined)
    got = run(host, t.program([flat, again, rest, y]), {}, {"a": x})
    s = np.square(x.astype(np.float32)).astype(np.float16)
    d = s[:, :4] + s[:, 4:]
    same(got[flat], s[:, :4].reshape(1, 2, 2, 64))
    same(got[again], np.concatenate([d, s, d], 1))
    same(got[rest], s[:, 4:])
    same(got[y], s)


def test_inputs_and_constants_as_outputs(host: Any) -> None:
    x, c = normal(1, 3, 1, 40, seed=7), normal(1, 3, 1, 40, seed=8)
    t = Text(a=x)
    i = t.op("identity", x, x=Name("a"))
    k = t.op("identity", c, x=c)
    got = run(host, t.program([i, k]), t.blobs, {"a": x})
    same(got[i], x)
    same(got[k], c)


@pytest.mark.parametrize("seed", range(12))
def test_random_graphs_keep_every_value_they_still_need(host: Any, seed: int) -> None:
    """Liveness: random programs, planned, against an interpreter that keeps everything."""
    rng = np.random.default_rng(seed)
    width = int(rng.choice([32, 33, 64]))
    x = normal(1, 8, 1, width, seed=seed)
    t = Text(a=x)
    values: list[tuple[str, np.ndarray]] = [(Name("a"), x)]

    def pick() -> tuple[str, np.ndarray]:
        return values[rng.integers(max(0, len(values) - 6), len(values))]

    for _ in range(60):
        (p, a), (q, b) = pick(), pick()
        choice = rng.integers(6)
        if choice < 2 and a.shape == b.shape:
            want = (a.astype(np.float32) + b.astype(np.float32)).astype(np.float16)
            values.append((t.op("add", want, x=p, y=q), want))
        elif choice == 2:
            want = np.maximum(a, np.float16(0))
            values.append((t.op("relu", want, x=p), want))
        elif choice == 3 and a.shape[1] + b.shape[1] <= 24:
            want = np.concatenate([a, b], 1)
            values.append((t.op("concat", want, values=(p, q), axis=1, interleave=False), want))
        elif choice == 4 and a.shape[1] > 8:
            begin = int(rng.integers(0, a.shape[1] - 7))
            want = a[:, begin : begin + 8]
            size = [1, 8, 1, width]
            values.append(
                (t.op("slice_by_size", want, x=p, begin=[0, begin, 0, 0], size=size), want)
            )
        else:
            want = (a.astype(np.float32) * np.float32(0.5)).astype(np.float16)
            values.append((t.op("mul", want, x=p, y=np.float16(0.5)), want))
    kept = {n: v for n, v in [values[i] for i in rng.integers(1, len(values), 5)]} | dict(
        values[-2:]
    )
    got = run(host, t.program(list(kept)), t.blobs, {"a": x})
    for name, want in kept.items():
        same(got[name], want)
