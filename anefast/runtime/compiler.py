"""The compile service: baked weights reach the device while training goes on, or before it does.

`sync` compiles a changed program and then goes on. `async` keeps two sets: training runs on the
programs of the weights before the last update while one background thread compiles those of the
weights after it. So what the device computes with is 0 or 1 update old, never more.

When the new set takes over is fixed, at micro-step `swap_at` after the update, because a run must
give the same bytes when it is repeated or resumed; a set that is not complete by then is waited for
(a stalled step). `swap_at=None` swaps as soon as the set is complete: fewer stale micro-steps, but
their number is the clock's, and so are the losses. `settle` swaps at once, so when a run validates
and saves is part of what it computes: changing eval_every of an async run changes its losses.

Stale gradients cost learning, the more the larger the part of an accumulation that is stale and the
higher the learning rate. A 2-layer model after 160 updates of 4 micro-steps (bench_staleness.py):

    stale micro-steps of 4      0 (sync)      1         2         3
    validation loss, lr 1e-3    2.613       2.626     2.667     2.705
    validation loss, lr 3e-3    2.376       2.488     2.805     2.959

The CPU's weights (embedding, final norm, classifier) are always the newest. They need no compiling
and no second copy; forward and backward of one micro-step read the same values, so its gradient is
exactly that of the mixture it was computed with, only taken at weights of which the layers' are one
update old. Giving stale micro-steps old copies of these too changed the losses above by up to 0.01
at lr 1e-3 and 0.10 at lr 3e-3, mostly for the better: not worth the copies. Validation and
checkpoints `settle` first and see the newest weights everywhere.

This is not the cache of equal programs: cache.py. Who says when an update happens: step.py.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from anefast import _C
from anefast.files import FileError, make_folder, open_unused
from anefast.models import Params
from anefast.runtime import watchdog
from anefast.runtime.budget import PROCESS
from anefast.runtime.cache import Blobs, CompileCache, Lease
from anefast.runtime.worker import Worker

log = logging.getLogger("anefast")

MODES = ("sync", "async")


class Compiled(Protocol):
    """The part of a kernel that this file uses."""

    name: str
    text: str

    @property
    def baked(self) -> bool: ...  # whether the program holds weights that training changes
    @property
    def bakes(self) -> bool: ...  # whether it holds any weights
    @property
    def loaded(self) -> bool: ...
    # A snapshot, in a buffer the kernel owns; None where the loaded program has the same bytes.
    def fill(self, params: Params) -> Blobs | None: ...
    def unload(self) -> None: ...
    def adopt(self, lease: Lease) -> None: ...  # from now on; releases the one before


@dataclass
class CompileLog:
    """Counts since the last update, or since the start."""

    compiles: int = 0
    compile_ms: float = 0.0  # of the sets that took over
    stale_micro_steps: int = 0  # run on the weights before the last update
    stalled_steps: int = 0  # micro-steps or updates that waited for a compile
    stall_ms: float = 0.0
    settle_ms: float = 0.0  # validation and checkpoints waiting for the newest weights

    @property
    def staleness(self) -> int:
        """Updates that the device's weights were behind, at most."""
        return int(self.stale_micro_steps > 0)

    def add(self, other: CompileLog) -> None:
        """Sums, field by field."""
        for name in vars(self):
            setattr(self, name, getattr(self, name) + getattr(other, name))


