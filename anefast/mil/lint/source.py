"""MIL text as the linter sees it: functions, operations and values, each with its place.

A view of what `_C.outline` reads tolerantly; nothing is judged here. Positions are 1-based (line,
column) in bytes, spans are byte offsets for rewriting. checks/ looks at this, fix.py edits by it.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from anefast import _C

At = tuple[int, int]
Span = tuple[int, int]


class Problem(NamedTuple):
    """A fault the reader met: its kind (csrc/mil/lex.h), place and words."""

    fault: str
    at: At
    message: str


class Blob(NamedTuple):
    """The file and offset of a BLOBFILE."""

    path: str
    offset: int
    at: At
    literal: Span  # of the offset


@dataclass(eq=False)
class Value:
    """A parameter, a constant or a result. `value` is a constant's elements where they are few and
    in the text; `range` is (least, greatest, least magnitude but 0) of one in the text."""

    name: str  # empty for a literal inside a call
    dtype: str
    shape: tuple[int, ...]
    at: At
    span: Span
    const: bool
    value: Any
    range: tuple[float, float, float] | None
    blob: Blob | None
    producer: Op | None = None
    users: list[Op] = field(default_factory=list)
    is_input: bool = False

    @property
    def size(self) -> int:
        n = 1
        for d in self.shape:
            n *= d
        return n

    @property
    def baked(self) -> bool:
        """True for a constant, and for a constexpr_ operation's result from constants."""
        made = self.producer
        return self.const or (made is not None and made.op.startswith("constexpr_"))

    @property
    def scalar(self) -> float | None:
        """The number of a constant of one element written in the text."""
        value = self.value
        while isinstance(value, list) and len(value) == 1:
            value = value[0]
        return float(value) if isinstance(value, int | float) else None


class Argument(NamedTuple):
    values: list[Value]
    at: At
    whole: Span  # name = value
    span: Span  # the value
    bracketed: bool


@dataclass(eq=False)
class Op:
    op: str
    at: At
    span: Span
    close: Span  # the ) behind the arguments
    results: list[Value]
    arguments: dict[str, Argument]
    labelled: bool
    known: bool

    def get(self, argument: str) -> Value | None:
        """The (first) value of an argument; None if it is absent."""
        found = self.arguments.get(argument)
        return found.values[0] if found else None

    def constant(self, argument: str) -> Any:
        """The elements of a constant argument; None if it is absent or not in the text."""
        value = self.get(argument)
        return value.value if value is not None else None

    @property
    def operands(self) -> Iterator[Value]:
        for argument in self.arguments.values():
            yield from argument.values


@dataclass(eq=False)
class Function:
    name: str
    opset: str
    at: At
    opset_span: Span
    parameters_span: Span
    results_span: Span
    values: list[Value]
    ops: list[Op]
    inputs: list[Value]
    outputs: list[tuple[Value, At, Span]]


@dataclass(eq=False)
class Source:
    """One text. `path` is its file, None for text that has none: then weights are not looked at."""

    text: bytes
    path: Path | None
    version: str
    version_span: Span
    attributes_span: Span
    complete: bool
    problems: list[Problem]
    comments: list[Span]
    functions: list[Function]

    def at(self, offset: int) -> At:
        """The position of a byte."""
        line = bisect.bisect_right(self._starts, offset)
        return line, offset - self._starts[line - 1] + 1

    def offset(self, at: At) -> int:
        """The byte at a position."""
        return self._starts[at[0] - 1] + at[1] - 1

    @cached_property
    def _starts(self) -> list[int]:
        starts = [0]
        for line in self.text.split(b"\n"):
            starts.append(starts[-1] + len(line) + 1)
        return starts

    def spelled(self, span: Span) -> str:
        return self.text[slice(*span)].decode("utf-8", "replace")

    @cached_property
    def lines(self) -> list[str]:
        return self.text.decode("utf-8", "replace").split("\n")


def read(text: bytes, path: Path | None = None) -> Source:
    """Reads any bytes. Faults become `problems`."""
    found = _C.outline(text)
    return Source(
        text=text,
        path=path,
        version=found["version"],
        version_span=found["version_span"],
        attributes_span=found["attributes_span"],
        complete=found["complete"],
        problems=[Problem(f, (line, column), m) for f, line, column, m in found["problems"]],
        comments=found["comments"],
        functions=[_function(f) for f in found["functions"]],
    )


def _function(found: dict[str, Any]) -> Function:
    values = []
    for v in found["values"]:
        blob = Blob(*v.pop("blob")) if v["blob"] else v.pop("blob")
        values.append(Value(blob=blob, **v))
    ops = []
    for o in found["operations"]:
        arguments = {
            name: Argument([values[i] for i in ids], at, whole, span, bracketed)
            for name, (ids, at, whole, span, bracketed) in o["arguments"].items()
        }
        op = Op(
            o["op"], o["at"], o["span"], o["close"], [values[i] for i in o["results"]],
            arguments, o["labelled"], o["known"],
        )  # fmt: skip
        for value in op.operands:
            value.users.append(op)
        for value in op.results:
            value.producer = op
        ops.append(op)
    inputs = [values[i] for i in found["inputs"]]
    for value in inputs:
        value.is_input = True
    return Function(
        found["name"], found["opset"], found["at"], found["opset_span"], found["parameters_span"],
        found["results_span"], values, ops, inputs,
        [(values[i], at, span) for i, at, span in found["outputs"]],
    )  # fmt: skip
