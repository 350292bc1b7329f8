"""For every rule a program that breaks it and a rewrite that does not: the linter's specification.

Each is whole MIL text as small as it can be; test_lint_rules.py holds the linter, --fix and the
host executor to it. `on` is the chip it is linted for, where the rule is not of every chip.
"""

# ruff: noqa: E501  (MIL statements, one to a line)
from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anefast import _C
from anefast.mil.spelling import DIALECTS

PATH = "@model_path/weights/w.bin"
X = "tensor<fp16, [1, 8, 1, 32]>"
HEADS = "tensor<fp16, [1, 4, 32, 32]>"
ROW = "tensor<fp16, [1, 1, 1, 32]>"
SUM = "tensor<fp16, [1, 1, 1, 32]>"


@dataclass
class Example:
    bad: str
    good: str
    on: str = "m5"
    os: str = ""
    files: dict[str, bytes] = field(default_factory=dict)  # beside bad
    good_files: dict[str, bytes] | None = None  # beside good, where they differ
    also: set[str] = field(default_factory=set)  # rules that bad breaks besides, and good keeps


def program(
    *statements: str,
    params: str = f"{X} x",
    results: str = "y",
    opset: str = "ios18",
    head: str = "",
    tail: str = "",
) -> str:
    body = "".join(f"        {s}\n" for s in statements)
    head = head or DIALECTS["ios18"].head()
    return (
        f"{head}\n{{\n    func main<{opset}>({params}) {{\n{body}    }} -> ({results});\n}}\n{tail}"
    )


def op(call: str, name: str = "y", of: str = X) -> str:
    return f'{of} {name} = {call}[name = string("{name}")];'


def const(of: str, name: str, value: str) -> str:
    return f'{of} {name} = const()[name = string("{name}"), val = {of}({value})];'


def ints(name: str, *values: int) -> str:
    return const(f"tensor<int32, [{len(values)}]>", name, str(list(values)))


RELU = op("relu(x = x)")
AXES, KEEP = ints("axes", 1), const("bool", "keep", "true")
SUMMED = [AXES, KEEP, op("reduce_sum(x = x, axes = axes, keep_dims = keep)", "s", SUM)]
HALF = const("fp16", "half", "0x1p-1")
EPS = const("fp16", "eps", "0x1.0cp-17")
NO, YES = const("bool", "no", "false"), const("bool", "yes", "true")
AXIS1, AXIS3 = const("int32", "axis", "1"), const("int32", "last", "3")
CONV = [
    ints("st", 1, 1), const("string", "pt", '"valid"'), ints("pd", 0, 0, 0, 0), ints("dl", 1, 1),
    const("int32", "gr", "1"),
]  # fmt: skip
GIVEN = "strides = st, pad_type = pt, pad = pd, dilations = dl, groups = gr"
W8 = "tensor<fp16, [8, 8, 1, 1]>"


def listed(n: int, value: str = "0x1p-3") -> str:
    return f"[{', '.join([value] * n)}]"


def weight(of: str = W8, offset: int = 64, path: str = PATH, name: str = "w") -> str:
    return const(of, name, f'BLOBFILE(path = string("{path}"), offset = uint64({offset}))')


def conv(w: str = "w", name: str = "y", x: str = "x", of: str = X, more: str = GIVEN) -> str:
    return op(f"conv(x = {x}, weight = {w}, {more})", name, of)


def blob(*arrays: np.ndarray, **changes: Any) -> bytes:
    """A weight file; changes are (offset, format, value) to be written over it."""
    file = bytearray(_C.blob_write(list(arrays)))
    for at, kind, value in changes.values():
        struct.pack_into(kind, file, at, value)
    return bytes(file)


GOOD = np.full((8, 8, 1, 1), 0.125, np.float16)
BAKED = program(weight(), *CONV, conv())
FILE = {"weights/w.bin": blob(GOOD)}
MATMUL = "matmul(x = x, y = k, transpose_x = no, transpose_y = no)"


def mixed(call: str, consts: list[str], of: str = X, **more: Any) -> str:
    return program(*consts, op(call, of=of), **more)


def two(good: str, bad: str, *consts: str, of: str = X, **more: Any) -> Example:
    """Two calls with the same constants."""
    keep = [
        [c for c in consts if f" {c.split(' = ')[0].split()[-1]}" in call] for call in (bad, good)
    ]
    return Example(mixed(bad, keep[0], of), mixed(good, keep[1], of), **more)


