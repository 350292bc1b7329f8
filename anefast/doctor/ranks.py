"""`mpiexec -n R anefast doctor --dist`: how fast ranks add up gradients.

Measured is the sum over ranks that training makes (distributed.py), for gradients of three models.
The part of an update that is left for computing is modelled from it: no overlap is counted on.
"""

from __future__ import annotations

import socket
import time

import numpy as np

from anefast.cli import say
from anefast.config import ConfigError
from anefast.distributed import World, open_world

SIZES = {"1 MB": 1 << 18, "60 MB, stories15m": 15_240_000, "436 MB, stories110m": 109_000_000}
MICRO_STEPS_MS = (10, 100)  # a small model's on a chip, and a large one's
ACCUMULATIONS = (1, 10, 100)
REPEATS = 3


def measure() -> None:
    """Prints the times of an all-reduce. ConfigError if there is only one rank."""
    world = open_world()
    if world.size == 1:
        raise ConfigError(
            "[doctor] --dist measures how ranks communicate, and there is only one rank. "
            "Hint: mpiexec -n 2 anefast doctor --dist."
        )
    hosts = world.all(socket.gethostname())
    if world.rank == 0:
        each = ", ".join(f"{hosts.count(host)} on {host}" for host in sorted(set(hosts)))
        say(f"{world.size} ranks: {each}", "")
        say(f"{'gradients':22} {'sum over ranks':>15} {'rate':>10}   {_heads()}")
    for name, floats in SIZES.items():
        seconds = _seconds(world, floats)
        if world.rank == 0:
            rate = 4e-9 * floats / seconds
            say(f"{name:22} {1e3 * seconds:12.1f} ms {rate:7.2f} GB/s  {_shares(seconds)}")
    if world.rank == 0:
        say(
            "",
            "Sums are measured. Percent: the share of an update spent computing (modelled), by the",
        )
        say("milliseconds of a micro-step and the micro-steps of an update (accumulation).")
    world.finish()


def _seconds(world: World, floats: int) -> float:
    """The fastest of some sums, by the clock of the slowest rank."""
    grads = np.ones(floats, np.float32)
    fastest = float("inf")
    for _ in range(REPEATS):
        world.arrive("a measurement")
        began = time.perf_counter()
        world.reduce(grads, (0.0, 0))
        world.arrive("the end of a measurement")
        fastest = min(fastest, time.perf_counter() - began)
    return fastest


def _heads() -> str:
    return " ".join(f"{ms:>4} ms x{n:<4}" for ms in MICRO_STEPS_MS for n in ACCUMULATIONS)


def _shares(seconds: float) -> str:
    shares = []
    for ms in MICRO_STEPS_MS:
        for n in ACCUMULATIONS:
            computing = ms * n / 1e3
            shares.append(f"{100 * computing / (computing + seconds):>10.1f}%")
    return " ".join(shares)
