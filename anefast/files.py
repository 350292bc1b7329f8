"""The border for files: every file is opened, read and written through here.

Reading takes regular files only, so that a pipe or a device never hangs a command, and knows a
bound for the size before it takes memory. Writing follows no link: new content goes to a file of a
random name beside the old one, is flushed to the disk, and is renamed over it. The folder is opened
first and everything happens relative to it, so that no other one can take its place
meanwhile. Whatever the system refuses becomes one line that names the file and what to do.

What a format means is not here: parsing.py takes JSON and TOML, and schema.py says what their
values must look like; mapped.py maps files into memory; npz.py, checkpoint/, formats/, tokenizer/
and data/ read the rest. tests/test_tree.py keeps other files from opening any themselves.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import os
import re
import secrets
import select
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from anefast.errors import BadInput, shown
from anefast.parsing import parse_json, parse_toml

AnyPath = str | os.PathLike[str]

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
FIRST_WRITER_SECONDS = 5.0  # how long an empty pipe is waited for
MOST_HOLE = 16 * GIB  # a larger file that was hardly written is refused: reading it takes for ever
SETTINGS_BYTES = 1 * MIB  # no TOML file or small JSON of ours comes near this

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")  # names of files while they are written

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
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
    errno.ENXIO: "it is a pipe or a socket, a file is needed",
    errno.EFBIG: "it is larger than this disk or `ulimit -f` allows",
    errno.ENOMEM: "close other programs, or give this one more memory",
}


class FileError(BadInput, OSError):
    """A file cannot be read or written. The message is one line that names it; `errno` is what
    the system said, None where the objection is ours."""


class Locked(Exception):
    """Another process has a lock; the text is what it wrote into the file."""


def refusal(doing: str, path: AnyPath, error: OSError, where: str = "file") -> FileError:
    """The message for what the system refused. doing: "read", "write", "list"..."""
    reason = error.strerror or (os.strerror(error.errno) if error.errno else str(error))
    remedy = _REMEDIES.get(error.errno or 0, "check the file and its folder")
    told = FileError(f"[{where}] cannot {doing} {shown(path)}: {reason}. Hint: {remedy}.")
    told.errno = error.errno
    return told


@contextlib.contextmanager
def guarding(doing: str, path: AnyPath, where: str = "file") -> Iterator[None]:
    """Turns an OSError inside the block into the FileError of `refusal`."""
    try:
        yield
    except FileError:
        raise
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
        try:
            handle = os.open(path, flags)
        except ValueError:  # a NUL or half a surrogate pair, out of a file that names others
            raise FileError(
                f"[{where}] cannot read {shown(path)}: no file can have this name. Hint: rename it."
            ) from None
    try:
        about = os.fstat(handle)
        kind = next((name for test, name in _KINDS if test(about.st_mode)), None)
        if kind is not None:
            raise FileError(f"[{where}] expected {shown(path)} to be a file, it is {kind}.")
        on_disk = 512 * about.st_blocks
        if about.st_size > MOST_HOLE and on_disk < about.st_size // 64:
            raise FileError(
                f"[{where}] {shown(path)} has {about.st_size:,} bytes, of which {on_disk:,} were "
                "ever written. Hint: its download or copy was not finished."
            )
        if limit is not None and about.st_size > limit:
            raise FileError(
                f"[{where}] expected {shown(path)} to have at most {limit:,} bytes, "
                f"it has {about.st_size:,}. Hint: it is another kind of file, or damaged."
            )
        return _file(handle, path, "rb", where)
    except BaseException:
        os.close(handle)
        raise


def spool_pipe(path: AnyPath, limit: int, where: str = "file") -> BinaryIO:
    """Copies a pipe, until its end, into a file without a name.

    limit: FileError for more bytes, so that an endless pipe ends. A pipe that no program opens for
    writing within FIRST_WRITER_SECONDS counts as empty.
    """
    with guarding("read", path, where):
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        spooled = tempfile.TemporaryFile()
    try:
        if not stat.S_ISFIFO(os.fstat(handle).st_mode):
            raise FileError(f"[{where}] expected {shown(path)} to be a pipe, it is no longer one.")
        opened = time.monotonic()
        while True:
            select.select(
                [handle], [], [], 0.05
            )  # select reports nothing of a pipe without a writer
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


def read_lines(
    path: AnyPath, longest: int = MIB, where: str = "file", follow: bool = True
) -> Iterator[bytes]:
    """The lines of a file, one at a time, with their ends. FileError, also for a longer line."""
    with open_regular(path, None, where, follow) as file:
        while True:
            with guarding("read", path, where):
                line = file.readline(longest + 1)
            if not line:
                return
            if len(line) > longest:
                raise FileError(
                    f"[{where}] expected lines of at most {longest:,} bytes in {shown(path)}. "
                    "Hint: it is another kind of file, or damaged."
                )
            yield line


def read_json(
    path: AnyPath,
    limit: int = SETTINGS_BYTES,
    where: str = "file",
    follow: bool = True,
    form: Callable[[Any], Any] | None = None,
) -> Any:
    """The value in a JSON file, as `form` of schema.py gives it.

    FileError names the file and where it stops being JSON, or what has another form.
    """
    value = _parsed(parse_json, "JSON", path, read_text(path, limit, where, follow), where)
    return value if form is None else formed(form, value, path, where)


def formed(form: Callable[[Any], Any], value: Any, path: AnyPath, where: str = "file") -> Any:
    """Applies a check of schema.py to a value from a file. FileError names the file."""
    try:
        return form(value)
    except ValueError as error:
        raise FileError(f"[{where}] {shown(path)} is damaged: {shown(error, 400)}.") from None


def read_toml(
    path: AnyPath, limit: int = SETTINGS_BYTES, where: str = "file", follow: bool = True
) -> dict[str, Any]:
    """The table in a TOML file. FileError names the file and where it stops being TOML."""
    text = read_text(path, limit, where, follow)
    return dict(_parsed(parse_toml, "TOML", path, text, where))


def write_atomic(path: AnyPath, content: bytes, where: str = "file") -> None:
    """Replaces a file: afterwards it is the old one or the new one, also after a power cut.

    A link at `path` is replaced, not followed. FileError; the old file is then untouched.
    """
    with replacing(path, where) as file:
        file.write(content)


def write_json(path: AnyPath, value: Any, where: str = "file", indent: int | None = 1) -> None:
    """Replaces a file by `value` as JSON, see `write_atomic`."""
    text = json.dumps(value, indent=indent, allow_nan=False) + "\n"
    write_atomic(path, text.encode(), where)


@contextlib.contextmanager
def replacing(
    path: AnyPath, where: str = "file", inside: AnyPath | None = None
) -> Iterator[BinaryIO]:
    """A new file for what the block writes, which takes the place of `path` at its end.

    inside: no folder between this one and the file may be a link. The permissions stay those of the
    old file. When the block raises, the old file stays and nothing is left beside it. FileError.
    """
    path, temporary = Path(path), ""
    with guarding("write", path, where), _folder(path.parent, inside) as folder:
        try:
            temporary, handle = _beside(folder, path.name)
            with _file(handle, path, "wb", where) as file:
                yield file
                file.flush()
                with contextlib.suppress(FileNotFoundError):
                    old = os.stat(path.name, dir_fd=folder, follow_symlinks=False)
                    if stat.S_ISREG(old.st_mode):
                        os.fchmod(file.fileno(), stat.S_IMODE(old.st_mode) & 0o777)
                os.fsync(file.fileno())
            os.replace(temporary, path.name, src_dir_fd=folder, dst_dir_fd=folder)
            temporary = ""
            _sync(folder)
        finally:
            if temporary:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)


def open_new(
    path: AnyPath, where: str = "file", append: bool = False, devices: bool = False
) -> BinaryIO:
    """Opens a file for writing without a buffer, made where it is missing. No link is followed.

    append: keep what it holds and write behind it; otherwise it begins empty. devices: /dev/null
    and the like will do, since a flag named them. FileError.
    """
    handle = _open_own(path, os.O_WRONLY | (os.O_APPEND if append else 0), where, devices)
    try:
        if not append and stat.S_ISREG(os.fstat(handle).st_mode):
            with guarding("write", path, where):
                os.ftruncate(handle, 0)
        return _file(handle, path, "ab" if append else "wb", where, buffered=False)
    except BaseException:
        os.close(handle)
        raise


def open_unused(folder: AnyPath, prefix: str, suffix: str, where: str = "file") -> BinaryIO:
    """A new file of a random name, which stays. FileError."""
    path = Path(folder) / f"{prefix[:80]}{secrets.token_hex(8)}{suffix}"
    with guarding("write", path, where):
        return _file(os.open(path, _NEW, 0o666), path, "wb", where)


def lock(path: AnyPath, where: str = "file") -> int:
    """An open file with a lock that the system releases however the process ends.

    Locked where another process has it; FileError.
    """
    handle = _open_own(path, os.O_RDWR, where)
    try:
        with guarding("lock", path, where):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.pread(handle, 64, 0).decode("ascii", "replace").strip()
                raise Locked(owner) from None
    except BaseException:
        os.close(handle)
        raise
    return handle


def make_folder(path: AnyPath, where: str = "file", inside: AnyPath | None = None) -> None:
    """Makes a folder, and those above it, where it is not there.

    inside: a folder in which none of them may be a link. FileError.
    """
    with guarding("make", path, where):
        if inside is None:
            os.makedirs(path, exist_ok=True)
            return
        at = Path(inside)
        for part in Path(path).relative_to(inside).parts:
            with _folder(at, inside) as above, contextlib.suppress(FileExistsError):
                os.mkdir(part, dir_fd=above)
            at /= part
        with _folder(at, inside):
            pass


def remove(path: AnyPath, where: str = "file") -> None:
    """Removes a file or a link, not what the link leads to; one that is not there is fine."""
    with guarding("remove", path, where), contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def remove_tree(path: AnyPath) -> bool:
    """Removes a folder with all that is in it, or a link to one. Whether it is gone afterwards."""
    with contextlib.suppress(OSError):
        if os.path.islink(path):
            os.unlink(path)
        else:
            shutil.rmtree(path)
    return not os.path.lexists(path)


def rename(old: AnyPath, new: AnyPath, where: str = "file") -> None:
    """Gives a file or folder another name, in place of a file that has it. FileError."""
    with guarding("rename", old, where):
        os.replace(old, new)


@contextlib.contextmanager
def _folder(path: Path, inside: AnyPath | None) -> Iterator[int]:
    """An open folder. inside: it is reached from there without following a link."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    handle = os.open(path if inside is None else inside, flags)
    try:
        for part in () if inside is None else path.relative_to(inside).parts:
            below = os.open(part, flags | os.O_NOFOLLOW, dir_fd=handle)
            os.close(handle)
            handle = below
        yield handle
    finally:
        os.close(handle)


