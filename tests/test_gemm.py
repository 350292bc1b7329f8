"""The matrix product against its reference, to the byte: layouts, types, odd sizes, thread counts.

The numbers themselves (is a chain of fused multiply-adds what we think it is?) are judged once, in
exact arithmetic. Speed is benchmarks/bench_gemm.py.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

_C = pytest.importorskip("anefast._C", reason="the native module is not built")

Array = npt.NDArray[Any]

# Nothing here divides the tiles evenly, save where it does on purpose.
SIZES = [
    (1, 1, 1),
    (6, 16, 1),
    (7, 17, 9),
    (5, 130, 3),
    (64, 128, 64),
    (172, 128, 64),
    (128, 128, 8),
    (33, 31, 400),
    (288, 256, 288),
    (97, 259, 771),
    (3, 40, 2500),
    (300, 20, 2049),
]
HALF, SINGLE = np.float16, np.float32


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = _C.threads()
    yield
    _C.set_threads(before)


def matrix(
    rng: np.random.Generator, rows: int, columns: int, dtype: Any, transposed: bool
) -> Array:
    """(rows, columns), stored row by row or column by column."""
    shape = (columns, rows) if transposed else (rows, columns)
    x: Array = rng.standard_normal(shape).astype(dtype)
    return x.T if transposed else x


@pytest.mark.parametrize("m,n,k", SIZES)
def test_bytes_are_the_references(m: int, n: int, k: int) -> None:
    rng = np.random.default_rng(m * n + k)
    types = [
        (HALF, HALF, HALF),
        (HALF, HALF, SINGLE),
        (SINGLE, SINGLE, SINGLE),
        (SINGLE, HALF, HALF),
    ]
    for (ta, tb, tc), a_turned, b_turned in product(types, (False, True), (False, True)):
        a = matrix(rng, m, k, ta, a_turned)
        b = matrix(rng, k, n, tb, b_turned)
        start = rng.standard_normal((m, n + 3)).astype(tc)
        for accumulate in (False, True) if tc is SINGLE else (False,):
            want = start.copy()
            _C.gemm(a, b, want[:, :n], accumulate, reference=True)
            for count in (1, 2, 3):
                _C.set_threads(count)
                got = start.copy()
                _C.gemm(a, b, got[:, :n], accumulate)
                said = f"{ta=} {tb=} {tc=} {a_turned=} {b_turned=} {accumulate=} {count=}"
                assert got.tobytes() == want.tobytes(), said  # the three columns beside it too


@pytest.mark.parametrize("a_turned", [False, True])
def test_every_narrow_tile(a_turned: bool) -> None:
    """Tiles lose rows and vectors of columns at the edges of C; nothing beside C is touched."""
    rng = np.random.default_rng(6)
    for m, n in product(range(1, 18), range(1, 98)):
        a, b = matrix(rng, m, 5, HALF, a_turned), matrix(rng, 5, n, HALF, False)
        start = rng.standard_normal((m + 1, n + 1)).astype(SINGLE)
        got, want = start.copy(), start.copy()
        _C.gemm(a, b, want[:m, :n], True, reference=True)
        _C.gemm(a, b, got[:m, :n], True)
        assert got.tobytes() == want.tobytes(), (m, n)


def test_any_strides() -> None:
    rng = np.random.default_rng(5)
    a = rng.standard_normal((40, 60)).astype(SINGLE)[::2, ::3]
    b = rng.standard_normal((40, 66)).astype(HALF)[::2, ::2]
    got, want = np.empty((20, 33), SINGLE), np.empty((20, 33), SINGLE)
    _C.gemm(a, b, got)
    _C.gemm(a, b, want, reference=True)
    assert got.tobytes() == want.tobytes()


def test_no_inner_dimension_writes_zero_or_keeps() -> None:
    a, b = np.empty((5, 0), SINGLE), np.empty((0, 7), SINGLE)
    out = np.ones((5, 7), SINGLE)
    _C.gemm(a, b, out, True)
    assert (out == 1).all()
    _C.gemm(a, b, out)
    assert (out == 0).all()


def test_the_chain_is_fused_and_ordered() -> None:
    """In exact arithmetic: sum = round(sum + a b) for k ascending, nothing rounded in between."""
    rng = np.random.default_rng(7)
    k = 300
    a, b = rng.standard_normal((1, k)).astype(SINGLE), rng.standard_normal((k, 1)).astype(SINGLE)
    total = np.float32(0)
    for x, y in zip(a[0], b[:, 0], strict=True):
        total = nearest(Fraction(float(x)) * Fraction(float(y)) + Fraction(float(total)))
    for reference in (False, True):
        out = np.zeros((1, 1), SINGLE)
        _C.gemm(a, b, out, reference=reference)
        assert out[0, 0] == total


def nearest(x: Fraction) -> np.float32:
    """The fp32 nearest to x, ties to even: by comparing neighbours exactly."""
    near = np.float32(float(x))  # within one step
    around = [np.nextafter(near, np.float32(s), dtype=np.float32) for s in (-np.inf, np.inf)]
    return min(
        [near, *around],
        key=lambda c: (abs(Fraction(float(c)) - x), int(c.view(np.uint32)) & 1),
    )


def test_halves_overflow_to_infinity_and_keep_subnormals() -> None:
    out = np.zeros((1, 2), HALF)
    _C.gemm(np.array([[300.0]], SINGLE), np.array([[300.0, 2e-9]], SINGLE), out)
    assert np.isinf(out[0, 0]) and out[0, 1] == np.float16(6e-7)


DIGEST = """
import hashlib, numpy as np
from anefast import _C
rng, seen = np.random.default_rng(0), hashlib.sha256()
for m, n, k in [(7, 33, 50), (64, 100, 400), (13, 16, 8)]:
    for dtype in (np.float16, np.float32):
        a = rng.standard_normal((m, k)).astype(dtype)
        b = rng.standard_normal((n, k)).astype(dtype).T
        a[0, :4] *= 1e-4  # subnormal halves
        out = np.zeros((m, n), dtype)
        _C.gemm(a, b, out)
        seen.update(out.tobytes())
print(_C.gemm_isa(), seen.hexdigest(), sep="|")
"""


def test_every_instruction_set_gives_the_same_bytes() -> None:
    def run(isa: str) -> list[str]:
        env = os.environ | {"ANEFAST_ISA": isa, "ANEFAST_NUM_THREADS": "1"}
        out = subprocess.run(
            [sys.executable, "-c", DIGEST], env=env, capture_output=True, text=True, check=True
        )
        return out.stdout.strip().split("|")

    seen = dict(run(isa) for isa in ("portable", "avx2", "avx512", "neon"))
    assert "portable" in seen
    assert len(set(seen.values())) == 1, seen
    assert len(next(iter(seen.values()))) == hashlib.sha256().digest_size * 2


def test_errors_say_what_was_expected() -> None:
    a = np.zeros((2, 3), SINGLE)
    with pytest.raises(ValueError, match="gemm"):
        _C.gemm(a, a, np.zeros((2, 3), SINGLE))
    with pytest.raises(ValueError, match="accumulate"):
        _C.gemm(a, a.T, np.zeros((2, 2), HALF), True)
