"""Checkpoints: a folder per save, complete or absent, checked when it is read.

    step_000500/  model.safetensors  optim.safetensors  state.json  session.json  tokenizer.*
                  rank_001.safetensors ...

A checkpoint is written under a temporary name, every file and folder is fsynced, and one rename
makes it appear; a full disk or a power cut leaves the ones before it whole. state.json carries the
sha256 of the tensors and the tokenizer and a checksum of itself. It is a function of the config and
the data; what differs from session to session is in session.json. One saved in the middle of an
accumulation is called step_000500_micro007 and also holds the gradients so far. Ranks that make
local updates have a file each, but for rank 0, whose arrays are in optim.safetensors. Which state a
run needs is run_state.py's business; the run folder around it is telemetry/.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import save_file

from anefast.config import ModelConfig, model_settings
from anefast.errors import BadInput, shown
from anefast.files import (
    TEMPORARY,
    FileError,
    guarding,
    make_folder,
    open_new,
    open_regular,
    read_bytes,
    read_json,
    read_toml,
    refusal,
    remove,
    remove_tree,
    rename,
    write_atomic,
    write_json,
)
from anefast.formats.safetensors import read_safetensors
from anefast.parsing import checksum

if TYPE_CHECKING:
    from anefast.formats.stored import Stored
    from anefast.models import Vocabulary
    from anefast.models.adapter import Adapter

Arrays = Mapping[str, npt.NDArray[np.float32]]
FORMAT = 2  # 1 had no checksum of state.json, and no session.json
MODEL, OPTIM = "model.safetensors", "optim.safetensors"
STATE, SESSION = "state.json", "session.json"
ADAPTER = "adapter"  # in the state of a LoRA run, whose tensors are an adapter's: its settings
VOCABULARY = "compact_vocab"  # in the state, where a run has one: Vocabulary.text
TRAINED_LENGTH = "trained_length"  # in the state: tokens per sequence that were trained on
CHECKSUM = "checksum"  # in both JSON files: of everything else in them
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


def rank_file(rank: int) -> str:
    """The file of a rank's own arrays."""
    return f"rank_{rank:03d}.safetensors" if rank else OPTIM


