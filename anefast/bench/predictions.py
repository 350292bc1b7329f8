"""The time model against every published time: predictions, errors, and their limits.

`rows` applies the model (`fuse/timing.py`) and the CPU's rates to measurements (`published.py`).
The limits below are asserted by `pytest benchmarks` and the suite. How rates are fitted:
benchmarks/fit_time_model.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from anefast.bench import published
from anefast.chips.behaviour import find_chip
from anefast.chips.rates import ChipRates, rates_of
from anefast.fuse.timing import Rates, modelled

WORST, TYPICAL = 0.15, 0.07  # largest and median relative error


@dataclass(frozen=True)
class Row:
    """One published time. `published` to `highest` is a range where one was published."""

    table: str
    name: str
    unit: str
    published: float
    modelled: float
    highest: float = math.nan

    @property
    def error(self) -> float:
        """Signed relative error. For a published range: 0 inside, else against the nearer end."""
        low = self.published
        high = low if math.isnan(self.highest) else self.highest
        if low <= self.modelled <= high:
            return 0.0
        near = low if self.modelled < low else high
        return self.modelled / near - 1

    @property
    def said(self) -> str:
        """The published value, as text."""
        if math.isnan(self.highest) or self.highest == self.published:
            return f"{self.published:g}"
        return f"{self.published:g}-{self.highest:g}"


class Machine:
    """A chip and its CPU, timed by the model."""

    def __init__(self, chip: str, rates: ChipRates | None = None) -> None:
        self.name = chip
        self.cpu = rates or rates_of(find_chip(chip))
        self.rates: Rates = modelled(find_chip(chip), self.cpu)

    def evaluate(self, *works: published.Described) -> float:
        """Milliseconds of one evaluation of each program."""
        return 1e3 * sum(self.rates.evaluation(w) for w in works)

    def compile(self, *works: published.Described, first: bool = False) -> float:
        """ms."""
        return 1e3 * sum(self.rates.compile(w, first and not i) for i, w in enumerate(works))

    def step(self, pipeline: published.Pipeline) -> dict[str, float]:
        """ms of the unfused training step and its parts, warm."""
        s, cpu = pipeline.shape, self.cpu
        elements = s.dim * s.seq
        into, back = (1e-6 * n / cpu.convert_gb_s.value for n in pipeline.converted)
        classifier = 1e-9 * pipeline.classifier / cpu.cpu_tflops.value
        adds = 1e-6 * published.RESIDUAL_ADDS * elements * cpu.add_ns.value
        loss = 1e-6 * published.VOCAB * s.seq * cpu.element_ns.value
        # The published parts of backward come to 88 of its 106 ms. What they leave out is the
        # derivative of every norm on the CPU: two loops, one for the sum and one for the result.
        norms = 2e-6 * (2 * pipeline.layers + 1) * elements * cpu.element_ns.value
        parts = {
            "forward: ANE, 24 evaluations": self.evaluate(*pipeline.forward),
            "forward: I/O": into,
            "forward: classifier": classifier,
            "forward: elementwise": loss + adds,
            "backward: ANE, 48 evaluations": self.evaluate(*pipeline.backward),
            "backward: I/O": back + 1e-6 * pipeline.copied / cpu.copy_gb_s.value,
            "backward: classifier": classifier,
            "backward: CPU operations": sum(self.cpu_probe().values())
            - self.cpu_probe()["residual adds, vDSP"],
        }
        forward = sum(ms for name, ms in parts.items() if name.startswith("forward"))
        backward = norms + sum(ms for name, ms in parts.items() if name.startswith("backward"))
        return parts | {
            "forward": forward,
            "backward": backward,
            "weight gradients, overlapped": 1e-9 * pipeline.weight_grads / cpu.cpu_tflops.value,
            "step": forward + backward,
        }

    def warming(self, step: int) -> float:
        """The time of step `step` of a batch, as a multiple of a warm step; the first is 1."""
        return 1 + self.cpu.cold.value * math.exp(-(step - 1) / self.cpu.warm_steps.value)

    def sweep(self, accumulation: int, steps: int) -> tuple[float, float, float]:
        """(ms per step, steps per s, compile share) of whole or cut batches, as were run."""
        n = min(accumulation, steps)  # of a batch
        train = self.step(published.TRAINING)["step"] * sum(map(self.warming, range(1, n + 1)))
        compiling = self.compile(*published.TRAINING.compiled)
        return train / n, 1e3 * n / (train + compiling), compiling / (train + compiling)

    def asynchronous(self, accumulation: int) -> float:
        """Steps per s with compiles behind the training."""
        warm = self.step(published.TRAINING)["step"]
        share = self.compile(*published.TRAINING.compiled) / accumulation
        return 1e3 / max(warm + share * (1 - 1 / self.rates.background), share)

    def cpu_probe(self) -> dict[str, float]:
        """ms of the CPU's own operations around a backward pass."""
        cpu, s = self.cpu, published.TRAINING.shape
        added = published.RESIDUAL_ADDS * s.dim * s.seq
        return {
            "malloc and free, 133 buffers, 144 MB": 0.0,  # neglected
            "memcpy, 144 MB": 1e-6 * published.CAPTURED_BYTES / cpu.copy_gb_s.value,
            "residual adds, 24 scalar loops, 4.7 M elements": 1e-6 * added * cpu.add_ns.value,
            "residual adds, vDSP": 1e-6 * added * cpu.add_vector_ns.value,
            "surface locks, 228 pairs": 1e-3 * published.LOCK_PAIRS * cpu.lock_us.value,
        }


