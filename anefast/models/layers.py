"""Layers of transformers, written with ir ops only: Llama's, and what others do instead (`Style`).

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

MASKED = -5.9e4  # no score reaches over it; score + mask may be -inf, whose exp is 0


def linear(x: ir.Tensor, name: str, out_channels: int) -> ir.Tensor:
    """`W x` as the 1x1 convolution the ANE runs best. x: [B, Ci, 1, S] -> [B, Co, 1, S]."""
    return ir.conv(x, ir.parameter(name, (out_channels, x.shape[1], 1, 1)))


def rms_norm(x: ir.Tensor, name: str, epsilon: float) -> ir.Tensor:
    """RMSNorm over channels with a trained gain (Zhang & Sennrich 2019)."""
    return ir.rms_norm(x, epsilon) * ir.parameter(name, (1, x.shape[1], 1, 1))


def rope_frequencies(config: ModelConfig) -> npt.NDArray[np.float64]:
    """Radians per position of each pair of channels, [D / 2] (Su et al. 2021, eq. 15).

    Scaled as `config.rope_scaling` says. llama3 (transformers, modeling_rope_utils.py): waves
    longer than LENGTH / LOW positions are slowed by FACTOR, those shorter than LENGTH / HIGH kept,
    and in between a part of each is taken.
    """
    frequency = config.rope_theta ** (-np.arange(0, config.head_dim, 2) / config.head_dim)
    kind, _, rest = config.rope_scaling.partition(":")
    values = np.array([float(v) for v in rest.split(",")]) if kind else np.ones(1)
    if kind == "llama3":
        factor, low, high, length = values
        waves = length * frequency / (2 * np.pi)  # in the original length
        kept = np.clip((waves - low) / (high - low), 0, 1)
        scaled: npt.NDArray[np.float64] = frequency * (kept + (1 - kept) / factor)
        return scaled
    divided: npt.NDArray[np.float64] = frequency / values
    return divided


def rope_tables(
    config: ModelConfig, seq: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """cos and sin of each pair's angle at each position, [D / 2, S]."""
    angle = np.outer(rope_frequencies(config), np.arange(seq))
    return np.cos(angle), np.sin(angle)


def rope_rows(
    heads: int, config: ModelConfig, begin: int, end: int
) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.float16]]:
    """The tables of positions begin..end as `ir.rope` takes them: cos, sin [1, H * D / 2, 1, S]."""
    tables = rope_tables(config, end)
    cos, sin = (np.tile(t[:, begin:], (heads, 1))[None, :, None, :] for t in tables)
    return cos.astype(np.float16), sin.astype(np.float16)


def causal_mask(seq: int, window: int = 0) -> npt.NDArray[np.float16]:
    """[1, 1, S, S] fp16: 0 where the query may read the key, MASKED elsewhere. Added to the scores.

    A query reads its own position and those before it: of a window W > 0, the W - 1 nearest.
    Read-only, and 2 S - 1 numbers of memory: each row is the one above it, a number further left.
    """
    behind = np.arange(seq - 1, -seq, -1)  # how far the key lies behind the query
    seen = (behind >= 0) & ((behind < window) | (window == 0))
    line = np.where(seen, 0, MASKED).astype(np.float16)
    line.flags.writeable = False
    last = (seq - 1) * line.itemsize  # where the first row begins
    strides = (0, 0, -line.itemsize, line.itemsize)
    return np.ndarray((1, 1, seq, seq), line.dtype, line, last, strides)


