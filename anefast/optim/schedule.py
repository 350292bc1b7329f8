"""The learning rate: linear warm-up, a form, and a cool-down where one is asked for.

A pure function of the update: resuming needs no state. Forms: cosine and linear fall to
`optim.min_lr_ratio` of the peak at the last update, constant stays, inverse-sqrt is that of Vaswani
et al. (arXiv 1706.03762), and wsd (warm-up, stable, decay: MiniCPM, arXiv 2404.06395) is constant
with a cool-down at its end. The cool-down is 1 - sqrt (arXiv 2405.18392).
"""

from __future__ import annotations

import math

from anefast.config import OptimConfig, ScheduleConfig

COSINE = ScheduleConfig()


def learning_rate(
    config: OptimConfig, step: int, steps: int, schedule: ScheduleConfig = COSINE
) -> float:
    """The rate of update `step` (the first is 1) in a run of `steps`.

    >>> c = OptimConfig(lr=1.0, warmup_steps=2, min_lr_ratio=0.5)
    >>> [round(learning_rate(c, s, 4), 3) for s in (1, 2, 3, 4)]
    [0.5, 1.0, 0.75, 0.5]
    >>> c, wsd = OptimConfig(lr=1.0, warmup_steps=0, min_lr_ratio=0), ScheduleConfig("wsd", 0.4)
    >>> [round(learning_rate(c, s, 10, wsd), 3) for s in (5, 6, 7, 8, 9, 10)]
    [1.0, 1.0, 0.5, 0.293, 0.134, 0.0]
    """
    begins = cool_down(schedule, steps)
    if begins is None or step <= begins:
        return _form(config, step, steps, schedule.name)
    top = _form(config, begins, steps, schedule.name)
    lowest = min(top, config.peak_lr * config.min_lr_ratio)
    progress = min(1.0, (step - begins) / max(1, steps - begins))
    return lowest + (top - lowest) * (1.0 - math.sqrt(progress))


def cool_down(schedule: ScheduleConfig, steps: int) -> int | None:
    """The last update before the rate cools down, None where it never does so."""
    if schedule.decay_from.isdigit():
        return int(schedule.decay_from)
    return steps - round(steps * schedule.decay) if schedule.name == "wsd" else None


def _form(config: OptimConfig, step: int, steps: int, name: str) -> float:
    peak, warm = config.peak_lr, config.warmup_steps
    if warm and step <= warm:
        return peak * step / warm
    if name in ("constant", "wsd"):
        return peak
    if name == "inverse-sqrt":
        return peak * math.sqrt(max(1, warm) / max(1, step))
    lowest = peak * config.min_lr_ratio
    if step >= steps:  # the last update, and any past it
        return lowest
    progress = (step - warm) / (steps - warm)
    left = 1.0 - progress if name == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
    return lowest + (peak - lowest) * left
