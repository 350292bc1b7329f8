"""The tolerance of each mode, read from docs/chips.md: what it publishes is what tests ask.

A chip that is like another one (`Chip.like`) needs no row there: it keeps the other's.
"""

from __future__ import annotations

from typing import NamedTuple

from anefast.chips.behaviour import CHIPS
from tests.conftest import ROOT

HEAD = "| mode | stories260K: loss | gradients |"


class Tolerance(NamedTuple):
    """Losses in nats per token; gradients: L2 norm of the error over the gradient's own."""

    small_loss: float  # stories260K against float64
    small_gradient: float
    loss: float  # SmolLM2-135M against fp32
    median_gradient: float
    gradient: float


def published() -> dict[str, Tolerance]:
    """By mode: exact, relaxed and the chips that are like no other."""
    lines = iter((ROOT / "docs" / "chips.md").read_text("utf-8").splitlines())
    for line in lines:
        if line.startswith(HEAD):
            break
    next(lines)
    found: dict[str, Tolerance] = {}
    for line in lines:
        if not line.startswith("|"):
            break
        mode, *numbers = (cell.strip() for cell in line.strip("|").split("|"))
        found[mode] = Tolerance(*map(float, numbers))
    return found


TOLERANCES = published()
DESCRIBED = [name for name, chip in CHIPS.items() if not chip.like]  # which have rows there
TOLERANCES |= {n: TOLERANCES[c.like] for n, c in CHIPS.items() if c.like and n not in TOLERANCES}
