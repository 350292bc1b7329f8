"""The speed of each chip's Neural Engine, every figure with its source.

Data, no code paths. We have run no M-series chip: these figures are other people's
measurements, or fitted to them by benchmarks/fit_time_model.py, and where none was found for a chip
the nearest one's is taken and marked assumed. What is computed from this table is therefore always
labelled `modelled`. Read `timing.py` for the model that uses it and `anefast.bench model` for what
it misses; what a chip refuses is in `anefast/chips/behaviour.py`.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass

from anefast.chips.behaviour import GUIDE, MADERIX, SEED, Chip, Figure, assumed


@dataclass(frozen=True)
class ChipRates:
    """Effective rates of one chip, as a whole program sees them, not the peaks of a data sheet."""

    dispatch_us: Figure  # per evaluation, whatever is in it
    product_us: Figure  # per convolution or matmul, whatever its size
    tflops: Figure  # of conv and matmul, fp16
    stream_gb_s: Figure  # baked weights, while products are computed
    fill_gb_s: Figure  # the first weights, before that
    fill_mb: Figure  # how much of the weights is first
    port_gb_s: Figure  # surfaces that an evaluation reads and writes
    compile_first_ms: Figure  # that the first compile of a process takes longer
    compile_program_ms: Figure
    compile_mb_ms: Figure  # per 10^6 bytes of weights
    compile_attention_ms: Figure  # per timing.attention
    background: Figure  # evaluations take so many times as long while another thread compiles
    cpu_tflops: Figure  # fp32 products on the CPU: classifier and weight gradients
    convert_gb_s: Figure  # fp16 of a surface to and from fp32, in bytes of fp16
    copy_gb_s: Figure  # memcpy, bytes read
    element_ns: Figure  # a loop over numbers with an exp or a sum in it: cross-entropy, norms
    add_ns: Figure  # a residual add, scalar
    add_vector_ns: Figure  # the same by vDSP
    lock_us: Figure  # a pair of lock and unlock
    cold: Figure  # the first step of a batch takes so much more than a warm one, as a share of it
    warm_steps: Figure  # in which that falls to 1/e


_FIT = f"fitted to {SEED}, benchmarks/fit_time_model.py"
_READ = f"{SEED}, sections 4 and 5"
_ROOF = f"{GUIDE} roofline, M1"
_SRAM = "SRAM of the chip, libane's table"

_M1_PRO = ChipRates(
    dispatch_us=Figure(148, f"{_FIT}; published as about 160"),
    product_us=Figure(2.73, _FIT),
    tflops=Figure(12, f"assumed, as m1: {_ROOF}"),
    stream_gb_s=Figure(85, f"assumed, as m1: {_ROOF}"),
    fill_gb_s=Figure(51, f"assumed, as m1: {_ROOF}, weight streaming"),
    fill_mb=Figure(8, f"assumed, as m1: {_SRAM}"),
    port_gb_s=Figure(4.31, _FIT),
    compile_first_ms=Figure(61.2, _FIT),
    compile_program_ms=Figure(140, _FIT),
    compile_mb_ms=Figure(3.13, _FIT),
    compile_attention_ms=Figure(4.79, _FIT),
    background=Figure(1.13, f"{_READ}: 0.381 against 0.337 ms"),
    cpu_tflops=Figure(1.9, f"{SEED}: classifier of 12.6 GFLOP in 6.6 ms"),
    convert_gb_s=Figure(10.6, f"{SEED}: forward I/O of 70.8 MB in 6.7 ms"),
    copy_gb_s=Figure(42, f"{_READ}: 144 MB in 3.4 ms"),
    element_ns=Figure(1.87, f"{SEED}: cross-entropy of 8.2 M logits in 15.9 ms less residual adds"),
    add_ns=Figure(0.112, f"{_READ}: 4.7 M in 0.53 ms"),
    add_vector_ns=Figure(0.0466, f"{_READ}: 4.7 M in 0.22 ms"),
    lock_us=Figure(0.61, f"{_READ}: 228 pairs in 0.14 ms"),
    cold=Figure(0.558, _FIT),
    warm_steps=Figure(13.7, _FIT),
)


def _rates(**given: Figure) -> ChipRates:
    """Rates of a chip with the M1 Pro's for whatever is not given."""
    return ChipRates(**{k: assumed(v, "m1-pro") for k, v in vars(_M1_PRO).items()} | given)


def _scaled(figure: Figure, factor: float, why: str) -> Figure:
    return Figure(float(f"{figure.value * factor:.3g}"), why)


