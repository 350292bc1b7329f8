"""What this machine can do at most, measured now: multiply-adds, and the traffic of AdamW."""

from __future__ import annotations

from dataclasses import dataclass

from anefast import _C


@dataclass(frozen=True)
class Roofline:
    """flops: of products of some kind, per second in registers. stream: bytes per second of AdamW's
    kind."""

    kind: str
    flops: float
    stream: float

    def seconds(self, flops: float, weights: int) -> float:
        """The least time of so much arithmetic and then an AdamW update, nothing overlapped."""
        return flops / self.flops + 28 * weights / self.stream

    def __str__(self) -> str:
        return (
            f"{self.flops / 1e9:.0f} GFLOP/s {self.kind} ({_C.threads()} threads), "
            f"{self.stream / 1e9:.1f} GB/s as AdamW streams (measured)"
        )


def measure() -> Roofline:
    """Of the pool's threads; the best of three, as what disturbs a probe only makes it slower."""
    kind, flops = max((_C.probe_peak() for _ in range(3)), key=lambda found: found[1])
    return Roofline(kind, flops, max(_C.probe_stream() for _ in range(3)))
