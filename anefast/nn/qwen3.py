"""Qwen 3: Llama's layers with an RMSNorm over each head of queries and keys; wide heads."""

from __future__ import annotations

from functools import partial
from typing import Any

from anefast import ir
from anefast.config import ModelConfig
from anefast.nn import decoder, qwen2
from anefast.nn.family import Family
from anefast.nn.foreign import GGUFNames, HuggingFace, Settings
from anefast.nn.layers import Past, Style
from anefast.nn.llama import write_sizes

STYLE = Style(qk_norm=True)


def _trunk(x: ir.Tensor, config: ModelConfig, past: Past | None = None) -> ir.Tensor:
    return decoder.trunk(x, config, past, STYLE)


def _read(settings: Settings, has_head: bool) -> dict[str, Any]:
    settings.require("attention_bias", False)
    table = {"head_dim": 128, **settings.table}  # the default of transformers' Qwen3Config
    return qwen2.read(Settings(table), has_head)


FAMILY = Family(
    "qwen3",
    partial(decoder.parameters, style=STYLE),
    _trunk,
    hugging_face=HuggingFace(
        ("qwen3",),
        "Qwen3ForCausalLM",
        _read,
        write_sizes,
        partial(decoder.places, style=STYLE, hugging_face=True, split=True),
    ),
    gguf=GGUFNames(
        "qwen3",
        "attention.layer_norm_rms_epsilon",
        partial(decoder.places, style=STYLE, hugging_face=False, split=True),
    ),
)
