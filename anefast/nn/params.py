"""The parameters of a Llama-family model: names, shapes, initial values.

One name follows a weight everywhere: config, graph, MIL, checkpoint, log. Arrays are fp32,
row-major, `[out, in]` for matrices. Read `llama.py` next for the graph that uses them.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from anefast.config import ModelConfig

Params = dict[str, npt.NDArray[np.float32]]


def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every parameter's shape by name, in the order all files and loops use."""
    c, hidden = config.dim, config.hidden_dim
    q, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    out: dict[str, tuple[int, ...]] = {"tok_embeddings": (config.vocab_size, c)}
    for i in range(config.n_layers):
        attn, ffn = f"layers.{i}.attn", f"layers.{i}.ffn"
        out |= {f"{attn}.norm": (c,), f"{attn}.wq": (q, c), f"{attn}.wk": (kv, c)}
        out |= {f"{attn}.wv": (kv, c), f"{attn}.wo": (c, q)}
        out |= {f"{ffn}.norm": (c,), f"{ffn}.w1": (hidden, c), f"{ffn}.w2": (c, hidden)}
        out |= {f"{ffn}.w3": (hidden, c)}
    out["norm"] = (c,)
    if not config.tied:
        out["output"] = (config.vocab_size, c)
    return out


def classifier(params: Params) -> str:
    """Name of the classifier's weight: `output`, or `tok_embeddings` where they are tied."""
    return "output" if "output" in params else "tok_embeddings"


def zeros_like(params: Mapping[str, npt.NDArray[np.float32]]) -> Params:
    """Zeros of every shape, side by side in one block.

    NumPy asks for huge pages where a block has 4 MB and more, which single weights seldom have.

    >>> {name: a.shape for name, a in zeros_like({"w": np.ones((2, 3), np.float32)}).items()}
    {'w': (2, 3)}
    """
    line = 16  # floats of a cache line, on which each array begins
    rooms = {name: -(-p.size // line) * line for name, p in params.items()}
    block = np.zeros(sum(rooms.values()) + line, np.float32)
    at = -(block.ctypes.data // block.itemsize) % line
    zeros: Params = {}
    for name, p in params.items():
        zeros[name] = block[at : at + p.size].reshape(p.shape)
        at += rooms[name]
    return zeros


def init_params(config: ModelConfig, seed: int) -> Params:
    """Draws initial parameters: normal(0, init_std) matrices, norms of one.

    The matrices that write to the residual stream (`wo`, `w2`) are narrower by sqrt(2 L), after
    GPT-2 (Radford et al. 2019, section 2.3). Each tensor has a stream of its own, keyed by seed
    and name, so a model with one more layer starts with the same values in the others.
    """
    residual_std = config.init_std / math.sqrt(2 * config.n_layers)
    params: Params = {}
    for name, shape in shapes(config).items():
        if name.endswith("norm"):
            params[name] = np.ones(shape, np.float32)
            continue
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        std = residual_std if name.endswith((".wo", ".w2")) else config.init_std
        params[name] = rng.standard_normal(shape, np.float32) * np.float32(std)
    return params
