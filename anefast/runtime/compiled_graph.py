"""A sequence of kernels that share surfaces: a cut graph, ready to run.

Each value that crosses between programs has one surface. Where a plan gives it a port of its own,
that surface is the output of its producer and, without a copy, the input of its readers; where
ports are packed, values are copied between their own surfaces and the packed ones.
"""

from __future__ import annotations

from collections import abc
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from anefast import _C, debug, mil
from anefast.fuse import Lowered, Port, Region
from anefast.fuse.count import names_of
from anefast.ir import Tensor
from anefast.models import Params
from anefast.models.lora import is_gradient
from anefast.runtime.device import Device, Half, Surface
from anefast.runtime.kernel import Kernel


@dataclass(frozen=True)
class Bound:
    """A kernel with its surfaces, and what is copied in before and out after it runs.

    made: the values it computes that have surfaces of their own, in port order. native: the
    surfaces as the device takes them, for the loop that is run thousands of times.
    """

    kernel: Kernel
    inputs: list[Surface]
    outputs: list[Surface]
    native: tuple[list[_C.Surface], list[_C.Surface]]
    gathered: list[tuple[Region, Surface]]  # from the value's own surface into the port's
    scattered: list[tuple[Region, Surface]]
    made: list[Tensor]


class CompiledGraph:
    """The kernels of a lowered schedule, in order, bound to their surfaces.

    `evaluations`, `copied_bytes` and `staged_bytes` count what was run, copied between surfaces
    and written of weights that are data.
    """

    def __init__(self, device: Device, programs: Iterable[Lowered], dialect: str) -> None:
        self._device = device
        self.surfaces: dict[Tensor, Surface] = {}
        self.evaluations = self.copied_bytes = self.staged_bytes = 0
        # Of adapters, where the device makes them: they lie in ports and have no other surface.
        self.gradients: dict[Tensor, tuple[Region, Surface]] = {}
        self._weights: dict[str, Surface] = {}  # ports of nothing but parameters, by their names
        self._staged: list[tuple[Region, Surface]] = []
        self.bound = [self._bind(lowered, dialect) for lowered in programs]
        device.level(side for bound in self.bound for side in (bound.inputs, bound.outputs))
        self.kernels = [bound.kernel for bound in self.bound]

    def load(self, params: Params) -> None:
        """Takes over `params`: programs whose baked weights are others now are compiled, and
        weights that are data rewritten."""
        for kernel in self.kernels:
            kernel.load(params)
        self.stage(params)

    def stage(self, params: Params) -> None:
        """Rewrites the weights that are data; nothing is compiled."""
        with _C.Span(_C.Component.STAGE):
            self.staged_bytes += stage(self._staged, params)

    def run(self, which: Iterable[int], extents: abc.Sequence[int] = ()) -> None:
        """Evaluates the kernels of these positions, in order. extents: see `Kernel`; they are for
        sequences of one kernel."""
        for i in which:
            bound = self.bound[i]
            for region, port in bound.gathered:
                with _C.Span(_C.Component.STAGE, bytes=2 * region.value.size):
                    with self.surfaces[region.value].read() as value, port.write() as data:
                        block(data, region)[...] = value.reshape(region.size)
                self.copied_bytes += 2 * region.value.size
            bound.kernel.evaluate_native(*bound.native, extents)
            self.evaluations += 1
            for region, port in bound.scattered:
                with _C.Span(_C.Component.READ_BACK, bytes=2 * region.value.size):
                    with port.read() as data, self.surfaces[region.value].write() as value:
                        value[...] = block(data, region).reshape(value.shape)
                self.copied_bytes += 2 * region.value.size

    @property
    def surface_bytes(self) -> int:
        """Bytes of every surface: of values, packed ports and weights that are data."""
        around = [*self.surfaces.values()]
        for bound in self.bound:
            around += [*bound.inputs, *bound.outputs]
        return sum({s.native: s.native.nbytes for s in around}.values())

    def close(self) -> None:
        """Unloads every kernel, also where one cannot be: its error is raised at the end."""
        with ExitStack() as last:
            for kernel in self.kernels:
                last.callback(kernel.unload)

    def _bind(self, lowered: Lowered, dialect: str) -> Bound:
        gathered: list[tuple[Region, Surface]] = []
        scattered: list[tuple[Region, Surface]] = []
        inputs = [self._port(port, gathered) for port in lowered.inputs]
        outputs = [self._port(port, scattered) for port in lowered.outputs]
        kernel = Kernel(self._device, lowered.program, dialect, frozen=not lowered.changes)
        if debug.level() >= 3:
            debug.say("\n".join(placement(lowered)))
        made = [r.value for port in lowered.outputs for r in port.regions]
        made = [t for t in made if t not in self.gradients]
        native = [s.native for s in inputs], [s.native for s in outputs]
        return Bound(kernel, inputs, outputs, native, gathered, scattered, made)

    def _port(self, port: Port, copies: list[tuple[Region, Surface]]) -> Surface:
        """The surface of a port; notes in `copies` which activations must be copied."""
        if port.shared is not None:
            return self._value(port.shared)
        weights = [r for r in port.regions if r.value.op == "parameter"]
        whole = names_of(port)
        if whole in self._weights:
            return self._weights[whole]
        surface = self._device.surface(port.shape)
        self._staged += [(region, surface) for region in weights]
        for region in port.regions:
            if is_gradient(region.value):
                self.gradients[region.value] = (region, surface)
            elif region.value.op != "parameter":
                self._value(region.value)
                copies.append((region, surface))
        if whole:
            self._weights[whole] = surface
        return surface

    def _value(self, value: Tensor) -> Surface:
        if value not in self.surfaces:
            self.surfaces[value] = self._device.surface(value.shape)
        return self.surfaces[value]


def placement(lowered: Lowered) -> Iterator[str]:
    """One line for each value of a program's ports: its place in a surface."""
    sides = (("in", lowered.inputs), ("out", lowered.outputs))
    for side, port in [(side, p) for side, ports in sides for p in ports]:
        how = "shared, no copy" if port.shared is not None else "packed"
        yield f"{lowered.program.name} {side} {port.name} {list(port.shape)}: {how}"
        for r in port.regions if port.shared is None else ():
            yield f"    {r.value.name or r.value!r} at {list(r.begin)}, {list(r.size)}"


def block(data: Half, region: Region) -> Half:
    """The part of a surface that is `region`."""
    return data[tuple(slice(b, b + n) for b, n in zip(region.begin, region.size, strict=True))]


def stage(weights: list[tuple[Region, Surface]], params: Params) -> int:
    """Writes weights into their regions of surfaces, rounded to fp16. Returns the bytes written."""
    jobs: list[tuple[mil.Entry, Half]] = []
    parts: list[tuple[Half, Half]] = []  # of surfaces that hold more than one whole weight
    with ExitStack() as locks:
        locked: dict[Surface, Half] = {}
        for region, surface in weights:
            if surface not in locked:
                locked[surface] = locks.enter_context(surface.write())
            weight, data = region.value, locked[surface]
            part = block(data, region)
            if part.flags.c_contiguous:  # whole rows of the surface
                halves = part.reshape(-1)
            else:
                halves = np.zeros(int(np.prod(region.size)), np.float16)
                parts.append((part, halves.reshape(region.size)))
            jobs.append((mil.Entry(weight.name, weight.shape), halves[: weight.size]))
        mil.write(jobs, params)
        for part, halves in parts:
            part[...] = halves
    return sum(2 * region.value.size for region, _ in weights)
