"""fp16 conversion against NumPy: all halves, every rounding boundary, any length and alignment."""

from __future__ import annotations

import os
import platform

import numpy as np
import pytest

from anefast import _C

HALVES = np.arange(65536, dtype=np.uint32).astype(np.uint16).view(np.float16)


def narrow(x: np.ndarray) -> np.ndarray:
    out = np.empty(x.shape, np.float16)
    _C.half_from_floats(np.ascontiguousarray(x, np.float32), out)
    return out


def by_numpy(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", under="ignore"):
        return x.astype(np.float16)


def assert_same(got: np.ndarray, want: np.ndarray) -> None:
    """Bit for bit, except that any NaN is as good as another of its sign."""
    nan = np.isnan(want)
    assert np.array_equal(np.isnan(got), nan)
    bits = np.uint16 if got.dtype == np.float16 else np.uint32
    assert np.array_equal(got.view(bits)[~nan], want.view(bits)[~nan])
    assert np.array_equal(np.signbit(got), np.signbit(want))


def test_every_half_widens_and_returns() -> None:
    wide = np.empty(65536, np.float32)
    _C.half_to_floats(HALVES, wide)
    with np.errstate(invalid="ignore"):
        assert_same(wide, HALVES.astype(np.float32))
    assert not np.any((wide.view(np.uint32) & 0x7FC00000 == 0x7F800000) & np.isnan(wide))  # quiet
    assert_same(narrow(wide), HALVES)


def test_every_midpoint_and_its_neighbours() -> None:
    finite = np.sort(HALVES[np.isfinite(HALVES)].astype(np.float64))
    middles = np.append((finite[:-1] + finite[1:]) / 2, [65520.0, -65520.0]).astype(np.float32)
    up, down = np.nextafter(middles, np.float32(np.inf)), np.nextafter(middles, np.float32(-np.inf))
    for x in (middles, up, down, finite.astype(np.float32)):
        assert_same(narrow(x), by_numpy(x))


def test_random_bits() -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 1_000_000, dtype=np.uint64).astype(np.uint32)
    assert_same(narrow(bits.view(np.float32)), by_numpy(bits.view(np.float32)))


def test_lengths_and_alignments() -> None:
    """Nothing beside the array is touched, wherever it begins and ends."""
    x = np.random.default_rng(1).standard_normal(200).astype(np.float32)
    for start in range(0, 9):
        for n in range(0, 70):
            out = np.full(200, 7, np.float16)
            _C.half_from_floats(x[start : start + n], out[start : start + n])
            assert np.array_equal(out[start : start + n], x[start : start + n].astype(np.float16))
            assert np.all(out[:start] == 7) and np.all(out[start + n :] == 7)
            wide = np.full(200, 7, np.float32)
            _C.half_to_floats(out[start : start + n], wide[start : start + n])
            assert np.array_equal(
                wide[start : start + n], out[start : start + n].astype(np.float32)
            )
            assert np.all(wide[:start] == 7) and np.all(wide[start + n :] == 7)


SHAPES = [(1, 1), (3, 5), (8, 8), (32, 64), (31, 65), (64, 128), (100, 200), (0, 4), (257, 63)]


@pytest.mark.parametrize("shape", SHAPES)
def test_transposed(shape: tuple[int, int]) -> None:
    x = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    out = np.empty(shape[::-1], np.float16)
    _C.half_from_floats_transposed(x, out)
    assert np.array_equal(out, x.T.astype(np.float16))
    back = np.empty(shape, np.float32)
    _C.half_to_floats_transposed(out, back)
    assert np.array_equal(back, out.T.astype(np.float32))


@pytest.mark.parametrize("shape", SHAPES)
def test_strided_rows(shape: tuple[int, int]) -> None:
    """Rows of a wider array, as a surface whose rows are padded to 64 bytes; the padding stays."""
    rows, columns = shape
    x = np.random.default_rng(3).standard_normal((rows, columns + 3)).astype(np.float32)
    room = np.full((rows, columns + 5), 7, np.float16)
    _C.half_from_floats(x[:, 1 : columns + 1], room[:, 2 : columns + 2])
    assert np.array_equal(room[:, 2 : columns + 2], x[:, 1 : columns + 1].astype(np.float16))
    assert np.all(room[:, :2] == 7) and np.all(room[:, columns + 2 :] == 7)
    wide = np.full((rows, columns + 4), 7, np.float32)
    _C.half_to_floats(room[:, 2 : columns + 2], wide[:, 4:])
    assert np.array_equal(wide[:, 4:], room[:, 2 : columns + 2].astype(np.float32))
    assert np.all(wide[:, :4] == 7)
    turned = np.full((columns, rows + 2), 7, np.float16)
    _C.half_from_floats_transposed(x[:, :columns], turned[:, 1 : rows + 1])
    assert np.array_equal(turned[:, 1 : rows + 1], x[:, :columns].T.astype(np.float16))
    assert np.all(turned[:, 0] == 7) and np.all(turned[:, -1] == 7)


def test_what_does_not_fit_is_refused() -> None:
    x, h = np.zeros((4, 6), np.float32), np.zeros((4, 6), np.float16)
    for bad in (h[:, ::2], h[::-1], h[:, :5], np.zeros((4, 6), np.float32)):
        with pytest.raises(ValueError, match=r"\[half_from_floats\] expected"):
            _C.half_from_floats(x, bad)
    with pytest.raises(ValueError, match="transposed shape"):
        _C.half_from_floats_transposed(x, h)
    with pytest.raises(ValueError, match="writable"):
        h.setflags(write=False)
        _C.half_from_floats(x, h)


def test_isa_is_named() -> None:
    isa = _C.half_isa()
    assert isa in ("AVX-512", "F16C", "NEON", "portable")
    if platform.machine() in ("arm64", "aarch64") and not os.environ.get("ANEFAST_ISA"):
        assert isa == "NEON"
