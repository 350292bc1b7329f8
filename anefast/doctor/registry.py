"""All that doctor can try, in order, and which of it training cannot do without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from anefast.doctor import (
    checks,
    forms,
    functions,
    limits,
    ops,
    ports,
    probes,
    rates,
    sums,
    targets,
)
from anefast.doctor.result import Check, Result
from anefast.runtime.doctor_facts import Learned

MOST = ("most_inputs", "most_outputs")


def usual() -> list[Check]:
    """The checks of every run."""
    return [*ops.checks(), *checks.checks(), *ports.checks()]


def probing() -> list[Check]:
    """The checks that --probe adds, minutes on a device: published measurements once more, and
    experiments that settle disputed facts."""
    published = [*probes.checks(), *ports.probes()]
    disputed = [*sums.checks(), *functions.checks(), *limits.checks(), *forms.checks()]
    return [*published, *disputed, *targets.checks(), *rates.checks()]


def everything() -> list[Check]:
    return [*usual(), *probing()]


def probed(learned: Learned, results: Sequence[Result]) -> Learned:
    """`learned` with what the probes say of ports: the most of each side of a program."""
    words = (word for r in results for word in r.facts.get("numbers", ()))
    found = dict(word.split("=") for word in words if word.startswith(MOST))
    inputs, outputs = (float(found.get(name, 0)) for name in MOST)
    return replace(learned, most_inputs=inputs, most_outputs=outputs)


def learn(results: Sequence[Result]) -> Learned:
    """The facts about a device that follow from the usual checks. Training needs each operation
    it uses, results where they belong, and one way of each kind to hand over values and weights."""
    passed = {r.name for r in results if r.passed}
    tried = {r.name for r in results}

    def any_of(*names: str) -> bool:
        return not tried.intersection(names) or bool(passed.intersection(names))

    broken = [name for op in sorted(ops.used()) if (name := f"op {op}") in tried - passed]
    broken += [
        name for name in ("dialects", "dispatch", "sorted outputs") if name in tried - passed
    ]
    if "ports several" in passed and "sorted inputs" in tried - passed:
        broken.append("sorted inputs")
    if not any_of("ports several", "ports packed", "ports padded"):
        broken.append("ports")
    if not any_of("weights const", "weights packed", "weights params"):
        broken.append("weights")
    facts: dict[str, tuple[str, ...]] = {}
    for result in results:
        for name, values in result.facts.items():
            facts[name] = (*facts.get(name, ()), *values)
    latency = [n.value for r in results if r.name == "dispatch" for n in r.numbers]
    return Learned(
        tuple(broken),
        facts.get("dialects", ()),
        facts.get("weights", ()),
        facts.get("ports", ()),
        latency[0] if latency else 0.0,
        facts.get("seen", ()),
    )