LONG = "tensor<fp16, [1, 8, 1, 20480]>"
WIDE = "tensor<fp16, [1, 70000, 1, 32]>"
SQ = "tensor<fp16, [1, 4096, 1, 32]>"
SLICE = [ints("sz", 1, 8, 1, 32)]
X64 = "tensor<fp16, [1, 8, 1, 64]>"

EXAMPLES: dict[str, Example] = {
    # text
    "ANE001": Example(program(RELU, "relu x;"), program(RELU)),
    "ANE002": Example(program(op("relu(x = x)", "y"), op("tanh(x = y)", "y")), program(op("relu(x = x)", "r"), op("tanh(x = r)")), also={"ANE005"}),
    "ANE003": Example(program(op("relu(x = z)")), program(RELU), also={"ANE005", "ANE004"}),
    "ANE004": Example(program(RELU, results="x, y"), program(op("identity(x = x)", "i"), RELU, results="i, y")),
    "ANE005": Example(program(HALF, RELU), program(RELU)),
    "ANE006": Example(program(op("matmul(x = x, y = x, transpose_x = true, transpose_y = false)", of="tensor<fp16, [1, 8, 32, 32]>")), program(YES, NO, op("matmul(x = x, y = x, transpose_x = yes, transpose_y = no)", of="tensor<fp16, [1, 8, 32, 32]>"))),
    "ANE007": Example(program(op("mul(x = x, y = fp16(0x1p-1))")), program(HALF, op("mul(x = x, y = half)"))),
    "ANE008": Example(program(f"{X} y = relu(x = x);"), program(RELU)),
    "ANE009": Example(program("// as the paper has it", RELU), program(RELU)),
    "ANE010": Example(program(RELU, head="program(1.3)"), program(RELU)),
    "ANE011": Example(program(RELU, params="tensor<fp16, [1, ?, 1, 32]> x"), program(RELU)),
    "ANE012": Example(program(ints("sh", 1, 1, 1, 8, 1, 32), op("reshape(x = x, shape = sh)", "r", "tensor<fp16, [1, 1, 1, 8, 1, 32]>"), ints("back", 1, 8, 1, 32), op("reshape(x = r, shape = back)", "q"), op("relu(x = q)")), program(RELU)),
    "ANE013": Example(program(HALF, op("mul(x = x, y = half)")), "", on="m1"),
    "ANE014": Example(program(*CONV[:0], NO, op("scaled_dot_product_attention(query = x, key = x, value = x)"), opset="ios16"), program(op("scaled_dot_product_attention(query = x, key = x, value = x)")), also={"ANE005"}),
    "ANE015": Example(program(op("rellu(x = x)")), program(RELU)),
    "ANE016": Example(program(ints("b", 0, 0, 0, 0), ints("e", 1, 8, 1, 32), ints("s", 1, 1, 1, 1), op("slice_by_index(x = x, begin = b, end = e, strides = s)")), program(ints("b", 0, 0, 0, 0), ints("e", 1, 8, 1, 32), ints("s", 1, 1, 1, 1), op("slice_by_index(x = x, begin = b, end = e, stride = s)"))),
    "ANE017": Example(program(op("relu(x = x)", of=X64)), program(RELU)),
    "ANE018": Example(program(op("sub(x = q, y = k)"), params=f"{X} q, {X} k"), program(op("sub(x = a0_q, y = a1_k)"), params=f"{X} a0_q, {X} a1_k")),
    "ANE019": Example(program(op("relu(x = h.0)"), params=f"{X} h.0"), program(op("relu(x = h_0)"), params=f"{X} h_0")),
    # ports
    "ANE020": Example(program(const("string", "t", '"fp16"'), op("cast(x = x, dtype = t)"), params="tensor<fp32, [1, 8, 1, 32]> x"), "", on="m1", also={"ANE013", "ANE021"}),
    "ANE021": Example(program(const("string", "t", '"fp16"'), op("cast(x = x, dtype = t)"), params="tensor<fp32, [1, 8, 1, 32]> x"), program(RELU)),
    "ANE022": Example(program(const("string", "t", '"fp16"'), op("cast(x = x, dtype = t)"), params="tensor<int32, [1, 8, 1, 32]> x"), program(RELU)),
    "ANE023": Example(program(const("string", "t", '"fp16"'), op("cast(x = x, dtype = t)", of=X64), params="tensor<bool, [1, 8, 1, 64]> x"), program(RELU)),
    "ANE024": Example(program(op("relu(x = x)", of="tensor<fp16, [1, 8, 1, 20]>"), params="tensor<fp16, [1, 8, 1, 20]> x"), program(RELU)),
    "ANE025": Example(program(NO, op("matmul(x = a, y = b, transpose_x = no, transpose_y = no)", of="tensor<fp32, [1, 16, 16]>"), params="tensor<fp32, [1, 16, 16]> a, tensor<fp32, [1, 16, 16]> b"), "", on="m1-pro", also={"ANE013", "ANE020", "ANE021"}),
    "ANE026": Example(program(const(X, "c", listed(256)), op("relu(x = c)"), params=""), program(RELU)),
    "ANE027": Example(program(const("tensor<int4, [2]>", "q", "[1, 2]"), RELU), program(RELU), also={"ANE005"}),
    "ANE028": Example(program(op("relu(x = x)", of=LONG), params=f"{LONG} x"), program(op("relu(x = x)", of="tensor<fp16, [1, 8, 1, 16384]>"), params="tensor<fp16, [1, 8, 1, 16384]> x"), on="m3"),
    "ANE029": Example(program(op("relu(x = x)", of=WIDE), params=f"{WIDE} x"), program(op("relu(x = x)", of="tensor<fp16, [1, 65536, 1, 32]>"), params="tensor<fp16, [1, 65536, 1, 32]> x")),
    # operations
    "ANE030": two("rsqrt(x = x, epsilon = eps)", "rsqrt(x = x)", EPS),
    "ANE031": Example(program(*SUMMED, EPS, op("rsqrt(x = s, epsilon = eps)", "r", SUM), op("mul(x = x, y = r)")), program(*SUMMED, const("fp16", "e", "0x1p-10"), op("add(x = s, y = e)", "t", SUM), const("fp16", "p", "-0x1p-1"), op("pow(x = t, y = p)", "r", SUM), op("mul(x = x, y = r)"))),
    "ANE032": Example(program(const(W8, "w", listed(64)), const("tensor<fp16, [8]>", "b", "[1, 2, 3, 4, 5, 6, 7, 8]"), *CONV, conv(more="bias = b, " + GIVEN)), program(const(W8, "w", listed(64)), const("tensor<fp16, [1, 8, 1, 1]>", "b", "[1, 2, 3, 4, 5, 6, 7, 8]"), *CONV, conv(name="c"), op("add(x = c, y = b)"))),
    "ANE033": Example(program(const(W8, "w", listed(64)), op("conv(x = x, weight = w)")), program(const(W8, "w", listed(64)), *CONV, conv())),
    "ANE034": Example(program(ints("b", 0, 0, 0, 0), ints("sz", 1, 8, 1, 8), op("slice_by_size(x = x, begin = b, size = sz)", "part", "tensor<fp16, [1, 8, 1, 8]>"), ints("sh", 8, 8, 1, 1), op("reshape(x = part, shape = sh)", "w", W8), *CONV, conv()), program(const(W8, "w", listed(64)), *CONV, conv())),
    "ANE035": Example(program(*CONV, conv(), params=f"{W8.replace('1, 1]', '1, 32]')} w, tensor<fp16, [1, 8, 1, 63]> x".replace("63", "63")), program(const(W8, "w", listed(64)), *CONV, conv()), also={"ANE024", "ANE039"}),
    "ANE036": Example(program(*CONV, conv(of="tensor<fp16, [2, 8, 1, 32]>"), params="tensor<fp16, [8, 8, 1, 1]> w, tensor<fp16, [2, 8, 1, 32]> x"), program(const(W8, "w", listed(64)), *CONV, conv()), also={"ANE024", "ANE035"}),
    "ANE037": Example(program(*CONV[:4], const("int32", "gr", "2"), conv(), params="tensor<fp16, [8, 4, 1, 1]> w, " + X + " x"), program(const("tensor<fp16, [8, 4, 1, 1]>", "w", listed(32)), *CONV[:4], const("int32", "gr", "2"), conv()), also={"ANE024", "ANE035"}),
    "ANE038": Example(program(weight("tensor<fp16, [8, 32000, 1, 1]>"), *CONV, conv(), params="tensor<fp16, [1, 32000, 1, 32]> x"), program(weight("tensor<fp16, [32000, 8, 1, 1]>"), *CONV, conv(of="tensor<fp16, [1, 32000, 1, 32]>"))),
    "ANE039": Example(program(const("tensor<fp16, [8, 8, 1, 17]>", "w", listed(1088, "0")), *CONV, conv(of="tensor<fp16, [1, 8, 1, 32]>"), params="tensor<fp16, [1, 8, 1, 48]> x"), program(const(W8, "w", listed(64)), *CONV, conv()), also={"ANE024"}),
    "ANE040": Example(program(const("tensor<int32, [8]>", "i", str(list(range(8)))), AXIS1, op("gather(x = x, indices = i, axis = axis)")), program(RELU)),
    "ANE041": Example(program(const("tensor<int32, [1]>", "i", "[0]"), AXIS1, op("scatter(data = x, indices = i, updates = x, axis = axis)")), program(RELU)),
    "ANE042": two("tanh(x = x)", "sin(x = x)"),
    "ANE043": Example(program(AXIS1, op("cumsum(x = x, axis = axis)")), "", on="m2", also={"ANE013"}),
    "ANE044": Example(program(const("string", "i", '"int32"'), op("cast(x = x, dtype = i)", "c", X.replace("fp16", "int32")), const("string", "h", '"fp16"'), op("cast(x = c, dtype = h)")), program(op("floor(x = x)"))),
    "ANE045": Example(program(op("greater(x = x, y = x)", "g", X.replace("fp16", "bool")), op("logical_and(x = g, y = g)", "a", X.replace("fp16", "bool")), const("string", "h", '"fp16"'), op("cast(x = a, dtype = h)")), program(op("greater(x = x, y = x)", "g", X.replace("fp16", "bool")), const("string", "h", '"fp16"'), op("cast(x = g, dtype = h)"))),
    "ANE046": Example(program(AXES, KEEP, op("reduce_prod(x = x, axes = axes, keep_dims = keep)", of=SUM)), program(AXES, KEEP, op("reduce_max(x = x, axes = axes, keep_dims = keep)", of=SUM))),
    "ANE047": Example(program(op("neg(x = x)")), program(const("fp16", "m", "-0x1p+0"), op("mul(x = x, y = m)"))),
    "ANE048": Example(program(ints("k", 1, 1), const("string", "v", '"valid"'), op("avg_pool(x = x, kernel_sizes = k, pad_type = v)")), program(RELU)),
    "ANE049": Example(program(const("tensor<fp16, [8]>", "m", listed(8)), op("batch_norm(x = x, mean = m, variance = m)")), program(RELU)),
    "ANE050": Example(program(op("gelu(x = x)")), program(const("string", "mode", '"EXACT"'), op("gelu(x = x, mode = mode)"))),
    "ANE051": Example(program(const("int32", "axis", "0"), op("softmax(x = x, axis = axis)")), program(AXIS1, op("softmax(x = x, axis = axis)"))),
    "ANE052": Example(program(AXIS3, op("softmax(x = x, axis = last)", of=X.replace("32", "96")), params=f"{X.replace('32', '96')} x"), program(AXIS3, op("softmax(x = x, axis = last)")), on="m3", os="15.1"),
    "ANE053": Example(program(AXES, KEEP, op("reduce_mean(x = x, axes = axes, keep_dims = keep)", of=SUM)), program(*SUMMED, const("fp16", "n", "0x1p-3"), op("mul(x = s, y = n)", of=SUM)), on="m3", os="15"),
    "ANE054": Example(program(AXIS1, NO, op("concat(values = (x, x), axis = axis, interleave = no)", of="tensor<fp16, [1, 16, 1, 32]>")), program(RELU), on="m4-max", os="15.2"),
    "ANE055": Example(program(f'{W8} w = constexpr_affine_dequantize()[axis = int32(0), name = string("w"), quantized_data = {W8.replace("fp16", "int8")}({listed(64, "3")}), scale = fp16(0x1p-3), zero_point = int8(0)];', *CONV, conv()), program(const(W8, "w", listed(64)), *CONV, conv()), on="m3", os="15"),
    "ANE056": Example(program(const("tensor<fp16, [32, 32]>", "m", "[" + listed(1024, "-1e4")[1:]), op("scaled_dot_product_attention(query = x, key = x, value = x, attn_mask = m)", of=HEADS), params=f"{HEADS} x"), program(op("scaled_dot_product_attention(query = x, key = x, value = x)", of=HEADS), params=f"{HEADS} x")),
    "ANE057": Example(program(op("scaled_dot_product_attention(query = x, key = x, value = x)", of="tensor<fp16, [1, 4, 512, 32]>"), params="tensor<fp16, [1, 4, 512, 32]> x"), program(op("scaled_dot_product_attention(query = x, key = x, value = x)", of=HEADS), params=f"{HEADS} x")),
    "ANE058": Example(program(ints("p", 16, 16), const("string", "r", '"reflect"'), const("fp16", "z", "0"), op("pad(x = x, pad = p, mode = r, constant_val = z)", of=X64)), "", on="m1", also={"ANE013"}),
    "ANE059": Example(program(ints("r", 1, 5, 1, 1), op("tile(x = x, reps = r)", of="tensor<fp16, [1, 40, 1, 32]>")), program(ints("r", 1, 4, 1, 1), op("tile(x = x, reps = r)", of="tensor<fp16, [1, 32, 1, 32]>"))),
    "ANE060": Example(program(op("read_state(input = c)", "r"), op("add(x = x, y = r)"), params=f"state<{X}> c, {X} x"), program(op("add(x = x, y = c)"), params=f"{X} c, {X} x")),
    # patterns
    "ANE061": Example(program(ints("b", 0, 0, 0, 32), *SLICE, op("slice_by_size(x = x, begin = b, size = sz)"), params=f"{X64} x"), "", on="m2", also={"ANE013"}),
    "ANE062": Example(program(ints("b", 0, 0, 0, 32), *SLICE, op("slice_by_size(x = x, begin = b, size = sz)", "p"), op("tanh(x = x)", "t", X64), op("slice_by_size(x = t, begin = b, size = sz)", "q"), AXIS1, NO, op("concat(values = (p, q), axis = axis, interleave = no)", of="tensor<fp16, [1, 16, 1, 32]>"), params=f"{X64} x"), "", on="m2", also={"ANE013", "ANE061"}),
    "ANE063": Example(program(ints("a", 0, 0, 0, 0), ints("b", 0, 0, 0, 32), *SLICE, op("slice_by_size(x = x, begin = b, size = sz)", "p"), op("slice_by_size(x = x, begin = a, size = sz)", "q"), AXIS3, NO, op("concat(values = (p, q), axis = last, interleave = no)", of=X64), params=f"{X64} x"), program(const("tensor<fp16, [1, 1, 64, 64]>", "k", listed(4096, "0")), NO, op(MATMUL, of=X64), params=f"{X64} x"), on="m3"),
    "ANE064": Example(program(AXIS1, ints("sizes", 4, 4), "tensor<fp16, [1, 4, 1, 32]> p, tensor<fp16, [1, 4, 1, 32]> q = split(x = x, split_sizes = sizes, axis = axis)[name = string(\"pq\")];", ints("r", 1, 2, 1, 1), op("tile(x = p, reps = r)", "t"), op("softmax(x = t, axis = axis)", "s"), YES, NO, op("matmul(x = q, y = q, transpose_x = yes, transpose_y = no)", "m", "tensor<fp16, [1, 4, 32, 32]>"), results="m, s"), program(RELU)),
    "ANE065": Example(program(ints("sh", 1, 16, 1, 16), op("reshape(x = x, shape = sh)", "r", "tensor<fp16, [1, 16, 1, 16]>"), ints("to", 1, 4, 2, 32), op("reshape(x = r, shape = to)", of="tensor<fp16, [1, 4, 2, 32]>")), program(RELU)),
    "ANE066": Example(program(f'tensor<fp16, [64]> flat = constexpr_affine_dequantize()[axis = int32(0), name = string("flat"), quantized_data = tensor<int8, [64]>({listed(64, "3")}), scale = fp16(0x1p-3), zero_point = int8(0)];', ints("sh", 8, 8, 1, 1), op("reshape(x = flat, shape = sh)", "w", W8), *CONV, conv()), program(const(W8, "w", listed(64)), *CONV, conv()), also={"ANE034"}),
    "ANE067": Example(program(op("floor(x = x)", "f"), HALF, op("mul(x = f, y = half)")), program(op("floor(x = x)", "f"), const("tensor<fp16, [1, 8, 1, 1]>", "half", listed(8, "0x1p-1")), op("mul(x = f, y = half)"))),
    "ANE068": Example(program(*SUMMED, const("fp16", "zero", "0"), op("mul(x = s, y = zero)", of=SUM)), program(*SUMMED, HALF, op("mul(x = s, y = half)", of=SUM))),
    "ANE069": Example(program(*(op(f"{f}(x = x)", f"v{i:02}") for i, f in enumerate("relu tanh abs square sign exp2 erf ceil floor round sqrt sigmoid".split())), AXIS1, NO, op(f"concat(values = ({', '.join(f'v{i:02}' for i in range(12))}), axis = axis, interleave = no)", of="tensor<fp16, [1, 96, 1, 32]>")), program(RELU)),
    "ANE070": Example(program(ints("b", 0, 4, 0, 0), ints("sz", 1, 4, 1, 32), op("slice_by_size(x = x, begin = b, size = sz)", "r00", "tensor<fp16, [1, 4, 1, 32]>"), *(op(f"relu(x = r{i:02})", f"r{i + 1:02}", "tensor<fp16, [1, 4, 1, 32]>") for i in range(34)), results="r34"), program(RELU), on="m3", os="15"),
    # numbers
    "ANE071": Example(program(op("sigmoid(x = x)", "s"), const("tensor<fp16, [8, 8, 1, 1]>", "w", listed(64, "5000")), *CONV, conv(x="s")), program(op("sigmoid(x = x)", "s"), const(W8, "w", listed(64, "500")), *CONV, conv(x="s"))),
    "ANE072": Example(program(op("mul(x = x, y = x)", "q", SQ), AXES, KEEP, op("reduce_sum(x = q, axes = axes, keep_dims = keep)", of=SUM), params=f"{SQ} x"), program(const("fp16", "c", "0x1p-4"), op("mul(x = x, y = c)", "d", SQ), op("mul(x = d, y = d)", "q", SQ), AXES, KEEP, op("reduce_sum(x = q, axes = axes, keep_dims = keep)", of=SUM), params=f"{SQ} x")),
    "ANE073": Example(program(const("fp16", "m", "-1e9"), op("add(x = x, y = m)")), program(const("fp16", "m", "-1e4"), op("add(x = x, y = m)"))),
    "ANE074": Example(program(const("fp16", "m", "-65504"), op("add(x = x, y = m)")), program(const("fp16", "m", "-1e4"), op("add(x = x, y = m)"))),
    "ANE075": Example(program(const(W8, "w", listed(64, "0x1p-20")), *CONV, conv()), "", on="m1", also={"ANE013"}),
    "ANE076": Example(program(const("fp16", "e", "1e-12"), op("add(x = x, y = e)")), program(const("fp16", "e", "1e-5"), op("add(x = x, y = e)"))),
    "ANE077": Example(program(const("fp16", "eps", "0x1p-20"), op("rsqrt(x = x, epsilon = eps)")), program(EPS, op("rsqrt(x = x, epsilon = eps)"))),
    "ANE078": Example(program(const("fp16", "n", "0.001302"), op("mul(x = x, y = n)")), program(const("fp16", "n", "0.001302083"), op("mul(x = x, y = n)"))),
    "ANE079": two("exp(x = c)", "exp(x = x)"),
    "ANE080": Example(program(const("fp16", "n", "nan"), op("add(x = x, y = n)")), program(HALF, op("add(x = x, y = half)"))),
    # weights
    "ANE081": Example(BAKED, BAKED, good_files=FILE),
    "ANE082": Example(program(weight(path="w.bin"), *CONV, conv()), BAKED, files={"w.bin": blob(GOOD)}, good_files=FILE),
    "ANE083": Example(program(weight(), weight(offset=256, name="v"), *CONV, conv(), conv("v", "z"), results="y, z"), BAKED, files={"weights/w.bin": blob(GOOD, GOOD, count=(0, "<I", 1))}, good_files=FILE),
    "ANE084": Example(program(weight(offset=128), *CONV, conv()), BAKED, files=FILE, good_files=FILE),
    "ANE085": Example(BAKED, BAKED, files={"weights/w.bin": blob(GOOD, size=(72, "<Q", 0x100))}, good_files=FILE),
    "ANE086": Example(BAKED, BAKED, files={"weights/w.bin": blob(GOOD, dtype=(68, "<I", 6))}, good_files=FILE),
    "ANE087": Example(BAKED, BAKED, files={"weights/w.bin": blob(GOOD, at=(80, "<Q", 130)) + bytes(64)}, good_files=FILE),
    "ANE088": Example(BAKED, BAKED, files={"net.plist": b"compiled", "data": blob(GOOD), "weights/w.bin": blob(GOOD * 2)}, good_files={"net.plist": b"compiled", "data": blob(GOOD), "weights/w.bin": blob(GOOD)}),
    "ANE089": Example(BAKED, BAKED, files={"weights/w.bin": blob(GOOD, GOOD)}, good_files=FILE),
    "ANE090": Example(BAKED, BAKED, files={"weights/w.bin": blob(np.where(np.arange(64).reshape(8, 8, 1, 1) == 9, np.float16("nan"), GOOD))}, good_files=FILE),
    "ANE091": Example(program(weight("tensor<fp16, [8192, 8, 1, 128]>"), RELU), program(RELU), on="m3", also={"ANE005"}),
}  # fmt: skip
Y20 = "tensor<fp16, [1, 4, 1, 20]>"
EXAMPLES["ANE094"] = Example(
    program(op("relu(x = x)", "y", "tensor<fp16, [1, 8, 1, 20]>"), ints("b", 0, 0, 0, 0), ints("sz", 1, 4, 1, 20), op("slice_by_size(x = x, begin = b, size = sz)", "z", Y20), params="tensor<fp16, [1, 8, 1, 20]> x", results="y, z"),
    program(RELU), also={"ANE024"},
)  # fmt: skip
SQUARE = "tensor<fp16, [1, 1, 32, 32]>"
EXAMPLES["ANE095"] = Example(program(RELU, opset="ios26"), program(RELU))
EXAMPLES["ANE096"] = Example(
    program(op("silu(x = x)")), program(op("sigmoid(x = x)", "s"), op("mul(x = x, y = s)"))
)
EXAMPLES["ANE097"] = Example(
    program(NO, op("matmul(x = a, y = b, transpose_x = no, transpose_y = no)", of=SQUARE), params="tensor<fp16, [1, 1, 32, 5120]> a, tensor<fp16, [1, 1, 5120, 32]> b"),
    program(NO, op("matmul(x = a, y = b, transpose_x = no, transpose_y = no)", of=SQUARE), params="tensor<fp16, [1, 1, 32, 4096]> a, tensor<fp16, [1, 1, 4096, 32]> b"),
    on="m4",
)  # fmt: skip
EXAMPLES["ANE098"] = Example("\ufeff" + program(RELU), program(RELU))
ONE = "tensor<fp16, [1, 1, 1, 1]>"
EXAMPLES["ANE099"] = Example(
    program(const(ONE, "t", "[fp16(0x1p-1)]"), op("add(x = x, y = t)")), program(const(ONE, "t", "[0x1p-1]"), op("add(x = x, y = t)"))
)  # fmt: skip
EXAMPLES["ANE100"] = Example(program(RELU).replace("func main", "func block"), program(RELU))
EXAMPLES["ANE101"] = Example(program(op("relu(x = x)", "state"), results="state"), program(RELU))
TALL, BY = "tensor<fp16, [128, 32]>", "transpose_x = no, transpose_y = yes"
EXAMPLES["ANE102"] = Example(
    program(NO, YES, weight("tensor<fp16, [32, 8192]>"), op(f"matmul(x = x, y = w, {BY})", of=TALL), params="tensor<fp16, [128, 8192]> x"),
    program(NO, YES, weight("tensor<fp16, [32, 4096]>"), op(f"matmul(x = x, y = w, {BY})", of=TALL), params="tensor<fp16, [128, 4096]> x"),
)  # fmt: skip
EXAMPLES["ANE103"] = Example(
    program(NO, YES, weight("tensor<fp16, [375, 32]>"), op(f"matmul(x = x, y = w, {BY})", of="tensor<fp16, [32, 375]>"), params="tensor<fp16, [32, 32]> x"),
    program(NO, YES, weight("tensor<fp16, [384, 32]>"), op(f"matmul(x = x, y = w, {BY})", of="tensor<fp16, [32, 384]>"), params="tensor<fp16, [32, 32]> x"),
    also={"ANE024"},
)  # fmt: skip
PADDED = [ints("p", 16, 16), const("string", "c", '"constant"'), const("fp16", "z", "0")]
EXAMPLES["ANE104"] = Example(
    program(*PADDED[:2], op("pad(x = x, pad = p, mode = c)", of=X64)), program(*PADDED, op("pad(x = x, pad = p, mode = c, constant_val = z)", of=X64))
)  # fmt: skip
EXAMPLES["ANE105"] = Example(
    program(const("fp32", "a", "-1"), const("fp32", "b", "1"), op("clip(x = x, alpha = a, beta = b)")), program(const("fp16", "a", "-1"), const("fp16", "b", "1"), op("clip(x = x, alpha = a, beta = b)"))
)  # fmt: skip
EXAMPLES["ANE106"] = Example(
    program(AXIS1, const(W8, "w", listed(64, "0x1p-13")), const("fp16", "e", "0x1p-4"), op("softmax(x = x, axis = axis)", "s"), op("mul(x = s, y = e)", "t"), *CONV, conv(x="t")),
    program(AXIS1, const(W8, "w", listed(64, "0x1p-12")), const("fp16", "e", "0x1p-4"), op("softmax(x = x, axis = axis)", "s"), op("mul(x = s, y = e)", "t"), *CONV, conv(x="t")),
    on="m4",
)  # fmt: skip
# Of a set of programs, not of a text: test_lint.py.
OF_SETS = {"ANE092", "ANE093"}


