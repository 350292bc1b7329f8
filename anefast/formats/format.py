"""The record of a format: how it is recognised, opened and written.

To add one, write a file with a record of these and put the record into `registry.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anefast.config import ModelConfig
from anefast.models.adapter import Adapter
from anefast.models.weights import Array
from anefast.tokenizer import Tokenizer

from .lora import AdapterSource
from .source import ModelSource


@dataclass(frozen=True)
class ModelFormat:
    """A format of whole models.

    dtypes: of weights that it writes; the first is the default. recognises: (path, the first bytes
    of a file, b"" of a folder) -> whether it is one, by its content. opens: no weights are read
    yet. save: (out, config, fp32 weights by our names, dtype, tokenizer), or ValueError.
    ending: of its files; "" where it is a folder.
    """

    name: str
    dtypes: tuple[str, ...]
    recognises: Callable[[Path, bytes], bool]
    opens: Callable[[Path], ModelSource]
    save: Callable[[Path, ModelConfig, Mapping[str, Array], str, Tokenizer], None]
    ending: str = ""


@dataclass(frozen=True)
class AdapterFormat:
    """A format of LoRA adapters: a folder with an adapter_config.json.

    recognises: by the content of that file. opens: (folder, that content). save: (out, adapter, the
    shape of its model, dtype).
    """

    name: str
    dtypes: tuple[str, ...]
    recognises: Callable[[Mapping[str, Any]], bool]
    opens: Callable[[Path, Mapping[str, Any]], AdapterSource]
    save: Callable[[Path, Adapter, ModelConfig, str], None]
