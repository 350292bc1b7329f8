"""A kernel: one program of a graph, compiled and loaded, with its ports by name."""

from __future__ import annotations

import math
from collections.abc import Sequence

from anefast import _C, debug, mil
from anefast.fuse.count import work
from anefast.ir import Program
from anefast.models import Params
from anefast.models.weights import peeked
from anefast.runtime.cache import Blobs, Lease
from anefast.runtime.compiler import compile_kernel
from anefast.runtime.device import Device, Half, Surface
from anefast.runtime.inspect.watch import name_program
from anefast.runtime.revive import PROCESS_WIDE


class Kernel:
    """A program on a device.

    The MIL text is written once and compiled again with other weights, which is how a baked weight
    changes. It is compiled again only where the bytes that it bakes are others (`fill`), whoever
    asks. A program without weights is shared with the kernels of equal text. Training leaves when
    to compile to compiler.py; `load` is for everybody else. frozen: whether no update changes a
    weight in it; then updates need not look.
    """

    def __init__(
        self, device: Device, program: Program, dialect: str, frozen: bool = False
    ) -> None:
        mil.rules.check(program)
        self.device, self.program, self.name = device, program, program.name
        self.dialect = dialect
        self.text, self._layout = mil.emit(program, dialect)
        # Whether the program holds weights that change, so that an update means another program.
        self.baked = bool(self._layout.parameters) and not frozen
        self._lease: Lease | None = None
        self._filled = self._holds = b""  # hashes: of what `fill` wrote last, of what is loaded
        self._revived = -math.inf  # when the device had lost it last
        self._span = (_C.spans_label(self.name), *work(program))
        self.compiles = 0
        name_program(self.text, self.name)
        if debug.level():
            debug.say(repr(self))

    @property
    def loaded(self) -> bool:
        return self._lease is not None

    @property
    def bakes(self) -> bool:
        """Whether there are weights in it, frozen ones or others."""
        return bool(self._layout.parameters)

    def load(self, params: Params) -> None:
        """Loads the program for the values of `params` (fp32, by name), compiled if need be."""
        if self.loaded and not self.bakes:
            return
        blobs = self.fill(params)
        if blobs is not None:
            self.adopt(compile_kernel(self.device.programs, self, blobs, keep=True))

    def fill(self, params: Params) -> Blobs | None:
        """The weight files with these values, in a buffer that the next call rewrites; None where
        the program that is loaded has these very bytes."""
        with _C.Span(_C.Component.STAGE, self._span[0]):
            blobs = self._layout.fill(peeked(params))
            self._filled = b"".join(map(_C.blob_hash, blobs.values()))
        if self.loaded and self._filled == self._holds:
            self._layout.release()
            return None
        return blobs

    def adopt(self, lease: Lease) -> None:
        """Runs this program from now on; the one before is given back."""
        check_rows(self.name, lease.native)
        before, self._lease = self._lease, lease
        self._holds = self._filled
        self._layout.release()  # the device has its own copy, and there may be many kernels
        self.compiles += 1
        if before is not None:
            before.release()

    def unload(self) -> None:
        """Gives the device's program back. Safe to call twice."""
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.release()

    @property
    def tasks(self) -> list[str]:
        """An evaluation's tasks in order, a line for each, with the operations fused in it. Empty
        where the device does not say. csrc/host/fusion/README.md reads one."""
        return self._lease.native.tasks if self._lease is not None else []

    def evaluate(self, inputs: list[Surface], outputs: list[Surface]) -> None:
        """Runs on surfaces in port order, twice where the device had lost the program. Raises
        EvaluationError."""
        self.evaluate_native([s.native for s in inputs], [s.native for s in outputs])

    def evaluate_native(
        self,
        inputs: list[_C.Surface],
        outputs: list[_C.Surface],
        extents: Sequence[int] = (),
    ) -> None:
        """`evaluate` of what the surfaces hold. extents: of each axis of each input, how much of it
        counts (`evaluate_part` of csrc/anefast.h); none: all."""
        if self._lease is None:
            raise RuntimeError(f"[kernel] expected {self.name} to be loaded. Hint: call load().")
        native = self._lease.native
        try:
            native.evaluate(inputs, outputs, *self._span, extents)
        except _C.DeviceError as error:
            self._revived = PROCESS_WIDE.again(
                self.name,
                native,
                error,
                lambda: native.evaluate(inputs, outputs, *self._span, extents),
                self._revived,
            )

    def run(self, **arrays: Half) -> dict[str, Half]:
        """Runs on arrays by port name, copying in and out. For tests and notebooks."""
        inputs = [self.device.surface(t.shape) for _, t in self.program.inputs]
        outputs = [self.device.surface(t.shape) for _, t in self.program.outputs]
        self.device.level([inputs, outputs])
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


def check_rows(name: str, program: _C.Program) -> None:
    """Refuses a device that lays the rows of a port further apart than they are long.

    Surfaces hold packed tensors. Rows of 32 halves are packed where rows begin every 64 bytes, as
    on every chip that anything is published about.
    """
    for port in (*program.inputs, *program.outputs):
        packed = 2
        for size, stride in zip(reversed(port.shape), reversed(port.strides), strict=True):
            if size > 1 and stride != packed:
                raise ValueError(
                    f"[device] expected rows of port {port.name} of {name} to follow one another "
                    f"every {packed} bytes, got a device that begins them every {stride}. Hint: a "
                    f"data.seq_len that is a multiple of {stride // 2} has such rows; ports with "
                    "weights in them (plans packed and params) need plan weights=const."
                )
            packed *= size
