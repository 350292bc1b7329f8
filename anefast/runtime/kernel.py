"""A kernel: one program of a graph, compiled and loaded, with its ports by name."""

from __future__ import annotations

from anefast import _C, mil
from anefast.ir import Program
from anefast.nn import Params
from anefast.runtime.device import Device, Half, Surface


class Kernel:
    """A program on a device.

    The MIL text is written once; `load` compiles it again with other weights, which is how a
    baked weight changes. Programs without weights are compiled once.
    """

    def __init__(self, device: Device, program: Program, dialect: str) -> None:
        mil.rules.check(program)
        self.device, self.program, self.name = device, program, program.name
        self.text, self._layout = mil.emit(program, dialect)
        self._native: _C.Program | None = None
        self.compiles = 0

    def load(self, params: Params) -> None:
        """Compiles with the values of `params` (fp32, by name); the old program is unloaded."""
        if self._native is not None and not self._layout.parameters:
            return
        fresh = self.device.compile(self.text, self._layout.fill(params))
        self.compiles += 1
        self.unload()
        self._native = fresh

    def unload(self) -> None:
        """Frees the device's program. Safe to call twice."""
        if self._native is not None:
            self._native.unload()
            self._native = None

    def evaluate(self, inputs: list[Surface], outputs: list[Surface]) -> None:
        """Runs on surfaces in port order. Raises EvaluationError."""
        if self._native is None:
            raise RuntimeError(f"[kernel] expected {self.name} to be loaded. Hint: call load().")
        self._native.evaluate([s.native for s in inputs], [s.native for s in outputs])

    def run(self, **arrays: Half) -> dict[str, Half]:
        """Runs on arrays by port name, copying in and out. For tests and notebooks."""
        inputs = [self.device.surface(t.shape) for _, t in self.program.inputs]
        outputs = [self.device.surface(t.shape) for _, t in self.program.outputs]
        for (port, _), surface in zip(self.program.inputs, inputs, strict=True):
            with surface.write() as data:
                data[:] = arrays[port]
        self.evaluate(inputs, outputs)
        results: dict[str, Half] = {}
        for (port, _), surface in zip(self.program.outputs, outputs, strict=True):
            with surface.read() as data:
                results[port] = data.copy()
        return results

    def __repr__(self) -> str:
        inputs, outputs = (
            ", ".join(f"{name} {list(t.shape)}" for name, t in ports)
            for ports in (self.program.inputs, self.program.outputs)
        )
        return f"Kernel({self.name}: {inputs} -> {outputs})"
