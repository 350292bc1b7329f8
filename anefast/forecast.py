"""What the settings of a run come to together, said before it trains: schedule and text read."""

from __future__ import annotations

from anefast.config import OptimConfig, TrainConfig
from anefast.data import Epoch
from anefast.optim import learning_rate

BY_HEART = 100  # epochs after which a model mostly repeats a text
PER_EPOCH = 10  # updates that an epoch should be worth, where accumulating less makes more of them


def forecast(config: TrainConfig, epoch: Epoch, ranks: int = 1) -> list[str]:
    """How often a run reads its training data, and whether its warm-up ends in time."""
    return [_epochs(config, epoch, ranks), *_warm_up(config.optim, config.steps)]


def rate_change(optim: OptimConfig, before: int, now: int, step: int) -> list[str]:
    """What resuming at update `step` does to the rate where `before` steps have become `now`."""
    if before == now or not 0 < step < now or before < 1:
        return []
    was, next_one = learning_rate(optim, step, before), learning_rate(optim, step + 1, now)
    how = "stretched over" if now > before else "pressed into"
    return [
        f"resumed with steps {before} -> {now}: lr goes from {was:.1e} at update {step} to "
        f"{next_one:.1e} at update {step + 1}, as the cosine is {how} {now} updates. "
        "Hint: --init begins a new run with a schedule of its own."
    ]


def _epochs(config: TrainConfig, epoch: Epoch, ranks: int) -> str:
    optim, size = config.optim, epoch.size
    micro = config.data.batch * epoch.sequence
    each = micro * optim.accumulation * ranks
    epochs = each * config.steps / size
    updates = "1 update" if config.steps == 1 else f"{config.steps:,} updates"
    line = f"epochs: {_number(epochs)}, as {updates} of {each:,} {epoch.unit} read {size:,}"
    fewer = max(1, size // (PER_EPOCH * micro))
    if fewer < optim.accumulation and each * PER_EPOCH > size:
        return (
            f"{line}; an epoch is {_number(size / each)} updates, too few to learn much from it. "
            f"Hint: --optim.accumulation {fewer} makes more of them"
        )
    if each > size:
        return f"{line}; one update reads it all. Hint: a smaller --data.batch, or more data"
    if epochs < 1:
        return f"{line}. Hint: --steps {-(-size // each)} reads it once"
    if epochs >= BY_HEART:
        return f"{line}. Hint: it will know the data by heart; fewer --steps, or more data"
    return line


def _number(value: float) -> str:
    return f"{value:.2g}" if value < 10 else f"{value:,.0f}"


def _warm_up(optim: OptimConfig, steps: int) -> list[str]:
    if optim.warmup_steps < steps or not optim.lr:
        return []
    last = learning_rate(optim, steps, steps)
    return [
        f"warm-up: it takes {optim.warmup_steps} updates and the run has {steps}, so lr ends at "
        f"{last:.1e} of {optim.peak_lr:.1e}. Hint: --optim.warmup-steps {steps // 10}"
    ]
