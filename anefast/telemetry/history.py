"""A run folder read back: finished, interrupted or still going. Nothing in it is changed."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anefast.config import flatten
from anefast.files import parse_json
from anefast.telemetry.rows import METRICS, TIMINGS, Row, read_rows
from anefast.telemetry.run import ENVIRONMENT, LOCK, read_config

SUMMARY = "breakdown.json"
SAMPLE = "sample.txt"


@dataclass(frozen=True)
class Series:
    """Numbers by update, those that are not finite left out."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.steps)

    @property
    def last(self) -> float:
        return self.values[-1] if self.values else math.nan


@dataclass(frozen=True)
class History:
    """What a run folder holds, as far as it got."""

    path: Path
    settings: dict[str, Any]  # by dotted name
    metrics: list[Row]
    timings: list[Row]
    sessions: list[dict[str, Any]]  # environments, one for each time it was started or resumed
    summary: dict[str, Any] | None  # of the last session, see timeline.py
    sample: str

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def step(self) -> int:
        """Updates made."""
        return int(self.metrics[-1]["step"]) if self.metrics else 0

    @property
    def steps(self) -> int:
        """Updates asked for."""
        return int(self.settings.get("steps", 0))

    @property
    def state(self) -> str:
        """'finished', 'running' or 'interrupted'."""
        if self.step >= self.steps:
            return "finished"
        return "running" if owner_lives(self.path / LOCK) else "interrupted"

    @property
    def label(self) -> str:
        """What its times may be called: 'measured' or 'emulated'."""
        return str(self.sessions[-1].get("label", "")) if self.sessions else ""

    @property
    def device(self) -> str:
        return str(self.sessions[-1].get("device", "")) if self.sessions else ""

    @property
    def accumulation(self) -> int:
        return int(self.settings.get("optim.accumulation", 1))

    def series(self, name: str) -> Series:
        """Of metrics.jsonl or timings.jsonl, whichever has it."""
        rows = self.metrics if any(name in row for row in self.metrics[:3]) else self.timings
        if not any(name in row for row in rows):
            rows = self.metrics
        return series((row["step"], row.get(name)) for row in rows)

    def spent(self) -> dict[str, float]:
        """Mean milliseconds of a micro-step by 'phase/component', over all updates with times."""
        rows = [row["spans_ms"] for row in self.timings if row.get("spans_ms")]
        names = list(dict.fromkeys(name for row in rows for name in row))
        each = len(rows) * self.accumulation
        return {n: math.fsum(row.get(n, 0) for row in rows) / each for n in names}

    def phases(self) -> dict[str, Series]:
        """Milliseconds of an update by phase, over the updates."""
        rows = [(row["step"], row["spans_ms"]) for row in self.timings if row.get("spans_ms")]
        names = list(dict.fromkeys(phase_of(name) for _, row in rows for name in row))
        return {
            phase: series(
                (step, sum(ms for name, ms in row.items() if phase_of(name) == phase))
                for step, row in rows
            )
            for phase in names
        }


def phase_of(name: str) -> str:
    """'forward/evaluate' -> 'forward'; what is Python's is its own phase."""
    return name.partition("/")[0]


def series(points: Any) -> Series:
    found = [(s, v) for s, v in points if isinstance(v, (int, float)) and math.isfinite(v)]
    return Series([s for s, _ in found], [float(v) for _, v in found])


def read_history(path: Path) -> History:
    """RunError where `path` is no run folder; files that are not there yet count as empty."""
    settings = flatten(read_config(path))
    metrics, timings = (
        read_rows(path / name) if (path / name).is_file() else [] for name in (METRICS, TIMINGS)
    )
    sample = path / SAMPLE
    return History(
        path,
        settings,
        metrics,
        timings,
        sessions=_json(path / ENVIRONMENT).get("sessions", []),
        summary=_json(path / SUMMARY) or None,
        sample=sample.read_text("utf-8", "replace").strip("\n") if sample.is_file() else "",
    )


def owner_lives(lock: Path) -> bool:
    """Whether the process that last held a run's lock is there; the lock is not touched."""
    try:
        os.kill(int(lock.read_text()), 0)
    except (OSError, ValueError):
        return False
    return True


def _json(path: Path) -> dict[str, Any]:
    try:
        found = parse_json(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
