"""A canary: programs of a training step replayed on the exact host, and what came out compared.

A device that answers with wrong values and no error is not seen by anything else: losses drift and
checkpoints fill with garbage. So now and then every program of the step is given, on the host, the
inputs that it has on the device, and the outputs are laid side by side. After a micro-step both are
still in their surfaces, so what is looked at is what training has used, and the device does nothing
more for it; before a checkpoint the programs are evaluated once more, into surfaces of their own.

Chips round, cut off and look up otherwise than the host does, by a few percent of a tensor's
largest value at most where a run is sound. What the tolerance is for is values that are of another
tensor, another moment or nothing at all. A micro-step that overflowed is the business of health.py
and of the loss scale; the next one is looked at instead. Where a stray is looked into: watch.py.
"""

from __future__ import annotations

import numpy as np

from anefast import _C, mil
from anefast.errors import AnefastError
from anefast.models import Params
from anefast.models.weights import peeked
from anefast.runtime.compiled_graph import Bound, CompiledGraph
from anefast.runtime.device import Device
from anefast.runtime.inspect.values import Array, Bare, content, run
from anefast.runtime.inspect.watch import Stray, strays


class WrongValues(AnefastError, RuntimeError):
    """A device gave wrong values and no error."""


class Canary:
    """Checks the programs of one graph. `looked`: the update it checked last, -1 before any."""

    def __init__(self, device: Device, compiled: CompiledGraph, tolerance: float) -> None:
        self._device, self._compiled, self._tolerance = device, compiled, tolerance
        self._exact = Bare(_C.Device("host"))
        self.looked = -1

    def look(self, params: Params, update: int) -> None:
        """Checks what the last micro-step left in the surfaces. Call it while nothing writes them.

        params: those that the programs were compiled with. Raises WrongValues.
        """
        self._all(params, update, again=False)

    def evaluate(self, params: Params, update: int) -> None:
        """The same, of programs that are evaluated for it, on whatever their inputs hold."""
        self._all(params, update, again=True)

    def _all(self, params: Params, update: int, again: bool) -> None:
        if self._overflows():  # chips go on from an inf in ways of their own
            return
        for bound in self._compiled.bound:
            self._one(bound, params, update, again)
        self.looked = update

    def _overflows(self) -> bool:
        """True if a surface holds an inf or a NaN, as one micro-step in many may."""
        around = {s: None for b in self._compiled.bound for s in (*b.inputs, *b.outputs)}
        for surface in around:
            with surface.read() as data:
                if _C.half_overflows(data):
                    return True
        return False

    def _one(self, bound: Bound, params: Params, update: int, again: bool) -> None:
        kernel = bound.kernel
        feeds = [content(s.native) for s in bound.inputs]
        blobs = mil.emit(kernel.program, kernel.dialect).blobs.fill(peeked(params))
        wanted = run(self._exact, kernel.text, blobs, feeds)
        got = self._got(bound, again)
        for port, want in wanted.items():
            if stray := strays_finite(got[port], want, self._tolerance):
                now = self._got(bound, True)[port][stray.at]
                raise WrongValues(
                    f"[canary] update {update}: {kernel.name} gave {port}{list(stray.at)} = "
                    f"{stray.got:.6g} and no error, where the same inputs give {stray.want:.6g} on "
                    f"the host, in a tensor up to {stray.largest:.3g}; evaluated again, it gives "
                    f"{float(now):.6g}. Hint: anefast doctor checks this device; "
                    "guard.canary_tolerance is how far a value may be off, and too small a loss "
                    "scale leaves a chip no bits."
                )

    def _got(self, bound: Bound, again: bool) -> dict[str, Array]:
        """The outputs by port: those in the surfaces, or of an evaluation into others."""
        outputs = bound.outputs
        if again:
            outputs = [self._device.surface(s.shape) for s in outputs]
            self._device.level([outputs])
            bound.kernel.evaluate(bound.inputs, outputs)
        found: dict[str, Array] = {}
        for (port, _), surface in zip(bound.kernel.program.outputs, outputs, strict=True):
            with surface.read() as data:
                found[port] = data.copy()
        return found


def strays_finite(got: Array, want: Array, tolerance: float) -> Stray | None:
    """`strays` for the elements that are finite in both."""
    both = np.isfinite(got) & np.isfinite(want)
    return strays(np.where(both, got, 0), np.where(both, want, 0), tolerance)
