"""A run folder read back: finished, interrupted or still going. Nothing in it is changed.

The folder is not trusted: every value has its form and its bounds (schema.py), links
are not followed, and of the rows only the numbers that are asked for are kept. What is damaged is
left out and named in `notes`; only a folder without readable settings is refused.
"""

from __future__ import annotations

import math
import os
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anefast.checks import coerce
from anefast.config import flatten, keys
from anefast.errors import shown, visible
from anefast.files import MIB, FileError, read_bytes, read_json, read_lines
from anefast.parsing import parse_json
from anefast.ramp import Ramp
from anefast.schema import Check, flag, maybe, number, record, table, whole
from anefast.telemetry import breakdown
from anefast.telemetry.rows import METRICS, TIMINGS, RunError
from anefast.telemetry.run import CONFIG, ENVIRONMENT, LOCK, read_config, read_sessions

SUMMARY = "breakdown.json"
SAMPLE = "sample.txt"
SPANS = "spans_ms"
DONE = ("finished", "ended early")  # states of runs that are over

LONGEST_ROW = 1 << 16  # bytes
MOST_NAMES = 200  # of spans in a run: phases times components
MOST_STEPS = 10**12

METRIC_NAMES = (
    "train/loss", "train/bits_per_byte", "val/loss", "val/error", "val/bits_per_byte", "val/ema",
    "lr", "grad_norm", "tokens",
)  # fmt: skip
TIMING_NAMES = ("ms", "tok_per_s")
METRIC_ROW = record(
    {"step": whole(0, MOST_STEPS)},
    {"overflow": flag, **dict.fromkeys(METRIC_NAMES, maybe(number()))},
)
TIMING_ROW = record(
    {"step": whole(0, MOST_STEPS)},
    {SPANS: table(number(0), MOST_NAMES), **dict.fromkeys(TIMING_NAMES, maybe(number()))},
)


@dataclass(frozen=True)
class Series:
    """Finite numbers by update."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.steps)

    @property
    def last(self) -> float:
        return self.values[-1] if self.values else math.nan


class Columns:
    """The numbers of a row file by name, as compact as numbers can be."""

    def __init__(self) -> None:
        self.rows = 0
        self.step = -1  # of the last row
        self._columns: dict[str, tuple[array[int], array[float]]] = {}
        self._blank: dict[str, array[int]] = {}  # steps whose number was not finite

    def __getitem__(self, name: str) -> Series:
        steps, values = self._columns.get(name, ((), ()))
        return Series(list(steps), list(values))

    def __contains__(self, name: str) -> bool:
        return name in self._columns

    def after_lowest(self, name: str) -> int:
        """The count of numbers after the lowest one, including those that were not finite."""
        steps, values = self._columns.get(name, ((), ()))
        at = steps[min(range(len(values)), key=values.__getitem__)] if values else -1
        return sum(step > at for step in (*steps, *self._blank.get(name, ())))

    def names(self, folder: str) -> list[str]:
        """The rest of the names that begin with 'folder/'."""
        start = folder + "/"
        return [name.removeprefix(start) for name in self._columns if name.startswith(start)]

    def add(self, row: dict[str, Any]) -> None:
        """Adds a checked row. ValueError if it does not follow the previous one."""
        step = row["step"]
        if step <= self.step:
            raise ValueError(f"step {step:,} comes after step {self.step:,}")
        for name, value in _numbers(row):
            if name not in self._columns:
                if len(self._columns) > MOST_NAMES:
                    raise ValueError(f"the file has more than {MOST_NAMES} names")
                self._columns[name] = array("q"), array("d")
            steps, values = self._columns[name]
            steps.append(step)
            values.append(value)
        for name in (name for name, value in row.items() if value is None):
            self._blank.setdefault(name, array("q")).append(step)
        self.rows, self.step = self.rows + 1, step


@dataclass(frozen=True)
class History:
    """The contents of a run folder, as far as the run got."""

    path: Path
    settings: dict[str, Any]  # by dotted name
    metrics: Columns
    timings: Columns
    sessions: list[dict[str, Any]]  # environments, one for each time it was started or resumed
    summary: dict[str, Any] | None  # of the last session, see timeline.py
    sample: str
    notes: list[str]  # what is damaged and was left out

    @property
    def name(self) -> str:
        return shown(self.path.resolve().name)

    @property
    def step(self) -> int:
        """Updates made."""
        return max(0, self.metrics.step)

    @property
    def steps(self) -> int:
        """Updates asked for."""
        return int(self.settings.get("steps", 0))

    @property
    def state(self) -> str:
        """'finished', 'ended early' (patience ran out), 'running' or 'interrupted'."""
        if self.step >= self.steps:
            return "finished"
        if 0 < self.settings.get("patience", 0) <= self.metrics.after_lowest("val/loss"):
            return "ended early"
        return "running" if owner_lives(self.path / LOCK) else "interrupted"

    @property
    def label(self) -> str:
        """The label of its times: 'measured', 'measured on the host' or 'emulated'."""
        return shown(self.sessions[-1].get("label", "")) if self.sessions else ""

    @property
    def device(self) -> str:
        return shown(self.sessions[-1].get("device", "")) if self.sessions else ""

    @property
    def micro_batches(self) -> Ramp:
        """The number of micro-batches of each update."""
        return Ramp.of(
            max(1, int(self.settings.get("optim.accumulation", 1))),
            self.settings.get("optim.ramp", ""),
        )

    def series(self, name: str) -> Series:
        """The series of this name, from metrics.jsonl or timings.jsonl, whichever has it."""
        return self.timings[name] if name in self.timings else self.metrics[name]

    @property
    def floor(self) -> float | None:
        """Nats per token that no model beats on average, where the data's source tells it."""
        return self.sessions[-1].get("floor") if self.sessions else None

    @property
    def overflows(self) -> list[int]:
        """The number of updates that were skipped because their gradients overflowed."""
        found = self.metrics["overflow"]
        return [step for step, value in zip(found.steps, found.values, strict=True) if value]

    def spent(self) -> dict[str, float]:
        """Mean milliseconds of a micro-step by 'phase/component', over all updates with times."""
        columns = {name: self.timings[f"{SPANS}/{name}"] for name in self.timings.names(SPANS)}
        timed = {step for column in columns.values() for step in column.steps}
        ramp = self.micro_batches
        each = sum(map(ramp.at, timed))
        return {name: math.fsum(column.values) / each for name, column in columns.items()}

    def phases(self) -> dict[str, Series]:
        """Milliseconds of an update by phase, over the updates."""
        names = self.timings.names(SPANS)
        sums: dict[str, dict[int, float]] = {phase_of(name): {} for name in names}
        timed: set[int] = set()
        for name in names:
            column, of_phase = self.timings[f"{SPANS}/{name}"], sums[phase_of(name)]
            timed.update(column.steps)
            for step, ms in zip(column.steps, column.values, strict=True):
                of_phase[step] = of_phase.get(step, 0.0) + ms
        steps = sorted(timed)
        return {
            phase: Series(steps, [ms.get(step, 0.0) for step in steps])
            for phase, ms in sums.items()
        }


