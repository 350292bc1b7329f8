"""The part of the time in which ranks compute, for 2 to 1,000 machines: the table of
docs/many-machines.md.

    python -m benchmarks.model_ranks

Modelled, nothing is measured: every rank sends 2 (n - 1) / n of the bytes at 90 % of the line rate,
in messages of at most 512 KB to every other rank, 30 us each; what a rank gets at a time is at most
32 MB (distributed/exchange.py). A micro-step takes 90 ms, two thirds of it backward; while the last
backward pass goes on, gradients are summed, and that much is hidden.
"""

from __future__ import annotations

from anefast.distributed.exchange import ROOM, SLICE

MICRO_STEP, BACKWARD = 0.090, 0.060  # seconds
MESSAGE = 30e-6
RATES = (1, 10, 40)  # Gbit/s
RANKS = (2, 8, 32, 100, 1000)
ADAPTER = 5.6e6  # bytes: rank 8 on stories110m
CASES = {  # bytes exchanged, micro-steps of an update, updates between exchanges
    "all weights, accumulation 100": (438e6, 100, 1),
    "all weights, accumulation 10": (438e6, 10, 1),
    "all weights, accumulation 10, local steps 32": (438e6, 10, 32),
    "LoRA, accumulation 10": (ADAPTER, 10, 1),
    "LoRA, accumulation 10, local steps 8": (ADAPTER, 10, 8),
}


def exchange(nbytes: float, ranks: int, gbit: float) -> float:
    """Seconds in which ranks sum so many bytes."""
    wire = 2 * (ranks - 1) / ranks * nbytes / (0.9 * gbit * 1e9 / 8)
    slices = -(-nbytes // (4 * ranks * min(SLICE, ROOM // ranks)))
    return wire + slices * 2 * (ranks - 1) * MESSAGE


def efficiency(case: str, ranks: int, gbit: float) -> float:
    """The part of the time that computes."""
    nbytes, accumulation, updates = CASES[case]
    hidden = BACKWARD if updates == 1 else 0.0
    shown = max(0.0, exchange(nbytes, ranks, gbit) - hidden)
    computing = MICRO_STEP * accumulation * updates
    return computing / (computing + shown)


def table() -> str:
    rows = ["| | ranks | 1 Gbit/s | 10 Gbit/s | 40 Gbit/s |", "|---|---|---|---|---|"]
    for case in CASES:
        for i, ranks in enumerate(RANKS):
            cells = " | ".join(f"{100 * efficiency(case, ranks, gbit):.0f} %" for gbit in RATES)
            rows.append(f"| {'' if i else case} | {ranks:,} | {cells} |".replace("|  |", "| |"))
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