def place(name: str) -> tuple[int, int] | None:
    """The inverse of `checkpoint_name`; None for another name."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    at = int(found[1]), int(found[2] or 0)
    return at if checkpoint_name(*at) == name else None


# ---- writing ----


def save(
    run: Path,
    model: ModelConfig,
    params: Arrays,
    optim: Arrays,
    state: Mapping[str, Any],
    tokenizer: Saves | None = None,
    session: Mapping[str, Any] | None = None,
    others: Iterable[Arrays] = (),
) -> Path:
    """Writes a checkpoint into `run`, returns its folder; `state` has at least `step` and `micro`.

    params, optim: fp32 arrays by name, any memory order. session: what is not a function of the
    config and the data. others: what ranks 1, 2... have of their own. Raises CheckpointError when
    the disk refuses; nothing that was there before is touched.
    """
    folder = run / checkpoint_name(state["step"], state["micro"])
    write(folder, model, params, optim, state, tokenizer, session, others)
    _point(run / LATEST, folder.name)
    return folder


def write(
    folder: Path,
    model: ModelConfig,
    params: Arrays,
    optim: Arrays,
    state: Mapping[str, Any],
    tokenizer: Saves | None = None,
    session: Mapping[str, Any] | None = None,
    others: Iterable[Arrays] = (),
) -> None:
    """Writes a checkpoint as `folder`, in one rename. Arguments and errors as in `save`."""
    run = folder.parent
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
        hashes = {p.name: _sha256(p) for p in sorted(temporary.iterdir())}
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
    newer = [c for c in _folders(run) if place(c.name) > place(name)]  # type: ignore[operator]
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


# ---- finding ----


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return [path for path in _folders(run) if (path / STATE).is_file()]


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
    found = _folders(run)
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


def whole_one(run: Path, but: Path | None = None) -> Path | None:
    """The newest checkpoint of a run, `but` for one, that is found whole when it is read."""
    for folder in reversed(checkpoints(run)):
        if but is None or folder.name != but.name:
            try:
                _checked(folder)
                return folder
            except (CheckpointError, FileError):
                continue
    return None


def _folders(run: Path) -> list[Path]:
    """Folders with the name of a checkpoint, oldest first; some may be damaged."""
    found: list[tuple[tuple[int, int], Path]] = []
    for path in run.iterdir() if run.is_dir() else ():
        if (at := place(path.name)) is not None and path.is_dir():
            found.append((at, path))
    return [path for _, path in sorted(found)]


# ---- reading ----


def load_state(folder: Path, files: bool = True) -> dict[str, Any]:
    """state.json of a checkpoint, after everything in it was found to be as it was saved.

    files=False: a moment ago; large files are not read again. CheckpointError; it names another
    checkpoint of the run that is whole.
    """
    try:
        return _checked(folder) if files else _unsealed(folder / STATE)
    except (CheckpointError, FileError) as error:
        problem = str(error).partition(" Hint:")[0]
        other = whole_one(folder.parent, folder)
        hint = "no other checkpoint beside it is whole"
        if other is not None:
            hint = f"{other.name} is whole; `--resume {shown(other)}` goes on from there"
        raise CheckpointError(f"{problem} Hint: {hint}.") from None


def load_session(folder: Path) -> dict[str, Any]:
    """session.json of a checkpoint; {} for an old one, which has none. After `load_state`."""
    path = folder / SESSION
    return _unsealed(path) if path.is_file() else {}


def _checked(folder: Path) -> dict[str, Any]:
    state = _unsealed(folder / STATE)
    try:
        form, hashes = state["format"], dict(state["sha256"])
        at = checkpoint_name(state["step"], state["micro"])
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(
            f"[checkpoint] {shown(folder / STATE)} does not describe a checkpoint."
        ) from None
    if form not in (1, FORMAT):
        raise CheckpointError(
            f"[checkpoint] {shown(folder)} expected format {FORMAT}, got {shown(form)}. "
            "Hint: update anefast."
        )
    if _NAME.fullmatch(folder.name) and folder.name != at:
        raise CheckpointError(
            f"[checkpoint] {shown(folder)} holds another checkpoint: its {STATE} is that of "
            f"{shown(at)}."
        )
    for name in {MODEL, OPTIM} | set(hashes):
        path = folder / Path(name).name
        if not path.is_file():
            raise CheckpointError(f"[checkpoint] {shown(path)} is missing.")
        if _sha256(path) != hashes.get(name):
            raise CheckpointError(
                f"[checkpoint] {shown(path)} is damaged: its sha256 is not the one in {STATE}."
            )
    if form > 1:
        session = _unsealed(folder / SESSION)
        if session.get(STATE) != checksum({k: v for k, v in state.items() if k != CHECKSUM}):
            raise CheckpointError(
                f"[checkpoint] {shown(folder / SESSION)} is of another checkpoint, or of another "
                "run."
            )
    return state


def _unsealed(path: Path) -> dict[str, Any]:
    """Reads a JSON file with a checksum. Raises CheckpointError, FileError."""
    content = read_json(path, where="checkpoint")
    if not isinstance(content, dict):
        raise CheckpointError(f"[checkpoint] expected {shown(path)} to hold a table.")
    rest = {k: v for k, v in content.items() if k != CHECKSUM}
    form = content.get("format")
    old = type(form) is int and form == 1 and CHECKSUM not in content
    if not old and content.get(CHECKSUM) != checksum(rest):
        raise CheckpointError(
            f"[checkpoint] {shown(path)} is damaged: its checksum does not match."
        )
    return rest


def load_model(
    folder: str | os.PathLike[str], files: bool = True
) -> tuple[ModelConfig, dict[str, Any]]:
    """The model of a checkpoint, or of a run's newest: config and fp32 weights by name.

    files: as in `load_state`. CheckpointError in one line when it is missing, damaged or not of a
    model.
    """
    from anefast.models import shapes

    folder = find_checkpoint(folder)
    state = load_state(folder, files)
    if ADAPTER in state:
        raise CheckpointError(
            f"[checkpoint] expected a whole model in {shown(folder)}, got a LoRA adapter without "
            "its model. Hint: name the model, and this adapter with --adapter."
        )
    config = model_of(folder, state)
    return config, read_tensors(folder / MODEL, shapes(config))


def load_adapter(folder: str | os.PathLike[str]) -> Adapter | None:
    """The adapter that a LoRA run trained, of a checkpoint or of the run's newest; None where the
    run trained a whole model. CheckpointError, AdapterError."""
    from anefast.models.adapter import Adapter

    folder = find_checkpoint(folder)
    state = load_state(folder)
    if ADAPTER not in state:
        return None
    return Adapter.of(
        {name: stored.read() for name, stored in _opened(folder / MODEL).items()}, state[ADAPTER]
    )


def base_path(adapter: Adapter, folder: Path) -> str:
    """The path of an adapter's base model. CheckpointError if it is no longer there."""
    path = adapter.base.path
    if not path or not Path(path).exists():
        whose = shown(path) if path else "a model that was given to fit and has no name"
        raise CheckpointError(
            f"[checkpoint] {shown(folder)} holds an adapter of {whose}, which is not there. "
            "Hint: put it back; with another path, name it and this with --adapter."
        )
    return path


