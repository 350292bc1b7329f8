"""`anefast plan`: every way to cut a training step, what each costs, and why one wins.

What it is not: plans themselves (fuse/plan.py) or their costs (fuse/cost.py). It compiles nothing
but, once per machine, the calibration's few small programs; with --chip not even those.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

from anefast.checks import need_choice, whole
from anefast.chips import rates
from anefast.chips.behaviour import find_chip, unprobed
from anefast.chips.rates import assumptions
from anefast.cli import command, say
from anefast.config import ConfigError, LoraConfig, TrainConfig
from anefast.errors import shown
from anefast.fuse import tasks
from anefast.fuse.choose import Candidate, Choice, choose
from anefast.fuse.cost import Cost, Memory, modelled
from anefast.fuse.count import Counter
from anefast.fuse.legal import (
    HOST,
    MAX_COMPILES,
    Target,
    fullest,
    seen_ports,
    target_of,
    target_of_chip,
)
from anefast.fuse.plan import is_auto
from anefast.models.lora import padded, targets_of
from anefast.optim import RECORDS, count_states
from anefast.runtime.device import DEVICES

MB = 1e6  # bytes; the headers say MB


class Published(NamedTuple):
    """A training run of the unfused kind that somebody timed."""

    chip: str
    parameters: int
    accumulation: int
    step: float  # ms per micro-step
    per_second: float  # micro-steps, updates included
    source: str


PUBLISHED = Published("m1-pro", 109529856, 100, 169.4, 3.15, "maderix/ANE issue 24")


@dataclass(frozen=True)
class Pairs:
    """An adapter to compare the plans for, beside full training."""

    rank: int = 0  # Rows of each pair of matrices; 0: no LoRA, the model itself trains.
    targets: str = ""  # The matrices with a pair, such as wq,wv; empty: all of the layers.
    layers: int = 0  # Pairs are in the last so many layers only; 0: in all.


@dataclass(frozen=True)
class PlanCommand:
    """Compare the plans for a model on this device, or on a chip that this machine lacks."""

    preset: str = "tiny"  # A named model: its shape, batch, sequence and accumulation.
    chip: str = ""  # Plan for CHIPS, doctor.json; empty: this device.
    batch: int = 0  # Sequences per micro-batch; 0: the preset's.
    seq_len: int = 0  # Tokens per sequence; 0: the preset's.
    accumulation: int = 0  # Micro-batches per update; 0: the preset's, or 1 with LoRA.
    # The candidates: auto, optionally with words that all of them have, as in auto,async.
    plan: str = "auto"
    device: str = "auto"  # The device to plan for if no chip is given: auto, host or ane.
    max_compiles: int = MAX_COMPILES  # Compiles that one process may make.
    optimizer: str = "adamw"  # The optimiser whose states the memory includes: OPTIMISERS.
    lora: Pairs = field(default_factory=Pairs)


def main(argv: Sequence[str] | None = None) -> None:
    """The command. Exit codes: 0, or 2 for a request that makes no sense."""
    command(PlanCommand, lambda c: say(*report(c)), argv)


def report(asked: PlanCommand) -> list[str]:
    """The lines of the report."""
    config = settings(asked)
    if not is_auto(asked.plan):
        raise ConfigError(
            f"[plan] expected --plan to start with auto, got {asked.plan!r}. "
            "Hint: anefast train takes one plan; this command compares all of them."
        )
    if asked.chip:
        chip = find_chip(asked.chip)
        target, speed = target_of_chip(chip), modelled(chip)
    else:
        from anefast.runtime import Device
        from anefast.runtime.calibrate import calibrate

        device = Device(asked.device)
        target, speed = target_of(device), calibrate(device)
    accumulation = config.optim.accumulation
    shape = config.model, config.data.batch, config.data.seq_len
    ranks = ranks_of(config)
    states = partial(count_states, config.optim)
    counter = Counter(*shape, ranks=ranks, states=states)
    choice = choose(counter, accumulation, target, speed, asked.plan, asked.max_compiles)
    beside, forms = [], []
    if ranks:
        forms = gradient_forms(choice)
        usual = asked.accumulation or TrainConfig.from_preset(asked.preset).optim.accumulation
        full = choose(
            Counter(*shape, states=states), usual, target, speed, "auto", asked.max_compiles
        )
        beside = compared(choice, full)
    return [
        *heading(asked.preset, config, choice, target),
        *beside,
        "",
        *table(choice),
        "",
        *reasons(choice, target),
        *forms,
    ]


def gradient_forms(choice: Choice) -> list[str]:
    """What either way of making an adapter's gradients takes under the winner's cut."""
    cpu = "gradients=cpu" in choice.spec.split(",")
    cut = choice.spec.removesuffix(",gradients=cpu")
    costs = {c.spec: c.cost for c in choice.candidates if c.cost is not None}
    ways = costs.get(cut), costs.get(f"{cut},gradients=cpu")
    if None in ways:  # only one was asked for, or is legal
        return []
    device, host = (number(1e3 * c.per_micro_step(choice.accumulation)) for c in ways if c)
    return [
        f"  gradients of the pairs: by the device, {device} ms per micro-step; by the CPU in fp32 "
        f"{host} ms.",
        f"  auto takes the {'CPU' if cpu else 'device'}'s, by these times; they round differently, "
        "so a resumed run keeps its form",
        "  (--plan auto,gradients=device and auto,gradients=cpu insist).",
    ]


def settings(asked: PlanCommand) -> TrainConfig:
    """The preset with what the flags change. ConfigError in one line."""
    config = TrainConfig.from_preset(asked.preset)
    for name in ("batch", "seq_len", "accumulation"):
        if (value := getattr(asked, name)) < 0:
            flag = f"--{name.replace('_', '-')}"
            raise ConfigError(f"[plan] {flag} must not be negative, got {value}.")
    need_choice("--optimizer", asked.optimizer, tuple(RECORDS), "plan")
    whole("plan", "--max-compiles", asked.max_compiles, 1)
    need_choice("--device", asked.device, DEVICES, "plan")
    if asked.chip and asked.device != "auto":
        raise ConfigError(
            f"[plan] --device {asked.device} and --chip {shown(asked.chip)} were both given. "
            "Hint: leave one out; --chip uses the chip's published figures."
        )
    data, model = config.data, config.model
    data = data.replace(batch=asked.batch or data.batch, seq_len=asked.seq_len or data.seq_len)
    if model.vocab_size == 0:
        from anefast.tokenizer import open_tokenizer

        model = model.replace(vocab_size=open_tokenizer(config.data.tokenizer).vocab_size)
    optim, lora = config.optim.replace(name=asked.optimizer), LoraConfig(**vars(asked.lora))
    if asked.accumulation or lora.rank:
        optim = optim.replace(accumulation=asked.accumulation or 1)
    for name in ("targets", "layers"):
        if getattr(lora, name) and not lora.rank:
            raise ConfigError(
                f"[plan] --lora.{name} needs an adapter, and --lora.rank 0 makes none. "
                "Hint: --lora.rank 8."
            )
    return config.replace(data=data, model=model, optim=optim, lora=lora)


def ranks_of(config: TrainConfig) -> dict[str, int]:
    """The ranks of a config's pairs, as programs have them; {} without LoRA."""
    rank = padded(config.lora.rank)
    return dict.fromkeys(targets_of(config.model, config.lora), rank) if rank else {}


