"""Checkpoints: a folder per save, complete or absent, checked when it is read.

    step_000500/  model.safetensors  optim.safetensors  state.json  tokenizer.*

A checkpoint is written under a temporary name, every file and folder is fsynced, and one rename
makes it appear; a full disk or a power cut leaves the ones before it whole. state.json carries the
sha256 of the other files. One saved in the middle of an accumulation is called step_000500_micro007
and also holds the gradients so far. Which state a run needs is train.py's business; the run folder
around it is telemetry.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import save_file

from anefast.config import ModelConfig, model_settings
from anefast.errors import BadInput, shown
from anefast.files import FileError, parse_json, parse_toml, write_atomic
from anefast.formats.safetensors import read_safetensors

if TYPE_CHECKING:
    from anefast.nn import Vocabulary

Arrays = Mapping[str, npt.NDArray[np.float32]]
FORMAT = 1
MODEL, OPTIM, STATE = "model.safetensors", "optim.safetensors", "state.json"
VOCABULARY = "compact_vocab"  # in the state, where a run has one: Vocabulary.text
TRAINED_LENGTH = "trained_length"  # in the state: tokens per sequence that were trained on
LATEST, BEST = "latest", "best.json"
_NAME = re.compile(r"step_(\d{6,})(?:_micro(\d{3,}))?")


class CheckpointError(BadInput):
    """A checkpoint that cannot be read or written. One line that names it."""


class Saves(Protocol):
    """A tokenizer, as far as a checkpoint is concerned."""

    def save(self, folder: str | os.PathLike[str]) -> Path: ...


def checkpoint_name(step: int, micro: int = 0) -> str:
    """step: updates made. micro: micro-steps of the next one that are already in the gradients."""
    return f"step_{step:06d}" + (f"_micro{micro:03d}" if micro else "")


def save(
    run: Path,
    model: ModelConfig,
    params: Arrays,
    optim: Arrays,
    state: Mapping[str, Any],
    tokenizer: Saves | None = None,
) -> Path:
    """Writes a checkpoint into `run`, returns its folder; `state` has at least `step` and `micro`.

    params, optim: fp32 arrays by name, any memory order. Raises CheckpointError when the disk
    refuses; nothing that was there before is touched.
    """
    folder = run / checkpoint_name(state["step"], state["micro"])
    temporary = run / f".{folder.name}.tmp"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        _write_tensors(temporary / MODEL, params)
        _write_tensors(temporary / OPTIM, optim)
        if tokenizer is not None:
            tokenizer.save(temporary)
        described = {
            "format": FORMAT,
            "model": model_settings(model),
            **state,
            "sha256": {p.name: _sha256(p) for p in sorted(temporary.iterdir())},
        }
        (temporary / STATE).write_text(json.dumps(described, indent=2) + "\n")
        for path in (*temporary.iterdir(), temporary):
            _fsync(path)
        _appear(temporary, folder)
        _point(run / LATEST, folder.name)
        _fsync(run)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        reason = getattr(error, "strerror", None) or str(error)
        last = [c.name for c in checkpoints(run)]
        kept = f"{last[-1]} is whole" if last else "there is no earlier one"
        raise CheckpointError(
            f"[checkpoint] cannot write {folder}: {reason}. Hint: free some space; {kept}."
        ) from None
    return folder


def place(name: str) -> tuple[int, int]:
    """The inverse of `checkpoint_name`; the name must be one."""
    match = _NAME.fullmatch(name)
    assert match is not None
    return int(match[1]), int(match[2] or 0)


def prune(run: Path, keep_last: int, sound: str = "") -> None:
    """Removes all checkpoints but the newest `keep_last`, the best one and that called `sound`."""
    kept = {best_checkpoint(run), sound}
    for old in checkpoints(run)[:-keep_last]:
        if old.name not in kept:
            gone = old.with_name(f".{old.name}.gone")  # never half a checkpoint under its real name
            os.replace(old, gone)
            shutil.rmtree(gone, ignore_errors=True)


def sweep(run: Path) -> None:
    """Removes what an interrupted save or prune left. Only for the owner of the run's lock."""
    for path in (*run.glob(".step_*.tmp"), *run.glob(".step_*.gone")):
        shutil.rmtree(path, ignore_errors=True)


def mark_best(run: Path, checkpoint: Path, val_loss: float) -> None:
    """Notes that `checkpoint` has the lowest validation loss so far."""
    row = {"checkpoint": checkpoint.name, "val/loss": val_loss}
    write_atomic(run / BEST, (json.dumps(row) + "\n").encode())


