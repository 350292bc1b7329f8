"""Passes keep the meaning, the scopes and the order, and do what their names say."""

from __future__ import annotations

import numpy as np
import pytest

from anefast import ir
from tests.test_ir_grad import B, C, S, differentiated, llama


def ops(graph: ir.Graph) -> list[str]:
    return [t.op for t in graph.nodes if not t.is_leaf]


def test_share_merges_equal_nodes_and_nothing_else():
    x = ir.input("x", (1, 4, 1, 6))
    with ir.scope("first"):
        a = ir.softmax(x * 2.0, 1)
    with ir.scope("second"):
        b, other = ir.softmax(x * 2.0, 1), ir.softmax(x * 2.0, 3)
    w, v, w2 = (ir.parameter(name, (1, 4, 1, 1)) for name in ("w", "v", "w"))
    graph = ir.share(ir.Graph([x], {"y": a + b + other + x * w + x * v + x * w2}))
    assert ops(graph).count("softmax") == 2 and ops(graph).count("mul") == 3
    assert [t.scope for t in graph.nodes if t.op == "softmax"] == ["first", "second"]
    assert [t.name for t in graph.parameters] == ["w", "v"]
    again = ir.share(graph)
    assert str(again) == str(graph)


def test_share_keeps_inputs_of_equal_shape_apart():
    x, y = ir.input("x", (4,)), ir.input("y", (4,))
    assert ops(ir.share(ir.Graph([x, y], {"z": ir.exp(x) + ir.exp(y)}))) == ["exp", "exp", "add"]


def test_share_tells_true_from_one():
    x = ir.input("x", (1, 4, 4))
    a, b = ir.reduce_sum(x, 1), ir.matmul(x, x, transpose_x=True)
    c = ir.matmul(x, x, transpose_y=True)
    assert ops(ir.share(ir.Graph([x], {"a": a, "b": b, "c": c}))) == ["reduce_sum"] + ["matmul"] * 2


def test_fold():
    x = ir.input("x", (2, 3))
    table = ir.constant(np.arange(6.0))
    y = (x * 1.0 + 0.0) * (ir.reshape(table, (2, 3)) * 2.0)
    y = ir.reshape(ir.reshape(y, (3, 2)), (2, 3)) + ir.reduce_sum(table, 0)
    graph = ir.fold(ir.Graph([x], {"y": y}))
    assert ops(graph) == ["mul", "add"]
    assert sum(t.op == "constant" for t in graph.nodes) == 2
    got = ir.interpret(graph, {"x": np.ones((2, 3))})["y"]
    np.testing.assert_array_equal(got, 15 + 2 * np.arange(6).reshape(2, 3))
    grown = ir.constant(np.ones((2, 3))) * ir.input("s", ())  # multiplying by one may still widen
    assert ops(ir.fold(ir.Graph(None, {"y": grown}))) == ["mul"]


def test_expand_leaves_no_composite_and_keeps_places():
    graph, feeds = differentiated(llama)
    flat = ir.expand(graph)
    assert all(ir.OPS[op].expand is None for op in ops(flat))
    for t in flat.nodes:
        if not t.is_leaf:
            assert t.scope.startswith("layers.0.")
    a, b = ir.interpret(graph, feeds), ir.interpret(flat, feeds)
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-9, atol=1e-12)


def test_simplify_is_deterministic_and_settled():
    first, second = (ir.simplify(differentiated(llama)[0]) for _ in range(2))
    assert str(first) == str(second)
    assert str(ir.simplify(first)) == str(first)
    assert [t.direction for t in first.nodes if not t.is_leaf] == sorted(
        (t.direction for t in first.nodes if not t.is_leaf), reverse=True
    )  # forward, then backward


def test_dead_nodes_fall_away():
    x = ir.input("x", (4,))
    ir.exp(x)
    assert ops(ir.simplify(ir.Graph([x], {"y": x + 1.0}))) == ["add"]


