"""`plan="auto"`: which plans are worth weighing, and which of them wins.

`auto` may be followed by words that hold for every candidate: `auto,async`, `auto,weights=const`.
The choice is a function of the model, the shape, the target and the rates, and of nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from anefast.config import ModelConfig
from anefast.fuse.cost import Cost, Rates, fastest
from anefast.fuse.count import Counter
from anefast.fuse.legal import HOST, MAX_COMPILES, Target, Violation, caution, check
from anefast.fuse.plan import AUTO, WORDS, find_plan

PARTS = 4  # layers per program of the plan between one layer and all


@dataclass(frozen=True)
class Candidate:
    """A plan that was weighed: its cost, or why there is none."""

    spec: str
    cost: Cost | None
    refused: tuple[Violation, ...] = ()
    caution: str = ""


@dataclass(frozen=True)
class Choice:
    """All candidates and the winner."""

    candidates: tuple[Candidate, ...]
    winner: Candidate
    accumulation: int

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

    def reason(self) -> str:
        """Half a line for a log: what was gained over the unfused baseline, and by which clock."""
        cost = self.winner.cost
        assert cost is not None
        ms = 1e3 * cost.per_micro_step(self.accumulation)
        base = self.baseline or cost
        gain = base.per_micro_step(self.accumulation) / (ms / 1e3)
        legal = sum(c.cost is not None for c in self.candidates)
        return (
            f"{cost.count.evaluations} evaluations and {ms:.3g} ms per micro-step "
            f"({cost.rates.label}), {gain:.2f}x as fast as {base.count.plan.name}; "
            f"chosen from {legal} legal plans"
        )


def candidate_specs(layers: int, target: Target, words: str = "") -> list[str]:
    """Specs worth weighing, simplest first. `words`: what the user asked of all of them."""
    depths = ["unfused", "layer"]
    if PARTS < layers:
        depths.append(str(PARTS))
    if layers > 1:
        depths.append("all")
    given = [w for w in words.split(",") if w]
    fields = {f for w in given for f in WORDS.get(w, {})}

    def options(field: str, values: Sequence[str]) -> Sequence[str]:
        return [""] if field in fields else values

    # Packed ports only cost copies, unless a program with several inputs may be refused. Weights
    # that are inputs of their own make several in any case.
    doubted = bool(target.chip.several_inputs) and target is not HOST
    one_input = doubted or bool(target.ports and "several" not in target.ports)
    specs = []
    for depth in depths:
        for weights in options("weights", ["", "weights=params", "weights=packed"]):
            both = one_input and weights == ""
            ports = ["", "ports=packed"] if both else ["ports=packed" if one_input else ""]
            for port in options("ports", [""] if weights == "weights=params" else ports):
                for reads in options("reads", ["", "recompute"]):
                    specs.append(",".join(w for w in [depth, reads, port, weights, *given] if w))
    for spec in specs[:1]:
        find_plan(spec)  # an unknown word is an error before anything is counted
    return specs


def choose(
    config: ModelConfig,
    batch: int,
    seq: int,
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
    counter = Counter(config, batch, seq)
    specs = candidate_specs(config.n_layers, target, spec.partition(",")[2])
    candidates = tuple(weigh(s, counter, target, rates, max_compiles) for s in specs)
    legal = [c for c in candidates if c.cost is not None]
    if not legal:
        first = next(v for c in candidates for v in c.refused)
        raise ValueError(
            f"[plan] no plan can run on {target.name}: {first.message} ({first.source})"
        )
    sure = [c for c in legal if not c.caution] or legal
    costs = [c.cost for c in sure if c.cost is not None]
    linear = [c for c in costs if not c.count.probs_bytes]
    best = fastest(linear or costs, accumulation)
    winner = next(c for c in sure if c.cost is best)
    return Choice(candidates, winner, accumulation)


def weigh(
    spec: str, counter: Counter, target: Target, rates: Rates, max_compiles: int = MAX_COMPILES
) -> Candidate:
    """One candidate: refused, or with its cost."""
    refused, count = check(find_plan(spec), counter, target, max_compiles)
    if refused or count is None:
        return Candidate(spec, None, tuple(refused))
    return Candidate(spec, Cost(count, rates), (), caution(count, target))
