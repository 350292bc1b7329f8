"""Graph to graph: expand composites, fold constants, share equal nodes, drop dead ones.

Every pass is a plain function, deterministic, and leaves inputs and parameters as the very tensors
they were. A rewritten node keeps the scope and direction of the one it stands for; of several equal
nodes the first stays. `simplify` is all of them in order.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Literal, NamedTuple

import numpy as np

from anefast import debug

from .graph import Graph
from .op import OPS
from .ops.composite import NormForm
from .ops.rope import RopeForm
from .tensor import Tensor, constant, digest, place

Build = Callable[[Tensor, tuple[Tensor, ...]], Tensor]


def simplify(graph: Graph) -> Graph:
    """The graph ready to be cut: without composites, and no two nodes compute the same."""
    for change in (expand, share, fold, share):
        if debug.level() >= 5:
            debug.say(f"graph before {change.__name__}:\n{graph}")
        graph = change(graph)
    if debug.level() >= 5:
        debug.say(f"graph, simplified:\n{graph}")
    return graph


def rebuild(node: Tensor, inputs: tuple[Tensor, ...]) -> Tensor:
    """The same node over other inputs of the same shapes. Leaves stay themselves; the rest is made
    anew even if nothing changed, so that creation order stays the order of the old graph."""
    if node.is_leaf:
        return node
    return Tensor(
        node.op, inputs, node.attrs, node.shape, node.dtype, node.name, node.scope, node.direction
    )


# Where a number multiplies what is rotated: behind the rotation, or before it, right behind the
# product it comes from, where Apple's compiler was seen to multiply for nothing.
ScaleForm = Literal["late", "early"]


class Spelling(NamedTuple):
    """The forms of composites that have several: ops/rope.py and ops/composite.py."""

    rope: RopeForm = "slices"
    norm: NormForm = "scaled"
    scale: ScaleForm = "late"


USUAL = Spelling()


def spelled(graph: Graph, spelling: Spelling) -> Graph:
    """`graph` with every rotary embedding and root of a norm in it to be written in these forms."""
    forms = {"rope": spelling.rope, "rms_norm": spelling.norm, "rms_rstd": spelling.norm}

    def build(node: Tensor, inputs: tuple[Tensor, ...]) -> Tensor:
        if spelling.scale == "early" and node.op == "mul" and inputs[0].op == "rope":
            turned, factor = inputs
            if factor.op == "constant" and factor.size == 1:
                first = rebuild(node, (turned.inputs[0], factor))
                return rebuild(turned, (first, *turned.inputs[1:]))
        if node.op not in forms:
            return rebuild(node, inputs)
        return Tensor(
            node.op, inputs, {**node.attrs, "form": forms[node.op]}, node.shape, node.dtype,
            node.name, node.scope, node.direction,
        )  # fmt: skip

    return graph if spelling == USUAL else rewrite(graph, build)


def rewrite(graph: Graph, build: Build) -> Graph:
    """Replaces every node, in order, by build(node, its rewritten inputs). Dead nodes fall away."""
    done: dict[Tensor, Tensor] = {}
    for t in graph.nodes:
        inputs = tuple(done[x] for x in t.inputs)
        with place(t.scope, t.direction):
            done[t] = build(t, inputs)
    return Graph(graph.inputs, {name: done[t] for name, t in graph.outputs.items()})


def substitute(graph: Graph, by: Mapping[Tensor, Tensor]) -> Graph:
    """The graph with some tensors replaced by others of the same shape. New ir.inputs are found and
    come after the old; inputs no longer used stay listed."""
    done: dict[Tensor, Tensor] = {}
    for t in graph.nodes:
        done[t] = by[t] if t in by else rebuild(t, tuple(done[x] for x in t.inputs))
    outputs = {name: done[t] for name, t in graph.outputs.items()}
    old = [by.get(t, t) for t in graph.inputs]
    new = [t for t in Graph(None, outputs).inputs if t not in set(old)]
    return Graph([t for t in old if t.op == "input"] + new, outputs)


def recompute(graph: Graph, chosen: Callable[[Tensor], bool]) -> Graph:
    """Lets backward compute chosen forward nodes again instead of reading them: each gets a twin
    with direction "backward" in the same scope, read by all backward nodes. Run it after simplify:
    sharing would join the twins again."""
    done: dict[Tensor, Tensor] = {}
    twins: dict[Tensor, Tensor] = {}
    for t in graph.nodes:
        late = t.direction == "backward"
        inputs = (_again(x, chosen, done, twins) if late else done[x] for x in t.inputs)
        done[t] = rebuild(t, tuple(inputs))
    return Graph(graph.inputs, {name: done[t] for name, t in graph.outputs.items()})


# Recursive, and not inside another function: that would hold its graph until garbage is collected.
def _again(
    t: Tensor,
    chosen: Callable[[Tensor], bool],
    done: Mapping[Tensor, Tensor],
    twins: dict[Tensor, Tensor],
) -> Tensor:
    """The tensor that backward reads for t: its twin where that was chosen."""
    if t.is_leaf or t.direction == "backward" or not chosen(t):
        return done[t]
    if t not in twins:
        inputs = tuple(_again(x, chosen, done, twins) for x in t.inputs)
        with place(t.scope, "backward"):
            twins[t] = Tensor(t.op, inputs, t.attrs, t.shape, t.dtype, t.name)
    return twins[t]


def _flat(t: Tensor, done: dict[Tensor, Tensor]) -> Tensor:
    """The composite t written in simple ops."""
    if t not in done:
        inputs = tuple(_flat(x, done) for x in t.inputs)
        node = rebuild(t, inputs)
        make = None if t.is_leaf else OPS[t.op].expand
        done[t] = _flat(make(node), done) if make else node
        done[done[t]] = done[t]  # met again as the input of an expansion
    return done[t]


def expand(graph: Graph) -> Graph:
    """The graph with composites written in simple ops, repeatedly, until none is left."""
    done: dict[Tensor, Tensor] = {}

    def build(t: Tensor, inputs: tuple[Tensor, ...]) -> Tensor:
        return _flat(t, done)  # its inputs are done already: recursion stays within one composite

    return rewrite(graph, build)


def fold(graph: Graph) -> Graph:
    """Nodes of constants become constants (not conv and matmul), in float64, rounded once when the
    device stores them. Also drops multiplying by one and adding zero."""

    def build(t: Tensor, inputs: tuple[Tensor, ...]) -> Tensor:
        if not t.is_leaf and t.op not in ("conv", "matmul") and OPS[t.op].device:
            if all(x.op == "constant" for x in inputs):
                values = [np.asarray(x.value, dtype=np.float64) for x in inputs]
                with np.errstate(all="ignore"):
                    return constant(OPS[t.op].meaning(values, t.attrs))
            if t.op in _NEUTRAL:
                for x, other in (inputs, inputs[::-1]):
                    if _is(other, _NEUTRAL[t.op]) and x.shape == t.shape:
                        return x
            if t.op == "reshape" and inputs[0].op == "reshape":
                return _reshape_again(t, inputs[0].inputs[0])
        return rebuild(t, inputs)

    return rewrite(graph, build)


_NEUTRAL = {"mul": 1.0, "add": 0.0}


def _is(t: Tensor, value: float) -> bool:
    return t.op == "constant" and t.size == 1 and float(t.value.reshape(())) == value


def _reshape_again(t: Tensor, x: Tensor) -> Tensor:
    return x if x.shape == t.shape else rebuild(t, (x,))


def share(graph: Graph) -> Graph:
    """Common-subexpression elimination. Equal means: same op, attributes and inputs. Constants are
    equal by their bytes, parameters by name; inputs are never merged."""
    first: dict[Hashable, Tensor] = {}

    def build(t: Tensor, inputs: tuple[Tensor, ...]) -> Tensor:
        key: Hashable
        if t.op == "input":
            return t
        elif t.op == "parameter":
            key = (t.op, t.name, t.shape)
        elif t.op == "constant":
            key = (t.op, t.shape, t.value.dtype.str, digest(t.value))
        else:
            attrs = tuple(sorted(t.attrs.items(), key=lambda kv: kv[0]))
            key = (t.op, attrs, tuple(x.order for x in inputs))
        if key not in first:
            first[key] = rebuild(t, inputs)
        return first[key]

    return rewrite(graph, build)
