"""Finds the last checkpoint at which a run was still learning.

The newest checkpoints and the best one are kept. A run that diverges goes on saving, and where it
does not validate there is no best: then the newest ones are all worthless. So the newest sound one
stays besides. A checkpoint is sound where no update since the one before, nor any of the last few,
overflowed, and the mean loss since then kept at least half of what the run had gained. Rows of
metrics.jsonl say all of it, so that a resumed run judges much as one that was never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

CALM_UPDATES = 5  # without an overflow, however short the time since the last checkpoint


class Soundness:
    """Judges a run's checkpoints, row by row."""

    def __init__(self) -> None:
        self.newest = ""  # the name of the newest sound checkpoint
        self._first = math.nan  # mean losses: up to the first checkpoint, and the lowest so far
        self._lowest = math.inf
        self._sum, self._count = 0.0, 0  # of the losses since the last checkpoint
        self._calm = CALM_UPDATES  # updates since the last overflow

    def update(self, row: Mapping[str, Any]) -> None:
        """Takes note of an update's row."""
        if "train/loss" in row:
            self._calm = 0 if row.get("overflow") else self._calm + 1
            loss = row["train/loss"]
            self._sum += float(loss) if isinstance(loss, (int, float)) else math.nan
            self._count += 1

    def saved(self, name: str) -> None:
        """Judges the checkpoint that holds everything up to the last row."""
        if self._is_sound():
            self.newest = name
        self._sum, self._count = 0.0, 0

    def replay(self, rows: Iterable[Mapping[str, Any]], names: Mapping[int, str]) -> None:
        """Restores the record from a resumed run's rows and its checkpoints' names by update."""
        for row in rows:
            self.update(row)
            if name := names.get(row.get("step", -1)):
                self.saved(name)

    def _is_sound(self) -> bool:
        if self._calm < max(CALM_UPDATES, self._count):
            return False
        if not self._count:
            return True  # nothing was trained since: as sound as it was
        mean = self._sum / self._count
        if not math.isfinite(mean):
            return False
        if math.isnan(self._first):
            self._first = mean
        self._lowest = min(self._lowest, mean)
        return mean <= self._first - (self._first - self._lowest) / 2
