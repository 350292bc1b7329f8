"""Hugging Face folders: config.json beside model.safetensors, in one file or in shards.

What a family's config.json says is in the family's own file (`models/foreign.py` has the record).
What we do not compute is refused by the name of the setting, never guessed.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from anefast import files
from anefast.config import ConfigError, ModelConfig
from anefast.errors import shown
from anefast.models import FAMILIES, family_of
from anefast.models.family import Family
from anefast.models.foreign import HuggingFace, Places, Settings
from anefast.tokenizer import Tokenizer, open_tokenizer
from anefast.tokenizer.huggingface import files_of

from .format import ModelFormat
from .safetensors import read_safetensors, read_sharded, write_safetensors
from .source import ModelSource, check_depth, to_file
from .stored import Array, Tensors

WHERE = "huggingface"
CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
HEAD = "lm_head.weight"
FP16_END = 65520.0


class HuggingFaceError(files.FileError):
    """A Hugging Face folder that cannot be read as a model of ours. One line that names it."""


def is_folder(path: Path) -> bool:
    """True if this looks like a Hugging Face folder: it has a config.json."""
    return path.is_dir() and (path / CONFIG).is_file()


def open_folder(folder: Path) -> ModelSource:
    """The model in a folder; its weights are not read yet. HuggingFaceError in one line."""
    table = files.read_json(folder / CONFIG, where=WHERE)
    if not isinstance(table, dict):
        raise HuggingFaceError(f"[{WHERE}] expected {shown(folder / CONFIG)} to hold settings.")
    try:
        family, spelled = family_named(table.get("model_type"))
        tensors = _tensors(folder, spelled)
        values = spelled.read(Settings(table), HEAD in tensors)
        config = ModelConfig(family=family.name, **values)
        check_depth(config, tensors)
    except ConfigError as error:
        raise HuggingFaceError(f"[{WHERE}] {shown(folder / CONFIG)}: {error}") from None
    if config.tied and HEAD in tensors:
        config, tensors = _one_head(config, tensors, spelled)
    places = spelled.places(config)
    if table.get("rope_interleaved"):  # rows of queries and keys are in our order already
        places = {ours: place._replace(split_heads=0) for ours, place in places.items()}
    return ModelSource(
        folder, "Hugging Face folder", config, places, tensors, partial(open_tokenizer, folder)
    )


def family_named(model_type: Any) -> tuple[Family, HuggingFace]:
    """The family that a config.json names. ConfigError where it is none of ours."""
    for family in FAMILIES.values():
        if family.hugging_face is not None and model_type in family.hugging_face.model_types:
            return family, family.hugging_face
    known = [t for f in FAMILIES.values() if f.hugging_face for t in f.hugging_face.model_types]
    raise ConfigError(
        f"expected model_type {', '.join(known)}, got {shown(model_type)}. "
        "Hint: this family is not supported."
    )


def save_folder(
    folder: Path,
    config: ModelConfig,
    params: Mapping[str, Array],
    dtype: str = "F32",
    tokenizer: Tokenizer | None = None,
) -> None:
    """Writes config.json, model.safetensors and a tokenizer's files, which transformers loads.

    dtype: F32, BF16 or F16. Each file appears whole or not at all. ValueError where the format
    cannot hold the model, or fp16 the weights.
    """
    if dtype not in DTYPES:
        raise ValueError(f"[{WHERE}] expected dtype {', '.join(DTYPES)}, got {dtype!r}.")
    settings, places = settings_of(config, dtype)
    texts: dict[str, bytes] = {}
    if tokenizer is not None:
        settings |= {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
        texts = files_of(tokenizer)
    texts[CONFIG] = (json.dumps(settings, indent=2) + "\n").encode()
    if dtype == "F16":
        check_fp16(params, WHERE)
    files.make_folder(folder, WHERE)
    written = list(to_file(places, params))
    shapes = {name: shape for name, shape, _ in written}
    with files.replacing(folder / WEIGHTS, WHERE) as file:
        write_safetensors(file, shapes, (make() for *_, make in written), dtype)
    for name, text in texts.items():
        files.write_atomic(folder / name, text, WHERE)


def settings_of(config: ModelConfig, dtype: str) -> tuple[dict[str, Any], Places]:
    """The config.json of a model, and the places of its weights. ValueError if there is none."""
    family = family_of(config)
    spelled = family.hugging_face
    if spelled is None or config.residual_scale != 1.0:
        what = f"family {family.name}" if spelled is None else "residual_scale other than 1"
        raise ValueError(f"[{WHERE}] the format has no {what}. Hint: keep it as a checkpoint.")
    settings = {
        "architectures": [spelled.architecture],
        "model_type": spelled.model_types[0],
        "torch_dtype": DTYPES[dtype],
        **spelled.write(config),
    }
    return settings, spelled.places(config)


def check_fp16(params: Mapping[str, Array], where: str) -> None:
    """ValueError for a weight that fp16 rounds to infinity."""
    for name, array in params.items():
        if not np.abs(array).max(initial=0) < FP16_END:
            raise ValueError(f"[{where}] fp16 cannot hold {name}. Hint: dtype BF16 or F32.")


def _tensors(folder: Path, spelled: HuggingFace) -> Tensors:
    """The tensors of a folder, under whole names, without tables that follow from settings."""
    if (folder / INDEX).is_file():
        found = read_sharded(folder / INDEX)
    elif (folder / WEIGHTS).is_file():
        found = read_safetensors(folder / WEIGHTS)
    else:
        raise HuggingFaceError(
            f"[{WHERE}] expected {WEIGHTS} in {shown(folder)}, there is none. Hint: weights in "
            "another format (pytorch_model.bin) are converted by transformers' save_pretrained."
        )
    kept = {n: t for n, t in found.items() if not (spelled.unread and n.endswith(spelled.unread))}
    prefix = spelled.prefix
    if prefix and not any(name.startswith(prefix) for name in kept):
        kept = {name if name == HEAD else prefix + name: t for name, t in kept.items()}
    return kept


def _one_head(
    config: ModelConfig, tensors: Tensors, spelled: HuggingFace
) -> tuple[ModelConfig, Tensors]:
    """Handles files of tied models that hold a classifier too: a copy, or another matrix."""
    embedding = tensors.get(spelled.places(config)["tok_embeddings"].name)
    if embedding is not None and embedding.shape == tensors[HEAD].shape:
        if np.array_equal(embedding.read(), tensors[HEAD].read()):
            return config, {name: t for name, t in tensors.items() if name != HEAD}
    return dataclasses.replace(config, tied=False), tensors


FORMAT = ModelFormat(
    name="hf",
    dtypes=tuple(DTYPES),
    recognises=lambda path, head: is_folder(path),
    opens=open_folder,
    save=save_folder,
)
