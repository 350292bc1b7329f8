"""Numeric health: what of a step left the range of fp16, by name, and what helps.

Looks at the surfaces as a step left them: the values that cross programs, taps included.
`overflows` asks of every step whether its ends are finite, which is next to free; `overflow` names
the first value that is not; `look` counts everything, a few ms. Where something overflowed, or a
position or a channel of the forward vanished, the program that made it is run once more with all of
its values as outputs (probe.py) to name the first that went wrong: an overflow inside a fused
program may reach its ports as a harmless-looking zero. On a plan that compiles async, those weights
are the newest.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from anefast import _C, mil
from anefast.fuse.cut import unique
from anefast.ir import Graph, Program, Tensor, baked
from anefast.models import Params
from anefast.models.weights import peeked
from anefast.runtime.compiled_graph import Bound, CompiledGraph
from anefast.runtime.device import Surface
from anefast.runtime.grain import Grain, Lost, starved
from anefast.runtime.inspect.values import Bytes, Value, content, values

log = logging.getLogger("anefast")

PRODUCTS = ("conv", "matmul", "linear")
VANISHED = 1 / 8  # part of a forward value that is exactly 0: no activation of ours is, but probs
UNDERFLOW = 1 / 8  # part of a gradient's numbers other than 0 that are denormals


class Counts(NamedTuple):
    """Counts of one tensor's elements. saturated: finite, with a magnitude of 32752 or more."""

    size: int
    inf: int
    nan: int
    denormal: int
    zero: int
    saturated: int
    largest: float  # finite magnitude

    @property
    def overflow(self) -> int:
        return self.inf + self.nan


class Finding(NamedTuple):
    """A tensor with bad values, and a line about it."""

    name: str
    kind: str  # overflow, vanished, saturation or underflow
    message: str
    of_scale: bool = False  # whether another loss scale is what helps


@dataclass(frozen=True)
class Report:
    """The findings of one look. Tensors by name, in the order they are made."""

    tensors: dict[str, Counts]
    findings: list[Finding] = field(default_factory=list)
    lost: dict[str, Lost] = field(default_factory=dict)  # by fixed-point products, by their weight

    def row(self) -> dict[str, Any]:
        """The row for metrics.jsonl: totals, and the name of the worst tensor."""
        total = {
            "health/overflow": sum(c.overflow for c in self.tensors.values()),
            "health/underflow": sum(c.denormal for c in self.tensors.values()),
            "health/saturated": sum(c.saturated for c in self.tensors.values()),
            "health/largest": max((c.largest for c in self.tensors.values()), default=0.0),
        }
        if self.lost:
            for key in ("dropped", "error", "zero"):
                total[f"health/product_{key}"] = max(getattr(of, key) for of in self.lost.values())
        worst = {"health/worst": self.findings[0].name} if self.findings else {}
        return {**total, **worst}

    def worst(self, n: int = 3) -> list[tuple[str, Counts]]:
        """The tensors with most elements out of range, those that overflow first."""
        sick = [(name, c) for name, c in self.tensors.items() if c.overflow or c.denormal]
        return sorted(sick, key=lambda nc: (-nc[1].overflow, -nc[1].denormal))[:n]


def counts(array: Any) -> Counts:
    """Counts the elements of an fp16 array."""
    return Counts(array.size, *_C.half_health(np.ascontiguousarray(array)))


