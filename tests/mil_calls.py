"""Random calls of MIL operations, right ones and wrong ones, and how they are spelled as text.

For the judges of the type checker (test_mil_types.py) and as seeds of the fuzzers (fuzz/seeds.py).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np

Call = tuple[str, dict[str, Any], dict[str, Any]]  # op, tensors (dtype, shape), constants
FLOATS = ["fp16", "fp32"]
NUMBERS = [*FLOATS, "int32"]


def shape(r: random.Random, low: int = 1, high: int = 4) -> list[int]:
    return [r.choice([1, 2, 3, 4, 6, 8]) for _ in range(r.randint(low, high))]


def near(r: random.Random, x: list[int]) -> list[int]:
    """A shape that broadcasts with x, mostly."""
    y = [d if r.random() < 0.7 else 1 for d in x][r.randint(0, len(x) - 1) :]
    if r.random() < 0.15:
        y[r.randrange(len(y))] += 1
    return y


def axis(r: random.Random, rank: int) -> np.int32:
    return np.int32(r.randint(-rank - (r.random() < 0.1), rank - (r.random() < 0.9)))


def some(r: random.Random, rank: int) -> list[int]:
    axes = r.sample(range(rank), r.randint(1, rank))
    return [a - rank if r.random() < 0.3 else a for a in axes]


def binary(*ops: str) -> Callable[[random.Random], Call]:
    def make(r: random.Random) -> Call:
        x, t = shape(r), r.choice(NUMBERS)
        u = t if r.random() < 0.9 else r.choice(NUMBERS)
        return r.choice(ops), {"x": (t, x), "y": (u, near(r, x))}, {}

    return make


def unary(r: random.Random) -> Call:
    ops = "abs square sign exp exp2 erf ceil floor round sqrt atan tanh sin cos sigmoid relu relu6"
    op = r.choice([*ops.split(), "softsign", "softplus", "silu", "identity"])
    return op, {"x": (r.choice(NUMBERS), shape(r))}, {}


def scaled(r: random.Random) -> Call:
    t = r.choice(FLOATS)
    given = {"epsilon": t} if r.random() < 0.5 else {}
    op = r.choice(["rsqrt", "log", "inverse", "clip", "leaky_relu"])
    if op == "clip":
        given = {"alpha": t, "beta": t if r.random() < 0.9 else "int32"}
    if op == "leaky_relu":
        given = {"alpha": t}
    make = {"fp16": np.float16, "fp32": np.float32, "int32": np.int32}
    values = {k: make[u](2 if k == "beta" else 0.5) for k, u in given.items()}
    return op, {"x": (t, shape(r))}, values


def reduce(r: random.Random) -> Call:
    ops = "sum mean max min prod l1_norm l2_norm sum_square log_sum log_sum_exp".split()
    x = shape(r)
    axes = some(r, len(x))
    if r.random() < 0.1:
        axes[0] = len(x)
    const: dict[str, Any] = {"keep_dims": r.random() < 0.5}
    if r.random() < 0.9:
        const["axes"] = np.array(axes, np.int32)
    return "reduce_" + r.choice(ops), {"x": (r.choice(NUMBERS), x)}, const


def softmax(r: random.Random) -> Call:
    x = shape(r)
    if r.random() < 0.5:  # its axis may not be negative there, against its documentation
        return "cumsum", {"x": (r.choice(FLOATS), x)}, {"axis": np.int32(r.randrange(len(x)))}
    return "softmax", {"x": (r.choice(FLOATS), x)}, {"axis": axis(r, len(x))}


def conv(r: random.Random) -> Call:
    groups = r.choice([1, 1, 2, 4])
    ci, co = groups * r.randint(1, 3), groups * r.randint(1, 3)
    x = [r.randint(1, 2), ci, r.randint(1, 9), r.randint(1, 9)]
    w = [
        co + (r.random() < 0.05),
        ci // groups + (r.random() < 0.05),
        r.randint(1, 4),
        r.randint(1, 4),
    ]
    pair = lambda n: np.array([r.randint(1, n), r.randint(1, n)], np.int32)  # noqa: E731
    const = {
        "weight": np.zeros(w, np.float16),
        "strides": pair(3),
        "dilations": pair(2),
        "groups": np.int32(groups),
        "pad": np.array([r.randint(0, 2) for _ in range(4)], np.int32),
        "pad_type": r.choice(["valid", "custom", "custom", "same", "same_lower", "none"]),
    }
    if r.random() < 0.3:
        const["bias"] = np.zeros(co, np.float16)
    return "conv", {"x": ("fp16", x)}, const


def matmul(r: random.Random) -> Call:
    k, m, n = r.randint(1, 5), r.randint(1, 5), r.randint(1, 5)
    tx, ty = r.random() < 0.5, r.random() < 0.5
    batch = shape(r, 1, 2)
    x = [*near(r, batch)] * (r.random() < 0.8) + ([k, m] if tx else [m, k])
    y = [*batch] * (r.random() < 0.8) + ([n, k] if ty else [k + (r.random() < 0.1), n])
    t = r.choice(NUMBERS)
    return "matmul", {"x": (t, x), "y": (t, y)}, {"transpose_x": tx, "transpose_y": ty}


def linear(r: random.Random) -> Call:
    x, n = shape(r), r.randint(1, 5)
    const = {"weight": np.zeros((n, x[-1] + (r.random() < 0.1)), np.float16)}
    if r.random() < 0.5:
        const["bias"] = np.zeros(n + (r.random() < 0.1), np.float16)
    return "linear", {"x": ("fp16", x)}, const


def layer_norm(r: random.Random) -> Call:
    x = shape(r, 2)
    axes = list(range(r.randint(0, len(x) - 1), len(x)))
    const: dict[str, Any] = {"axes": np.array(axes, np.int32), "epsilon": np.float16(1e-3)}
    if r.random() < 0.6:
        const["gamma"] = np.ones([x[a] + (r.random() < 0.05) for a in axes], np.float16)
        const["beta"] = const["gamma"]
    return "layer_norm", {"x": ("fp16", x)}, const


def cast(r: random.Random) -> Call:
    dtype = r.choice(["fp16", "fp32", "int32", "bool", "int8", "uint16", "fp8"])
    return "cast", {"x": (r.choice(NUMBERS), shape(r))}, {"dtype": dtype}


def reshape(r: random.Random) -> Call:
    x = shape(r)
    y = x[:]
    r.shuffle(y)
    if len(y) > 1 and r.random() < 0.5:
        y[:2] = [y[0] * y[1]]
    if r.random() < 0.4:
        y[r.randrange(len(y))] = -1
    if r.random() < 0.1:
        y[0] = 0
    if r.random() < 0.1:
        y[0] += 1
    return "reshape", {"x": ("fp16", x)}, {"shape": np.array(y, np.int32)}


def transpose(r: random.Random) -> Call:
    x = shape(r)
    perm = r.sample(range(len(x)), len(x))
    return "transpose", {"x": (r.choice(NUMBERS), x)}, {"perm": np.array(perm, np.int32)}


def expand_squeeze(r: random.Random) -> Call:
    x = shape(r, 1, 3)
    if r.random() < 0.5:
        axes = r.sample(range(len(x) + 2), 2) if len(x) > 1 else [0]
        return "expand_dims", {"x": ("fp16", x)}, {"axes": np.array(axes, np.int32)}
    ones = [i for i, d in enumerate(x) if d == 1]
    given = {"axes": np.array(ones, np.int32)} if ones and r.random() < 0.7 else {}
    return "squeeze", {"x": ("fp16", x)}, given


def slices(r: random.Random) -> Call:
    x = shape(r)
    if r.random() < 0.4:
        begin = [r.randint(0, d - 1) for d in x]
        size = [r.choice([-1, r.randint(1, d - b)]) for b, d in zip(begin, x, strict=True)]
        return ("slice_by_size", {"x": ("fp16", x)},
                {"begin": np.array(begin, np.int32), "size": np.array(size, np.int32)})  # fmt: skip
    begin = [r.randint(-d, d - 1) for d in x]
    end = [r.randint(-d, d + 1) for d in x]
    masks = lambda p: np.array([r.random() < p for _ in x])  # noqa: E731
    const = {
        "begin": np.array(begin, np.int32),
        "end": np.array(end, np.int32),
        "stride": np.array([r.choice([1, 1, 2, 3, -1, -2]) for _ in x], np.int32),
        "begin_mask": masks(0.4),
        "end_mask": masks(0.6),
    }
    if r.random() < 0.3:
        const["squeeze_mask"] = masks(0.3)
    return "slice_by_index", {"x": ("fp16", x)}, const


def concat(r: random.Random) -> Call:
    x = shape(r)
    a = r.randrange(len(x))
    y = [d + (i == a) + (r.random() < 0.05) for i, d in enumerate(x)]
    where = np.int32(a if r.random() < 0.7 else a - len(x))
    tensors = {"values": [("fp16", x), ("fp16", y), ("fp16" if r.random() < 0.95 else "fp32", x)]}
    return "concat", tensors, {"axis": where, "interleave": r.random() < 0.1}


def split(r: random.Random) -> Call:
    x = shape(r)
    a = r.randrange(len(x))
    if r.random() < 0.5:
        const = {"num_splits": np.int32(r.choice([1, 2, 3])), "axis": np.int32(a - len(x))}
        return "split", {"x": ("fp16", x)}, const
    sizes = [x[a] // 2, x[a] - x[a] // 2] if x[a] > 1 else [1]
    return (
        "split",
        {"x": ("fp16", x)},
        {"split_sizes": np.array(sizes, np.int32), "axis": np.int32(a)},
    )


def tile_pad(r: random.Random) -> Call:
    x = shape(r)
    if r.random() < 0.5:
        reps = [r.randint(0 if r.random() < 0.05 else 1, 3) for _ in x]
        return "tile", {"x": ("fp16", x)}, {"reps": np.array(reps, np.int32)}
    amounts = [r.randint(0, 3) for _ in range(2 * r.randint(1, len(x)))]
    const = {"pad": np.array(amounts, np.int32), "mode": "constant", "constant_val": np.float16(0)}
    return "pad", {"x": ("fp16", x)}, const


def gather(r: random.Random) -> Call:
    x = shape(r, 1, 3)
    a = axis(r, len(x))
    if r.random() < 0.5:
        return "gather", {"x": ("fp16", x), "indices": ("int32", shape(r, 1, 2))}, {"axis": a}
    indices = [d if i == a % len(x) or r.random() < 0.97 else d + 1 for i, d in enumerate(x)]
    indices[a % len(x)] = r.randint(1, 5)
    return "gather_along_axis", {"x": ("fp16", x), "indices": ("int32", indices)}, {"axis": a}


def select(r: random.Random) -> Call:
    x = shape(r)
    return "select", {"cond": ("bool", x), "a": ("fp16", x), "b": ("fp16", near(r, x))}, {}


def attention(r: random.Random) -> Call:
    batch, e, f = shape(r, 1, 2), r.randint(1, 4), r.randint(1, 4)
    q, s = r.randint(1, 4), r.randint(1, 4)
    tensors = {
        "query": [*batch, q, e],
        "key": [*batch, s, e + (r.random() < 0.1)],
        "value": [*batch, s, f],
    }
    if r.random() < 0.5:
        tensors["attn_mask"] = [q, s]
    return "scaled_dot_product_attention", {k: ("fp16", v) for k, v in tensors.items()}, {}


def quantized(r: random.Random) -> Call:
    x = shape(r)
    a = r.randrange(len(x))
    const: dict[str, Any] = {"scale": np.float16(0.5)}
    if r.random() < 0.5:
        const = {"scale": np.ones(x[a] + (r.random() < 0.1), np.float16), "axis": np.int32(a)}
    if r.random() < 0.5:
        return "quantize", {"input": ("fp16", x)}, {**const, "output_dtype": "int8"}
    return "dequantize", {"input": ("int8", x)}, const


def topk(r: random.Random) -> Call:
    x = shape(r)
    a = r.randrange(len(x))
    const = {"k": np.int32(r.randint(1, x[a] + (r.random() < 0.1))), "axis": np.int32(a)}
    return "topk", {"x": ("fp16", x)}, const


MAKERS = [
    unary, scaled, reduce, softmax, conv, matmul, linear, layer_norm, cast, reshape, transpose,
    expand_squeeze, slices, slices, concat, split, tile_pad, gather, select, attention,
    quantized, topk,
    binary("add", "sub", "mul", "real_div", "floor_div", "mod", "pow", "maximum", "minimum"),
    binary("equal", "not_equal", "greater", "greater_equal", "less", "less_equal"),
]  # fmt: skip


# ---- our side: the call as text ----

DTYPE = {"float16": "fp16", "float32": "fp32", "int32": "int32", "bool": "bool"}


def spelled(dtype: str, dims: Any) -> str:
    return f"tensor<{dtype}, [{', '.join(map(str, dims))}]>" if len(dims) else dtype


def literal(value: Any) -> str:
    if isinstance(value, str):
        return f'string("{value}")'
    array = np.asarray(value)
    text = str(array.tolist()).lower()
    return f"{spelled(DTYPE[array.dtype.name], array.shape)}({text})"


def program(call: Call, results: list[tuple[str, tuple[int, ...]]]) -> str:
    op, tensors, constants = call
    inputs, arguments = [], []
    for name, given in tensors.items():
        several = given if isinstance(given, list) else [given]
        names = [f"i{len(inputs) + k}" for k in range(len(several))]
        inputs += [f"{spelled(*g)} {n}" for g, n in zip(several, names, strict=True)]
        arguments.append(
            f"{name} = ({', '.join(names)})" if several is given else f"{name} = {names[0]}"
        )
    arguments += [f"{name} = {literal(value)}" for name, value in constants.items()]
    outs = [f"{spelled(*t)} o{i}" for i, t in enumerate(results)]
    return (f"program(1.3)\n{{\nfunc main<ios18>({', '.join(inputs)}) {{\n"
            f"{', '.join(outs)} = {op}({', '.join(arguments)});\n}} -> (o0);\n}}\n")  # fmt: skip
