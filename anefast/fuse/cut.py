"""Cuts a graph into programs.

Every node that varies with an input goes to the program its plan names; a value that another
program, a weight gradient or the caller needs becomes an output port there and an input port where
it is read. Constants and parameters are no ports: each program bakes the ones it uses. Cutting
never changes a value, only how often fp16 leaves the device: the cut law (tests/test_cut_law.py).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from anefast.ir import Graph, Program, Tensor, is_device

T = TypeVar("T")
Key = Callable[[Tensor], str]  # names the program that a node belongs to
Home = dict[Tensor, str]  # the program that computes a value


@dataclass(frozen=True)
class Schedule:
    """Programs in an order in which every input is ready, and the CPU nodes between them."""

    programs: tuple[Program, ...]
    cpu_nodes: tuple[tuple[Tensor, ...], ...]  # per program: weight gradients ready after it


def cut(graph: Graph, key: Key) -> Schedule:
    """Splits `graph` by `key`. Raises ValueError where two programs would need each other."""
    varying = set(graph.inputs)
    home: Home = {}
    for node in graph.nodes:
        if any(x in varying for x in node.inputs):
            varying.add(node)
            if is_device(node):
                home[node] = key(node)
    order = ordered(home)
    groups: dict[str, list[Tensor]] = {name: [] for name in order}
    for node, name in home.items():
        groups[name].append(node)
    needed = wanted_outside(graph, home)
    programs = tuple(
        program(name, nodes, [n for n in nodes if n in needed], varying)
        for name, nodes in groups.items()
    )
    return Schedule(programs, cpu_after(graph, home, order))


def program(name: str, nodes: list[Tensor], writes: list[Tensor], varying: set[Tensor]) -> Program:
    """One program: its ports in first-use order, named so that ASCII order is the same."""
    inside = set(nodes)
    reads = unique(x for n in nodes for x in n.inputs if x in varying and x not in inside)
    return Program.cut(name, ports("a", reads), ports("z", writes))


def ports(letter: str, values: list[Tensor]) -> list[tuple[str, Tensor]]:
    """(port name, value) pairs; numbers are padded, so sorted names keep this order."""
    digits = len(str(len(values) - 1))
    return [(f"{letter}{i:0{digits}}_{t.name or t.op}", t) for i, t in enumerate(values)]


def wanted_outside(graph: Graph, home: Home) -> set[Tensor]:
    """Device values that somebody other than their own program reads."""
    wanted = {t for t in graph.outputs.values() if t in home}
    for node in graph.nodes:
        wanted |= {x for x in node.inputs if x in home and home.get(node) != home[x]}
    return wanted


def ordered(home: Home) -> list[str]:
    """Programs so that producers come first; among those ready, the one seen first in the graph."""
    rank = {name: i for i, name in enumerate(unique(home.values()))}
    waits: dict[str, set[str]] = {name: set() for name in rank}
    for node, name in home.items():
        waits[name] |= {home[x] for x in node.inputs if home.get(x, name) != name}
    ready = [i for name, i in rank.items() if not waits[name]]
    heapq.heapify(ready)
    names, order = list(rank), []
    while ready:
        done = names[heapq.heappop(ready)]
        order.append(done)
        for name, sources in waits.items():
            if done in sources:
                sources.remove(done)
                if not sources:
                    heapq.heappush(ready, rank[name])
    if len(order) < len(rank):
        stuck = sorted(set(rank) - set(order))
        raise ValueError(f"[cut] expected programs without a cycle, got one among {stuck}.")
    return order


def cpu_after(graph: Graph, home: Home, order: list[str]) -> tuple[tuple[Tensor, ...], ...]:
    """For each program, the CPU nodes whose last operand it makes."""
    position = {name: i for i, name in enumerate(order)}
    after: list[list[Tensor]] = [[] for _ in order]
    for node in graph.nodes:
        if not is_device(node) and all(is_device(x) for x in node.inputs):
            made = [position[home[x]] for x in node.inputs if x in home]
            after[max(made, default=0)].append(node)
    return tuple(tuple(nodes) for nodes in after)


def unique(values: Iterable[T]) -> list[T]:
    """Without repeats, in order of first appearance."""
    return list(dict.fromkeys(values))