class Health:
    """Looks at a compiled graph that has run.

    graph: what the graph was cut from; its inputs are the first tensors looked at. grain: where
    the device's products are fixed point.
    """

    def __init__(self, graph: Graph, compiled: CompiledGraph, grain: Grain | None = None) -> None:
        self.compiled, self.grain = compiled, grain
        self.names = labels(graph.nodes)
        self._inputs = [t for t in graph.inputs if t in compiled.surfaces]
        dh = [t for t in graph.inputs if t.name == "dh"]
        ends = [graph.outputs[name] for name in ("h", "dx") if name in graph.outputs]
        self._ends = [ends[0], *dh, *ends[1:]]
        # What was looked for inside a program: how much of its values had vanished.
        self._probed: set[tuple[int, int]] = set()

    def overflows(self) -> bool:
        """True if h, dh or dx, as far as there are any, holds an inf or a NaN: residuals carry
        nearly all of them there.

        Not those that became 0 on the way; they are found when the update is looked at.
        """
        for t in self._ends:
            with self.compiled.surfaces[t].read() as data:
                if _C.half_overflows(data):
                    return True
        return False

    def overflow(self, params: Params) -> Finding | None:
        """The first value that overflowed, None where none did. `params` as in `look`."""
        found = self._overflow(*self._counted(), params)
        return found[0] if found else None

    def look(self, params: Params) -> Report:
        """Counts every tensor and names the culprits. `params`: as the programs have them."""
        tensors, makers = self._counted()
        findings = self._overflow(tensors, makers, params) or self._vanished(
            tensors, makers, params
        )
        sick = [f for t, c in tensors.items() for f in self._fit(t, c)]
        for kind in ("saturation", "underflow"):
            alike = [f for f in sick if f.kind == kind]
            more = f" (and {len(alike) - 1} more)" if len(alike) > 1 else ""
            for f in alike[:1]:
                findings.append(f._replace(message=f.message.replace(":", f"{more}:", 1)))
        lost = self.grain.look(params) if self.grain is not None and makers else {}
        if starved(lost):
            findings.append(vanishing(lost))
        named = {self.names[t]: c for t, c in tensors.items()}
        return Report(named, findings, lost)

    def _counted(self) -> tuple[dict[Tensor, Counts], dict[Tensor, int]]:
        """Every tensor's counts, in the order they are made, and which program makes it."""
        tensors: dict[Tensor, Counts] = {}
        makers: dict[Tensor, int] = {}
        for i, bound in enumerate(self.compiled.bound):
            for t in self._inputs:  # where they are first read: dh comes out of the forward
                if t not in tensors and reads(bound, self.compiled.surfaces[t], t):
                    tensors[t] = self._count(t)
            for t in bound.made:
                tensors[t], makers[t] = self._count(t), i
        return tensors, makers

    def _count(self, t: Tensor) -> Counts:
        with self.compiled.surfaces[t].read() as data:
            return counts(data)

    def _overflow(
        self, tensors: dict[Tensor, Counts], makers: dict[Tensor, int], params: Params
    ) -> list[Finding]:
        """The first tensor that overflowed, looked for inside the program that made it."""
        first = next((t for t, c in tensors.items() if c.overflow), None)
        if first is None:
            return []
        if first not in makers:
            return [overflowed(self.names[first], "input", tensors[first], first.name == "dh")]
        inside = self._inside(makers[first], params)
        name, op, c = inside or (self.names[first], first.op, tensors[first])
        return [overflowed(name, op, c, first.direction == "backward")]

    def _vanished(
        self, tensors: dict[Tensor, Counts], makers: dict[Tensor, int], params: Params
    ) -> list[Finding]:
        """An overflow whose infinity became 0 on the way to a port, such as 1 / sqrt(inf): of much
        of a tensor, or of one position or channel in it."""
        entrance = next((t for t in tensors if t.name == "x"), None)
        alone: list[Finding] = []
        for t, c in tensors.items():
            if t not in makers or t.direction == "backward" or t.op == "softmax":
                continue
            channels, positions = self._zero_lines(t)
            if c.zero <= VANISHED * c.size and not channels + positions:
                continue
            if (seen := (makers[t], positions + channels)) not in self._probed:
                self._probed.add(seen)
                if inside := self._inside(makers[t], params):
                    return [overflowed(*inside, backward=False)]
            if not alone and entrance is not None and alike(t, entrance):
                known, total = self._zero_lines(entrance)[1], t.shape[0] * t.shape[-1]
                if known < positions < total:  # all of them: its weights may be 0
                    alone = [vanished(self.names[t], positions, total)]
        return alone

    def _zero_lines(self, t: Tensor) -> tuple[int, int]:
        """Channels and positions that are 0 throughout."""
        with self.compiled.surfaces[t].read() as data:
            return _C.half_zero_lines(data)

    def _inside(self, i: int, params: Params) -> tuple[str, str, Counts] | None:
        """(name, op, counts) of the first overflow inside program i; None where there is none."""
        bound = self.compiled.bound[i]
        kernel = bound.kernel
        blobs = mil.emit(kernel.program, kernel.dialect).blobs.fill(peeked(params))
        feeds: list[Bytes] = [content(s.native) for s in bound.inputs]
        try:
            found: list[Value] = list(values(kernel.device, kernel.text, blobs, feeds))
        except (ValueError, RuntimeError) as error:
            log.debug("health: %s could not be looked into: %s", kernel.name, error)
            return None
        for value in found:
            if value.array.dtype == np.float16 and (c := counts(value.array)).overflow:
                return absolute(value.name, kernel.program), value.op, c
        return None

    def _fit(self, t: Tensor, c: Counts) -> list[Finding]:
        """Tensors close to either end of the range."""
        name = self.names[t]
        gradient = t.direction == "backward" or t.name == "dh"
        if c.saturated:
            message = (
                f"{name}: {c.saturated:,} of {c.size:,} values are 32752 or more, where products "
                "turn to inf on a chip. Hint: a smaller loss scale, or residual_scale."
            )
            return [Finding(name, "saturation", message, gradient)]
        live = c.size - c.zero
        if gradient and live and c.denormal > UNDERFLOW * live:
            message = (
                f"{name}: {c.denormal:,} of {live:,} gradients that are not 0 are below 6.1e-5, "
                "where fp16 loses bits and a chip's products see 0. Hint: a larger loss scale."
            )
            return [Finding(name, "underflow", message, True)]
        return []


