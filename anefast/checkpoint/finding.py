"""The checkpoints of a run: which there are, and which is the newest, the best or the newest whole
one. Only `whole_one` reads more than names and states."""

from __future__ import annotations

import os
from pathlib import Path

from anefast.checkpoint.names import BEST, STATE, CheckpointError, place
from anefast.errors import shown
from anefast.files import FileError, read_json


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return [path for path in folders(run) if (path / STATE).is_file()]


def find_checkpoint(path: str | os.PathLike[str]) -> Path:
    """`path` if it is a checkpoint, else the newest in the run `path`. CheckpointError if none."""
    path = Path(path)
    if not path.exists():
        raise CheckpointError(
            f"[checkpoint] there is no {shown(path)}. Hint: name a run or a checkpoint."
        )
    if (path / STATE).is_file() or place(path.name) is not None:
        return path.resolve() if path.is_symlink() else path
    found = newest(path)
    if found is None:
        raise CheckpointError(
            f"[checkpoint] expected a run with checkpoints, {shown(path)} has none."
        )
    return found


def newest(run: Path) -> Path | None:
    """The newest checkpoint of a run, damaged or not; None where there is none yet."""
    found = folders(run)
    return found[-1] if found else None


def best_checkpoint(run: Path) -> str | None:
    """The name of the checkpoint with the lowest validation loss, if one says which it is."""
    for folder in reversed(checkpoints(run)):
        try:
            state = read_json(folder / STATE, where="checkpoint")
            if isinstance(state, dict) and (name := state.get("best")):
                return str(name)
        except FileError:
            continue
    try:
        return str(read_json(run / BEST, where="checkpoint")["checkpoint"])
    except (FileError, KeyError, TypeError):
        return None


def folders(run: Path) -> list[Path]:
    """Folders with the name of a checkpoint, oldest first; some may be damaged."""
    found: list[tuple[tuple[int, int], Path]] = []
    for path in run.iterdir() if run.is_dir() else ():
        if (at := place(path.name)) is not None and path.is_dir():
            found.append((at, path))
    return [path for _, path in sorted(found)]
