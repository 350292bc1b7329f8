"""`plan="auto"`: which plans are worth weighing, and which of them wins.

`auto` may be followed by words that hold for every candidate: `auto,async`, `auto,weights=const`.
The choice is a function of the model, the shape, the target and the rates, and of nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from anefast.fuse.cost import Cost, Rates, fastest
from anefast.fuse.count import Counter
from anefast.fuse.legal import (
    MAX_COMPILES,
    Target,
    Violation,
    caution,
    check,
    crowded,
    fullest,
    laborious,
)
from anefast.fuse.plan import AUTO, WORDS, find_plan

FALLBACKS = 6  # after each the compile service of a Mac may need its time
PARTS = 4  # layers per program of the plan between one layer and all


@dataclass(frozen=True)
class Candidate:
    """A plan that was weighed: its cost, or why there is none."""

    spec: str
    cost: Cost | None
    refused: tuple[Violation, ...] = ()
    cautions: tuple[str, ...] = ()

    @property
    def caution(self) -> str:
        """The first; empty where there is none."""
        return next(iter(self.cautions), "")


@dataclass(frozen=True)
class Choice:
    """All candidates and the winner."""

    candidates: tuple[Candidate, ...]
    winner: Candidate
    accumulation: int
    padded: bool = False  # whether ports=padded may serve where ports=packed is refused
    ropes: tuple[str, ...] = ()  # forms of rotary embedding beside the default that may serve

    @property
    def spec(self) -> str:
        """The winner's spec, which `find_plan` reads."""
        return self.winner.spec

    @property
    def baseline(self) -> Cost | None:
        """The unfused plan to compare with; as free of doubt as the winner."""
        sure = not self.winner.caution
        unfused = (c for c in self.candidates if c.cost and c.spec.startswith("unfused"))
        return next((c.cost for c in unfused if not (sure and c.caution)), None)

    @property
    def fallbacks(self) -> list[str]:
        """Plans to try if a device refuses the winner, likeliest first; FALLBACKS at most.

        The best of each way to hand over values and weights comes before the second best of any,
        because what is refused is more often a way than a depth.
        """
        legal = [c for c in self.candidates if c.cost is not None and c is not self.winner]
        legal.sort(key=lambda c: (bool(c.caution), ports_of(c), self._seconds(c)))
        specs: list[str] = []
        for spec in [self.spec, *(c.spec for c in legal)]:
            specs.append(spec)
            if spec == self.spec and "rope=" not in spec:
                specs += [f"{spec},rope={rope}" for rope in self.ropes]
            if self.padded and "ports=packed" in spec:
                free = specs[-1] if self.ropes else spec  # of concat, as far as that goes
                specs.append(free.replace("ports=packed", "ports=padded"))
        turns: dict[tuple[str, str, str], int] = {}
        turn: dict[str, int] = {}
        for spec in specs:
            plan = find_plan(spec)
            way = plan.ports, plan.weights, plan.rope
            turn[spec] = turns[way] = turns.get(way, -1) + 1
        return sorted(specs[1:], key=lambda spec: turn[spec])[:FALLBACKS]

    def _seconds(self, candidate: Candidate) -> float:
        assert candidate.cost is not None
        return candidate.cost.per_micro_step(self.accumulation)

    def reason(self) -> str:
        """Half a line for a log: what was gained over the unfused baseline, and by which clock."""
        cost = self.winner.cost
        assert cost is not None
        ms = 1e3 * cost.per_micro_step(self.accumulation)
        base = self.baseline or cost
        gain = base.per_micro_step(self.accumulation) / (ms / 1e3)
        legal = sum(c.cost is not None for c in self.candidates)
        clock = f" ({cost.rates.label})" if cost.rates.label == "modelled" else ""
        return (
            f"{cost.count.evaluations} evaluations and {ms:.3g} ms per micro-step{clock}, "
            f"{gain:.2f}x as fast as {base.count.plan.name}; "
            f"chosen from {legal} legal plans"
        )