def overflowed(name: str, op: str, c: Counts, backward: bool) -> Finding:
    """The line about an overflow, with the advice that fits where it is."""
    if backward:
        hint = "a smaller loss scale (loss_scale.initial); loss_scale.dynamic finds one by itself"
    elif op in PRODUCTS:
        hint = "products end at 32768 on a chip: scale an operand before, not the result after"
    elif op in ("mul", "square", "pow", "reduce_sum", "reduce_mean"):
        hint = "scale before squaring or summing, as ir.rms_norm does"
    else:
        hint = "lower optim.lr, or look at what feeds it with ANEFAST_DUMP"
    where = "" if op == "input" else f" in {op}"
    message = f"{name}: {c.overflow:,} of {c.size:,} values overflowed{where}. Hint: {hint}."
    return Finding(name, "overflow", message, backward)


def vanished(name: str, positions: int, total: int) -> Finding:
    message = (
        f"{name}: {positions:,} of {total:,} positions are 0 in every channel, though their input "
        "is not. Hint: something infinite or too small became 0 on the way; ANEFAST_CHECK=1 "
        "compares each program with the exact host."
    )
    return Finding(name, "vanished", message)


def vanishing(lost: dict[str, Lost]) -> Finding:
    """The line about gradients that fixed-point products lose, with the weight that loses most."""
    name = max(lost, key=lambda weight: lost[weight].error)
    of = lost[name]
    message = (
        f"{name}: {of.dropped:.0%} of the products of its gradient are too small for the chip's "
        f"fixed point and dropped, and rounding makes {of.error:.0%} of the rest (estimated). "
        "Hint: a larger loss scale (loss_scale.initial); loss_scale.dynamic finds one by itself."
    )
    return Finding(name, "underflow", message)


def alike(t: Tensor, other: Tensor) -> bool:
    """True if both have the same positions, along the first and the last axis."""
    return (t.shape[0], t.shape[-1]) == (other.shape[0], other.shape[-1])


def reads(bound: Bound, surface: Surface, t: Tensor) -> bool:
    """True if a kernel's inputs hold `t`: its surface, or a copy of it."""
    return surface in bound.inputs or any(region.value is t for region, _ in bound.gathered)


def absolute(name: str, program: Program) -> str:
    """A text's name for a value, its layer counted from the model's first instead."""
    first = mil.text.first_layer(program)
    relative = re.match(r"first(?:\+(\d+))?(?=\.)", name)
    if first is None or relative is None:
        return name
    return f"layers.{first + int(relative[1] or 0)}{name[relative.end() :]}"


def labels(nodes: Iterable[Tensor]) -> dict[Tensor, str]:
    """Names as MIL text has them, counted per scope and op: layers.0.ffn.backward.mul_2."""
    found: dict[Tensor, str] = {}
    counted: dict[str, int] = {}
    for t in unique(nodes):
        if t.is_leaf or baked(t):
            found[t] = t.name or t.op
            continue
        path = [t.scope] if t.scope else []
        stem = ".".join([*path, *(["backward"] if t.direction == "backward" else []), t.op])
        found[t] = f"{stem}_{counted.setdefault(stem, 0)}"
        counted[stem] += 1
    return found
