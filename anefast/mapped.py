"""Files that are mapped into memory: read as they are looked at. files.py opens them."""

from __future__ import annotations

import contextlib
import mmap
import os

import numpy as np
import numpy.typing as npt

from anefast.errors import shown
from anefast.files import AnyPath, FileError, guarding, open_regular


class Mapped:
    """A regular file, mapped into memory read-only: read as it is looked at. FileError.

    bytes: uint8. Whoever wants a piece of it later takes a `part`.
    """

    def __init__(self, path: AnyPath, where: str = "file") -> None:
        self._path, self._where = path, where
        with open_regular(path, where=where) as file, guarding("map", path, where):
            self._was = os.fstat(file.fileno())
            empty = self._was.st_size == 0  # nothing to map
            self.bytes = np.empty(0, np.uint8) if empty else np.memmap(file, np.uint8, "r")

    def part(self, begin: int, end: int) -> npt.NDArray[np.uint8]:
        """These bytes.

        FileError where somebody has written into the file since it was opened. One that was put in
        its place does no harm: the old one stays as it was for whoever has it open.
        """
        now = None
        with contextlib.suppress(OSError):
            now = os.stat(self._path)
        was = self._was
        if now is not None and (now.st_dev, now.st_ino) == (was.st_dev, was.st_ino):
            if (now.st_size, now.st_mtime_ns) != (was.st_size, was.st_mtime_ns):
                raise FileError(
                    f"[{self._where}] expected {shown(self._path)} to stay as it was opened, it "
                    "was written to since. Hint: load it again."
                )
        return self.bytes[begin:end]


def let_go(part: npt.NDArray[np.uint8]) -> None:
    """Has the system take back the pages of a mapped part that was read; others are left alone.

    They stay in its cache, where they are nobody's memory, and come back if they are looked at.
    """
    mapped = getattr(part, "_mmap", None)
    if not isinstance(mapped, mmap.mmap) or not part.size or not hasattr(mmap, "MADV_DONTNEED"):
        return
    begin = part.ctypes.data - np.frombuffer(mapped, np.uint8).ctypes.data
    page = begin - begin % mmap.PAGESIZE
    mapped.madvise(mmap.MADV_DONTNEED, page, begin + part.nbytes - page)
