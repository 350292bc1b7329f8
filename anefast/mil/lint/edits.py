"""Rewrites as edits of the text: named constants before a call, arguments added to it.

Small pieces that checks put together; which rewrite is safe is for them to know, when to apply it
for fix.py. New statements are written in the dialect the text is in.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from anefast.mil.lint.source import Function, Op, Source, Span
from anefast.mil.spelling import DIALECTS, Dialect, identifier


class Edit(NamedTuple):
    """New text for a span of bytes."""

    span: Span
    text: str


def dialect_of(source: Source) -> Dialect:
    """ios16 if the text writes scalars as rank-0 tensors, else ios18."""
    portable = re.search(rb"tensor\s*<\s*string\s*,\s*\[\s*\]", source.text)
    return DIALECTS["ios16" if portable else "ios18"]


class Rewriter:
    """Edits around one operation of a function."""

    def __init__(self, source: Source, function: Function, op: Op) -> None:
        self.source, self.function, self.op = source, function, op
        self.dialect = dialect_of(source)
        self.taken = {v.name for v in function.values}

    def name(self, stem: str) -> str:
        """An unused name, always the same for the same text."""
        result = self.op.results[0].name if self.op.results else self.op.op
        name = identifier(f"{result}_{stem}")
        while name in self.taken:
            name += "_"
        return name

    def constant(self, stem: str, dtype: str, payload: str, shape: Sequence[int] = ()) -> Constant:
        name = self.name(stem)
        of = self.dialect.type(dtype, shape)
        label = self.dialect.string(name)
        return Constant(name, f"{of} {name} = const()[name = {label}, val = {of}({payload})];")

    def before(self, *statements: str) -> Edit:
        """Inserts statements before the operation's, one per line."""
        begin = self.op.span[0]
        line = self.source.text.rfind(b"\n", 0, begin) + 1
        head = self.source.text[line:begin].decode("utf-8", "replace")
        indent = head if not head.strip() else " "
        glue = "\n" + indent if not head.strip() else " "
        return Edit((begin, begin), "".join(s + glue for s in statements))

    def argument(self, name: str, value: str) -> Edit:
        """Adds an argument to the call."""
        at = self.op.close[0]
        comma = ", " if any(not a.bracketed for a in self.op.arguments.values()) else ""
        return Edit((at, at), f"{comma}{name} = {value}")

    def without(self, name: str) -> Edit:
        """Removes an argument from the call, with its comma."""
        begin, end = self.op.arguments[name].whole
        text = self.source.text
        after = re.compile(rb"\s*,\s*").match(text, end)
        if after:
            return Edit((begin, after.end()), "")
        before = re.search(rb"\s*,\s*$", text[:begin])
        return Edit((before.start() if before else begin, end), "")

    @property
    def operation(self) -> Span:
        """The place of the operation's name in the text."""
        begin = self.source.offset(self.op.at)
        return begin, begin + len(self.op.op)


class Constant(NamedTuple):
    name: str
    statement: str
