"""A model in a GGUF file: its key-value pairs as our config, and back.

Keys: ggml-org/ggml, docs/gguf.md, and llama.cpp's conversion scripts. Llama 3's slower rotary
frequencies are a tensor of divisors there, `rope_freqs.weight`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from anefast import files
from anefast.config import ConfigError, ModelConfig
from anefast.errors import shown
from anefast.models import FAMILIES, family_of, rope_frequencies
from anefast.models.family import Family
from anefast.models.foreign import GGUFNames, Settings, decimal
from anefast.tokenizer import Tokenizer
from anefast.tokenizer.gguf import pairs_of, tokenizer_of
from anefast.tokenizer.gguf_keys import UNUSED

from .format import ModelFormat
from .gguf import GGUF, MAGIC, GGUFError, read_gguf
from .gguf_write import TYPES, write_gguf
from .huggingface import check_fp16
from .source import ModelSource, check_depth, to_file
from .stored import Array

WHERE = "gguf"
DIVISORS = "rope_freqs.weight"
KEYS = {  # ours: theirs behind the architecture
    "dim": "embedding_length",
    "n_layers": "block_count",
    "n_heads": "attention.head_count",
    "hidden_dim": "feed_forward_length",
    "max_seq_len": "context_length",
}


def open_gguf(path: Path) -> ModelSource:
    """The model in a file; its weights are not read yet. GGUFError in one line."""
    found = read_gguf(path)
    try:
        family, spelled = _family_named(found.values.get("general.architecture"))
        config = _config_of(found, family, spelled)
        check_depth(config, found.tensors)
    except ConfigError as error:
        raise GGUFError(f"[{WHERE}] {shown(path)}: {error}") from None
    places = spelled.places(config)
    tensors = {name: t for name, t in found.tensors.items() if name != DIVISORS}
    tokenizer = partial(tokenizer_of, found.values, path.name)
    return ModelSource(path, "GGUF file", config, places, tensors, tokenizer)


def save_gguf(
    path: Path,
    config: ModelConfig,
    params: Mapping[str, Array],
    dtype: str = "F16",
    tokenizer: Tokenizer | None = None,
    name: str = "anefast",
) -> None:
    """Writes a file that llama.cpp reads. dtype: F32, F16, BF16 or Q8_0, of matrices; norms, biases
    and rows that no block fits stay F32. ValueError where it cannot hold model or tokenizer."""
    if dtype not in TYPES:
        raise ValueError(f"[{WHERE}] expected dtype {', '.join(TYPES)}, got {dtype!r}.")
    family = family_of(config)
    if family.gguf is None or config.residual_scale != 1.0 or config.sliding_window:
        raise ValueError(
            f"[{WHERE}] the format has no {config.family} with these settings. "
            "Hint: residual_scale and sliding_window are not in it; keep it as a checkpoint."
        )
    if dtype in ("F16", "Q8_0"):  # a block's scale is an fp16 number
        check_fp16(params, WHERE)
    values = _values_of(config, family, family.gguf, dtype, name)
    if tokenizer is not None:
        values |= _padded(pairs_of(tokenizer), config.vocab_size)
    written = list(to_file(family.gguf.places(config), params))
    if config.rope_scaling.startswith(("llama3", "divisors")):
        divisors = _divisors(config)
        written.append((DIVISORS, divisors.shape, lambda: divisors))
    with files.replacing(path, WHERE) as file:
        write_gguf(file, values, written, dtype)


def _family_named(architecture: Any) -> tuple[Family, GGUFNames]:
    for family in FAMILIES.values():
        if (
            family.gguf
            and isinstance(architecture, str)
            and family.gguf.architecture == architecture
        ):
            return family, family.gguf
    known = ", ".join(f.gguf.architecture for f in FAMILIES.values() if f.gguf)
    raise ConfigError(
        f"expected general.architecture {known}, got {shown(architecture)}. "
        "Hint: this family is not supported."
    )


def _config_of(found: GGUF, family: Family, spelled: GGUFNames) -> ModelConfig:
    arch = spelled.architecture
    own = {
        key.removeprefix(f"{arch}."): value.tolist() if isinstance(value, np.ndarray) else value
        for key, value in found.values.items()
        if key.startswith(f"{arch}.")
    }
    settings = Settings(own)
    values: dict[str, Any] = {ours: settings.count(key) for ours, key in KEYS.items()}
    heads, dim = values["n_heads"], values["dim"]
    values["n_kv_heads"] = settings.count("attention.head_count_kv", heads)
    values["head_dim"] = settings.count("attention.key_length", max(1, dim // heads))
    values["norm_eps"] = _short(settings.number(spelled.epsilon))
    settings.require("attention.value_length", values["head_dim"])
    if own.get("attention.sliding_window"):
        values["sliding_window"] = settings.count("attention.sliding_window")
    embedding = found.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise ConfigError("expected a matrix token_embd.weight, there is none.")
    values["vocab_size"] = embedding.shape[0]
    values["tied"] = "output.weight" not in found.tensors
    if family.rotary:
        settings.require("rope.dimension_count", values["head_dim"])
        values["rope_theta"] = _short(settings.number("rope.freq_base", 10000.0))
        values["rope_scaling"] = _rope_scaling(found, settings)
    if arch == "llama":  # llama.cpp takes either where it is there
        values["attention_bias"] = any(n.endswith("attn_q.bias") for n in found.tensors)
        values["mlp_bias"] = any(n.endswith("ffn_gate.bias") for n in found.tensors)
    return ModelConfig(family=family.name, **values)


def _rope_scaling(found: GGUF, settings: Settings) -> str:
    kind = settings.table.get("rope.scaling.type", "none")
    if kind == "linear":
        return f"linear:{decimal(_short(settings.number('rope.scaling.factor')))}"
    if kind != "none":
        raise ConfigError(f"expected rope.scaling.type none or linear, got {shown(kind)}.")
    if DIVISORS not in found.tensors:
        return ""
    return "divisors:" + ",".join(f"{d:.9g}" for d in found.tensors[DIVISORS].read().reshape(-1))


def _values_of(
    config: ModelConfig, family: Family, spelled: GGUFNames, dtype: str, name: str
) -> dict[str, Any]:
    """The key-value pairs, in the order in which they are written."""
    arch = spelled.architecture
    values: dict[str, Any] = {
        "general.architecture": arch,
        "general.name": name,
        "general.file_type": TYPES[dtype].file_type,
        **{f"{arch}.{key}": getattr(config, ours) for ours, key in KEYS.items()},
        f"{arch}.attention.head_count_kv": config.n_kv_heads,
        f"{arch}.vocab_size": config.vocab_size,
        f"{arch}.{spelled.epsilon}": config.norm_eps,
    }
    if family.rotary:
        values[f"{arch}.attention.key_length"] = config.head_dim
        values[f"{arch}.attention.value_length"] = config.head_dim
        values[f"{arch}.rope.dimension_count"] = config.head_dim
        values[f"{arch}.rope.freq_base"] = config.rope_theta
    if config.rope_scaling.startswith("linear:"):
        values[f"{arch}.rope.scaling.type"] = "linear"
        values[f"{arch}.rope.scaling.factor"] = float(config.rope_scaling.partition(":")[2])
    return values


def _padded(pairs: dict[str, Any], size: int) -> dict[str, Any]:
    """A tokenizer's pairs with names for rows of the table that it has no ids for."""
    tokens, types = pairs["tokenizer.ggml.tokens"], pairs["tokenizer.ggml.token_type"]
    spare = size - len(tokens)
    pairs["tokenizer.ggml.tokens"] = tokens + [f"[PAD{len(tokens) + i}]" for i in range(spare)]
    pairs["tokenizer.ggml.token_type"] = types + [UNUSED] * spare
    if "tokenizer.ggml.scores" in pairs:
        pairs["tokenizer.ggml.scores"] += [-1e9] * spare
    return pairs


def _divisors(config: ModelConfig) -> Array:
    """The divisor of each rotary frequency, fp32 [D / 2]."""
    plain = rope_frequencies(config.replace(rope_scaling=""))
    divisors: Array = (plain / rope_frequencies(config)).astype(np.float32)
    return divisors


def _short(value: float) -> float:
    """An fp32 number of a file as the decimal that was meant: 1e-5, not 9.99999975e-06."""
    return float(f"{value:.7g}")


def _save(
    out: Path, config: ModelConfig, params: Mapping[str, Array], dtype: str, tokenizer: Tokenizer
) -> None:
    save_gguf(out, config, params, dtype, tokenizer, out.stem)


FORMAT = ModelFormat(
    name="gguf",
    dtypes=("F16", "F32", "BF16", "Q8_0"),
    recognises=lambda path, head: head.startswith(MAGIC),
    opens=open_gguf,
    save=_save,
    ending=".gguf",
)
