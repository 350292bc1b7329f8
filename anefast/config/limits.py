"""Limits of sizes and seeds, for every section."""

from __future__ import annotations

from anefast.checks import need

ROW_MULTIPLE = 32  # 32 fp16 values fill the 64-byte row stride of a device surface
LARGEST = 1 << 24  # of a size: past it, arithmetic on shapes would no longer be exact in C


def need_size(name: str, value: int) -> None:
    need(value < LARGEST, f"{name} must be below {LARGEST:,}, got {value}", "give a smaller size")


def need_seed(name: str, value: int) -> None:
    need(
        0 <= value < 1 << 63, f"{name} must not be negative and fit 63 bits, got {value}", "0 does"
    )
