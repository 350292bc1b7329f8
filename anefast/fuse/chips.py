"""What is known of each chip's Neural Engine: limits and rates, every figure with its source.

Data, no code paths. Nobody here has run an M-series chip: these figures are other people's
measurements, and where none was found for a chip the nearest one's is taken and marked assumed.
What is computed from this table is therefore always labelled `modelled`. Read `cost.py` for the
model that uses the rates, `legal.py` for the limits.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import NamedTuple

GUIDE = "sbryngelson/ane-guide"
SEED = "maderix/ANE issue 24 (M1 Pro, macOS 26.2)"
MADERIX = "maderix/ANE"


class Figure(NamedTuple):
    """A number and where it comes from."""

    value: float
    source: str


@dataclass(frozen=True)
class Chip:
    """One chip. Rates are effective, as seen by a whole program, not peaks of a data sheet."""

    name: str
    max_axis: Figure  # longest axis of a port behind the channels
    max_channels: Figure
    max_offset: Figure | None  # last-axis offset of a slice beyond which values come out as inf
    loaded_programs: Figure  # that a process may hold at once
    several_inputs: str  # why a program with several inputs may be refused; empty: no such report
    dispatch_us: Figure  # per evaluation, whatever is in it
    tflops: Figure  # of conv and matmul, fp16
    weight_gb_s: Figure  # baked weights on their way in
    value_gb_s: Figure  # results inside a program, and ports
    cpu_tflops: Figure  # fp32 products on the CPU: classifier and weight gradients
    compile_ms_op: Figure  # per operation
    compile_ms_mb: Figure  # per 10^6 bytes of weights


def assumed(figure: Figure, chip: str) -> Figure:
    """A figure of the nearest chip that has one."""
    return Figure(figure.value, f"assumed, as {chip}: {figure.source}")


_OLD_AXIS = Figure(16384, f"{GUIDE} appendix A, jafreck/ironmill: 16385 is refused up to M3")
_NEW_AXIS = Figure(65536, f"{GUIDE} appendix A: from M4")
_CHANNELS = Figure(65536, f"{GUIDE} appendix A")
_OFFSET = Figure(4094, f"{GUIDE}: slices that start later read inf, M1 and M2")
_LOADED = Figure(120, "omlx, ncdrone/rustane; jafreck/ironmill saw trouble from about 55")

# Rates of the M1 Pro: least squares of the relative error over the 18 times in the tables of SEED
# (5 FFN models of 1 and 12 layers, 4 transformers fused and in halves) against counts of our own
# programs of those shapes. Dispatch, weights and values were fitted, without ports and arithmetic.
# SEED does not say how long the transformers' sequences were; 64, as the FFN's, is taken.
# Residuals: fused 0.82 to 1.40, one layer 0.91 to 1.26, halves 0.92 and 0.59 of the published time.
# Compile times, 9 rows, no intercept: 0.50 (12 layers of 768) to 1.33.
_FIT = f"fitted to the tables of {SEED}"
_DISPATCH = Figure(190, f"{_FIT}; of it 160 us are XPC")
_WEIGHT = Figure(62, _FIT)
_VALUE = Figure(33, _FIT)
_OP = Figure(2.2, f"{_FIT}, compile column")
_MB = Figure(3.5, f"{_FIT}, compile column")
_CPU = Figure(1.9, f"{SEED}: classifier of 12.6 GFLOP in 6.6 ms")
_FASTER = "scaled by 60 kernels in 3.2-3.7 s against 7.1-8.5 s on M1 Pro (maderix/ANE report)"
_OP_NEW, _MB_NEW = Figure(0.97, _FASTER), Figure(1.5, _FASTER)
_M1_TFLOPS = Figure(12, f"{GUIDE} roofline, M1")

_SEVERAL = f"several inputs per program: refused in {SEED}, taken on other M1s"


def _chip(name: str, **given: Figure | str | None) -> Chip:
    """A chip with the M1 Pro's figures for whatever is not given."""
    figures: dict[str, Figure | str | None] = {
        "max_axis": _OLD_AXIS, "max_channels": _CHANNELS, "max_offset": None,
        "loaded_programs": _LOADED, "several_inputs": "",
    }  # fmt: skip
    rates = {
        "dispatch_us": _DISPATCH, "tflops": _M1_TFLOPS, "weight_gb_s": _WEIGHT,
        "value_gb_s": _VALUE, "cpu_tflops": _CPU, "compile_ms_op": _OP, "compile_ms_mb": _MB,
    }  # fmt: skip
    figures |= {k: assumed(v, "m1-pro") for k, v in rates.items()}
    return Chip(name, **{**figures, **given})  # type: ignore[arg-type]


