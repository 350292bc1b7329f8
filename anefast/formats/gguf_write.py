"""Writing GGUF files, version 3: header, pairs, descriptions, then each tensor in turn."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from .safetensors import encoded
from .stored import Array

ALIGNMENT = 32
UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
Tensor = tuple[str, tuple[int, ...], Callable[[], Array]]


class Type(NamedTuple):
    """number: of a tensor's type. file_type: of general.file_type. block: numbers in a block."""

    number: int
    file_type: int
    block: int
    nbytes: int


TYPES = {
    "F32": Type(0, 0, 1, 4),
    "F16": Type(1, 1, 1, 2),
    "BF16": Type(30, 32, 1, 2),
    "Q8_0": Type(8, 7, 32, 34),
}


def write_gguf(
    file: BinaryIO, values: Mapping[str, Any], tensors: Iterable[Tensor], dtype: str
) -> None:
    """values: text, whole numbers, floats, booleans, or lists of one of these. Matrices are written
    as `dtype` where their rows are whole blocks, everything else as F32."""
    listed = list(tensors)
    head = bytearray(struct.pack("<4sIQQ", b"GGUF", 3, len(listed), len(values)))
    for key, value in values.items():
        number = _kind(value)
        head += _text(key) + struct.pack("<I", number) + _value(number, value)
    offset = 0
    chosen = [dtype if _fits(shape, dtype) else "F32" for _, shape, _ in listed]
    for (name, shape, _), kind_name in zip(listed, chosen, strict=True):
        kind = TYPES[kind_name]
        head += _text(name) + struct.pack("<I", len(shape))
        head += struct.pack(f"<{len(shape)}Q", *shape[::-1])
        head += struct.pack("<IQ", kind.number, offset)
        offset += _padded(math.prod(shape) // kind.block * kind.nbytes)
    file.write(head.ljust(_padded(len(head)), b"\0"))
    for (name, shape, make), kind_name in zip(listed, chosen, strict=True):
        values_of = make()
        if values_of.shape != shape:
            raise ValueError(f"[gguf] {name} expected {shape}, got {values_of.shape}.")
        written = 0
        for part in _parts(values_of):
            data = _q8_0(part) if kind_name == "Q8_0" else encoded(part, kind_name).tobytes()
            file.write(data)
            written += len(data)
        file.write(bytes(_padded(written) - written))


def _fits(shape: Sequence[int], dtype: str) -> bool:
    return len(shape) == 2 and shape[-1] % TYPES[dtype].block == 0


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _parts(array: Array) -> Iterable[Array]:
    flat = np.ascontiguousarray(array, np.float32).reshape(-1)
    return (flat[at : at + (1 << 20)] for at in range(0, len(flat), 1 << 20))


def _q8_0(values: Array) -> bytes:
    """Blocks of 32: an fp16 scale, the largest magnitude over 127, and as many whole numbers."""
    blocks = values.reshape(-1, 32)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    with np.errstate(divide="ignore"):
        inverse = np.where(scale == 0, np.float32(0), np.float32(1) / scale)
    scaled = blocks * inverse
    whole = np.trunc(scaled + np.copysign(np.float32(0.5), scaled)).astype(np.int8)
    raw = np.concatenate([scale.astype("<f2").view(np.uint8), whole.view(np.uint8)], axis=1)
    return raw.tobytes()


def _text(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(raw)) + raw


def _kind(value: Any) -> int:
    if isinstance(value, bool):
        return BOOL
    if isinstance(value, int):
        return UINT32 if value >= 0 else INT32
    if isinstance(value, float):
        return FLOAT32
    return STRING if isinstance(value, str) else ARRAY


def _value(kind: int, value: Any) -> bytes:
    if kind == STRING:
        return _text(value)
    if kind == ARRAY:
        inner = max((_kind(v) for v in value), default=STRING)
        if inner in (UINT32, INT32):  # as llama.cpp reads token types
            inner = INT32
        body = b"".join(_value(inner, v) for v in value)
        return struct.pack("<IQ", inner, len(value)) + body
    form = {UINT32: "<I", INT32: "<i", FLOAT32: "<f", BOOL: "<?"}[kind]
    return struct.pack(form, value)
