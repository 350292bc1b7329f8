"""Lines printed before a run trains: its schedule, and how much text it reads."""

from __future__ import annotations

from anefast.config import OptimConfig, TrainConfig
from anefast.data import Epoch
from anefast.optim import learning_rate, record_of
from anefast.optim.schedule import cool_down

BY_HEART = 100  # epochs after which a model mostly repeats a text
PER_EPOCH = 10  # updates that an epoch should be worth, where accumulating less makes more of them


def forecast(config: TrainConfig, epoch: Epoch, ranks: int = 1) -> list[str]:
    """Lines that say how often a run reads its data, and whether its warm-up ends in time."""
    return [
        _epochs(config, epoch, ranks), *_ramp(config), *_warm_up(config), *_cool_down(config)
    ]  # fmt: skip


def other_batch(preset: str, mine: int, optim: OptimConfig) -> str:
    """A note on the rate where an update has at least twice, or at most half, the preset's tokens;
    '' otherwise. mine: tokens of an update. optim: with the rate that would be taken."""
    if not preset:
        return ""
    usual = TrainConfig.from_preset(preset).update_tokens
    if usual / 2 < mine < usual * 2:
        return ""
    record = record_of(optim)
    return (
        f"optim.lr {optim.lr:g} is for the {usual:,} tokens per update of preset {preset}, "
        f"and an update has {mine:,}. Hint: rates of {record.name} grow with "
        f"{_GROWTH[record.batch]}; --optim.lr {optim.lr * (mine / usual) ** record.batch:.2g}"
    )


_GROWTH = {0.5: "the square root of the batch", 1.0: "the batch"}


def _ramp(config: TrainConfig) -> list[str]:
    ramp, record = config.optim.micro_batches, record_of(config.optim)
    lines = []
    for update, many in ramp.changes:
        if update <= config.steps:
            factor = many / ramp.first
            lines.append(
                f"ramp: {many} micro-batches from update {update} on, {factor:g} x the first ones; "
                f"rates of {record.name} grow with {_GROWTH[record.batch]}, here by "
                f"{factor**record.batch:.3g}, and lr keeps to its schedule"
            )
    if ramp.changes and not lines:
        lines = [f"ramp: the run ends at update {config.steps}, before it begins"]
    return lines


def rate_change(config: TrainConfig, before: int, step: int) -> list[str]:
    """Lines on how the rate changes when a run of `before` steps resumes at `step` with others."""
    optim, schedule, now = config.optim, config.schedule, config.steps
    if before == now or not 0 < step < now or before < 1:
        return []
    was = learning_rate(optim, step, before, schedule)
    next_one = learning_rate(optim, step + 1, now, schedule)
    if learning_rate(optim, step + 1, max(before, step + 1), schedule) == next_one:
        return []
    how = "stretched over" if now > before else "pressed into"
    return [
        f"resumed with steps {before} -> {now}: lr goes from {was:.1e} at update {step} to "
        f"{next_one:.1e} at update {step + 1}, as the {schedule.name} is {how} {now} updates. "
        "Hint: --init begins a new run with a schedule of its own."
    ]


def scaled_rate(optim: OptimConfig) -> str:
    """The rate that accumulation was multiplied into, and what the optimiser would have of it.

    The square root of the batch for Adam and its kin (Malladi et al., arXiv 2205.10287), all of it
    for SGD.
    """
    n, record = optim.accumulation, record_of(optim)
    line = f"lr {optim.lr:g} x accumulation {n} = {optim.peak_lr:g}"
    if record.batch == 1 or n == 1:
        return line
    return (
        f"{line}. Hint: rates of {record.name} grow with {_GROWTH[record.batch]}; "
        f"--optim.lr {optim.lr * n**record.batch:.3g} without scaling is that"
    )


def _cool_down(config: TrainConfig) -> list[str]:
    optim, steps, schedule = config.optim, config.steps, config.schedule
    begins = cool_down(schedule, steps)
    if begins is None or begins >= steps:
        return []
    first, last = (learning_rate(optim, s, steps, schedule) for s in (begins, steps))
    return [f"schedule: lr {first:.1e} at update {begins} cools down to {last:.1e} at {steps}"]


def _epochs(config: TrainConfig, epoch: Epoch, ranks: int) -> str:
    optim, size = config.optim, epoch.size
    micro = config.data.batch * epoch.sequence
    ramp = optim.micro_batches
    each = micro * ramp.first * ranks
    epochs = micro * ramp.total(config.steps) * ranks / size
    updates = "1 update" if config.steps == 1 else f"{config.steps:,} updates"
    last = micro * ramp.at(config.steps) * ranks
    of = f"{each:,}" if last == each else f"{each:,} to {last:,}"
    line = f"epochs: {_number(epochs)}, as {updates} of {of} {epoch.unit} read {size:,}"
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


def _warm_up(config: TrainConfig) -> list[str]:
    optim, steps = config.optim, config.steps
    if optim.warmup_steps < steps or not optim.lr:
        return []
    last = learning_rate(optim, steps, steps, config.schedule)
    return [
        f"warm-up: it takes {optim.warmup_steps} updates and the run has {steps}, so lr ends at "
        f"{last:.1e} of {optim.peak_lr:.1e}. Hint: --optim.warmup-steps {steps // 10}"
    ]
