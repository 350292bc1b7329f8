"""Checks a target's limits before a program is compiled, and names the limit.

`mil/rules.py` holds what is true of every chip; here are limits that differ from chip to chip, and
those that come from a plan as a whole. A caution is no refusal: reports about it contradict each
other, so the plan may be asked for, but `auto` prefers one without.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from anefast import mil
from anefast.chips.behaviour import CHIPS, Chip, chip_of
from anefast.fuse.count import PRODUCTS, Counter, StepCount
from anefast.fuse.lower import DoNotFit, Lowered, Port
from anefast.fuse.plan import Plan
from anefast.ir import Program, Tensor
from anefast.mil.forms import forms_of

# (inputs, outputs) of one program that were seen to work: in others' texts, or here by doctor.
PEERS = (5, 8), "the texts of maderix/ANE, Orion and others"
UNEQUAL = (
    "mechramc/Orion (M4 Max) has status 0x1d where they are not equal, imperatormk/ane-train (M1) "
    "zeros where inputs do not rise in bytes and outputs fall. Ours are sorted so, and their "
    "surfaces made equal; anefast doctor tries it"
)
SEEN = "anefast doctor on this machine"
MANY = {"many": ((64, 181), SEEN), "mixed": ((12, 16), SEEN)}
ELEMENTWISE = frozenset(
    "abs add clip exp maximum minimum mul pow real_div sigmoid square sub tanh".split()
)
MAX_COMPILES = 500  # per process, a guard: 119 to 312 and more were seen


@dataclass(frozen=True)
class Violation:
    """A limit that a plan breaks. `limit` fits a table; `message` is a line of its own; `rule` is
    the catalogue's (mil/lint), empty for what is no matter of chips."""

    limit: str
    message: str
    source: str
    rule: str = ""


@dataclass(frozen=True)
class Target:
    """A target of programs: a chip's limits, or the host's own, which has the newest chip's.

    dialects, weights, ports: what this very device was seen to take, in a plan's words; empty
    if unknown. seen: what else, as runtime/doctor_facts.py names it.
    """

    name: str
    chip: Chip
    dialects: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()
    most_ports: tuple[int, int] | None = None  # inputs and outputs that doctor counted

    def fitted(self, plan: Plan) -> Plan:
        """`plan` with this target's dialect, its longest axis, by which ports are split, the
        sizes of its surfaces, and a form of rotary embedding that it was seen to take."""
        dialect: str = self.chip.dialect
        if self.dialects and dialect not in self.dialects:
            dialect = self.dialects[0]
        exact = self is HOST or "exact" in self.seen
        rope: str = plan.rope
        if self.ropes and rope not in self.ropes and "rope=" not in plan.name:
            rope = self.ropes[0]
        return replace(
            plan,
            max_axis=int(self.chip.max_axis.value),
            dialect=dialect,  # type: ignore[arg-type]
            surfaces="exact" if exact else "equal",
            rope=rope,  # type: ignore[arg-type]
        )

    @property
    def ropes(self) -> tuple[str, ...]:
        """Forms of rotary embedding that this device was seen to take; empty: not tested."""
        return tuple(w.removeprefix("rope=") for w in self.seen if w.startswith("rope="))

    @property
    def doubts_ports(self) -> bool:
        """True if a program with several ports of several sizes may fail here, as far as is known.
        It is public evidence that says so of every chip; doctor says otherwise of a device."""
        return self is not HOST and "mixed" not in self.seen


HOST = Target("host", CHIPS["m5"])


class Known(Protocol):
    """Facts about a device that were found by trying it."""

    @property
    def dialects(self) -> tuple[str, ...]: ...
    @property
    def weights(self) -> tuple[str, ...]: ...
    @property
    def ports(self) -> tuple[str, ...]: ...
    @property
    def seen(self) -> tuple[str, ...]: ...
    @property
    def most_inputs(self) -> float: ...
    @property
    def most_outputs(self) -> float: ...


class Described(Protocol):
    """The part of a device that this file uses."""

    label: str
    description: str
    chip: Chip | None

    @property
    def learned(self) -> Known: ...


def target_of(device: Described) -> Target:
    """The limits for programs of this device."""
    if device.chip is None and device.label != "measured":
        return HOST
    chip = device.chip or chip_of(device.description)
    if chip.tried:
        return target_of_chip(chip)
    known = device.learned
    ways = known.dialects, known.weights, known.ports, known.seen
    most = int(known.most_inputs), int(known.most_outputs)
    return Target(chip.name, chip, *ways, most if all(most) else None)


def target_of_chip(chip: Chip) -> Target:
    """What programs for a chip that is not here must respect, as far as its table or a file of
    doctor's says."""
    return Target(chip.title, chip, **chip.tried, most_ports=chip.most_ports)


