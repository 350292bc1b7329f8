"""What the settings of a run come to together, said before it trains: schedule and text read."""

from __future__ import annotations

from anefast.config import OptimConfig, TrainConfig
from anefast.optim import learning_rate

BY_HEART = 100  # passes over a text after which a model mostly repeats it
PER_PASS = 10  # updates that one reading of a text should be worth, where the hint proposes some


def forecast(config: TrainConfig, tokens: int) -> list[str]:
    """How often a run reads its `tokens` training tokens, and whether its warm-up ends in time."""
    return [_reads(config, tokens), *_warm_up(config.optim, config.steps)]


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


def _reads(config: TrainConfig, tokens: int) -> str:
    c, optim = config.data, config.optim
    micro = c.batch * c.seq_len
    each = micro * optim.accumulation
    passes = each * config.steps / tokens
    line = (
        f"reads: {each:,} tokens per update; {_updates(config.steps)} the {tokens:,} training "
        f"tokens {_times(passes)}"
    )
    if each > tokens:
        fewer = max(1, tokens // (PER_PASS * micro))
        remedy = f"--optim.accumulation {fewer}" if fewer < optim.accumulation else "--data.batch 1"
        return f"{line}; one update reads them {_times(each / tokens)}. Hint: {remedy} updates more"
    if passes < 1:
        return f"{line}. Hint: --steps {-(-tokens // each)} reads them once"
    if passes >= BY_HEART:
        return f"{line}. Hint: it will know them by heart; fewer --steps, or more text"
    return line


def _times(passes: float) -> str:
    number = f"{passes:.2g}" if passes < 10 else f"{passes:,.0f}"
    return "once" if number == "1" else f"{number} times"


def _updates(steps: int) -> str:
    return "1 update reads" if steps == 1 else f"{steps:,} updates read"


def _warm_up(optim: OptimConfig, steps: int) -> list[str]:
    if optim.warmup_steps < steps or not optim.lr:
        return []
    last = learning_rate(optim, steps, steps)
    return [
        f"warm-up: it takes {optim.warmup_steps} updates and the run has {steps}, so lr ends at "
        f"{last:.1e} of {optim.peak_lr:.1e}. Hint: --optim.warmup-steps {steps // 10}"
    ]
