"""Reads arrays of an untrusted .npz file: names, shapes and dtypes are known beforehand.

The directory of the archive and the header of every array are held against what was expected, and
only then memory is taken, for exactly that. Arrays are taken as np.savez stores them, without
compression, so that no file becomes larger when it is read. Pickles are never loaded.
"""

from __future__ import annotations

import ast
import os
import struct
import zipfile
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from anefast.errors import shown
from anefast.files import AnyPath, FileError, guarding, open_regular

Arrays = dict[str, npt.NDArray[Any]]
Expected = Mapping[str, tuple[tuple[int, ...], npt.DTypeLike]]

_END = struct.Struct("<4s4H2LH")  # the record at the end of an archive without a comment
_MOST_DIRECTORY = 1 << 20  # bytes of the list of entries
_MOST_HEADER = 1 << 12  # bytes of an array's header
_MAGIC = b"\x93NUMPY"


def read_npz(path: AnyPath, expected: Expected, where: str = "file") -> Arrays:
    """The arrays of these names; each is of the shape and dtype expected, or absent. FileError."""
    with open_regular(path, None, where) as file, guarding("read", path, where):
        try:
            _check_end(file)
            with zipfile.ZipFile(file) as archive:
                return {
                    name: _array(archive, f"{name}.npy", shape, np.dtype(dtype))
                    for name, (shape, dtype) in expected.items()
                    if f"{name}.npy" in archive.NameToInfo
                }
        except (ValueError, zipfile.BadZipFile, EOFError, RuntimeError) as error:
            # RuntimeError: it is encrypted
            raise FileError(f"[{where}] {shown(path)} is damaged: {shown(error)}.") from None


def _check_end(file: BinaryIO) -> None:
    """Refuses a list of entries that is larger than any of NumPy's."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _END.size))
    raw = file.read(_END.size)
    if len(raw) < _END.size or not raw.startswith(b"PK\5\6"):
        raise ValueError("it does not end like an .npz file")
    if _END.unpack(raw)[5] > _MOST_DIRECTORY:
        raise ValueError("it has too many entries")


def _array(
    archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> npt.NDArray[Any]:
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{shown(name)} is compressed, which np.savez does not do")
    with archive.open(name) as file:
        found = _header(file, name)
        if found.get("descr") != dtype.str or found.get("shape") != shape:
            raise ValueError(
                f"expected {shown(name)} of {dtype.name} {shape}, "
                f"got {shown(found.get('descr'), 20)} {shown(found.get('shape'), 60)}"
            )
        array = np.empty(shape, dtype)
        data = array.reshape(-1).view(np.uint8).data
        done = 0
        while done < len(data):
            part = file.read(min(len(data) - done, 1 << 20))
            if not part:
                raise ValueError(f"{shown(name)} ends early")
            data[done : done + len(part)] = part
            done += len(part)
        if file.read(1):
            raise ValueError(f"{shown(name)} goes on behind its array")
    return array.reshape(shape[::-1]).T if found.get("fortran_order") is True else array


def _header(file: Any, name: str) -> dict[str, Any]:
    """Parses the header of a .npy file: the array's dtype and shape."""
    head = file.read(10)
    if len(head) < 10 or head[:6] != _MAGIC or head[6:8] != b"\1\0":
        raise ValueError(f"{shown(name)} is not an array of NumPy's format 1.0")
    size = int.from_bytes(head[8:10], "little")
    if size > _MOST_HEADER:
        raise ValueError(f"the header of {shown(name)} has {size:,} bytes")
    try:
        found = ast.literal_eval(file.read(size).decode("latin-1").strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        raise ValueError(f"the header of {shown(name)} makes no sense") from None
    if not isinstance(found, dict):
        raise ValueError(f"the header of {shown(name)} makes no sense")
    return found
