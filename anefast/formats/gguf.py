"""GGUF files (llama.cpp's), version 3, read lazily with nothing but NumPy.

A file is a header, key-value pairs, tensor descriptions and the data, which begins at a multiple of
`general.alignment`. Dimensions are stored fastest first, so a NumPy [out, in] matrix is written as
in, out. Format: ggml-org/ggml, docs/gguf.md. What the numbers of each type mean is quants.py.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from anefast import files
from anefast.errors import shown
from anefast.mapped import Mapped

from .quants import KINDS, OTHERS, dequantised
from .stored import Array, Bytes, Stored

WHERE = "gguf"
MAGIC, VERSIONS = b"GGUF", (2, 3)
NUMBERS = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "<u1", 10: "<u8",
    11: "<i8", 12: "<f8",
}  # fmt: skip
BOOL, STRING, ARRAY = 7, 8, 9
SMALLEST_PAIR, SMALLEST_TENSOR = 13, 24  # bytes, so that a count cannot ask for more than there is
DIMENSIONS_MOST = 4


class GGUFError(files.FileError):
    """A GGUF file that cannot be read. One line that names it."""


@dataclass(frozen=True)
class GGUF:
    """values: the key-value pairs; lists of numbers are arrays. tensors: by name."""

    values: dict[str, Any]
    tensors: dict[str, Stored]


def read_gguf(path: files.AnyPath) -> GGUF:
    """The pairs and tensors of a file. No tensor's data is read now. GGUFError in one line."""
    mapped = Mapped(path, WHERE)
    try:
        return _Reader(path, mapped).read()
    except (struct.error, IndexError, OverflowError):
        raise _bad(path, "everything its header promises, it is cut short") from None


class _Reader:
    def __init__(self, path: files.AnyPath, mapped: Mapped) -> None:
        self.path, self.mapped, self.whole, self.at = path, mapped, mapped.bytes, 0

    def read(self) -> GGUF:
        if self._take(4).tobytes() != MAGIC:
            raise _bad(self.path, "a GGUF model")
        version, tensors, pairs = self._unpack("<IQQ")
        if version not in VERSIONS:
            raise _bad(self.path, f"version 2 or 3, got {version}")
        self._check_count(pairs, SMALLEST_PAIR, "key-value pairs")
        self._check_count(tensors, SMALLEST_TENSOR, "tensors")
        values: dict[str, Any] = {}
        for _ in range(pairs):
            key = self._string()
            if key in values:
                raise _bad(self.path, f"each key once, got {shown(key)} twice")
            (kind,) = self._unpack("<I")
            values[key] = self._value(kind, key)
        described = [self._description() for _ in range(tensors)]
        alignment = values.get("general.alignment", 32)
        if type(alignment) is not int or not 1 <= alignment <= 1 << 20:
            raise _bad(self.path, f"an alignment, got {shown(alignment)}")
        start = min(-(-self.at // alignment) * alignment, len(self.whole))
        found: dict[str, Stored] = {}
        for name, shape, kind, offset in described:
            if name in found:
                raise _bad(self.path, f"each tensor once, got {shown(name)} twice")
            found[name] = self._stored(name, shape, kind, offset, start)
        return GGUF(values, found)

    def _take(self, count: int) -> Bytes:
        if count > len(self.whole) - self.at:
            raise IndexError
        self.at += count
        return self.whole[self.at - count : self.at]

    def _unpack(self, form: str) -> tuple[Any, ...]:
        return struct.unpack(form, self._take(struct.calcsize(form)).tobytes())

    def _string(self) -> str:
        (length,) = self._unpack("<Q")
        return self._take(length).tobytes().decode("utf-8", "replace")

    def _check_count(self, count: int, smallest: int, what: str) -> None:
        if count * smallest > len(self.whole) - self.at:
            raise _bad(self.path, f"{count:,} {what}, it is too short for them")

    def _value(self, kind: int, key: str) -> Any:
        if kind == STRING:
            return self._string()
        if kind in NUMBERS:
            dtype = np.dtype(NUMBERS[kind])
            number = self._take(dtype.itemsize).view(dtype)[0].item()
            return bool(number) if kind == BOOL else number
        if kind != ARRAY:
            raise _bad(self.path, f"a known type of {shown(key)}, got {kind}")
        inner, count = self._unpack("<IQ")
        if inner == STRING:
            self._check_count(count, 8, f"strings of {shown(key)}")
            return [self._string() for _ in range(count)]
        if inner not in NUMBERS:
            raise _bad(self.path, f"a list of numbers or strings in {shown(key)}")
        dtype = np.dtype(NUMBERS[inner])
        return self._take(count * dtype.itemsize).view(dtype)

    def _description(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._string()
        (rank,) = self._unpack("<I")
        if rank > DIMENSIONS_MOST:
            raise _bad(self.path, f"{shown(name)} of at most {DIMENSIONS_MOST} dimensions")
        shape = self._unpack(f"<{rank}Q")[::-1]
        kind, offset = self._unpack("<IQ")
        return name, shape, kind, offset

    def _stored(
        self, name: str, shape: tuple[int, ...], number: int, offset: int, start: int
    ) -> Stored:
        if number not in KINDS:
            names = ", ".join(k.name for k in KINDS.values())
            got = OTHERS.get(number, f"type {number}")
            raise _bad(self.path, f"{shown(name)} as one of {names}, got {got}")
        kind, count = KINDS[number], math.prod(shape)
        if (shape[-1] if shape else 1) % kind.numbers:
            raise _bad(self.path, f"rows of {shown(name)} in whole blocks of {kind.numbers}")
        nbytes = count // kind.numbers * kind.nbytes
        room = len(self.whole) - start
        if offset > room or nbytes > room - offset:
            raise _bad(self.path, f"{shown(name)} inside the file")

        begin, mapped = start + offset, self.mapped

        def read() -> Array:
            return dequantised(mapped.part(begin, begin + nbytes), kind, count).reshape(shape)

        return Stored(name, shape, kind.name, nbytes, read)


def _bad(path: files.AnyPath, expected: str) -> GGUFError:
    return GGUFError(f"[gguf] expected {shown(path)} to hold {expected}. Hint: copy it again.")
