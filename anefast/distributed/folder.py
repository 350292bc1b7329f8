"""The run folder of a rank: rank 0 has the run's, the others have temporary ones.

A rank that is killed leaves its own behind. The next rank on that machine removes it.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from anefast.distributed.world import World
from anefast.files import (
    GIB,
    FileError,
    Locked,
    lock,
    make_folder,
    read_bytes,
    remove_tree,
    write_atomic,
)
from anefast.telemetry import METRICS, TIMINGS, RunFolder
from anefast.telemetry.run import CONFIG, ENVIRONMENT

PREFIX, LOCK = "anefast-rank-", "rank.lock"
YOUNG_SECONDS = 3600.0  # in which a new folder is locked, however slow its machine is
ROWS_BYTES = 4 * GIB  # the most of a run's rows that a rank other than 0 takes over


@contextlib.contextmanager
def run_folder(out: Path, resumes: bool, world: World) -> Iterator[RunFolder]:
    """The run folder of rank 0. Another rank has one of its own, which goes away with it."""
    if world.rank == 0:
        with closing(RunFolder(out, resume=resumes)) as run:
            world.agree(True)
            world.agree(True)  # the other ranks have read what they need of it
            yield run
        return
    world.agree(True)  # rank 0 has taken up the folder, and changes nothing in it yet
    with _temporary() as own:
        folder = own / out.name
        if resumes:
            make_folder(folder, "run")
            for name in (CONFIG, ENVIRONMENT, METRICS, TIMINGS):
                if (out / name).exists():
                    write_atomic(folder / name, read_bytes(out / name, ROWS_BYTES, "run"), "run")
        world.agree(True)
        with closing(RunFolder(folder, resume=resumes)) as run:
            yield run


@contextlib.contextmanager
def _temporary() -> Iterator[Path]:
    sweep(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=PREFIX) as own:
        held = lock(Path(own) / LOCK, "run")
        try:
            yield Path(own)
        finally:
            os.close(held)


def sweep(folder: Path) -> None:
    """Removes what killed ranks of this user have left in a folder for temporary files.

    Their locks are free. Links and folders of others stay, and so do those that are too young to be
    locked for certain.
    """
    for left in folder.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError, FileError, Locked):
            found = left.lstat()
            own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
            if not own or time.time() - found.st_mtime < YOUNG_SECONDS:
                continue
            held = lock(left / LOCK, "run")
            try:
                remove_tree(left)
            finally:
                os.close(held)
