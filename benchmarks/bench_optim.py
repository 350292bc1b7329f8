"""Optimisers against what their memory traffic and their arithmetic take at least.

A stream of AdamW's kind, or multiply-adds in registers, are measured in turns with each: on a
shared machine only the part of it that is reached counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import numpy as np
import pytest

from anefast import _C
from anefast.optim.record import Array

ROUNDS = 15
SHAPE = (4096, 4096)
BYTES = {
    "adamw": 28,
    "lion": 20,
    "sgd": 20,
    "sgd without momentum": 12,
    "adafactor": 20,
}  # a weight


def calls(w: list[Array], g: list[Array], m: list[Array], v: list[Array]) -> dict[str, Callable]:
    """One update each. Adafactor reads gradient and weight twice: its step is relative to means of
    all of them."""
    rows, columns = (np.ones(s, np.float32) for s in ((SHAPE[0], 1), (1, SHAPE[1])))
    adamw = _C.Rule.adamw(1.0, 0.9, 0.95, 1e-8, 0.1, 0.05)
    lion, sgd, plain = (
        _C.Rule.lion(1.0, 0.9, 0.99), _C.Rule.sgd(1.0, 0.9, True), _C.Rule.sgd(1.0, 0.0, False)
    )  # fmt: skip
    return {
        "adamw": lambda: _C.update(adamw, w, g, [m, v], [1e-3], [0.1]),
        "lion": lambda: _C.update(lion, w, g, [m], [1e-3], [0.1]),
        "sgd": lambda: _C.update(sgd, w, g, [m], [1e-3], [0.1]),
        "sgd without momentum": lambda: _C.update(plain, w, g, [], [1e-3], [0.1]),
        "adafactor": lambda: _C.adafactor(
            w, g, [rows], [columns], [1e-3], [0.1], 1.0, 0.5, 0.5, 1e-30, 1e-3
        ),
    }


@pytest.mark.parametrize("name", BYTES)
def test_updates_against_stream(name: str) -> None:
    arrays = [[np.full(SHAPE, 1e-3, np.float32)] for _ in range(4)]
    call = calls(*arrays)[name]
    taken, stream = [], 0.0
    for _ in range(ROUNDS):
        stream = max(stream, _C.probe_stream())
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    rate = BYTES[name] * SHAPE[0] * SHAPE[1] / min(taken)
    print(
        f"\n{name}: {median(taken) * 1e3:.1f} ms, best {rate / 1e9:.1f} GB/s of "
        f"{stream / 1e9:.1f} GB/s as AdamW streams: {rate / stream:.0%} (measured)"
    )
    assert rate > 0.8 * stream


def test_adafactor_against_other_loops_over_what_it_moves() -> None:
    """It reads gradient and weight, and does so again where it writes the weight: as a sum of
    squares of both does, and then SGD without momentum. Reads are dearer than writes, of which
    AdamW's stream has 3 in 7 and Adafactor 1 in 5."""
    arrays = [[np.full(SHAPE, 1e-3, np.float32)] for _ in range(4)]
    made = calls(*arrays)
    flat = [a.reshape(-1) for of_one in arrays[:2] for a in of_one]
    loops = [made["adafactor"], lambda: _C.squares(flat), made["sgd without momentum"]]
    taken: list[list[float]] = [[] for _ in loops]
    for _ in range(ROUNDS):
        for loop, seconds in zip(loops, taken, strict=True):
            start = time.perf_counter()
            loop()
            seconds.append(time.perf_counter() - start)
    adafactor, squares, plain = map(min, taken)
    print(
        f"\nadafactor: best {adafactor * 1e3:.1f} ms, of {squares * 1e3:.1f} + {plain * 1e3:.1f} "
        f"for squares and SGD: {(squares + plain) / adafactor:.0%} (measured)"
    )
    assert squares + plain > 0.8 * adafactor


@pytest.mark.parametrize("shape", [(288, 768), (768, 768), (2048, 768), (1024, 4096)])
def test_newton_schulz_against_roofline(shape: tuple[int, int]) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    m, n = sorted(shape)
    flops = 5 * (4 * m * m * n + 2 * m**3)
    taken, peak = [], 0.0
    for _ in range(ROUNDS):
        peak = max(peak, _C.probe_peak()[1])
        start = time.perf_counter()
        _C.newton_schulz(x.copy())
        taken.append(time.perf_counter() - start)
    rate = flops / min(taken)
    print(
        f"\nNewton-Schulz of {shape}: {median(taken) * 1e3:.1f} ms, best {rate / 1e9:.0f} of "
        f"{peak / 1e9:.0f} GFLOP/s in registers: {rate / peak:.0%} (measured)"
    )
    assert rate > 0.6 * peak
