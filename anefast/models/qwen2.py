"""Qwen 2 and 2.5: Llama's layers with biases on queries, keys and values."""

from __future__ import annotations

from typing import Any

from anefast.models import decoder
from anefast.models.foreign import Settings
from anefast.models.layers import Style
from anefast.models.llama import read_sizes, write_sizes


def read(settings: Settings, has_head: bool) -> dict[str, Any]:
    """Qwen's config.json. Its sliding window is off unless it says otherwise."""
    settings.require("use_sliding_window", False)
    return read_sizes(settings, has_head)


FAMILY = decoder.family("qwen2", Style(biases="qkv"), "Qwen2ForCausalLM", read, write_sizes)
