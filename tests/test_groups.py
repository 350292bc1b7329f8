"""Groups of the host executor against single operations: the same bytes, whatever comes in.

`groups=off` is the reference. Programs are random: shapes that fit no vector, values that are not
finite, taps in any place. One NaN is as good as another: which of two a processor passes on is its
own choice.
"""

from __future__ import annotations

import math
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

import anefast
from anefast import _C, ir
from anefast.config import ModelConfig
from anefast.fuse import cut, find_plan, recompute
from anefast.mil import emit
from anefast.models import init_params, training_graph
from anefast.models.layers import MASKED, feed_forward
from anefast.runtime import Device, TrainingStep
from anefast.runtime.kernel import Kernel
from tests.conftest import ROOT
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
    if s > 64 and not taps and _C.threads() <= 2:  # each thread has its tile
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
    if s > 64 and not taps and where != "given" and _C.threads() <= 2:
        assert saved > 0


@pytest.mark.parametrize(
    "lengths",
    [(128, 256, 512, 1024), pytest.param((1024, 2048, 4096), marks=pytest.mark.slow)],
    ids=["short", "long"],
)
def test_memory_of_attention_grows_linearly_with_length(lengths):
    config = ModelConfig(dim=32, n_layers=1, n_heads=2, hidden_dim=32, vocab_size=32)
    for spec in ("all", "all,recompute", "2,weights=params"):
        sizes = []
        for seq in lengths:
            graph = recompute(training_graph(config, 1, seq), find_plan(spec))
            programs = cut(graph, find_plan(spec).key).programs
            texts = [emit(p).text for p in programs]
            taps = {t for p in programs for _, t in (*p.inputs, *p.outputs)}
            assert all(t.size <= 32 * seq for t in taps)
            sizes.append(sum(_C.scratch_bytes(text) for text in texts))
        assert all(b <= 2.05 * a for a, b in pairwise(sizes)), (spec, sizes)


PLAIN = {  # of a convolution that is a product
    "strides": [1, 1], "pad_type": "valid", "pad": [0, 0, 0, 0], "dilations": [1, 1], "groups": 1,
}  # fmt: skip
UNARY = ("sigmoid", "tanh", "exp", "sqrt", "silu")
BINARY = ("add", "sub", "mul", "real_div", "maximum", "minimum")


