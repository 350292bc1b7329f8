"""Models in files of others: recognised by content, read into our weights, written back.

A format is one file with one record (`format.py`): recognise it, open it as a `ModelSource`, save
a model; `registry.py` has a line for each. Read `source.py` for what a model is before its weights
are read. llama2c.py is apart: its files do not say what they are.
"""

from __future__ import annotations

from pathlib import Path

from anefast import files
from anefast.errors import shown

from .gguf_model import open_gguf, save_gguf
from .hub import local
from .huggingface import HuggingFaceError, open_folder, save_folder
from .lora import CONFIG as ADAPTER_CONFIG
from .lora import AdapterFileError, AdapterSource
from .mlx_lora import save_mlx
from .peft import save_peft
from .registry import ADAPTERS, MODELS
from .source import ModelSource, ModelSourceError

__all__ = [
    "ADAPTER_CONFIG",
    "AdapterFileError",
    "AdapterSource",
    "HuggingFaceError",
    "ModelSource",
    "ModelSourceError",
    "open_adapter",
    "open_folder",
    "open_gguf",
    "open_source",
    "save_folder",
    "save_gguf",
    "save_mlx",
    "save_peft",
]

HEAD_BYTES = 64  # of a file, by which a format recognises it


def open_source(path: Path) -> ModelSource | None:
    """The model at `path` where one of the formats recognises it, None elsewhere.

    `hf:owner/name` is fetched from the hub (hub.py).

    FileError in one line where it is one of these and cannot be read.
    """
    path = local(path)
    head = b""
    if path.is_file():
        with files.open_regular(path, where="model") as file:
            head = file.read(HEAD_BYTES)
    for form in MODELS.values():
        if form.recognises(path, head):
            return form.opens(path)
    if path.is_dir() and (adapter := open_adapter(path)) is not None:
        of = shown(adapter.base.path) or "the model it was trained on"
        raise AdapterFileError(
            f"[model] expected a model in {shown(path)}, got a LoRA adapter without its model. "
            f"Hint: name {of} as the model, and this adapter with --adapter."
        )
    return None


def open_adapter(path: Path) -> AdapterSource | None:
    """The LoRA adapter at `path` where it is PEFT's or mlx-lm's folder, None elsewhere.

    FileError in one line where it is one of these and cannot be read.
    """
    path = local(path)
    if not (path / ADAPTER_CONFIG).is_file():
        return None
    table = files.read_json(path / ADAPTER_CONFIG, where="adapter")
    for form in ADAPTERS.values() if isinstance(table, dict) else ():
        if form.recognises(table):
            return form.opens(path, table)
    raise AdapterFileError(
        f"[adapter] expected {shown(path / ADAPTER_CONFIG)} to hold peft_type or lora_parameters. "
        "Hint: adapters are read in the forms of PEFT and mlx-lm."
    )
