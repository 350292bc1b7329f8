"""The border for files: every file is opened, read and written through here.

Reading takes regular files only, so that a pipe or a device never hangs a command, and knows a
bound for the size before it takes memory. Writing follows no link: new content goes to a file of a
random name beside the old one, is flushed to the disk, and is renamed over it. Whatever the system
refuses becomes one line that names the file and what to do. What a format means is not here: see
checkpoint.py, llama2c.py, tokenizer/ and data.py.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import select
import stat
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from anefast.errors import BadInput, shown

AnyPath = str | os.PathLike[str]

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
FIRST_WRITER_SECONDS = 5.0  # how long an empty pipe is waited for
SETTINGS_BYTES = 1 * MIB  # no TOML file or small JSON of ours comes near this

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_REMEDIES = {
    errno.ENOSPC: "free some space, or choose a folder on another disk",
    errno.EDQUOT: "free some of your quota, or choose a folder on another disk",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "check its permissions",
    errno.EPERM: "check its permissions",
    errno.ENOENT: "check the path; it is taken from the current folder",
    errno.ENOTDIR: "a part of the path is a file; check it",
    errno.ELOOP: "it is a link, which is not followed here; name the file itself",
    errno.EMFILE: "too many files are open in this process; close some or raise `ulimit -n`",
    errno.ENFILE: "too many files are open on this system",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EIO: "the disk reports an error; try another one",
}


class FileError(BadInput):
    """A file that cannot be read or written. The message is one line that names it."""


def refusal(doing: str, path: AnyPath, error: OSError, where: str = "file") -> FileError:
    """The one line for what the system refused. doing: "read", "write", "list"..."""
    reason = error.strerror or str(error)
    remedy = _REMEDIES.get(error.errno or 0, "check the file and its folder")
    return FileError(f"[{where}] cannot {doing} {shown(path)}: {reason}. Hint: {remedy}.")


@contextlib.contextmanager
def guarding(doing: str, path: AnyPath, where: str = "file") -> Iterator[None]:
    """Turns an OSError inside the block into the FileError of `refusal`."""
    try:
        yield
    except OSError as error:
        raise refusal(doing, path, error, where) from None


def open_regular(
    path: AnyPath, limit: int | None = None, where: str = "file", follow: bool = True
) -> BinaryIO:
    """Opens a regular file for reading in binary.

    limit: FileError for a file of more bytes. follow=False also refuses a link. FileError when it
    is missing, of another kind (a folder, a pipe, a device), or not readable.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    with guarding("read", path, where):
        handle = os.open(path, flags)
    try:
        about = os.fstat(handle)
        kind = next((name for test, name in _KINDS if test(about.st_mode)), None)
        if kind is not None:
            raise FileError(f"[{where}] expected {shown(path)} to be a file, it is {kind}.")
        if limit is not None and about.st_size > limit:
            raise FileError(
                f"[{where}] expected {shown(path)} to have at most {limit:,} bytes, "
                f"it has {about.st_size:,}. Hint: it is another kind of file, or damaged."
            )
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def spool_pipe(path: AnyPath, limit: int, where: str = "file") -> BinaryIO:
    """What comes through a pipe until its end, in a file without a name.

    limit: FileError for more bytes, so that an endless pipe ends. A pipe that nobody opens for
    writing within FIRST_WRITER_SECONDS counts as empty.
    """
    with guarding("read", path, where):
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        spooled = tempfile.TemporaryFile()
    try:
        if not stat.S_ISFIFO(os.fstat(handle).st_mode):
            raise FileError(f"[{where}] expected {shown(path)} to be a pipe, it is none any more.")
        opened = time.monotonic()
        while True:
            select.select([handle], [], [], 0.05)  # nothing is told of a pipe nobody has opened
            with guarding("read", path, where):
                try:
                    part = os.read(handle, MIB)
                except BlockingIOError:  # somebody has opened it, and writes nothing yet
                    continue
                spooled.write(part)
            if spooled.tell() > limit:
                raise FileError(f"[{where}] {shown(path)} gave more than {limit:,} bytes.")
            waited = time.monotonic() - opened > FIRST_WRITER_SECONDS
            if not part and (spooled.tell() or waited):
                spooled.flush()
                spooled.seek(0)
                return cast(BinaryIO, spooled)
    except BaseException:
        spooled.close()
        raise
    finally:
        os.close(handle)


