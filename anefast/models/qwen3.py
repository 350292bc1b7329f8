"""Qwen 3: Llama's layers with an RMSNorm over each head of queries and keys; wide heads."""

from __future__ import annotations

from typing import Any

from anefast.models import decoder, qwen2
from anefast.models.foreign import Settings
from anefast.models.layers import Style
from anefast.models.llama import write_sizes


def _read(settings: Settings, has_head: bool) -> dict[str, Any]:
    settings.require("attention_bias", False)
    table = {"head_dim": 128, **settings.table}  # the default of transformers' Qwen3Config
    return qwen2.read(Settings(table), has_head)


FAMILY = decoder.family("qwen3", Style(qk_norm=True), "Qwen3ForCausalLM", _read, write_sizes)
