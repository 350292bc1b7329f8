"""MIL text by hand, for tests of the executor: one line per operation, no graph, no emitter.

Not a test. The text is deliberately plain; anefast.mil writes the real thing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from anefast import _C

DTYPES = {
    "float16": "fp16",
    "float32": "fp32",
    "int32": "int32",
    "int8": "int8",
    "uint8": "uint8",
    "int16": "int16",
    "uint16": "uint16",
    "bool": "bool",
}
NUMPY = {mil: name for name, mil in DTYPES.items()}
INLINE_LIMIT = 64  # elements; longer constants travel in a blob


def spelled(dtype: np.dtype[Any], shape: Sequence[int]) -> str:
    return f"tensor<{DTYPES[dtype.name]},[{','.join(map(str, shape))}]>"


def literal(value: object) -> str:
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    if isinstance(value, float | np.floating):
        return float(value).hex()
    return str(value)


class Text:
    """A program under construction. Values are names; `op` takes an array of the result's type."""

    def __init__(self, **inputs: np.ndarray) -> None:
        self.inputs = inputs
        self.lines: list[str] = []
        self.blobs: dict[str, bytes] = {}
        self.count = 0

    def fresh(self) -> str:
        self.count += 1
        return f"v{self.count}"

    def const(self, value: Any) -> str:
        """A constant: str, bool, int (int32), list of int or bool, or array (0-d for a scalar)."""
        name = self.fresh()
        if isinstance(value, str):
            kind, text = "string", f'string("{value}")'
        elif isinstance(value, bool):
            kind, text = "bool", f"bool({literal(value)})"
        elif isinstance(value, int):
            kind, text = "int32", f"int32({value})"
        else:
            array = np.asarray(value)
            if array.dtype == np.int64:
                array = array.astype(np.int32)
            if array.ndim == 0:
                kind = DTYPES[array.dtype.name]
                text = f"{kind}({literal(array[()])})"
            else:
                kind = spelled(array.dtype, array.shape)
                if array.size > INLINE_LIMIT:
                    path = f"@model_path/weights/{name}.bin"
                    self.blobs[path] = _C.blob_write([np.ascontiguousarray(array)])
                    text = f'{kind}(BLOBFILE(path=string("{path}"), offset=uint64(64)))'
                else:
                    text = f"{kind}([{', '.join(literal(v) for v in array.ravel())}])"
        self.lines.append(f'{kind} {name} = const()[name=string("{name}"), val={text}];')
        return name

    def op(self, kind: str, like: np.ndarray | Sequence[np.ndarray], **arguments: Any) -> Any:
        """`arguments`: a name (of a value), a tuple of names, or anything `const` takes."""
        said = []
        for key, value in arguments.items():
            if isinstance(value, tuple):
                said.append(f"{key}=({', '.join(value)})")
            elif isinstance(value, Name):
                said.append(f"{key}={value}")
            else:
                said.append(f"{key}={self.const(value)}")
        several = isinstance(like, list | tuple)
        results = [Name(self.fresh()) for _ in (like if several else [like])]
        types = [spelled(a.dtype, a.shape) for a in (like if several else [like])]
        left = ", ".join(f"{t} {r}" for t, r in zip(types, results, strict=True))
        self.lines.append(f'{left} = {kind}({", ".join(said)})[name=string("{results[0]}")];')
        return results if several else results[0]

    def program(self, outputs: Sequence[str]) -> str:
        head = ", ".join(f"{spelled(a.dtype, a.shape)} {n}" for n, a in self.inputs.items())
        body = "\n".join("        " + line for line in self.lines)
        return (
            f"program(1.3)\n{{\n    func main<ios18>({head}) {{\n{body}\n"
            f"    }} -> ({', '.join(outputs)});\n}}\n"
        )


class Name(str):
    """The name of a value, as opposed to a string constant."""


def write_port(surface: Any, port: Any, array: np.ndarray) -> None:
    """Puts a packed array into a surface whose rows start every 64 bytes."""
    assert tuple(port.shape) == array.shape and NUMPY[port.dtype] == array.dtype.name
    view = surface.lock()
    rows(view, port)[...] = np.ascontiguousarray(array).reshape(-1, width_of(port)).view(np.uint8)
    surface.unlock()


def read_port(surface: Any, port: Any) -> np.ndarray:
    view = surface.lock(read_only=True)
    packed = rows(view, port).copy().view(NUMPY[port.dtype]).reshape(port.shape)
    surface.unlock(read_only=True)
    return packed


def width_of(port: Any) -> int:
    return int(port.shape[-1]) if port.shape else 1


def rows(view: np.ndarray, port: Any) -> np.ndarray:
    nbytes = width_of(port) * np.dtype(NUMPY[port.dtype]).itemsize
    stride = -(-nbytes // 64) * 64
    return view[: port.nbytes].reshape(-1, stride)[:, :nbytes]


def run(
    device: Any, text: str, blobs: Mapping[str, bytes], feeds: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Compiles, evaluates once in surfaces full of rubbish, and returns the outputs by name."""
    program = device.compile(text, blobs)
    inputs = [device.surface(p.nbytes) for p in program.inputs]
    outputs = [device.surface(p.nbytes) for p in program.outputs]
    for surface in (*inputs, *outputs):
        surface.lock()[:] = 0xA5
        surface.unlock()
    for surface, port in zip(inputs, program.inputs, strict=True):
        write_port(surface, port, feeds[port.name])
    program.evaluate(inputs, outputs)
    return {p.name: read_port(s, p) for s, p in zip(outputs, program.outputs, strict=True)}


def run_op(device: Any, kind: str, like: Any, **arguments: Any) -> Any:
    """One operation. Arrays given as `In(array)` are inputs; the rest are constants."""
    feeds: dict[str, np.ndarray] = {}
    named: dict[str, Any] = {}

    def name(value: Any) -> Any:
        if not isinstance(value, In):
            return value
        n = Name(f"a{len(feeds):02d}")
        feeds[n] = value.array
        return n

    for key, value in arguments.items():
        named[key] = tuple(map(name, value)) if isinstance(value, tuple) else name(value)
    text = Text(**feeds)
    results = text.op(kind, like, **named)
    several = isinstance(results, list)
    out = run(device, text.program(results if several else [results]), text.blobs, feeds)
    return [out[r] for r in results] if several else out[results]


class In:
    """Marks an array that is a function input rather than a constant."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = np.ascontiguousarray(array)
