"""The Llama trunk as one graph, forward and backward.

The trunk is what a device runs: every layer, from the embedded tokens `x` to the last residual
stream `h`, and back from `dh` to `dx`. Embedding, final norm and classifier stay on the CPU
(`csrc/cpu`), as does every weight gradient: those appear here as fp32 CPU nodes.
"""

from __future__ import annotations

from anefast import ir
from anefast.config import ModelConfig
from anefast.nn.layers import attention, feed_forward

GRAD = "grad."  # prefix of the outputs that are weight gradients


def trunk(x: ir.Tensor, config: ModelConfig) -> ir.Tensor:
    """All layers. x: [B, C, 1, S] -> h of the same shape."""
    for i in range(config.n_layers):
        x = attention(x, f"layers.{i}.attn", config)
        x = feed_forward(x, f"layers.{i}.ffn", config)
    return x


def forward_graph(config: ModelConfig, batch: int, seq: int) -> ir.Graph:
    """Inference: input `x`, output `h`, both fp16 [B, C, 1, S]."""
    x = ir.input("x", (batch, config.dim, 1, seq))
    return ir.simplify(ir.Graph([x], {"h": trunk(x, config)}))


def training_graph(config: ModelConfig, batch: int, seq: int) -> ir.Graph:
    """Training: inputs `x`, `dh`; outputs `h`, `dx` and `grad.NAME` for each trunk parameter.

    `dh` and `dx` are fp16 gradients of the (scaled) loss w.r.t. `h` and `x`.
    """
    shape = (batch, config.dim, 1, seq)
    x, dh = ir.input("x", shape), ir.input("dh", shape)
    h = trunk(x, config)
    parameters = ir.Graph([x], {"h": h}).parameters
    dx, *grads = ir.gradients([h], [dh], [x, *parameters])
    outputs = {"h": h, "dx": dx}
    outputs |= {GRAD + str(p.name): g for p, g in zip(parameters, grads, strict=True)}
    return ir.simplify(ir.Graph([x, dh], outputs))
