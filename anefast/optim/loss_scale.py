"""The factor that keeps fp16 gradients representable: halved on overflow, doubled when calm or when
a device loses too much of them.

An update that overflows is lost, which costs more than products that round a little more. So what a
device loses doubles the factor only as long as the largest gradient of late leaves room: in
stories260k one update's is 100 times that of the one before.

It multiplies the gradient of the sum of token losses where the backward pass begins, and is divided
out again in the optimiser. Factors are powers of two, so that multiplying and dividing loses no
bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

from anefast.config import LossScaleConfig

SMALLEST = (
    2.0**-24
)  # gradients that still overflow here come from a broken model, not from the scale
LIMIT = 2.0**15  # where sums of products end on a chip
SIZES = range(-14, 17)  # exponents by which ranks tell one another how large a gradient is
ROOM = 16  # times the largest gradient of late that a factor leaves below LIMIT


class LossScale:
    """The current factor and the good updates since it last changed."""

    def __init__(self, config: LossScaleConfig) -> None:
        self.config = config
        self.value = config.initial
        self.good_updates = 0
        self.peak = 0.0  # of the largest gradients of late, the scale taken out; a power of two
        self.peak_age = 0  # updates since it was met or halved

    def update(self, overflow: bool, starved: bool = False, largest: float = 0.0) -> None:
        """Take note of an update. overflow: its gradients were not finite and it was skipped.
        starved: the device lost much of them, for they were too small. largest: of them, with the
        scale, where that is known."""
        if not self.config.dynamic:
            return
        self._note(LIMIT if overflow and largest else largest)
        if overflow:
            self.value = max(self.value / 2, SMALLEST)
            self.good_updates = 0
            return
        self.good_updates += 1
        starved = starved and 2 * self.value * self.peak * ROOM <= LIMIT
        if starved or self.good_updates >= self.config.growth_interval:
            self.value = min(self.value * 2, max(self.config.maximum, self.value))
            self.good_updates = 0

    def _note(self, largest: float) -> None:
        """Remembers a gradient of this size; one that was not met again for a while counts half."""
        met = power_above(largest) / self.value
        self.peak_age += 1
        if met >= self.peak:
            self.peak, self.peak_age = met, 0
        elif self.peak_age >= self.config.growth_interval:
            self.peak, self.peak_age = self.peak / 2, 0

    @property
    def exhausted(self) -> bool:
        """True when an overflow can no longer be blamed on the scale."""
        return not self.config.dynamic or self.value <= SMALLEST

    def state(self) -> dict[str, Any]:
        """The values that a checkpoint keeps."""
        peak = {"peak": self.peak, "peak_age": self.peak_age} if self.peak else {}
        return {"value": self.value, "good_updates": self.good_updates, **peak}

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`. ValueError for what this scale never comes to."""
        value, good = state["value"], state["good_updates"]
        lowest, highest = min(SMALLEST, self.config.initial), self.config.maximum
        if type(value) not in (int, float) or not lowest <= value <= highest:
            raise ValueError(f"expected a loss scale from {lowest} to {highest}, got {value!r}")
        if math.frexp(value)[0] != 0.5:
            raise ValueError(f"expected a power of two as the loss scale, got {value!r}")
        if type(good) is not int or not 0 <= good <= self.config.growth_interval:
            raise ValueError(f"expected good_updates of a loss scale, got {good!r}")
        peak, age = state.get("peak", 0.0), state.get("peak_age", 0)
        if type(peak) is not float or not 0 <= peak < math.inf or type(age) is not int or age < 0:
            raise ValueError(f"expected the peak of a loss scale, got {peak!r} {age!r} updates ago")
        self.value, self.good_updates = float(value), good
        self.peak, self.peak_age = peak, age


class Trained(Protocol):
    """What a training step says of its last micro-step's gradients."""

    def starved(self) -> bool: ...
    def largest(self) -> float: ...


class Lost:
    """What is known of an update's gradients: whether a device lost much of them, and how large
    the largest is, rounded up to what ranks tell one another."""

    def __init__(self) -> None:
        self.starved, self.largest = False, 0.0

    def note(self, step: Trained) -> None:
        """Looks at the last micro-step, before the weights change."""
        self.starved |= step.starved()
        self.largest = max(self.largest, power_above(step.largest()))

    def of_all(self, agree: Callable[..., tuple[bool, ...]]) -> tuple[bool, float]:
        """(starved, largest) of all ranks: one's count for all. Nothing is noted afterwards."""
        starved, *reached = agree(self.starved, *(self.largest >= 2.0**e for e in SIZES))
        largest = max((2.0**e for e, yes in zip(SIZES, reached, strict=True) if yes), default=0.0)
        self.starved, self.largest = False, 0.0
        return starved, largest


def power_above(size: float) -> float:
    """The least power of two that is not below it; 0 of 0.

    >>> power_above(14.1), power_above(16.0), power_above(0.0)
    (16.0, 16.0, 0.0)
    """
    mantissa, exponent = math.frexp(size)
    return math.ldexp(1.0, exponent - (mantissa == 0.5)) if size else 0.0
