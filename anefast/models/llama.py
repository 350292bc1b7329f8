"""Llama 1 to 3, Mistral, SmolLM2, TinyLlama: RMSNorm, RoPE, SwiGLU, grouped-query attention."""

from __future__ import annotations

from functools import partial
from typing import Any

from anefast import ir
from anefast.config import ConfigError, ModelConfig
from anefast.models import decoder
from anefast.models.family import Family, Parameter
from anefast.models.foreign import GGUFNames, HuggingFace, Place, Settings, read_rope, write_rope
from anefast.models.layers import Past, Style


def style(config: ModelConfig) -> Style:
    """Some models of the family have biases: `attention_bias`, `mlp_bias`."""
    return Style(biases="qkvo" * config.attention_bias + "123" * config.mlp_bias)


def parameters(config: ModelConfig) -> dict[str, Parameter]:
    return decoder.parameters(config, style(config))


def trunk(x: ir.Tensor, config: ModelConfig, past: Past | None = None) -> ir.Tensor:
    """All layers. x: [B, C, 1, S] -> h of the same shape."""
    return decoder.trunk(x, config, past, style(config))


def read_sizes(settings: Settings, has_head: bool) -> dict[str, Any]:
    """The settings that Llama, Mistral and Qwen spell alike."""
    settings.require("hidden_act", "silu")
    settings.require("pretraining_tp", 1)
    heads, dim = settings.count("num_attention_heads"), settings.count("hidden_size")
    if settings.table.get("head_dim") is None and dim % heads:
        raise ConfigError(f"expected num_attention_heads to divide {dim}, got {heads}.")
    return {
        "dim": dim,
        "n_layers": settings.count("num_hidden_layers"),
        "n_heads": heads,
        "n_kv_heads": settings.count("num_key_value_heads", heads),
        "head_dim": settings.count("head_dim", dim // heads),
        "hidden_dim": settings.count("intermediate_size"),
        "vocab_size": settings.count("vocab_size"),
        "max_seq_len": settings.count("max_position_embeddings", 2048),
        "norm_eps": settings.number("rms_norm_eps", 1e-6),
        "tied": settings.flag("tie_word_embeddings", not has_head),
        **read_rope(settings),
    }


def write_sizes(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `read_sizes`."""
    return {
        "hidden_size": config.dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.hidden_dim,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_seq_len,
        "rms_norm_eps": config.norm_eps,
        "hidden_act": "silu",
        "tie_word_embeddings": config.tied,
        "initializer_range": config.init_std,
        **write_rope(config),
    }


def _read(settings: Settings, has_head: bool) -> dict[str, Any]:
    values = read_sizes(settings, has_head)
    values["attention_bias"] = settings.flag("attention_bias", False)
    values["mlp_bias"] = settings.flag("mlp_bias", False)
    if settings.table.get("sliding_window") is not None:  # Mistral's
        values["sliding_window"] = settings.count("sliding_window")
    return values


def _write(config: ModelConfig) -> dict[str, Any]:
    if config.sliding_window:  # what transformers' Llama has not
        if config.attention_bias or config.mlp_bias:
            raise ValueError(
                "[huggingface] expected a sliding window or biases, got both, which no family of "
                "transformers has."
            )
        return {
            "model_type": "mistral",
            "architectures": ["MistralForCausalLM"],
            "sliding_window": config.sliding_window,
            **write_sizes(config),
        }
    biases = {"attention_bias": config.attention_bias, "mlp_bias": config.mlp_bias}
    return {**write_sizes(config), **biases}


def _places(config: ModelConfig, hugging_face: bool) -> dict[str, Place]:
    # GGUF's llama keeps the rows of queries and keys in our order, Hugging Face does not
    return decoder.places(config, style(config), hugging_face, split=hugging_face)


FAMILY = Family(
    "llama",
    parameters,
    trunk,
    hugging_face=HuggingFace(
        ("llama", "mistral"),
        "LlamaForCausalLM",
        _read,
        _write,
        partial(_places, hugging_face=True),
        unread=("rotary_emb.inv_freq",),
    ),
    gguf=GGUFNames(
        "llama", "attention.layer_norm_rms_epsilon", partial(_places, hugging_face=False)
    ),
)
