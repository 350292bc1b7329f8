"""ANE071 to ANE080, ANE096, ANE106: where fp16 ends. What is known of a range decides, no guess."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from anefast.mil.lint.checks.base import Finding, Platform, found, function_check
from anefast.mil.lint.checks.operations import summed
from anefast.mil.lint.source import Function, Op, Source, Value

PRODUCT_END = 32768.0
HALF_MAX, HALF_NORMAL, HALF_LEAST = 65504.0, 2.0**-14, 2.0**-25
MASK = 60000.0
SAFE_RMS = 32.0  # an rms that a sum of squares should survive; activations beyond are rare
RESOLVED = 7.63e-6
EXP_END = 11.094
DROPPED_FROM, SUBNORMAL = -17, -14  # exponents: of a product, and of a subnormal factor
PRODUCTS = ("conv", "matmul", "linear")
Range = tuple[float, float]
UNKNOWN: Range = (-math.inf, math.inf)
BOUNDED: dict[str, Range] = {
    "softmax": (0, 1), "sigmoid": (0, 1), "tanh": (-1, 1), "erf": (-1, 1), "softsign": (-1, 1),
    "sin": (-1, 1), "cos": (-1, 1), "sign": (-1, 1), "atan": (-1.571, 1.571), "relu6": (0, 6),
    "sigmoid_hard": (0, 1),
}  # fmt: skip
SAME = frozenset(
    """reshape transpose identity slice_by_size slice_by_index expand_dims squeeze tile split
    reverse reduce_max reduce_min reduce_mean""".split()
)


def ranges(function: Function) -> dict[int, Range]:
    """The interval of each value over all possible inputs, by id(value)."""
    known: dict[int, Range] = {}
    for value in function.values:
        if value.range is not None:
            known[id(value)] = value.range[:2]
    for op in function.ops:
        r = _range(op, known)
        for value in op.results:
            known[id(value)] = r
    return known


def _range(op: Op, known: dict[int, Range]) -> Range:
    def of(name: str) -> Range:
        value = op.get(name)
        return known.get(id(value), UNKNOWN) if value is not None else UNKNOWN

    if op.op in BOUNDED:
        return BOUNDED[op.op]
    x = of("x")
    if op.op in SAME:
        return x
    if op.op == "clip":
        low, high = op.constant("alpha"), op.constant("beta")
        if isinstance(low, float) and isinstance(high, float):
            return low, high
    if op.op == "relu":
        return max(x[0], 0), max(x[1], 0)
    if op.op == "maximum":
        return max(x[0], of("y")[0]), max(x[1], of("y")[1])
    if op.op == "minimum":
        return min(x[0], of("y")[0]), min(x[1], of("y")[1])
    if op.op == "mul" and (_normalises(op, "x", "y") or _normalises(op, "y", "x")):
        return -1.0, 1.0
    if op.op == "mul" and all(map(math.isfinite, (*x, *of("y")))):
        corners = [a * b for a in x for b in of("y")]
        return min(corners), max(corners)
    if op.op == "add":
        return x[0] + of("y")[0], x[1] + of("y")[1]
    if op.op == "concat" and (values := op.arguments.get("values")):
        parts = [known.get(id(v), UNKNOWN) for v in values.values]
        return min(p[0] for p in parts), max(p[1] for p in parts)
    if op.op == "sub":  # x - max(x) over x: what a softmax written out does
        y = op.get("y")
        made = y.producer if y is not None else None
        if made is not None and made.op == "reduce_max" and made.get("x") is op.get("x"):
            return -math.inf, 0.0
        return x[0] - of("y")[1], x[1] - of("y")[0]
    return UNKNOWN


def _normalises(op: Op, value: str, by: str) -> bool:
    """True if a product is x * (1 / max(|x|)), the maximum perhaps with a floor under it and a
    ceiling that no half is above."""
    x, made = op.get(value), _maker(op.get(by), "real_div")
    one = made.get("x") if made else None
    if made is None or one is None or not one.const or abs(one.scalar or 2.0) > 1:
        return False
    largest = made.get("y")
    while limited := _maker(largest, "maximum") or _maker(largest, "minimum"):
        sides = [limited.get("x"), limited.get("y")]
        limit = next((v.scalar for v in sides if v is not None and v.scalar is not None), None)
        if limited.op == "minimum" and (limit is None or limit < HALF_MAX):
            return False
        largest = next((v for v in sides if v is not None and not v.const), None)
    most = _maker(largest, "reduce_max")
    size = _maker(most.get("x"), "abs") if most else None
    return size is not None and size.get("x") is x


def _maker(value: Value | None, op: str) -> Op | None:
    """The operation that makes a value, if it is of this kind."""
    made = value.producer if value is not None else None
    return made if made is not None and made.op == op else None


@function_check("ANE071", "ANE079", "ANE106")
def overflows(source: Source, function: Function, target: Platform) -> Iterator[Finding]:
    known = ranges(function)
    for op in function.ops:
        if op.op in PRODUCTS:
            a = op.get("x")
            b = op.get("y") if op.op == "matmul" else op.get("weight")
            largest = [max(map(abs, known.get(id(v), UNKNOWN))) for v in (a, b)]
            bound = summed(op) * largest[0] * largest[1]
            if all(map(math.isfinite, largest)) and bound >= PRODUCT_END:
                yield found(
                    "ANE071", op.at, f"{summed(op)} terms of up to {largest[0] * largest[1]:g}"
                )
            if all(largest) and sum(map(exponent, largest)) <= DROPPED_FROM:
                yield found("ANE106", op.at, f"factors of up to {largest[0]:g} and {largest[1]:g}")
        elif op.op == "exp":
            x = op.get("x")
            high = known.get(id(x), UNKNOWN)[1]
            if high > EXP_END:
                said = "an unknown range" if math.isinf(high) else f"up to {high:g}"
                yield found("ANE079", op.at, f"exp of {said}")


def exponent(size: float) -> float:
    """The exponent of a factor of this magnitude, as the fixed point of products counts it."""
    return max(math.frexp(size)[1] - 1, SUBNORMAL) if math.isfinite(size) else math.inf


def scale_of(value: Value | None) -> float:
    """The constant by which a value was just scaled; 1 if it was not."""
    made = value.producer if value is not None else None
    if made is None or made.op not in ("mul", "real_div"):
        return 1.0
    for name in ("y", "x"):
        factor = made.get(name)
        if factor is not None and factor.const and factor.scalar:
            if made.op == "mul":
                return abs(factor.scalar)
            return 1 / abs(factor.scalar) if name == "y" else 1.0
    return 1.0


@function_check("ANE072")
def squares(source: Source, function: Function, target: Platform) -> Iterator[Finding]:
    known = ranges(function)
    for op in function.ops:
        x = op.get("x")
        if x is None or not op.results:
            continue
        square = x.producer
        if op.op in ("reduce_sum_square", "reduce_l2_norm"):
            root: Value | None = x
        elif op.op in ("reduce_sum", "reduce_mean") and square is not None and _squares(square):
            root = square.get("x")
        else:
            continue
        n = x.size // max(op.results[0].size, 1)
        largest = max(map(abs, known.get(id(root), UNKNOWN)))
        limit = math.sqrt(HALF_MAX / max(n, 1)) / scale_of(root)
        if limit < min(SAFE_RMS, largest):
            yield found("ANE072", op.at, f"{n} squares overflow from an rms of {limit:.3g} on")


def _squares(op: Op) -> bool:
    return op.op == "square" or (op.op == "mul" and op.get("x") is op.get("y"))


@function_check("ANE073", "ANE074", "ANE075", "ANE080")
def constants(source: Source, function: Function, target: Platform) -> Iterator[Finding]:
    told = {p.at for p in source.problems if p.fault == "range"}
    for value in function.values:
        if value.range is None or value.dtype not in ("fp16", "fp32"):
            continue
        low, high, least = value.range
        spelled = source.spelled(value.span)
        if re.search(r"\bnan\b", spelled):
            yield found("ANE080", value.at, f"{value.name or 'a constant'} holds NaN")
        elif not (math.isfinite(low) and math.isfinite(high)):
            inside = [at for at in told if value.span[0] <= source.offset(at) < value.span[1]]
            if not inside:
                yield found("ANE080", value.at, f"{value.name or 'a constant'} holds an infinity")
        elif value.dtype == "fp32" and max(-low, high) > HALF_MAX and _reaches_half(value):
            yield found("ANE073", value.at, f"{value.name} goes to {max(-low, high):g}")
        elif low <= -MASK and any(op.op in ("add", "sub", "select") for op in value.users):
            yield found("ANE074", value.at, f"a mask of {low:g}")
        if least < HALF_NORMAL and any(op.op in PRODUCTS for op in value.users):
            yield found("ANE075", value.at, f"{value.name} holds {least:g}")


def _reaches_half(value: Value) -> bool:
    return any(v.dtype == "fp16" for op in value.users for v in op.results)


@function_check("ANE076", "ANE077", "ANE078")
def small(source: Source, function: Function, target: Platform) -> Iterator[Finding]:
    for value in function.values:
        if not value.const or value.shape or value.dtype not in ("fp16", "fp32"):
            continue
        literal = _literal(source.spelled(value.span))
        number = value.scalar
        if number is None or literal is None:
            continue
        if value.dtype == "fp16" and number == 0 and re.search("[1-9]", literal.partition("e")[0]):
            yield found("ANE076", value.at, f"{literal} is 0 in fp16")
        elif re.fullmatch(r"-?0\.00\d{4}", literal) and math.log2(abs(number) or 1) % 1:
            yield found("ANE078", value.at, f"{literal} looks printed by %f")
    for op in function.ops:
        epsilon = op.get("epsilon") if op.op in ("rsqrt", "log") else None
        if epsilon is not None and epsilon.scalar is not None and epsilon.scalar < RESOLVED:
            yield found("ANE077", op.at, f"an epsilon of {epsilon.scalar:g}")


def _literal(statement: str) -> str | None:
    """The number as it is written, of a scalar constant or an inline literal."""
    numbers = re.findall(r"\(\s*([-+]?[0-9.][0-9a-zA-Z.+-]*)\s*\)", statement)
    return numbers[-1].lower() if numbers else None


@function_check("ANE096")
def tables(source: Source, function: Function, target: Platform) -> Iterator[Finding]:
    for op in function.ops:
        if op.op in ("gelu", "silu"):
            yield found("ANE096", op.at, f"{op.op} is read from a table")