def best_checkpoint(run: Path) -> str | None:
    """The name in best.json, if it says one."""
    try:
        return str(parse_json((run / BEST).read_text())["checkpoint"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    found = []
    for path in run.iterdir() if run.is_dir() else ():
        if (m := _NAME.fullmatch(path.name)) and (path / STATE).is_file():
            found.append((int(m[1]), int(m[2] or 0), path))
    return [path for *_, path in sorted(found)]


def find_checkpoint(path: str | os.PathLike[str]) -> Path:
    """`path` if it is a checkpoint, else the newest in the run `path`. CheckpointError if none."""
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"[checkpoint] there is no {path}. Hint: name a run or a checkpoint.")
    if (path / STATE).is_file():
        return path.resolve() if path.is_symlink() else path
    found = checkpoints(path)
    if not found:
        raise CheckpointError(f"[checkpoint] expected a run with checkpoints, {path} has none.")
    return found[-1]


def load_state(folder: Path) -> dict[str, Any]:
    """state.json of a checkpoint, after every other file's sha256 was found to match."""
    try:
        state = parse_json((folder / STATE).read_text("utf-8"))
        form, hashes = state["format"], dict(state["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        raise CheckpointError(
            f"[checkpoint] {folder} has no readable {STATE}. Hint: use another checkpoint."
        ) from None
    if form != FORMAT:
        raise CheckpointError(
            f"[checkpoint] {folder} expected format {FORMAT}, got {form}. Hint: update anefast."
        )
    for name in {MODEL, OPTIM} | set(hashes):
        path = folder / Path(name).name
        if not path.is_file():
            raise CheckpointError(
                f"[checkpoint] {path} is missing. Hint: use another checkpoint of this run."
            )
        if _sha256(path) != hashes.get(name):
            raise CheckpointError(
                f"[checkpoint] {path} is damaged: its sha256 is not the one in {STATE}. "
                "Hint: use another checkpoint of this run."
            )
    return dict(state)


def load_model(folder: str | os.PathLike[str]) -> tuple[ModelConfig, dict[str, Any]]:
    """The model of a checkpoint, or of a run's newest: config and fp32 weights by name.

    CheckpointError in one line when it is missing, damaged or not of a model.
    """
    from anefast.nn import shapes

    folder = find_checkpoint(folder)
    state = load_state(folder)
    try:
        config = ModelConfig(**state["model"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"[checkpoint] {folder / STATE} does not describe a model: {error}"
        ) from None
    return config, read_tensors(folder / MODEL, shapes(config))


def load_vocabulary(folder: Path) -> Vocabulary | None:
    """The ids a checkpoint was trained over, None where that is all of them."""
    from anefast.nn import Vocabulary

    try:
        state = parse_json((folder / STATE).read_text("utf-8"))
        text, size = state.get(VOCABULARY), int(state["model"]["vocab_size"])
        return Vocabulary.from_text(text, size) if text is not None else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(
            f"[checkpoint] {folder / STATE} has no readable {VOCABULARY}. "
            "Hint: use another checkpoint."
        ) from None


def load_trained_length(folder: Path) -> int:
    """Tokens per sequence that a checkpoint was trained on; 0 where neither it nor its run says."""
    try:
        said = parse_json((folder / STATE).read_text("utf-8")).get(TRAINED_LENGTH)
        if said is None:  # of before it was kept
            run = parse_toml((folder.resolve().parent / "config.toml").read_text("utf-8"))
            said = run.get("data", {}).get("seq_len")
    except (OSError, ValueError, AttributeError):
        return 0
    return said if isinstance(said, int) and said > 0 else 0


def read_tensors(
    path: Path, expected: Mapping[str, tuple[int, ...]]
) -> dict[str, npt.NDArray[np.float32]]:
    """The tensors of a file, in the order of `expected`, which says their names and shapes."""
    try:
        found = read_safetensors(path)
    except FileError as error:
        said = str(error).partition("] ")[2]
        raise CheckpointError(f"[checkpoint] cannot read {shown(path)}: {said}") from None
    for name in [*expected, *found]:
        want = expected.get(name)
        got = found[name].shape if name in found else None
        if want != got or found[name].dtype != "F32":
            raise CheckpointError(
                f"[checkpoint] {path} holds another model: {shown(name)} expected "
                f"{want or 'nothing'}, got {got or 'nothing'}. "
                "Hint: give the settings this run was started with."
            )
    return {name: found[name].read() for name in expected}


def _write_tensors(path: Path, arrays: Arrays) -> None:
    # safetensors writes memory as it lies: a transposed array would come back scrambled, without an
    # error
    save_file({n: np.ascontiguousarray(a, np.float32) for n, a in arrays.items()}, path)


def _appear(temporary: Path, folder: Path) -> None:
    """Renames, also over a checkpoint of that name: a run stopped where it resumed saves again."""
    if folder.exists():
        gone = folder.with_name(f".{folder.name}.gone")
        shutil.rmtree(gone, ignore_errors=True)
        os.replace(folder, gone)
        os.replace(temporary, folder)
        shutil.rmtree(gone, ignore_errors=True)
    else:
        os.replace(temporary, folder)


def _point(link: Path, name: str) -> None:
    """`latest` is for people: nothing here reads it, so a file system without links is fine."""
    temporary = link.with_name(f".{link.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(name)
        os.replace(temporary, link)
    except OSError:
        temporary.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
