"""The factor that keeps fp16 gradients representable: halved on overflow, doubled when calm or when
a device loses too much of them.

It multiplies the gradient of the sum of token losses where the backward pass begins, and is divided
out again in the optimiser. Factors are powers of two, so that multiplying and dividing loses no
bits.
"""

from __future__ import annotations

import math
from typing import Any

from anefast.config import LossScaleConfig

SMALLEST = (
    2.0**-24
)  # gradients that still overflow here come from a broken model, not from the scale


class LossScale:
    """The current factor and the good updates since it last changed."""

    def __init__(self, config: LossScaleConfig) -> None:
        self.config = config
        self.value = config.initial
        self.good_updates = 0

    def update(self, overflow: bool, starved: bool = False) -> None:
        """Take note of an update. overflow: its gradients were not finite and it was skipped.
        starved: the device lost much of them, for they were too small."""
        if not self.config.dynamic:
            return
        if overflow:
            self.value = max(self.value / 2, SMALLEST)
            self.good_updates = 0
            return
        self.good_updates += 1
        if starved or self.good_updates >= self.config.growth_interval:
            self.value = min(self.value * 2, max(self.config.maximum, self.value))
            self.good_updates = 0

    @property
    def exhausted(self) -> bool:
        """True when an overflow can no longer be blamed on the scale."""
        return not self.config.dynamic or self.value <= SMALLEST

    def state(self) -> dict[str, Any]:
        """The values that a checkpoint keeps."""
        return {"value": self.value, "good_updates": self.good_updates}

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
        self.value, self.good_updates = float(value), good
