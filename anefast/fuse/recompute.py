"""Backward programs that redo the forward instead of reading its taps.

Under `recompute` forward returns only what crosses between backward programs, the layer inputs;
every other value backward or a weight gradient needs is computed again from those, inside the
backward program. Under `save` the same happens to attention probabilities alone: they are S x S
per head, and the q and k they come from, which are kept in any case, are not. Ops are
deterministic, so not a bit changes; memory and time trade places.
"""

from __future__ import annotations

from collections.abc import Callable

from anefast import ir
from anefast.fuse.plan import Plan
from anefast.ir import Graph, Tensor


def recompute(graph: Graph, plan: Plan) -> Graph:
    """`graph` with twins of forward nodes in the backward programs, as `plan` asks for them."""

    def home(node: Tensor) -> str:
        return plan.program(node.scope, "backward")

    if plan.reads == "save":
        again = probabilities(graph, home)
        return ir.recompute(graph, lambda node: node in again)

    kept: set[Tensor] = set(graph.outputs.values())
    for node in graph.nodes:
        if node.direction == "forward" and not node.is_leaf:
            inner = (x for x in node.inputs if not x.is_leaf)
            kept |= {x for x in inner if home(x) != home(node)}
    return ir.recompute(graph, lambda node: node not in kept)


def probabilities(graph: Graph, home: Callable[[Tensor], str]) -> set[Tensor]:
    """Softmax of a product, and what lies between: where all of backward that reads it is one
    program. A plan that cuts attention itself keeps it, or it would cross programs twice."""
    readers: dict[Tensor, list[Tensor]] = {}
    for node in graph.nodes:
        for x in node.inputs:
            readers.setdefault(x, []).append(node)
    found: set[Tensor] = set()
    for node in graph.nodes:
        if node.op == "softmax" and node.direction == "forward":
            chain = [node]
            while chain[-1].op != "matmul":
                inner = [x for x in chain[-1].inputs if x.shape == node.shape and not x.is_leaf]
                if len(inner) != 1:
                    break
                chain += inner
            late = [r for r in readers[node] if r.direction == "backward"]
            whole = chain[-1].op == "matmul" and node not in graph.outputs.values()
            if whole and all(home(r) == home(node) for r in late):
                found |= set(chain)
    return found
