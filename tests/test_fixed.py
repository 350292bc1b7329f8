"""Q15.16 products and rounding half away: published cases, then all against exact integers.

The judge is Python's own integers, written from the published rules (csrc/cpu/gemm/fixed.h names
the study) and not from the code: values are multiples of 2^-24, a factor of exponent field 31 too.
"""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest

from anefast import _C
from anefast.chips.behaviour import find_profile

from .host_programs import In, run_op

INF = np.inf
NOTHING = np.float16(0)


def value(h: np.uint16) -> tuple[Fraction, int]:
    """A half as the chip reads a factor: its value and its exponent, by which terms are dropped."""
    field, mantissa = int(h) >> 10 & 31, int(h) & 1023
    sign = -1 if int(h) >> 15 else 1
    if field == 0:
        return Fraction(sign * mantissa, 2**24), -14
    return sign * Fraction(1024 + mantissa, 1024) * Fraction(2) ** (field - 15), field - 15


def away(x: Fraction) -> int:
    """The nearest integer, halves away from zero."""
    size = int(abs(x) + Fraction(1, 2))
    return size if x >= 0 else -size


def rounded(x: Fraction) -> float:
    """The nearest fp16 number, halves away from zero; inf from 65520 on."""
    exponent = -14
    while abs(x) >= Fraction(2) ** (exponent + 1):
        exponent += 1
    unit = Fraction(2) ** (exponent - 10)
    result = away(x / unit) * unit
    return float(result) if abs(result) < 65536 else (INF if x > 0 else -INF)


def dot(a: np.ndarray, b: np.ndarray) -> float:
    total = 0  # in units of 2^-16
    for x, y in zip(a.view(np.uint16), b.view(np.uint16), strict=True):
        (u, eu), (v, ev) = value(x), value(y)
        if eu + ev > -17:
            total += away(u * v * 65536)
        if abs(total) >= 2**31:
            return float(np.copysign(INF, total))
    return rounded(Fraction(total, 65536))