def compared(lora: Choice, full: Choice) -> list[str]:
    """LoRA's winner and that of full training, a line each."""
    lines = []
    for name, choice in (("LoRA", lora), ("full", full)):
        cost = cost_of(choice.winner)
        lines.append(
            f"{name}: {cost.count.trained_count / 1e6:.2f}M numbers trained, "
            f"{number(1e3 * cost.per_micro_step(choice.accumulation))} ms per micro-step, "
            f"{choice.accumulation} per update, {cost.memory.peak / MB:.0f} MB, "
            f"{cost.count.compiles_per_update} compiles per update"
        )
    return lines


def heading(name: str, config: TrainConfig, choice: Choice, target: Target) -> list[str]:
    """A header: the question, the target, and the source of the times."""
    cost = cost_of(choice.winner)
    chip, model = target.chip, config.model
    caps = "no limits of its own, so it keeps to those of the newest chip"
    if target is not HOST:
        caps = f"axes up to {chip.max_axis.value:.0f}"
        caps += f", {chip.loaded_programs.value:.0f} programs loaded at once"
    return [
        f"{name}: {cost.count.parameter_count / 1e6:.1f}M weights, {model.n_layers} layers; "
        f"{config.data.batch} x {config.data.seq_len} tokens per micro-step, "
        f"{config.optim.accumulation} micro-steps per update",
        f"{target.name}: {caps}",
        f"times are {cost.rates.label}: counts x rates, {cost.rates.source}",
        *(f"  {line}" for line in (assumptions(chip) if cost.rates.label == "modelled" else [])),
        *(f"  {line}" for line in textwrap.wrap(unprobed(chip), 96, break_on_hyphens=False)),
    ]