@pytest.mark.parametrize("seed", range(60))
def test_chains(seed):
    """Elementwise operations, behind products or not, sums and maxima over channels, what follows
    from them and is reduced again, pairs turned."""
    rng = np.random.default_rng(2000 + seed)
    b, c, s = (int(rng.choice(n)) for n in ((1, 1, 2), (1, 2, 6, 48, 130), (1, 31, 32, 64, 260)))
    full, row, column = (b, c, 1, s), (b, 1, 1, s), (1, c, 1, 1)
    values = {"size": float(rng.choice([0.1, 1, 30])), "odd": float(rng.choice([0, 0, 1e-3]))}
    feeds = {f"a{i}": halves(rng, *full, **values) for i in range(3)}
    feeds |= {"r": halves(rng, *row, **values), "w": halves(rng, *column, **values)}
    t = Text(**feeds)
    known = {name: a.shape for name, a in feeds.items()}  # SSA values and their shapes
    like = {shape: np.empty(shape, np.float16) for shape in (full, row)}

    def pick(*shapes):
        return Name(rng.choice([n for n, shape in known.items() if shape in shapes]))

    def scalar():
        return np.float16(rng.choice([0.5, -2, 0, 1, 1e-3]))

    made = []
    kinds = ["binary", "binary", "number", "unary", "sum", "row", "pow", "turn", "conv", "matmul"]
    kinds += ["largest", "normalise"]
    for _ in range(int(rng.integers(3, 16))):
        kind = rng.choice(kinds)
        shape = full
        if kind == "sum":
            shape = row
            op = rng.choice(["reduce_sum", "reduce_mean"])
            name = t.op(op, like[row], x=pick(full), axes=[1], keep_dims=True)
        elif kind in ("largest", "normalise"):
            x = pick(full)
            size = x if rng.random() < 0.3 else t.op("abs", like[full], x=x)
            name = t.op("reduce_max", like[row], x=size, axes=[1], keep_dims=True)
            shape = row if kind == "largest" else full
            if kind == "normalise":
                name = t.op("real_div", like[row], x=np.float16(1), y=name)
                name = t.op("mul", like[full], x=x, y=name)
        elif kind == "conv":
            weight = halves(rng, c, c, 1, 1, size=c**-0.5)
            name = t.op("conv", like[full], x=pick(full), weight=weight, **PLAIN)
        elif kind == "matmul":
            shapes = (b, 1, c, s), (1, 1, c, c)
            there, w = (np.empty(shape, np.float16) for shape in shapes)
            turned = bool(rng.random() < 0.5)
            w[...] = halves(rng, c, c, size=c**-0.5)
            x = t.op("reshape", there, x=pick(full), shape=list(shapes[0]))
            x = t.op("matmul", there, x=w, y=x, transpose_x=turned, transpose_y=False)
            name = t.op("reshape", like[full], x=x, shape=list(full))
        elif kind == "row":
            shape = row
            name = t.op("mul", like[row], x=pick(row), y=scalar())
        elif kind == "number":
            shape = full if rng.random() < 0.7 else row
            x, y = pick(shape), scalar()
            x, y = (x, y) if rng.random() < 0.7 else (y, x)
            name = t.op(str(rng.choice(BINARY)), like[shape], x=x, y=y)
        elif kind in ("unary", "pow"):
            shape = full if rng.random() < 0.7 else row
            if kind == "unary":
                name = t.op(str(rng.choice(UNARY)), like[shape], x=pick(shape))
            else:
                name = t.op("pow", like[shape], x=pick(shape), y=np.float16(-0.5))
        elif kind == "turn" and c % 2 == 0:
            pairs = np.empty((b, c // 2, 2, s), np.float16)
            half = np.empty((b, c // 2, 1, s), np.float16)
            x = t.op("reshape", pairs, x=pick(full), shape=list(pairs.shape))
            size = list(half.shape)
            e = t.op("slice_by_size", half, x=x, begin=[0, 0, 0, 0], size=size)
            o = t.op("slice_by_size", half, x=x, begin=[0, 0, 1, 0], size=size)
            p = t.op("sub", half, x=t.op("mul", half, x=e, y=scalar()), y=o)
            q = t.op("add", half, x=e, y=t.op("mul", half, x=o, y=o))
            x = t.op("concat", pairs, values=(p, q), axis=2, interleave=False)
            name = t.op("reshape", like[full], x=x, shape=list(full))
        else:
            x, y = pick(full), pick(full, row, column)
            x, y = (x, y) if rng.random() < 0.7 else (y, x)
            name = t.op(str(rng.choice(BINARY)), like[full], x=x, y=y)
        known[name] = shape
        made.append(name)
    taps = {made[-1], *(n for n in made if rng.random() < 0.25)}
    both(t, sorted(taps), feeds)


@pytest.mark.parametrize("reads", ["right", "both", "later"])
def test_a_chain_that_makes_an_operand_by_columns(reads):
    """More columns than are packed at once: what reads others has to wait for all of them."""
    rng = np.random.default_rng(7)
    k, n = 1024, 600
    t = Text(a=halves(rng, 1, 1, k, n, size=0.1), b=halves(rng, 1, 1, k, n, size=0.1))
    made, like = np.empty((1, 1, k, n), np.float16), np.empty((1, 1, n, n), np.float16)
    y = t.op("add", made, x=Name("a"), y=Name("b"))
    left = y if reads == "both" else halves(rng, 1, 1, k, n, size=0.1)
    z = t.op("matmul", like, x=left, y=y, transpose_x=True, transpose_y=False)
    if reads == "later":
        flat = t.op("reshape", np.empty((1, 1, 1, k * n), np.float16), x=y, shape=[1, 1, 1, k * n])
        part = np.empty((1, 1, 1, n * n), np.float16)
        begin, size = [0, 0, 0, n // 2], [1, 1, 1, n * n]
        part = t.op("slice_by_size", part, x=flat, begin=begin, size=size)
        z = t.op("mul", like, x=z, y=t.op("reshape", like, x=part, shape=[1, 1, n, n]))
    both(t, [z], t.inputs)


PLANS = ["unfused", "layer", "all", "all,recompute", "2/unfused,ports=packed", "all,weights=params"]


@pytest.mark.parametrize("spec", PLANS)
@pytest.mark.parametrize(("batch", "seq"), [(1, 64), (2, 96)])
def test_a_training_step_has_the_same_bytes(spec, batch, seq):
    """Every surface and every gradient, several sequences per program, grouped queries."""
    config = ModelConfig(dim=48, n_layers=2, n_heads=6, n_kv_heads=2, hidden_dim=72, vocab_size=65)
    x = np.random.default_rng(0).integers(0, 65, (batch, seq), dtype=np.int32)
    found = []
    for word in ("on", "off"):
        device = anefast.Device("host", f"groups={word}")
        params = anefast.init_params(config, 0)
        step = TrainingStep(config, params, device, batch, seq, find_plan(spec))
        loss = step.micro_step(x, x, 64.0)
        step.wait()
        values = [loss]
        for surface in step.compiled.surfaces.values():
            with surface.read() as data:
                values.append(data.tobytes())
        values += [g.tobytes() for g in step.grads.values()]
        found.append((values, device.programs.nbytes))
        step.close()
    (mine, small), (theirs, large) = found
    assert mine == theirs
    assert small < large


def test_option():
    with pytest.raises(ValueError, match=r"expected groups to be on or off, got \"maybe\""):
        _C.Device("host", "groups=maybe")


THREADS = """
import sys
import numpy as np
from tests import test_groups as t

t.ON = t._C.Device("host", f"threads={sys.argv[1]}")
t.OFF = t._C.Device("host", "groups=off")
for seed in range(4):
    t.test_attention(seed)
    t.test_attention_backward(seed)
    t.test_chains(seed)
"""


@pytest.mark.parametrize("threads", [1, 4])
def test_any_number_of_threads(threads):
    subprocess.run([sys.executable, "-c", THREADS, str(threads)], check=True)


def feed_forward_kernel(groups: bool) -> Kernel:
    """The program of csrc/host/fusion/README.md."""
    config = ModelConfig(
        dim=64, hidden_dim=192, n_layers=1, n_heads=2, vocab_size=259, max_seq_len=64
    )
    x = ir.input("x", (1, 64, 1, 64))
    graph = ir.Graph([x], {"y": feed_forward(x, "layers.0.ffn", config)})
    graph = ir.simplify(ir.expand(graph))
    program = ir.Program.cut("ffn", [("x", x)], list(graph.outputs.items()))
    kernel = Kernel(Device("host", "" if groups else "groups=off"), program, "ios18")
    kernel.load(init_params(config, 0))
    return kernel


def test_tasks_tell_what_was_fused():
    """As the page on fusion shows them; by itself, each operation is a task."""
    told = feed_forward_kernel(groups=True).tasks
    page = (ROOT / "csrc" / "host" / "fusion" / "README.md").read_text()
    assert "\n".join(told) == page.split("```\n")[1].rstrip()
    alone = feed_forward_kernel(groups=False).tasks
    assert len(alone) == 21 and alone[1] == "reduce_max layers_0_ffn_reduce_max_0 128 bytes"
    assert not any("[" in line for line in alone)
