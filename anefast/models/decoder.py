"""Decoders that differ in `Style` alone: their parameters, their trunk, and the names they share.

Most families are this file with a style. Names: transformers' and llama.cpp's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from anefast import ir
from anefast.config import ModelConfig
from anefast.models.family import Family, Parameter
from anefast.models.foreign import GGUFNames, HuggingFace, Place, Settings
from anefast.models.layers import Past, Style, attention, feed_forward, scaled


def family(
    name: str,
    style: Style,
    architecture: str,
    read: Callable[[Settings, bool], dict[str, Any]],
    write: Callable[[ModelConfig], dict[str, Any]],
) -> Family:
    """A family of one style with RMSNorm and rotations, which files call by its own name.

    architecture, read, write: of its config.json; see `HuggingFace`. Rows of queries and keys are
    half-split in both formats.
    """
    where = partial(places, style=style, split=True)
    return Family(
        name,
        partial(parameters, style=style),
        lambda x, config, past: trunk(x, config, past, style),
        hugging_face=HuggingFace(
            (name,), architecture, read, write, partial(where, hugging_face=True)
        ),
        gguf=GGUFNames(
            name, "attention.layer_norm_rms_epsilon", partial(where, hugging_face=False)
        ),
    )


def parameters(config: ModelConfig, style: Style) -> dict[str, Parameter]:
    """Every parameter by name."""
    c, hidden, size = config.dim, config.hidden_dim, config.head_dim
    q, kv = config.n_heads * size, config.n_kv_heads * size
    gain, bias = Parameter((c,), "ones"), Parameter((c,), "zeros")
    out = {"tok_embeddings": Parameter((config.vocab_size, c))}
    if not style.rotary:
        out["pos_embeddings"] = Parameter((config.max_seq_len, c))

    def branch(name: str, matrices: dict[str, Parameter]) -> None:
        out[f"{name}.norm"] = gain
        if style.layer_norm:
            out[f"{name}.norm_bias"] = bias
        for which, matrix in matrices.items():
            out[f"{name}.w{which}"] = matrix
            if which in style.biases:
                out[f"{name}.b{which}"] = Parameter(matrix.shape[:1], "zeros")

    for i in range(config.n_layers):
        attn, ffn = f"layers.{i}.attn", f"layers.{i}.ffn"
        wo, w2 = Parameter((c, q), "residual"), Parameter((c, hidden), "residual")
        keys, wide = Parameter((kv, c)), Parameter((hidden, c))
        branch(attn, {"q": Parameter((q, c)), "k": keys, "v": keys, "o": wo})
        if style.qk_norm:
            out |= {f"{attn}.{n}_norm": Parameter((size,), "ones") for n in "qk"}
        branch(ffn, {"1": wide, "2": w2} if style.gelu else {"1": wide, "2": w2, "3": wide})
    out["norm"] = gain
    if style.layer_norm:
        out["norm_bias"] = bias
    if not config.tied:
        out["output"] = Parameter((config.vocab_size, c))
    return out


def trunk(x: ir.Tensor, config: ModelConfig, past: Past | None, style: Style) -> ir.Tensor:
    """All layers. x: [B, C, 1, S] -> h of the same shape, times `config.stream_scale`."""
    with ir.scope("layers.0.attn.qkv"):
        x = scaled(x, config.stream_scale)
    for i in range(config.n_layers):
        x = attention(x, f"layers.{i}.attn", config, past, style)
        x = feed_forward(x, f"layers.{i}.ffn", config, style)
    return x


# Ours behind layers.N, Hugging Face's behind model.layers.N, GGUF's behind blk.N.
LAYER = {
    "attn.norm": ("input_layernorm", "attn_norm"),
    "attn.wq": ("self_attn.q_proj", "attn_q"),
    "attn.wk": ("self_attn.k_proj", "attn_k"),
    "attn.wv": ("self_attn.v_proj", "attn_v"),
    "attn.wo": ("self_attn.o_proj", "attn_output"),
    "attn.q_norm": ("self_attn.q_norm", "attn_q_norm"),
    "attn.k_norm": ("self_attn.k_norm", "attn_k_norm"),
    "ffn.norm": ("post_attention_layernorm", "ffn_norm"),
    "ffn.w1": ("mlp.gate_proj", "ffn_gate"),
    "ffn.w2": ("mlp.down_proj", "ffn_down"),
    "ffn.w3": ("mlp.up_proj", "ffn_up"),
}
WHOLE = {
    "tok_embeddings": ("model.embed_tokens", "token_embd"),
    "norm": ("model.norm", "output_norm"),
    "output": ("lm_head", "output"),
}


def places(config: ModelConfig, style: Style, hugging_face: bool, split: bool) -> dict[str, Place]:
    """The place of every parameter in a Hugging Face folder, or else in a GGUF file.

    split: rows of queries and keys are in half-split order there.
    """
    which, prefix = (0, "model.layers.") if hugging_face else (1, "blk.")
    heads = {"wq": config.n_heads, "bq": config.n_heads, "wk": config.n_kv_heads}
    heads |= {"bk": config.n_kv_heads, "q_norm": 1, "k_norm": 1}
    found: dict[str, Place] = {}
    for name in parameters(config, style):
        if name in WHOLE:
            found[name] = Place(f"{WHOLE[name][which]}.weight")
            continue
        _, layer, part, key = name.split(".")
        matrix = f"{part}.w{key[1:]}" if key[0] == "b" else f"{part}.{key}"
        end = "bias" if key[0] == "b" else "weight"
        turned = heads.get(key, 0) if split else 0
        found[name] = Place(f"{prefix}{layer}.{LAYER[matrix][which]}.{end}", turned)
    return found
