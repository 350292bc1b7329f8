"""Gradients of whole layers, of parameters (CPU ops), and where gradient nodes lie."""

from __future__ import annotations

import numpy as np
import pytest

from anefast import ir
from anefast.models.lora import is_gradient, on_device

B, C, S, H, HIDDEN = 2, 24, 8, 4, 32
D = C // H


def linear(x: ir.Tensor, name: str, channels: int, bias: bool = False) -> ir.Tensor:
    y = ir.conv(x, ir.parameter(f"{name}.w", (channels, x.shape[1], 1, 1)))
    return y + ir.parameter(f"{name}.b", (1, channels, 1, 1)) if bias else y


def heads(x: ir.Tensor, kv: int) -> ir.Tensor:
    t = ir.tile(ir.reshape(x, (B * kv, 1, D, S)), (1, H // kv, 1, 1))
    return ir.reshape(t, (B, H, D, S))


def attend(q: ir.Tensor, k: ir.Tensor, v: ir.Tensor, kv: int) -> ir.Tensor:
    mask = ir.constant(np.triu(np.full((S, S), -1e4), 1))
    scores = ir.matmul(heads(q, H) * D**-0.5, heads(k, kv), transpose_x=True)
    p = ir.softmax(scores + mask)
    return ir.reshape(ir.matmul(heads(v, kv), p, transpose_y=True), (B, C, 1, S))


def angles(channels: int) -> np.ndarray:
    rows = np.tile(np.arange(D // 2), channels // D)
    return np.outer(100.0 ** (-rows * 2 / D), np.arange(S))[None, :, None]


def turned(x: ir.Tensor) -> ir.Tensor:
    a = angles(x.shape[1])
    return ir.rope(x, ir.constant(np.cos(a)), ir.constant(np.sin(a)))


def llama(x: ir.Tensor, kv: int = 2) -> ir.Tensor:
    """One layer with grouped-query attention."""
    with ir.scope("layers.0"):
        with ir.scope("attn.qkv"):
            n = ir.rms_norm(x) * ir.parameter("attn.norm", (1, C, 1, 1))
            q, k = turned(linear(n, "wq", C)), turned(linear(n, "wk", kv * D))
            v = linear(n, "wv", kv * D)
        with ir.scope("attn.scores"):
            o = attend(q, k, v, kv)
        with ir.scope("attn.out"):
            x = x + linear(o, "wo", C)
        with ir.scope("ffn"):
            n = ir.rms_norm(x) * ir.parameter("ffn.norm", (1, C, 1, 1))
            gate = ir.silu(linear(n, "w1", HIDDEN)) * linear(n, "w3", HIDDEN)
            return x + linear(gate, "w2", C)


def gpt2(x: ir.Tensor) -> ir.Tensor:
    """One layer: layer norm with gain and bias, biased linears, tanh-gelu."""

    def norm(x: ir.Tensor, name: str) -> ir.Tensor:
        gain, bias = (ir.parameter(f"{name}.{s}", (1, C, 1, 1)) for s in "wb")
        return ir.layer_norm(x) * gain + bias

    qkv = linear(norm(x, "ln_1"), "c_attn", 3 * C, bias=True)
    x = x + linear(attend(*ir.split(qkv, 3, 1), H), "attn.c_proj", C, bias=True)
    h = ir.gelu(linear(norm(x, "ln_2"), "c_fc", HIDDEN, bias=True))
    return x + linear(h, "c_proj", C, bias=True)


def differentiated(layer) -> tuple[ir.Graph, dict[str, np.ndarray]]:
    """Graph of y and all gradients of <y, dy>, and random feeds."""
    rng = np.random.default_rng(0)
    x, dy = ir.input("x", (B, C, 1, S)), ir.input("dy", (B, C, 1, S))
    y = layer(x)
    wrt = [x, *ir.Graph([x], {"y": y}).parameters]
    found = ir.gradients([y], [dy], wrt)
    outputs = {"y": y} | {t.name: g for t, g in zip(wrt, found, strict=True)}
    feeds = {t.name: 0.4 * rng.standard_normal(t.shape) for t in [*wrt, dy]}
    return ir.Graph([x, dy], outputs), feeds


@pytest.mark.parametrize("layer", [llama, gpt2])
def test_layer_against_central_differences(layer):
    graph, feeds = differentiated(layer)
    rng = np.random.default_rng(1)
    got, simple = ir.interpret(graph, feeds), ir.interpret(ir.simplify(graph), feeds)
    forward = ir.Graph([graph.inputs[0]], {"y": graph.outputs["y"]})

    def loss(name: str, change: np.ndarray) -> float:
        y = ir.interpret(forward, feeds | {name: feeds[name] + change})["y"]
        return float((y * feeds["dy"]).sum())

    for name in graph.outputs:
        if name == "y":
            continue
        np.testing.assert_allclose(simple[name], got[name], rtol=1e-8, atol=1e-10)
        for _ in range(3):
            v = 1e-5 * rng.standard_normal(feeds[name].shape)
            slope = (loss(name, v) - loss(name, -v)) / 2
            assert (got[name] * v).sum() == pytest.approx(slope, rel=1e-6, abs=1e-10), name


@pytest.mark.parametrize("layer", [llama, gpt2])
def test_layer_in_half_precision(layer):
    """Rounded after every op, gradients stay within a few fp16 ulps of the largest element."""
    graph, feeds = differentiated(layer)
    exact = ir.interpret(graph, feeds)
    half = ir.interpret(ir.simplify(graph), feeds, np.float16)
    for name, value in exact.items():
        assert np.abs(half[name] - value).max() <= 6e-3 * np.abs(value).max(), name


def test_gpt2_layer_against_torch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    F = torch.nn.functional
    graph, feeds = differentiated(gpt2)
    got = ir.interpret(graph, feeds)
    t = {k: torch.tensor(v.squeeze(), requires_grad=True) for k, v in feeds.items()}

    def lin(x, name):
        return F.linear(x, t[f"{name}.w"], t[f"{name}.b"])

    def norm(x, name):
        return F.layer_norm(x, (C,), t[f"{name}.w"], t[f"{name}.b"])

    x = t["x"].transpose(1, 2)  # [B, S, C]
    qkv = lin(norm(x, "ln_1"), "c_attn").split(C, 2)
    q, k, v = (z.reshape(B, S, H, D).transpose(1, 2) for z in qkv)
    o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    h = x + lin(o.transpose(1, 2).reshape(B, S, C), "attn.c_proj")
    y = h + lin(F.gelu(lin(norm(h, "ln_2"), "c_fc"), approximate="tanh"), "c_proj")
    y = y.transpose(1, 2)
    (y * t["dy"]).sum().backward()
    np.testing.assert_allclose(got["y"].squeeze(), y.detach().numpy(), rtol=1e-9, atol=1e-9)
    for name in graph.outputs:
        if name != "y":
            expected = t[name].grad.numpy()
            np.testing.assert_allclose(
                got[name].squeeze(), expected, rtol=1e-7, atol=1e-9, err_msg=name
            )


def test_gradients_lie_in_the_scope_of_their_forward():
    graph, _ = differentiated(llama)
    simple = ir.simplify(graph)
    scopes = {f"layers.0.{s}" for s in ("attn.qkv", "attn.scores", "attn.out", "ffn")}
    back = [t for t in simple.nodes if t.direction == "backward" and not t.is_leaf]
    assert {t.scope for t in back} == scopes
    forward = {t for t in ir.reach([simple.outputs["y"]]) if not t.is_leaf}
    assert all(t.direction == "forward" for t in forward)
    # Backward computes neither normaliser nor gate again.
    for op in ("pow", "sigmoid", "softmax", "tile"):
        assert not [t for t in back if t.op == op], op
    # and never transposes data: only weights, which are baked.
    moved = [t for t in simple.nodes if t.op == "transpose"]
    assert moved and all(ir.baked(t) == (t.inputs[0], True) for t in moved)
    # What crosses from the FFN's backward into attention's is one tensor.
    ffn = {t for t in back if t.scope == "layers.0.ffn"}
    crossing = {x for t in back if t not in ffn and ir.is_device(t) for x in t.inputs if x in ffn}
    assert len(crossing) == 1


def test_residual_sum_lies_with_its_first_consumer():
    x = ir.input("x", (1, 4, 1, 32))
    with ir.scope("a"):
        y = ir.square(x)
    with ir.scope("b"):
        z = ir.exp(y)
    with ir.scope("c"):
        out = y + z
    seed = ir.input("seed", x.shape)
    dy = ir.gradients([out], [seed], [y])[0]
    assert (dy.op, dy.scope, dy.direction) == ("add", "b", "backward")


def test_a_parameter_used_twice_has_two_terms():
    x, dy = ir.input("x", (1, 4, 1, 3)), ir.input("dy", (1, 4, 1, 3))
    w = ir.parameter("w", (4, 4, 1, 1))
    y = ir.conv(ir.tanh(ir.conv(x, w)), w)
    g = ir.gradients([y], [dy], [w])[0]
    assert g.op == "grad_sum" and [t.op for t in ir.terms(g)] == ["weight_grad"] * 2
    assert g.dtype == "fp32" and g.shape == w.shape
    rng = np.random.default_rng(0)
    feeds = {t.name: rng.standard_normal(t.shape) for t in (x, dy, w)}
    got = ir.interpret(ir.simplify(ir.Graph([x, dy], {"g": g})), feeds)["g"]
    forward = ir.Graph([x], {"y": y})
    v = 1e-6 * rng.standard_normal(w.shape)
    ends = [ir.interpret(forward, feeds | {"w": feeds["w"] + s * v})["y"] for s in (1, -1)]
    slope = ((ends[0] - ends[1]) * feeds["dy"]).sum() / 2
    assert (got * v).sum() == pytest.approx(slope, rel=1e-6)


def test_a_weight_that_is_read_transposed_has_the_gradient_of_itself():
    rng = np.random.default_rng(4)
    x, dy = ir.input("x", (2, 3, 1, 5)), ir.input("dy", (2, 4, 1, 5))
    w, turned = ir.parameter("w", (4, 3, 1, 1)), ir.parameter("turned", (3, 4, 1, 1))
    feeds = {t.name: rng.standard_normal(t.shape) for t in (x, dy, w)}
    feeds["turned"] = feeds["w"].swapaxes(0, 1)
    plain = ir.gradients([ir.conv(x, w)], [dy], [x, w])
    other = ir.gradients([ir.conv(x, ir.transpose(turned, ir.SWAP))], [dy], [x, turned])
    got = ir.interpret(ir.Graph([x, dy], dict(zip("abcd", plain + other, strict=True))), feeds)
    assert np.allclose(got["a"], got["c"]) and np.allclose(got["b"], got["d"].swapaxes(0, 1))


def test_a_gradient_that_the_device_multiplies_is_the_same():
    rng = np.random.default_rng(5)
    x, dy = ir.input("x", (2, 3, 1, 5)), ir.input("dy", (2, 4, 1, 5))
    feeds = {t.name: rng.standard_normal(t.shape) for t in (x, dy)}
    cpu = ir.apply("weight_grad", dy, x)
    graph = ir.Graph([x, dy], {"cpu": cpu, "device": on_device(cpu, "w")})
    got = ir.interpret(graph, feeds)
    assert np.allclose(got["cpu"], got["device"])
    (product,) = [t for t in graph.nodes if is_gradient(t)]
    assert product.direction == "backward"


def test_cpu_gradients_stay_fp32():
    """Accumulated wide: 40000 products of 1 are 40000, which fp16 sums would not reach."""
    x, dy = ir.input("x", (5, 2, 1, 8000)), ir.input("dy", (5, 3, 1, 8000))
    feeds = {"x": np.ones(x.shape), "dy": np.ones(dy.shape)}
    nodes = {
        "weight": ir.apply("weight_grad", dy, x),
        "scale": ir.apply("scale_grad", x, x),
        "bias": ir.apply("bias_grad", dy),
    }
    for value in ir.interpret(ir.Graph([x, dy], nodes), feeds, np.float16).values():
        assert value.dtype == np.float32 and (value == 40000).all()


def test_what_has_no_derivative_says_so():
    x, w = ir.input("x", (1, 4, 1, 6)), ir.parameter("w", (1, 4, 1, 1))
    one = ir.constant(np.ones(x.shape))
    with pytest.raises(ir.ShapeError, match=r"\[gradients\].*parameter rule, not real_div"):
        ir.gradients([x / w], [one], [w])
    with pytest.raises(ir.ShapeError, match=r"\[mul\] expected a parameter of \[1, 4, 1, 1\]"):
        v = ir.parameter("v", (1, 1, 1, 6))
        ir.gradients([x * v], [one], [v])
    with pytest.raises(ir.ShapeError, match="exponent that is a constant"):
        ir.gradients([ir.pow(x, x)], [one], [x])
    with pytest.raises(ir.ShapeError, match="outputs depend on"):
        ir.gradients([x * 2.0], [one], [w])
    with pytest.raises(ir.ShapeError, match="a seed of"):
        ir.gradients([x * 2.0], [w], [x])
    strided = ir.slice_by_index(x, (0,) * 4, x.shape, (1, 1, 1, 2))
    with pytest.raises(ir.ShapeError, match="stride 1"):
        ir.gradients([strided], [strided], [x])
