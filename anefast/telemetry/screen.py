"""The terminal: lines and a progress bar, from a thread of their own.

Nothing is drawn by the thread that trains: it leaves a line or a number and goes on. What a slow
terminal has not taken yet waits here, the bar is redrawn at most ten times a second with what is
newest, and a reader that went away costs the output, never the run. Published for an M1 Pro: a run
was 7.4 times slower with its rows on a terminal than with them in a file (maderix/ANE issue 24).
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections import deque
from typing import Protocol

from tqdm import tqdm

from anefast.errors import visible

REFRESH_SECONDS = 0.1
PATIENCE_SECONDS = 5.0  # how long `close` waits for a terminal that takes nothing
CHUNK_BYTES = 512


class Stream(Protocol):
    """The part of a text file's interface that is used here."""

    def write(self, text: str, /) -> int: ...
    def flush(self) -> None: ...


def is_terminal(stream: object) -> bool:
    """True for a terminal; False for a stream that cannot say."""
    ask = getattr(stream, "isatty", None)
    return ask is not None and bool(ask())


def is_watched(stream: object) -> bool:
    """True for a terminal, and for the output of a notebook's cell."""
    return is_terminal(stream) or type(stream).__module__.startswith("ipykernel.")


class Bar(tqdm):  # type: ignore[type-arg]
    """tqdm without its own watching thread, and without the lock that it takes to draw: it is not
    given back where drawing fails, and every later bar of the process would wait for it."""

    monitor_interval = 0

    def refresh(self, nolock: bool = True, lock_args: object = None) -> None:
        """Draws the bar."""
        super().refresh(nolock=True)

    def clear(self, nolock: bool = True) -> None:
        """Removes the bar from the screen."""
        super().clear(nolock=True)


class Direct:
    """A file descriptor as a text stream without buffer or lock.

    A thread that is stuck in a write of sys.stderr keeps its lock, and the interpreter would wait
    for that when it exits. OSError when the reader is gone.
    """

    encoding = "utf-8"

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, text: str) -> int:
        data = memoryview(text.encode("utf-8", "replace"))
        while data:
            data = data[os.write(self._descriptor, data[:CHUNK_BYTES]) :]
        return len(text)

    def flush(self) -> None:
        """Does nothing: nothing is buffered."""

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)


class Screen:
    """Lines go to `out`, and a bar to `err` if `bar` says so. `say` and `show` never wait.

    A terminal gets lines as `visible` has them.
    """

    def __init__(
        self, bar: bool = False, out: Stream | None = None, err: Stream | None = None
    ) -> None:
        self._out: Stream | None = out or sys.stdout
        self._shown_as = visible if is_terminal(self._out) else str
        self._err: Stream | None = (err or sys.stderr) if bar else None
        self._lines: deque[str] = deque()
        self._shown: tuple[int, int, str] | None = None  # done, total, note
        self._news = threading.Event()
        self._closing = False
        self._moved = time.monotonic()
        self._thread = threading.Thread(target=self._serve, name="anefast-screen", daemon=True)
        self._thread.start()

    @property
    def has_bar(self) -> bool:
        return self._err is not None

    def say(self, line: str) -> None:
        """Queues a line to be printed."""
        self._lines.append(line)
        self._news.set()

    def show(self, done: int, total: int, note: str = "") -> None:
        """Sets the bar's text."""
        self._shown = (done, total, note)

    def close(self) -> None:
        """Returns when everything is printed, or when the terminal was stuck for five seconds."""
        self._closing = True
        self._news.set()
        while self._thread.is_alive() and time.monotonic() - self._moved < PATIENCE_SECONDS:
            self._thread.join(0.05)

    def _serve(self) -> None:
        bar: Bar | None = None
        while True:
            last = self._closing
            while self._lines:
                self._print(self._lines.popleft(), bar)
            if self._err is not None and self._shown is not None:
                bar = self._draw(bar, *self._shown)
            if last:
                break
            if not self._closing and bar is not None:
                time.sleep(REFRESH_SECONDS)
            self._news.wait(REFRESH_SECONDS if self._err is not None else None)
            self._news.clear()
        if bar is not None and self._err is not None:
            with contextlib.suppress(OSError, ValueError):
                bar.close()

    def _draw(self, bar: Bar | None, done: int, total: int, note: str) -> Bar | None:
        try:
            if bar is None:
                bar = Bar(
                    total=total, initial=done, file=self._err, unit="batch", disable=False,
                    dynamic_ncols=True, postfix=note,
                )  # fmt: skip
            else:
                bar.n = done
                bar.set_postfix_str(note, refresh=False)
                bar.refresh()
            self._moved = time.monotonic()
        except (OSError, ValueError):  # the reader is gone
            self._err = None
            if bar is not None:
                bar.disable = True  # else it tries once more when it is collected
        return bar

    def _print(self, line: str, bar: Bar | None) -> None:
        if self._out is None:
            return
        if bar is not None and self._err is not None:
            with contextlib.suppress(OSError, ValueError):
                bar.clear()
        try:
            print(self._shown_as(line), file=self._out, flush=True)
            self._moved = time.monotonic()
        except (OSError, ValueError):
            self._out = None
