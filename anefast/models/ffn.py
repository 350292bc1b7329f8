"""The FFN-only proxy: a chain of gated SiLU feed-forwards with residuals, and nothing else.

The smallest model that still behaves like a trunk when it is cut: it is what fusion is measured
with before attention complicates the picture. There are no norms, no embedding and no classifier,
so it is not a language model and is not trained. The layers are those of `layers.py` without the
norm; the scopes are the same, so any plan cuts it. Read `runtime/fused.py` for how to run it.
"""

from __future__ import annotations

import math
import zlib

import numpy as np

from anefast import ir
from anefast.checks import whole
from anefast.models.layers import linear
from anefast.models.parameters import Params


def ffn_shapes(dim: int, hidden: int, layers: int) -> dict[str, tuple[int, ...]]:
    """Every parameter's shape by name: `layers.{i}.ffn.w1`, `.w2` and `.w3`, as in the trunk."""
    for name, value in (("dim", dim), ("hidden", hidden), ("layers", layers)):
        if value < 1:
            raise ValueError(f"[ffn] expected {name} of at least 1, got {value}.")
    out: dict[str, tuple[int, ...]] = {}
    for i in range(layers):
        name = f"layers.{i}.ffn"
        out |= {f"{name}.w1": (hidden, dim), f"{name}.w2": (dim, hidden)}
        out[f"{name}.w3"] = (hidden, dim)
    return out


def init_ffn(dim: int, hidden: int, layers: int, seed: int) -> Params:
    """Draws fp32 parameters by name, (out, in): normal with deviation 1 / sqrt(input channels).

    Nothing normalises the stream, so `w2`, which writes to it, is narrower by sqrt(2 L): a unit
    input stays of order one through any number of layers, far from where fp16 ends. Each tensor
    has a stream of its own, keyed by seed and name, as in `init_params`.
    """
    for name, size in (("dim", dim), ("hidden", hidden), ("layers", layers)):
        whole("params", name, size, 1)
    whole("params", "seed", seed, 0)
    params: Params = {}
    for name, shape in ffn_shapes(dim, hidden, layers).items():
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        std = 1 / math.sqrt(shape[1] * (2 * layers if name.endswith(".w2") else 1))
        params[name] = rng.standard_normal(shape, np.float32) * np.float32(std)
    return params


def ffn_graph(dim: int, hidden: int, layers: int, batch: int, seq: int) -> ir.Graph:
    """x + W2 (silu(W1 x) * W3 x), `layers` times. Input `x`, output `h`, fp16 [B, C, 1, S]."""
    ffn_shapes(dim, hidden, layers)  # its checks
    x = h = ir.input("x", (batch, dim, 1, seq))
    for i in range(layers):
        name = f"layers.{i}.ffn"
        with ir.scope(name):
            gate = ir.silu(linear(h, f"{name}.w1", hidden)) * linear(h, f"{name}.w3", hidden)
            h = h + linear(gate, f"{name}.w2", dim)
    return ir.simplify(ir.Graph([x], {"h": h}))
