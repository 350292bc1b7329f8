"""One thread that carries out calls in their order, beside the thread that trains.

Like a ThreadPoolExecutor of one, but its thread is a daemon: the interpreter waits for an
executor's threads when it exits, and a device's call may never return (watchdog.py).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any


class Worker:
    """Carries out what is submitted, until `close`."""

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        """The future result, or exception, of a call."""
        future: Future[Any] = Future()
        self._jobs.put((future, call))
        return future

    def close(self) -> None:
        """Waits for what was submitted and ends the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, call = job
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)
            del job, future, call  # else they live on until the next one comes
