"""How fast each chip's Neural Engine is, every figure with its source.

Data, no code paths. Nobody here has run an M-series chip: these figures are other people's
measurements, and where none was found for a chip the nearest one's is taken and marked assumed.
What is computed from this table is therefore always labelled `modelled`. Read `cost.py` for the
model that uses it; what a chip refuses is in `anefast/chips.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from anefast.chips import GUIDE, MADERIX, SEED, Chip, Figure, assumed


@dataclass(frozen=True)
class ChipRates:
    """Of one chip. Effective, as seen by a whole program, not peaks of a data sheet."""

    dispatch_us: Figure  # per evaluation, whatever is in it
    tflops: Figure  # of conv and matmul, fp16
    weight_gb_s: Figure  # baked weights on their way in
    value_gb_s: Figure  # results inside a program, and ports
    cpu_tflops: Figure  # fp32 products on the CPU: classifier and weight gradients
    compile_ms_op: Figure  # per operation
    compile_ms_mb: Figure  # per 10^6 bytes of weights


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


def _rates(**given: Figure) -> ChipRates:
    """Rates of a chip with the M1 Pro's for whatever is not given."""
    return ChipRates(**{k: assumed(v, "m1-pro") for k, v in vars(_M1_PRO).items()} | given)


_M1_PRO = ChipRates(
    dispatch_us=_DISPATCH,
    tflops=assumed(_M1_TFLOPS, "m1"),
    weight_gb_s=_WEIGHT,
    value_gb_s=_VALUE,
    cpu_tflops=_CPU,
    compile_ms_op=_OP,
    compile_ms_mb=_MB,
)
_M1 = _rates(
    dispatch_us=Figure(230, f"{GUIDE} ch. 9: floor of an evaluation"),
    tflops=_M1_TFLOPS,
    weight_gb_s=Figure(51, f"{GUIDE}: weight streaming, M1"),
)

RATES: dict[str, ChipRates] = {
    "m1": _M1,
    "m1-pro": _M1_PRO,
    "m2": _rates(
        dispatch_us=assumed(_M1.dispatch_us, "m1"),
        tflops=assumed(_M1_TFLOPS, "m1"),
    ),
    "m3": _rates(tflops=Figure(9.98, f"{MADERIX} inmem_peak, M3 Pro")),
    "m4": _rates(
        dispatch_us=Figure(95, f"{MADERIX} part 2: M4 mini, macOS 15"),
        tflops=Figure(11.74, f"{MADERIX} inmem_peak, M4 mini"),
        compile_ms_op=_OP_NEW,
        compile_ms_mb=_MB_NEW,
    ),
    "m4-max": _rates(
        dispatch_us=Figure(175, f"{MADERIX} pull request 40: M4 Max, macOS 15"),
        tflops=Figure(11.14, f"{MADERIX} inmem_peak, M4 Max"),
        cpu_tflops=Figure(2.3, f"{MADERIX} pull request 25: classifier in 5-6 ms"),
        compile_ms_op=_OP_NEW,
        compile_ms_mb=_MB_NEW,
    ),
    "m5": _rates(
        dispatch_us=Figure(117, "thebasedcapital/ane-infer: M5, macOS 26.3"),
        tflops=Figure(12.2, f"{MADERIX} inmem_peak, M5"),
        weight_gb_s=Figure(145, f"{GUIDE}: M5"),
        compile_ms_op=_OP_NEW,
        compile_ms_mb=_MB_NEW,
    ),
}


def rates_of(chip: Chip) -> ChipRates:
    """The rates of a chip of the table."""
    return RATES[chip.name]
