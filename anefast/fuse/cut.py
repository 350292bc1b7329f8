"""Cuts a graph into programs.

Every node that a device runs goes to the program its plan names; a value that another program, a
weight gradient or the caller needs becomes an output port there and an input port where it is
read. Constants and parameters are no ports: each program bakes the ones it uses. Cutting never
changes a value, only how often fp16 leaves the device: the cut law (tests/test_cut_law.py).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

from anefast.fuse.plan import Key
from anefast.ir import Graph, Program, Tensor


@dataclass(frozen=True)
class Schedule:
    """Programs in an order in which every input is ready, and the CPU nodes between them."""

    programs: tuple[Program, ...]
    cpu_nodes: tuple[tuple[Tensor, ...], ...]  # per program: weight gradients ready after it


def cut(graph: Graph, key: Key) -> Schedule:
    """Splits `graph` by `key`. Raises ValueError where two programs would need each other."""
    groups: dict[str, list[Tensor]] = {}
    for node in graph.nodes:
        if on_device(node):
            groups.setdefault(key(node), []).append(node)
    home = {node: name for name, nodes in groups.items() for node in nodes}
    needed = wanted_outside(graph, home)
    order = ordered(groups, home)
    programs = tuple(program(name, groups[name], home, needed) for name in order)
    return Schedule(programs, cpu_after(graph, home, order))


def on_device(node: Tensor) -> bool:
    """Whether a program computes this node (not an input, constant, parameter or CPU op)."""
    return node.is_device_op


def wanted_outside(graph: Graph, home: dict[Tensor, str]) -> set[Tensor]:
    """Device values that somebody other than their own program reads."""
    wanted = {t for t in graph.outputs.values() if t in home}
    for node in graph.nodes:
        wanted |= {x for x in node.inputs if x in home and home.get(node) != home[x]}
    return wanted


def ordered(groups: dict[str, list[Tensor]], home: dict[Tensor, str]) -> list[str]:
    """Programs so that producers come first; among those ready, the one seen first in the graph."""
    rank = {name: i for i, name in enumerate(groups)}
    waits = {
        name: {home[x] for node in nodes for x in node.inputs if home.get(x, name) != name}
        for name, nodes in groups.items()
    }
    readers: dict[str, list[str]] = {name: [] for name in groups}
    for name, sources in waits.items():
        for source in sources:
            readers[source].append(name)
    missing = {name: len(sources) for name, sources in waits.items()}
    ready = [(rank[name], name) for name, n in missing.items() if n == 0]
    heapq.heapify(ready)
    order: list[str] = []
    while ready:
        _, name = heapq.heappop(ready)
        order.append(name)
        for reader in readers[name]:
            missing[reader] -= 1
            if missing[reader] == 0:
                heapq.heappush(ready, (rank[reader], reader))
    if len(order) < len(groups):
        stuck = sorted(set(groups) - set(order))
        raise ValueError(f"[cut] expected programs in some order, got a cycle among {stuck}.")
    return order


def program(
    name: str, nodes: list[Tensor], home: dict[Tensor, str], needed: set[Tensor]
) -> Program:
    """One program: its ports in first-use order, named so that ASCII order is the same."""
    inside = set(nodes)
    reads = unique(
        x for n in nodes for x in n.inputs if x not in inside and (x in home or x.op == "input")
    )
    writes = [n for n in nodes if n in needed]
    return Program(name, ports("a", reads), ports("z", writes), constants_of(nodes, inside) + nodes)


def ports(letter: str, values: list[Tensor]) -> list[tuple[str, Tensor]]:
    """(port name, value) pairs; numbers are padded, so sorted names keep this order."""
    digits = len(str(max(len(values) - 1, 0)))
    return [(f"{letter}{i:0{digits}}_{label(t)}", t) for i, t in enumerate(values)]


def label(value: Tensor) -> str:
    """What a port is called after its number: the input's name, or the op that made it."""
    return (value.name or value.op).replace(".", "_")


def constants_of(nodes: list[Tensor], inside: set[Tensor]) -> list[Tensor]:
    """The constants and parameters that `nodes` read, with what folds into them."""
    found: dict[Tensor, None] = {}
    stack = [x for n in reversed(nodes) for x in reversed(n.inputs)]
    while stack:
        x = stack.pop()
        if x in inside or x in found or x.op == "input" or x.is_device_op:
            continue
        found[x] = None
    return list(found)


def cpu_after(
    graph: Graph, home: dict[Tensor, str], order: list[str]
) -> tuple[tuple[Tensor, ...], ...]:
    """For each program, the CPU nodes whose last operand it makes."""
    position = {name: i for i, name in enumerate(order)}
    after: list[list[Tensor]] = [[] for _ in order]
    for node in graph.nodes:
        if node.is_cpu_op:
            made = [position[home[x]] for x in node.inputs if x in home]
            after[max(made, default=0)].append(node)
    return tuple(tuple(nodes) for nodes in after)


def unique(values: Iterable[Tensor]) -> list[Tensor]:
    """Without repeats, in order of first appearance."""
    return list(dict.fromkeys(values))
