"""Looks over a device's shoulder: ANEFAST_CHECK, ANEFAST_DUMP and the upper half of DEBUG.

ANEFAST_CHECK=1 replays every evaluation on the exact host and names the first tensor that strays,
inside the program if need be; another number is the tolerance, a part of the tensor's largest
magnitude. ANEFAST_DUMP=dir keeps each program as a folder (dump.py). Both see compile and evaluate
and nothing else, so they work on any device. Unset, no program is wrapped.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np

from anefast import _C, debug
from anefast.files import FileError
from anefast.runtime.cache import Blobs
from anefast.runtime.inspect import dump
from anefast.runtime.inspect.values import (
    Array,
    Bare,
    Bytes,
    Native,
    content,
    elements,
    run,
    values,
)

log = logging.getLogger("anefast")

TOLERANCE = 1 / 32  # of a tensor's largest magnitude; sigmoid's table alone errs by 0.0034
Compile = Callable[..., _C.Program]  # of text, blobs and perhaps a key; see CompileCache

_names: dict[str, str] = {}  # text -> the first kernel's name; kept only while somebody watches


@dataclass(frozen=True)
class Watch:
    """Reads the environment's watch settings."""

    check: float = 0.0  # tolerance; 0: no check
    folder: Path | None = None
    level: int = 0  # of DEBUG

    @classmethod
    def asked(cls) -> Watch | None:
        """None where nothing is. ValueError in one line for a value that makes no sense."""
        said = os.environ.get("ANEFAST_CHECK", "")
        try:
            check = TOLERANCE if said == "1" else float(said or 0)
        except ValueError:
            check = -1.0
        if not 0 <= check < float("inf"):
            raise ValueError(
                f"[check] expected ANEFAST_CHECK to be 1 or a tolerance, got {said!r}. "
                "Hint: 0.01 allows 1 % of each tensor's largest magnitude."
            )
        where = os.environ.get("ANEFAST_DUMP", "")
        level = debug.level()
        if not check and not where and level < 2:
            return None
        return cls(check, Path(where) if where else None, level)

    def over(self, device: Native, description: str, compile: Compile) -> Compile:
        """`compile` whose programs are watched."""
        exact = Bare(_C.Device("host")) if self.check else None
        told: set[str] = set()  # texts that were found to stray, or dumped

        def watched(text: str, blobs: Blobs, *key: str) -> _C.Program:
            if self.level >= 4:
                debug.say(text)
            kept = {path: bytes(memoryview(data)) for path, data in blobs.items()}
            name = _names.get(text, "program")
            folder = dump.folder_of(self.folder, name, text) if self.folder else None
            if folder and text not in told:  # first, for the compiler may say no, or worse
                dump.write_program(folder, text, kept, {"device": description})
            native = compile(text, blobs, *key)
            if self.level >= 2 and not native.compiled:
                debug.say(f"{name}: loaded as it was kept on disk, and not compiled")
            elif self.level >= 2 and native.was_cached is not None:
                had = "still had it" if native.was_cached else "had not seen it"
                debug.say(f"{name}: compiled and loaded; the system {had}")
            if self.level >= 3 and native.tasks:
                lines = (f"  {i}: {task}" for i, task in enumerate(native.tasks))
                debug.say("\n".join([f"{name} runs {len(native.tasks)} tasks:", *lines]))
            seen = Watched(self, device, exact, native, name, text, kept, folder, told)
            return cast(_C.Program, seen)

        return watched


def name_program(text: str, name: str) -> None:
    """The name of this text's program in messages."""
    if Watch.asked() is not None:
        _names.setdefault(text, name)


