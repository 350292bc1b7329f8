"""MIL text and weight files: what is written, that it parses, and what is refused before."""

from __future__ import annotations

import re

import numpy as np
import pytest

from anefast import ir, mil
from anefast.mil.spelling import half_literal
from tests.test_ir_grad import differentiated, llama
from tests.test_ir_ops import ROWS

_C = pytest.importorskip("anefast._C", reason="the native module is not built")
DIALECTS = ("ios18", "ios16")


def linear() -> ir.Program:
    x = ir.input("x", (1, 64, 1, 32))
    with ir.scope("layers.0.ffn"):
        y = ir.conv(x, ir.parameter("layers.0.ffn.w1", (96, 64, 1, 1)))
    return ir.Program.cut("layers.0.ffn", [("a0_x", x)], [("z0_y", y * 0.1)])


def test_a_constant_of_halves_is_not_copied():
    """A causal mask of 4,096 positions is 32 MiB, and each program of a step has it."""
    mask = ir.constant(np.triu(np.full((32, 32), -1e4, np.float16)))
    x = ir.input("x", (1, 1, 32, 32))
    program = ir.Program.cut("masked", [("a0_x", x)], [("z0_y", x + mask)])
    (entry,) = mil.emit(program).blobs.entries
    assert np.shares_memory(entry.data, mask.value)


GOLDEN = """\
program(1.3)
[buildInfo = dict<string, string>({{"coremlc-component-MIL", "3510.2.1"}, \
{"coremlc-version", "3505.4.1"}, {"coremltools-component-milinternal", ""}, \
{"coremltools-version", "9.0"}})]
{
    func main<ios18>(tensor<fp16, [1, 64, 1, 32]> a0_x) {
        tensor<fp16, [96, 64, 1, 1]> layers_0_ffn_w1 = const()[name = string("layers_0_ffn_w1"), \
val = tensor<fp16, [96, 64, 1, 1]>(BLOBFILE(path = string("@model_path/weights/weight.bin"), \
offset = uint64(64)))];
        tensor<int32, [2]> dilations_1_1 = const()[name = string("dilations_1_1"), \
val = tensor<int32, [2]>([1, 1])];
        int32 groups_1 = const()[name = string("groups_1"), val = int32(1)];
        tensor<int32, [4]> pad_0_0_0_0 = const()[name = string("pad_0_0_0_0"), \
val = tensor<int32, [4]>([0, 0, 0, 0])];
        string pad_type_valid = const()[name = string("pad_type_valid"), val = string("valid")];
        tensor<int32, [2]> strides_1_1 = const()[name = string("strides_1_1"), \
val = tensor<int32, [2]>([1, 1])];
        tensor<fp16, [1, 96, 1, 32]> layers_0_ffn_conv_0 = conv(dilations = dilations_1_1, \
groups = groups_1, pad = pad_0_0_0_0, pad_type = pad_type_valid, strides = strides_1_1, \
weight = layers_0_ffn_w1, x = a0_x)[name = string("layers_0_ffn_conv_0")];
        fp16 c_0_09998 = const()[name = string("c_0_09998"), val = fp16(0x1.998p-4)];
        tensor<fp16, [1, 96, 1, 32]> z0_y = mul(x = layers_0_ffn_conv_0, y = c_0_09998)\
[name = string("mul_0")];
    } -> (z0_y);
}
"""


def layer() -> ir.Program:
    """A Llama layer with its whole backward pass in one program, last axis 32."""
    graph = ir.simplify(wide_layer())
    x, dy = graph.inputs
    outputs = [(f"z{i:02}", t) for i, t in enumerate(crossing(graph))]
    return ir.Program.cut("layer", [("a0_x", x), ("a1_dy", dy)], outputs)


def wide_layer() -> ir.Graph:
    import tests.test_ir_grad as g

    old, g.S = g.S, 32
    try:
        return differentiated(llama)[0]
    finally:
        g.S = old


