"""Qwen 2 and 2.5: Llama's layers with biases on queries, keys and values."""

from __future__ import annotations

from functools import partial
from typing import Any

from anefast import ir
from anefast.config import ModelConfig
from anefast.nn import decoder
from anefast.nn.family import Family
from anefast.nn.foreign import GGUFNames, HuggingFace, Settings
from anefast.nn.layers import Past, Style
from anefast.nn.llama import read_sizes, write_sizes

STYLE = Style(biases="qkv")


def _trunk(x: ir.Tensor, config: ModelConfig, past: Past | None = None) -> ir.Tensor:
    return decoder.trunk(x, config, past, STYLE)


def read(settings: Settings, has_head: bool) -> dict[str, Any]:
    """Qwen's config.json. Its sliding window is off unless it says otherwise."""
    settings.require("use_sliding_window", False)
    return read_sizes(settings, has_head)


FAMILY = Family(
    "qwen2",
    partial(decoder.parameters, style=STYLE),
    _trunk,
    hugging_face=HuggingFace(
        ("qwen2",),
        "Qwen2ForCausalLM",
        read,
        write_sizes,
        partial(decoder.places, style=STYLE, hugging_face=True, split=True),
    ),
    gguf=GGUFNames(
        "qwen2",
        "attention.layer_norm_rms_epsilon",
        partial(decoder.places, style=STYLE, hugging_face=False, split=True),
    ),
)
