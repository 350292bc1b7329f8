"""Groups of the host executor against single operations: the same bytes, whatever comes in.

`groups=off` is the reference. Programs are random: shapes that fit no vector, values that are not
finite, taps in any place. One NaN is as good as another: which of two a processor passes on is its
own choice.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from anefast import _C
from anefast.config import ModelConfig
from anefast.fuse import cut, find_plan, recompute
from anefast.mil import emit
from anefast.nn import training_graph
from anefast.nn.layers import MASKED
from tests.host_programs import Name, Text, run

ON, OFF = (_C.Device("host", f"groups={word}") for word in ("on", "off"))


def plain(a):
    """Bytes of an array with all its NaNs made one."""
    return np.where(np.isnan(a), np.float16(np.nan), a).tobytes()


def both(text, outputs, feeds):
    """Runs a program with and without groups, compares, and says what the groups saved in bytes."""
    said = text.program(outputs)
    mine, theirs = (run(device, said, text.blobs, feeds) for device in (ON, OFF))
    for name in outputs:
        assert plain(mine[name]) == plain(theirs[name]), name
    sizes = [device.compile(said, text.blobs).nbytes for device in (ON, OFF)]
    return sizes[1] - sizes[0]


def halves(rng, *shape, size=1.0, odd=0.0):
    """Normal numbers, a share of `odd` of them infinite, not numbers, subnormal or huge."""
    x = (rng.standard_normal(shape) * size).astype(np.float16)
    strange = np.array([np.inf, -np.inf, np.nan, 6e-8, -3e-6, 65504, -60000, 0.0, -0.0], np.float16)
    where = rng.random(shape) < odd
    x[where] = rng.choice(strange, where.sum())
    return x


def causal(rng, rows, columns, kind):
    mask = np.triu(np.full((rows, columns), MASKED, np.float16), k=1)
    if kind == "inf":
        mask[mask < 0] = -np.inf
    elif kind == "ragged":
        mask = np.where(rng.random((rows, columns)) < 0.3, np.float16(MASKED), mask)
    elif kind == "biased":
        mask += halves(rng, rows, columns, size=0.5)
    return mask


def attention(rng, b, h, s, d, mask, scale, across, taps, **values):
    """A program of attention, outputs and feeds. across: channel-first, as anefast writes it."""
    shape = (b, h, d, s) if across else (b, h, s, d)
    feeds = {name: halves(rng, *shape, **values) for name in "qkv"}
    t, square = Text(**feeds), np.empty((b, h, s, s), np.float16)
    x = t.op("matmul", square, x=Name("q"), y=Name("k"), transpose_x=across, transpose_y=not across)
    tapped = []
    if scale:
        x = t.op("mul", square, x=x, y=np.float16(scale))
        tapped += [x] if "scaled" in taps else []
    if mask is not None:
        x = t.op("add", square, x=x, y=mask)
    x = t.op("softmax", square, x=x, axis=-1)
    tapped += [x] if "probs" in taps else []
    out = np.empty(shape, np.float16)
    if across:
        y = t.op("matmul", out, x=Name("v"), y=x, transpose_x=False, transpose_y=True)
    else:
        y = t.op("matmul", out, x=x, y=Name("v"), transpose_x=False, transpose_y=False)
    return t, y, x, tapped, feeds


@pytest.mark.parametrize("seed", range(40))
def test_attention(seed):
    rng = np.random.default_rng(seed)
    b, h, s, d = (int(rng.choice(n)) for n in ((1, 2), (1, 3), (32, 33, 64, 160), (1, 7, 8, 20)))
    kind = rng.choice(["", "plain", "inf", "ragged", "biased"])
    mask = causal(rng, s, s, kind)[None, None] if kind else None
    values = {"size": float(rng.choice([0.1, 1, 30])), "odd": float(rng.choice([0, 0, 1e-4, 1e-2]))}
    taps = [t for t in ("probs", "scaled") if rng.random() < 0.2]
    scale = float(rng.choice([0, 1 / math.sqrt(d), 1.7]))
    across = bool(rng.random() < 0.5)
    t, y, _, tapped, feeds = attention(rng, b, h, s, d, mask, scale, across, taps, **values)
    saved = both(t, [y, *tapped], feeds)
    if s > 64 and not taps:
        assert saved > 0


def gradient(rng, t, p, across, scale, taps, like, square):
    """Appends the derivatives of probs `p` to a program with q, k, v and g, the gradient of out."""

    def product(x, y, over_rows):
        """p or ds with another matrix."""
        if across:
            return t.op("matmul", like, x=y, y=x, transpose_x=False, transpose_y=not over_rows)
        return t.op("matmul", like, x=x, y=y, transpose_x=over_rows, transpose_y=False)

    dp = t.op(
        "matmul", square, x=Name("g"), y=Name("v"), transpose_x=across, transpose_y=not across
    )
    x, y = (dp, p) if rng.random() < 0.5 else (p, dp)
    weighted = t.op("mul", square, x=x, y=y)
    total = np.empty((*square.shape[:-1], 1), np.float16)
    total = t.op("reduce_sum", total, x=weighted, axes=[3], keep_dims=True)
    less = t.op("sub", square, x=dp, y=total)
    ds = t.op("mul", square, x=p, y=less)
    if scale:
        ds = t.op("mul", square, x=ds, y=np.float16(scale))
    dv = product(p, Name("g"), True)
    dq, dk = product(ds, Name("k"), False), product(ds, Name("q"), True)
    return [dq, dk, dv, *([ds] if "ds" in taps else [])]


@pytest.mark.parametrize("seed", range(40))
def test_attention_backward(seed):
    rng = np.random.default_rng(1000 + seed)
    b, h, s, d = (int(rng.choice(n)) for n in ((1, 2), (1, 3), (32, 33, 64, 160), (1, 7, 8, 20)))
    kind = rng.choice(["", "plain", "inf", "ragged", "biased"])
    mask = causal(rng, s, s, kind)[None, None] if kind else None
    values = {
        "size": float(rng.choice([0.1, 1, 30])),
        "odd": float(rng.choice([0, 0, 1e-4, 1e-2])),
    }
    where = rng.choice(["forward too", "again", "given"])
    taps = [t for t in ("probs", "ds") if rng.random() < 0.15]
    across, scale = bool(rng.random() < 0.5), float(rng.choice([0, 0.25]))
    t, y, p, tapped, feeds = attention(rng, b, h, s, d, mask, scale, across, taps, **values)
    square = np.empty((b, h, s, s), np.float16)
    like = np.empty((b, h, d, s) if across else (b, h, s, d), np.float16)
    feeds["g"] = halves(rng, *like.shape, **values)
    if where == "given":
        p = Name("p")
        feeds["p"] = np.abs(halves(rng, *square.shape, size=0.1, odd=values["odd"]))
    t.inputs = feeds
    found = gradient(rng, t, p, across, scale, taps, like, square)
    keep = [y] if where == "forward too" else []
    saved = both(t, [*keep, *tapped, *found], feeds)
    if s > 64 and not taps and where != "given":
        assert saved > 0


def test_memory_of_attention_grows_linearly_with_length():
    config = ModelConfig(dim=32, n_layers=1, n_heads=2, hidden_dim=32, vocab_size=32)
    for spec in ("all", "all,recompute", "2,weights=params"):
        sizes = []
        for seq in (256, 512, 1024, 2048, 4096):
            graph = recompute(training_graph(config, 1, seq), find_plan(spec))
            programs = cut(graph, find_plan(spec).key).programs
            texts = [emit(p).text for p in programs]
            taps = {t for p in programs for _, t in (*p.inputs, *p.outputs)}
            assert all(t.size <= 32 * seq for t in taps)
            sizes.append(sum(_C.scratch_bytes(text) for text in texts))
        assert all(b <= 2.05 * a for a, b in zip(sizes, sizes[1:], strict=False)), (spec, sizes)
