"""Finds and reads the adapter that the user named, in any known format, for an open model."""

from __future__ import annotations

from pathlib import Path

from anefast.checkpoint import STATE, load_adapter, newest
from anefast.errors import shown
from anefast.formats import open_adapter, open_folder
from anefast.formats.hub import local
from anefast.formats.huggingface import is_folder
from anefast.model import Model
from anefast.models.adapter import Adapter, AdapterError


def adapter_for(model: Model, named: str, path: str) -> Adapter:
    """The adapter at `path`, a folder of PEFT or mlx-lm, a LoRA run or one of its checkpoints.

    named: what `model` was opened as, which says how its rows lie in files of others. ValueError in
    one line where there is no adapter, or the model has one already.
    """
    if model.lora is not None:
        raise AdapterError(
            f"[adapter] {shown(named)} has an adapter of its own, and {shown(path)} would take its "
            f"place. Hint: name the model it was trained on, {shown(model.lora.base.path)}."
        )
    source = open_adapter(Path(path))
    if source is not None:
        base = local(Path(named))
        return source.load(model.config, open_folder(base).places if is_folder(base) else None)
    if (folder := Path(path)).is_dir() and ((folder / STATE).is_file() or newest(folder)):
        if (adapter := load_adapter(folder)) is not None:
            return adapter
    raise AdapterError(
        f"[adapter] expected an adapter's folder, or a run with --lora.rank, got {shown(path)}. "
        "Hint: PEFT and mlx-lm write such folders, and so does export --to peft."
    )