def read_bytes(
    path: AnyPath, limit: int | None = None, where: str = "file", follow: bool = True
) -> bytes:
    """The content of a regular file of at most `limit` bytes, also while it grows. FileError."""
    with open_regular(path, limit, where, follow) as file, guarding("read", path, where):
        content = file.read(-1 if limit is None else limit + 1)
    if limit is not None and len(content) > limit:
        raise FileError(f"[{where}] {shown(path)} grew past {limit:,} bytes while it was read.")
    return content


def map_bytes(path: AnyPath, where: str = "file") -> npt.NDArray[np.uint8]:
    """The bytes of a regular file, mapped into memory read-only: read as they are looked at."""
    with open_regular(path, where=where) as file, guarding("map", path, where):
        if os.fstat(file.fileno()).st_size == 0:  # nothing to map
            return np.empty(0, np.uint8)
        return np.memmap(file, np.uint8, "r")


def read_text(
    path: AnyPath, limit: int | None = None, where: str = "file", follow: bool = True
) -> str:
    """The UTF-8 text of a file, without a byte order mark at its start. FileError."""
    content = read_bytes(path, limit, where, follow)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileError(
            f"[{where}] expected {shown(path)} to be UTF-8 text, byte {error.start} is "
            f"0x{content[error.start]:02x}. Hint: convert it, with iconv for example."
        ) from None


def read_json(
    path: AnyPath, limit: int = SETTINGS_BYTES, where: str = "file", follow: bool = True
) -> Any:
    """The value in a JSON file. FileError names the file and where it stops being JSON."""
    return _parsed(parse_json, "JSON", path, read_text(path, limit, where, follow), where)


def read_toml(
    path: AnyPath, limit: int = SETTINGS_BYTES, where: str = "file", follow: bool = True
) -> dict[str, Any]:
    """The table in a TOML file. FileError names the file and where it stops being TOML."""
    text = read_text(path, limit, where, follow)
    return dict(_parsed(parse_toml, "TOML", path, text, where))


def parse_json(text: str | bytes, unique: bool = False) -> Any:
    """The value that JSON text stands for, or a ValueError, also when it is nested too deeply.

    unique: refuse an object that has a key twice, where json takes the last.
    """
    return _loads(partial(json.loads, object_pairs_hook=_once) if unique else json.loads, text)


def parse_toml(text: str) -> dict[str, Any]:
    """The table that TOML text stands for, or a ValueError, also when it is nested too deeply."""
    return dict(_loads(tomllib.loads, text))


def write_atomic(path: AnyPath, content: bytes, where: str = "file") -> None:
    """Replaces a file: afterwards it is the old one or the new one, also after a power cut.

    A link at `path` is replaced, not followed. FileError; the old file is then untouched.
    """
    with replacing(path, where) as file:
        file.write(content)


@contextlib.contextmanager
def replacing(path: AnyPath, where: str = "file") -> Iterator[BinaryIO]:
    """A new file for what the block writes, which takes the place of `path` at its end.

    When the block raises, the old file stays and nothing is left beside it. FileError.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        with guarding("write", path, where):
            temporary, file = _beside(path)
            with file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            temporary = None
            sync_folder(path.parent)
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def open_new(path: AnyPath, where: str = "file", append: bool = False) -> BinaryIO:
    """Opens a file for writing without a buffer, made where it is missing. No link is followed.

    append: keep what it holds and write behind it; otherwise it begins empty. FileError.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    with guarding("write", path, where):
        handle = os.open(path, flags | (os.O_APPEND if append else 0), 0o644)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise FileError(f"[{where}] expected {shown(path)} to be a file to write to.")
        if not append:
            os.ftruncate(handle, 0)
        return os.fdopen(handle, "ab" if append else "wb", buffering=0)
    except BaseException:
        os.close(handle)
        raise


def sync_folder(path: AnyPath) -> None:
    """Flushes a folder's names to the disk; some file systems cannot, which is fine."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _beside(path: Path) -> tuple[Path, BinaryIO]:
    """A new file in the folder of `path` under a name that nobody can guess."""
    while True:
        temporary = path.with_name(f".{path.name[:64]}.{secrets.token_hex(8)}.tmp")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with contextlib.suppress(FileExistsError):
            return temporary, os.fdopen(os.open(temporary, flags, 0o644), "wb")


def _parsed(parse: Callable[[str], Any], kind: str, path: AnyPath, text: str, where: str) -> Any:
    try:
        return parse(text)
    except ValueError as error:
        raise FileError(
            f"[{where}] expected {shown(path)} to hold {kind}: {shown(error)}."
        ) from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _loads(loads: Callable[[Any], Any], text: str | bytes) -> Any:
    try:
        return loads(text)
    except RecursionError:  # the libraries leave deep nesting to Python's stack
        raise ValueError("it is nested too deeply") from None
