"""Files of token ids, as memory maps. How a file lies is read from it, never from its name.

A NumPy .npy says its type, and llm.c's shards say theirs in a header of 256 int32. A flat file says
nothing, so its ids decide: a stream of uint16 in which every second one is too small to be anything
but the upper half of an id is one of uint32 (or int64, where it is three of four). What fits no way
of reading is refused with the way that it seems to be, and every id is checked when it is first
read (`Shard.check`), so a wrong guess is never silent.
"""

from __future__ import annotations

import io
import logging
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anefast.data.error import DataError, refused
from anefast.data.source import File
from anefast.errors import shown
from anefast.files import guarding
from anefast.kinds import LLMC_SHARD, NUMPY, looks_like_text

LLMC_HEADER_BYTES = 1024
LLMC_LAYOUTS = {  # by magic number: version, how ids lie, and the tokenizer that they are of
    20240520: (1, "<u2", "GPT-2", 50_257),
    20240801: (7, "<u4", "Llama 3", 128_256),
}
_WIDE = ("<i8", "<u4", "<i4", ">i8", ">u4")  # the first that fits is how a flat file lies
_SAMPLE_BYTES = 1 << 20  # looked at in the beginning, the middle and the end of a flat file
_LOWEST_MARK = 1024
_LEAST_FOR_ORDER = 4096  # ids, before bytes are called the wrong way round
_NAMES = {"u2": "uint16", "u4": "uint32", "i4": "int32", "i8": "int64"}


log = logging.getLogger("anefast")


@dataclass(frozen=True)
class Shard:
    """ids: a memory map, one dimension, of integers. limit: every id is below it, and not below 0.

    file: whose ids they are, for messages.
    """

    file: File
    ids: npt.NDArray[Any]
    limit: int

    @property
    def type_name(self) -> str:
        return _name(self.ids.dtype)

    def check(self, part: npt.NDArray[Any], start: int) -> None:
        """DataError if `part`, the ids from `start` on, has an id out of range."""
        low, high = int(part.min()), int(part.max())
        if low < 0 or high >= self.limit:
            at = int(((part < 0) | (part >= self.limit)).argmax())
            if int(part[at]) < 0:
                hint = "negative ids mark what is left out of the loss elsewhere; take them out"
            else:
                hint = "name the tokenizer that made the file, and a model with as many ids"
            raise DataError(
                f"ids below {self.limit}",
                f"{self.file} has {part[at]} at token {start + at} ({self.type_name} ids)",
                hint,
            )


def is_shard(file: File) -> bool:
    """True if a file is to be read as token ids. DataError for other kinds that are no text."""
    kind = file.kind
    if kind in (NUMPY, LLMC_SHARD):
        return True
    if kind is not None and not kind.text:
        raise refused(file.path, kind)
    return file.path.suffix == ".bin"


