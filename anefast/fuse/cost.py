"""From counts to seconds and bytes: what a micro-step, a compile and a run's memory come to.

Counts are exact (`count.py`); seconds are counts through the time model (`timing.py`), whose rates
carry a label that travels with them: `measured` on an ANE, `measured on the host`, `emulated` by
what stands in for a chip, `modelled` for a chip that is not here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from anefast import _C
from anefast.chips.rates import KEPT_GAP_US, LOW_CLOCK
from anefast.fuse.count import ProgramCount, StepCount
from anefast.fuse.timing import Rates, modelled

__all__ = ["Cost", "Memory", "Rates", "fastest", "modelled"]

FLOAT = 4  # bytes of an fp32 number
WORTHWHILE = 1.03  # a plan must be this much faster to be preferred to a simpler one


@dataclass(frozen=True)
class Memory:
    """Bytes of a process that trains, by what holds them."""

    weights: int  # fp32, of what changes and of what the CPU computes with
    gradients: int
    states: int  # of the optimiser
    taps: int  # surfaces of values that cross programs or feed weight gradients
    ports: int  # surfaces of packed ports and of weights that are data; what makes sizes equal
    programs: int  # weight files; twice with async. The host keeps no causal masks in them, and a
    # matrix that several programs have, or have as its transpose, once
    scratch: int  # inside programs; the host's have it together
    logits: int  # of the tokens that the classifier takes at once, on the CPU
    compiling: int  # the largest weight file, until its program is compiled; with async every one

    @property
    def needed(self) -> int:
        """Bytes that every plan with these saved activations needs."""
        return self.weights + self.gradients + self.states + self.taps

    @property
    def peak(self) -> int:
        more = self.programs + self.scratch + self.logits + self.compiling
        return self.needed + self.ports + more


@dataclass(frozen=True)
class Cost:
    """A plan's counts with rates. Times in seconds."""

    count: StepCount
    rates: Rates

    @cached_property
    def step(self) -> float:
        """One micro-step, without what updates cost.

        Weight gradients queue on the CPU as their operands come to be, those of forward programs
        after the head. Beside the device they delay the step by their tail only: by what is queued
        behind the last program, which under `all` is every one of them.
        """
        programs, grads = self.count.programs, self.count.grad_flops
        clock, waiting = self.head, 0.0
        for p, flops in zip(programs, grads, strict=True):
            if p.direction == "forward":
                clock += self.evaluation(p)
                waiting += self._gradients(flops)
        if not self.rates.beside:
            return clock + self.device("backward") + self._gradients(self.count.weight_grad_flops)
        done = clock + waiting
        for p, flops in zip(programs, grads, strict=True):
            if p.direction == "backward":
                clock += self.evaluation(p)
                done = max(done, clock) + self._gradients(flops)
        return max(clock, done)

    @cached_property
    def busy(self) -> float:
        """Seconds of a step in which the engine works: without dispatches and the CPU's copies."""
        apart = sum(
            self.rates.dispatch + p.copied_bytes / self.rates.copied_bytes
            for p in self.count.programs
        )
        return self.device("forward") + self.device("backward") - apart

    @property
    def gap(self) -> float:
        """Seconds between two evaluations in which the engine has nothing to do, on average."""
        return (self.step - self.busy) / self.count.evaluations

    @property
    def at_low_clock(self) -> float:
        """`step` where the engine's clock has fallen, for want of work (rates.CLOCK), as it may
        where gaps are long enough."""
        if 1e6 * self.gap <= KEPT_GAP_US.value:
            return self.step
        slow = LOW_CLOCK.value
        rates = replace(
            self.rates, product=self.rates.product * slow, flops=self.rates.flops / slow
        )
        return replace(self, rates=rates).step

    @property
    def head(self) -> float:
        """Classifier, loss and their gradients, on the CPU."""
        logits = self.count.config.vocab_size * self.count.batch * self.count.seq
        return self._cpu(self.count.head_flops) + logits * self.rates.logit

    @property
    def tail(self) -> float:
        """Seconds of a step that wait for weight gradients after the last program."""
        return self.step - self.head - self.device("forward") - self.device("backward")

    @cached_property
    def compile(self) -> float:
        """All programs that an update makes stale."""
        return sum(self.rates.compile(p) for p in self.count.programs if p.changes)

    @property
    def stage(self) -> float:
        """Writing weights that are data, once per update."""
        return self.count.staged_bytes / self.rates.staged_bytes

    @property
    def hides(self) -> int:
        """K: micro-steps per update from which a compile in the background is no longer felt."""
        return math.ceil(self.compile / self.step) if self.compile else 0

    def per_micro_step(self, accumulation: int) -> float:
        """One micro-step with its share of an update of `accumulation` micro-steps."""
        share = self.compile / accumulation
        if self.count.plan.compile == "async" and share and self.rates.beside:
            busy = max(self.step + share * (1 - 1 / self.rates.background), share)
        else:
            busy = self.step + share
        return busy + self.stage / accumulation

    @cached_property
    def memory(self) -> Memory:
        count = self.count
        numbers = FLOAT * count.trained_count
        stale = sum(p.weight_bytes for p in count.programs if p.changes)
        scratch = [p.scratch_bytes for p in count.distinct]
        together = self.rates.label not in ("measured", "modelled")  # not a chip's own
        repeated = count.repeated_bytes if together else 0
        behind = count.plan.compile == "async"  # two sets, and all weight files of the next one
        return Memory(
            weights=FLOAT * count.singles_count,
            gradients=numbers,
            states=FLOAT * count.states(count.trained_shapes),
            taps=count.tap_bytes,
            ports=count.packed_bytes + count.weight_surface_bytes + count.room_bytes,
            programs=count.weight_bytes - repeated + (stale if behind else 0),
            scratch=max(scratch) if together else sum(scratch),
            logits=FLOAT * kept_logits(count.config.vocab_size, count.batch * count.seq),
            compiling=stale if behind else count.most_weight_bytes,
        )

    def evaluation(self, program: ProgramCount) -> float:
        """One evaluation of a program."""
        thin = program.pair_flops * (1 / self.rates.pair_flops - 1 / self.rates.flops)
        return self.rates.evaluation(program) + thin

    def device(self, direction: str) -> float:
        """All evaluations of `forward` or `backward`."""
        found = (p for p in self.count.programs if p.direction == direction)
        return sum(self.evaluation(p) for p in found)

    def _gradients(self, flops: int) -> float:
        """Weight gradients on the CPU: those of an adapter's pairs, where there is one."""
        rates = self.rates
        return flops / (rates.cpu_pair_flops if self.count.ranks else rates.cpu_flops)

    def _cpu(self, flops: int) -> float:
        return flops / self.rates.cpu_flops


def kept_logits(vocabulary: int, tokens: int) -> int:
    """Numbers that the classifier keeps of the tokens it takes at once; beyond a bound, none."""
    numbers = vocabulary * min(_C.HEAD_TOKENS, tokens)
    return numbers if numbers <= _C.HEAD_KEPT else 0


def fastest(costs: Iterable[Cost], accumulation: int) -> Cost:
    """The one with the shortest micro-step, updates included; of near equals the least memory.

    Deterministic: depends on nothing but the costs and their order.
    """
    known = list(costs)
    best = min(c.per_micro_step(accumulation) for c in known)
    near = [c for c in known if c.per_micro_step(accumulation) <= best * WORTHWHILE]
    return min(near, key=lambda c: c.memory.peak)
