"""mlx-lm's adapter folders: adapter_config.json beside adapters.safetensors.

Its matrices are the transposes of PEFT's, and `scale` is the factor itself, no alpha. Format:
ml-explore/mlx-lm 0.32, tuner/lora.py and tuner/utils.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from anefast import files
from anefast.checks import ConfigError
from anefast.config import ModelConfig
from anefast.errors import shown
from anefast.models.adapter import Adapter
from anefast.models.foreign import Settings

from .format import AdapterFormat
from .huggingface import DTYPES, check_fp16
from .lora import (
    CONFIG,
    AdapterFileError,
    AdapterSource,
    base_of,
    layers_of,
    module_of,
    read_layers,
    save_tensors,
    widened,
)
from .stored import Array, Stored

WEIGHTS = "adapters.safetensors"
ROOT = "model."  # how names of layers begin, GPT-2's too
A, B = ".lora_a", ".lora_b"


def open_mlx(folder: Path, table: Mapping[str, Any]) -> AdapterSource:
    """The adapter in a folder whose adapter_config.json is `table`. FileError in one line."""
    try:
        settings = Settings(table)
        settings.require("fine_tune_type", "lora")
        about = settings.within("lora_parameters")
        if "alpha" in about.table:
            raise ConfigError(
                "expected lora_parameters of scale alone, got alpha, too. Hint: releases of mlx-lm "
                "differ in what that means; leave alpha out and make scale the whole factor"
            )
        rank, scale = about.count("rank"), about.number("scale")
    except ConfigError as error:
        raise AdapterFileError(f"[adapter] {shown(folder / CONFIG)}: {error}") from None
    path = folder / WEIGHTS
    modules = {
        name: module_of(path, name, _turned(a), _turned(b), rank, scale)
        for name, (a, b) in read_layers(path, (A, B)).items()
    }
    base = base_of(path, table.get("model"))
    return AdapterSource(folder, "mlx-lm folder", modules, scale * rank, False, base, ROOT)


def save_mlx(folder: Path, adapter: Adapter, config: ModelConfig, dtype: str = "F32") -> None:
    """Writes an adapter that `mlx_lm.generate --adapter-path` puts on the model that `save_folder`
    writes. ValueError where fp16 cannot hold it, or the family has no such files."""
    layers = layers_of(adapter, config, ROOT)
    rank = max(len(pair.a) for pair in layers.values())  # one for all layers
    tensors: dict[str, Array] = {
        name + end: np.ascontiguousarray(array.T)
        for name, pair in layers.items()
        for end, array in zip((A, B), widened(pair, rank), strict=True)
    }
    if dtype == "F16":
        check_fp16(tensors, "adapter")
    # behind model.layers.0. or model.h.0.; where a layer has none, B stays zero
    keys = sorted({name.split(".", 3)[3] for name in layers})
    settings = {
        "fine_tune_type": "lora",
        "model": adapter.base.path,
        "num_layers": config.n_layers,
        "lora_parameters": {"rank": rank, "scale": adapter.scale, "dropout": 0.0, "keys": keys},
    }
    files.make_folder(folder, "adapter")
    save_tensors(folder / WEIGHTS, tensors, dtype, adapter.base, {"format": "mlx"})
    files.write_json(folder / CONFIG, settings, "adapter", indent=2)


def _turned(tensor: Stored) -> Stored:
    return replace(
        tensor, shape=tensor.shape[::-1], read=lambda: np.ascontiguousarray(tensor.read().T)
    )


FORMAT = AdapterFormat(
    name="mlx",
    dtypes=tuple(DTYPES),
    recognises=lambda table: "lora_parameters" in table or "fine_tune_type" in table,
    opens=open_mlx,
    save=save_mlx,
)
