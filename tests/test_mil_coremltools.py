"""coremltools as judge of our spelling: its builder must accept every op we write, argument names
and types included, and infer the shapes we did. It does not read text; test_mil_emit.py does that.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from anefast import ir
from tests.test_ir_ops import ROWS
from tests.test_mil_emit import layer

pytest.importorskip("coremltools", reason="coremltools is not installed")


def rebuild(program: ir.Program, opset: str):
    """The program made again with coremltools' builder, node by node, from our op records."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import coremltools as ct
        from coremltools.converters.mil.mil import Builder as mb
        from coremltools.converters.mil.mil import types

    values = {}

    def const(t: ir.Tensor):
        if found := ir.baked(t):
            return np.zeros(t.shape, np.float16) + np.float16(found[1])
        return np.float16(t.value) if not t.shape else t.value.astype(np.float16)

    def argument(c, node):
        value = c.of(node)
        return np.float16(value) if c.kind == "float" else value

    def body(*inputs):
        values.update(zip((t for _, t in program.inputs), inputs, strict=True))
        for t in program.nodes:
            if t.is_leaf or ir.baked(t):
                values[t] = const(t)
                continue
            spelled = ir.OPS[t.op].mil
            xs = [values[x] for x in t.inputs]
            named = dict(zip(spelled.operands, [xs] if spelled.variadic else xs, strict=True))
            constants = {c.argument: argument(c, t) for c in spelled.consts}
            values[t] = getattr(mb, t.op)(**named, **constants)
        return [values[t] for _, t in program.outputs]

    specs = [mb.TensorSpec(shape=t.shape, dtype=types.fp16) for _, t in program.inputs]
    target = getattr(ct.target, opset)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # The builder wants the names of body's arguments one by one.
        names = ", ".join(f"i{k}" for k in range(len(specs)))
        scope = {"body": body}
        wrapped = eval(f"lambda {names}: body({names})", scope)
        mb.program(input_specs=specs, opset_version=target)(wrapped)
    return values


def agree(program: ir.Program, opset: str) -> None:
    values = rebuild(program, opset)
    for t in program.nodes:
        if not t.is_leaf and not ir.baked(t):
            assert tuple(values[t].shape) == t.shape, t
            assert values[t].dtype.__name__ == "fp16", t


@pytest.mark.parametrize("name", ROWS)
def test_every_op_and_its_derivative(name):
    row = ROWS[name]
    xs = [ir.input(f"x{i}", shape) for i, shape in enumerate(row.shapes)]
    y = row.build(*xs)
    outputs = [y]
    if row.wrt != ():
        dy = ir.input("dy", y.shape)
        wrt = xs if row.wrt is None else [xs[i] for i in row.wrt]
        outputs += ir.gradients([y], [dy], wrt)
        xs = [*xs, dy]
    graph = ir.simplify(ir.Graph(xs, {f"z{i}": t for i, t in enumerate(outputs)}))
    results = [(n, t) for n, t in graph.outputs.items() if not t.is_leaf]
    agree(
        ir.Program.cut(name, [(f"a{i}", t) for i, t in enumerate(graph.inputs)], results), "iOS18"
    )


@pytest.mark.parametrize("opset", ["iOS16", "iOS18"])
def test_layer(opset):
    agree(layer(), opset)
