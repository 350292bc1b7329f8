"""Backward programs that redo the forward instead of reading its taps.

Under `recompute` forward returns only what crosses between backward programs, the layer inputs;
every other value backward or a weight gradient needs is computed again from those, inside the
backward program. Under `save` the same happens to what costs next to nothing: attention
probabilities, which are S x S per head where the q and k they come from are not, and products of
values that are kept in any case, which the CPU has no use for. Ops are deterministic, so not a bit
changes; memory and time trade places.
"""

from __future__ import annotations

from collections.abc import Callable

from anefast import ir
from anefast.fuse.plan import Plan
from anefast.ir import Graph, Tensor, is_device

Readers = dict[Tensor, list[Tensor]]


def recompute(graph: Graph, plan: Plan) -> Graph:
    """`graph` with twins of forward nodes in the backward programs, as `plan` asks for them."""

    def home(node: Tensor) -> str:
        return plan.program(node.scope, "backward")

    if plan.reads == "save":
        late = late_readers(graph)
        again = probabilities(graph, home, late) | products(graph, home, late)
        return ir.recompute(graph, lambda node: node in again)

    kept: set[Tensor] = set(graph.outputs.values())
    for node in graph.nodes:
        if node.direction == "forward" and not node.is_leaf:
            inner = (x for x in node.inputs if not x.is_leaf)
            kept |= {x for x in inner if home(x) != home(node)}
    return ir.recompute(graph, lambda node: node not in kept)


def products(graph: Graph, home: Callable[[Tensor], str], late: Readers) -> set[Tensor]:
    """Forward values x * y that one backward program reads and nobody else, where it reads x and y
    too, or has made them again, or they are constants."""
    outputs = set(graph.outputs.values())
    found: set[Tensor] = set()

    def there(x: Tensor, program: str) -> bool:
        read = any(is_device(r) and home(r) == program for r in late.get(x, ()))
        return x.is_leaf or read

    for node in graph.nodes:
        if node.op == "mul" and node.direction == "forward" and node in late:
            alone = all(is_device(r) and home(r) == home(node) for r in late[node])
            if alone and node not in outputs and all(there(x, home(node)) for x in node.inputs):
                found.add(node)
    return found


def late_readers(graph: Graph) -> Readers:
    """The backward nodes that read each value."""
    found: Readers = {}
    for node in graph.nodes:
        if node.direction == "backward":
            for x in node.inputs:
                found.setdefault(x, []).append(node)
    return found


def probabilities(graph: Graph, home: Callable[[Tensor], str], late: Readers) -> set[Tensor]:
    """Softmax of a product, and what lies between: where all of backward that reads it is one
    program. A plan that cuts attention itself keeps it, or it would cross programs twice."""
    found: set[Tensor] = set()
    for node in graph.nodes:
        if node.op == "softmax" and node.direction == "forward":
            chain = [node]
            while chain[-1].op != "matmul":
                inner = [x for x in chain[-1].inputs if x.shape == node.shape and not x.is_leaf]
                if len(inner) != 1:
                    break
                chain += inner
            whole = chain[-1].op == "matmul" and node not in graph.outputs.values()
            if whole and all(home(r) == home(node) for r in late.get(node, ())):
                found |= set(chain)
    return found