@dataclass
class Past:
    """The key-value cache as inputs: keys and values of the positions before a chunk of T.

    keys, values: by the attention's name, [1, KV * D, 1, L]; keys are rotated. mask: over the
    cached keys, [1, 1, T, L], and over the chunk's own, [1, 1, T, T]. rope: cos and sin of the
    chunk's positions by number of heads, [1, H * D / 2, 1, T]. fresh: what the chunk leaves behind
    itself, [1, KV * D, 1, T], noted here by `attention`.
    """

    keys: dict[str, ir.Tensor]
    values: dict[str, ir.Tensor]
    mask: tuple[ir.Tensor, ir.Tensor]
    rope: dict[int, tuple[ir.Tensor, ir.Tensor]]
    fresh: dict[str, tuple[ir.Tensor, ir.Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class Style:
    """How a family's layers differ from Llama's.

    rotary: queries and keys are rotated. biases: letters of what is added to, of q k v o and 1 2 3
    of the feed-forward. qk_norm: an RMSNorm over each head of queries and keys, before they are
    rotated. layer_norm: LayerNorms with biases. gelu: W2 gelu(W1 x), without W3.
    """

    rotary: bool = True
    biases: str = ""
    qk_norm: bool = False
    layer_norm: bool = False
    gelu: bool = False


LLAMA = Style()


def norm(x: ir.Tensor, name: str, config: ModelConfig, style: Style) -> ir.Tensor:
    """The norm before a branch, over channels."""
    if not style.layer_norm:
        return rms_norm(x, name, config.stream_eps)
    normed = ir.layer_norm(x, config.stream_eps) * ir.parameter(name, (1, x.shape[1], 1, 1))
    return normed + ir.parameter(f"{name}_bias", (1, x.shape[1], 1, 1))


def projection(x: ir.Tensor, name: str, which: str, out: int, style: Style) -> ir.Tensor:
    """`W x`, and a bias where the family has one: an add, as chips refuse the bias of a conv."""
    y = linear(x, f"{name}.w{which}", out)
    if which not in style.biases:
        return y
    return y + ir.parameter(f"{name}.b{which}", (1, out, 1, 1))


def head_norm(x: ir.Tensor, name: str, heads: int, config: ModelConfig) -> ir.Tensor:
    """RMSNorm over each head's channels, one gain [D] for all. x: [B, H * D, 1, S]."""
    batch, channels, _, seq = x.shape
    rows = ir.reshape(x, (batch * heads, channels // heads, 1, seq))
    return ir.reshape(rms_norm(rows, name, config.norm_eps), x.shape)


def rope(x: ir.Tensor, heads: int, config: ModelConfig, past: Past | None = None) -> ir.Tensor:
    """Rotates channel pairs (2i, 2i + 1) of every head, llama2.c's interleaved form."""
    if past is not None:
        return ir.rope(x, *past.rope[heads])
    cos, sin = rope_rows(heads, config, 0, x.shape[3])
    return ir.rope(x, ir.constant(cos, name="rope.cos"), ir.constant(sin, name="rope.sin"))


def heads_of(x: ir.Tensor, heads: int, groups: int) -> ir.Tensor:
    """[B, KV * D, 1, S] -> [B, KV * groups, D, S]: query head h reads kv head h // groups."""
    batch, channels, _, seq = x.shape
    size = channels // heads
    if groups == 1:
        return ir.reshape(x, (batch, heads, size, seq))
    x = ir.tile(ir.reshape(x, (batch * heads, 1, size, seq)), (1, groups, 1, 1))
    return ir.reshape(x, (batch, heads * groups, size, seq))


def attention(
    x: ir.Tensor, name: str, config: ModelConfig, past: Past | None = None, style: Style = LLAMA
) -> ir.Tensor:
    """x + scale * Wo softmax(q k / sqrt(D) + mask) v. x: [B, C, 1, S] -> the same shape.

    x is the residual stream times `config.stream_scale`; so what is added to it is scaled, too, at
    v: before a product could leave fp16, and right behind one, where a chip multiplies for nothing.

    Without `past`, x is a sequence from its beginning; with it, the chunk that follows.
    """
    heads, kv_heads, size = config.n_heads, config.n_kv_heads, config.head_dim
    batch, _, _, seq = x.shape
    with ir.scope(f"{name}.qkv"):
        xn = norm(x, f"{name}.norm", config, style)
        q = projection(xn, name, "q", heads * size, style)
        k = projection(xn, name, "k", kv_heads * size, style)
        if style.qk_norm:
            q = head_norm(q, f"{name}.q_norm", heads, config)
            k = head_norm(k, f"{name}.k_norm", kv_heads, config)
        if style.rotary:
            q, k = rope(q, heads, config, past), rope(k, kv_heads, config, past)
        v = projection(xn, name, "v", kv_heads * size, style)
        v, late = within(v, "o", config, style)
        if past is not None:
            past.fresh[name] = k, v
            k = ir.concat([past.keys[name], k], axis=3)
            v = ir.concat([past.values[name], v], axis=3)
        q = heads_of(q * (1 / math.sqrt(size)), heads, 1)  # q is smaller than the scores to scale
        k = heads_of(k, kv_heads, heads // kv_heads)
        v = heads_of(v, kv_heads, heads // kv_heads)
    with ir.scope(f"{name}.scores"):
        scores = ir.matmul(q, k, transpose_x=True)  # [B, H, S queries, keys]
        if past is not None:
            mask = ir.concat(past.mask, axis=3)
        else:
            mask = ir.constant(causal_mask(seq, config.sliding_window), name="mask")
        probs = ir.softmax(scores + mask, axis=-1)
    with ir.scope(f"{name}.out"):
        y = ir.matmul(v, probs, transpose_y=True)  # [B, H, D, S]
        y = projection(ir.reshape(y, (batch, heads * size, 1, seq)), name, "o", config.dim, style)
        y = scaled(y, late)
        return x + residual(y, config)


def feed_forward(x: ir.Tensor, name: str, config: ModelConfig, style: Style = LLAMA) -> ir.Tensor:
    """x + scale * W2 (silu(W1 xn) * W3 xn), SwiGLU (Shazeer 2020). x: [B, C, 1, S].

    With `style.gelu`: x + scale * W2 gelu(W1 xn), in the tanh form (Hendrycks & Gimpel 2016).
    """
    with ir.scope(name):
        xn = norm(x, f"{name}.norm", config, style)
        first = projection(xn, name, "1", config.hidden_dim, style)
        if style.gelu:
            hidden, late = within(ir.gelu(first), "2", config, style)
        else:
            gate, up = ir.silu(first), projection(xn, name, "3", config.hidden_dim, style)
            up, late = within(up, "2", config, style)
            hidden = gate * up
        y = scaled(projection(hidden, name, "2", config.dim, style), late)
        return x + residual(y, config)


def within(x: ir.Tensor, which: str, config: ModelConfig, style: Style) -> tuple[ir.Tensor, float]:
    """The input of projection `which`, times `config.stream_scale`, and the scale that is left for
    behind it: all of it where a bias is added there."""
    if which in style.biases:
        return x, config.stream_scale
    return scaled(x, config.stream_scale), 1.0


def residual(y: ir.Tensor, config: ModelConfig) -> ir.Tensor:
    """The branch as it is added to the stream: scaled if the config asks for it."""
    return scaled(y, config.residual_scale)


def scaled(x: ir.Tensor, factor: float) -> ir.Tensor:
    """x times a number of the config, which mostly is 1."""
    return x if factor == 1.0 else x * factor