# The table.

Column = tuple[str, str, Callable[[Cost, int], str]]  # header, unit, cell

COLUMNS: tuple[Column, ...] = (
    ("evals", "/step", lambda c, _: str(c.count.evaluations)),
    ("progs", "", lambda c, _: str(len(c.count.distinct))),
    ("weights", "MB max", lambda c, _: number(c.count.most_weight_bytes / MB)),
    ("all", "MB", lambda c, _: number(c.count.weight_bytes / MB)),
    ("moved", "MB/step", lambda c, _: number(c.count.moved_bytes / MB)),
    ("built", "/update", lambda c, _: str(c.count.compiles_per_update)),
    ("compile", "s", lambda c, _: f"{c.compile:.2f}" if c.compile else "-"),
    ("K", "", lambda c, _: str(c.hides) if c.compile else "-"),
    ("memory", "MB", lambda c, _: f"{c.memory.peak / MB:.0f}"),
    ("step", "ms", lambda c, _: number(1e3 * c.step)),
    ("+update", "ms", lambda c, n: number(1e3 * c.per_micro_step(n))),
)


LEGEND = (
    "evals: evaluations per micro-step; moved: through ports and by copies; built: programs",
    "compiled anew per update, taking compile s in all, which async hides from K micro-steps per",
    "update on; step: one micro-step; +update: with its share of an update",
)


def table(choice: Choice) -> list[str]:
    """One line per candidate, the fastest first, the refused last with their limit."""
    known = [c for c in choice.candidates if c.cost is not None]
    known.sort(key=lambda c: cost_of(c).per_micro_step(choice.accumulation))
    rows = [[cell(cost_of(c), choice.accumulation) for _, _, cell in COLUMNS] for c in known]
    names = [c.spec for c in choice.candidates]
    first = max(map(len, names)) + 1
    widths = [
        max(len(header), len(unit), *(len(row[i]) for row in rows))
        for i, (header, unit, _) in enumerate(COLUMNS)
    ]

    def line(mark: str, name: str, cells: Sequence[str]) -> str:
        right = " ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        return f"{mark:2}{name:{first}}{right}".rstrip()

    lines = [
        line("", "plan", [header for header, _, _ in COLUMNS]),
        line("", "", [unit for _, unit, _ in COLUMNS]),
    ]
    for candidate, row in zip(known, rows, strict=True):
        mark = "*" if candidate is choice.winner else "?" if candidate.caution else ""
        lines.append(line(mark, candidate.spec, row))
    for candidate in choice.candidates:
        if candidate.cost is None:
            limits = "; ".join(v.limit for v in candidate.refused)
            lines.append(f"  {candidate.spec:{first}}refused: {limits}")
    return [*lines, *LEGEND]