def test_recompute_moves_the_reading_not_the_value():
    graph, feeds = differentiated(llama)
    graph = ir.simplify(graph)
    chosen = {"softmax", "matmul", "mul", "add", "reshape", "tile", "sigmoid"}
    twice = ir.recompute(graph, lambda t: t.op in chosen and "attn.scores" in t.scope)
    back = [t for t in twice.nodes if t.direction == "backward"]
    assert [t.scope for t in back if t.op == "softmax"] == ["layers.0.attn.scores"]
    assert not {x.op for t in back for x in t.inputs if x.direction == "forward"} & {"softmax"}
    a = ir.interpret(graph, feeds, np.float16)
    b = ir.interpret(twice, feeds, np.float16)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def test_programs_cut_anywhere_give_the_same_bytes():
    """Forward and backward as two programs, the taps between them fp16 as they are inside."""
    graph, feeds = differentiated(llama)
    graph = ir.simplify(graph)
    x, dy = graph.inputs
    whole = ir.interpret(graph, feeds, np.float16)
    device = [t for t in graph.nodes if ir.is_device(t) and not t.is_leaf]
    forward = [t for t in device if t.direction == "forward"]
    cpu = [t for t in graph.nodes if not ir.is_device(t)]
    taps = [
        t
        for t in forward
        if any(t in n.inputs for n in graph.nodes if n.direction == "backward")
        or t is graph.outputs["y"]
    ]
    ports = [(f"t{i:03}", t) for i, t in enumerate(taps)]
    one = ir.Program.cut("forward", [("x", x)], ports)
    values = ir.interpret(one, feeds, np.float16)
    wanted = [("dx", graph.outputs["x"])]
    two = ir.Program.cut("backward", [("dy", dy), *ports], wanted)
    assert not {t.op for t in two.nodes} & {"softmax", "pow", "sigmoid"}
    got = ir.interpret(two, feeds | values, np.float16)
    np.testing.assert_array_equal(got["dx"], whole["x"])
    np.testing.assert_array_equal(values[dict((t, p) for p, t in ports)[graph.outputs["y"]]],
                                  whole["y"])  # fmt: skip
    assert len(cpu) == 9
    with pytest.raises(ir.ShapeError, match="every input listed"):
        ir.Program.cut("backward", [("dy", dy)], wanted)


def test_substitute_turns_a_parameter_into_an_input():
    x, w = ir.input("x", (B, C, 1, S)), ir.parameter("w", (C, C, 1, 1))
    graph = ir.Graph([x], {"y": ir.conv(x, w) + 1.0})
    fed = ir.input("w_in", w.shape)
    other = ir.substitute(graph, {w: fed})
    assert other.inputs == [x, fed] and not other.parameters
    rng = np.random.default_rng(0)
    xs, ws = rng.standard_normal(x.shape), rng.standard_normal((C, C))
    np.testing.assert_array_equal(
        ir.interpret(graph, {"x": xs, "w": ws})["y"],
        ir.interpret(other, {"x": xs, "w_in": ws})["y"],
    )


def test_graph_prints_itself():
    x = ir.input("x", (1, 4, 1, 32))
    with ir.scope("layers.0.ffn"):
        y = ir.conv(x, ir.parameter("layers.0.ffn.w1", (8, 4, 1, 1))) * 0.5
    lines = str(ir.Graph([x], {"y": y})).splitlines()
    assert lines[0] == "%x = input() : fp16[1, 4, 1, 32]"
    assert "%2 = conv(%x, %layers.0.ffn.w1) : fp16[1, 8, 1, 32]  # layers.0.ffn forward" in lines
    assert lines[-1] == "return y=%4"


def test_feeds_are_checked():
    x = ir.input("x", (1, 4, 1, 32))
    graph = ir.Graph([x], {"y": x + 1.0})
    with pytest.raises(ValueError, match=r"\[interpret\] expected a feed 'x'"):
        ir.interpret(graph, {})
    with pytest.raises(ir.ShapeError, match=r"x of \[1, 4, 1, 32\], got \[32, 4\]"):
        ir.interpret(graph, {"x": np.zeros((32, 4))})
    with pytest.raises(ValueError, match="float64 or float16"):
        ir.interpret(graph, {"x": np.zeros((4, 32))}, np.float32)
