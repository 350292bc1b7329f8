"""Compiled programs on disk: what one process has compiled, the next one only loads.

Where a device's compiles are dear and their results outlive a process (`keep` of csrc/anefast.h),
the programs whose weights never change are kept: those of a frozen base beside an adapter, and
those that only generate. A weight that trains is another program after each update, and is not.

A program lies in `programs/SYSTEM/KEY` of the cache folder. SYSTEM stands for the description of
the device, which names chip, system and build: after an update of the system nothing old is found.
KEY is `cache.key_of`: text, options and weights. Beside the files is a list of their sizes and
hashes, and what does not fit it is not loaded. ANEFAST_KEEP_MB bounds the whole folder; what was
not used for longest goes first, and 0 keeps nothing.

That a load needs net.plist, and data where there are weights, was read off others' projects
(maderix/ANE pull request 22, imperatormk/ane-train), not tried on a Mac of ours. A system that
refuses the first such load is not asked again: a note in SYSTEM says so until that folder is
removed.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import time
from pathlib import Path

from anefast import _C, environment
from anefast.errors import shown
from anefast.files import (
    MIB,
    FileError,
    make_folder,
    read_json,
    remove_tree,
    rename,
    write_json,
)
from anefast.mapped import Mapped
from anefast.runtime.cache import Blobs
from anefast.runtime.doctor_facts import cache_folder
from anefast.schema import record, table, text, whole

log = logging.getLogger("anefast")

FORMAT = 1  # of the list, counted up when a field means something else
LIST, FILES, REFUSED = "kept.json", "files", "refused.json"
ABANDONED = 3600.0  # s after which a folder that nobody finished is nobody's
_LIST = record({"format": whole(), "bytes": table(whole(), 16), "sha256": table(text(64), 16)})


class KeptPrograms:
    """Of one device. `load` before a compile, `keep` behind it. Neither raises for what the disk or
    the system do not allow: then programs are compiled, as without this."""

    def __init__(self, native: _C.Device, folder: Path, limit_bytes: int) -> None:
        self._native, self.folder, self._limit = native, folder, limit_bytes
        self._failed: set[str] = set()  # keys that the system did not load
        self._loaded = 0
        self.off = os.path.lexists(folder / REFUSED)

    @classmethod
    def of(cls, native: _C.Device) -> KeptPrograms | None:
        """Those of a device; None where it keeps none or is not to."""
        limit = environment.kept_mb() * MIB
        if not native.keeps or not limit:
            return None
        system = hashlib.sha256(native.description.encode()).hexdigest()[:16]
        return cls(native, programs_folder() / system, limit)

    def load(self, key: str, text: str, blobs: Blobs) -> _C.Program | None:
        """The program that was kept under this key, loaded; None where there is none, or none that
        is as it was written and that the system takes."""
        if self.off or key in self._failed or not self._sound(self.folder / key):
            return None
        try:
            program = self._native.load_kept(text, blobs, str(self.folder / key / FILES))
        except (RuntimeError, ValueError) as error:
            log.debug("[kept] %s was not loaded: %s", key, error)
            self._failed.add(key)
            return None
        self._loaded += 1
        try:
            os.utime(self.folder / key / LIST)
        except OSError as error:
            log.debug("[kept] %s was not marked as used: %s", key, error)
        return program

    def keep(self, key: str, program: _C.Program) -> None:
        """Keeps a program that had to be compiled."""
        if self.off:
            return
        if key in self._failed and not self._loaded:
            return self._give_up()
        made = self.folder / f".{secrets.token_hex(8)}"
        try:
            make_folder(made / FILES, "kept")
            program.keep(str(made / FILES))
            sizes, hashes = _contents(made / FILES)
            if sum(sizes.values()) > self._limit:
                return
            listed = {"format": FORMAT, "bytes": sizes, "sha256": hashes}
            write_json(made / LIST, listed, "kept")
            remove_tree(self.folder / key)  # what was not sound
            rename(made, self.folder / key, "kept")  # not where another process was first
            self._failed.discard(key)
            evict(self.folder.parent, self._limit)
        except (FileError, RuntimeError, ValueError) as error:
            log.debug("[kept] %s was not kept: %s", key, error)
        finally:
            remove_tree(made)

    def _sound(self, folder: Path) -> bool:
        """True if the files are those that were written."""
        try:
            listed = read_json(folder / LIST, MIB, "kept", form=_LIST)
            found = _contents(folder / FILES)
        except FileError as error:
            log.debug("[kept] %s is passed over: %s", folder.name, error)
            return False
        return listed["format"] == FORMAT and found == (listed["bytes"], listed["sha256"])

    def _give_up(self) -> None:
        """The system compiles what it did not load: it does not load what others have compiled."""
        self.off = True
        log.warning(
            "[kept] expected the system to load programs that it compiled in an earlier process, "
            "it refused: every process compiles its own. Hint: remove %s to try again.",
            shown(self.folder),
        )
        try:
            remove_tree(self.folder)
            make_folder(self.folder, "kept")
            write_json(self.folder / REFUSED, {"device": self._native.description}, "kept")
        except FileError as error:
            log.debug("[kept] that was not noted: %s", error)


def programs_folder() -> Path:
    return cache_folder() / "programs"


def evict(folder: Path, limit_bytes: int) -> None:
    """Removes programs of any system, those not used for longest first, until the rest is within
    `limit_bytes`; and what a process that was killed has left unfinished."""
    kept: list[tuple[float, int, Path]] = []
    for path in folder.glob("*/*/"):
        used = max((_modified(path / LIST), _modified(path)))
        if not path.name.startswith("."):
            kept.append((used, size_of(path), path))
        elif time.time() - used > ABANDONED:
            remove_tree(path)
    total = sum(size for _, size, _ in kept)
    for _, size, path in sorted(kept):
        if total <= limit_bytes:
            break
        remove_tree(path)
        total -= size


def held(folder: Path) -> tuple[int, int]:
    """(programs, bytes) of all systems that are kept."""
    paths = [p for p in folder.glob("*/*/") if not p.name.startswith(".")]
    return len(paths), sum(map(size_of, paths))


def size_of(folder: Path) -> int:
    """Bytes of the files in a folder and those below it."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_size if path.is_file() else 0
        except OSError:  # another process evicts, too
            continue
    return total


def _contents(folder: Path) -> tuple[dict[str, int], dict[str, str]]:
    """(sizes, sha256) of a folder's files, by name. FileError."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise FileError(f"[kept] expected to list {shown(folder)}, got: {error}.") from None
    sizes, hashes = {}, {}
    for name in names:
        content = Mapped(folder / name, "kept").bytes
        sizes[name], hashes[name] = content.nbytes, hashlib.sha256(content.data).hexdigest()
    return sizes, hashes


def _modified(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0