def _sync(folder: int) -> None:
    """Flushes a folder's names to the disk; some file systems cannot, which is fine."""
    with contextlib.suppress(OSError):
        os.fsync(folder)


def _open_own(path: AnyPath, flags: int, where: str, devices: bool = False) -> int:
    """Opens a file to change in place: regular, no link, and without another name."""
    flags |= os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    with guarding("write", path, where):
        handle = os.open(path, flags, 0o666)
    about = os.fstat(handle)
    if not (stat.S_ISREG(about.st_mode) or (devices and stat.S_ISCHR(about.st_mode))):
        os.close(handle)
        raise FileError(f"[{where}] expected {shown(path)} to be a file to write to.")
    if about.st_nlink > 1 and stat.S_ISREG(about.st_mode):
        os.close(handle)
        raise FileError(
            f"[{where}] {shown(path)} has another name elsewhere (a hard link), so that writing "
            "would change both. Hint: put a copy in its place."
        )
    return handle


def _beside(folder: int, name: str) -> tuple[str, int]:
    """A new file in an open folder, beside `name`, under a name that cannot be guessed."""
    while True:
        temporary = f".{name[:40]}.{secrets.token_hex(8)}.tmp"
        with contextlib.suppress(FileExistsError):
            return temporary, os.open(temporary, _NEW, 0o666, dir_fd=folder)


