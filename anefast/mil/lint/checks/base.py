"""Shared by checks: findings, edits, the target, and the table that checks enter themselves in.

A check looks at one function, or one text, and yields findings for the rules it is registered
with. What a rule means is in the catalogue; how a finding is printed, in report.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from anefast.chips.behaviour import Chip
from anefast.mil.lint.catalogue import Level, Rule, rule
from anefast.mil.lint.edits import Edit
from anefast.mil.lint.source import At, Function, Source


@dataclass(frozen=True)
class Finding:
    """A violation at a place. `message` says what is there; why it matters is the rule's."""

    rule: Rule
    at: At
    message: str
    edits: tuple[Edit, ...] = ()
    path: Path | None = None
    level: Level = "error"

    @property
    def fixable(self) -> bool:
        return bool(self.edits)


@dataclass(frozen=True)
class Platform:
    """What to lint for: a chip (None: every chip) and a macOS version ("": the current ones)."""

    chip: Chip | None = None
    os: str = ""

    def family(self, *names: str) -> bool:
        """True if the chip is of one of these families, or may be."""
        chip = self.chip
        return chip is None or any(chip.name == n or chip.name.startswith(n + "-") for n in names)


def found(id: str, at: At, message: str, *edits: Edit) -> Finding:
    which = rule(id)
    return Finding(which, at, message, edits, level=which.level)


Findings = Iterable[Finding]
OnFunction = Callable[[Source, Function, Platform], Findings]
OnSource = Callable[[Source, Platform], Findings]
ON_FUNCTION: list[tuple[tuple[str, ...], OnFunction]] = []
ON_SOURCE: list[tuple[tuple[str, ...], OnSource]] = []
F = TypeVar("F", bound=OnFunction)
S = TypeVar("S", bound=OnSource)


def function_check(*ids: str) -> Callable[[F], F]:
    """Registers a check of single functions for these rules."""

    def register(check: F) -> F:
        ON_FUNCTION.append((ids, check))
        return check

    return register


def source_check(*ids: str) -> Callable[[S], S]:
    """Registers a check of whole texts for these rules."""

    def register(check: S) -> S:
        ON_SOURCE.append((ids, check))
        return check

    return register
