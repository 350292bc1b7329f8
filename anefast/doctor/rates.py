"""Measures the rates of the time model on this device, so that another machine can compare plans
for it: `anefast plan --chip doctor.json`."""

from __future__ import annotations

from anefast.doctor.result import Check, Found
from anefast.doctor.subject import Subject
from anefast.fuse.timing import Rates
from anefast.runtime.calibrate import measure


def rates(subject: Subject) -> Found:
    """The calibration that `plan="auto"` makes, with names and units of chips/rates.py."""
    found = converted(measure(subject.device))
    numbers = tuple(subject.number(name, value, "") for name, value in found.items())
    words = tuple(f"{name}={value:.4g}" for name, value in found.items())
    said = "a calibration; other rates of the time model are the nearest chip's"
    return Found(said, numbers, {"rates": words})


def converted(r: Rates) -> dict[str, float]:
    """The rates that the time model of a chip also has (fuse/timing.py)."""
    return {
        "dispatch_us": 1e6 * r.dispatch,
        "tflops": 1e-12 * r.flops,
        "stream_gb_s": 1e-9 * r.stream,
        "cpu_tflops": 1e-12 * r.cpu_flops,
        "copy_gb_s": 1e-9 * r.copied_bytes,
        "convert_gb_s": 1e-9 * r.staged_bytes,
        "compile_program_ms": 1e3 * r.compile_program,
        "compile_mb_ms": 1e9 * r.compile_byte,
    }


def checks() -> list[Check]:
    return [Check("rates", "probes", rates, 60, alone=True)]
