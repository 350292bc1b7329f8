"""The number of micro-batches per update: one number, or a ramp of them.

A ramp such as "8@500, 32@2000" means 8 from update 500 on and 32 from update 2,000 on. It is a pure
function of the update, so resuming needs no state.
"""

from __future__ import annotations

from dataclasses import dataclass

from anefast.checks import need
from anefast.errors import shown


@dataclass(frozen=True)
class Ramp:
    """first: micro-batches of an update. changes: from an update on (the first is 1), how many.

    >>> ramp = Ramp.of(2, "4@3, 8@5")
    >>> [ramp.at(update) for update in range(1, 7)], ramp.total(6), ramp.most
    ([2, 2, 4, 4, 8, 8], 28, 8)
    """

    first: int
    changes: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, first: int, text: str) -> Ramp:
        """From settings. ConfigError for a text that is no ramp."""
        found: list[tuple[int, int]] = []
        for part in text.split(",") if text else ():
            many, at, update = (word.strip() for word in part.partition("@"))
            good = many.isdecimal() and update.isdecimal() and int(many) and int(update) > 1
            if good and found:
                good = int(update) > found[-1][0]
            need(
                bool(at and good),
                "optim.ramp must be a list of MICRO_BATCHES@UPDATE in the order of the updates, "
                f"got {shown(repr(text), 60)}",
                "8@500, 32@2000 has 8 from update 500 on",
            )
            found.append((int(update), int(many)))
        return cls(first, tuple(found))

    def at(self, update: int) -> int:
        """Micro-batches of this update."""
        return next((n for begins, n in reversed(self.changes) if begins <= update), self.first)

    def total(self, updates: int) -> int:
        """Micro-batches of the first so many updates."""
        ends = [begins for begins, _ in self.changes if begins <= updates]
        starts = [1, *ends]
        return sum(
            self.at(start) * (end - start)
            for start, end in zip(starts, [*ends, updates + 1], strict=True)
        )

    @property
    def most(self) -> int:
        return max([self.first, *(n for _, n in self.changes)])