def open_shard(file: File, limit: int) -> Shard:
    """The ids of a file, each below `limit`. DataError in one line if it has none."""
    if file.held is not None:
        raise DataError("text", f"{file} is a pipe of token ids", "write them to a .bin file")
    kind, (start, size) = file.kind, file.start
    if kind is NUMPY:
        return Shard(file, _numpy(file), limit)
    if kind is LLMC_SHARD:
        ids, made_with, count = _llmc(file, start, size)
        if not count <= limit <= -(-count // 128) * 128:  # or as many as a padded table has
            log.warning(
                "data: %s has llm.c's header for %s, which has %d ids, but ids here go below %d",
                file, made_with, count, limit,
            )  # fmt: skip
        return Shard(file, ids, limit)
    if kind is not None:
        raise refused(file.path, kind)
    if looks_like_text(start) and len(start) >= 16:
        raise DataError("token ids", f"{file} is text", "call it .txt")
    if size == 0 or size % 2:
        raise DataError(
            "token ids, an even number of bytes",
            f"{file} has {size}",
            "it is empty, cut short, or not a token file" if size else "write tokens to it first",
        )
    return Shard(file, _mapped(file, _flat(file, size, limit)), limit)


def _numpy(file: File) -> npt.NDArray[Any]:
    with file.open() as reader, guarding("read", file.path, "data"):
        try:
            version = np.lib.format.read_magic(reader)
            if version[0] == 1:
                shape, _, dtype = np.lib.format.read_array_header_1_0(reader)
            else:
                shape, _, dtype = np.lib.format.read_array_header_2_0(reader)
        except Exception as error:  # NumPy lets through what Python's tokenizer raises
            why = shown(error)
            raise DataError("a NumPy array", f"{file}: {why}", "write it again") from None
        offset = reader.tell()
    if len(shape) != 1 or dtype.kind not in "iu" or not shape[0]:
        raise DataError(
            "one row of integers", f"{file} has {dtype} of shape {shape}", "flatten it, as uint16"
        )
    ids = _mapped(file, dtype, offset)
    if len(ids) != shape[0]:
        raise DataError(
            f"{shape[0]:,} ids, as its header says", f"{file} has {len(ids):,}", "fetch it again"
        )
    return ids


def _llmc(file: File, start: bytes, size: int) -> tuple[npt.NDArray[Any], str, int]:
    """The ids of an llm.c shard, and the tokenizer that its header stands for: name, ids."""
    magic, version, count = struct.unpack_from("<3i", start)
    known, dtype, made_with, vocabulary = LLMC_LAYOUTS[magic]
    if version != known:
        raise DataError(
            f"version {known} in llm.c's header",
            f"{file} has {version}",
            "write it again with llm.c's data_common.py",
        )
    expected = LLMC_HEADER_BYTES + count * np.dtype(dtype).itemsize
    if size != expected or count < 1:
        raise DataError(
            f"{expected:,} bytes for the {count:,} tokens in llm.c's header",
            f"{file} has {size:,}",
            "it is cut short or damaged; fetch it again",
        )
    return _mapped(file, dtype, LLMC_HEADER_BYTES), made_with, vocabulary


def _flat(file: File, size: int, limit: int) -> str:
    """The type of a flat file's ids, judged by samples. DataError if no known type fits."""
    sample = _sample(file, size)
    for dtype in _WIDE:  # before uint16, which any bytes are where there are ids enough
        if size % np.dtype(dtype).itemsize == 0 and _fits(sample, dtype, limit):
            if dtype.startswith(">"):
                raise _big_endian(file, dtype)
            return dtype
    if _fits(sample, "<u2", limit) and not _is_turned(sample):
        return "<u2"
    if _fits(sample, ">u2", limit):
        raise _big_endian(file, ">u2")
    # out of range whatever they are: the width that they seem to have is the one to name
    return "<u4" if size % 4 == 0 and not np.frombuffer(sample, "<u2")[1::2].any() else "<u2"


def _sample(file: File, size: int) -> bytes:
    """The whole of a small file; of a large one its beginning, middle and end."""
    with file.open() as reader, guarding("read", file.path, "data"):
        if size <= 3 * _SAMPLE_BYTES:
            return reader.read()
        parts = []
        for at in (0, size // 2 // 8 * 8, (size - _SAMPLE_BYTES) // 8 * 8):
            reader.seek(at, io.SEEK_SET)
            parts.append(reader.read(_SAMPLE_BYTES))
        return b"".join(parts)


def _fits(sample: bytes, dtype: str, limit: int) -> bool:
    """True if all ids of a sample are in range when read so; of int32 a few marks may be below 0.

    Marks are -1, -100 and the like: `Shard.check` names the first of them.
    """
    bytes_each = np.dtype(dtype).itemsize
    ids = np.frombuffer(sample[: len(sample) // bytes_each * bytes_each], dtype)
    low, high = int(ids.min()), int(ids.max())
    return (-_LOWEST_MARK if dtype == "<i4" else 0) <= low and 0 <= high < limit


def _is_turned(sample: bytes) -> bool:
    """True if upper bytes of uint16 ids vary so much more than lower ones that they are the lower.

    Frequent ids are small in every vocabulary, so that upper bytes repeat themselves.
    """
    pairs = np.frombuffer(sample[: len(sample) // 2 * 2], np.uint8).reshape(-1, 2)
    if len(pairs) < _LEAST_FOR_ORDER:
        return False
    bits = []
    for column in pairs.T:
        share = np.bincount(column, minlength=256) / len(pairs)
        bits.append(-float((share * np.log2(np.maximum(share, 1e-30))).sum()))
    return bits[1] > bits[0] + 1.0


def _big_endian(file: File, dtype: str) -> DataError:
    return DataError(
        "little-endian token ids",
        f"{file} has big-endian {_name(np.dtype(dtype))} ids",
        f"turn them: numpy.fromfile(FILE, '{dtype}').astype('<u4').tofile(NEW)",
    )


def _mapped(file: File, dtype: Any, offset: int = 0) -> npt.NDArray[Any]:
    with file.open() as reader, guarding("map", file.path, "data"):
        about = np.dtype(dtype)
        count = (reader.seek(0, io.SEEK_END) - offset) // about.itemsize
        return (
            np.memmap(reader, about, "r", offset, (max(0, count),)) if count else np.empty(0, about)
        )


def _name(dtype: np.dtype[Any]) -> str:
    return _NAMES.get(dtype.str[1:], dtype.name)
