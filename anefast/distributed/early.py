"""Sums over ranks that begin while the last backward pass of an update still goes on.

The training step tells which gradients have all their parts queued. A thread waits until those have
run, and sums them over ranks. All ranks sum the same parts in the same order, the rest comes last;
where a rank has one thread only, it does the same when its pass is over. No byte depends on it.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from anefast import _C
from anefast.distributed.world import Ends, World
from anefast.models.parameters import block, places

if TYPE_CHECKING:
    from anefast.runtime import TrainingStep

NAP = 2e-4  # seconds between looks at the queue of weight gradients
Part = tuple[int, int]  # the first float of the block of gradients, and the one behind the last
Task = tuple[Sequence[str], list[Part], int]  # gradients, where they are, and jobs to wait for


class Early:
    """Between `begin`, before the last micro-step of an update, and `finish`, after it.

    ends: see World.reduce.
    """

    def __init__(self, world: World, step: TrainingStep, ends: Ends | None) -> None:
        self.world, self._step, self._ends = world, step, ends
        self._grads, self._places = block(step.grads), places(step.grads)
        self.parts: list[Part] = []  # of this update that are summed here
        self._waiting: list[Task] = []
        self._tasks: queue.Queue[Task] = queue.Queue()
        self._error: BaseException | None = None
        self._arrival: dict[str, float] | None = None
        self._at = ""
        self._thread: threading.Thread | None = None

    def begin(self, at: str) -> None:
        """at: see World.arrive."""
        self._at, self.parts, self._arrival = at, [], None

    def offer(self, names: Sequence[str]) -> None:
        """These gradients have all their parts in the queue of the step."""
        parts: list[Part] = []
        for first, last in sorted(self._places[name] for name in names):
            if parts and parts[-1][1] == first:
                parts[-1] = parts[-1][0], last
            else:
                parts.append((first, last))
        self.parts += parts
        task = names, parts, self._step.queue.submitted
        if _C.threads() == 1:  # nothing runs beside the pass
            self._waiting.append(task)
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="anefast-sums", daemon=True)
            self._thread.start()
        self._tasks.put(task)

    def _run(self) -> None:
        _C.spans_name_thread("sums over ranks")
        while True:
            task = self._tasks.get()
            try:
                if self._error is None:
                    self._sum(*task)
            except BaseException as error:  # it goes on in `finish`
                self._error = error
            finally:
                self._tasks.task_done()

    def _sum(self, names: Sequence[str], parts: list[Part], ticket: int) -> None:
        while not self._step.queue.has_run(ticket):
            time.sleep(NAP)
        self._step.finish(names)
        with _C.Span(_C.Component.COMMUNICATION):
            if self._arrival is None:
                self._arrival = self.world.arrive(self._at)
            for part in parts:
                self.world.sum(self._grads, part, self._ends)

    def finish(self) -> dict[str, float]:
        """All that was offered is summed. Returns what World.arrive does; the step's queue is
        empty."""
        for task in self._waiting:
            self._sum(*task)
        self._waiting = []
        self._tasks.join()
        if self._error is not None:
            raise self._error
        return self._arrival if self._arrival is not None else self.world.arrive(self._at)