def check(
    plan: Plan, counter: Counter, target: Target, max_compiles: int = MAX_COMPILES
) -> tuple[list[Violation], StepCount | None]:
    """The reasons why `target` refuses `plan`, and the plan's counts where it can be made."""
    plan = target.fitted(plan)
    try:
        count = counter.count(plan)
    except ValueError as error:
        return [_not_lowered(error, counter.batch, target)], None
    found = [*unseen(plan, target), *violations([p.lowered for p in count.programs], target)]
    one = bool(target.ports) and "several" not in target.ports
    if one and counter.ranks and any(len(p.lowered.inputs) > 1 for p in count.programs):
        found.insert(  # first: what choose says where nothing else is legal
            0,
            Violation(
                "several inputs",
                "expected programs with one input, got adapters as inputs of their own. Hint: with "
                "data.batch 1 they ride beside the activations, plan weights=packed.",
                SEEN,
                "ANE025",
            ),
        )
    n = len(count.distinct)
    sets = 2 if plan.compile == "async" and count.compiles_per_update else 1
    loaded = target.chip.loaded_programs
    if target is not HOST and n * sets > loaded.value:
        found.append(
            Violation(
                f"{n * sets} programs > {loaded.value:.0f} loaded",
                f"expected at most {loaded.value:.0f} programs loaded at once, got {n * sets}. "
                "Hint: more layers per program.",
                loaded.source,
                "ANE093",
            )
        )
    if n > max_compiles:
        found.append(
            Violation(
                f"{n} programs > {max_compiles} compiles",
                f"expected at most {max_compiles} compiles per process, got {n} at the start "
                "alone. Hint: more layers per program.",
                "the guard MAX_COMPILES",
                "ANE092",
            )
        )
    return found, count


def violations(programs: Iterable[Lowered], target: Target) -> list[Violation]:
    """Limits on single programs that these break: one violation per limit, the first program's."""
    found: dict[str, Violation] = {}
    for lowered in programs:
        for violation in _of_program(lowered, target):
            found.setdefault(violation.limit.split(" ")[0], violation)
    return list(found.values())


def unseen(plan: Plan, target: Target) -> Iterable[Violation]:
    """Ways of `plan` to hand over values and weights that failed when this device was examined."""
    ports = target.ports and (*target.ports, *("padded" for w in target.seen if w == "padded"))
    asked = (
        ("weights", target.weights),
        ("norms", target.weights),
        ("ports", ports),
        ("rope", target.ropes),
    )
    for word, taken in asked:
        got = getattr(plan, word)
        if taken and got is not None and got not in taken:
            yield Violation(
                f"{word}={got}",
                f"expected {word} of {', '.join(taken)}, got {got}, which this device does not "
                "take. Hint: anefast doctor looks again.",
                SEEN,
            )


def refuse(programs: Iterable[Lowered], plan: Plan, target: Target) -> None:
    """Raises ValueError naming the first limit that `plan` breaks on `target`."""
    for violation in [*unseen(plan, target), *violations(programs, target)]:
        raise ValueError(
            f"[plan] {plan.name} cannot run on {target.name}: {violation.message} "
            f"({' '.join(filter(None, (violation.rule, violation.source)))})"
        )


def caution(count: StepCount, target: Target) -> str:
    """Why a legal plan may still be refused or go wrong on this chip; empty: no report says so."""
    chip, programs = target.chip, [p.lowered for p in count.programs]
    if target is HOST:
        return ""
    if (
        chip.several_inputs
        and "several" not in target.ports
        and any(len(p.inputs) > 1 for p in programs)
    ):
        return chip.several_inputs
    if count.plan.norm == "row":
        cap = math.sqrt(65504 / count.config.dim)
        return (
            "norm=row: squares of 256 and more are infinite where they are rounded to fp16, and so "
            f"are sums of squares from {cap:.0f} on, on average, where those are (ANEForge); a "
            "norm of such a stream is 0"
        )
    ports = [port for p in programs for port in p.inputs]
    if chip.slice_cap and any(r.begin[-1] for port in ports for r in port.regions):
        return (
            f"packed ports: what {chip.name} slices out of them turns to inf above "
            f"{chip.slice_cap.value:.0f} ({chip.slice_cap.source})"
        )
    return ""


def fullest(count: StepCount) -> tuple[int, int]:
    """The most inputs of any program, and the most outputs."""
    programs = [p.lowered for p in count.programs]
    return max(len(p.inputs) for p in programs), max(len(p.outputs) for p in programs)


