"""The two row files of a run, one JSON object per line and update.

metrics.jsonl holds only what is a function of the config and the data, so that a resumed run writes
the same bytes as one that was never stopped. What a clock or the machine decides (times, memory,
where each millisecond of the update went) goes to timings.jsonl beside it, with the CRC-32 of the
metrics row. A checkpoint keeps the mark of both files: how much of them it counts on. What becomes
of a file that a checkpoint does not find again is mend.py.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anefast.errors import BadInput, shown
from anefast.files import guarding, open_new, open_regular
from anefast.parsing import parse_json

METRICS, TIMINGS = "metrics.jsonl", "timings.jsonl"
CRC = "metrics_crc32"  # in a row of timings.jsonl: of the line in metrics.jsonl

Row = dict[str, Any]


class RunError(BadInput):
    """A run folder, or its rows, cannot be used. One line."""


@dataclass(frozen=True)
class Mark:
    """The beginning of a row file at some moment: so many bytes and rows, with this sha256."""

    bytes: int
    rows: int
    sha256: str

    @classmethod
    def of(cls, value: Any) -> Mark:
        """Reads a mark from JSON. ValueError if it is none."""
        try:
            mark = cls(**value)
            numbers = (mark.bytes, mark.rows)
            if all(type(n) is int and n >= 0 for n in numbers) and isinstance(mark.sha256, str):
                return mark
        except TypeError:
            pass
        raise ValueError("expected bytes, rows and sha256 of a row file")


class RowFile:
    """One of the files, open for appending behind `start`, which is all that is kept of it."""

    def __init__(self, path: Path, start: int = 0) -> None:
        self.path = path
        self._digest, self._bytes, self._rows = hashlib.sha256(), 0, 0
        self._file = open_new(path, "run", append=True)
        try:
            with guarding("write", path, "run"):
                os.ftruncate(self._file.fileno(), start)
            with open_regular(path, where="run", follow=False) as file:
                for line in file:
                    self._count(line)
        except BaseException:
            self._file.close()
            raise

    def write(self, line: bytes) -> None:
        """Appends a whole line or raises OSError."""
        if self._file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._count(line)

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def mark(self) -> Row:
        """The present length and digest, for a checkpoint: the fields of `Mark`."""
        return asdict(Mark(self._bytes, self._rows, self._digest.hexdigest()))

    def _count(self, line: bytes) -> None:
        self._digest.update(line)
        self._bytes, self._rows = self._bytes + len(line), self._rows + 1


class RowFiles:
    """Both files, open for appending."""

    def __init__(self, folder: Path, starts: tuple[int, int] = (0, 0)) -> None:
        """starts: the bytes of metrics.jsonl and of timings.jsonl that are kept."""
        self.folder = folder
        self.metrics = RowFile(folder / METRICS, starts[0])
        try:
            self.timings = RowFile(folder / TIMINGS, starts[1])
        except BaseException:
            self.metrics.close()
            raise

    def write(self, metrics: Row, timings: Row) -> None:
        """Appends a row to each file; numbers that are not finite become null. RunError."""
        line = _line(metrics)
        for file, text in (
            (self.metrics, line),
            (self.timings, _line({**timings, CRC: zlib.crc32(line)})),
        ):
            try:
                file.write(text)
            except OSError as error:
                raise self._refused(file.path, error) from None

    def sync(self) -> None:
        """Returns when the rows are on disk. RunError if that fails."""
        for file in (self.metrics, self.timings):
            try:
                file.sync()
            except OSError as error:
                raise self._refused(file.path, error) from None

    def close(self) -> None:
        self.metrics.close()
        self.timings.close()

    def _refused(self, path: Path, error: OSError) -> RunError:
        return RunError(
            f"[run] cannot write {shown(path)}: {os.strerror(error.errno or 0)}. "
            f"Hint: free some space, then --resume {shown(self.folder)} goes on."
        )


def read_rows(path: Path, say: Callable[[str], None] | None = None) -> list[Row]:
    """The rows of a metrics.jsonl or timings.jsonl.

    A half-written last row is left out, as a killed run leaves one. So are rows that are damaged,
    of which `say` gets a line.
    """
    rows: list[Row] = []
    left_out: list[int] = []
    with open_regular(path, where="run") as file:
        for number, line in enumerate(file, 1):
            row = row_of(line)
            if row is not None:
                rows.append(row)
            elif line.endswith(b"\n"):
                left_out.append(number)
    if left_out and say is not None:
        say(f"{shown(path)}: {spoken('line', left_out)} cannot be read and will be ignored")
    return rows


def row_of(line: bytes) -> Row | None:
    """The row in a whole line, with a `step`; None where there is none."""
    if not line.endswith(b"\n"):
        return None
    try:
        row = parse_json(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and type(row.get("step")) is int else None


def spoken(noun: str, numbers: list[int]) -> str:
    """Ascending numbers in words: "lines 3, 5 to 9".

    >>> spoken("line", [3]), spoken("line", [1, 2, 3, 7])
    ('line 3', 'lines 1 to 3, 7')
    """
    ends: list[list[int]] = []
    for n in numbers:
        if ends and n == ends[-1][1] + 1:
            ends[-1][1] = n
        else:
            ends.append([n, n])
    parts = [f"{a:,}" if a == b else f"{a:,} to {b:,}" for a, b in ends[:5]]
    more = f" and {len(ends) - 5:,} more places" if len(ends) > 5 else ""
    return f"{noun}{'s' if len(numbers) > 1 else ''} {', '.join(parts)}{more}"


def _line(row: Row) -> bytes:
    return json.dumps({k: _plain(v) for k, v in row.items()}).encode() + b"\n"


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
