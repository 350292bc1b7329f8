"""The formats of other programs, one line each. The first that recognises a path opens it."""

from __future__ import annotations

from . import gguf_model, huggingface, mlx_lora, peft
from .format import AdapterFormat, ModelFormat

MODELS: dict[str, ModelFormat] = {f.FORMAT.name: f.FORMAT for f in (huggingface, gguf_model)}
ADAPTERS: dict[str, AdapterFormat] = {f.FORMAT.name: f.FORMAT for f in (peft, mlx_lora)}
