"""Every value of a program, not only its results: the same MIL text with all of them as outputs.

Cutting changes no bit (the cut law), so what comes out is what the program computed inside. It
works on any device, through the one door; it compiles a program of its own and needs room for every
value, so it is for finding out, not for training. health.py asks it where a number went wrong,
watch.py where two devices part.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from anefast import _C
from anefast.fuse.level import level
from anefast.mil import spoken
from anefast.runtime.cache import Blobs

Bytes = npt.NDArray[np.uint8]
Array = npt.NDArray[np.generic]
FLOATS = {"fp16": np.float16, "fp32": np.float32}
OTHERS = {"bool": np.bool_, **{n: np.dtype(n).type for n in ("int8", "uint8", "int16", "uint16")}}
DTYPES = {**FLOATS, **OTHERS, "int32": np.int32, "uint32": np.uint32}

# TYPE variable = op(...)[name = string("label")], in either dialect
STATEMENT = re.compile(r'(\w+)\s*=\s*\w+\([^;]*\)\s*\[\s*name\s*=\s*[^"]*"([^"]*)"')


class Native(Protocol):
    """The part of a device that this file uses: unwatched compiles and surfaces."""

    def native_compile(self, text: str, blobs: Blobs) -> _C.Program: ...
    def native_surface(self, nbytes: int) -> _C.Surface: ...


class Bare:
    """A native device as that."""

    def __init__(self, native: _C.Device) -> None:
        self.native_compile, self.native_surface = native.compile, native.surface


@dataclass(frozen=True)
class Value:
    """The result of one operation. `name` is the graph's, `op` the operation."""

    name: str
    op: str
    array: Array


def graph_names(text: str) -> dict[str, str]:
    """Variable of the text -> the name its operation carries, the graph's own."""
    return {m[1]: spoken(m[2]) for line in text.splitlines() if (m := STATEMENT.search(line))}


def tapped(text: str) -> str:
    """`text` with every floating result of its function among the outputs."""
    (function,) = _C.check(text)["functions"]
    made = [r for _, results in function["operations"] for r in results]
    names = [name for name, dtype, _ in made if dtype in FLOATS]
    head, _, tail = text.rpartition("->")
    return f"{head}-> ({', '.join(names)}){tail[tail.index(')') + 1 :]}"


def values(device: Native, text: str, blobs: Blobs, feeds: Sequence[Bytes]) -> Iterator[Value]:
    """Every floating value in the order of the operations.

    feeds: the bytes of the input surfaces, in port order. Raises what compiling raises.
    """
    results = run(device, tapped(text), blobs, feeds)
    labels = graph_names(text)
    for op, made in _C.check(text)["functions"][0]["operations"]:
        for name, *_ in made:
            if name in results:
                yield Value(labels.get(name, name), op, results[name])


def run(device: Native, text: str, blobs: Blobs, feeds: Sequence[Bytes]) -> dict[str, Array]:
    """Compiles, evaluates once and unloads. Outputs by port name."""
    program = device.native_compile(text, blobs)
    try:
        inputs = [device.native_surface(port.nbytes) for port in program.inputs]
        outputs = [device.native_surface(port.nbytes) for port in program.outputs]
        sizes = {surface: surface.nbytes for surface in (*inputs, *outputs)}
        for surface, nbytes in level([inputs, outputs], sizes).items():
            surface.make_room(nbytes)
        for surface, port, feed in zip(inputs, program.inputs, feeds, strict=True):
            surface.lock()[: port.nbytes] = feed[: port.nbytes]
            surface.unlock()
        program.evaluate(inputs, outputs)
        pairs = zip(program.outputs, outputs, strict=True)
        return {port.name: elements(port, content(surface)) for port, surface in pairs}
    finally:
        program.unload()


def content(surface: _C.Surface) -> Bytes:
    """A copy of a surface's bytes."""
    try:
        return surface.lock(read_only=True).copy()
    finally:
        surface.unlock(read_only=True)


def elements(port: _C.Port, data: Bytes) -> Array:
    """The tensor in a surface's bytes, whose rows start every 64."""
    laid = np.ndarray(port.shape, DTYPES[port.dtype], data[: port.nbytes], strides=port.strides)
    return laid.copy()
