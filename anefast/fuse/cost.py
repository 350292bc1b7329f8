"""From counts to seconds and bytes: what a micro-step, a compile and a run's memory come to.

Counts are exact (`count.py`); seconds are counts times rates. Rates come from a calibration of the
device at hand (`runtime/calibrate.py`) or from the chip table, and the label travels with them:
`measured` on an ANE, `emulated` on the host twin, `modelled` for a chip that is not here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from anefast.chips import Chip
from anefast.fuse.count import ProgramCount, StepCount
from anefast.fuse.rates import rates_of

FLOAT = 4  # bytes of an fp32 number
LOGITS = 256  # tokens: csrc/cpu/head.cpp
BACKGROUND = 1.13  # evaluations while another thread compiles: maderix/ANE issue 24
WORTHWHILE = 1.03  # a plan must be this much faster to be preferred to a simpler one


@dataclass(frozen=True)
class Rates:
    """What a device does per second, effectively. Times in seconds, rates per second."""

    label: str  # measured, emulated or modelled
    source: str
    dispatch: float  # s per evaluation
    flops: float
    weight_bytes: float  # baked weights read by an evaluation
    value_bytes: float  # results of operations, and ports
    copied_bytes: float  # by the CPU, into and out of packed ports
    staged_bytes: float  # by the CPU, weights that are data
    cpu_flops: float  # of classifier and weight gradients
    compile_program: float  # s per program
    compile_op: float  # s per operation
    compile_byte: float  # s per byte of weights
    beside: bool  # the CPU's weight gradients run beside the device; else both share cores


def modelled(chip: Chip) -> Rates:
    """Rates of a chip that is not here."""
    rates = rates_of(chip)
    return Rates(
        label="modelled",
        source=f"figures of {chip.name} in anefast/fuse/rates.py",
        dispatch=rates.dispatch_us.value * 1e-6,
        flops=rates.tflops.value * 1e12,
        weight_bytes=rates.weight_gb_s.value * 1e9,
        value_bytes=rates.value_gb_s.value * 1e9,
        copied_bytes=40e9,  # 144 MB of memcpy in 3.4 ms: maderix/ANE issue 24
        staged_bytes=5e9,  # a first guess: nobody has published fp32 to fp16 into a surface
        cpu_flops=rates.cpu_tflops.value * 1e12,
        compile_program=0.0,
        compile_op=rates.compile_ms_op.value * 1e-3,
        compile_byte=rates.compile_ms_mb.value * 1e-9,
        beside=True,
    )


@dataclass(frozen=True)
class Memory:
    """Bytes of a process that trains, by what holds them."""

    weights: int  # fp32
    gradients: int
    moments: int
    taps: int  # surfaces of values that cross programs or feed weight gradients
    ports: int  # surfaces of packed ports and of weights that are data
    programs: int  # weight files as the programs keep them; twice with async
    scratch: int  # inside programs
    logits: int  # of the tokens that the classifier takes at once, on the CPU
    compiling: int  # the largest weight file, until its program is compiled; with async every one

    @property
    def needed(self) -> int:
        """What any plan of the same taps cannot do without."""
        return self.weights + self.gradients + self.moments + self.taps

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
        """One micro-step, without what updates cost."""
        forward = self._device("forward") + self._cpu(self.count.head_flops)
        backward, grads = self._device("backward"), self._cpu(self.count.weight_grad_flops)
        return forward + (max(backward, grads) if self.rates.beside else backward + grads)

    @cached_property
    def compile(self) -> float:
        """All programs that an update makes stale."""
        return sum(self._compile(p) for p in self.count.programs if p.parameters)

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
            busy = max(self.step + share * (1 - 1 / BACKGROUND), share)
        else:
            busy = self.step + share
        return busy + self.stage / accumulation

    @cached_property
    def memory(self) -> Memory:
        count = self.count
        numbers = FLOAT * count.parameter_count
        stale = sum(p.weight_bytes for p in count.programs if p.parameters)
        behind = count.plan.compile == "async"  # two sets, and all weight files of the next one
        return Memory(
            weights=numbers,
            gradients=numbers,
            moments=2 * numbers,
            taps=count.tap_bytes,
            ports=count.packed_bytes + count.weight_surface_bytes,
            programs=count.weight_bytes + (stale if behind else 0),
            scratch=sum(p.scratch_bytes for p in count.distinct),
            logits=FLOAT * count.config.vocab_size * min(LOGITS, count.batch * count.seq),
            compiling=stale if behind else count.most_weight_bytes,
        )

    def _device(self, direction: str) -> float:
        return sum(self.evaluation(p) for p in self.count.programs if p.direction == direction)

    def evaluation(self, p: ProgramCount) -> float:
        """One evaluation of a program and the copies around it."""
        r = self.rates
        work = max(p.flops / r.flops, p.weight_bytes / r.weight_bytes)
        moved = (p.value_bytes + p.port_bytes) / r.value_bytes
        return r.dispatch + work + moved + p.copied_bytes / r.copied_bytes

    def _cpu(self, flops: int) -> float:
        return flops / self.rates.cpu_flops

    def _compile(self, p: ProgramCount) -> float:
        r = self.rates
        return r.compile_program + r.compile_op * p.operations + r.compile_byte * p.weight_bytes


def fastest(costs: Iterable[Cost], accumulation: int) -> Cost:
    """The one with the shortest micro-step, updates included; of near equals the least memory.

    Deterministic: depends on nothing but the costs and their order.
    """
    known = list(costs)
    best = min(c.per_micro_step(accumulation) for c in known)
    near = [c for c in known if c.per_micro_step(accumulation) <= best * WORTHWHILE]
    return min(near, key=lambda c: c.memory.peak)
