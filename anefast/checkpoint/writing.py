"""Writing a checkpoint, whole or not at all; and removing those that are no longer needed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import stat
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from anefast.checkpoint.finding import checkpoints, folders
from anefast.checkpoint.names import (
    BEST,
    CHECKSUM,
    FORMAT,
    LATEST,
    MODEL,
    OPTIM,
    SESSION,
    STATE,
    Arrays,
    CheckpointError,
    checkpoint_name,
    place,
    rank_file,
)
from anefast.checkpoint.reading import sha256, whole_one
from anefast.config import ModelConfig, model_settings
from anefast.errors import shown
from anefast.files import (
    TEMPORARY,
    FileError,
    make_folder,
    open_new,
    read_bytes,
    refusal,
    remove,
    remove_tree,
    rename,
    write_atomic,
    write_json,
)
from anefast.parsing import checksum


class Saves(Protocol):
    """A tokenizer, as far as a checkpoint is concerned."""

    def save(self, folder: str | os.PathLike[str]) -> Path: ...


def save(
    run: Path,
    model: ModelConfig,
    params: Arrays,
    optim: Arrays,
    state: Mapping[str, Any],
    tokenizer: Saves | None = None,
    session: Mapping[str, Any] | None = None,
    others: Iterable[Arrays] = (),
    name: str = "",
) -> Path:
    """Writes a checkpoint into `run`, returns its folder; `state` has at least `step` and `micro`.

    params, optim: fp32 arrays by name, any memory order. session: what is not a function of the
    config and the data. others: what ranks 1, 2... have of their own. name: of a folder that stands
    for itself; without one it is called after its update and is the run's latest. Raises
    CheckpointError when the disk refuses; nothing that was there before is touched.
    """
    folder = run / (name or checkpoint_name(state["step"], state["micro"]))
    temporary = run / f".{folder.name}.tmp"
    try:
        _remove(temporary)
        temporary.mkdir()
        _write_tensors(temporary / MODEL, params)
        _write_tensors(temporary / OPTIM, optim)
        for rank, arrays in enumerate(others, 1):
            _write_tensors(temporary / rank_file(rank), arrays)
        if tokenizer is not None:
            tokenizer.save(temporary)
        hashes = {p.name: sha256(p) for p in sorted(temporary.iterdir())}
        described = {"format": FORMAT, "model": model_settings(model), **state, "sha256": hashes}
        of_state = _write_sealed(temporary / STATE, described)
        _write_sealed(temporary / SESSION, {STATE: of_state, **(session or {})})
        for path in (*temporary.iterdir(), temporary):
            _fsync(path)
        _appear(temporary, folder)
        _fsync(run)
    except (OSError, SafetensorError, FileError) as error:
        _remove(temporary)
        needed = sum(a.nbytes for a in (*params.values(), *optim.values()))
        raise _refused(folder, error, needed) from None
    if not name:
        _point(run / LATEST, folder.name)
    return folder


def _write_sealed(path: Path, content: Mapping[str, Any]) -> str:
    """Writes JSON with its checksum in it. Returns the checksum."""
    seal = checksum(content)
    write_json(path, {**content, CHECKSUM: seal}, "checkpoint", indent=2)
    return seal


def _refused(folder: Path, error: Exception, needed: int) -> CheckpointError:
    """The message for a checkpoint that was not written: why, bytes it takes, bytes free."""
    if isinstance(error, SafetensorError) and (told := re.search(r"\bcode: (\d+)", str(error))):
        error = OSError(int(told[1]), os.strerror(int(told[1])))  # hidden in its text
    if isinstance(error, OSError) and not isinstance(error, FileError):
        error = refusal("write", folder, error, "checkpoint")
    problem, _, remedy = str(error).partition(" Hint: ")
    if not problem.startswith("["):
        problem = f"[checkpoint] cannot write {shown(folder)}: {shown(problem)}."
    space = ""
    if any(os.strerror(number) in problem for number in (errno.ENOSPC, errno.EDQUOT)):
        free = shutil.disk_usage(folder.parent).free
        space = f" It takes {needed / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free."
    before = whole_one(folder.parent)
    kept = "there is no earlier checkpoint"
    if before is not None:
        kept = f"{before.name} is whole, --resume {shown(folder.parent)} goes on from there"
    remedy = remedy.rstrip(".") or "check the disk"
    return CheckpointError(f"{problem}{space} Hint: {remedy}; {kept}.")


def mark_best(run: Path, name: str, val_loss: float) -> None:
    """Notes for people which checkpoint has the lowest validation loss so far. FileError.

    What counts is in the state of every checkpoint, which appears with it.
    """
    row = {"checkpoint": name, "val/loss": val_loss}
    content = (json.dumps(row) + "\n").encode()
    try:
        said = read_bytes(run / BEST, len(content), "checkpoint", follow=False)
    except FileError:  # there is none yet, or it is something else
        said = b""
    if said != content:
        write_atomic(run / BEST, content, "checkpoint")


def prune(run: Path, keep_last: int, kept: Collection[str] = ()) -> list[str]:
    """Removes all but the newest `keep_last` checkpoints and those called one of `kept`.

    Returns the names of what the system refuses to remove.
    """
    refused = []
    for old in checkpoints(run)[:-keep_last]:
        if old.name not in kept:
            gone = old.with_name(f".{old.name}.gone")  # never half a checkpoint under its real name
            try:
                rename(old, gone, "checkpoint")
            except FileError:
                refused.append(old.name)
            _remove(gone)
    return refused


def sweep(run: Path) -> None:
    """Ends what an interrupted save or prune began. Only for the owner of the run's lock."""
    for old in run.glob(".step_*.old"):
        folder = run / old.name[1:].removesuffix(".old")
        if folder.exists():
            _remove(old)
        else:  # the new one had not taken its place yet
            rename(old, folder, "checkpoint")
    for path in run.iterdir():
        if path.match(".step_*.tmp") or path.match(".step_*.gone") or _is_temporary(path):
            _remove(path)


