"""The catalogue of rules: what the ANE refuses, misreads or is slow at, as data.

One table per theme in rules/*.toml, an entry per rule: what is wrong, when it shows (severity),
on which chips and macOS it was seen, how sure that is, who says so and who says otherwise, and what
to write instead. Code that finds violations is elsewhere: checks/ in MIL text, ../rules.py in
graphs, ../../fuse/legal.py in plans; they speak of rules by id. We have run no M-series
chip: every fact is published evidence.
"""

from __future__ import annotations

import functools
import re
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal

from anefast.chips.behaviour import Chip

Severity = Literal["parse", "compile", "evaluate", "silent", "numeric", "slow"]
Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("note", "warning", "error")  # rising
SEVERITIES: dict[str, str] = {
    "parse": "refused at parse",
    "compile": "refused at compile",
    "evaluate": "fails at evaluation",
    "silent": "silently wrong",
    "numeric": "numeric hazard",
    "slow": "slow",
}
CONFIDENCE = {
    "A": "two independent sources, or a specification",
    "B": "one measurement",
    "C": "weak, or contradicted",
    "I": "inferred",
}
THEMES = ("text", "ports", "operations", "patterns", "numbers", "weights")


@dataclass(frozen=True)
class Rule:
    """One entry. `chips` are families ("m1" holds for m1-pro too), none: every chip; `os` is a
    macOS version or the beginning of one, empty: every version."""

    id: str
    name: str
    title: str
    severity: Severity
    confidence: str
    sources: tuple[str, ...]
    why: str
    rewrite: str
    theme: str
    chips: tuple[str, ...] = ()
    os: str = ""
    against: tuple[str, ...] = ()  # who reports otherwise: the rule is disputed
    fix: bool = False  # a rewrite is safe enough for --fix
    given_level: Level | None = None

    @property
    def disputed(self) -> bool:
        return bool(self.against)

    @property
    def level(self) -> Level:
        """The level of the finding: a dispute or an inference alone is never an error."""
        if self.given_level:
            return self.given_level
        if self.severity == "slow":
            return "note"
        sure = self.confidence in "AB" and not self.disputed
        return "error" if sure and self.severity != "numeric" else "warning"

    @property
    def where(self) -> str:
        """`m1, m2; macOS 15`, or `every chip`."""
        chips = ", ".join(self.chips) or "every chip"
        return f"{chips}; macOS {self.os}" if self.os else chips

    def applies(self, chip: Chip | None, os: str = "") -> bool:
        """True if to look for it. Without a chip, rules of all chips hold; what was only seen on
        one macOS is said for that macOS only."""
        if self.os and not re.match(rf"{re.escape(self.os)}(\.|$)", os):
            return False
        return not self.chips or chip is None or any(_is(chip.name, c) for c in self.chips)


def _is(chip: str, family: str) -> bool:
    return chip == family or chip.startswith(family + "-")


@functools.cache
def catalogue() -> dict[str, Rule]:
    """Every rule by id, in order of id."""
    found: dict[str, Rule] = {}
    folder = files(__package__).joinpath("rules")
    for theme in THEMES:
        table = tomllib.loads(folder.joinpath(f"{theme}.toml").read_text("utf-8"))
        for id, entry in table.items():
            lists = ("sources", "against", "chips")
            given: dict[str, Any] = {k: tuple(v) if k in lists else v for k, v in entry.items()}
            level = given.pop("level", None)
            found[id] = Rule(id=id, theme=theme, given_level=level, **given)
    return dict(sorted(found.items()))


def rule(id: str) -> Rule:
    """The rule of an id. KeyError if there is none."""
    return catalogue()[id]
