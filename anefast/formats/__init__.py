"""Models in files of others: recognised by content, read into our weights, written back.

A format is one file with two functions: open it as a `ModelSource`, and save a model. Read
`source.py` for what a model is before its weights are read, `names.py` for what it calls them.
"""

from __future__ import annotations

from pathlib import Path

from anefast import files
from anefast.errors import shown

from .gguf import MAGIC
from .gguf_model import open_gguf, save_gguf
from .hub import local
from .huggingface import HuggingFaceError, is_folder, open_folder, save_folder
from .lora import CONFIG as ADAPTER_CONFIG
from .lora import AdapterFileError, AdapterSource
from .mlx_lora import open_mlx, save_mlx
from .peft import open_peft, save_peft
from .source import ModelSource, ModelSourceError

__all__ = [
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


def open_source(path: Path) -> ModelSource | None:
    """The model at `path` where it is a Hugging Face folder or a GGUF file, None elsewhere.

    `hf:owner/name` is fetched from the hub (hub.py).

    FileError in one line where it is one of these and cannot be read.
    """
    path = local(path)
    if path.is_dir():
        if is_folder(path):
            return open_folder(path)
        if (adapter := open_adapter(path)) is not None:
            of = shown(adapter.base.path) or "the model it was trained on"
            raise AdapterFileError(
                f"[model] expected a model in {shown(path)}, got an adapter beside one. "
                f"Hint: name {of}, and this with --adapter."
            )
        return None
    if not path.is_file():
        return None
    with files.open_regular(path, where="model") as file:
        head = file.read(len(MAGIC))
    return open_gguf(path) if head == MAGIC else None


def open_adapter(path: Path) -> AdapterSource | None:
    """The LoRA adapter at `path` where it is PEFT's or mlx-lm's folder, None elsewhere.

    FileError in one line where it is one of these and cannot be read.
    """
    path = local(path)
    if not (path / ADAPTER_CONFIG).is_file():
        return None
    table = files.read_json(path / ADAPTER_CONFIG, where="adapter")
    if isinstance(table, dict) and "peft_type" in table:
        return open_peft(path, table)
    if isinstance(table, dict) and ("lora_parameters" in table or "fine_tune_type" in table):
        return open_mlx(path, table)
    raise AdapterFileError(
        f"[adapter] expected {shown(path / ADAPTER_CONFIG)} to hold peft_type or lora_parameters. "
        "Hint: adapters are read in the forms of PEFT and mlx-lm."
    )
