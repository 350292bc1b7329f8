"""How far a run is, as a checkpoint and the screen tell it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

Row = dict[str, Any]
NOT_FINITE: dict[Any, float] = {str(v): v for v in (math.inf, -math.inf, math.nan)}


@dataclass
class Progress:
    """What a checkpoint needs besides arrays, optimiser and loss scale."""

    step: int = 0  # updates made or skipped
    micro: int = 0  # micro-steps of the next update already in the gradients
    tokens: int = 0  # trained on, whole updates only
    loss_sum: float = 0.0  # of the tokens of the unfinished update, nats
    loss_tokens: int = 0
    first_val: float = math.nan
    last_val: float = math.nan
    best_val: float = math.inf
    fingerprint: str = ""  # of the data

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Progress:
        """From a checkpoint's state, or KeyError, TypeError, ValueError. Old ones have None for
        what a field starts with."""
        known: dict[str, Any] = {}
        for field in fields(cls):
            value = state[field.name]
            if value is not None:
                known[field.name] = float(value) if isinstance(field.default, float) else value
        return cls(**known)


def finite(row: Mapping[str, Any]) -> Row:
    """JSON has no inf and no nan: their names."""
    return {
        k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()
    }


def with_infinities(row: Mapping[str, Any]) -> Row:
    """The inverse of `finite`."""
    return {k: NOT_FINITE.get(v, v) for k, v in dict(row).items()}


def progress_line(row: Row, rate: float | None) -> str:
    """An update in one line; rate: tokens per second."""
    val = f" val {row['val/loss']:.4f}" if "val/loss" in row else ""
    speed = f" tok/s {rate / 1e3:.1f}k" if rate else ""
    return (
        f"step {row['step']} loss {row['train/loss']:.4f}{val} lr {row['lr']:.1e} "
        f"norm {row['grad_norm']:.2f}{speed}"
    )