class CompileService:
    """Keeps the programs of `kernels` in step with the weights.

    mode: "sync" or "async". swap_at: micro-steps after an update at which the new set takes over,
    None for as soon as it can. `update`, `edge`, `settle` and `close` belong to one thread.
    """

    def __init__(
        self,
        cache: CompileCache,
        kernels: Iterable[Compiled],
        mode: str = "sync",
        swap_at: int | None = 1,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"[compile] expected one of {', '.join(MODES)}, got {mode!r}.")
        if swap_at is not None and swap_at < 0:
            raise ValueError(f"[compile] expected swap_at of at least 0 or None, got {swap_at}.")
        self.cache, self.kernels, self.mode, self.swap_at = cache, list(kernels), mode, swap_at
        self.budget = PROCESS
        self.total = CompileLog()
        self._recent = CompileLog()
        self._pending: _Set | None = None
        self._thread: Worker | None = None
        self._micro_steps = 0  # since the update

    @property
    def per_update(self) -> int:
        """Compiles that an update of every weight that trains costs."""
        return sum(k.baked for k in self.kernels)

    def affords(self, updates: int = 1) -> bool:
        """True if this process may compile for so many more updates."""
        promised = len(self._pending.kernels) if self._pending else 0  # perhaps made already
        needed = promised + updates * self.per_update
        return needed == 0 or self.budget.holds(needed)

    @property
    def stale(self) -> bool:
        """True if the next micro-step would run on the weights before the last update."""
        if self._pending is None or self.swap_at is None:
            return self._pending is not None and not self._pending.future.done()
        return self._micro_steps < self.swap_at

    @property
    def settled(self) -> bool:
        """True if the last micro-step ran on the programs of the newest weights."""
        return self._pending is None

    def needs(self) -> int:
        """Compiles of this process so far, and of one more update."""
        return self.budget.used + self.per_update

    def update(self, params: Params, every: bool = False) -> None:
        """Takes over changed weights: now, or once their programs are ready.

        Compiled are the programs of which the baked bytes differ. every: look at those of frozen
        weights, too, which no update changes, and take over at once. An earlier set that is still
        compiling is waited for. Raises what compiling raises, and OverflowError for a weight that
        fp16 cannot hold.
        """
        with _C.Span(_C.Component.COMPILE):  # all that is not told apart inside
            self._take_over(stalls=True)
            first = [k for k in self.kernels if not k.loaded]
            changes = [k for k in self.kernels if k.loaded and (k.bakes if every else k.baked)]
            self._micro_steps = 0
            if first or every or self.mode == "sync":
                self._compile_here([*first, *changes], params)
                return
            filled = ((k, k.fill(params)) for k in changes)
            jobs = [(k, blobs) for k, blobs in filled if blobs is not None]
            if jobs:
                if self._thread is None:
                    self._thread = Worker("anefast-compile")
                pending = _Set(self.cache, jobs)
                pending.future = self._thread.submit(pending.compile)
                self._pending = pending  # once it has a future: a thread may not be granted

    def edge(self) -> None:
        """Call before each micro-step: the new set takes over where it is due.

        Raises the error of a compile that failed in the background, or Hung.
        """
        watchdog.check()
        if self._pending is not None:
            done = self._pending.future.done()
            failed = done and self._pending.future.exception() is not None
            if failed or not self.stale:
                self._take_over(stalls=True)
            else:
                self._recent.stale_micro_steps += 1
        self._micro_steps += 1

    def settle(self) -> None:
        """Returns when every program is that of the newest weights."""
        self._take_over(stalls=False)

    def collect(self) -> CompileLog:
        """The counts since the last call; adds them to `total`."""
        recent, self._recent = self._recent, CompileLog()
        self.total.add(recent)
        return recent

    def report(self) -> dict[str, float]:
        """`collect` as a row of numbers, with the counters of the cache and the process so far."""
        recent, cache = self.collect(), self.cache.counters
        return {
            "staleness": recent.staleness,
            **vars(recent),
            "process_compiles": self.budget.used,
            "cache_hits": cache.hits,
            "cache_misses": cache.misses,
            "cache_evictions": cache.evictions,
        }

    def close(self) -> None:
        """Waits for the thread and drops a set that was not taken over. Kernels keep theirs."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.cancelled = True
        if self._thread is not None:
            self._thread.close()
            self._thread = None
        if pending is not None:
            if error := pending.future.exception():
                log.warning("a compile failed whose programs were no longer needed: %s", error)
            else:
                release(pending.future.result())

    def _take_over(self, stalls: bool) -> None:
        """Waits for the pending set, if there is one, and hands its programs to the kernels."""
        pending = self._pending
        if pending is None:
            return
        waits, began = not pending.future.done(), time.perf_counter()
        self._pending = None  # also when it failed: an error is raised once
        with _C.Span(_C.Component.COMPILE_WAIT):
            leases = watchdog.result_of(pending.future)
        if waits and stalls:
            self._recent.stalled_steps += 1
            self._recent.stall_ms += (time.perf_counter() - began) * 1e3
        elif waits:
            self._recent.settle_ms += (time.perf_counter() - began) * 1e3
        with _C.Span(_C.Component.COMPILE):  # the programs before are unloaded
            for kernel, lease in zip(pending.kernels, leases, strict=True):
                kernel.adopt(lease)
        self._recent.compiles += len(leases)
        self._recent.compile_ms += pending.ms

    def _compile_here(self, kernels: Sequence[Compiled], params: Params) -> None:
        """One by one, each old program going before the new one comes: never two of one kernel."""
        began, was_stalled, compiles = time.perf_counter(), False, 0
        for kernel in kernels:
            with _C.Span(_C.Component.COMPILE, _C.spans_label(kernel.name)):
                blobs = kernel.fill(params)  # first: a weight that fp16 cannot hold raises here
                if blobs is None:
                    continue
                was_stalled |= kernel.loaded
                kernel.unload()
                kernel.adopt(compile_kernel(self.cache, kernel, blobs, not kernel.baked))
                compiles += 1
            del blobs  # else it lives on beside the next one
        ms = (time.perf_counter() - began) * 1e3
        self._recent.compiles += compiles
        self._recent.compile_ms += ms
        if was_stalled:  # the first programs delay nothing
            self._recent.stalled_steps += 1
            self._recent.stall_ms += ms


class _Set:
    """Programs being compiled. The thread knows this object only, not the service."""

    def __init__(self, cache: CompileCache, jobs: list[tuple[Compiled, Blobs]]) -> None:
        self.cache, self._jobs = cache, jobs
        self.kernels = [kernel for kernel, _ in jobs]
        self.future: Future[list[Lease]]
        self.cancelled = False
        self.ms = 0.0

    def compile(self) -> list[Lease]:
        began = time.perf_counter()
        _C.spans_name_thread("compile")
        leases: list[Lease] = []
        try:
            for kernel, blobs in self._jobs:
                if self.cancelled:
                    break
                with _C.Span(_C.Component.COMPILE, _C.spans_label(kernel.name)):
                    leases.append(compile_kernel(self.cache, kernel, blobs, keep=False))
        except BaseException:
            release(leases)
            raise
        self.ms = (time.perf_counter() - began) * 1e3
        return leases


def release(leases: Iterable[Lease]) -> None:
    """Gives every one back."""
    for lease in leases:
        lease.release()


def compile_kernel(cache: CompileCache, kernel: Compiled, blobs: Blobs, keep: bool) -> Lease:
    """Compiles, or finds, a kernel's program. An error names it and where its text was saved."""
    before = _C.calls_naming(_C.spans_label(kernel.name))
    try:
        return cache.acquire(kernel.text, blobs, keep, lasting=not kernel.baked)
    except FileError:
        raise
    except Exception as error:
        try:
            where = f"is in {save_text(kernel)}"
        except FileError as refused:
            where = f"was not saved: {refused}"
        told: Any = f"{error} (program {kernel.name}; its MIL text {where})"
        error.args = (told, *error.args[1:])  # the same object: its type and line stay
        raise
    finally:
        _C.calls_naming(before)


def save_text(kernel: Compiled) -> str:
    """Writes the text to a file that stays: in $ANEFAST_DUMP if set, else with temporary files."""
    folder = os.environ.get("ANEFAST_DUMP") or None
    if folder:
        make_folder(folder, "dump")
    plain = re.sub(r"[^\w.-]", "_", kernel.name)
    with open_unused(folder or tempfile.gettempdir(), f"{plain}-", ".mil", "dump") as file:
        file.write(kernel.text.encode())
        return str(file.name)
