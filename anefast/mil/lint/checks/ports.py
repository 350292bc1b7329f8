"""ANE020 to ANE029: what function inputs and outputs look like, and how long axes are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from anefast.chips.behaviour import CHIPS
from anefast.mil.lint.checks.base import Finding, Platform, found, function_check
from anefast.mil.lint.source import At, Function, Source, Value

BYTES = {"fp16": 2, "fp32": 4, "int8": 1, "uint8": 1, "bool": 1, "int16": 2, "uint16": 2}
ROW_BYTES = 64
NARROW = ("int8", "uint8", "int16", "uint16", "bool")


def ports(function: Function) -> Iterator[tuple[Value, At, str]]:
    for value in function.inputs:
        yield value, value.at, "input"
    for value, at, _ in function.outputs:
        yield value, at, "result"


@function_check("ANE020", "ANE021", "ANE022", "ANE023")
def dtypes(source: Source, function: Function, target: Platform) -> Iterator[Finding]:
    for value, at, side in ports(function):
        what = f"the {side} {value.name} is {value.dtype}"
        if value.dtype == "fp32":
            yield found("ANE020", at, what)
            yield found("ANE021", at, what)
        elif value.dtype in NARROW:
            narrow = found("ANE023", at, what)
            yield replace(narrow, level="note") if value.dtype == "bool" else narrow
        elif value.dtype != "fp16":
            yield found("ANE022", at, what)


@function_check("ANE024")
def rows(source: Source, function: Function, target: Platform) -> Iterator[Finding]:
    # A dimension that is not known (ANE011) is read as 1.
    open_sizes = any(problem.fault == "dynamic" for problem in source.problems)
    for value, at, side in ports(function):
        size = BYTES.get(value.dtype)
        last = value.shape[-1] if value.shape else 1
        if size is None or (last == 1 and open_sizes):
            continue
        if last * size % ROW_BYTES:
            wanted = -(-last * size // ROW_BYTES) * ROW_BYTES // size
            yield found(
                "ANE024",
                at,
                f"the last axis of {side} {value.name} is {last}, its rows take {wanted}",
            )


@function_check("ANE094")
def sizes(source: Source, function: Function, target: Platform) -> Iterator[Finding]:
    for wanted in ("input", "result"):
        side = [(value, at) for value, at, which in ports(function) if which == wanted]
        side.sort(key=lambda port: port[0].name)  # as they are bound
        packed = [value.size * BYTES.get(value.dtype, 1) for value, _ in side]
        count = len({*packed})
        if count < 2:
            continue
        partial = [at for value, at in side if value.shape and _padded(value)]
        falls = wanted == "result"
        if partial:
            yield found("ANE094", partial[0], f"{wanted}s of {count} sizes, rows padded")
        elif packed != sorted(packed, reverse=falls):
            at = next(a for (_, a), n, m in zip(side, packed, sorted(packed, reverse=falls),
                                                strict=True) if n != m)  # fmt: skip
            said = (
                f"{wanted}s of {count} sizes, which do not {'fall' if falls else 'rise'} in bytes"
            )
            yield found("ANE094", at, said)
        else:
            yield replace(found("ANE094", side[0][1], f"{wanted}s of {count} sizes"), level="note")


def _padded(value: Value) -> bool:
    return bool(value.shape[-1] * BYTES.get(value.dtype, ROW_BYTES) % ROW_BYTES)


@function_check("ANE025", "ANE026")
def number(source: Source, function: Function, target: Platform) -> Iterator[Finding]:
    if len(function.inputs) > 1:
        several = found("ANE025", function.inputs[1].at, f"{len(function.inputs)} inputs")
        half = all(v.dtype == "fp16" for v in function.inputs)
        # The report expects fp32 text to fail; fp16 inputs ran on the same chip elsewhere.
        yield replace(several, level="note") if half else several
    if not function.inputs and (source.complete or function.ops):  # else they were not read
        yield found("ANE026", function.at, f"{function.name} has no inputs")
    if source.complete and not function.outputs:
        yield found("ANE026", function.at, f"{function.name} has no results")


@function_check("ANE028", "ANE029")
def caps(source: Source, function: Function, target: Platform) -> Iterator[Finding]:
    chips = [target.chip] if target.chip else list(CHIPS.values())
    cap = min(int(c.max_axis.value) for c in chips)
    channels = min(int(c.max_channels.value) for c in chips)
    for value in function.values:
        if value.baked or not value.name:
            continue  # weights have layouts of their own
        rank = len(value.shape)
        longest = max(value.shape[2:] if rank > 2 else value.shape[-1:], default=1)
        if longest > cap:
            names = ", ".join(c.name for c in chips if longest > c.max_axis.value)
            yield found(
                "ANE028", value.at, f"{value.name} has an axis of {longest}, {names} end at {cap}"
            )
        if rank > 2 and value.shape[1] > channels:
            yield found("ANE029", value.at, f"{value.name} has {value.shape[1]} channels")
