"""Optimisers against what their memory traffic and their arithmetic take at least.

A stream of AdamW's kind, or multiply-adds in registers, are measured in turns with each: on a
shared machine only the part of it that is reached counts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
}  # a weight


def calls(w: list[Array], g: list[Array], m: list[Array], v: list[Array]) -> dict[str, Callable]:
    """One update each. Adafactor reads gradient and weight twice: its step is relative to means of
    all of them."""
    rows, columns = (np.ones(s, np.float32) for s in ((SHAPE[0], 1), (1, SHAPE[1])))
    adamw = _C.UpdateRule.adamw(1.0, 0.9, 0.95, 1e-8, 0.1, 0.05)
    lion = _C.UpdateRule.lion(1.0, 0.9, 0.99)
    sgd, plain = _C.UpdateRule.sgd(1.0, 0.9, True), _C.UpdateRule.sgd(1.0, 0.0, False)
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


@pytest.mark.parametrize("name", ["sgd without momentum", "adafactor"])
def test_updates_that_mostly_read_against_numpy(name: str) -> None:
    """Reads are dearer than writes, of which AdamW's stream has 3 in 7. So these are measured
    beside NumPy's loops over the same bytes: both add one array to another in place; Adafactor
    reads both once before."""
    arrays = [[np.full(SHAPE, 1e-3, np.float32)] for _ in range(4)]
    call = calls(*arrays)[name]
    w, g = (np.array_split(of_one[0].reshape(-1), _C.threads()) for of_one in arrays[:2])
    words = [part.view(np.uint64) for part in (*w, *g)]
    best = {"add": math.inf, "read": math.inf, name: math.inf}
    with ThreadPoolExecutor(_C.threads()) as pool:
        loops: dict[str, Callable[[], object]] = {
            "add": lambda: list(pool.map(lambda a, b: np.add(a, b, out=a), w, g)),
            "read": lambda: list(pool.map(np.bitwise_or.reduce, words)),
            name: call,
        }
        for _ in range(ROUNDS):
            for loop, run in loops.items():
                start = time.perf_counter()
                run()
                best[loop] = min(best[loop], time.perf_counter() - start)
    bound = best["add"] + (best["read"] if name == "adafactor" else 0.0)
    print(
        f"\n{name}: best {best[name] * 1e3:.1f} ms, NumPy over the same bytes "
        f"{bound * 1e3:.1f} ms: {bound / best[name]:.0%} (measured)"
    )
    assert bound > 0.8 * best[name]


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
