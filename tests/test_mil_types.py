"""coremltools as judge of the type checker: random single-op programs, right ones and wrong ones.

Where its builder accepts a call, the same call as MIL text must be accepted with its result types
and refused with any other; where it refuses, so must we. The exceptions are in stricter().
"""

from __future__ import annotations

import random
import warnings
from typing import Any

import pytest

from anefast import _C
from tests.mil_calls import MAKERS, Call, program

pytest.importorskip("coremltools", reason="coremltools is not installed")

# ---- the judge's side ----


def judged(call: Call) -> list[tuple[str, tuple[int, ...]]] | None:
    """Result types by coremltools, None where it refuses."""
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    op, tensors, constants = call
    flat = [
        g for given in tensors.values() for g in (given if isinstance(given, list) else [given])
    ]
    seen: list[tuple[str, tuple[int, ...]]] = []
    refused: list[Exception] = []

    def body(*inputs: Any) -> Any:
        left = iter(inputs)
        named = {
            k: [next(left) for _ in g] if isinstance(g, list) else next(left)
            for k, g in tensors.items()
        }
        try:
            out = getattr(mb, op)(**named, **constants)
        except Exception as e:
            refused.append(e)
            return inputs[0]
        for o in out if isinstance(out, (list, tuple)) else [out]:
            seen.append((types.builtin_to_string(o.dtype), tuple(int(d) for d in o.shape)))
        return out

    specs = [mb.TensorSpec(shape=s, dtype=types.string_to_builtin(t)) for t, s in flat]
    names = ", ".join(f"i{k}" for k in range(len(specs)))
    mb.program(input_specs=specs, opset_version=ct.target.iOS18)(
        eval(f"lambda {names}: body({names})", {"body": body})
    )
    return None if refused else seen


def stricter(call: Call, results: list[tuple[str, tuple[int, ...]]]) -> bool:
    """Where we refuse on purpose: empty or rank-6 results, and what it does not look at."""
    op, tensors, constants = call
    if any(0 in s or len(s) > 5 for _, s in results):
        return True
    if op == "conv":  # more groups than they divide the outputs into
        return bool(constants["weight"].shape[0] % constants["groups"])
    if (
        op == "reshape"
    ):  # a 0 keeps a dimension; of a shape of another rank it makes sense of its own
        return 0 in constants["shape"] and len(constants["shape"]) != len(tensors["x"][1])
    if op == "softmax":  # it does not check the axis
        return not -len(results[0][1]) <= constants["axis"] < len(results[0][1])
    if op == "slice_by_index":  # it finds one element in [0:0] of a dimension of one
        return 1 in tensors["x"][1]
    return op == "select"  # it forgets the shape of cond; equal here, and in our rule it broadcasts


@pytest.mark.parametrize("seed", range(4))
def test_types_agree(seed: int) -> None:
    r = random.Random(seed)
    counts = {"accepted": 0, "refused": 0, "stricter": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(200):
            call = r.choice(MAKERS)(r)
            results = judged(call)
            if results is None:
                counts["refused"] += 1
                text = program(call, [("string", ())])
                with pytest.raises(_C.MILError) as refusal:
                    _C.check(text)
                if " declared" in str(refusal.value) or " results of" in str(refusal.value):
                    pytest.fail(
                        f"coremltools refuses this, we only its type:\n{text}{refusal.value}"
                    )
                continue
            text = program(call, results)
            try:
                _C.check(text)
            except _C.MILError as e:
                if not stricter(call, results):
                    pytest.fail(f"coremltools accepts this as {results}:\n{text}{e}")
                counts["stricter"] += 1
                continue
            counts["accepted"] += 1
            dtype, dims = results[-1]
            wrong = [(dtype, (*dims, 2)), ("int8" if dtype != "int8" else "fp16", dims)]
            wrong += [(dtype, (*dims[:-1], dims[-1] + 1))] if dims else []
            for other in wrong:
                text = program(call, [*results[:-1], other])
                with pytest.raises(_C.MILError, match=r"declared|fewer|at most"):
                    _C.check(text)
    print(counts)
    assert counts["accepted"] > 60 and counts["refused"] > 5
