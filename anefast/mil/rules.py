"""Checks a program, when it is built, for what the ANE is known to refuse or misread.

The rules are those of the catalogue (lint/catalogue.py), which the errors name by id; here is how
they read on a graph, before there is text. Only what holds on every chip; limits of one chip belong
to plans (fuse/legal.py). The linter (lint/) says the same of any MIL text.
"""

from __future__ import annotations

from anefast.ir import OPS, Program, ShapeError, Tensor, baked
from anefast.mil.spelling import identifier

ROW = 32  # halves in the 64 bytes that device rows are padded to
MAX_RANK = 5
MAX_CHANNELS = 65536  # any size of axis 1
# Summed by one conv or matmul, on every chip: 32000 input channels of a conv were seen refused. M4
# and M6 take 32768 terms of a matmul; programs for any chip keep to what all take.
MAX_TERMS = 16384


class RuleError(ShapeError):
    """A program breaks the rule of the catalogue named by `rule`: "ANE018"."""

    def __init__(self, rule: str, where: str, expected: str, got: object, hint: str = "") -> None:
        if not hint:
            from anefast.mil.lint.catalogue import rule as find  # data, read only to be quoted

            hint = find(rule).rewrite.rstrip(".")
        super().__init__(where, expected, got, f"{hint} ({rule})")
        self.rule = rule


def check(program: Program) -> None:
    """Raises RuleError for the first rule that `program` breaks."""
    _ports(program)
    made = set(program.nodes)
    seen: set[Tensor] = set()
    for name, t in program.outputs:
        where = f"{program.name} {name}"
        if t not in made or t.is_leaf:
            hint = "return it from the program that computes it"
            raise RuleError("ANE004", where, "an output computed here", repr(t), hint)
        if t in seen:
            raise RuleError(
                "ANE002", where, "different outputs", f"{t!r} twice", "read one port twice"
            )
        seen.add(t)
    for t in program.nodes:
        if not t.is_leaf:
            _node(program.name, t)
        elif t.op == "constant" and not t.shape:
            _scalar(program.name, t)


def _ports(program: Program) -> None:
    for side in (program.inputs, program.outputs):
        names = [name for name, _ in side]
        if not names:
            raise RuleError("ANE026", program.name, "at least one input and one output", "none")
        if names != sorted(names):
            # Surfaces are bound in the order of sorted names: others would be swapped in silence.
            hint = "number them with leading zeros: a00_x, a01_y"
            raise RuleError("ANE018", program.name, "ports whose names sort in order", names, hint)
        for name, t in side:
            _port(f"{program.name} {name}", name, t)
    names = [name for name, _ in [*program.inputs, *program.outputs]]
    if len(set(names)) != len(names):
        raise RuleError("ANE002", program.name, "ports of different names", names)


def _port(where: str, name: str, t: Tensor) -> None:
    if name != identifier(name):
        raise RuleError("ANE019", where, "a name of letters, digits and _", repr(name))
    if t.dtype != "fp16":
        raise RuleError("ANE020", where, "fp16", t.dtype, "M1 and M2 take no other float")
    if not 1 <= t.rank <= MAX_RANK:
        raise RuleError("ANE012", where, f"rank 1 to {MAX_RANK}", f"rank {t.rank}")
    if t.shape[-1] % ROW:
        # Device rows start at multiples of 64 bytes; packed bytes agree with that only so.
        hint = f"pad the last axis to {-(-t.shape[-1] // ROW) * ROW}, or cut elsewhere"
        raise RuleError(
            "ANE024", where, f"a last axis that is a multiple of {ROW}", list(t.shape), hint
        )


def _node(program: str, t: Tensor) -> None:
    where = f"{program} {t.op} in {t.scope}" if t.scope else f"{program} {t.op}"
    record = OPS[t.op]
    if not record.device:
        raise RuleError(
            "ANE015", where, "device ops only", repr(t), "weight gradients are the CPU's"
        )
    if record.mil is None:
        raise RuleError(
            "ANE015", where, "simple ops", f"the composite {t.op}", "call ir.simplify first"
        )
    if t.rank > MAX_RANK:
        raise RuleError("ANE012", where, f"rank up to {MAX_RANK}", list(t.shape))
    if t.rank > 1 and t.shape[1] > MAX_CHANNELS:
        raise RuleError("ANE029", where, f"axis 1 up to {MAX_CHANNELS}", list(t.shape), "split it")
    terms = 0
    if t.op == "conv":
        weight = t.inputs[1]
        terms = weight.shape[1]
        if not baked(weight) and weight.op != "constant":
            # Taken on some chips for one sequence; from two on, the compiler crashed.
            hint = "write a product with data as matmul"
            raise RuleError("ANE034", where, "a conv weight that is baked", repr(weight), hint)
    elif t.op == "matmul":
        terms = t.inputs[0].shape[-2 if t.attrs["transpose_x"] else -1]
    if terms > MAX_TERMS:
        hint = "split the input channels and add the parts, or do it on the CPU"
        raise RuleError("ANE038", where, f"sums of up to {MAX_TERMS} terms", terms, hint)


def _scalar(program: str, t: Tensor) -> None:
    value = float(t.value)
    if value != 0 and abs(value) <= 2.0**-25:
        hint = "fp16 starts at 6e-8; choose a larger epsilon"
        raise RuleError("ANE076", program, "constants that fp16 does not round to 0", value, hint)
