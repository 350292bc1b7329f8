"""Signals while a run lasts: which of them end it politely, and which one asks for a checkpoint.

SIGINT, SIGTERM and SIGHUP stop it at the next micro-step, with a checkpoint; a second one, or one
before there is anything to save, raises KeyboardInterrupt from wherever the run is. SIGUSR1 makes a
checkpoint there and the run goes on. A signal that our caller ignores (nohup does that
to SIGHUP) stays ignored, and a SIGUSR1 that somebody else handles stays theirs.
"""

from __future__ import annotations

import _thread
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop:
    """The requests of signals so far."""

    saves = False  # whether there is something to make a checkpoint of; before, an end is at once
    requested = False  # an end, with a checkpoint
    checkpoint = False  # a checkpoint, and no end
    _shield = _late = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self.saves or (self.requested and not self._shield):
            raise KeyboardInterrupt
        self._late = self.requested
        self.requested = True

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """KeyboardInterrupt waits for the end of the block: half an update is none."""
        self._shield = True
        try:
            yield
        finally:
            self._shield = False
        if self._late:
            raise KeyboardInterrupt

    def keep(self, number: int, frame: FrameType | None) -> None:
        """The handler of SIGUSR1."""
        self.checkpoint = True


@contextmanager
def stopping() -> Iterator[Stop]:
    """A Stop that hears signals while the context lasts; the handlers before come back after."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # Python delivers signals to the main thread only
        return
    before: dict[int, Any] = {}

    def hear(number: int, handler: Callable[[int, FrameType | None], None]) -> None:
        before[number] = signal.signal(number, handler)

    try:
        for number in ENDING:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):  # None: not Python's
                hear(number, stop)
        if signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL:
            hear(signal.SIGUSR1, stop.keep)
        yield stop
    finally:
        for heard, handler in before.items():
            signal.signal(heard, handler)


@contextmanager
def delivered() -> Iterator[None]:
    """A KeyboardInterrupt that lands in a finaliser is raised again, outside of it.

    Python cannot raise it from there: it would print a traceback, and the interrupt would be lost.
    """
    before, main = sys.unraisablehook, threading.main_thread().ident or 0
    left = threading.Event()
    leaving = threading.Lock()

    def again() -> None:
        left.wait(0.01)  # by then the finaliser is done
        with leaving:
            if not left.is_set():
                signal.pthread_kill(main, signal.SIGINT)  # which ends a call that waits, too

    def hook(failure: sys.UnraisableHookArgs) -> None:
        if failure.exc_type is KeyboardInterrupt:
            _thread.start_new_thread(again, ())
        else:
            before(failure)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        with leaving:
            left.set()
        sys.unraisablehook = before