def number(value: float) -> str:
    """Three digits, never an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def cost_of(candidate: Candidate) -> Cost:
    """The cost of a candidate that has one."""
    assert candidate.cost is not None
    return candidate.cost


# The words under it.


def reasons(choice: Choice, target: Target) -> list[str]:
    """Why the winner won, where its memory goes, what was refused or doubted."""
    winner, best, n = choice.winner, cost_of(choice.winner), choice.accumulation
    lines = f"* plan {winner.spec}: {why(choice)}".split("\n")
    lines += f"  memory: {itemised(best.memory)}".split("\n")
    if target is not HOST:
        lines += [*ports_of(choice, target), *tasks_of(best, target)]
    if best.compile:
        lines.append(
            f"  K: in the background (async), {best.hides} micro-steps hide {best.compile:.2f} s "
            f"of compiling; an update has {n}"
        )
    doubted = [c for c in choice.candidates if c.caution and c.cost is not None]
    if doubted:
        quickest = min(doubted, key=lambda c: cost_of(c).per_micro_step(n))
        kinds: dict[str, str] = {}
        for said in (said for c in doubted for said in c.cautions):
            kinds.setdefault(re.sub(r"\d+", "", said.partition(":")[0]), said)
        for said in kinds.values():
            first, *rest = textwrap.wrap(said, 96, break_on_hyphens=False)
            lines += [f"? {first}", *(f"  {line}" for line in rest)]
        ms = 1e3 * cost_of(quickest).per_micro_step(n)
        if ms < 1e3 * best.per_micro_step(n):
            lines.append(
                f"  not chosen for that reason; {quickest.spec} would take {number(ms)} ms"
            )
    if best.rates.label == "modelled":
        lines += [*clock(choice), *left_out(choice, target)]
    sources = {named(v.limit): v.source for c in choice.candidates for v in c.refused}
    lines += [f"  refused for its {limit}: {source}" for limit, source in sources.items()]
    return lines


def ports_of(choice: Choice, target: Target) -> list[str]:
    """How many ports the winner's programs have, beside the plan with the most and the most that
    were seen to work: each is a risk."""
    counts = {c.spec: fullest(c.cost.count) for c in choice.candidates if c.cost}
    name, (inputs, outputs) = max(counts.items(), key=lambda item: sum(item[1]))
    into, out = counts[choice.winner.spec]
    (seen_in, seen_out), whose = seen_ports(target)
    return [
        f"  ports: at most {into} in and {out} out in a program; {name} has {inputs} and "
        f"{outputs}, the most",
        f"    ({seen_in} in and {seen_out} out were seen to work: {whose})",
    ]


def tasks_of(cost: Cost, target: Target) -> list[str]:
    """Into how many tasks Apple's compiler may cut the programs of a layer."""
    found = tasks.per_layer(cost.count, target.chip)
    said = ", ".join(f"{direction} {n}" for direction, n in found.items())
    plain = tasks.Tasks(*tasks.PLAIN_BLOCK)
    return [
        f"  tasks per layer, estimated: {said}; forward of a plain block elsewhere {plain}",
        *(f"    {line}" for line in textwrap.wrap(f"({tasks.SOURCE})", 96)),
    ]


def clock(choice: Choice) -> list[str]:
    """How far times may be off because a chip slows down between evaluations, by plan: what fewer
    evaluations, and weight gradients beside them, are worth."""
    best, base = cost_of(choice.winner), choice.baseline
    told = {choice.winner.spec: best} | ({base.count.plan.name: base} if base else {})
    alone = replace(best, rates=replace(best.rates, beside=False))
    told[f"{choice.winner.spec} without overlap"] = alone
    head = (
        "a step may take longer by what the clock loses in gaps between evaluations "
        f"({rates.CLOCK}):"
    )
    return [
        *(f"  {line}" for line in textwrap.wrap(head, 96)),
        *(
            f"    {name}: {number(1e3 * cost.step)} to {number(1e3 * cost.at_low_clock)} ms; "
            f"{cost.count.evaluations} gaps of {number(1e6 * cost.gap)} us, "
            f"{100 * cost.busy / cost.step:.0f} % busy"
            for name, cost in told.items()
        ),
    ]


