"""Checks of MIL text, one file per theme of the catalogue. Importing this registers them all."""

from anefast.mil.lint.checks import numbers, operations, patterns, ports, text, weights
from anefast.mil.lint.checks.base import ON_FUNCTION, ON_SOURCE, Finding, Platform, found

__all__ = [
    "ON_FUNCTION", "ON_SOURCE", "Finding", "Platform", "found", "numbers", "operations",
    "patterns", "ports", "text", "weights",
]  # fmt: skip