def crossing(graph: ir.Graph) -> list[ir.Tensor]:
    """Device outputs and what the CPU reads: what a program must return."""
    found = [t for t in graph.outputs.values() if ir.is_device(t)]
    for t in graph.nodes:
        if not ir.is_device(t):
            found += [x for x in t.inputs if not x.is_leaf]
    return list(dict.fromkeys(found))


def test_golden_linear():
    program = linear()
    mil.rules.check(program)
    assert mil.emit(program).text == GOLDEN


def test_ios16_is_the_same_without_shorthands():
    text = mil.emit(linear(), "ios16").text
    assert text.startswith(
        "program(1.0)\n[buildInfo = dict<tensor<string, []>, tensor<string, []>>"
    )
    plain = re.sub(r"tensor<(\w+), \[\]>", r"\1", text)
    assert plain.replace("ios16", "ios18").replace("(1.0)", "(1.3)") == GOLDEN
    assert not re.search(r"(?<![<\w])(fp16|int32|string|bool|uint64)[ (]", text)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_text_is_deterministic_and_each_name_is_defined_once_before_use(dialect):
    text, layout = mil.emit(layer(), dialect)
    assert (text, repr(layout)) == (mil.emit(layer(), dialect).text, repr(layout))
    defined = set(re.findall(r"> (\w+)[,)]", text.split("func main")[1].split("{")[0]))
    assert defined == {"a0_x", "a1_dy"}
    for line in re.findall(r"^ {8}(.*);$", text, re.M):
        type_and_name, call = line.split(" = ", 1)
        name = type_and_name.split()[-1]
        if not call.startswith("const"):
            arguments = call[: call.index(")[name")].split("(", 1)[1]
            used = re.findall(r"(?:= |\(|, )(\w+)(?=[,)]|$)", arguments)
            assert used and set(used) <= defined, line
        assert name not in defined, name
        defined.add(name)
    labels = re.findall(r'\[name = (?:string|tensor<string, \[\]>)\("([^"]+)"\)', text)
    assert len(labels) == len(set(labels))
    sizes = {
        name: int(np.prod([int(d) for d in shape.split(",") if d]))
        for shape, name in re.findall(r"\[([\d, ]*)\]> (\w+)", text)
    } | dict.fromkeys(re.findall(r"\n\s+fp16 (\w+) =", text), 1)
    assert "layers_0_attn_scores_backward_matmul_0" in labels
    assert not re.search(r"name = [^)]*\.", text)
    assert "softmax(axis = axis_m1" in text
    for kind, x, y in re.findall(r" (mul|add)\(x = (\w+), y = (\w+)\)", text):
        assert sizes[x] >= sizes[y], (kind, x, y)


def test_names_of_the_text_are_spoken_with_dots():
    assert (
        mil.spoken("layers_11_ffn_backward_reduce_sum_0") == "layers.11.ffn.backward.reduce_sum_0"
    )
    assert mil.spoken("first_2_attn_out_conv_1") == "first+2.attn.out.conv_1"
    assert mil.spoken("first_ffn_mul_0") == "first.ffn.mul_0"
    assert mil.spoken("attn_weights") == "attn_weights"


def parse(text: str) -> dict:
    if not hasattr(_C, "check"):
        pytest.skip("the native module has no MIL parser yet")
    return _C.check(text)["functions"][0]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_layer_parses(dialect):
    program = layer()
    mil.rules.check(program)
    function = parse(mil.emit(program, dialect).text)
    assert [(n, tuple(s)) for n, _, s in function["inputs"]] == [
        (n, t.shape) for n, t in program.inputs
    ]
    ran = [t for t in program.nodes if not t.is_leaf and not ir.baked(t)]
    assert [op for op, _ in function["operations"]] == [t.op for t in ran]
    for t, (_, results) in zip(ran, function["operations"], strict=True):
        assert tuple(results[0][2]) == t.shape and results[0][1] == "fp16"


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", ROWS)
def test_every_op_and_its_derivative_parses(name, dialect):
    """The parser checks types too: its shape rules must agree with ours."""
    row = ROWS[name]
    xs = [ir.input(f"x{i}", shape) for i, shape in enumerate(row.shapes)]
    y = row.build(*xs)
    outputs = {"y": y}
    wrt = xs if row.wrt is None else [xs[i] for i in row.wrt]
    if wrt:
        dy = ir.input("dy", y.shape)
        grads = ir.gradients([y], [dy], wrt)
        outputs |= {f"d{i}": t for i, t in enumerate(grads)}
        xs.append(dy)
    graph = ir.simplify(ir.Graph(xs, outputs))
    results = list(dict.fromkeys(t for t in graph.outputs.values() if not t.is_leaf))
    ports = [(f"z{i}", t) for i, t in enumerate(results)]
    fed = [(f"a{i}", t) for i, t in enumerate(graph.inputs)]
    function = parse(mil.emit(ir.Program.cut(name, fed, ports), dialect).text)
    assert [tuple(s) for _, _, s in function["outputs"]] == [t.shape for t in results]