_M1 = _chip(
    "m1",
    max_offset=_OFFSET,
    dispatch_us=Figure(230, f"{GUIDE} ch. 9: floor of an evaluation"),
    tflops=_M1_TFLOPS,
    weight_gb_s=Figure(51, f"{GUIDE}: weight streaming, M1"),
)
_M3 = _chip("m3", tflops=Figure(9.98, f"{MADERIX} inmem_peak, M3 Pro"))
_M4 = _chip(
    "m4",
    max_axis=_NEW_AXIS,
    dispatch_us=Figure(95, f"{MADERIX} part 2: M4 mini, macOS 15"),
    tflops=Figure(11.74, f"{MADERIX} inmem_peak, M4 mini"),
    compile_ms_op=_OP_NEW,
    compile_ms_mb=_MB_NEW,
)

CHIPS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        _M1,
        _chip(
            "m1-pro",
            max_offset=assumed(_OFFSET, "m1"),
            several_inputs=_SEVERAL,
            dispatch_us=_DISPATCH,
            tflops=assumed(_M1_TFLOPS, "m1"),
            weight_gb_s=_WEIGHT,
            value_gb_s=_VALUE,
            cpu_tflops=_CPU,
            compile_ms_op=_OP,
            compile_ms_mb=_MB,
        ),
        _chip(
            "m2",
            max_offset=_OFFSET,
            dispatch_us=assumed(_M1.dispatch_us, "m1"),
            tflops=assumed(_M1_TFLOPS, "m1"),
        ),
        _M3,
        _M4,
        _chip(
            "m4-max",
            max_axis=_NEW_AXIS,
            dispatch_us=Figure(175, f"{MADERIX} pull request 40: M4 Max, macOS 15"),
            tflops=Figure(11.14, f"{MADERIX} inmem_peak, M4 Max"),
            cpu_tflops=Figure(2.3, f"{MADERIX} pull request 25: classifier in 5-6 ms"),
            compile_ms_op=_OP_NEW,
            compile_ms_mb=_MB_NEW,
        ),
        _chip(
            "m5",
            max_axis=assumed(_NEW_AXIS, "m4"),
            dispatch_us=Figure(117, "thebasedcapital/ane-infer: M5, macOS 26.3"),
            tflops=Figure(12.2, f"{MADERIX} inmem_peak, M5"),
            weight_gb_s=Figure(145, f"{GUIDE}: M5"),
            compile_ms_op=_OP_NEW,
            compile_ms_mb=_MB_NEW,
        ),
    )
}


def find_chip(name: str) -> Chip:
    """The chip called `name`. ValueError with a suggestion where there is none."""
    if name in CHIPS:
        return CHIPS[name]
    near = difflib.get_close_matches(name.lower().replace(" ", "-"), CHIPS, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(CHIPS)}."
    raise ValueError(f"[plan] expected a known chip, got {name!r}. Hint: {hint}")


def chip_of(description: str) -> Chip:
    """The nearest chip of the table for a device that describes itself, such as `Apple M4 Max`.

    Caps rise with the generation, so an unknown variant is taken for its generation's base chip,
    and what names no generation for the oldest.
    """
    words = re.findall(r"[a-z0-9]+", description.lower())
    for i, word in enumerate(words):
        variant = f"{word}-{words[i + 1]}" if i + 1 < len(words) else word
        if variant in CHIPS or word in CHIPS:
            return CHIPS.get(variant) or CHIPS[word]
    return CHIPS["m1"]
