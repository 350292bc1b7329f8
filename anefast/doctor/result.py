"""The result of a check, and its form in the report. Data, no checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Label = Literal["measured", "measured on the host", "emulated", "modelled", "published"]
Status = Literal["passed", "failed", "skipped", "crashed", "timed out"]


@dataclass(frozen=True)
class Number:
    """A figure, never without its label. `published`: what an M1 Pro gave elsewhere, 0 if unknown.

    measured: on an ANE, or on this machine's CPU for the CPU's own work; measured on the host: by
    the host executor in its own right; emulated: by what stands in for a chip.
    """

    name: str
    value: float
    unit: str
    label: Label
    published: float = 0.0


@dataclass(frozen=True)
class Found:
    """A passed check: a line for people, and `facts` for later runs."""

    said: str
    numbers: tuple[Number, ...] = ()
    facts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class Wrong(Exception):
    """A check ran and got a wrong result. One line."""

    def __init__(self, said: str, numbers: tuple[Number, ...] = ()) -> None:
        super().__init__(said)
        self.numbers = numbers


@dataclass(frozen=True)
class Result:
    """The result of a check."""

    name: str
    group: str
    status: Status
    said: str
    seconds: float = 0.0
    numbers: tuple[Number, ...] = ()
    facts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return self.status == "passed"

    def plain(self) -> dict[str, Any]:
        """The result as plain values for JSON."""
        out = asdict(self)
        numbers = [n if n["published"] else {**n, "published": None} for n in out["numbers"]]
        return {**out, "numbers": numbers, "facts": {k: list(v) for k, v in self.facts.items()}}


def of_plain(plain: Mapping[str, Any]) -> Result:
    """The inverse of Result.plain."""
    numbers = tuple(Number(**{**n, "published": n["published"] or 0.0}) for n in plain["numbers"])
    facts = {k: tuple(v) for k, v in plain["facts"].items()}
    return Result(**{**plain, "numbers": numbers, "facts": facts})


@dataclass(frozen=True)
class Check:
    """Something to try. `run` gets a Subject (subject.py) and returns Found or raises Wrong.

    seconds: after so long it is stopped. alone: in a process that tries nothing else.
    """

    name: str
    group: str
    run: Callable[[Any], Found]
    seconds: float = 30.0
    alone: bool = False