def left_out(choice: Choice, target: Target) -> list[str]:
    """Lines on what modelled times leave out, and how much where the unfused plan is published."""
    lines = [
        "  left out of the times: elementwise operations inside programs, surface locks, Python,",
        "  and that a run's first steps are slower (on an M1 Pro 1.5 times, falling within 30)",
    ]
    ours = next((c.cost for c in choice.candidates if c.spec == "unfused" and c.cost), None)
    shape = (target.name, choice.accumulation, ours.count.parameter_count if ours else 0)
    known = PUBLISHED
    if ours is None or shape != (known.chip, known.accumulation, known.parameters):
        return lines
    step, update = 1e3 * ours.step, 1e3 * ours.per_micro_step(known.accumulation)
    less = 1 - step / known.step, 1 - update * known.per_second / 1e3
    return [
        *lines,
        f"  published unfused: {known.step} ms, {known.per_second} steps/s with updates "
        f"({known.source}); modelled here {100 * less[0]:.0f} and",
        f"  {100 * less[1]:.0f} % less: that trainer converts every value to fp32 and back, adds",
        "  residuals and derives norms on the CPU, some 38 ms of its step. Ours leaves that to the",
        "  device, where it is timed at nothing: read modelled steps as that much too short.",
    ]


def named(limit: str) -> str:
    """A limit without its figures: `axis 37376 > 16384` is `axis`."""
    return " ".join(re.sub(r"[\d>]+", " ", limit.partition(":")[0]).split())


def why(choice: Choice) -> str:
    """The winner against the unfused baseline, in the parts that differ most."""
    best, n = cost_of(choice.winner), choice.accumulation
    base = choice.baseline
    total = 1e3 * best.per_micro_step(n)
    if base is None or base is best:
        return f"{number(total)} ms per micro-step, nothing legal is faster"
    fewer = base.count.evaluations - best.count.evaluations
    dispatch = fewer * best.rates.dispatch
    compiles = f"{best.count.compiles_per_update} instead of {base.count.compiles_per_update}"
    parts = {
        f"{fewer} evaluations fewer": dispatch,
        "less to compute, move and copy": base.step - best.step - dispatch,
        f"programs to compile per update, {compiles}": (base.compile - best.compile) / n,
    }
    saved = sorted(((s, p) for p, s in parts.items() if s > 0), reverse=True)
    before = number(1e3 * base.per_micro_step(n))
    head = f"{number(total)} ms per micro-step with updates, {base.count.plan.name} {before} ms"
    return "\n      ".join([head, *(f"{number(1e3 * s)} ms saved: {p}" for s, p in saved)])


def itemised(m: Memory) -> str:
    """The bytes by use, in MB, and their ratio to the least that training needs."""
    needed = {
        "weights": m.weights,
        "gradients": m.gradients,
        "states": m.states,
        "taps": m.taps,
    }
    more = {
        "ports": m.ports,
        "programs": m.programs,
        "scratch": m.scratch,
        "logits": m.logits,
        "compiling": m.compiling,
    }

    def total(parts: dict[str, int]) -> str:
        return " + ".join(
            f"{name} {size / MB:.0f}" for name, size in parts.items() if size > MB / 2
        )

    return (
        f"{total(needed)} = {m.needed / MB:.0f} MB\n"
        f"      + {total(more)} = {m.peak / MB:.0f} MB, {m.peak / m.needed:.2f} x"
    )


if __name__ == "__main__":
    main()
