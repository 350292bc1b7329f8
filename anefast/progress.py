"""The progress of a run, as a checkpoint and the screen show it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

Row = dict[str, Any]
_KINDS = {int: "a whole number", float: "a number", str: "text"}
LATER = (
    "best",
    "batches",
    "ranks",
    "lowest",
    "waited",
)  # fields that the first checkpoints did not have
NOT_FINITE: dict[Any, float] = {str(v): v for v in (math.inf, -math.inf, math.nan)}


@dataclass
class Progress:
    """The state of a run besides arrays, optimiser and loss scale."""

    step: int = 0  # updates made or skipped
    micro: int = 0  # micro-steps of the next update already in the gradients
    tokens: int = 0  # trained on, whole updates only
    batches: int = 0  # micro-batches that whole updates have read, those of all ranks
    ranks: int = 1  # the most that this run had at a time
    loss_sum: float = 0.0  # of the tokens of the unfinished update, nats
    loss_tokens: int = 0
    first_val: float = math.nan
    last_val: float = math.nan
    best_val: float = math.inf
    best: str = ""  # the checkpoint that has it
    fingerprint: str = ""  # of the data
    lowest: float = math.inf  # validation loss so far, saved or not
    waited: int = 0  # validations since

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Progress:
        """From a checkpoint's state. ValueError names what is missing or of another kind.

        Old checkpoints have None for what a field starts with, and lack what is in LATER.
        """
        known: dict[str, Any] = {}
        for field in fields(cls):
            if field.name not in state and field.name not in LATER:
                raise ValueError(f"{field.name} is missing")
            value = state.get(field.name)
            if value is None:
                continue
            value = NOT_FINITE.get(value, value) if isinstance(field.default, float) else value
            kind = type(field.default)
            if kind is float and type(value) is int:
                value = float(value)
            if type(value) is not kind:
                raise ValueError(f"expected {field.name} to be {_KINDS[kind]}")
            known[field.name] = value
        return cls(**known)

    def after(self, loss: float) -> tuple[float, int]:
        """`lowest` and `waited` after a validation with this loss."""
        better = loss < self.lowest or math.isnan(self.lowest)
        return (loss, 0) if better else (self.lowest, self.waited + 1)

    def check(self, micro_steps: int, tokens: int) -> None:
        """ValueError for numbers that no run comes to.

        micro_steps: of an update. tokens: the most of a micro-step.
        """
        for name, most in (
            ("step", None),
            ("micro", micro_steps),
            ("ranks", 1024),
            ("batches", self.step * micro_steps * max(1, self.ranks)),
            ("tokens", self.step * micro_steps * tokens),
            ("loss_tokens", self.micro * tokens),
            ("waited", self.step),
        ):
            value = getattr(self, name)
            if value < 0 or (most is not None and value > most):
                end = f" and at most {most:,}" if most is not None else ""
                raise ValueError(f"expected {name} to be at least 0{end}, got {value:,}")
        if self.loss_sum and not self.micro:
            raise ValueError(f"expected a loss_sum of 0 between updates, got {self.loss_sum}")


def finite(row: Mapping[str, Any]) -> Row:
    """JSON has no inf and no nan: their names."""
    return {
        k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()
    }


def with_infinities(row: Mapping[str, Any]) -> Row:
    """The inverse of `finite`."""
    return {k: NOT_FINITE.get(v, v) for k, v in dict(row).items()}


def losses(row: Row, which: str) -> str:
    """'0.5123 (0.739 bpb)': nats per token, and bits per byte."""
    return f"{row[f'{which}/loss']:.4f} ({row[f'{which}/bits_per_byte']:.3f} bpb)"


def progress_line(row: Row, rate: float | None) -> str:
    """An update in one line; rate: tokens per second."""
    val = f" val {losses(row, 'val')}" if "val/loss" in row else ""
    speed = ""
    if rate:
        speed = f" tok/s {rate / 1e3:.1f}k" if rate >= 1000 else f" tok/s {rate:.1f}"
    return (
        f"step {row['step']} loss {losses(row, 'train')}{val} lr {row['lr']:.1e} "
        f"norm {row['grad_norm']:.2f}{speed}"
    )