def seen_ports(target: Target) -> tuple[tuple[int, int], str]:
    """(inputs, outputs) of one program that were seen to work on a target, and by whom: counted by
    doctor, else of its check of many ports, else in other people's programs."""
    if target.most_ports:
        return target.most_ports, f"anefast doctor, {target.chip.file or 'on this machine'}"
    return MANY.get(next((w for w in MANY if w in target.seen), ""), PEERS)


def crowded(count: StepCount, target: Target) -> str:
    """Why a legal plan has more ports, or ports of more sizes, than is sure to work on any chip;
    empty: it has not, or doctor saw as many work here."""
    if target is HOST:
        return ""
    programs = [p.lowered for p in count.programs]
    seen, whose = seen_ports(target)
    got = fullest(count)
    if got[0] > seen[0] or got[1] > seen[1]:
        return (
            f"many ports: a program with {got[0]} inputs or {got[1]} outputs, and no more than "
            f"{seen[0]} and {seen[1]} were seen to work ({whose})"
        )
    sides = [side for p in programs for side in (p.inputs, p.outputs)]
    sizes = max(len({math.prod(port.shape) for port in side}) for side in sides)
    if sizes > 1 and target.doubts_ports:
        return f"ports of {sizes} sizes on one side of a program: {UNEQUAL}"
    return ""


def laborious(count: StepCount, target: Target) -> str:
    """Why compiling a legal plan may take minutes; empty: no report says so of this chip."""
    cap = target.chip.quick_elementwise
    if target is HOST or cap is None:
        return ""
    worst = max(count.programs, key=lambda p: elementwise(p.lowered.program))
    got = elementwise(worst.lowered.program)
    if got <= cap.value:
        return ""
    return (
        f"slow compiles: {got} elementwise operations in {worst.name}, beyond {cap.value:.0f} of "
        f"which the time grows with about the 3.5th power ({cap.source})"
    )


def elementwise(program: Program) -> int:
    """The number of elementwise operations: each result comes from one number of each operand."""
    return sum(t.op in ELEMENTWISE for t in program.nodes)


def depth(program: Program) -> int:
    """The most products that follow one another."""
    deepest: dict[Tensor, int] = {}
    for t in program.nodes:
        before = max((deepest.get(x, 0) for x in t.inputs), default=0)
        deepest[t] = before + (t.op in PRODUCTS)
    return max(deepest.values(), default=0)


def _of_program(lowered: Lowered, target: Target) -> Iterable[Violation]:
    chip, name = target.chip, lowered.program.name
    for port in (*lowered.inputs, *lowered.outputs):
        channels, other = axes(port)
        for axis, got, cap, rule in (
            ("channels", channels, chip.max_channels, "ANE029"),
            ("axis", other, chip.max_axis, "ANE028"),
        ):
            if got > cap.value:
                yield Violation(
                    f"{axis} {got} > {cap.value:.0f}",
                    f"expected a port {'axis' if axis == 'axis' else 'of channels'} up to "
                    f"{cap.value:.0f}, got {got} in {port.name} of {name}. "
                    "Hint: fewer layers per program, or other weights or ports.",
                    cap.source,
                    rule,
                )
    deep = chip.max_depth
    if target is not HOST and deep and (got := depth(lowered.program)) > deep.value:
        yield Violation(
            f"depth {got} > {deep.value:.0f}",
            f"expected at most {deep.value:.0f} products in a row, got {got} in {name}. "
            "Hint: fewer layers per program.",
            deep.source,
        )
    try:
        mil.rules.check(lowered.program)
    except mil.rules.RuleError as error:
        yield Violation(f"refused by {error.rule}", str(error), "anefast.mil.rules", error.rule)
        return
    if chip.refused:
        for form in sorted(forms_of(mil.emit(lowered.program, chip.dialect).text)):
            if form in chip.refused:
                yield Violation(
                    f"form {form}",
                    f"expected forms that the compiler takes, got {form} in {name}, of which "
                    f"doctor was told: {chip.refused[form]}. Hint: another plan may do without.",
                    f"anefast doctor, {chip.file}",
                )
                return


def axes(port: Port) -> tuple[int, int]:
    """(axis 1, longest axis behind it) of a port."""
    return (port.shape[1] if len(port.shape) > 1 else 1), max(port.shape[2:], default=1)


def _not_lowered(error: ValueError, batch: int, target: Target) -> Violation:
    """A plan that cannot even be written for this model: packed weights, as it stands."""
    text = str(error)
    if isinstance(error, DoNotFit) and error.width:
        cap = target.chip.max_axis
        return Violation(f"axis {error.width} > {cap.value:.0f}", text, cap.source, "ANE028")
    if isinstance(error, DoNotFit) and batch > 1:
        return Violation(f"packed weights: batch {batch} > 1", text, "anefast.fuse.lower")
    return Violation("cannot be lowered", text, "anefast.fuse.lower")