def model_of(folder: Path, state: Mapping[str, Any]) -> ModelConfig:
    """The shape that the state of a checkpoint describes. CheckpointError."""
    try:
        return ModelConfig(**state["model"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"[checkpoint] {shown(folder / STATE)} does not describe a model: {shown(error)}"
        ) from None


def load_vocabulary(folder: Path) -> Vocabulary | None:
    """The ids a checkpoint was trained over, None where that is all of them."""
    from anefast.models import Vocabulary

    try:
        state = read_json(folder / STATE, where="checkpoint")
        text, size = state.get(VOCABULARY), int(state["model"]["vocab_size"])
        return Vocabulary.from_text(text, size) if text is not None else None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(
            f"[checkpoint] {shown(folder / STATE)} has no readable {VOCABULARY}. "
            "Hint: use another checkpoint."
        ) from None


def load_trained_length(folder: Path) -> int:
    """Tokens per sequence that a checkpoint was trained on; 0 where neither it nor its run says."""
    try:
        said = read_json(folder / STATE, where="checkpoint").get(TRAINED_LENGTH)
        if said is None:  # of before it was kept
            run = read_toml(folder.resolve().parent / "config.toml", where="checkpoint")
            said = run.get("data", {}).get("seq_len")
    except (ValueError, AttributeError):
        return 0
    return said if isinstance(said, int) and said > 0 else 0


def read_tensors(
    path: Path, expected: Mapping[str, tuple[int, ...]], others: bool = False
) -> dict[str, npt.NDArray[np.float32]]:
    """The tensors of a file, in the order of `expected`, which says their names and shapes.

    others: whether it may hold more than these.
    """
    found = _opened(path)
    for name in [*expected, *(() if others else found)]:
        want = expected.get(name)
        got = found[name].shape if name in found else None
        if want != got or found[name].dtype != "F32":
            raise CheckpointError(
                f"[checkpoint] {path} holds another model: {shown(name)} expected "
                f"{want or 'nothing'}, got {got or 'nothing'}. "
                "Hint: give the settings this run was started with."
            )
    return {name: found[name].read() for name in expected}


def _opened(path: Path) -> dict[str, Stored]:
    try:
        return read_safetensors(path)
    except FileError as error:
        said = str(error).partition("] ")[2]
        raise CheckpointError(f"[checkpoint] cannot read {shown(path)}: {said}") from None


# ---- files and folders ----


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


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open_regular(path, where="checkpoint") as file, guarding("read", path, "checkpoint"):
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
