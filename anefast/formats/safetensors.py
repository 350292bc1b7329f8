"""Safetensors files, read lazily and written by parts, with nothing but NumPy.

A file is eight bytes of length, a JSON header {name: {dtype, shape, data_offsets}}, and the data.
The `safetensors` library does this too, but takes bf16 only where ml_dtypes is installed. Format:
huggingface/safetensors, README.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from anefast import files, parsing
from anefast.errors import shown
from anefast.mapped import Mapped

from .quants import PLAIN, dequantised
from .stored import Array, Stored, fp32_to_bf16

WHERE = "safetensors"
HEADER_MOST = 100 * files.MIB  # the bound of the format's own library
INDEX_MOST = 64 * files.MIB
PT = {"format": "pt"}  # what transformers asks for


class SafetensorsError(files.FileError):
    """A safetensors file that cannot be read. One line that names it."""


def read_safetensors(path: files.AnyPath) -> dict[str, Stored]:
    """Every tensor of a file by name. Nothing but the header is read now.

    SafetensorsError where the file is damaged, or holds a type other than F32, F16 and BF16.
    """
    header, start, mapped = _opened(path)
    size = len(mapped.bytes) - start
    found = {
        name: _stored(path, name, about, start, mapped)
        for name, about in header.items()
        if name != "__metadata__"
    }
    spans = sorted(tuple(header[name]["data_offsets"]) for name in found)
    ends = [0, *(end for _, end in spans)]
    if [begin for begin, _ in spans] != ends[:-1] or ends[-1] != size:
        raise _bad(path, f"tensors that fill {size:,} bytes of data, each byte once")
    return found


def read_metadata(path: files.AnyPath) -> dict[str, str]:
    """The texts that stand beside the tensors of a file. SafetensorsError."""
    about = _opened(path)[0].get("__metadata__", {})
    if not isinstance(about, dict) or not all(isinstance(v, str) for v in about.values()):
        raise _bad(path, "texts as its metadata")
    return about


def read_sharded(index: Path) -> dict[str, Stored]:
    """Every tensor that a model.safetensors.index.json lists, from the files beside it."""
    table = files.read_json(index, INDEX_MOST, WHERE)
    names = table.get("weight_map") if isinstance(table, dict) else None
    if not isinstance(names, dict) or not all(isinstance(f, str) for f in names.values()):
        raise _bad(index, "a weight_map of tensors and files")
    found: dict[str, Stored] = {}
    for file in sorted(set(names.values())):
        if not file or Path(file).name != file:
            raise _bad(index, f"files beside it, got {shown(file)}")
        shard = read_safetensors(index.with_name(file))
        for name, tensor in shard.items():
            if names.get(name) != file:
                raise _bad(index, f"to list {shown(name)}, which is in {shown(file)}")
            found[name] = tensor
    if missing := names.keys() - found.keys():
        raise _bad(index, f"{shown(min(missing))} in {shown(names[min(missing)])}")
    return found


def write_safetensors(
    file: BinaryIO,
    shapes: Mapping[str, tuple[int, ...]],
    arrays: Iterable[Array],
    dtype: str,
    metadata: Mapping[str, str] = PT,
) -> None:
    """Writes fp32 arrays, in the order of `shapes`, as `dtype`: F32, F16 or BF16."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    at = 0
    for name, shape in shapes.items():
        nbytes = math.prod(shape) * PLAIN[dtype].nbytes
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + nbytes]}
        at += nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for (name, shape), array in zip(shapes.items(), arrays, strict=True):
        if array.shape != shape:
            raise ValueError(f"[safetensors] {name} expected {shape}, got {array.shape}.")
        for part in _parts(array):
            file.write(encoded(part, dtype).tobytes())


def encoded(values: Array, dtype: str) -> np.ndarray[Any, Any]:
    """fp32 values as F32, F16 or BF16 numbers, rounded to nearest even."""
    if dtype == "BF16":
        return fp32_to_bf16(values)
    with np.errstate(over="ignore"):
        return values.astype("<f4" if dtype == "F32" else "<f2")


def _opened(path: files.AnyPath) -> tuple[dict[str, Any], int, Mapped]:
    """The header of a file, where its data begins, and the file."""
    mapped = Mapped(path, WHERE)
    whole = mapped.bytes
    if len(whole) < 8:
        raise _bad(path, f"8 bytes of length, got a file of {len(whole)}")
    length = int(whole[:8].view("<u8")[0])
    if length > min(HEADER_MOST, len(whole) - 8):
        raise _bad(path, f"a header of at most {len(whole) - 8:,} bytes, got {length:,}")
    try:
        header = parsing.parse_json(whole[8 : 8 + length].tobytes())
    except ValueError as error:
        raise _bad(path, f"a JSON header, got {shown(error)}") from None
    if not isinstance(header, dict):
        raise _bad(path, "a header that names tensors")
    return header, 8 + length, mapped


def _parts(array: Array) -> Iterator[Array]:
    """A contiguous array in pieces of a few MiB."""
    flat = np.ascontiguousarray(array, np.float32).reshape(-1)
    for at in range(0, len(flat), 1 << 20):
        yield flat[at : at + (1 << 20)]


def _stored(path: files.AnyPath, name: str, about: Any, start: int, mapped: Mapped) -> Stored:
    said = f"{shown(name)} to have"
    try:
        dtype, shape, (begin, end) = about["dtype"], tuple(about["shape"]), about["data_offsets"]
        if not all(type(n) is int and n >= 0 for n in (*shape, begin, end)):
            raise TypeError
    except (KeyError, TypeError, ValueError):
        raise _bad(path, f"{said} a dtype, a shape and data_offsets") from None
    if not isinstance(dtype, str) or dtype not in PLAIN:
        raise _bad(path, f"{said} type F32, F16 or BF16, got {shown(dtype)}")
    if (
        not begin <= end <= len(mapped.bytes) - start
        or end - begin != math.prod(shape) * PLAIN[dtype].nbytes
    ):
        raise _bad(
            path, f"{said} its {dtype} numbers of shape {shown(list(shape))} inside the file"
        )

    def read() -> Array:
        raw = mapped.part(start + begin, start + end)
        return dequantised(raw, PLAIN[dtype], math.prod(shape)).reshape(shape)

    return Stored(name, shape, dtype, end - begin, read)


def _bad(path: files.AnyPath, expected: str) -> SafetensorsError:
    name = shown(os.fspath(path))
    return SafetensorsError(
        f"[safetensors] expected {name} to hold {expected}. Hint: copy the file again."
    )