# The 60 kernels of a training set compile in 3.2 to 3.7 s on M4 and M5; by the M1 Pro's rates they
# take 12.3 s (published: 10.3 to 15.3).
_FASTER = f"m1-pro's by 3.45 / 12.3 s for 60 kernels ({MADERIX} report)"
_NEW_COMPILES = {
    name: _scaled(getattr(_M1_PRO, name), 3.45 / 12.3, _FASTER)
    for name in (
        "compile_first_ms",
        "compile_program_ms",
        "compile_mb_ms",
        "compile_attention_ms",
    )
}
_M1 = _rates(
    dispatch_us=Figure(230, f"{GUIDE} ch. 9: floor of an evaluation"),
    tflops=Figure(12, _ROOF),
    stream_gb_s=Figure(85, _ROOF),
    fill_gb_s=Figure(51, f"{_ROOF}, weight streaming"),
    fill_mb=Figure(8, _SRAM),
)
_M5_PORT = Figure(40, f"what is left of 9.1-9.8 ms for 24 evaluations, M5 ({MADERIX} report)")
_M5_STREAM = Figure(145, f"{GUIDE}: M5")
# Of one machine each, and of programs of convolutions only (bench/published.toml).
_CONVS = "fitted to published convolutions, benchmarks/fit_time_model.py"
_M4_OWN = {
    "product_us": Figure(0.141, _CONVS),
    "tflops": Figure(15.7, f"{_CONVS}; with dispatches, 11.74 of a Mac mini"),
    "stream_gb_s": assumed(_M5_STREAM, "m5"),
    "port_gb_s": Figure(45.3, _CONVS),
    **_NEW_COMPILES,
}
_AS_M4 = {
    name: assumed(figure, "m4") if figure.source.startswith(_CONVS) else figure
    for name, figure in _M4_OWN.items()
}

RATES: dict[str, ChipRates] = {
    "m1": _M1,
    "m1-pro": _M1_PRO,
    "m2": _rates(
        dispatch_us=assumed(_M1.dispatch_us, "m1"),
        fill_mb=Figure(16, _SRAM),
    ),
    "m3": _rates(
        dispatch_us=Figure(165, _CONVS),
        product_us=Figure(0.06, _CONVS),
        tflops=Figure(15.0, f"{_CONVS}; {MADERIX} inmem_peak has 15.04 sustained, M3 Pro"),
        fill_gb_s=Figure(26.3, _CONVS),
        fill_mb=Figure(32, _SRAM),
        port_gb_s=Figure(28.4, _CONVS),
    ),
    "m4": _rates(
        dispatch_us=Figure(66.6, f"{_CONVS}; {MADERIX} part 2 has 95 for an M4 mini, macOS 15"),
        fill_gb_s=Figure(68.5, _CONVS),
        fill_mb=Figure(32, f"{MADERIX} part 2: SRAM, M4 mini"),
        **_M4_OWN,
    ),
    "m4-max": _rates(
        dispatch_us=Figure(117, f"{_CONVS}; {MADERIX} pull request 40 has 175, macOS 15"),
        fill_gb_s=Figure(107, _CONVS),
        fill_mb=Figure(32, f"assumed, as m4: {MADERIX} part 2: SRAM, M4 mini"),
        cpu_tflops=Figure(2.3, f"{MADERIX} pull request 25: classifier in 5-6 ms"),
        **_AS_M4,
    ),
    "m5": _rates(
        dispatch_us=Figure(117, "thebasedcapital/ane-infer: M5, macOS 26.3"),
        fill_gb_s=_M5_STREAM,
        fill_mb=Figure(32, f"assumed, as m4: {MADERIX} part 2: SRAM, M4 mini"),
        **_AS_M4 | {"stream_gb_s": _M5_STREAM, "port_gb_s": _M5_PORT},
    ),
}
_M6 = "751K/Apple-Neural-Engine-Microarchitecture-Study-M6, macOS 27.0.1, Core ML's path"
RATES["m6"] = _rates(
    dispatch_us=Figure(245, f"{_M6}: 30 before a task, 130 to 325 after it, 215 where CPUs wake"),
    product_us=Figure(0.013, f"{_M6}: at most, per operation"),
    tflops=Figure(20.6, f"{_M6}: one engine, which is what one program has"),
    stream_gb_s=Figure(150, f"{_M6}: weights, shared by both engines"),
    fill_gb_s=Figure(150, f"{_M6}: weights, shared by both engines"),
    fill_mb=Figure(32, f"assumed, as m4: {MADERIX} part 2: SRAM, M4 mini"),
    port_gb_s=Figure(37.5, f"{_M6}: 35 to 40 of activations"),
    **_NEW_COMPILES,
)


# The governor slows an engine whose evaluations are far apart: up to which gaps it keeps the clock,
# and how many times as long computing takes at the lowest.
CLOCK = f"{_M6}: gaps of 100 us keep 2.58 GHz, 400 us and more fall to 852 MHz, 2.8 times slower"
KEPT_GAP_US = Figure(100, CLOCK)
LOW_CLOCK = Figure(2.8, CLOCK)


def rates_of(chip: Chip) -> ChipRates:
    """The rates of a chip: those of the table, or its own, with the table's of it or of the chip
    that it is like for the rest."""
    like = chip.like or chip.name
    if not chip.file and like == chip.name:
        return RATES[like]
    table = {k: assumed(v, like) for k, v in vars(RATES[like]).items()}
    return ChipRates(**table | {k: v for k, v in chip.rates.items() if k in table})


def assumptions(chip: Chip) -> list[str]:
    """Lines that name the chip's unpublished rates, and the chip whose rates stand in for them."""
    taken: dict[str, list[str]] = {}
    for name, figure in vars(rates_of(chip)).items():
        if found := re.match(r"assumed, as ([\w-]+)", figure.source):
            taken.setdefault(found[1], []).append(name)
    said = "; ".join(f"as {other}: {', '.join(names)}" for other, names in taken.items())
    count = sum(map(len, taken.values()))
    head = f"assumed, {count} of {len(vars(rates_of(chip)))} rates of {chip.title}, "
    return textwrap.wrap(head + said, 96, break_on_hyphens=False) if taken else []
