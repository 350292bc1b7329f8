"""GPT-2: LayerNorm, learned positions, GELU, biases everywhere (Radford et al. 2019)."""

from __future__ import annotations

from functools import partial
from typing import Any

from anefast import ir
from anefast.config import ModelConfig
from anefast.models import decoder
from anefast.models.family import Family
from anefast.models.foreign import GGUFNames, HuggingFace, Place, Settings
from anefast.models.layers import Past, Style

STYLE = Style(rotary=False, biases="qkvo12", layer_norm=True, gelu=True)

LAYER = {  # ours: Hugging Face's behind h.N, GGUF's behind blk.N
    "attn.norm": ("ln_1", "attn_norm"),
    "attn.q": ("attn.c_attn", "attn_qkv"),
    "attn.k": ("attn.c_attn", "attn_qkv"),
    "attn.v": ("attn.c_attn", "attn_qkv"),
    "attn.o": ("attn.c_proj", "attn_output"),
    "ffn.norm": ("ln_2", "ffn_norm"),
    "ffn.1": ("mlp.c_fc", "ffn_up"),
    "ffn.2": ("mlp.c_proj", "ffn_down"),
}
WHOLE = {
    "tok_embeddings": ("wte.weight", "token_embd.weight"),
    "pos_embeddings": ("wpe.weight", "position_embd.weight"),
    "norm": ("ln_f.weight", "output_norm.weight"),
    "norm_bias": ("ln_f.bias", "output_norm.bias"),
    "output": ("lm_head.weight", "output.weight"),
}


def _trunk(x: ir.Tensor, config: ModelConfig, past: Past | None = None) -> ir.Tensor:
    return decoder.trunk(x, config, past, STYLE)


def _read(settings: Settings, has_head: bool) -> dict[str, Any]:
    settings.require("activation_function", "gelu_new", "gelu_pytorch_tanh")
    settings.require("scale_attn_weights", True)
    settings.require("scale_attn_by_inverse_layer_idx", False)
    settings.require("add_cross_attention", False)
    dim, heads = settings.count("n_embd", 768), settings.count("n_head", 12)
    return {
        "dim": dim,
        "n_layers": settings.count("n_layer", 12),
        "n_heads": heads,
        "n_kv_heads": heads,
        "hidden_dim": settings.count("n_inner", 4 * dim),
        "vocab_size": settings.count("vocab_size", 50257),
        "max_seq_len": settings.count("n_positions", 1024),
        "norm_eps": settings.number("layer_norm_epsilon", 1e-5),
        "tied": settings.flag("tie_word_embeddings", True),
    }


def _write(config: ModelConfig) -> dict[str, Any]:
    if config.n_kv_heads != config.n_heads or config.head_dim * config.n_heads != config.dim:
        raise ValueError("[huggingface] GPT-2 has one key head per query head, of dim / heads.")
    return {
        "n_embd": config.dim,
        "n_layer": config.n_layers,
        "n_head": config.n_heads,
        "n_inner": config.hidden_dim,
        "vocab_size": config.vocab_size,
        "n_positions": config.max_seq_len,
        "n_ctx": config.max_seq_len,  # the same, of before; mlx-lm asks for it
        "layer_norm_epsilon": config.norm_eps,
        "activation_function": "gelu_new",
        "tie_word_embeddings": config.tied,
        "initializer_range": config.init_std,
    }


def _places(config: ModelConfig, hugging_face: bool) -> dict[str, Place]:
    """c_attn holds queries, keys and values side by side; Hugging Face's matrices are [in, out]."""
    which, prefix = (0, "transformer.h.") if hugging_face else (1, "blk.")
    found: dict[str, Place] = {}
    for name, parameter in decoder.parameters(config, STYLE).items():
        if name in WHOLE:
            top = "transformer." if hugging_face and name != "output" else ""
            found[name] = Place(top + WHOLE[name][which])
            continue
        _, layer, branch, key = name.split(".")
        end = "bias" if key[0] == "b" or key.endswith("_bias") else "weight"
        stem = key.removesuffix("_bias") if key.startswith("norm") else key[1:]
        turned = hugging_face and len(parameter.shape) == 2
        part, of = ("qkv".index(stem), 3) if stem in ("q", "k", "v") else (0, 1)
        full = f"{prefix}{layer}.{LAYER[f'{branch}.{stem}'][which]}.{end}"
        found[name] = Place(full, transposed=turned, part=part, of=of)
    return found


FAMILY = Family(
    "gpt2",
    partial(decoder.parameters, style=STYLE),
    _trunk,
    positions="pos_embeddings",
    norm_bias="norm_bias",
    hugging_face=HuggingFace(
        ("gpt2",),
        "GPT2LMHeadModel",
        _read,
        _write,
        partial(_places, hugging_face=True),
        prefix="transformer.",
        unread=(".attn.bias", ".attn.masked_bias"),
    ),
    gguf=GGUFNames("gpt2", "attention.layer_norm_epsilon", partial(_places, hugging_face=False)),
)
