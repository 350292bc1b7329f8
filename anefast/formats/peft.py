"""PEFT's adapter folders: adapter_config.json beside adapter_model.safetensors.

Format: huggingface/peft 0.21, tuners/lora/config.py and utils/save_and_load.py. What changes the
result and is not computed here is refused by the name of its setting.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anefast import files
from anefast.checks import ConfigError
from anefast.config import ModelConfig
from anefast.errors import shown
from anefast.models.adapter import Adapter, scale_of
from anefast.models.foreign import Settings

from .format import AdapterFormat
from .huggingface import DTYPES, check_fp16
from .lora import (
    CONFIG,
    AdapterFileError,
    AdapterSource,
    Module,
    base_of,
    layers_of,
    module_of,
    places_of,
    read_layers,
    save_tensors,
)

WEIGHTS = "adapter_model.safetensors"
PREFIX, A, B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
# Which layers there are is told by the tensors; the others are about training, or about the base.
UNREAD = {
    "peft_type", "task_type", "peft_version", "auto_mapping", "base_model_name_or_path", "revision",
    "inference_mode", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
    "lora_dropout", "fan_in_fan_out", "megatron_core", "qalora_group_size", "eva_config",
    "runtime_config",
}  # fmt: skip
READ = {
    "r",
    "lora_alpha",
    "use_rslora",
    "rank_pattern",
    "alpha_pattern",
    "init_lora_weights",
    "bias",
}
KEPT_BASE = (True, False, "gaussian", "orthogonal", "eva")  # others change the base's weights, too


def open_peft(folder: Path, table: Mapping[str, Any]) -> AdapterSource:
    """The adapter in a folder whose adapter_config.json is `table`. FileError in one line."""
    if not (folder / WEIGHTS).is_file():
        raise AdapterFileError(
            f"[adapter] expected {WEIGHTS} in {shown(folder)}, there is none. Hint: an "
            "adapter_model.bin is converted by loading and saving it with peft."
        )
    try:
        settings = Settings(table)
        settings.require("peft_type", "LORA")
        settings.require("bias", "none")
        settings.require("init_lora_weights", *KEPT_BASE)
        if other := next((k for k, v in table.items() if v and k not in UNREAD | READ), None):
            raise ConfigError(f"expected no {shown(other)}, got {shown(table[other])}.")
        rank, alpha = settings.count("r", 8), settings.number("lora_alpha", 8.0)
        rslora = settings.flag("use_rslora", False)
        ranks, alphas = (settings.within(k) for k in ("rank_pattern", "alpha_pattern"))
        modules: dict[str, Module] = {}
        for name, (a, b) in read_layers(folder / WEIGHTS, (A, B), PREFIX).items():
            own = ranks.count(_pattern(ranks, name), rank)
            scale = scale_of(alphas.number(_pattern(alphas, name), alpha), own, rslora)
            modules[name] = module_of(folder / WEIGHTS, name, a, b, own, scale)
    except ConfigError as error:
        raise AdapterFileError(f"[adapter] {shown(folder / CONFIG)}: {error}") from None
    base = base_of(folder / WEIGHTS, table.get("base_model_name_or_path"))
    return AdapterSource(folder, "PEFT folder", modules, alpha, rslora, base)


def save_peft(folder: Path, adapter: Adapter, config: ModelConfig, dtype: str = "F32") -> None:
    """Writes an adapter that `PeftModel.from_pretrained` puts on the model that `save_folder`
    writes. ValueError where fp16 cannot hold it, or the family has no such files."""
    layers = layers_of(adapter, config)
    tensors = {
        PREFIX + name + end: array
        for name, pair in layers.items()
        for end, array in zip((A, B), pair, strict=True)
    }
    if dtype == "F16":
        check_fp16(tensors, "adapter")
    wide = {name: len(pair.a) for name, pair in layers.items() if len(pair.a) != adapter.rank}
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": adapter.base.path or None,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "use_rslora": adapter.rslora,
        "rank_pattern": wide,
        "alpha_pattern": {name: _alpha(adapter, rank) for name, rank in wide.items()},
        "target_modules": sorted(layers),
        "fan_in_fan_out": any(place.transposed for place in places_of(config).values()),
        "lora_dropout": 0.0,
        "bias": "none",
        "init_lora_weights": True,
        "inference_mode": True,
    }
    files.make_folder(folder, "adapter")
    save_tensors(folder / WEIGHTS, tensors, dtype, adapter.base, {"format": "pt"})
    files.write_json(folder / CONFIG, settings, "adapter", indent=2)


def _alpha(adapter: Adapter, rank: int) -> float:
    """The alpha that gives the same scale at another rank."""
    return adapter.scale * (math.sqrt(rank) if adapter.rslora else rank)


def _pattern(patterns: Settings, name: str) -> str:
    """The first key that fits a layer, as peft's get_pattern_key has it; `name` where none does.

    Keys are expressions there. Names and dots are taken here; others could ask for any time.
    """
    for key in patterns.table:
        if not re.fullmatch(r"\^?[\w.-]{1,200}", key):
            raise ConfigError(f"expected keys that are names of layers, got {shown(key)}.")
        ends = "" if key.startswith("^") else r"(.*\.)?"
        if re.fullmatch(ends + re.escape(key.removeprefix("^")).replace(r"\.", "."), name):
            return key
    return name


FORMAT = AdapterFormat(
    name="peft",
    dtypes=tuple(DTYPES),
    recognises=lambda table: "peft_type" in table,
    opens=open_peft,
    save=save_peft,
)