class Watched:
    """Stands for a `_C.Program`: the same calls, with the requested checks around them."""

    def __init__(
        self,
        watch: Watch,
        device: Native,
        exact: Native | None,
        native: _C.Program,
        name: str,
        text: str,
        blobs: dict[str, bytes],
        folder: Path | None,
        told: set[str],
    ) -> None:
        self._watch, self._device, self._exact, self._native = watch, device, exact, native
        self._name, self._text, self._blobs = name, text, blobs
        self._folder, self._told = folder, told

    inputs = property(lambda self: self._native.inputs)
    outputs = property(lambda self: self._native.outputs)
    nbytes = property(lambda self: self._native.nbytes)
    tasks = property(lambda self: self._native.tasks)
    was_cached = property(lambda self: self._native.was_cached)
    compiled = property(lambda self: self._native.compiled)

    def reload(self) -> bool:
        return self._native.reload()

    def unload(self) -> None:
        self._native.unload()

    def evaluate(
        self,
        inputs: Sequence[_C.Surface],
        outputs: Sequence[_C.Surface],
        label: int = 0,
        flops: int = 0,
        bytes: int = 0,
        extents: Sequence[int] = (),
    ) -> None:
        """Runs the program, then the requested checks. Raises what the program raises.

        All of it, whatever `extents` leaves out, so that all that is looked at is there.
        """
        fresh = self._text not in self._told
        looks = fresh and (self._exact is not None or self._folder is not None)
        feeds = [content(s) for s in inputs] if looks else []
        began = time.perf_counter()
        try:
            self._native.evaluate(inputs, outputs, label, flops, bytes)
        except Exception as error:
            if self._folder and feeds:
                with contextlib.suppress(FileError):  # the first error is the one to tell
                    dump.write_evaluation(self._folder, self._fed(feeds), {}, str(error))
            raise
        seconds = time.perf_counter() - began
        if self._watch.level >= 2:
            rate = f", {flops / seconds / 1e9:.1f} GFLOP/s" if flops else ""
            debug.say(f"{self._name}: {1e3 * seconds:.3f} ms, {bytes:,} bytes{rate}")
        if self._watch.level >= 6:
            for port, surface in zip(
                [*self.inputs, *self.outputs], [*inputs, *outputs], strict=True
            ):
                debug.say(f"  {port.name} {summary(elements(port, content(surface)))}")
        if looks:
            ports = zip(self.outputs, outputs, strict=True)
            self._look(feeds, {p.name: elements(p, content(s)) for p, s in ports})

    def _fed(self, feeds: list[Bytes]) -> dict[str, Array]:
        return {p.name: elements(p, f) for p, f in zip(self.inputs, feeds, strict=True)}

    def _look(self, feeds: list[Bytes], got: dict[str, Array]) -> None:
        if self._folder:
            dump.write_evaluation(self._folder, self._fed(feeds), got)
            if self._exact is None:
                self._told.add(self._text)
        if self._exact is None:
            return
        try:
            wanted = run(self._exact, self._text, self._blobs, feeds)
        except (ValueError, RuntimeError) as error:
            self._told.add(self._text)
            log.warning("[check] %s cannot be replayed on the host: %s", self._name, error)
            return
        tolerance = self._watch.check
        bad = {n: s for n, a in got.items() if (s := strays(a, wanted[n], tolerance))}
        if bad:
            self._told.add(self._text)
            port = next(iter(bad))
            where, stray = self._first(feeds, tolerance) or (f"output {port}", bad[port])
            log.warning(
                "[check] %s: the first tensor that differs from the exact host is %s: %s. "
                "Hint: ANEFAST_DUMP=dir keeps the program for anefast replay.",
                self._name, where, stray,
            )  # fmt: skip

    def _first(self, feeds: list[Bytes], tolerance: float) -> tuple[str, Stray] | None:
        assert self._exact is not None
        return first_stray(self._device, self._exact, self._text, self._blobs, feeds, tolerance)


class Stray(NamedTuple):
    """The element that is furthest off."""

    error: float
    at: tuple[int, ...]
    got: float
    want: float
    largest: float  # magnitude of the tensor

    def __str__(self) -> str:
        return (
            f"off by {self.error:.3g} at {list(self.at)}, got {self.got:.6g}, expected "
            f"{self.want:.6g} in a tensor up to {self.largest:.3g}"
        )


def strays(got: Array, want: Array, tolerance: float) -> Stray | None:
    """The worst element of `got`, where it is out of tolerance or one of both is not finite."""
    a, b = got.astype(np.float64), want.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    both = np.isfinite(a) & np.isfinite(b)
    error = np.where(same, 0.0, np.inf)
    np.subtract(a, b, out=error, where=both & ~same)
    error = np.abs(error)
    largest = float(np.abs(b[np.isfinite(b)]).max(initial=0.0))
    at = np.unravel_index(int(error.argmax()), error.shape) if error.size else ()
    if not error.size or error[at] <= tolerance * largest:
        return None
    place = tuple(int(i) for i in at)
    return Stray(float(error[at]), place, float(a[at]), float(b[at]), largest)


def first_stray(
    device: Native,
    exact: Native,
    text: str,
    blobs: Blobs,
    feeds: Sequence[Bytes],
    tolerance: float,
) -> tuple[str, Stray] | None:
    """(name and op, how far) of the first value inside the program that strays; None: none does,
    or the device does not take the program with all of its values as outputs."""
    try:
        pairs = zip(
            values(device, text, blobs, feeds), values(exact, text, blobs, feeds), strict=True
        )
        for got, want in pairs:
            if stray := strays(got.array, want.array, tolerance):
                return f"{want.name} ({want.op})", stray
    except (ValueError, RuntimeError) as error:
        log.debug("check: cannot look inside: %s", error)
    return None


def summary(array: Array) -> str:
    """`fp16 [1, 64, 1, 32] -3.1..2.9, 0 NaN, 0 inf`, of the finite values."""
    a = array.astype(np.float64)
    finite = a[np.isfinite(a)]
    span = f"{finite.min():.4g}..{finite.max():.4g}" if finite.size else "nothing finite"
    nan, inf = int(np.isnan(a).sum()), int(np.isinf(a).sum())
    return f"{array.dtype} {list(array.shape)} {span}, {nan} NaN, {inf} inf"
