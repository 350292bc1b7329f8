"""coremltools as judge of whole programs: chains of calls, each on results of others, right and
wrong ones, built with its builder and read as text by us.

Both must take the same calls with the same result types. Where they part is in DISAGREEMENTS, each
row with its reason and an example; nothing outside of it may differ. Single calls in greater number
are judged in test_mil_types.py.
"""

from __future__ import annotations

import random
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from anefast import _C
from tests.mil_calls import MAKERS, Call, literal, program, spelled
from tests.test_mil_types import judged

pytest.importorskip("coremltools", reason="coremltools is not installed (extra: oracles)")

PROGRAMS = 320
CALLS = 5
Types = list[tuple[str, tuple[int, ...]]]
ITS_DTYPES = {"fp16", "fp32", "int32", "bool", "int8", "uint8", "int16", "uint16"}


# What coremltools takes and we refuse: when that is, why we do, and a call that shows it.
Row = tuple[Callable[[Call, Types], bool], str, Call]


def of(op: str, dims: list[int], **constants: Any) -> Call:
    return op, {"x": ("fp16", dims)}, constants


def i32(*values: int) -> Any:
    return np.array(values, np.int32)


DISAGREEMENTS: dict[str, Row] = {
    "rank": (
        lambda c, out: any(len(s) > 5 for _, s in out),
        "results of 6 dimensions: MIL has them, the device has 5 at most",
        of("expand_dims", [2, 3, 2, 3, 2], axes=i32(0)),
    ),
    "empty": (
        lambda c, out: any(0 in s for _, s in out),
        "results without elements: MIL has them, a surface must have some",
        of("slice_by_index", [4, 4], begin=i32(2, 0), end=i32(2, 4)),
    ),
    "groups": (
        lambda c, out: c[0] == "conv" and bool(c[2]["weight"].shape[0] % c[2]["groups"]),
        "conv whose groups do not divide the outputs: it looks at the inputs only",
        of("conv", [1, 4, 5, 5], weight=np.zeros((3, 2, 1, 1), np.float16), groups=np.int32(2)),
    ),
    "zero": (
        lambda c, out: (
            c[0] == "reshape" and 0 in c[2]["shape"] and len(c[2]["shape"]) != len(first(c)[1])
        ),
        "reshape with a 0 in a shape of another rank: it has a meaning of its own for that",
        of("reshape", [2, 3], shape=i32(0, -1, 1)),
    ),
    "one": (
        lambda c, out: c[0] == "slice_by_index" and 1 in first(c)[1],
        "slice_by_index of [0:0] in a dimension of 1: it finds one element, we none",
        of("slice_by_index", [1, 4], begin=i32(0, 0), end=i32(0, 4)),
    ),
    "axis": (
        lambda c, out: (
            c[0] == "softmax" and not -len(first(c)[1]) <= int(c[2]["axis"]) < len(first(c)[1])
        ),
        "softmax over an axis that is not there: it does not look",
        of("softmax", [2, 3], axis=np.int32(5)),
    ),
}


def first(call: Call) -> tuple[str, list[int]]:
    given: Any = next(iter(call[1].values()))
    return given[0] if isinstance(given, list) else given


class Chain:
    """A program that grows call by call, in both forms. Values are (name, dtype, shape)."""

    def __init__(self, r: random.Random) -> None:
        self.r = r
        self.inputs: list[tuple[str, str, tuple[int, ...]]] = []
        self.values: list[tuple[str, str, tuple[int, ...]]] = []
        self.vars: dict[str, Any] = {}
        self.statements: list[str] = []

    def operand(self, dtype: str, shape: tuple[int, ...]) -> tuple[str, str, tuple[int, ...]]:
        """A value of that type: one there is, mostly, else a new input."""
        fits = [v for v in self.values if v[1:] == (dtype, shape)]
        if fits and self.r.random() < 0.8:
            return self.r.choice(fits)
        value = (f"i{len(self.inputs)}", dtype, shape)
        self.inputs.append(value)
        return value


def reshaped(call: Call, values: list[tuple[str, str, tuple[int, ...]]], r: random.Random) -> Call:
    """The call on a value there is, where the maker left the shape of x open."""
    op, tensors, constants = call
    free = op in ("relu", "tanh", "abs", "square", "exp", "sigmoid", "softsign", "identity")
    if free and values and "x" in tensors:
        _, dtype, shape = r.choice(values)
        return op, {"x": (dtype, list(shape))}, constants
    return call


