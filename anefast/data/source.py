"""Finds the files of a source, and decides which of them train and which validate.

A source is a file, a folder or a pipe. A folder is read whole, links to other folders included;
a line names the files that are left out. Where its owner has split it (train.bin beside val.bin, or
folders train/ and validation/), that split is kept, and a test part is never read.
What is in a file is not looked at here beyond its kind: text.py and shards.py do that.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

from anefast.data.error import DataError
from anefast.errors import shown
from anefast.files import GIB, guarding, open_regular, spool_pipe
from anefast.kinds import HEAD_BYTES, LFS, LLMC_SHARD, NUMPY, ZEROS, Kind, kind_of, missing

PIPE_BYTES = 64 * GIB  # a pipe that gives more has no end
TRAIN, VALIDATION, TEST = "training", "validation", "test"

_ROLES = {
    "train": TRAIN, "training": TRAIN, "val": VALIDATION, "valid": VALIDATION,
    "validation": VALIDATION, "dev": VALIDATION, "test": TEST, "testing": TEST, "heldout": TEST,
}  # fmt: skip
_COMPANION = re.compile(
    r"(readme|licen[cs]e|copying|notice|citation)(\.(md|txt|rst))?"
    r"|meta\.pkl|prepare\.py|dataset_infos?\.json|checksums?(\.txt)?|.*\.(sha256|md5|idx)",
    re.IGNORECASE,
)
_WORDS = re.compile(r"[^\W\d_]+")  # "fineweb_train_000001": fineweb, train

T = TypeVar("T")

log = logging.getLogger("anefast")


@dataclass(frozen=True)
class File:
    """A file to read from. `held` is what came through it, where it is a pipe."""

    path: Path
    held: BinaryIO | None = field(default=None, repr=False)
    _known: dict[str, object] = field(default_factory=dict, repr=False, compare=False)

    def __str__(self) -> str:
        return shown(self.path)

    def once(self, name: str, decide: Callable[[], T]) -> T:
        """The first result of `decide`: a file is read several times, and it may warn."""
        if name not in self._known:
            self._known[name] = decide()
        return cast(T, self._known[name])

    def open(self) -> BinaryIO:
        """A reader of its own, at the beginning. FileError when it cannot be read."""
        if self.held is None:
            return open_regular(self.path, where="data")
        again = os.fdopen(os.dup(self.held.fileno()), "rb")
        again.seek(0)
        return again

    @cached_property
    def start(self) -> tuple[bytes, int]:
        """Its first HEAD_BYTES, and its size."""
        with self.open() as file, guarding("read", self.path, "data"):
            return file.read(HEAD_BYTES), os.fstat(file.fileno()).st_size

    @cached_property
    def kind(self) -> Kind | None:
        return kind_of(*self.start)


@dataclass(frozen=True)
class Source:
    """Files in the order of the stream. validation: None where it is cut from the rest."""

    train: list[File]
    validation: list[File] | None = None

    @property
    def files(self) -> list[File]:
        return [*self.train, *(self.validation or ())]

    def close(self) -> None:
        for file in self.files:
            if file.held is not None:
                file.held.close()


def find(path: Path) -> Source:
    """The source that `path` names. DataError in one line for none, or for two at once."""
    path = Path("/dev/stdin") if path == Path("-") else path
    gone = missing(path)
    if gone is not None:
        raise DataError("stories, a text file, a folder or a .bin", *gone)
    if path.is_dir():
        if (path / "config.toml").is_file() and (path / "metrics.jsonl").is_file():
            raise DataError(
                "text or token ids", f"{shown(path)} is a run", "runs go with --init or --resume"
            )
        return _split(path, _useful(path, _walk(path)))
    mode = path.stat().st_mode
    if stat.S_ISFIFO(mode):
        return Source([File(path, spool_pipe(path, PIPE_BYTES, "data"))])
    if not stat.S_ISREG(mode):
        what = "a socket" if stat.S_ISSOCK(mode) else "a device"
        raise DataError("a file, a folder or a pipe", f"{shown(path)} is {what}", "name a file")
    _say_unused(path)
    return Source([File(path)])


def _walk(folder: Path) -> list[Path]:
    """The files of a folder and of the folders in it, linked ones too, each once, in name order."""
    left_out: dict[str, list[Path]] = {}
    seen: set[tuple[int, int]] = set()
    found: list[Path] = []

    def leave_out(why: str, path: Path) -> None:
        left_out.setdefault(why, []).append(path.relative_to(folder))

    about = folder.stat()
    seen.add((about.st_dev, about.st_ino))
    to_visit = [folder]
    while to_visit:
        at = to_visit.pop()
        with guarding("list", at, "data"), os.scandir(at) as entries:
            names = sorted(entry.name for entry in entries)
        for path in (at / name for name in names):
            if path.name.startswith("."):
                leave_out("hidden", path)
                continue
            gone = missing(path)
            if gone is not None:
                raise DataError("files that can be read", *gone)
            about = path.stat()
            if (about.st_dev, about.st_ino) in seen:
                leave_out("a second name of what is read already", path)
                continue
            seen.add((about.st_dev, about.st_ino))
            if stat.S_ISDIR(about.st_mode):
                to_visit.append(path)
            elif not stat.S_ISREG(about.st_mode):
                leave_out("no regular file", path)
            elif about.st_size == 0 and path.suffix != ".bin":
                leave_out("empty", path)
            else:
                found.append(path)
    for why, paths in left_out.items():
        _say_left_out(folder, why, paths)
    return sorted(found)


def _useful(folder: Path, paths: list[Path]) -> list[Path]:
    """`paths` without the companions of a data set, unless nothing else is there."""
    kept = [path for path in paths if not _COMPANION.fullmatch(path.name)]
    if not kept:
        kept, paths = paths, []
    if not kept:
        raise DataError("files to read", f"the folder {shown(folder)} has none", "put text in it")
    kept = _read_at_all(folder, kept)
    beside = [path.relative_to(folder) for path in paths if _COMPANION.fullmatch(path.name)]
    if beside:
        _say_left_out(folder, "about the data, not data", beside)
        if any(path.name == "meta.pkl" for path in beside):
            log.warning(
                "data: meta.pkl defines the ids of %s, and a pickle is never read; text from this "
                "model is wrong unless --tokenizer has the same ids",
                shown(folder),
            )
    return kept


def _read_at_all(folder: Path, paths: list[Path]) -> list[Path]:
    """`paths` without PDFs, archives and the like, with a warning; all of them where nothing is
    left, to be refused by name. What was not fetched whole stays, for the same reason. A .bin is of
    ids, which may begin like anything."""
    others: dict[str, list[Path]] = {}
    for path in paths:
        kind = None if path.suffix == ".bin" else File(path).kind
        if kind is not None and not kind.text and kind not in (NUMPY, LLMC_SHARD, LFS, ZEROS):
            others.setdefault(kind.name, []).append(path)
    left_out = {path for same in others.values() for path in same}
    if len(left_out) == len(paths):
        return paths
    for name, same in others.items():
        _say_left_out(folder, name, [path.relative_to(folder) for path in same])
    return [path for path in paths if path not in left_out]


def _split(folder: Path, paths: list[Path]) -> Source:
    """Training and validation files as the folder's owner split them, or all in one part."""
    parted = _parted_by_folder(folder, paths) or _parted_by_name(paths)
    if parted is None:
        return Source([File(path) for path in paths])
    by_role: dict[str, list[Path]] = {TRAIN: [], VALIDATION: [], TEST: []}
    for path, role in parted.items():
        if role is None:
            inside = path.relative_to(folder)
            raise DataError(
                f"every file in {shown(folder)} to be of a part, as training and validation are",
                f"{shown(inside)} is of none",
                "move it away, or put a word like train or val into its name",
            )
        by_role[role].append(path)
    if by_role[TEST]:
        _say_left_out(folder, "a test part", [p.relative_to(folder) for p in by_role[TEST]])
    train = [File(path) for path in by_role[TRAIN]]
    if not by_role[VALIDATION]:
        return Source(train)
    return Source(train, [File(path) for path in by_role[VALIDATION]])


