"""Spans as a trace-event file, for https://ui.perfetto.dev or chrome://tracing; both work offline.

One JSON array of events, written as they come, so that the file of a run that was killed can still
be opened. Times are microseconds since recording began. Weight gradients that wait in the queue
overlap each other, so they are asynchronous events; everything else nests on its thread's track.
"""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from anefast import _C
from anefast.errors import shown
from anefast.files import open_new

log = logging.getLogger("anefast")

MOST_EVENTS = 1_000_000  # some 150 MB, about what a viewer can still open
QUEUE_TRACK = 1 << 16  # past every thread number


class Trace:
    """An open trace file. FileError where it cannot be opened."""

    def __init__(self, path: str, thread: int, origin_ns: int) -> None:
        self._path = path
        file = open_new(path, "trace", devices=True)
        self._file = io.TextIOWrapper(io.BufferedWriter(file), encoding="utf-8")
        self._origin, self._pid, self._thread = origin_ns, os.getpid(), thread
        self._named: set[int] = set()
        self._events = self._jobs = self._added_up = 0
        self._file.write("[\n")
        self._meta("process_name", thread, "anefast")
        self._name(QUEUE_TRACK, "dW queue: waiting", 1)

    def write(self, records: npt.NDArray[np.void]) -> None:
        """Appends spans; past MOST_EVENTS they are left out, as are those that were added up before
        anybody took them. Both are printed once."""
        if self._events > MOST_EVENTS or self._file.closed:
            return
        each = records["count"] == 1
        self._added_up += int(records["count"][~each].sum())
        with self._or_end():
            self._append(records[each])
        if self._events > MOST_EVENTS:
            log.warning("the trace is full: %d events; later ones are not written", self._events)

    def close(self) -> None:
        """Ends the array."""
        if self._added_up:
            log.warning(
                "the trace leaves out %d spans, which came too fast; all sums have them",
                self._added_up,
            )
        if not self._file.closed:
            with self._or_end():
                self._meta("process_labels", self._thread, "anefast", last=True)
                self._file.write("]\n")
                self._file.close()

    @contextmanager
    def _or_end(self) -> Iterator[None]:
        """Ends the trace with a warning if it cannot be written: the run goes on."""
        try:
            yield
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            log.warning("the trace ends here: cannot write %s: %s", shown(self._path), reason)
            with suppress(OSError):
                self._file.close()

    def _append(self, records: npt.NDArray[np.void]) -> None:
        labels, threads = _C.spans_labels(), _C.spans_threads()
        for record in records:
            component = _C.Component(int(record["component"]))
            label = labels[int(record["label"])]
            thread = int(record["thread"])
            if thread not in self._named:
                self._name(thread, *track(threads[thread], thread == self._thread))
            start, end = (self._us(record[edge]) for edge in ("start", "end"))
            phase = _C.Phase(int(record["phase"])).name.lower()
            event: dict[str, Any] = {"name": component.name.lower(), "cat": phase, "ts": start}
            event["pid"] = self._pid
            arguments: dict[str, Any] = {k: int(record[k]) for k in ("flops", "bytes") if record[k]}
            if label:
                arguments["of"] = label
            if component == _C.Component.DW_QUEUED:
                self._jobs += 1
                event |= {"tid": QUEUE_TRACK, "id": self._jobs}
                self._event(event | {"ph": "b", "args": arguments})
                self._event(event | {"ph": "e", "ts": end})
                continue
            if component == _C.Component.EVALUATE and label:
                event["name"] = label
            self._event(
                event | {"ph": "X", "dur": round(end - start, 3), "tid": thread, "args": arguments}
            )

    def _name(self, thread: int, name: str, place: int) -> None:
        self._named.add(thread)
        self._meta("thread_name", thread, name)
        self._meta("thread_sort_index", thread, place)

    def _meta(self, kind: str, thread: int, value: str | int, last: bool = False) -> None:
        key = {"thread_sort_index": "sort_index", "process_labels": "labels"}.get(kind, "name")
        event = {"name": kind, "ph": "M", "pid": self._pid, "tid": thread, "args": {key: value}}
        self._event(event, last)

    def _event(self, event: dict[str, Any], last: bool = False) -> None:
        self._events += 1
        self._file.write(json.dumps(event) + ("\n" if last else ",\n"))

    def _us(self, ns: Any) -> float:
        return round((int(ns) - self._origin) / 1e3, 3)


def track(name: str, trains: bool) -> tuple[str, int]:
    """The name of a thread's track, and its place from the top."""
    if trains:
        return "training", 0
    if name == "pool worker":  # regions are the training thread's; what it records is the queue's
        return "dW queue: pool worker", 2
    return name, 3