def set_later_aside(run: Path, name: str) -> str:
    """Moves checkpoints newer than `name` to a folder of their own, and returns its name or "".

    A run that goes on from an older one leaves them behind: they are not its future any more, and
    would pass for its newest.
    """
    newer = [c for c in folders(run) if place(c.name) > place(name)]  # type: ignore[operator]
    if not newer:
        return ""
    number = 1
    while (aside := run / f"later-{number}").exists():
        number += 1
    make_folder(aside, "checkpoint")
    for folder in reversed(newer):  # so that what a crash leaves is a run, up to some update
        rename(folder, aside / folder.name, "checkpoint")
    _point(run / LATEST, name)
    return aside.name


def _write_tensors(path: Path, arrays: Arrays) -> None:
    # safetensors writes memory as it lies: a transposed array would come back scrambled, without an
    # error. Its files are their owner's alone, whatever the umask says.
    with open_new(path, "checkpoint") as new:
        mode = stat.S_IMODE(os.fstat(new.fileno()).st_mode)
    save_file({n: np.ascontiguousarray(a, np.float32) for n, a in arrays.items()}, path)
    path.chmod(mode)


def _appear(temporary: Path, folder: Path) -> None:
    """Renames, also over a checkpoint of that name: a run stopped where it resumed saves again.

    Between the two renames there is none under that name; `sweep` puts the old one back.
    """
    if folder.exists():
        old = folder.with_name(f".{folder.name}.old")
        _remove(old)
        rename(folder, old, "checkpoint")
        rename(temporary, folder, "checkpoint")
        _remove(old)
    else:
        rename(temporary, folder, "checkpoint")


def _point(link: Path, name: str) -> None:
    """`latest` is for people: nothing here reads it, so a file system without links is fine."""
    temporary = link.with_name(f".{link.name}.tmp")
    try:
        remove(temporary)
        temporary.symlink_to(name)
        rename(temporary, link)
    except OSError:
        _remove(temporary)


def _is_temporary(path: Path) -> bool:
    return TEMPORARY.fullmatch(path.name) is not None or path.name == f".{LATEST}.tmp"


def _remove(path: Path) -> None:
    """Removes a file, a link or a folder, as far as the system lets us."""
    if not remove_tree(path):
        with contextlib.suppress(FileError):
            remove(path)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