class _Named(io.FileIO):
    """An open file whose later errors (read, write, close) name the file."""

    def __init__(self, handle: int, path: AnyPath, mode: str, where: str) -> None:
        super().__init__(os.fspath(path), mode, opener=lambda *_: handle)
        self._at, self._doing, self._where = path, "read" if mode == "rb" else "write", where

    def _guarding(self) -> contextlib.AbstractContextManager[None]:
        return guarding(self._doing, self._at, self._where)

    def readinto(self, buffer: Any, /) -> int:
        with self._guarding():
            return cast(int, super().readinto(buffer))

    def readall(self) -> bytes:
        with self._guarding():
            return super().readall()

    def write(self, data: Any, /) -> int:
        with self._guarding():
            return cast(int, super().write(data))

    def close(self) -> None:
        with self._guarding():
            super().close()


def _file(handle: int, path: AnyPath, mode: str, where: str, buffered: bool = True) -> BinaryIO:
    raw = _Named(handle, path, mode, where)
    if not buffered:
        return cast(BinaryIO, raw)
    return cast(BinaryIO, io.BufferedReader(raw) if mode == "rb" else io.BufferedWriter(raw))


def _parsed(parse: Callable[[str], Any], kind: str, path: AnyPath, text: str, where: str) -> Any:
    try:
        return parse(text)
    except ValueError as error:
        raise FileError(
            f"[{where}] expected {shown(path)} to hold {kind}: {shown(error)}."
        ) from None
