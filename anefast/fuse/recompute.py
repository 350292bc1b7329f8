"""Backward programs that redo the forward instead of reading its taps.

Forward then returns only what crosses between backward programs, the layer inputs; every other
value backward or a weight gradient needs is computed again from those, inside the backward
program. Ops are deterministic, so not a bit changes; memory and time trade places.
"""

from __future__ import annotations

from anefast import ir
from anefast.fuse.plan import Plan
from anefast.ir import Graph, Tensor


def recompute(graph: Graph, plan: Plan) -> Graph:
    """`graph` with twins of forward nodes in the backward programs, if `plan` asks for that."""
    if plan.reads == "save":
        return graph

    def home(node: Tensor) -> str:
        return plan.program(node.scope, "backward")

    kept: set[Tensor] = set(graph.outputs.values())
    for node in graph.nodes:
        if node.direction == "forward" and not node.is_leaf:
            inner = (x for x in node.inputs if not x.is_leaf)
            kept |= {x for x in inner if home(x) != home(node)}
    return ir.recompute(graph, lambda node: node not in kept)