def portable(text: str) -> str:
    """A text as M1 and M2 are sure to read it."""
    from anefast.chips.behaviour import CHIPS
    from anefast.mil.lint import Platform
    from anefast.mil.lint.fix import fixed

    return fixed(text.encode(), None, Platform(CHIPS["m1"]))[0].decode()


# Rewrites for M1 and M2 are in their dialect.
for _id, _text in {
    "ANE013": program(HALF, op("mul(x = x, y = half)")),
    "ANE020": program(RELU),
    "ANE025": program(NO, YES, op("matmul(x = x, y = x, transpose_x = yes, transpose_y = no)", of=HEADS), params="tensor<fp16, [1, 4, 1, 32]> x"),
    "ANE043": program(const("tensor<fp16, [8, 8, 1, 1]>", "w", listed(64, "1")), *CONV, conv()),
    "ANE058": program(ints("p", 16, 16), const("string", "c", '"constant"'), const("fp16", "z", "0"), op("pad(x = x, pad = p, mode = c, constant_val = z)", of=X64)),
    "ANE061": program(ints("b", 0, 8, 0, 0), *SLICE, op("slice_by_size(x = x, begin = b, size = sz)"), params="tensor<fp16, [1, 16, 1, 32]> x"),
    "ANE062": program(ints("b", 0, 4, 0, 0), ints("sz", 1, 4, 1, 32), op("slice_by_size(x = x, begin = b, size = sz)", "p", "tensor<fp16, [1, 4, 1, 32]>"), op("tanh(x = p)", "q", "tensor<fp16, [1, 4, 1, 32]>"), AXIS1, NO, op("concat(values = (p, q), axis = axis, interleave = no)")),
    "ANE075": program(const(W8, "w", listed(64)), *CONV, conv()),
}.items():  # fmt: skip
    EXAMPLES[_id].good = _text
EXAMPLES["ANE079"] = Example(
    program(op("exp(x = x)")),
    program(AXES, KEEP, op("reduce_max(x = x, axes = axes, keep_dims = keep)", "m", SUM), op("sub(x = x, y = m)", "d"), op("exp(x = d)")),
)  # fmt: skip
EXAMPLES["ANE035"] = Example(
    program(*CONV, conv(), params=f"{W8} w, {X} x"), program(const(W8, "w", listed(64)), *CONV, conv()), also={"ANE024"}
)  # fmt: skip
