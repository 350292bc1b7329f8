"""ANE081 to ANE091: the weight files beside a text. Headers are read, data only to look for NaN.

The files of `@model_path/...` are sought in the folder of the text, where the compiler wants them;
text that has no folder is not judged. The format is documented in csrc/blob.c.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

import numpy as np

from anefast.files import FileError, open_regular
from anefast.mil.lint.checks.base import Finding, Platform, found, source_check
from anefast.mil.lint.edits import Edit, dialect_of
from anefast.mil.lint.source import Source, Value

PREFIX = "@model_path/"
ALIGN, VERSION, SENTINEL = 64, 2, 0xDEADBEEF
FORMATS = {  # dtype -> its number in a record, bytes per element
    "fp16": (1, 2), "fp32": (2, 4), "uint8": (3, 1), "int8": (4, 1), "int16": (6, 2),
    "uint16": (7, 2), "int32": (14, 4), "uint32": (15, 4),
}  # fmt: skip
CODES = {name: code for name, (code, _) in FORMATS.items()}
BYTES = {name: size for name, (_, size) in FORMATS.items()}
MAX_RECORDS = 1 << 16  # that are counted
CHUNK = 1 << 22  # bytes looked at together
MOST_LOOKED_AT = 4 << 30  # bytes of a record: no weight comes near this
BUDGET = 8 << 20
COMPILED = ("net.plist", "data", "model.hwx", "coremldata.bin")  # what a compile leaves behind


class BlobRecord(NamedTuple):
    """The 64 bytes at an offset of a weight file."""

    offset: int
    sentinel: int
    dtype: int
    size: int
    data: int


@dataclass
class WeightFile:
    """A weight file: its header and the records that can be reached in it."""

    path: Path
    bytes: int
    count: int
    version: int

    def record(self, offset: int) -> BlobRecord | None:
        with open_regular(self.path, where="lint") as file:
            return self._read(file, offset)

    def _read(self, file: BinaryIO, offset: int) -> BlobRecord | None:
        if offset < 0 or offset + ALIGN > self.bytes:
            return None
        file.seek(offset)
        raw = file.read(24)
        return BlobRecord(offset, *struct.unpack("<IIQQ", raw)) if len(raw) == 24 else None

    def records(self) -> Iterator[BlobRecord]:
        """Records as a reader walks them: the next begins at the first 64 behind the data."""
        offset, read = ALIGN, 0
        with open_regular(self.path, where="lint") as file:
            while read < MAX_RECORDS and (record := self._read(file, offset)):
                if record.sentinel != SENTINEL or record.data + record.size > self.bytes:
                    return
                yield record
                end = -(-(record.data + record.size) // ALIGN) * ALIGN
                offset, read = max(end, offset + ALIGN), read + 1


def opened(path: Path) -> WeightFile | str:
    """The opened file, or a description of its fault."""
    try:
        with open_regular(path, where="lint") as file:
            head, size = file.read(8), os.fstat(file.fileno()).st_size
    except FileError as error:
        gone = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
        return "is not there" if gone else "cannot be read, or is no file"
    count, version = struct.unpack("<II", head) if len(head) == 8 else (0, 0)
    return WeightFile(path, size, count, version)


def located(source: Source, name: str) -> Path | None:
    """The file of a BLOBFILE path; None if the path leads out of the folder."""
    inner = PurePosixPath(name.removeprefix(PREFIX))
    if source.path is None or inner.is_absolute() or ".." in inner.parts or "\0" in name:
        return None
    return source.path.parent / inner


@source_check(*(f"ANE{n:03}" for n in (81, 82, 83, 84, 85, 86, 87, 89, 90)))
def blobs(source: Source, target: Platform) -> Iterator[Finding]:
    named: dict[str, list[Value]] = {}
    for function in source.functions:
        for value in function.values:
            if value.blob is not None:
                named.setdefault(value.blob.path, []).append(value)
    for name, values in named.items():
        blob = values[0].blob
        assert blob is not None
        if not name.startswith(PREFIX) or ".." in PurePosixPath(name).parts:
            yield found("ANE082", blob.at, f"the path {name}")
        path = located(source, name)
        if path is None:
            continue
        file = opened(path)
        if isinstance(file, str):
            yield found("ANE081", blob.at, f"{path} {file}")
            continue
        yield from _file(source, file, values)


def _file(source: Source, file: WeightFile, values: list[Value]) -> Iterator[Finding]:
    first = values[0].blob
    assert first is not None
    reached = list(file.records())
    if file.version != VERSION:
        yield found(
            "ANE083", first.at, f"{file.path.name} is of version {file.version}, not {VERSION}"
        )
    elif file.count != len(reached) and reached:
        yield found(
            "ANE083",
            first.at,
            f"{file.path.name} counts {file.count} records and holds {len(reached)}",
        )
    sound: set[int] = set()
    strange = {p.at for p in source.problems if p.fault == "dtype"}
    for value in values:
        blob = value.blob
        assert blob is not None
        if any(value.span[0] <= source.offset(at) < value.span[1] for at in strange):
            continue  # a type narrower than a byte: its record is not ours to judge
        for finding in _record(source, file, value):
            yield finding
            if finding.rule.id == "ANE084":
                break
        sound.add(blob.offset)
    unused = [r for r in reached if r.offset not in sound]
    if unused and file.version == VERSION and len(unused) < len(reached):
        size = sum(r.size for r in unused)
        yield found(
            "ANE089",
            first.at,
            f"{len(unused)} records of {size} bytes in {file.path.name} are not named",
        )


def _record(source: Source, file: WeightFile, value: Value) -> Iterator[Finding]:
    blob = value.blob
    assert blob is not None
    record = file.record(blob.offset)
    where = f"offset {blob.offset} of {file.path.name}"
    if record is None or record.sentinel != SENTINEL:
        before = file.record(blob.offset - ALIGN)
        right = before is not None and before.sentinel == SENTINEL and before.data == blob.offset
        if blob.offset == 0 and (start := file.record(ALIGN)) is not None:
            before, right = start, start.sentinel == SENTINEL
        edits = []
        if right and before is not None and before.dtype == CODES.get(value.dtype):
            scalar = dialect_of(source).scalar("uint64")
            edits = [Edit(blob.literal, f"{scalar}({before.offset})")]
        hint = ": the data, its record is 64 before" if edits and blob.offset else ""
        yield found("ANE084", blob.at, f"no record at {where}{hint}", *edits)
        return
    if blob.offset % ALIGN or record.data % ALIGN:
        yield found("ANE087", blob.at, f"{where} has its data at {record.data}")
    code = CODES.get(value.dtype)
    if code is not None and record.dtype != code:
        yield found(
            "ANE086", blob.at, f"{where} is of dtype {record.dtype}, {value.dtype} is {code}"
        )
        return
    wanted = value.size * BYTES.get(value.dtype, 0)
    if record.size != wanted or not ALIGN <= record.data <= file.bytes - record.size:
        yield found(
            "ANE085",
            blob.at,
            f"{where} has {record.size} bytes at {record.data}, wanted are {wanted}",
        )
        return
    if value.dtype in ("fp16", "fp32") and not finite(file.path, record, value.dtype):
        yield found("ANE090", blob.at, f"{where} holds NaN or infinity")


def finite(path: Path, record: BlobRecord, dtype: str) -> bool:
    """True if every element of a record is finite, as far as MOST_LOOKED_AT goes."""
    kind, exponent = ("<u2", 0x7C00) if dtype == "fp16" else ("<u4", 0x7F800000)
    with open_regular(path, where="lint") as file:
        file.seek(record.data)
        left = min(record.size, MOST_LOOKED_AT)
        while left and (raw := file.read(min(left, CHUNK))):
            left -= len(raw)
            bits = np.frombuffer(raw, kind, len(raw) // int(kind[2]))
            if bool(((bits & exponent) == exponent).any()):
                return False
    return True


@source_check("ANE088")
def changed(source: Source, target: Platform) -> Iterator[Finding]:
    """A weight file newer than what was compiled from it, or unlike the compiler's own copy."""
    if source.path is None:
        return
    folder = source.path.parent
    products = [p for p in (folder / name for name in COMPILED) if p.is_file()]
    if not products:
        return
    blobs = {v.blob.path: v.blob for f in source.functions for v in f.values if v.blob}
    compiled = min(p.stat().st_mtime_ns for p in products)
    for name, blob in blobs.items():
        path = located(source, name)
        if path is None or not path.is_file():
            continue
        newer = path.stat().st_mtime_ns > compiled
        copy = folder / "data"  # of a program with one weight file: that file as it was
        unlike = len(blobs) == 1 and copy.is_file() and not same(copy, path)
        if newer or unlike:
            why = (
                "differs from the compiled copy" if unlike else f"is newer than {products[0].name}"
            )
            yield found("ANE088", blob.at, f"{path.name} {why}")


def same(a: Path, b: Path) -> bool:
    if a.stat().st_size != b.stat().st_size:
        return False
    with open_regular(a, where="lint") as one, open_regular(b, where="lint") as other:
        while chunk := one.read(1 << 20):
            if chunk != other.read(1 << 20):
                return False
    return True


@source_check("ANE091")
def budget(source: Source, target: Platform) -> Iterator[Finding]:
    values = [v for f in source.functions for v in f.values if v.blob is not None]
    total = sum(v.size * BYTES.get(v.dtype, 0) for v in values)
    if total > BUDGET:
        yield found("ANE091", values[0].at, f"{total / 1e6:.0f} MB of weights")
