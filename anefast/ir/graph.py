"""Graph: named outputs and what they need. Program: one cut of it, the unit of MIL text.

Neither holds values or knows how to run; see interpret.py for a plain run, mil/text.py for text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .op import OPS
from .tensor import ShapeError, Tensor


def reach(outputs: Iterable[Tensor], stop: Iterable[Tensor] = ()) -> list[Tensor]:
    """All tensors that outputs depend on, outputs included, in creation order, which is topological
    and the order the model was written in. Does not look behind the tensors of `stop`."""
    edge = set(stop)
    seen: set[Tensor] = set()
    todo = list(outputs)
    while todo:
        t = todo.pop()
        if t not in seen:
            seen.add(t)
            if t not in edge:
                todo.extend(t.inputs)
    return sorted(seen, key=lambda t: t.order)


class Graph:
    """Named results of a computation.

    `inputs` are the ir.input leaves, in the order to be fed; None collects them. Parameters and
    constants are found by themselves. `nodes` is everything in topological order, leaves included.
    """

    def __init__(self, inputs: Sequence[Tensor] | None, outputs: Mapping[str, Tensor]) -> None:
        self.outputs = dict(outputs)
        self.nodes = reach(self.outputs.values())
        used = [t for t in self.nodes if t.op == "input"]
        self.inputs = list(used if inputs is None else inputs)
        missing = [t for t in used if t not in set(self.inputs)]
        if missing:
            hint = "pass every ir.input the outputs depend on"
            raise ShapeError("graph", "all inputs listed", f"{missing} besides", hint)
        names = [t.name for t in self.inputs]
        if len(set(names)) != len(names):
            raise ShapeError("graph", "inputs of different names", names)

    @property
    def parameters(self) -> list[Tensor]:
        return [t for t in self.nodes if t.op == "parameter"]

    def __str__(self) -> str:
        ids = names(self.nodes)
        lines = [line(t, ids) for t in self.nodes]
        results = ", ".join(f"{name}={ids[t]}" for name, t in self.outputs.items())
        return "\n".join([*lines, f"return {results}"])


@dataclass(frozen=True)
class Program:
    """One device program. Ports carry tensors of the graph across the cut.

    `inputs` may be any tensors: an ir.input, a node another program computes, a parameter that
    arrives as data. `nodes` are those computed or baked here, topological, without the inputs.
    Port names must sort in the order given: the ANE binds by sorted name.
    """

    name: str
    inputs: list[tuple[str, Tensor]]
    outputs: list[tuple[str, Tensor]]
    nodes: list[Tensor]

    @classmethod
    def cut(
        cls, name: str, inputs: Sequence[tuple[str, Tensor]], outputs: Sequence[tuple[str, Tensor]]
    ) -> Program:
        """The program that computes `outputs` when `inputs` are given."""
        fed = {t for _, t in inputs}
        nodes = [t for t in reach((t for _, t in outputs), fed) if t not in fed]
        loose = [t for t in nodes if t.op == "input"]
        if loose:
            raise ShapeError(name, "every input listed", f"{loose} besides", "add them as ports")
        return cls(name, list(inputs), list(outputs), nodes)

    def __str__(self) -> str:
        ids = names([*(t for _, t in self.inputs), *self.nodes])
        head = [f"{ids[t]} = port {name} {t!r}" for name, t in self.inputs]
        tail = ", ".join(f"{name}={ids[t]}" for name, t in self.outputs)
        return "\n".join([f"# {self.name}", *head, *(line(t, ids) for t in self.nodes), tail])


def names(nodes: Iterable[Tensor]) -> dict[Tensor, str]:
    """SSA names: %0, %1, ... and %name for what has one."""
    ids: dict[Tensor, str] = {}
    for t in nodes:
        ids[t] = f"%{t.name}" if t.op in ("input", "parameter") else f"%{len(ids)}"
    return ids


def _attr(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{float(value):.9g}" if value.size == 1 else "..."
    return str(value).replace(" ", "")


def line(t: Tensor, ids: Mapping[Tensor, str]) -> str:
    """One node as `%3 = conv(%x, %w) : fp16[1, 64, 1, 32]  # layers.0.ffn forward`."""
    args = [ids[x] for x in t.inputs] + [f"{k}={_attr(v)}" for k, v in t.attrs.items()]
    where = f"  # {t.scope} {t.direction}" if t.scope else ""
    return f"{ids[t]} = {t.op}({', '.join(args)}) : {t.dtype}{list(t.shape)}{where}"


SWAP = (1, 0, 2, 3)  # W (Co, Ci, 1, 1) -> W^T (Ci, Co, 1, 1)


def baked(t: Tensor) -> tuple[Tensor, bool] | None:
    """(parameter, transposed) where t is a parameter, or the transpose that conv's derivative
    reads: a constant of the program, not a node that runs. None for anything else."""
    if t.op == "parameter":
        return t, False
    if t.op == "transpose" and t.inputs[0].op == "parameter" and t.attrs["perm"] == SWAP:
        return t.inputs[0], True
    return None


def is_device(t: Tensor) -> bool:
    """True if a device program computes t; False if only the CPU does."""
    return t.is_leaf or OPS[t.op].device
