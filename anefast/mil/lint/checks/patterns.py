"""ANE031, ANE061 to ANE070 and ANE097: operations that are fine alone and not together."""

from __future__ import annotations

from collections.abc import Iterator

from anefast.mil.lint.checks.base import Finding, Platform, found, function_check
from anefast.mil.lint.checks.operations import summed
from anefast.mil.lint.source import Function, Op, Source, Value

LARGE = 32  # operations; where the report of refused slices begins to speak of
BRANCHES = 12
WIDE = 5120


def by(value: Value | None, *ops: str) -> Op | None:
    """The operation that made a value, if it is one of these."""
    made = value.producer if value is not None else None
    return made if made is not None and made.op in ops else None


def reduced(value: Value | None) -> Op | None:
    """The reduction a value comes from, through scalings and additions of constants."""
    for _ in range(8):
        made = value.producer if value is not None else None
        if made is None:
            return None
        if made.op.startswith("reduce_"):
            return made
        if made.op not in ("mul", "add", "real_div", "sub", "reshape"):
            return None
        others = [v for v in made.operands if not v.const]
        if len(others) != 1:
            return None
        value = others[0]
    return None


@function_check("ANE031")
def roots(source: Source, function: Function, target: Platform) -> Iterator[Finding]:
    for op in function.ops:
        if op.op in ("rsqrt", "sqrt") and (reduction := reduced(op.get("x"))):
            yield found("ANE031", op.at, f"{op.op} of {reduction.op}")


def late(value: Value | None) -> bool:
    """True if it is a slice that starts behind the beginning of the last axis."""
    made = by(value, "slice_by_size", "slice_by_index")
    begin = made.constant("begin") if made else None
    return isinstance(begin, list) and bool(begin) and begin[-1] != 0


def moved_last(value: Value | None) -> bool:
    """True if it is part of the last axis of something, or changed elements of it."""
    for _ in range(4):
        made = by(value, "slice_by_size", "slice_by_index", "mul", "split")
        if made is None:
            return False
        if made.op.startswith("slice"):
            x = made.get("x")
            return x is not None and bool(x.shape) and x.shape[-1] != made.results[0].shape[-1]
        if made.op == "split":
            x, axis = made.get("x"), made.constant("axis")
            return x is not None and axis in (-1, len(x.shape) - 1)
        value = next((v for v in made.operands if not v.const), None)
    return False


@function_check("ANE061", "ANE062", "ANE063")
def slices(source: Source, function: Function, target: Platform) -> Iterator[Finding]:
    for op in function.ops:
        if op.results and late(op.results[0]):
            begin = op.constant("begin")[-1]
            yield found("ANE061", op.at, f"a slice that starts at {begin} of the last axis")
        if op.op != "concat" or "values" not in op.arguments:
            continue
        values = op.arguments["values"].values
        if sum(map(late, values)) > 1:
            yield found("ANE062", op.at, f"a concat of {sum(map(late, values))} such slices")
        axis, rank = op.constant("axis"), len(values[0].shape)
        if axis in (-1, rank - 1) and len(values) > 1 and all(map(moved_last, values)):
            yield found("ANE063", op.at, "a concat that exchanges parts of the last axis")


@function_check("ANE064", "ANE065", "ANE066")
def mixes(source: Source, function: Function, target: Platform) -> Iterator[Finding]:
    names = {op.op for op in function.ops}
    if {"split", "matmul", "softmax", "tile"} <= names:
        at = next(op.at for op in function.ops if op.op == "split")
        yield found("ANE064", at, "split beside matmul, softmax and tile")
    computing = [op for op in function.ops if not op.op.startswith("constexpr_")]
    if computing and all(op.op in ("reshape", "squeeze", "expand_dims") for op in computing):
        yield found("ANE065", computing[0].at, f"nothing but {computing[0].op}")
    for op in function.ops:
        made = (x := op.get("x")) and x.producer
        if op.op == "reshape" and made and made.op.startswith("constexpr_"):
            yield found("ANE066", op.at, f"reshape of {made.op}")


@function_check("ANE067", "ANE068")
def scalars(source: Source, function: Function, target: Platform) -> Iterator[Finding]:
    for op in function.ops:
        if op.op != "mul":
            continue
        for one, other in (("x", "y"), ("y", "x")):
            value, factor = op.get(one), op.get(other)
            if factor is None or not factor.const or factor.scalar is None or factor.shape:
                continue
            if rounding := by(value, "floor", "ceil", "round"):
                yield found("ANE067", op.at, f"{rounding.op} times {factor.scalar:g}")
            summed = by(value, "reduce_sum", "reduce_mean")
            if summed and factor.scalar == 0:
                yield found("ANE068", op.at, f"{summed.op} times 0")


@function_check("ANE097")
def wide(source: Source, function: Function, target: Platform) -> Iterator[Finding]:
    for op in function.ops:
        if (n := summed(op)) >= WIDE:
            yield found("ANE097", op.at, f"{op.op} sums {n} terms")


@function_check("ANE069")
def fan_in(source: Source, function: Function, target: Platform) -> Iterator[Finding]:
    for op in function.ops:
        n = len({id(v) for v in op.operands if not v.const})
        if n >= BRANCHES:
            yield found("ANE069", op.at, f"{n} branches meet in {op.op}")


@function_check("ANE070")
def input_slices(source: Source, function: Function, target: Platform) -> Iterator[Finding]:
    if len(function.ops) < LARGE:
        return
    for op in function.ops:
        x = op.get("x")
        if op.op.startswith("slice_by_") and x is not None and x.is_input:
            yield found(
                "ANE070",
                op.at,
                f"a slice of the input {x.name} among {len(function.ops)} operations",
            )
