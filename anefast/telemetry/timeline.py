"""Measures where the time of a run goes: native spans, summed per update and over the session.

The thread that trains only empties the rings (`tick`); summing, and writing a trace, is the
background thread's. On the training thread the self times of the spans add up, and what is left of
the wall time between two marks is Python's: it is computed, not hidden. Spans of other threads run
beside it and are summed apart. The rings are the process's, so one timeline records at a time.

What the components are: csrc/span.h. How the sums are printed: breakdown.py.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from anefast import _C
from anefast.files import write_json
from anefast.telemetry.background import Background
from anefast.telemetry.trace import Trace

log = logging.getLogger("anefast")

TICK_SECONDS = 0.05  # rings hold some 0.15 s of the busiest thread that was seen
PYTHON = "python"  # what no span accounts for

Records = npt.NDArray[np.void]
_one_at_a_time = threading.Lock()


@dataclass
class Sums:
    """Spans between two marks: arrays by phase and component of the training thread."""

    wall_ns: int = 0
    micro_steps: int = 0
    driving: npt.NDArray[np.float64] = field(  # self ns, count, flops, bytes
        default_factory=lambda: np.zeros((4, len(_C.Phase), len(_C.Component)))
    )
    beside: npt.NDArray[np.float64] = field(  # ns and count of the other threads
        default_factory=lambda: np.zeros((2, len(_C.Component)))
    )
    programs: dict[int, list[float]] = field(default_factory=dict)  # label: ns, count, flops, bytes

    def take(self, records: Records, thread: int) -> None:
        """Adds spans; `thread` is the one that trains."""
        component = records["component"].astype(np.int64)
        lasted = (records["end"] - records["start"]).astype(np.float64)
        queued = component == _C.Component.DW_QUEUED
        mine = (records["thread"] == thread) & ~queued
        size = self.driving[0].size
        place = (records["phase"].astype(np.int64) * len(_C.Component) + component)[mine]
        for row, weights in zip(
            self.driving,
            (records["self"], records["count"], records["flops"], records["bytes"]),
            strict=True,
        ):
            row += np.bincount(place, weights[mine], size).reshape(row.shape)
        others = ~mine
        spent = np.where(queued, lasted, records["self"])[others]
        self.beside[0] += np.bincount(component[others], spent, len(_C.Component))
        count = records["count"][others]
        self.beside[1] += np.bincount(component[others], count, len(_C.Component))
        run = records[component == _C.Component.EVALUATE]
        labels, which = np.unique(run["label"], return_inverse=True)
        parts = (run["end"] - run["start"], run["count"], run["flops"], run["bytes"])
        each = np.array([np.bincount(which, part, len(labels)) for part in parts])
        self._add_programs(dict(zip(labels.tolist(), each.T.tolist(), strict=True)))

    def add(self, other: Sums) -> None:
        """Adds other sums, field by field."""
        self.wall_ns += other.wall_ns
        self.micro_steps += other.micro_steps
        self.driving += other.driving
        self.beside += other.beside
        self._add_programs(other.programs)

    def _add_programs(self, programs: dict[int, list[float]]) -> None:
        for label, row in programs.items():
            mine = self.programs.get(label, [0.0] * 4)
            self.programs[label] = [a + b for a, b in zip(mine, row, strict=True)]

    @property
    def python_ns(self) -> float:
        return max(0.0, self.wall_ns - float(self.driving[0].sum()))

    def row(self) -> dict[str, float]:
        """'forward/evaluate' and so on to milliseconds; the values add up to the wall time."""
        ms = {
            f"{p.name}/{c.name}".lower(): round(self.driving[0, p, c] / 1e6, 4)
            for p in _C.Phase
            for c in _C.Component
            if self.driving[1, p, c]
        }
        return ms | {PYTHON: round(self.python_ns / 1e6, 4)} if self.wall_ns else ms


class Timeline:
    """Records from `start` to `stop`. Does nothing at all where `wanted` is false.

    What is public belongs to the training thread, except `row`.
    """

    def __init__(self, wanted: bool = True, trace: str = "") -> None:
        self._wanted = wanted or bool(trace)
        self._trace_path = trace
        self._trace: Trace | None = None
        self._background: Background
        self.running = False
        self._next_tick = 0.0
        # the background thread's from here on
        self.updates, self.between = Sums(), Sums()
        self._current, self._last, self._before = Sums(), Sums(), Sums()
        self._marked = 0
        self._dropped = 0
        self.first_step = self.last_step = 0

    def start(self, background: Background) -> None:
        """Begins to record. If another run of this process records, this one does not.

        FileError when the trace cannot be written.
        """
        if not self._wanted:
            return
        if _one_at_a_time.locked():
            log.warning("another run of this process is being timed; this one is not")
            return
        self._background, self._thread = background, _C.spans_thread()
        if self._trace_path:
            self._trace = Trace(self._trace_path, self._thread, _C.spans_clock())
        _one_at_a_time.acquire()
        _C.spans_name_thread("training")
        _C.spans_drain()
        self._dropped = _C.spans_dropped()
        self._marked = _C.spans_clock()
        self.running = True
        _C.spans_record(True)

    def tick(self) -> None:
        """Empties the rings if it is time. Call at least every few micro-steps."""
        if self.running and time.monotonic() >= self._next_tick:
            self._empty()

    def begin_update(self) -> int:
        """A mark: what comes after it is an update's. Returns when that is, in nanoseconds."""
        if self.running:
            self._empty()
        now = _C.spans_clock()  # what comes next may wait for the thread that takes it
        if self.running:
            self._background.call(self._begin, now)
        return now

    def end_update(self, step: int, micro_steps: int) -> int:
        """The mark at an update's end. `row` gives its times until the next one ends."""
        if self.running:
            self._empty()
        now = _C.spans_clock()
        if self.running:
            self._background.call(self._end, now, step, micro_steps)
        return now

    def report(self, path: Path, **more: Any) -> None:
        """Writes the summary of the session so far to `path`, soon; `more` goes with it."""
        if self.running:
            self._empty()
            self._background.call(self._report, path, more)

    def stop(self, path: Path, **more: Any) -> None:
        """Stops recording; the summary is written and the trace closed when it returns."""
        if not self.running:
            return
        self.running = False
        _C.spans_record(False)
        _C.spans_phase(_C.Phase.BETWEEN)
        _one_at_a_time.release()
        self._background.call(self._take, _C.spans_drain())
        self._background.call(self._begin, _C.spans_clock())
        if self._trace is not None:
            self._background.call(self._trace.close)
        self._background.call(self._report, path, more)
        self._background.flush()

    def row(self) -> dict[str, Any]:
        """The last update for timings.jsonl, milliseconds by name; on the background thread.

        spans_ms: the training thread during the update. before_ms: the same between the update
        before and this one. beside_ms: other threads during the update, and how long weight
        gradients waited in the queue, summed over them.
        """
        if not self.updates.micro_steps:
            return {}
        ns, count = self._last.beside
        beside = {c.name.lower(): round(ns[c] / 1e6, 4) for c in _C.Component if count[c]}
        row = {"spans_ms": self._last.row(), "before_ms": self._before.row(), "beside_ms": beside}
        lost = _C.spans_dropped() - self._dropped
        return row | {"spans_lost": lost} if lost else row

    def summary(self) -> dict[str, Any]:
        """The session so far, as breakdown.py prints it and breakdown.json holds it."""
        return {
            "first_step": self.first_step,
            "last_step": self.last_step,
            "micro_steps": self.updates.micro_steps,
            "updates": summary(self.updates),
            "between": summary(self.between),
            "lost": _C.spans_dropped() - self._dropped,
        }

    def _empty(self) -> None:
        began = _C.spans_clock()
        self._next_tick = time.monotonic() + TICK_SECONDS
        records = _C.spans_drain()
        # not a span, which would be drained with those after the next mark
        self._background.call(self._take, records, _C.spans_clock() - began)

    def _take(self, records: Records, took_ns: int = 0) -> None:
        self._current.take(records, self._thread)
        self._current.driving[:2, _C.Phase.UPDATE, _C.Component.TELEMETRY] += (took_ns, 1)
        if self._trace is not None:
            self._trace.write(records)

    def _begin(self, now: int) -> None:
        self._before, self._current = self._marked_at(now), Sums()
        self.between.add(self._before)

    def _end(self, now: int, step: int, micro_steps: int) -> None:
        self._last, self._current = self._marked_at(now), Sums()
        self._last.micro_steps = micro_steps
        self.updates.add(self._last)
        self.first_step, self.last_step = self.first_step or step, step

    def _marked_at(self, now: int) -> Sums:
        self._current.wall_ns, self._marked = now - self._marked, now
        return self._current

    def _report(self, path: Path, more: dict[str, Any]) -> None:
        write_json(path, more | self.summary(), "run")


def summary(sums: Sums) -> dict[str, Any]:
    """Sums as plain numbers: milliseconds, counts, flops and bytes, by name."""
    labels = _C.spans_labels()
    ns, count, flops, nbytes = sums.driving
    return {
        "ms": sums.wall_ns / 1e6,
        "python_ms": sums.python_ns / 1e6,
        "components": [
            {
                "phase": p.name.lower(),
                "component": c.name.lower(),
                "ms": ns[p, c] / 1e6,
                "count": int(count[p, c]),
                "flops": int(flops[p, c]),
                "bytes": int(nbytes[p, c]),
            }
            for p in _C.Phase
            for c in _C.Component
            if count[p, c]
        ],
        "beside": [
            {"component": c.name.lower(), "ms": ms / 1e6, "count": int(n)}
            for c, ms, n in zip(_C.Component, *sums.beside, strict=True)
            if n
        ],
        "programs": [
            {
                "name": labels[label],
                "ms": t / 1e6,
                "count": int(n),
                "flops": int(f),
                "bytes": int(b),
            }
            for label, (t, n, f, b) in sorted(sums.programs.items())
        ],
    }
