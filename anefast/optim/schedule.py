"""The learning rate: linear warm-up, then a cosine. A pure function: resuming needs no state."""

from __future__ import annotations

import math

from anefast.config import OptimConfig


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """The rate of update `step` (the first is 1) in a run of `steps`.

    Rises linearly to the peak, which update `warmup_steps` has, and falls along half a cosine to
    `min_lr_ratio` of it, which update `steps` has.

    >>> c = OptimConfig(lr=1.0, warmup_steps=2, min_lr_ratio=0.5)
    >>> [round(learning_rate(c, s, 4), 3) for s in (1, 2, 3, 4)]
    [0.5, 1.0, 0.75, 0.5]
    """
    peak = config.peak_lr
    if step <= config.warmup_steps:  # 1) warm-up
        return peak * step / config.warmup_steps
    lowest = peak * config.min_lr_ratio
    if step >= steps:  # 2) the last update, and any past it
        return lowest
    progress = (step - config.warmup_steps) / (steps - config.warmup_steps)  # 3) cosine
    return lowest + (peak - lowest) * 0.5 * (1.0 + math.cos(math.pi * progress))