def rows(machine: Machine | None = None) -> list[Row]:
    """Every published time of the M1 Pro beside the model's, for it or for another machine."""
    return list(_rows(machine or Machine(published.CHIP)))


def _rows(m: Machine) -> Iterator[Row]:
    for f in published.FFNS:
        one = 1e3 * m.evaluate(published.ffn_proxy(f.dim, f.hidden, f.seq, 1))
        fused = published.ffn_proxy(f.dim, f.hidden, f.seq, 12)
        yield Row("ffn", f"{f.name}: 1 layer", "us", f.one, one)
        yield Row("ffn", f"{f.name}: 12 fused", "us", f.fused, 1e3 * m.evaluate(fused))
        yield Row("ffn", f"{f.name}: 12 apart", "us", f.separate, 12 * one)
        compiling = m.compile(fused, first=f.first)
        yield Row("ffn", f"{f.name}: compile", "ms", f.compile_ms, compiling)
    for t in published.MEGAS:
        whole = published.transformer(t.shape, t.layers)
        apart = t.layers * 1e3 * m.evaluate(*published.halves(t.shape))
        yield Row("transformer", f"{t.name}: fused", "us", t.fused, 1e3 * m.evaluate(whole))
        yield Row("transformer", f"{t.name}: apart", "us", t.separate, apart)
        compiling = m.compile(whole, first=t.first)
        yield Row("transformer", f"{t.name}: compile", "ms", t.compile_ms, compiling)
    for s in published.SWEEP:
        ms, rate, share = m.sweep(s.accumulation, s.steps)
        yield Row("accumulation", f"{s.accumulation}: step", "ms", s.step_ms, ms)
        yield Row("accumulation", f"{s.accumulation}: rate", "steps/s", s.steps_s, rate)
        name = f"{s.accumulation}: compiling"
        yield Row("accumulation", name, "% of time", 100 * s.compile_share, 100 * share)
    parts = m.step(published.TRAINING)
    for step, ms in published.WARM_UP.items():
        yield Row(
            "accumulation", f"step {step} of a batch", "ms", ms, parts["step"] * m.warming(step)
        )
    for name, (low, high) in published.STEP_MS.items():
        yield Row("step", name, "ms", low, parts[name], high)
    alone = m.evaluate(published.ASYNC_PROGRAM)
    for (name, ms), factor in zip(published.ASYNC_MS.items(), (1, m.rates.background), strict=True):
        yield Row("async", name, "ms", ms, alone * factor)
    stack = (
        m.sweep(10, 50)[1], m.sweep(100, 200)[1], m.asynchronous(100), 1e3 / parts["step"],
    )  # fmt: skip
    for (name, rate), ours in zip(published.STACK.items(), stack, strict=True):
        yield Row("stack", name, "steps/s", rate, ours)
    for name, ms in m.cpu_probe().items():
        low, high = published.CPU_PROBE_MS[name]
        yield Row("cpu", name, "ms", low, ms, high)
    for h in published.HIDES:
        k = m.compile(h.program, first=h.first) / h.step_ms
        yield Row("hide", f"{h.name}, {h.step_ms:g} ms a step", "steps", h.k, k)


def errors(found: list[Row]) -> tuple[float, float]:
    """(worst, median) absolute relative error."""
    sizes = [abs(row.error) for row in found]
    return max(sizes), median(sizes)


def report(found: list[Row]) -> list[str]:
    """The error table: every row, then the worst and the median."""
    lines = [f"{'published':>12} {'modelled':>9} {'error':>7}  unit       {published.SOURCE}"]
    for row in found:
        numbers = f"{row.said:>12} {row.modelled:9.4g} {100 * row.error:+6.1f}%"
        lines.append(f"{numbers}  {row.unit:10} {row.table}: {row.name}")
    worst, typical = errors(found)
    lines.append(
        f"{len(found)} rows: worst {100 * worst:.1f}% of {100 * WORST:.0f}%, "
        f"median {100 * typical:.1f}% of {100 * TYPICAL:.0f}%; {PARAMETERS}"
    )
    return lines


PARAMETERS = "9 rates fitted, 8 read off single rows, 4 from other publications"
