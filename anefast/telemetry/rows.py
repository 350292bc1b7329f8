"""The two row files of a run, one JSON object per line and update.

metrics.jsonl holds only what is a function of the config and the data, so that a resumed run writes
the same bytes as one that was never stopped. What a clock or the machine decides (times, memory,
where each millisecond of the update went) goes to timings.jsonl beside it.
"""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

from anefast.errors import BadInput
from anefast.files import open_new, open_regular, parse_json

METRICS, TIMINGS = "metrics.jsonl", "timings.jsonl"

Row = dict[str, Any]


class RunError(BadInput):
    """A run folder, or rows of it, that cannot be used. One line."""


class RowFiles:
    """Both files, open for appending."""

    def __init__(self, folder: Path, step: int) -> None:
        """Drops the rows past update `step`, where training goes on."""
        self.folder = folder
        for name in (METRICS, TIMINGS):
            if (folder / name).exists():
                drop_rows_after(folder / name, step)
        self._files = [open_new(folder / name, "run", append=True) for name in (METRICS, TIMINGS)]

    def write(self, metrics: Row, timings: Row) -> None:
        """Appends a row to each file; numbers that are not finite become null. RunError."""
        for file, row in zip(self._files, (metrics, timings), strict=True):
            line = json.dumps({k: _plain(v) for k, v in row.items()}).encode() + b"\n"
            try:
                if file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                raise self._refused(file.name, error) from None

    def sync(self) -> None:
        """Rows are on disk when this returns. RunError."""
        for file in self._files:
            try:
                os.fsync(file.fileno())
            except OSError as error:
                raise self._refused(file.name, error) from None

    def close(self) -> None:
        for file in self._files:
            file.close()

    def _refused(self, name: str, error: OSError) -> RunError:
        return RunError(
            f"[run] cannot write {name}: {error.strerror}. "
            f"Hint: free some space, then --resume {self.folder} from its last checkpoint."
        )


def read_rows(path: Path) -> list[Row]:
    """The rows of a metrics.jsonl or timings.jsonl; a half-written last row is left out."""
    rows = []
    for line in path.read_bytes().splitlines():
        try:
            rows.append(parse_json(line))
        except ValueError:
            break
    return rows


def drop_rows_after(path: Path, step: int) -> None:
    """Cuts the file after the last row of update `step`, or at a row that is damaged."""
    keep = 0
    with open_regular(path, where="run", follow=False) as file:
        for line in file:
            try:
                if parse_json(line)["step"] > step or not line.endswith(b"\n"):
                    break
            except (ValueError, KeyError, TypeError):
                break
            keep += len(line)
    os.truncate(path, keep)


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
