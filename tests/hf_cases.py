"""Checkpoints as transformers writes them, and what it computes with them in float64.

Made where the shared ones are not at hand and transformers is installed: tiny models, drawn by
seed, of the shapes that the families differ in. golden.npz has x and y (int32 [B, S]), logits,
loss (mean), grad/NAME under transformers' names, and a greedy text with its gaps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

V, B, S, SEED = 320, 2, 64, 20261128
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
}  # fmt: skip
BASE = {
    "vocab_size": V, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "tie_word_embeddings": False, "rope_parameters": ROPE, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
CASES: dict[str, tuple[str, dict[str, Any]]] = {  # the class in transformers, its settings
    "llama_gqa_untied": ("Llama", BASE | {"rms_norm_eps": 1e-6}),
    "llama_tied_headdim": ("Llama", BASE | {"head_dim": 24, "tie_word_embeddings": True}),
    "llama3_ropescaled": ("Llama", BASE | {"rope_parameters": LLAMA3}),
    "llama_bias": ("Llama", BASE | {"attention_bias": True}),
    "mistral_window": ("Mistral", BASE | {"head_dim": 16, "sliding_window": 24}),
    "qwen2_bias": ("Qwen2", BASE | {"tie_word_embeddings": True}),
    "qwen3_qknorm": ("Qwen3", BASE | {"head_dim": 32, "tie_word_embeddings": True}),
    "gpt2": ("GPT2", {
        "vocab_size": V, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128,
        "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
        "bos_token_id": 1, "eos_token_id": 2,
    }),
    "gemma": ("Gemma", BASE | {"head_dim": 16}),
    "phi3_fused": ("Phi3", BASE | {"pad_token_id": 0, "rope_parameters": ROPE | {
        "partial_rotary_factor": 1.0}}),
}  # fmt: skip
NARROW = BASE | {
    "vocab_size": 331, "hidden_size": 48, "intermediate_size": 100, "max_position_embeddings": 160,
    "rms_norm_eps": 1e-5,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "rope_theta": 12345.6, "factor": 2.5}
ODD: dict[str, tuple[str, dict[str, Any]]] = {  # sizes that no power of two divides
    "llama_one_key_head": ("Llama", NARROW | {
        "num_attention_heads": 8, "num_key_value_heads": 1, "hidden_size": 64,
        "rope_parameters": LINEAR, "tie_word_embeddings": True,
    }),
    "llama_biases": ("Llama", NARROW | {
        "num_hidden_layers": 1, "num_key_value_heads": 4, "head_dim": 40, "attention_bias": True,
        "mlp_bias": True, "intermediate_size": 77,
    }),
    "mistral_no_window": ("Mistral", NARROW | {"sliding_window": None, "head_dim": 6}),
    "mistral_wide_window": ("Mistral", NARROW | {"sliding_window": 41, "rms_norm_eps": 1e-6}),
    "qwen2_llama3": ("Qwen2", NARROW | {
        "hidden_size": 56, "num_attention_heads": 7, "num_key_value_heads": 7,
        "rope_parameters": LLAMA3 | {"rope_theta": 777777.0}, "use_sliding_window": False,
        "sliding_window": 16,
    }),
    "qwen3_one_layer": ("Qwen3", NARROW | {"num_hidden_layers": 1, "head_dim": 18}),
    "gpt2_narrow": ("GPT2", {
        "vocab_size": 301, "n_embd": 60, "n_layer": 1, "n_head": 3, "n_positions": 100,
        "n_inner": 130, "layer_norm_epsilon": 1e-6, "resid_pdrop": 0.0, "embd_pdrop": 0.0,
        "attn_pdrop": 0.0, "bos_token_id": 1, "eos_token_id": 2,
    }),
}  # fmt: skip
HEAD = {"GPT2": "GPT2LMHeadModel"}


def model_of(case: str) -> Any:
    """A model whose every weight matters: norms off 1, biases off 0, wide matrices."""
    import torch
    import transformers

    family, settings = (CASES | ODD)[case]
    config = getattr(transformers, f"{family}Config")(**settings, attn_implementation="eager")
    model = getattr(transformers, HEAD.get(family, f"{family}ForCausalLM"))(config).eval()
    generator = torch.Generator().manual_seed(SEED + list(CASES | ODD).index(case))
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            norm = "norm" in name or ".ln_" in name
            if name.endswith("bias"):
                p.copy_(0.1 * noise)
            else:
                p.copy_(1 + 0.2 * noise if norm else 0.08 * noise)
    return model


def computed(model: Any, batch: int = B, seq: int = S) -> dict[str, Any]:
    """What golden.npz holds."""
    import torch

    words = model.config.vocab_size
    ids = np.random.default_rng(SEED).integers(3, words, (batch, seq + 1))
    ids[:, 0] = 1
    x, y = torch.tensor(ids[:, :-1]), torch.tensor(ids[:, 1:])
    model = model.double()
    logits = model(x).logits
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, words), y.reshape(-1))
    loss.backward()
    found = {
        "x": x.numpy().astype(np.int32), "y": y.numpy().astype(np.int32),
        "logits": logits.detach().numpy().astype(np.float32), "loss": np.float64(loss.item()),
        **{f"grad/{n}": p.grad.numpy().astype(np.float32) for n, p in model.named_parameters()},
    }  # fmt: skip
    text, gaps = x[:1, :8], []
    with torch.no_grad():
        for _ in range(24):
            last = model(text).logits[0, -1]
            first, second = last.topk(2).values
            gaps.append(float(first - second))
            text = torch.cat([text, last.argmax()[None, None]], 1)
    return found | {"greedy": text[0].numpy().astype(np.int32), "greedy_gap": np.array(gaps)}


def make(folder: Path) -> None:
    """Every case in a folder of its own."""
    for case in CASES:
        model = model_of(case)
        model.save_pretrained(folder / case)
        np.savez(folder / case / "golden.npz", **computed(model))