def phase_of(name: str) -> str:
    """'forward/evaluate' -> 'forward'; what is Python's is its own phase."""
    return name.partition("/")[0]


def read_history(path: Path) -> History:
    """RunError where `path` is no run folder; files that are not there yet count as empty."""
    settings = _settings(path)
    notes: list[str] = []
    most = 10_000 + 10 * settings.get("steps", 0)  # more rows are of no run of so many updates
    return History(
        path,
        settings,
        _columns(path / METRICS, METRIC_ROW, most, notes),
        _columns(path / TIMINGS, TIMING_ROW, most, notes),
        sessions=_or_left_out(path / ENVIRONMENT, read_sessions, notes) or [],
        summary=_or_left_out(path / SUMMARY, _read_summary, notes),
        sample=_or_left_out(path / SAMPLE, _read_sample, notes) or "",
        notes=notes,
    )


def owner_lives(lock: Path) -> bool:
    """True if the process that last held a run's lock is there; the lock is not touched."""
    try:
        os.kill(max(1, int(read_bytes(lock, 20, "run", follow=False))), 0)
    except PermissionError:  # it is somebody else's
        return True
    except (OSError, ValueError, OverflowError):
        return False
    return True


def _settings(run: Path) -> dict[str, Any]:
    """The settings that this version knows, by dotted name."""
    kinds = keys()
    try:
        found = {
            name: coerce(value, kinds[name], name)
            for name, value in flatten(read_config(run)).items()
            if name in kinds
        }
        if not 0 <= found.get("steps", 0) <= MOST_STEPS:
            raise ValueError(f"steps is {shown(found['steps'], 30)}")
        Ramp.of(1, found.get("optim.ramp", ""))
    except (FileError, RunError):
        raise
    except ValueError as error:
        said = shown(str(error).removeprefix("[config] "), 300).rstrip(".")
        raise RunError(f"[run] {shown(run / CONFIG)} is damaged: {said}.") from None
    return found


def _columns(path: Path, form: Check, most: int, notes: list[str]) -> Columns:
    """The sound rows of a file. A half-written last row is ignored without a note."""
    found = Columns()
    if not os.path.lexists(path):
        return found
    damaged, first = 0, ""
    try:
        for number, line in enumerate(read_lines(path, LONGEST_ROW, "run", follow=False), 1):
            try:
                found.add(form(parse_json(line)))
            except ValueError as error:
                if line.endswith(b"\n"):
                    damaged += 1
                    first = first or f"line {number:,}: {shown(error)}"
            if found.rows > most:
                notes.append(
                    f"[run] expected at most {most:,} rows in {shown(path)}, got more. The report "
                    "ignores the rest."
                )
                break
    except FileError as error:
        notes.append(f"{error} The report ignores everything after row {found.rows:,}.")
    if damaged:
        rows = "a damaged row" if damaged == 1 else f"{damaged:,} damaged rows"
        notes.append(f"[run] the report ignores {rows} in {shown(path)}, {first}.")
    return found


def _numbers(row: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in row.items():
        if isinstance(value, dict):
            yield from ((f"{name}/{key}", ms) for key, ms in value.items())
        elif value is not None and name != "step":
            yield name, float(value)


def _or_left_out(path: Path, read: Callable[[Path], Any], notes: list[str]) -> Any:
    """Calls `read`; None where there is no file, or, with a note, where it is damaged."""
    if not os.path.lexists(path):
        return None
    try:
        return read(path)
    except (FileError, RunError) as error:
        notes.append(f"{str(error).partition(' Hint:')[0]} The report ignores it.")
        return None


def _read_summary(path: Path) -> Any:
    return read_json(path, where="run", follow=False, form=breakdown.SUMMARY)


def _read_sample(path: Path) -> str:
    return visible(read_bytes(path, MIB, "run", follow=False).decode("utf-8", "replace")).strip()
