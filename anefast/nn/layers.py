"""Layers of the Llama family, written with ir ops only.

Activations are fp16 `[B, C, 1, S]`, channel-first. Attention never transposes: with channels
first, `q` and `k` are already the operands `matmul` wants with `transpose_x`. The scopes entered
here are what a plan cuts by (`anefast/fuse/plan.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from anefast import ir
from anefast.config import ModelConfig

MASKED = -1e4  # exp(-1e4) is 0 in fp16 and score + mask stays above -65504, so no inf - inf


def linear(x: ir.Tensor, name: str, out_channels: int) -> ir.Tensor:
    """`W x` as the 1x1 convolution the ANE runs best. x: [B, Ci, 1, S] -> [B, Co, 1, S]."""
    return ir.conv(x, ir.parameter(name, (out_channels, x.shape[1], 1, 1)))


def rms_norm(x: ir.Tensor, name: str, epsilon: float) -> ir.Tensor:
    """RMSNorm over channels with a trained gain (Zhang & Sennrich 2019)."""
    return ir.rms_norm(x, epsilon) * ir.parameter(name, (1, x.shape[1], 1, 1))


def rope_tables(
    head_size: int, seq: int, theta: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """cos and sin of each pair's angle at each position, [D / 2, S] (Su et al. 2021, eq. 15)."""
    frequency = theta ** (-np.arange(0, head_size, 2) / head_size)
    angle = np.outer(frequency, np.arange(seq))
    return np.cos(angle), np.sin(angle)


def rope_rows(
    heads: int, config: ModelConfig, begin: int, end: int
) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.float16]]:
    """The tables of positions begin..end as `ir.rope` takes them: cos, sin [1, H * D / 2, 1, S]."""
    tables = rope_tables(config.head_dim, end, config.rope_theta)
    cos, sin = (np.tile(t[:, begin:], (heads, 1))[None, :, None, :] for t in tables)
    return cos.astype(np.float16), sin.astype(np.float16)


def causal_mask(seq: int) -> npt.NDArray[np.float16]:
    """[1, 1, S, S] fp16: 0 where query >= key, MASKED elsewhere. Added to the scores.

    Read-only, and 2 S - 1 numbers of memory: each row is the one above it, a number further left.
    """
    line = np.repeat(np.array([0, MASKED], np.float16), (seq, seq - 1))
    line.flags.writeable = False
    last = (seq - 1) * line.itemsize  # where the first row begins
    strides = (0, 0, -line.itemsize, line.itemsize)
    return np.ndarray((1, 1, seq, seq), line.dtype, line, last, strides)


@dataclass
class Past:
    """What the positions before a chunk of T left behind, as inputs: the key-value cache.

    keys, values: by the attention's name, [1, KV * D, 1, L]; keys are rotated. mask: [1, 1, T,
    L + T], over the cached keys and then the chunk's own. rope: cos and sin of the chunk's
    positions by number of heads, [1, H * D / 2, 1, T]. fresh: what the chunk leaves behind itself,
    [1, KV * D, 1, T], noted here by `attention`.
    """

    keys: dict[str, ir.Tensor]
    values: dict[str, ir.Tensor]
    mask: ir.Tensor
    rope: dict[int, tuple[ir.Tensor, ir.Tensor]]
    fresh: dict[str, tuple[ir.Tensor, ir.Tensor]] = field(default_factory=dict)


def rope(
    x: ir.Tensor, heads: int, config: ModelConfig, past: Past | None, form: ir.RopeForm
) -> ir.Tensor:
    """Rotates channel pairs (2i, 2i + 1) of every head, llama2.c's interleaved form."""
    if past is not None:
        return ir.rope(x, *past.rope[heads], form)
    cos, sin = rope_rows(heads, config, 0, x.shape[3])
    return ir.rope(x, ir.constant(cos, name="rope.cos"), ir.constant(sin, name="rope.sin"), form)


def heads_of(x: ir.Tensor, heads: int, groups: int) -> ir.Tensor:
    """[B, KV * D, 1, S] -> [B, KV * groups, D, S]: query head h reads kv head h // groups."""
    batch, channels, _, seq = x.shape
    size = channels // heads
    if groups == 1:
        return ir.reshape(x, (batch, heads, size, seq))
    x = ir.tile(ir.reshape(x, (batch * heads, 1, size, seq)), (1, groups, 1, 1))
    return ir.reshape(x, (batch, heads * groups, size, seq))


def attention(
    x: ir.Tensor,
    name: str,
    config: ModelConfig,
    past: Past | None = None,
    form: ir.RopeForm = "slices",
) -> ir.Tensor:
    """x + scale * Wo softmax(q k / sqrt(D) + mask) v. x: [B, C, 1, S] -> the same shape.

    Without `past`, x is a sequence from its beginning; with it, the chunk that follows.
    """
    heads, kv_heads, size = config.n_heads, config.n_kv_heads, config.head_dim
    batch, _, _, seq = x.shape
    with ir.scope(f"{name}.qkv"):
        xn = rms_norm(x, f"{name}.norm", config.norm_eps)
        q = rope(linear(xn, f"{name}.wq", heads * size), heads, config, past, form)
        k = rope(linear(xn, f"{name}.wk", kv_heads * size), kv_heads, config, past, form)
        v = linear(xn, f"{name}.wv", kv_heads * size)
        if past is not None:
            past.fresh[name] = k, v
            k = ir.concat([past.keys[name], k], axis=3)
            v = ir.concat([past.values[name], v], axis=3)
        q = heads_of(q * (1 / math.sqrt(size)), heads, 1)  # q is smaller than the scores to scale
        k = heads_of(k, kv_heads, heads // kv_heads)
        v = heads_of(v, kv_heads, heads // kv_heads)
    with ir.scope(f"{name}.scores"):
        scores = ir.matmul(q, k, transpose_x=True)  # [B, H, S queries, keys]
        mask = ir.constant(causal_mask(seq), name="mask") if past is None else past.mask
        probs = ir.softmax(scores + mask, axis=-1)
    with ir.scope(f"{name}.out"):
        y = ir.matmul(v, probs, transpose_y=True)  # [B, H, D, S]
        y = linear(ir.reshape(y, (batch, heads * size, 1, seq)), f"{name}.wo", config.dim)
        return x + residual(y, config)


def feed_forward(x: ir.Tensor, name: str, config: ModelConfig) -> ir.Tensor:
    """x + scale * W2 (silu(W1 xn) * W3 xn), SwiGLU (Shazeer 2020). x: [B, C, 1, S]."""
    with ir.scope(name):
        xn = rms_norm(x, f"{name}.norm", config.norm_eps)
        gate = ir.silu(linear(xn, f"{name}.w1", config.hidden_dim))
        y = linear(gate * linear(xn, f"{name}.w3", config.hidden_dim), f"{name}.w2", config.dim)
        return x + residual(y, config)


def residual(y: ir.Tensor, config: ModelConfig) -> ir.Tensor:
    """The branch as it is added to the stream: scaled where the config says so."""
    return y if config.residual_scale == 1.0 else y * config.residual_scale