def _parted_by_folder(folder: Path, paths: Iterable[Path]) -> dict[Path, str | None] | None:
    roles = {}
    for path in paths:
        first, *rest = path.relative_to(folder).parts
        roles[path] = _ROLES.get(first.casefold()) if rest else None
    return roles if _is_split(roles.values()) else None


def _parted_by_name(paths: Iterable[Path]) -> dict[Path, str | None] | None:
    """Splits by a word in the names, if they are equal except for that word and numbers."""
    roles: dict[Path, str | None] = {}
    rests: dict[tuple[object, ...], set[str | None]] = {}
    for path in paths:
        words = [word.casefold() for word in _WORDS.findall(path.stem)]
        found = [word for word in words if word in _ROLES]
        roles[path] = _ROLES[found[-1]] if found else None
        if found:
            rest = (*(word for word in words if word != found[-1]), path.suffix, path.parent)
            rests.setdefault(rest, set()).add(roles[path])
    return roles if any(_is_split(parts) for parts in rests.values()) else None


def _is_split(roles: Iterable[str | None]) -> bool:
    there = set(roles)
    return TRAIN in there and bool(there & {VALIDATION, TEST})


def _say_unused(path: Path) -> None:
    """Says that a file's other part lies beside it, where its name shows one."""
    if all(_ROLES.get(word.casefold()) != TRAIN for word in _WORDS.findall(path.stem)):
        return
    try:
        beside = [p for p in path.parent.iterdir() if p.suffix == path.suffix and p.is_file()]
    except OSError:
        return
    roles = _parted_by_name(beside) or {}
    other = [p for p in beside if roles.get(p) == VALIDATION]
    if roles.get(path) == TRAIN and other:
        log.warning(
            "data: only %s is read; name its folder to validate on %s", shown(path), other[0].name
        )


def _say_left_out(folder: Path, why: str, paths: list[Path]) -> None:
    shown_as = ", ".join(shown(path) for path in paths[:4])
    more = f" and {len(paths) - 4:,} more" if len(paths) > 4 else ""
    log.warning("data: skipped in %s (%s): %s%s", shown(folder), why, shown_as, more)


def one_of(files: Iterable[File], test: Callable[[File], bool]) -> bool:
    """True if `test` holds for all files. DataError, naming two, if it holds for some only."""
    parts: dict[bool, File] = {}
    for file in files:
        parts.setdefault(test(file), file)
    if len(parts) > 1:
        raise DataError(
            "only text or only token ids",
            f"the folder has both, {parts[True]} of ids and {parts[False]} of text",
            "keep them in folders of their own",
        )
    return True in parts
