"""The thread that owns the device: requests wait in line, and those under way are continued side
by side, so each weight is read once for all of them.

A text is what it would be alone, whoever is beside it (decode.py). Results leave through each
job's `deliver`, which is called on this thread.
"""

from __future__ import annotations

import logging
import threading
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from anefast.config import GuardConfig
from anefast.decode import Said, Text, Together
from anefast.model import Model
from anefast.runtime import Device
from anefast.runtime.watchdog import watching

log = logging.getLogger("anefast")

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Token:
    """A token that was made: its log-probability, and the likeliest with theirs, if wanted."""

    id: int
    previous: int
    log_probability: float = 0.0
    likeliest: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Part:
    """New tokens of one text of a job. finish: why it ends here."""

    index: int
    text: str
    tokens: list[Token]
    finish: Finish | None = None


@dataclass(eq=False)
class Job:
    """The texts of one request, and who hears of them. deliver: takes a Part, or the error that
    ended the job; it must not block."""

    texts: list[Text]
    said: list[Said]
    deliver: Callable[[Part | Exception], None]
    cancelled: bool = False
    _over: set[int] = field(default_factory=set)

    @property
    def under_way(self) -> list[int]:
        """The indices of its texts that are not finished."""
        return [i for i in range(len(self.texts)) if i not in self._over]

    def take(self, index: int, tokens: list[int]) -> None:
        """Delivers the new tokens of a text."""
        text, said, made = self.texts[index], self.said[index], self.texts[index].made
        parts: list[str] = []
        found: list[Token] = []
        ids = text.ids[: len(text.ids) - len(tokens)]
        for token in tokens:
            at, previous = said.tokens, ids[-1]
            parts.append(said.push(token))
            more = (made.log_probabilities[at],) if made.keeps else ()
            likeliest = (tuple(made.likeliest[at]),) if made.wanted else ()
            found.append(Token(token, previous, *more, *likeliest))
            ids = [token]
            if said.met:
                text.close()
                break
        finish: Finish | None = None
        if text.done:
            self._over.add(index)
            parts.append(said.close())
            finish = "stop" if said.met or text.stopped else "length"
        if found or finish:
            self.deliver(Part(index, "".join(parts), found, finish))

    def close(self) -> None:
        """Releases what its texts use on the device."""
        for text in self.texts:
            text.close()


class Full(Exception):
    """The queue is full: no further request may wait."""


class Worker:
    """The thread. side: texts that are continued side by side. room: jobs that may wait."""

    def __init__(self, model: Model, device: Device, side: int, room: int) -> None:
        self._model, self.device, self._side, self._room = model, device, side, room
        self._line: deque[Job] = deque()
        self._jobs: list[Job] = []  # under way; of this thread alone
        self._change = threading.Condition()
        self._ends = False
        self._ready = threading.Event()
        self._thread: threading.Thread | None = None
        self.failure: BaseException | None = None  # what ended the thread

    def start(self, fails: Callable[[], Any]) -> None:
        """Compiles what it needs, and then works. Returns when it is ready; raises what kept it
        from being so. fails: called where the thread ends by itself later on."""
        self._thread = threading.Thread(
            target=self._run, args=(fails,), name="anefast-serve", daemon=True
        )
        self._thread.start()
        self._ready.wait()
        if self.failure is not None:
            raise self.failure

    def submit(self, job: Job) -> None:
        """Queues a job. Raises Full if the queue has no room."""
        with self._change:
            if self._ends or len(self._line) >= self._room:
                raise Full
            self._line.append(job)
            self._change.notify()

    def cancel(self, job: Job) -> None:
        """Cancels a job. This is safe for one that is done."""
        with self._change:
            job.cancelled = True
            if job in self._line:
                self._line.remove(job)
            self._change.notify()

    @property
    def waiting(self) -> int:
        return len(self._line)

    @property
    def under_way(self) -> int:
        return len(self._jobs)

    def stop(self) -> None:
        """Ends the thread after the current evaluation; unfinished jobs get an error."""
        with self._change:
            self._ends = True
            self._change.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self, fails: Callable[[], Any]) -> None:
        try:
            with watching(GuardConfig()):
                inference = self._model.kept(self.device)
                inference.logits([0])  # compiles
                together = Together(inference)
                self._ready.set()
                while self._admit():
                    self._step(together)
        except BaseException as error:  # raised again by whoever started it
            self.failure = error
        finally:
            with self._change:
                self._ends = True
                left = [*self._jobs, *self._line]
                self._jobs, self._line = [], deque()
            self._ready.set()
            fails()
            for job in left:
                job.close()
                job.deliver(Full("the server is shutting down"))

    def _admit(self) -> bool:
        """Waits for jobs and starts as many as there is room for. False: the thread ends."""
        with self._change:
            while True:
                self._drop([job for job in self._jobs if job.cancelled])
                if self._ends:
                    return False
                texts = sum(len(job.under_way) for job in self._jobs)
                while self._line and texts + len(self._line[0].texts) <= self._side:
                    self._jobs.append(self._line.popleft())
                    texts += len(self._jobs[-1].texts)
                if self._jobs:
                    return True
                self._change.wait()

    def _step(self, together: Together) -> None:
        """One evaluation of every text under way."""
        turns = [(job, i) for job in self._jobs for i in job.under_way]
        live = [(job, i) for job, i in turns if not job.texts[i].done]
        for job, i in turns:
            if job.texts[i].done:  # no token was asked for
                job.take(i, [])
        try:
            found = together.step([job.texts[i] for job, i in live]) if live else []
        except Exception as error:  # it is of the device, or a defect: nobody's text goes on
            log.error("[serve] an evaluation failed: %s", error)
            log.debug("%s", traceback.format_exc())
            together.inference.close()
            for job in self._jobs:
                job.deliver(error)
            self._drop(list(self._jobs))
            return
        for (job, i), tokens in zip(live, found, strict=True):
            job.take(i, tokens)
        self._drop([job for job in self._jobs if not job.under_way])

    def _drop(self, jobs: list[Job]) -> None:
        for job in jobs:
            self._jobs.remove(job)
            job.close()
