"""The time model: what one evaluation or one compile takes, from the work in it and a few rates.

An evaluation is, in this order,

    dispatch
    + min(weights, fill_limit) / fill      the first weights come in before anything can be computed
    + sum over products of (product + max(flops / flops rate, weights / stream))
    + results / values                     elementwise work and results that move inside
    + ports / port                         surfaces read and written

and a compile is a constant, something per operation and per byte of weights, and a part for the
products of two values, which attention has and which grows faster than their number. Elementwise
work costs a chip nothing: benchmarks/fit_time_model.py says what speaks against a term. The host's
rates are calibrated (`runtime/calibrate.py`), a chip's are published or fitted (`rates.py`). Not
here: what a whole step or plan costs (`cost.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from anefast.chips.behaviour import Chip
from anefast.chips.rates import ChipRates, rates_of

# How compile times of attention grow, chosen among 1, 1.25 ... 2 and 0, 0.5, 1 (rates.py): with the
# number of products of two values, and with the heads each is of.
GROWTH, HEADS = 1.5, 0.5


class Product(NamedTuple):
    """A convolution or a matmul. Bytes are of fp16."""

    flops: int
    weight_bytes: int  # baked; 0 for a product of two values
    heads: int  # that a product of two values is of; 0 for a convolution


class Work(Protocol):
    """The work of one evaluation of a program."""

    @property
    def products(self) -> Sequence[Product]: ...
    @property
    def operations(self) -> int: ...
    @property
    def weight_bytes(self) -> int: ...  # its weight file, constants included
    @property
    def value_bytes(self) -> int: ...  # results of all operations, views left out
    @property
    def port_bytes(self) -> int: ...  # read and written through ports
    @property
    def copied_bytes(self) -> int: ...  # by the CPU, between a value's surface and a packed port


@dataclass(frozen=True)
class Rates:
    """A device's effective rates. Times in seconds, rates per second."""

    label: str  # measured, measured on the host, emulated or modelled
    source: str
    dispatch: float  # s per evaluation
    product: float  # s per convolution or matmul, whatever its size
    flops: float
    stream: float  # bytes of baked weights, while products are computed
    fill: float  # bytes of the first weights, before that
    fill_limit: float  # bytes: how much of the weights is first
    value_bytes: float  # results of operations
    port_bytes: float
    copied_bytes: float  # by the CPU, into and out of packed ports
    staged_bytes: float  # by the CPU, weights that are data
    cpu_flops: float  # of classifier and weight gradients
    pair_flops: float  # of the gradients of an adapter's pairs, which are products a rank wide
    cpu_pair_flops: float  # the same on the CPU
    logit: float  # s per logit: loss and its gradient
    compile_first: float  # s that the first compile of a process takes longer
    compile_program: float  # s per program
    compile_op: float  # s per operation
    compile_byte: float  # s per byte of weights
    compile_attention: float  # s, times (products of two values x heads ** HEADS) ** GROWTH
    background: float  # evaluations take so many times as long while another thread compiles
    beside: bool  # the CPU's weight gradients run beside the device; else both share cores

    def evaluation(self, work: Work) -> float:
        """Seconds of one evaluation and the copies around it."""
        products = sum(
            self.product + max(p.flops / self.flops, p.weight_bytes / self.stream)
            for p in work.products
        )
        return (
            self.dispatch
            + min(work.weight_bytes, self.fill_limit) / self.fill
            + products
            + work.value_bytes / self.value_bytes
            + work.port_bytes / self.port_bytes
            + work.copied_bytes / self.copied_bytes
        )

    def compile(self, work: Work, first: bool = False) -> float:
        """Seconds of compiling a program; `first`: nothing was compiled in this process yet."""
        return (
            self.compile_first * first
            + self.compile_program
            + self.compile_op * work.operations
            + self.compile_byte * work.weight_bytes
            + self.compile_attention * attention(work)
        )


def attention(work: Work) -> float:
    """The measure of a program's attention that compile times grow with."""
    heads = [p.heads for p in work.products if p.heads]
    return float(sum(math.pow(h, HEADS) for h in heads) ** GROWTH)


def modelled(chip: Chip, rates: ChipRates | None = None) -> Rates:
    """Rates of a chip that is not here; `rates`: others than the table's."""
    r = rates or rates_of(chip)
    return Rates(
        label="modelled",
        source=f"figures of {chip.title} in anefast/chips/rates.py",
        dispatch=r.dispatch_us.value * 1e-6,
        product=r.product_us.value * 1e-6,
        flops=r.tflops.value * 1e12,
        stream=r.stream_gb_s.value * 1e9,
        fill=r.fill_gb_s.value * 1e9,
        fill_limit=r.fill_mb.value * 1e6,
        value_bytes=math.inf,  # what is published leaves no room for it
        port_bytes=r.port_gb_s.value * 1e9,
        copied_bytes=r.copy_gb_s.value * 1e9,
        staged_bytes=r.convert_gb_s.value * 1e9,
        cpu_flops=r.cpu_tflops.value * 1e12,
        pair_flops=r.tflops.value * 1e12,  # of thin products nothing is published
        cpu_pair_flops=r.cpu_tflops.value * 1e12,
        logit=r.element_ns.value * 1e-9,
        compile_first=r.compile_first_ms.value * 1e-3,
        compile_program=r.compile_program_ms.value * 1e-3,
        compile_op=0.0,
        compile_byte=r.compile_mb_ms.value * 1e-9,
        compile_attention=r.compile_attention_ms.value * 1e-3,
        background=r.background.value,
        beside=True,
    )
