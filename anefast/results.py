"""The result of `fit`: numbers, the trained model, and a notebook's view."""

from __future__ import annotations

import contextlib
import html
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anefast.errors import BadInput, shown
from anefast.telemetry import figures
from anefast.telemetry.history import read_history

if TYPE_CHECKING:
    from anefast.model import Model


@dataclass(repr=False)
class FitResult:
    """The result of a run. `losses` has one value per update, including those before a resume."""

    losses: list[float]  # token-weighted mean training loss, nats per token; nan: overflowed
    val_losses: list[tuple[int, float]]  # (update, validation loss); update 0 is before training
    model: Model
    run_dir: Path
    floor: float | None = None  # nats per token that no model beats on average, where that is known
    tokens_per_second: float = 0.0
    interrupted: bool = False  # stopped by a signal; resuming the run goes on bit for bit
    sample: str = ""
    breakdown: str = ""  # where the time of the session went, as a table

    def plot(self, panel: str = "loss") -> Any:
        """A matplotlib figure of the run (extra `plot`); a notebook shows it.

        panel: loss, loss-tokens, loss-time, lr, norm, speed, time or parts. ValueError for
        another one; ImportError with a hint where matplotlib is missing.
        """
        if panel not in figures.PANELS:
            raise BadInput(
                f"[fit] expected a panel of {', '.join(figures.PANELS)}, got {shown(repr(panel))}."
            )
        return figures.panel(panel, [read_history(self.run_dir)])

    def __repr__(self) -> str:
        return f"FitResult({self._line()})"

    def _repr_html_(self) -> str:
        text = f"<p><b>{html.escape(self._line())}</b></p>"
        with contextlib.suppress(ImportError, OSError, ValueError):  # numbers stand without it
            drawn = figures.svg("loss", [read_history(self.run_dir)])
            text += f'<img src="{drawn}" alt="loss by update">'
        if self.sample:
            text += f"<p>A sample:</p><blockquote>{html.escape(self.sample)}</blockquote>"
        return text

    def _line(self) -> str:
        said = [f"{len(self.losses):,} updates" + (", interrupted" if self.interrupted else "")]
        if self.val_losses:
            first, last = self.val_losses[0][1], self.val_losses[-1][1]
            said.append(f"validation loss {first:.4f} -> {last:.4f} nats per token")
        if self.floor is not None and math.isfinite(self.floor):
            said.append(f"floor {self.floor:.4f}")
        if self.tokens_per_second:
            said.append(f"{self.tokens_per_second:,.0f} tokens/s")
        return "; ".join([*said, shown(self.run_dir)])
