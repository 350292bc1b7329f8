"""How a run went: the closing lines, and a sample of what it learned. Read train.py first."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from anefast.cli import told
from anefast.config import TrainConfig
from anefast.files import write_atomic
from anefast.opening import sample_prompt
from anefast.results import FitResult
from anefast.sampling import SAMPLE_TEMPERATURE, whole_sentences
from anefast.signals import Stop
from anefast.telemetry import METRICS, TIMINGS, read_rows
from anefast.telemetry import breakdown as shown
from anefast.telemetry.history import SAMPLE
from anefast.trainer import Trainer

if TYPE_CHECKING:
    from anefast.runtime import Device


def finish(trainer: Trainer, interrupted: bool, device: Device, stop: Stop) -> FitResult:
    """The closing lines: how far the loss came, how fast, a sample, and where everything is.

    The run is whole by now, so nothing that fails here voids it.
    """
    p, say, run, config = trainer.progress, trainer.say, trainer.run.path, trainer.config
    trainer.run.sync()
    try:
        rows = read_rows(run / METRICS, say)
    except (OSError, ValueError) as error:
        say(f"the losses are left out: {told(error)}")
        rows = []
    result = FitResult(
        losses=[_float(r["train/loss"]) for r in rows if "train/loss" in r],
        val_losses=[(r["step"], _float(r["val/loss"])) for r in rows if "val/loss" in r],
        model=trainer.model,
        run_dir=run,
        floor=trainer.data.floor,
        tokens_per_second=trainer.trained / trainer.seconds if trainer.seconds else 0.0,
        interrupted=interrupted,
    )
    times = {"label": device.label} | trainer.timeline.summary()
    if times["micro_steps"]:
        result.breakdown = shown.table(times)
    if interrupted:
        say(f"stopped at update {p.step} of {config.steps}; saved {trainer.saved}")
        say(f"continue with: anefast train --resume {run}")
        return result
    if p.step < config.steps:
        say(
            f"ended at update {p.step} of {config.steps}: {p.waited} validations in a row were not "
            f"below {p.lowest:.4f}. Hint: a larger --patience goes on"
        )
    per_byte = [f"{nats * trainer.bits:.3f}" for nats in (p.first_val, p.last_val)]
    floor = ""
    if result.floor is not None:
        floor = f" (floor {result.floor:.4f})"
        per_byte[1] += f" (floor {result.floor * trainer.bits:.3f})"
    seen = result.val_losses[-1][0] if result.val_losses else p.step
    old = f" at update {seen}, not validated since" if seen != p.step else ""
    say(
        f"validation loss {p.first_val:.4f} -> {p.last_val:.4f} nats per token{old}{floor}, "
        f"{' -> '.join(per_byte)} bits per byte"
    )
    errors = [_float(r["val/error"]) for r in rows if "val/error" in r]
    if errors and math.isfinite(errors[-1]):
        say(f"one standard error of the last: {errors[-1]:.4f} nats per token")
    if skipped := sum(bool(r.get("overflow")) for r in rows):
        updates = "1 update was" if skipped == 1 else f"{skipped} updates were"
        scale = trainer.scale.value
        say(f"{updates} skipped as gradients overflowed; the loss scale is {scale:g} now")
    if trainer.seconds:
        say(f"{result.tokens_per_second:,.0f} tokens/s over {trainer.trained:,} tokens")
        if times["micro_steps"]:
            say(shown.line(times))
    else:
        say(f"nothing to do: the run is at update {p.step}. More updates: --steps N")
    if config.sample_tokens and not stop.requested:
        try:
            result.sample = closing_sample(trainer, device)
        except Exception as error:
            say(f"there is no closing sample: {told(error)}")
    say(f"written to {run}: {METRICS}, {TIMINGS}, config.toml, checkpoint {trainer.saved}")
    asks = '--chat --prompt "Hello"' if getattr(trainer.data, "chats", False) else '--prompt "Once"'
    say(f"try: anefast generate {run} {asks}")
    return result


def closing_sample(trainer: Trainer, device: Device) -> str:
    """A text of the trained model, said and kept: to its end, or in whole sentences as far as the
    length goes that was trained."""
    config, model = trainer.config, trainer.model
    ids, ends = sample_prompt(config.prompt, model, trainer.data)
    most = min(config.sample_tokens, max(0, model.trained_length - len(ids)))
    new = list(model.stream(
        tuple(ids), most, temperature=SAMPLE_TEMPERATURE, seed=config.seed, device=device, ends=ends
    ))  # fmt: skip
    text = model.tokenizer.decode([*ids, *new])
    if len(new) == most:
        text = whole_sentences(text)
    trainer.say(f"a sample:\n{text}")
    if most < config.sample_tokens != TrainConfig.sample_tokens:
        trainer.say(f"(it ends after {model.trained_length} tokens, the length that was trained)")
    write_atomic(trainer.run.path / SAMPLE, (text + "\n").encode("utf-8", "replace"))
    return text


def _float(value: float | None) -> float:
    return math.nan if value is None else value
