"""Times of the CPU's own operations around a backward pass."""

from __future__ import annotations

from functools import partial

from anefast import _C
from anefast.bench import clock, published
from anefast.bench.context import Bench

TITLE = "CPU operations per training step, on one thread"


def measure(bench: Bench) -> tuple[list[str], dict[str, float]]:
    s = published.TRAINING.shape
    stream = 4 * s.dim * s.seq  # bytes of the fp32 residual stream
    captured = int(published.CAPTURED_BYTES)
    surface = bench.device.surface((1, s.dim, 1, s.seq))

    def locks() -> None:
        for _ in range(published.LOCK_PAIRS):
            surface.native.lock()
            surface.native.unlock()

    small = partial(_C.probe_small)
    adds = f"residual adds, {published.RESIDUAL_ADDS} scalar loops, 4.7 M elements"
    here = {
        "malloc and free, 133 buffers, 144 MB": small(
            "allocate", published.BUFFERS, captured // published.BUFFERS
        ),
        "memcpy, 144 MB": small("copy", 1, captured),
        adds: small("add", published.RESIDUAL_ADDS, stream),
        "residual adds, vDSP": small("add_vector", published.RESIDUAL_ADDS, stream),
        f"surface locks, {published.LOCK_PAIRS} pairs": clock.typical(locks, 0.1),
    }
    return [
        "best of 7; published and modelled: its backward pass of stories110m",
        "residual adds vectorised: here by the compiler; locks: here through Python",
    ], {name: 1e3 * s for name, s in here.items()}
