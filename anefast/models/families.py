"""The list of model families, one line each."""

from __future__ import annotations

import difflib

from anefast.config import ConfigError, ModelConfig
from anefast.models import gpt2, llama, qwen2, qwen3
from anefast.models.family import Family

FAMILIES: dict[str, Family] = {f.FAMILY.name: f.FAMILY for f in (llama, qwen2, qwen3, gpt2)}


def family_of(config: ModelConfig) -> Family:
    """The record of a model's family. ConfigError where there is none of that name."""
    if config.family in FAMILIES:
        return FAMILIES[config.family]
    near = difflib.get_close_matches(config.family, FAMILIES, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else "leave it out for llama."
    raise ConfigError(
        f"[config] model.family must be one of {', '.join(FAMILIES)}, got {config.family!r}. "
        f"Hint: {hint}"
    )
