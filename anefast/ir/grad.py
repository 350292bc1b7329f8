"""Reverse-mode differentiation: walks the graph backward, asking each op's record for its rule.

Gradient nodes lie in the scope of the forward node they belong to, with direction "backward", so a
plan that cuts by scope cuts the backward pass too. A sum of two contributions lies where the later
one arises (the first consumer of the forward), so a residual crosses a cut as one tensor.
"""

from __future__ import annotations

from collections.abc import Sequence

from .graph import baked, reach
from .op import OPS, apply
from .ops.movement import reshape
from .ops.reduce import reduce_sum
from .tensor import ShapeError, Tensor, place


def unbroadcast(dy: Tensor, like: Tensor) -> Tensor:
    """Sums dy over the axes along which `like` was repeated. Returns like's shape."""
    extra = dy.rank - like.rank
    axes = [
        i for i, d in enumerate(dy.shape) if i < extra or (like.shape[i - extra] == 1 and d != 1)
    ]
    summed = reduce_sum(dy, axes) if axes else dy
    return reshape(summed, like.shape)


def gradients(
    outputs: Sequence[Tensor], seeds: Sequence[Tensor], wrt: Sequence[Tensor]
) -> list[Tensor]:
    """d(sum of outputs * seeds) / d(each of wrt).

    seeds[i]: the gradient arriving at outputs[i], same shape. For a parameter the result is a CPU
    op in fp32: weight_grad, scale_grad or bias_grad, or grad_sum of several where it is used more
    than once (`terms` lists them, for a runtime that accumulates each alone). For anything else
    it is a device tensor. Raises where an op on the way has no rule, naming it.
    """
    for y, dy in zip(outputs, seeds, strict=True):
        if y.shape != dy.shape:
            raise ShapeError("gradients", f"a seed of {list(y.shape)}", list(dy.shape))
    nodes = reach(outputs)
    wanted = {t for t in nodes if t in set(wrt)}
    for t in wrt:
        if t not in wanted:
            raise ShapeError("gradients", "tensors the outputs depend on", repr(t))
    carries = set(wanted)  # what has a wanted tensor behind it
    for t in nodes:
        if any(x in carries for x in t.inputs):
            carries.add(t)

    found: dict[Tensor, Tensor] = {}
    cpu: dict[Tensor, list[Tensor]] = {}
    for y, dy in zip(outputs, seeds, strict=True):
        with place(y.scope, "backward"):
            found[y] = found[y] + dy if y in found else dy
    for node in reversed(nodes):
        if node not in found or node.is_leaf or node not in carries:
            continue
        with place(node.scope, "backward"):
            for i, x in enumerate(node.inputs):
                if x not in carries:
                    continue
                if of := baked(x):
                    parameter, turned = of
                    g = _parameter(node, found[node], i)
                    g = apply(g.op, *reversed(g.inputs)) if turned else g
                    cpu.setdefault(parameter, []).append(g)
                    continue
                dx = unbroadcast(_rule(node, found[node], i), x)
                found[x] = found[x] + dx if x in found else dx

    results = []
    for t in wrt:
        if t in cpu:
            results.append(_sum(cpu[t]))
        elif t in found:
            results.append(found[t])
        else:
            raise ShapeError("gradients", "tensors the outputs depend on", repr(t))
    return results


def _rule(node: Tensor, dy: Tensor, i: int) -> Tensor:
    rule = OPS[node.op].grad
    if rule is None:
        raise ShapeError("gradients", f"an op with a derivative, {node.op} has none", repr(node))
    return rule(node, dy, i)


def _parameter(node: Tensor, dy: Tensor, i: int) -> Tensor:
    rule, w = OPS[node.op].parameter_grad, node.inputs[i]
    hint = "parameters may be the weight of a conv, or [1, C, 1, 1] in add and mul"
    if rule is None:
        raise ShapeError("gradients", f"an op with a parameter rule, not {node.op}", repr(w), hint)
    g = rule(node, dy, i)
    if g.shape != w.shape:
        raise ShapeError(node.op, f"a parameter of {list(g.shape)}", list(w.shape), hint)
    return g


def _sum(found: list[Tensor]) -> Tensor:
    if len(found) == 1:
        return found[0]
    with place(found[-1].scope, "backward"):
        return apply("grad_sum", *found)


def terms(gradient: Tensor) -> list[Tensor]:
    """The CPU ops to accumulate for one parameter: one, or several where it is used repeatedly."""
    return list(gradient.inputs) if gradient.op == "grad_sum" else [gradient]
