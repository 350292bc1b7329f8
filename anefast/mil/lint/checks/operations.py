"""ANE030 to ANE060, ANE102 to ANE105: operations that are refused alone, or want an argument."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from anefast.chips.behaviour import CHIPS
from anefast.mil.lint.checks.base import Finding, Platform, found, function_check
from anefast.mil.lint.edits import Edit, Rewriter
from anefast.mil.lint.source import Function, Op, Source
from anefast.mil.rules import MAX_TERMS

REFUSED = {  # operation -> the rule that speaks of it
    "gather": "ANE040", "gather_along_axis": "ANE040", "gather_nd": "ANE040",
    "scatter": "ANE041", "scatter_along_axis": "ANE041", "scatter_nd": "ANE041",
    "sin": "ANE042", "cos": "ANE042",
    "logical_and": "ANE045", "logical_or": "ANE045", "logical_xor": "ANE045",
    "reduce_prod": "ANE046", "neg": "ANE047",
    "avg_pool": "ANE048", "max_pool": "ANE048", "l2_pool": "ANE048",
    "batch_norm": "ANE049", "instance_norm": "ANE049",
    "reduce_mean": "ANE053", "concat": "ANE054", "constexpr_affine_dequantize": "ANE055",
    "read_state": "ANE060", "write_state": "ANE060", "coreml_update_state": "ANE060",
} | dict.fromkeys(
    "mod tan asin acos sinh cosh atanh acosh asinh cumsum one_hot band_part".split(), "ANE043"
)  # fmt: skip
FOREIGN = frozenset(REFUSED)
EPSILON = "0x1.0cp-17"  # AmiraniLabs/libane: what rsqrt and log resolve
DEFAULT_EPSILON = {"rsqrt": EPSILON, "log": EPSILON, "inverse": "0x1.a38p-14"}
NATIVE_TILES = (1, 2, 3, 4, 8)


@function_check(*sorted(set(REFUSED.values())))
def refused(source: Source, function: Function, target: Platform) -> Iterator[Finding]:
    for op in function.ops:
        if op.op in REFUSED:
            edits = _minus(source, function, op) if op.op == "neg" else []
            yield found(REFUSED[op.op], op.at, f"{op.op} is not to be relied on", *edits)


def _minus(source: Source, function: Function, op: Op) -> list[Edit]:
    if set(op.arguments) != {"x"} or not op.results or op.results[0].dtype not in ("fp16", "fp32"):
        return []
    rewriter = Rewriter(source, function, op)
    minus = rewriter.constant("minus_one", op.results[0].dtype, "-0x1p+0")
    return [
        rewriter.before(minus.statement), Edit(rewriter.operation, "mul"),
        rewriter.argument("y", minus.name),
    ]  # fmt: skip


@function_check("ANE030", "ANE050")
def needed(source: Source, function: Function, target: Platform) -> Iterator[Finding]:
    for op in function.ops:
        if not op.results:
            continue
        dtype = op.results[0].dtype
        if op.op in DEFAULT_EPSILON and "epsilon" not in op.arguments:
            edits = _given(source, function, op, "epsilon", dtype, DEFAULT_EPSILON[op.op])
            yield found("ANE030", op.at, f"{op.op} has no epsilon", *edits)
        if op.op == "gelu" and "mode" not in op.arguments:
            edits = _given(source, function, op, "mode", "string", '"EXACT"')
            yield found("ANE050", op.at, "gelu has no mode", *edits)


def _given(
    source: Source, function: Function, op: Op, name: str, dtype: str, payload: str,
    shape: tuple[int, ...] = (),
) -> list[Edit]:  # fmt: skip
    """One more argument, as a named constant."""
    rewriter = Rewriter(source, function, op)
    constant = rewriter.constant(name, dtype, payload, shape)
    return [rewriter.before(constant.statement), rewriter.argument(name, constant.name)]


@function_check("ANE032", "ANE033", "ANE039")
def conv(source: Source, function: Function, target: Platform) -> Iterator[Finding]:
    for op in function.ops:
        if op.op != "conv":
            continue
        if "bias" in op.arguments:
            yield found("ANE032", op.arguments["bias"].at, "conv has a bias")
        weight = op.get("weight")
        dims = len(weight.shape) - 2 if weight is not None else 2
        defaults = {
            "strides": ("int32", [1] * dims), "pad_type": ("string", '"valid"'),
            "pad": ("int32", [0] * (2 * dims)), "dilations": ("int32", [1] * dims),
            "groups": ("int32", 1),
        }  # fmt: skip
        missing = [name for name in defaults if name not in op.arguments]
        if missing and dims > 0:
            edits = []
            for name in missing:
                dtype, value = defaults[name]
                shape = (len(value),) if isinstance(value, list) else ()
                edits += _given(source, function, op, name, dtype, str(value), shape)
            yield found("ANE033", op.at, f"conv leaves {', '.join(missing)} out", *edits)
        widest = int((target.chip or CHIPS["m1"]).switches["kernel"].value)
        if weight is not None and dims > 0 and weight.shape[-1] > widest:
            yield found(
                "ANE039", op.at, f"a kernel {weight.shape[-1]} wide, {widest} is the widest"
            )


@function_check("ANE034", "ANE035", "ANE036", "ANE037")
def runtime_weights(source: Source, function: Function, target: Platform) -> Iterator[Finding]:
    for op in function.ops:
        weight, x = op.get("weight"), op.get("x")
        if op.op != "conv" or weight is None or x is None or weight.baked:
            continue
        at = op.arguments["weight"].at
        if not weight.is_input:
            made = f", made by {weight.producer.op}" if weight.producer else ""
            yield found("ANE034", at, f"the weight {weight.name} is computed{made}")
        else:
            yield found("ANE035", at, f"the weight {weight.name} is an input")
        if x.shape and x.shape[0] > 1:
            yield found("ANE036", at, f"a runtime weight for {x.shape[0]} sequences")
        groups = op.constant("groups")
        if isinstance(groups, int) and groups > 1:
            yield found("ANE037", at, f"a runtime weight in {groups} groups")


MAX_MATMUL_TERMS = 32768
TAKE_WIDE_MATMULS = ("m4", "m6")


@function_check("ANE038")
def terms(source: Source, function: Function, target: Platform) -> Iterator[Finding]:
    for op in function.ops:
        n = summed(op)
        if op.op == "matmul" and MAX_TERMS < n <= MAX_MATMUL_TERMS:
            if target.chip is None or not target.family(*TAKE_WIDE_MATMULS):
                said = f"matmul sums {n} terms, which M4 and M6 take; disputed elsewhere"
                yield replace(found("ANE038", op.at, said), level="warning")
        elif n > MAX_TERMS:
            yield found("ANE038", op.at, f"{op.op} sums {n} terms")


REFUSED_ROWS, REFUSED_TERMS = 128, 8192  # together, by a constant
COLUMN_UNIT = 16


@function_check("ANE102", "ANE103")
def by_constant(source: Source, function: Function, target: Platform) -> Iterator[Finding]:
    for op in function.ops:
        x, y = op.get("x"), op.get("y")
        if op.op != "matmul" or x is None or y is None or not y.baked or len(x.shape) < 2:
            continue
        rows = x.shape[-1 if op.constant("transpose_x") is True else -2]
        columns = op.results[0].shape[-1] if op.results else COLUMN_UNIT
        if rows == REFUSED_ROWS and summed(op) >= REFUSED_TERMS:
            yield found("ANE102", op.at, f"{rows} rows of {summed(op)} terms by a constant")
        if columns % COLUMN_UNIT:
            yield found("ANE103", op.at, f"{columns} columns of a constant")


def summed(op: Op) -> int:
    """The number of products that a conv, matmul or linear adds per result; 0 for others."""
    x, weight = op.get("x"), op.get("weight")
    if op.op == "conv" and weight is not None:
        n = 1
        for d in weight.shape[1:]:
            n *= d
        return n
    if op.op == "linear" and weight is not None and weight.shape:
        return weight.shape[-1]
    if op.op == "matmul" and x is not None and x.shape:
        turned = op.constant("transpose_x") is True and len(x.shape) > 1
        return x.shape[-2 if turned else -1]
    return 0


@function_check(
    "ANE044", "ANE051", "ANE052", "ANE057", "ANE056", "ANE058", "ANE059", "ANE104", "ANE105"
)
def arguments(source: Source, function: Function, target: Platform) -> Iterator[Finding]:
    for op in function.ops:
        if op.op == "cast" and op.constant("dtype") in ("int32", "int64", "uint32", "uint64"):
            yield found("ANE044", op.at, f"a cast to {op.constant('dtype')}")
        elif op.op == "softmax":
            yield from _softmax(op)
        elif op.op == "scaled_dot_product_attention":
            yield from _attention(op)
        elif op.op == "pad":
            yield from _pad(op)
        elif op.op == "clip":
            yield from _clip(op)
        elif op.op == "tile" and isinstance(reps := op.constant("reps"), list):
            odd = [r for r in reps if r not in NATIVE_TILES]
            if odd:
                yield found("ANE059", op.at, f"tile by {odd[0]}")


def _softmax(op: Op) -> Iterator[Finding]:
    x, axis = op.get("x"), op.constant("axis")
    if x is None or not isinstance(axis, int) or not -len(x.shape) <= axis < len(x.shape):
        return
    axis %= len(x.shape)
    if axis == 0 and len(x.shape) > 1:
        yield found("ANE051", op.at, f"softmax over axis {axis} of rank {len(x.shape)}")
    if x.shape[axis] & (x.shape[axis] - 1):
        yield found("ANE052", op.at, f"softmax of {x.shape[axis]}")


def _pad(op: Op) -> Iterator[Finding]:
    mode = op.constant("mode")
    if mode in ("reflect", "replicate"):
        yield found("ANE058", op.at, f"pad by {mode}")
    elif "constant_val" not in op.arguments:
        yield found("ANE104", op.at, "pad has no constant_val")


def _clip(op: Op) -> Iterator[Finding]:
    x = op.get("x")
    for bound in map(op.get, ("alpha", "beta")):
        if x is not None and bound is not None and bound.dtype != x.dtype:
            yield found("ANE105", op.at, f"a bound of {bound.dtype} for {x.dtype}")
            return


def _attention(op: Op) -> Iterator[Finding]:
    if "attn_mask" in op.arguments:
        yield found("ANE056", op.arguments["attn_mask"].at, "attn_mask is given")
    lengths = [
        v.shape[-2] for v in map(op.get, ("query", "key")) if v is not None and len(v.shape) > 1
    ]
    if lengths and (max(lengths) >= 4096 or (min(lengths) >= 512 and len(lengths) == 2)):
        yield found("ANE057", op.at, f"fused attention of {' by '.join(map(str, lengths))}")
