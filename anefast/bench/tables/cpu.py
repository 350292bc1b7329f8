"""What the CPU's own operations around a backward pass cost."""

from __future__ import annotations

from functools import partial

from anefast import _C
from anefast.bench import clock, seed
from anefast.bench.context import Bench

TITLE = "CPU operations per training step, on one thread"


def measure(bench: Bench) -> tuple[list[str], dict[str, float]]:
    s = seed.TRAINING.shape
    stream = 4 * s.dim * s.seq  # bytes of the fp32 residual stream
    captured = int(seed.CAPTURED_BYTES)
    surface = bench.device.surface((1, s.dim, 1, s.seq))

    def locks() -> None:
        for _ in range(seed.LOCK_PAIRS):
            surface.native.lock()
            surface.native.unlock()

    small = partial(_C.probe_small)
    adds = f"residual adds, {seed.RESIDUAL_ADDS} scalar loops, 4.7 M elements"
    here = {
        "malloc and free, 133 buffers, 144 MB": small(
            "allocate", seed.BUFFERS, captured // seed.BUFFERS
        ),
        "memcpy, 144 MB": small("copy", 1, captured),
        adds: small("add", seed.RESIDUAL_ADDS, stream),
        "residual adds, vDSP": small("add_vector", seed.RESIDUAL_ADDS, stream),
        f"surface locks, {seed.LOCK_PAIRS} pairs": clock.typical(locks, 0.1),
    }
    return [
        "best of 7; published and modelled: its backward pass of stories110m",
        "residual adds vectorised: here by the compiler; locks: here through Python",
    ], {name: 1e3 * s for name, s in here.items()}