# Numbers.


def test_half_literals_read_back_exactly():
    halves = np.arange(65536, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    back = np.array([float.fromhex(half_literal(v)) for v in halves.tolist()]).astype(np.float16)
    np.testing.assert_array_equal(back.view(np.uint16), halves.view(np.uint16))
    with pytest.raises(ValueError, match="expected values fp16 can hold"):
        half_literal(1e5)


def test_equal_constants_are_written_once():
    x = ir.input("x", (1, 4, 1, 32))
    table = np.arange(32.0).reshape(1, 1, 1, 32)
    a, b = ir.constant(table, "table"), ir.constant(table.astype(np.float16))
    other = ir.constant(table + 1, "table")
    y = ((x * a + b) * 0.5 + other) * 0.5
    text, layout = mil.emit(ir.Program.cut("p", [("a", x)], [("z", y)]))
    assert len(layout.entries) == 2 and text.count("fp16(0x1p-1)") == 1
    assert {"table", "table_"} <= set(re.findall(r"> (\w+) = const", text))


# The weight file.


def weights(layout: mil.BlobLayout, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {e.parameter: e.shape for e in layout.entries if e.parameter}
    return {
        n: rng.standard_normal([d for d in s if d != 1]).astype(np.float32)
        for n, s in shapes.items()
    }


def test_fill_holds_every_parameter_and_constant():
    text, layout = mil.emit(layer())
    assert any(e.transposed for e in layout.entries) and any(
        e.data is not None for e in layout.entries
    )
    first = weights(layout, 0)
    assert sorted(layout.parameters) == sorted(first)
    for seed in (0, 1):  # the second call only rewrites the weights
        values = weights(layout, seed)
        ((path, file),) = layout.fill(values).items()
        assert path == "@model_path/weights/weight.bin" and len(file) == layout.nbytes
        for entry, offset in zip(layout.entries, layout.offsets, strict=True):
            expected = entry.data if entry.parameter is None else values[entry.parameter]
            if entry.transposed:
                expected = expected.T
            stored = np.asarray(_C.blob_read(file, offset)).reshape(-1)
            np.testing.assert_array_equal(stored, np.asarray(expected, np.float16).reshape(-1))
            assert f"uint64({offset})" in text
    a, b = layout.fill(first), layout.fill(first)
    assert np.shares_memory(a[path], b[path])


def test_file_is_what_coremltools_writes(tmp_path):
    storage = pytest.importorskip(
        "coremltools.libmilstoragepython", reason="coremltools is not installed"
    )
    _, layout = mil.emit(layer())
    values = weights(layout, 3)
    path = tmp_path / "weight.bin"
    writer = storage._BlobStorageWriter(str(path))
    for entry, offset in zip(layout.entries, layout.offsets, strict=True):
        array = entry.data if entry.parameter is None else values[entry.parameter]
        array = array.T if entry.transposed else array
        bits = np.ascontiguousarray(array, np.float16).reshape(-1).view(np.uint16)
        assert writer.write_fp16_data(bits) == offset
    del writer
    assert layout.fill(values)[layout.path].tobytes() == path.read_bytes()


def test_fill_refuses_what_fp16_cannot_hold():
    _, layout = mil.emit(linear())
    w = np.zeros((96, 64), np.float32)
    layout.fill({"layers.0.ffn.w1": w})
    w[3, 4] = 65519.0  # still rounds to 65504
    layout.fill({"layers.0.ffn.w1": w})
    for bad in (65520.0, -1e6, np.inf, np.nan):
        w[3, 4] = bad
        with pytest.raises(OverflowError, match=r"layers\.0\.ffn\.w1 .* got 1 of 6144 values"):
            layout.fill({"layers.0.ffn.w1": w})
    with pytest.raises(ValueError, match=r"layers\.0\.ffn\.w1 of \[96, 64, 1, 1\]"):
        layout.fill({"layers.0.ffn.w1": w.T})
    with pytest.raises(KeyError, match=r"expected a weight 'layers\.0\.ffn\.w1'"):
        layout.fill({})


def test_a_program_without_weights_has_no_file():
    x = ir.input("x", (1, 4, 1, 32))
    _, layout = mil.emit(ir.Program.cut("p", [("a", x)], [("z", x * x)]))
    assert layout.fill({}) == {} and layout.parameters == []


# Rules.


def one(y: ir.Tensor, x: ir.Tensor) -> ir.Program:
    return ir.Program.cut("p", [("a", x)], [("z", y)])


x = ir.input("x", (1, 4, 1, 32))
odd = ir.input("odd", (1, 4, 1, 30))
e = ir.exp(x)
w = ir.input("w", (1, 4, 1, 32))
BROKEN = {
    "[p] expected ports whose names sort": lambda: ir.Program.cut(
        "p", [("a", x)], [("z9", ir.exp(x)), ("z10", ir.exp(x))]
    ),
    "[p a] expected a last axis that is a multiple of 32": lambda: one(ir.exp(odd), odd),
    "[p z] expected a last axis": lambda: one(ir.reduce_sum(x, 3), x),
    "[p a-b] expected a name of letters": lambda: ir.Program.cut("p", [("a-b", x)], [("z", e)]),
    "[p] expected ports of different names": lambda: ir.Program.cut("p", [("a", x)], [("a", e)]),
    "[p] expected at least one input": lambda: ir.Program.cut("p", [("a", x)], []),
    "[p z] expected an output computed here": lambda: one(x, x),
    "[p z] expected an output computed here, got <parameter": lambda: one(
        ir.parameter("w", (1, 4, 1, 32)), x
    ),
    "[p z2] expected different outputs": lambda: ir.Program.cut(
        "p", [("a", x)], [("z1", e), ("z2", e)]
    ),
    "[p silu] expected simple ops, got the composite silu": lambda: one(ir.silu(x), x),
    "[p z] expected fp16": lambda: one(ir.apply("bias_grad", x), x),
    "[p reshape] expected rank up to 5": lambda: one(
        ir.reshape(ir.reshape(x, (1, 1, 2, 2, 1, 32)), x.shape), x
    ),
    "[p tile] expected axis 1 up to 65536": lambda: one(ir.tile(x, (1, 20000, 1, 1)), x),
    "[p conv] expected sums of up to 16384": lambda: one(
        ir.conv(ir.tile(x, (1, 8000, 1, 1)), ir.parameter("w", (1, 32000, 1, 1))), x
    ),
    "[p conv] expected a conv weight that is baked": lambda: ir.Program.cut(
        "p", [("a", x), ("b", w)], [("z", ir.conv(x, ir.reshape(w, (32, 4, 1, 1))))]
    ),
    "[p] expected constants that fp16 does not round to 0": lambda: one(x + 1e-8, x),
}


@pytest.mark.parametrize("message", BROKEN)
def test_rules(message):
    with pytest.raises(ir.ShapeError) as error:
        mil.rules.check(BROKEN[message]())
    assert str(error.value).startswith(message)


def test_emit_refuses_other_dialects():
    with pytest.raises(ValueError, match=r"\[emit\] expected a dialect"):
        mil.emit(linear(), "ios99")
