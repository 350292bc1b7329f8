"""One thread that does the slow part of logging: files, dashboards, sums of spans.

Calls run in the order in which they came. The first one that fails stops the rest, so that a file
never has a gap, and its error is raised by the next `call` or `flush` of the thread that trains.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

WAITING_CALLS = 256  # past which `call` waits: a stalled disk must not fill the memory instead

_Call = tuple[Callable[..., None], tuple[Any, ...]]


class Background:
    """A running thread until `close`. `call`, `flush` and `close` belong to one other thread."""

    def __init__(self, name: str) -> None:
        self._calls: queue.Queue[_Call | threading.Event | None] = queue.Queue(WAITING_CALLS)
        self._error: BaseException | None = None
        self._told = False
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def call(self, function: Callable[..., None], *arguments: Any) -> None:
        """Queues a call for the thread. Raises what an earlier call raised, once."""
        self._check()
        self._put((function, arguments))

    def flush(self) -> None:
        """Returns when every call has run. Raises what one of them raised, once."""
        self._check()
        done = threading.Event()
        self._put(done)
        done.wait()
        self._check()

    def close(self) -> None:
        """Runs what is left and ends the thread. An error that was not raised yet is raised."""
        if self._thread.is_alive():
            self._calls.put(None)
            self._thread.join()
        self._check()

    def _put(self, item: _Call | threading.Event) -> None:
        if not self._thread.is_alive():  # nothing would ever take it
            raise RuntimeError(
                f"[{self._thread.name}] expected calls before close, and in the process that began "
                "it, got one of a thread that has ended."
            )
        self._calls.put(item)

    def _check(self) -> None:
        if self._error is not None and not self._told:
            self._told = True
            raise self._error

    def _serve(self) -> None:
        while (item := self._calls.get()) is not None:
            try:
                if isinstance(item, threading.Event):
                    item.set()
                elif self._error is None:
                    function, arguments = item
                    function(*arguments)
            except BaseException as error:  # whatever it is, it is the training thread's
                self._error = error