def fixed(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    out = np.empty((a.shape[0], b.shape[1]), np.float16)
    _C.gemm(a, b, out, fixed=True)
    return out


T = 2.0
CASES = [  # terms as pairs of factors, and what M4 and M6 were measured to give
    ([(16384, 1), (T**-16, 1), (-16384, 1)], T**-16),
    ([(16384, 1), (T**-18, 1), (-16384, 1)], 0),
    ([(T**-17, 1)], T**-16),
    ([(1.99 * T**-3, 1.99 * T**-14)], 0),
    ([(0.125, 1.5 * T**-13)], T**-15),
    ([(0.25, 0.5 * T**-14)], T**-16),
    ([(T**-18, 1)], 0),
    ([(32752, 1)], 32752),
    ([(32768, 1)], INF),
    ([(16384, 1), (16384, 1)], INF),
    ([(16384, 1), (16384, 1), (-16384, 1), (-16384, 1), (1, 1)], INF),
    ([(16384, 1), (16376, 1)], 32768),
    ([(2048, 1), (1, 1)], 2050),
    ([(-2048, 1), (-1, 1)], -2050),
    ([(4096, 1), (2, 1)], 4100),
    ([(1, 1), (T**-11, 1)], 1 + T**-10),
    ([(2048, 1), (1, 1), (-2048, 1)], 1),
    ([(1, 1), (2048, 1), (-2048, 1)], 1),
    ([(65504, T**-4)], 4094),
    ([(-0.0, 1)], 0),
    ([(INF, T**-4)], 4096),  # exponent field 31 is an ordinary number: 2^16
    ([(np.nan, 1)], INF),
]


@pytest.mark.parametrize("chip", ["m4", "m4-max", "m6"])
@pytest.mark.parametrize("terms,wanted", CASES)
def test_published_cases(terms, wanted, chip):
    """Between terms, on the kernels and through a program of the chip."""
    a = np.array([[x for x, _ in terms]], np.float16)
    b = np.array([[y] for _, y in terms], np.float16)
    got = fixed(a, b)[0, 0]
    assert got == wanted and (wanted < 0 or not np.signbit(got))
    if np.isfinite(a).all():  # what comes in at a port is put right first
        device = _C.Device("host", find_profile(chip).options)
        more = {"transpose_x": False, "transpose_y": False}
        assert run_op(device, "matmul", got.reshape(1, 1), x=In(a), y=In(b), **more) == wanted


def test_a_nan_is_its_bits():
    nans = np.array([0x7E00, 0x7FFF], np.uint16).view(np.float16)
    scale = np.array([[T**-4]], np.float16)
    assert [fixed(n.reshape(1, 1), scale).item() for n in nans] == [1.5 * T**12, 131008 / 16]


def numbers(rng: np.random.Generator, shape: tuple[int, int], kind: str) -> np.ndarray:
    if kind == "bits":
        return rng.integers(0, 65536, shape, np.uint16).view(np.float16)
    spread = {"ordinary": (-8, 2), "tiny": (-24, -6), "large": (4, 9)}[kind]
    size = np.exp2(rng.uniform(*spread, shape)) * rng.choice([-1, 1], shape)
    return size.astype(np.float16)


@pytest.mark.parametrize("left", ["ordinary", "tiny", "large", "bits"])
@pytest.mark.parametrize("right", ["ordinary", "tiny", "large", "bits"])
def test_sums_are_exact_integers(left, right):
    """Tiles that cannot overflow, tiles that may, odd sizes, more k than a block of other paths."""
    rng = np.random.default_rng(3)
    for m, k, n in ((9, 40, 35), (1, 700, 3)):
        a, b = numbers(rng, (m, k), left), numbers(rng, (k, n), right)
        wanted = [[dot(a[i], np.ascontiguousarray(b[:, j])) for j in range(n)] for i in range(m)]
        with np.errstate(over="ignore"):
            assert fixed(a, b).tobytes() == np.array(wanted, np.float16).tobytes()


def test_layouts_threads_and_edges_give_the_bytes_of_the_reference():
    rng = np.random.default_rng(4)
    before = _C.threads()
    for m, n, k in ((1, 1, 1), (17, 97, 5), (97, 259, 771), (64, 33, 2049), (8, 300, 0)):
        a, b = numbers(rng, (m, k), "ordinary"), numbers(rng, (k, n), "ordinary")
        b[:, : n // 3] *= np.float16(2000)  # some tiles overflow
        wanted = np.empty((m, n), np.float16)
        _C.gemm(a, b, wanted, reference=True, fixed=True)
        for x in (a, np.asfortranarray(a)):
            for y in (b, np.asfortranarray(b)):
                for count in (1, 2, 3):
                    _C.set_threads(count)
                    out = np.full((m, n + 2), 7, np.float16)
                    _C.gemm(x, y, out[:, :n], fixed=True)
                    assert out[:, :n].tobytes() == wanted.tobytes(), (m, n, k, count)
                    assert (out[:, n:] == 7).all()
    _C.set_threads(before)


HASH = """
import hashlib, numpy as np
from anefast import _C
rng = np.random.default_rng(1)
seen = hashlib.sha256()
for scale in (0.05, 1, 60):
    a = (rng.standard_normal((70, 500)) * scale).astype(np.float16)
    b = (rng.standard_normal((500, 61)) * scale).astype(np.float16)
    out = np.empty((70, 61), np.float16)
    _C.gemm(a, b, out, fixed=True)
    seen.update(out.tobytes())
print(seen.hexdigest())
"""


def test_instruction_sets_agree():
    """A million and more products on each set of this processor, with sums that overflow or not."""

    def run(isa: str) -> str:
        env = os.environ | {"ANEFAST_ISA": isa}
        done = subprocess.run([sys.executable, "-c", HASH], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert len({run(isa) for isa in ("portable", "avx2", "avx512", "neon")}) == 1


def test_small_gradients_vanish_as_on_an_m3_pro():
    """Published: dy of at most 4.2e-4 times weights of 0.036 gave zeros, dy times 1000 did not."""
    rng = np.random.default_rng(0)
    dy = rng.uniform(-4.2e-4, 4.2e-4, (64, 256)).astype(np.float16)
    w = np.full((256, 64), 0.036, np.float16) * rng.choice([-1, 1], (256, 64)).astype(np.float16)
    assert not fixed(dy, w).any()
    scaled = fixed((dy * np.float16(1000)).astype(np.float16), w).astype(float) / 1000
    exact = dy.astype(float) @ w.astype(float)
    assert np.abs(scaled - exact).max() < 0.02 * np.abs(exact).max()


def test_only_halves_are_taken():
    a = np.ones((2, 2), np.float32)
    with pytest.raises(ValueError, match=r"\[gemm\] expected float16 a, b and out for fixed"):
        _C.gemm(a, a, a.copy(), fixed=True)


@pytest.mark.parametrize("op", ["add", "sub", "mul"])
def test_elementwise_results_are_rounded_half_away(op):
    rng = np.random.default_rng(5)
    x, y = (numbers(rng, (1, 4096), k).reshape(-1) for k in ("large", "ordinary"))
    x[:6] = [2048, -2048, 40000, 65504, T**-12, 256]
    y[:6] = [1, -1, 1, 0, T**-12, 256]
    halves = [Fraction(float(v)) for v in x], [Fraction(float(v)) for v in y]
    act = {"add": Fraction.__add__, "sub": Fraction.__sub__, "mul": Fraction.__mul__}[op]
    with np.errstate(over="ignore"):
        wanted = np.array([rounded(act(u, v)) for u, v in zip(*halves, strict=True)], np.float16)
    got = run_op(_C.Device("host", find_profile("m4").options), op, wanted, x=In(x), y=In(y))
    assert (got == wanted).all()
    if op != "mul":  # ties are common there, and `exact` takes the even neighbour
        exact = run_op(_C.Device("host"), op, wanted, x=In(x), y=In(y))
        assert (exact != wanted).any()


def test_published_elementwise_cases():
    device = _C.Device("host", find_profile("m4").options)
    rows = [("add", 2048, 1, 2050), ("add", 16384, 16384, 32768), ("add", 40000, 1, 40000)]
    rows += [("add", 65504, 0, 65504), ("mul", T**-12, T**-12, T**-24), ("mul", 256, 256, INF)]
    for op, x, y, wanted in rows:
        operands = {k: In(np.array([v], np.float16)) for k, v in (("x", x), ("y", y))}
        assert run_op(device, op, np.zeros(1, np.float16), **operands).item() == wanted, (op, x, y)
