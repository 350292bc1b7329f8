"""A sequence of kernels that share surfaces: a cut graph, ready to run.

Each value that crosses between programs has one surface: the output of its producer and, without
a copy, the input of its readers.
"""

from __future__ import annotations

from collections.abc import Iterable

from anefast.fuse import Plan, Schedule
from anefast.ir import Tensor
from anefast.nn import Params
from anefast.runtime.device import Device, Surface
from anefast.runtime.kernel import Kernel


class Sequence:
    """The kernels of a schedule, in order, bound to their surfaces."""

    def __init__(self, device: Device, schedule: Schedule, plan: Plan) -> None:
        self.surfaces: dict[Tensor, Surface] = {}
        self.kernels = [Kernel(device, p, plan.dialect) for p in schedule.programs]
        self.evaluations = 0
        self._bound = []
        for kernel in self.kernels:
            program = kernel.program
            inputs = [self._surface(device, t) for _, t in program.inputs]
            outputs = [self._surface(device, t) for _, t in program.outputs]
            self._bound.append((kernel, inputs, outputs))

    def _surface(self, device: Device, value: Tensor) -> Surface:
        if value not in self.surfaces:
            self.surfaces[value] = device.surface(value.shape)
        return self.surfaces[value]

    def load(self, params: Params) -> None:
        """Compiles every kernel whose weights may have changed."""
        for kernel in self.kernels:
            kernel.load(params)

    def run(self, which: Iterable[int]) -> None:
        """Evaluates the kernels of these positions, in order."""
        for i in which:
            kernel, inputs, outputs = self._bound[i]
            kernel.evaluate(inputs, outputs)
            self.evaluations += 1

    def close(self) -> None:
        """Unloads every kernel."""
        for kernel in self.kernels:
            kernel.unload()
