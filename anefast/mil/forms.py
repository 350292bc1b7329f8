"""The forms of a MIL text: which operations it has, over what, with which constants.

A form is a line such as `mul of runtime and runtime =>==` or `concat axis 1`. forms.toml says of
each that our programs have in which other project's program it was seen to run on a chip, or, where
it was in none, why ours has it all the same. Nothing of ours has met a chip: a form that none had
is a risk, and a test fails where a new one comes in without a word. verdicts.toml says what Apple's
own compiler took and refused, as far as others have asked it (tests/distil.py makes it).

Whether an operand is an input or was computed is no form: a compiler reads both from memory. The
dialect is none either, as far as it spells the same types at greater length.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from anefast.files import read_toml
from anefast.mil.lint.source import Function, Op, Value, read

BINARY = ("add", "sub", "mul", "real_div", "pow", "maximum", "minimum")
# Constant arguments whose value is a part of the form.
TOLD = {
    "concat": ("axis", "interleave"),
    "softmax": ("axis",),
    "transpose": ("perm",),
    "reduce_sum": ("axes", "keep_dims"),
    "reduce_max": ("axes", "keep_dims"),
    "reduce_mean": ("axes", "keep_dims"),
    "conv": ("pad_type", "groups"),
    "pad": ("mode",),
}


FLOATS = ("fp16", "fp32")
MOST = {"inputs": 5, "outputs": 8}  # of programs of one kind that were read of others
MOST_JOINED = 6


@dataclass(frozen=True)
class Seen:
    """The facts about a form: where it ran, or why we emit it although no project was seen to."""

    programs: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Verdict:
    """Verdicts of Apple's compiler on programs with a form: by target (h13 is M1, h18 M6), how many
    it took, or, where it took none, refused."""

    taken: str = ""
    refused: str = ""
    programs: int = 0
    why: str = ""  # what else was odd about those that were refused

    def __str__(self) -> str:
        if self.taken:
            return f"taken, {self.taken}"
        return f"refused, {self.refused} ({self.why})" if self.refused else "never tried"


@functools.cache
def verdicts() -> dict[str, Verdict]:
    """The verdict on every form that Apple's compiler was asked about."""
    table = read_toml(Path(__file__).with_name("verdicts.toml"))
    return {form: Verdict(**entry) for form, entry in table.items()}


@functools.cache
def known() -> dict[str, Seen]:
    """Every form of ours in the table."""
    table = read_toml(Path(__file__).with_name("forms.toml"))
    return {form: Seen(tuple(e.get("seen", ())), e.get("note", "")) for form, e in table.items()}


def forms_of(text: str) -> set[str]:
    """The forms of a text that the parser takes."""
    found: set[str] = set()
    for function in read(text.encode()).functions:
        found |= set(_of_function(function))
    return found


def _of_function(function: Function) -> Iterator[str]:
    for side, values in (
        ("inputs", function.inputs),
        ("outputs", [value for value, _, _ in function.outputs]),
    ):
        for value in values:
            yield f"{value.dtype} of rank {len(value.shape)} among {side}"
        if len(values) > 1:
            yield f"several {side}"
            if len(values) > MOST[side]:
                yield f"more than {MOST[side]} {side}"
            if len({value.size for value in values}) > 1:
                yield f"{side} of several sizes"
    for op in function.ops:
        if op.op != "const":
            yield from _of_op(op)


def _of_op(op: Op) -> Iterator[str]:
    x, y = op.get("x"), op.get("y")
    yield f"{op.op}({', '.join(_typed(op, name) for name in sorted(op.arguments))})"
    for argument in TOLD.get(op.op, ()):
        yield f"{op.op} {argument} {_told(op, argument)}"
    if op.op == "concat" and len(op.arguments["values"].values) > MOST_JOINED:
        yield f"concat of more than {MOST_JOINED}"
    if op.op in BINARY and x and y:
        yield f"{op.op} of {_kind(x)} and {_kind(y)} {_against(x, y)}".rstrip()
    elif op.op == "matmul" and x and y:
        flags = " ".join(
            "turned" if _flat(op.constant(f"transpose_{side}")) == "true" else "as is"
            for side in "xy"
        )
        batch = "equal" if x.shape[:-2] == y.shape[:-2] else "other"
        of = f"{_kind(x)} and {_kind(y)} of rank {len(x.shape)}"
        yield f"matmul of {of}, {flags}, batches {batch}"
    elif op.op == "conv":
        weight = op.get("weight")
        assert weight is not None
        yield f"conv by {_kind(weight)}"
    elif op.op == "slice_by_size" and x:
        begin = op.constant("begin")
        size = op.constant("size")
        axes = [i for i, (b, s, d) in enumerate(zip(begin, size, x.shape, strict=True))
                if b or s != d]  # fmt: skip
        late = any(begin)
        yield f"slice_by_size on axis {_flat(axes)} {'behind' if late else 'from'} the beginning"
    elif op.op == "reshape" and x:
        yield f"reshape from rank {len(x.shape)} to rank {len(op.results[0].shape)}"


def _typed(op: Op, argument: str) -> str:
    """The argument's name, and its type if it differs from x's: epsilon:fp32."""
    value, x = op.get(argument), op.get("x")
    other = value is not None and x is not None and value.dtype != x.dtype
    return f"{argument}:{value.dtype}" if other and value and value.dtype in FLOATS else argument


def _told(op: Op, argument: str) -> str:
    """A constant argument; axes as they count from the front, with the rank: 3 of 4."""
    value, x = op.constant(argument), op.get("x" if "x" in op.arguments else "values")
    if argument not in ("axis", "axes") or value is None or x is None:
        return _flat(value)
    rank = len(x.shape)
    axes = value if isinstance(value, list) else [value]
    return f"{_flat([axis % rank for axis in axes])} of {rank}"


def _kind(value: Value) -> str:
    if not value.baked:
        return "runtime"
    return "scalar" if value.size == 1 else "blob"


def _against(x: Value, y: Value) -> str:
    """The comparison of two operands' axes: =, < or > for each axis."""
    if len(x.shape) != len(y.shape) or "scalar" in (_kind(x), _kind(y)):
        return ""
    return "".join("=" if a == b else "<" if a < b else ">"
                   for a, b in zip(x.shape, y.shape, strict=True))  # fmt: skip


def _flat(value: object) -> str:
    if isinstance(value, list | tuple):
        return ",".join(_flat(v) for v in value)
    return str(value).lower() if isinstance(value, bool) else str(value)