def candidate_specs(
    layers: int, target: Target, words: str = "", adapts: bool = False
) -> list[str]:
    """Specs worth weighing, simplest first. `words`: what the user asked of all of them. adapts:
    only an adapter changes, which is always data."""
    depths = ["unfused", "layer"]
    if PARTS < layers:
        depths.append(str(PARTS))
    if layers > 1:
        depths.append("all")
    given = [w for w in words.split(",") if w]
    fields = {f for w in given for f in WORDS.get(w, {})}

    def options(field: str, values: Sequence[str]) -> Sequence[str]:
        return [""] if field in fields else values

    # Packed ports only cost copies, unless a program with several may be refused, as none was
    # seen ours run. Weights that are inputs of their own make several in any case.
    taken = target.ports
    one_port = target.doubts_ports or bool(taken and "several" not in taken)
    pack = "ports=padded" if taken and "packed" not in taken else "ports=packed"
    specs = []
    for depth in depths:
        as_data = ["weights=packed"] if adapts else ["weights=params", "weights=packed"]
        for weights in options("weights", ["", *as_data]):
            both = one_port and weights == ""
            ports = ["", pack] if both else [pack if one_port else ""]
            for port in options("ports", [""] if weights == "weights=params" else ports):
                for reads in options("reads", ["", "recompute"]):
                    specs.append(",".join(w for w in [depth, reads, port, weights, *given] if w))
    for spec in specs[:1]:
        find_plan(spec)  # an unknown word is an error before anything is counted
    return specs


def choose(
    counter: Counter,
    accumulation: int,
    target: Target,
    rates: Rates,
    spec: str = AUTO,
    max_compiles: int = MAX_COMPILES,
) -> Choice:
    """Weighs every candidate of `spec` (`auto`, perhaps with words) and picks the fastest legal one
    whose memory grows linearly with the sequence, where there is one.

    Raises ValueError naming a limit where no candidate is legal.
    """
    words = spec.partition(",")[2]
    specs = candidate_specs(counter.config.n_layers, target, words, bool(counter.ranks))
    candidates = tuple(weigh(s, counter, target, rates, max_compiles) for s in specs)
    legal = [c for c in candidates if c.cost is not None]
    if not legal:
        first = next(v for c in candidates for v in c.refused)
        raise ValueError(
            f"[plan] no plan can run on {target.name}: {first.message} ({first.source})"
        )
    sure = [c for c in legal if not c.caution]
    if not sure:
        fewest = min(ports_of(c) for c in legal)
        sure = [c for c in legal if ports_of(c) == fewest]
    costs = [c.cost for c in sure if c.cost is not None]
    linear = [c for c in costs if not c.count.probs_bytes]
    best = fastest(linear or costs, accumulation)
    winner = next(c for c in sure if c.cost is best)
    for more in variants(winner, bool(counter.ranks)):
        other = weigh(f"{winner.spec},{more}", counter, target, rates, max_compiles)
        candidates = (*candidates, other)
        winner = better(winner, other, accumulation)
    padded = not target.ports or "padded" in target.seen
    ropes = () if target.ropes else ("conv",)
    return Choice(candidates, winner, accumulation, padded, ropes)


def variants(winner: Candidate, adapts: bool) -> list[str]:
    """Words that may improve on the cut that won, where nobody has said otherwise: an adapter's
    gradients made by the CPU; gains together in a port of their own, where weights are data."""
    plan, words = find_plan(winner.spec), winner.spec.split(",")
    found = []
    if adapts and not any(w.startswith("gradients=") for w in words):
        found.append("gradients=cpu")
    if not adapts and plan.weights != "const" and plan.norms is None:
        found.append("norms=params")
    return found


def better(usual: Candidate, other: Candidate, accumulation: int) -> Candidate:
    """`other` where it is legal, as free of doubt, and faster, or as fast in less memory."""
    if other.cost is None or (other.caution and not usual.caution):
        return usual
    assert usual.cost is not None
    return other if fastest((usual.cost, other.cost), accumulation) is other.cost else usual


def ports_of(candidate: Candidate) -> int:
    """Ports on the fullest side of any of its programs."""
    assert candidate.cost is not None
    return max(fullest(candidate.cost.count))


def weigh(
    spec: str, counter: Counter, target: Target, rates: Rates, max_compiles: int = MAX_COMPILES
) -> Candidate:
    """One candidate: refused, or with its cost."""
    refused, count = check(find_plan(spec), counter, target, max_compiles)
    if refused or count is None:
        return Candidate(spec, None, tuple(refused))
    said = (caution(count, target), crowded(count, target), laborious(count, target))
    doubts = tuple(filter(None, said))
    return Candidate(spec, Cost(count, rates), (), doubts)
