"""Reading a checkpoint: its state, found whole by its checksums; its model, adapter and tensors."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from anefast.checkpoint.finding import checkpoints, find_checkpoint
from anefast.checkpoint.names import (
    ADAPTER,
    CHECKSUM,
    FORMAT,
    MODEL,
    NAME,
    OPTIM,
    SESSION,
    STATE,
    TRAINED_LENGTH,
    VOCABULARY,
    CheckpointError,
    checkpoint_name,
)
from anefast.config import ModelConfig
from anefast.errors import shown
from anefast.files import FileError, guarding, open_regular, read_json, read_toml
from anefast.formats.safetensors import read_safetensors
from anefast.models import Vocabulary, shapes
from anefast.models.adapter import Adapter
from anefast.parsing import checksum

if TYPE_CHECKING:
    from anefast.formats.stored import Stored


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
    if NAME.fullmatch(folder.name) and folder.name != at:
        raise CheckpointError(
            f"[checkpoint] {shown(folder)} holds another checkpoint: its {STATE} is that of "
            f"{shown(at)}."
        )
    for name in {MODEL, OPTIM} | set(hashes):
        path = folder / Path(name).name
        if not path.is_file():
            raise CheckpointError(f"[checkpoint] {shown(path)} is missing.")
        if sha256(path) != hashes.get(name):
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


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open_regular(path, where="checkpoint") as file, guarding("read", path, "checkpoint"):
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
