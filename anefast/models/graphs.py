"""A family's trunk as one graph, forward and backward.

The trunk is what a device runs: every layer, from the embedded tokens `x` to the last residual
stream `h`, and back from `dh` to `dx`. Embedding, final norm and classifier stay on the CPU
(`csrc/cpu`), as does every weight gradient: those appear here as fp32 CPU nodes.
"""

from __future__ import annotations

from typing import Literal

from anefast import ir
from anefast.config import ModelConfig
from anefast.models.adapter import A, B
from anefast.models.families import family_of
from anefast.models.layers import Past
from anefast.models.lora import NO_PAIRS, Ranks, adapted, on_device
from anefast.models.trained import GRAD, Trained, trains


def trunk(x: ir.Tensor, config: ModelConfig, past: Past | None = None) -> ir.Tensor:
    """All layers of the model's family. x: [B, C, 1, S] -> h of the same shape."""
    return family_of(config).trunk(x, config, past)


def forward_graph(
    config: ModelConfig, batch: int, seq: int, spelling: ir.Spelling = ir.USUAL
) -> ir.Graph:
    """Inference: input `x`, output `h`, both fp16 [B, C, 1, S]."""
    x = ir.input("x", (batch, config.dim, 1, seq))
    return ir.simplify(ir.spelled(ir.Graph([x], {"h": trunk(x, config)}), spelling))


def decode_graph(
    config: ModelConfig,
    chunk: int,
    cached: int,
    spelling: ir.Spelling = ir.USUAL,
    ranks: Ranks = NO_PAIRS,
) -> ir.Graph:
    """Inference of `chunk` positions behind `cached` columns of keys and values.

    Inputs, in order: `x` [1, C, 1, T], `past_mask` and `mask`, `rope.H.cos` and `rope.H.sin` for
    query heads and, where they are fewer, key heads (none where positions are learned), then
    `NAME.past_k` of every attention and `NAME.past_v`: see `Past`. Outputs: `h`, and per attention
    `NAME.k` and `NAME.v`, the chunk's own columns. A column of the cache that the mask hides may
    hold anything finite. ranks: of the adapter's pairs.
    """
    kv = config.n_kv_heads * config.head_dim
    x = ir.input("x", (1, config.dim, 1, chunk))
    rope = {}
    for heads in rotated_heads(config):
        rows = (1, heads * config.head_dim // 2, 1, chunk)
        rope[heads] = ir.input(f"rope.{heads}.cos", rows), ir.input(f"rope.{heads}.sin", rows)
    names = [f"layers.{i}.attn" for i in range(config.n_layers)]
    keys, values = (
        {name: ir.input(f"{name}.past_{what}", (1, kv, 1, cached)) for name in names}
        for what in "kv"
    )
    mask = (
        ir.input("past_mask", (1, 1, chunk, cached)),
        ir.input("mask", (1, 1, chunk, chunk)),
    )
    past = Past(keys, values, mask, rope)
    outputs = {"h": trunk(x, config, past)}
    for name, (k, v) in past.fresh.items():
        outputs |= {f"{name}.k": k, f"{name}.v": v}
    inputs = [x, *mask, *(t for pair in rope.values() for t in pair)]
    inputs += [*keys.values(), *values.values()]
    graph = adapted(ir.Graph(inputs, outputs), ranks)
    return ir.simplify(ir.spelled(graph, spelling))


def rotated_heads(config: ModelConfig) -> tuple[int, ...]:
    """The numbers of heads that RoPE needs tables for: of queries and of keys, or none."""
    if not family_of(config).rotary:
        return ()
    return tuple(dict.fromkeys((config.n_heads, config.n_kv_heads)))


def embedded(config: ModelConfig) -> list[str]:
    """The tables whose rows are `x`: of tokens, and of positions where those are learned."""
    return list(filter(None, ["tok_embeddings", family_of(config).positions]))


def training_graph(
    config: ModelConfig,
    batch: int,
    seq: int,
    spelling: ir.Spelling = ir.USUAL,
    trained: Trained = None,
    ranks: Ranks = NO_PAIRS,
    gradients: Literal["device", "cpu"] = "device",
) -> ir.Graph:
    """Training: inputs `x`, `dh`; outputs `h`, `dx` and `grad.NAME` for each trunk parameter.

    `dh` and `dx` are fp16 gradients of the (scaled) loss w.r.t. `h` and `x`. Where the stream is
    scaled, `h` is, so that `dh` is larger by as much; `x` is not. Of parameters, those that are
    `trained` have gradients; without one of a table that is embedded, `dx` is left out, and
    backward ends at the lowest layer that has one. ranks: of the adapter's pairs; gradients: who
    multiplies for theirs.
    """
    shape = (batch, config.dim, 1, seq)
    x, dh = ir.input("x", shape), ir.input("dh", shape)
    h = adapted(ir.Graph([x], {"h": trunk(x, config)}), ranks).outputs["h"]
    wrt = {GRAD + str(p.name): p for p in ir.Graph([x], {"h": h}).parameters}
    if trained is not None:
        wrt = {name: p for name, p in wrt.items() if p.name in trained}
    if any(trains(trained, table) for table in embedded(config)):
        wrt = {"dx": x, **wrt}
    grads = ir.gradients([h], [dh], list(wrt.values()))
    outputs = {"h": h, **dict(zip(wrt, grads, strict=True))}
    if gradients == "device":
        for name in (name + end for name in ranks for end in (A, B)):
            outputs[GRAD + name] = on_device(outputs[GRAD + name], name)
    return ir.simplify(ir.spelled(ir.Graph([x, dh], outputs), spelling))