def build(seed: int) -> Counter[str]:
    """Builds one program in both forms, comparing call by call; counts what happened."""
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    r = random.Random(seed)
    chain, counts = Chain(r), Counter[str]()
    plan: list[tuple[Call, list[Any]]] = []
    known: list[tuple[str, str, tuple[int, ...]]] = []
    while len(plan) < CALLS:
        call = reshaped(r.choice(MAKERS)(r), known, r)
        named: list[Any] = []
        for given in call[1].values():
            several = given if isinstance(given, list) else [given]
            chosen = [chain.operand(dtype, tuple(shape)) for dtype, shape in several]
            named.append(chosen if isinstance(given, list) else chosen[0])
            known += chosen
        results = judged(call)
        plan.append((call, named))
        names = [f"v{len(plan)}_{k}" for k in range(len(results or []))]
        text_of = statement(call, named, results, names)
        if results is None:
            counts["refused"] += 1
            wrong = statement(call, named, [("string", ())], ["wrong"])
            assert refusal(chain, [wrong]) not in (None, "declared"), wrong
            continue
        error = refusal(chain, [text_of])
        if error is not None:
            reasons = [k for k, (holds, *_) in DISAGREEMENTS.items() if holds(call, results)]
            assert reasons, f"coremltools gives {results}:\n{text_of}\n{error}"
            counts.update(reasons)
            continue
        counts["accepted"] += 1
        chain.statements.append(text_of)
        made = [(n, *t) for n, t in zip(names, results, strict=True)]
        chain.values += [v for v in made if v[1] in ITS_DTYPES]
        known += chain.values[-len(made) :]
    if chain.statements:
        whole(chain, plan, ct, mb, types)
    return counts


def statement(call: Call, named: list[Any], results: Types | None, names: list[str]) -> str:
    op, tensors, constants = call
    arguments = []
    for argument, values in zip(tensors, named, strict=True):
        listed = f"({', '.join(v[0] for v in values)})" if isinstance(values, list) else values[0]
        arguments.append(f"{argument} = {listed}")
    arguments += [f"{k} = {literal(v)}" for k, v in constants.items()]
    outs = [f"{spelled(*t)} {n}" for t, n in zip(results or [], names, strict=False)]
    return f"{', '.join(outs)} = {op}({', '.join(arguments)});"


def text(chain: Chain, more: list[str]) -> str:
    inputs = ", ".join(f"{spelled(t, s)} {n}" for n, t, s in chain.inputs)
    lines = "\n".join([*chain.statements, *more])
    last = (more or chain.statements)[-1].split(" = ")[0].split()[-1]
    return f"program(1.3)\n{{\nfunc main<ios18>({inputs}) {{\n{lines}\n}} -> ({last});\n}}\n"


def refusal(chain: Chain, more: list[str]) -> str | None:
    """Why we refuse the program with these statements; None where we take it, `declared` where
    only the declared type is wrong."""
    try:
        _C.check(text(chain, more))
    except _C.MILError as error:
        said = str(error)
        return "declared" if " declared" in said or " results of" in said else said
    return None


def whole(chain: Chain, plan: list[Any], ct: Any, mb: Any, types: Any) -> None:
    """The accepted calls as one program of coremltools: it must be as sound and as typed."""
    seen: dict[str, tuple[str, tuple[int, ...]]] = {}
    kept = {s.split(" = ")[0].split()[-1].split("_")[0] for s in chain.statements}

    def body(*inputs: Any) -> Any:
        at = dict(zip([n for n, _, _ in chain.inputs], inputs, strict=True))
        last = inputs[0]
        for i, ((op, tensors, constants), named) in enumerate(plan):
            if f"v{i + 1}" not in kept:
                continue
            values = {
                k: [at[n[0]] for n in v] if isinstance(v, list) else at[v[0]]
                for k, v in zip(tensors, named, strict=True)
            }
            out = getattr(mb, op)(**values, **constants)
            for j, o in enumerate(out if isinstance(out, list | tuple) else [out]):
                at[f"v{i + 1}_{j}"] = last = o
                seen[f"v{i + 1}_{j}"] = (
                    types.builtin_to_string(o.dtype),
                    tuple(int(d) for d in o.shape),
                )
        return last

    specs = [mb.TensorSpec(shape=s, dtype=types.string_to_builtin(t)) for _, t, s in chain.inputs]
    names = ", ".join(n for n, _, _ in chain.inputs)
    mb.program(input_specs=specs, opset_version=ct.target.iOS18)(
        eval(f"lambda {names}: body({names})", {"body": body})
    )
    (main,) = _C.check(text(chain, []))["functions"]
    ours = {n: (t, tuple(s)) for _, results in main["operations"] for n, t, s in results}
    assert ours == seen
    outlined = _C.outline(text(chain, []).encode())
    assert outlined["problems"] == [] and outlined["complete"]


def test_programs_agree():
    counts = Counter[str]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in range(PROGRAMS):
            counts += build(seed)
    print(dict(counts))
    assert counts["accepted"] > 2 * PROGRAMS and counts["refused"] > 50
    assert sum(counts[k] for k in DISAGREEMENTS) < 0.1 * counts.total()


@pytest.mark.parametrize("name", DISAGREEMENTS)
def test_each_disagreement_is_one(name):
    """The day coremltools refuses it too, or we take it, the row goes."""
    holds, reason, call = DISAGREEMENTS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = judged(call)
    assert results is not None and holds(call, results), reason
    with pytest.raises(_C.MILError):
        _C.check(program(call, results))
