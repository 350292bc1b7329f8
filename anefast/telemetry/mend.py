"""Row files when a run is taken up again: what is kept of them, and what of a damaged one.

A checkpoint knows the bytes that it counts on (rows.Mark). Where they are there, what follows is
dropped in silence: a killed run had made those updates, and makes them again. Where they are not,
the file as it is goes to metrics.damaged-1.jsonl, the rows that are sound stay, and a line reports
which are missing. Rows of metrics.jsonl are known to be sound by the CRC-32 in timings.jsonl.
"""

from __future__ import annotations

import hashlib
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from anefast.errors import shown
from anefast.files import guarding, open_regular, replacing
from anefast.telemetry.rows import CRC, METRICS, TIMINGS, Mark, Row, row_of, spoken

Say = Callable[[str], None]


def kept_rows(
    folder: Path, step: int, marks: Mapping[str, Mark] | None, say: Say
) -> tuple[int, int]:
    """Readies both files for going on behind update `step`. Returns the bytes to keep of each.

    marks: of the checkpoint, by file name; None for one of before there were any. A damaged file
    is set aside and written anew, which `say` gets a line about. FileError, RunError.
    """
    metrics, timings = ((folder / name, (marks or {}).get(name)) for name in (METRICS, TIMINGS))
    keep = _kept(*metrics, step, say)
    if keep is None:
        keep = _mended(metrics[0], step, _sums(timings[0]), say)
    beside = _kept(*timings, step, say)
    return keep, _mended(timings[0], step, {}, say) if beside is None else beside


def _kept(path: Path, mark: Mark | None, step: int, say: Say) -> int | None:
    """The bytes to keep of a file that is missing or as it should be; None for a damaged one."""
    if not path.exists():
        if step >= 0:
            say(f"{shown(path)} is missing: the rows up to update {step:,} are lost")
        return 0
    return _readable(path, step) if mark is None else _matching(path, mark, step)


def _matching(path: Path, mark: Mark, step: int) -> int | None:
    """The bytes up to update `step` of a file that begins as `mark` says, None for another."""
    digest, at, last = hashlib.sha256(), 0, b""
    with open_regular(path, where="run", follow=False) as file:
        for line in file:
            if at == mark.bytes:
                break
            digest.update(line)
            at, last = at + len(line), line
    if at != mark.bytes or digest.hexdigest() != mark.sha256:
        return None
    # of an update that a failed device left unfinished, the row is written again
    row = row_of(last) if last else None
    return at - len(last) if row is not None and row["step"] > step else at


def _readable(path: Path, step: int) -> int | None:
    """The bytes up to update `step` of a file whose rows go on without damage until then."""
    keep, before = 0, -1
    with open_regular(path, where="run", follow=False) as file:
        for line in file:
            row = row_of(line)
            if row is None or not before < row["step"] <= step:
                break
            keep, before = keep + len(line), row["step"]
    return keep if before >= step else None


def _mended(path: Path, step: int, sums: Mapping[int, int], say: Say) -> int:
    """Sets the file aside, writes its sound rows anew, and says what is missing."""
    aside = _set_aside(path)
    found: list[int] = []
    size = 0
    with open_regular(aside, where="run", follow=False) as old, replacing(path, "run") as new:
        for at, line in _in_order(old, step, sums):
            new.write(line)
            found.append(at)
            size += len(line)
    missing = sorted(set(range(step + 1)) - set(found))
    lost = f"{spoken('update', missing)} cannot be read and are left out" if missing else ""
    if not missing:
        lost = "a value in it is not what was written, in a row that cannot be told"
    say(f"{shown(path)} is damaged: {lost}. The file as it was is {aside.name}")
    return size


def _in_order(
    lines: Iterable[bytes], step: int, sums: Mapping[int, int]
) -> Iterator[tuple[int, bytes]]:
    """The sound rows up to update `step`: readable, in order, with their sum where it is known.

    A row whose update is above that of the row behind it has a damaged number.
    """
    before = -1
    held: tuple[int, bytes] | None = None
    for line in lines:
        row = row_of(line)
        if row is None or not before < row["step"] <= step:
            continue
        at: int = row["step"]
        if sums.get(at, zlib.crc32(line)) != zlib.crc32(line):
            continue
        if held is not None and held[0] < at:
            yield held
            before = held[0]
        held = (at, line)
    if held is not None:
        yield held


def _sums(timings: Path) -> dict[int, int]:
    """The CRC-32 of metrics rows by update, where timings.jsonl can be read."""
    if not timings.is_file():
        return {}
    with open_regular(timings, where="run", follow=False) as file:
        rows: Iterator[Row | None] = (row_of(line) for line in file)
        return {r["step"]: r[CRC] for r in rows if r is not None and type(r.get(CRC)) is int}


def _set_aside(path: Path) -> Path:
    """A copy of the file under the next free name, such as metrics.damaged-1.jsonl."""
    number = 1
    while (aside := path.with_name(f"{path.stem}.damaged-{number}{path.suffix}")).exists():
        number += 1
    with open_regular(path, where="run", follow=False) as old, replacing(aside, "run") as new:
        with guarding("write", aside, "run"):
            shutil.copyfileobj(old, new)
    return aside
