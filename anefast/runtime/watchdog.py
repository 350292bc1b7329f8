"""A watchdog over the calls of a device: one that does not return ends the run, its state saved.

A call that hangs is lost, and with it the thread that made it. So another thread acts. Where that
thread is the one that trains, the watchdog's own thread saves what a checkpoint holds (nothing
changes it: its owner is stuck) and ends the process. Where it is another one, such as the
background compiler's, the thread that trains is told by `Hung` the next time it asks, and goes the
way of every failed device.

The calls themselves only leave a note (csrc/calls.h); this looks at the notes a few times a second
and counts how long each has stood. It counts the time that it was awake itself, so a computer that
slept, or a process that was stopped, is not a call that hangs. A short call, such as a surface's
lock, keeps the interpreter to itself; should one hang, a native thread ends the process, and what
came after the last checkpoint is lost.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import Any, NoReturn

from anefast import _C
from anefast.config import GuardConfig
from anefast.errors import shown

LONGEST_LOOK = 0.5  # seconds between looks
MOST_SHOWN = 4096  # characters of the last line
SHORTEST_PATIENCE = 5.0  # seconds; a busy machine may keep this thread from running for one
RESCUE_SECONDS = 300.0  # within which state is saved, or given up
WORDS = {"compile": "compiling", "load": "loading", "evaluate": "evaluating", "unload": "unloading"}

_current: Watchdog | None = None
_found = ""  # the first call of this process that did not return


class Hung(_C.DeviceError):
    """A call that another thread made does not return."""


class Watchdog:
    """Looks at the calls under way until `stop`. Its owner is the thread that makes it.

    rescue: saves the state it can and returns a sentence about it; called on the watchdog's thread
    while the owner is stuck. otherwise: printed where there is nothing to save. A process whose
    owner is stuck ends with exit code 1.
    """

    def __init__(self, limits: GuardConfig, otherwise: str = "") -> None:
        self.otherwise = otherwise
        given = {"compile": limits.compile_s, "load": limits.load_s, "evaluate": limits.evaluate_s}
        given["unload"] = limits.load_s
        self._limits = {kind: seconds for kind, seconds in given.items() if seconds}
        self.rescue: Callable[[], str] | None = None
        self._owner = threading.get_ident()
        self._seen: dict[int, tuple[int, float]] = {}  # thread: its call, and for how long
        self._done = threading.Event()
        patience = max(limits.evaluate_s, limits.load_s)
        self._patience = max(patience, SHORTEST_PATIENCE) if patience else 0.0
        self._silent = (
            "[device] expected the device to answer a short call, such as a surface's lock, within "
            f"{self._patience:g} s (guard.load_s, guard.evaluate_s), got no answer. Hint: --resume "
            "goes on from the last checkpoint; if it hangs again, restart the system.\n"
        )
        self._looks = min([LONGEST_LOOK, *(s / 10 for s in self._limits.values())])
        self._thread = threading.Thread(target=self._run, name="anefast-watchdog", daemon=True)
        if self._limits:
            self._thread.start()

    def stop(self) -> None:
        """Looks no more, and holds on to nothing."""
        self._done.set()
        self.rescue = None
        if self._thread.is_alive():
            self._thread.join(1.0)
        _C.calls_last_resort(0.0, "")

    def _run(self) -> None:
        before = time.monotonic()
        while not self._done.wait(self._looks):
            now = time.monotonic()
            awake, before = min(now - before, 2 * self._looks), now
            if _current is self:  # else a later one watches, while it is there
                _C.calls_last_resort(self._patience, self._silent)
                self._look(awake)

    def _look(self, awake: float) -> None:
        global _found
        seen = {}
        for thread, number, kind, program in _C.calls_under_way():
            was, age = self._seen.get(thread, (number, 0.0))
            age = age + awake if was == number else 0.0
            seen[thread] = number, age
            limit = self._limits.get(kind)
            if limit is None or age < limit:
                continue
            _found = _found or described(kind, program, limit)
            if thread == self._owner:
                self._end()
        self._seen = seen

    def _end(self) -> NoReturn:
        """Saves, says it, and ends the process; also where saving does not end."""
        _C.calls_last_resort(0.0, "")
        late = f"Saving took more than {RESCUE_SECONDS:g} s and was given up."
        timer = threading.Timer(RESCUE_SECONDS, leave, [f"{_found} {late}"])
        timer.daemon = True
        timer.start()
        said = self.otherwise
        if self.rescue is not None:
            try:
                said = self.rescue()
            except BaseException as error:  # the process ends in any case, with the reason
                said = f"Saving failed too: {type(error).__name__}: {error}"
        leave(f"{_found} {said}")


def described(kind: str, program: str, limit: float) -> str:
    """The line about a call that does not return."""
    setting = f"guard.{'load' if kind == 'unload' else kind}_s"
    return (
        f"[device] expected {WORDS[kind]} {program or 'a program'} to return within {limit:g} s "
        f"({setting}), got no answer. Hint: a larger {setting} if it is only slow; if it hangs "
        "again, restart the system."
    )


def leave(line: str) -> NoReturn:
    """The last line of a process with a thread that cannot be ended."""
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        time.sleep(0.2)  # for what the screen's thread has yet to write
        clean = "\r\x1b[K" if os.isatty(2) else ""
        told = shown(" ".join(line.split()), MOST_SHOWN)
        os.write(2, f"{clean}{told}\n".encode("utf-8", "replace"))
    os._exit(1)


@contextmanager
def watching(limits: GuardConfig, otherwise: str = "") -> Iterator[Watchdog]:
    """A watchdog while the context lasts, in place of one around it."""
    global _current
    before, _current = _current, Watchdog(limits, otherwise)
    try:
        yield _current
    finally:
        _current.stop()
        _current = before


def rescued_by(rescue: Callable[[], str]) -> None:
    """From now on this saves, should the thread that trains be stuck. For where a state is whole
    whenever a device is called."""
    if _current is not None:
        _current.rescue = rescue


def stuck() -> bool:
    """True if this process has a thread that cannot be ended."""
    return bool(_found)


def check() -> None:
    """Raises Hung where a call of another thread does not return."""
    if _found:
        raise Hung(_found)


def result_of(future: Future[Any]) -> Any:
    """Its result, waited for; Hung where that may never come."""
    while not wait([future], LONGEST_LOOK).done:
        check()
    return future.result()


def keep(thing: object) -> None:
    """Never frees it: what a stuck thread may hold cannot be given back, and trying would hang."""
    _kept.append(thing)


_kept: list[object] = []
