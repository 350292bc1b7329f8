"""Detects that a device has become slower than it was.

Direct evaluations were seen to slow down after some 100,000 in one process, on an M3 Ultra, and to
recover when the programs were compiled again (ncdrone/rustane). What is watched is the time of the
forward programs of a micro-step, the least of each update, so that a busy machine's hiccups do not
count; an update's worth of clock readings is two for each micro-step.
"""

from __future__ import annotations

import statistics

MEASURED = 20  # updates that say how fast it is
SLOWER = 1.5  # as slow as this, in MEASURED updates one after another, is worth a line
ENOUGH = 50_000  # evaluations of this process before which no slow-down is this one


class Pace:
    """Watches the speed of one training step. Call `add` per micro-step, `look` per update."""

    def __init__(self) -> None:
        self._least = float("inf")  # seconds, of the update under way
        self._first: list[float] = []
        self._slow = 0  # updates in a row
        self._told = False
        self.last = 0.0  # seconds of the last update's fastest forward pass
        self.slowdown = 1.0  # that, beside the first updates'

    def add(self, seconds: float) -> None:
        """The forward programs of a micro-step took so long."""
        if seconds < self._least:
            self._least = seconds

    def look(self, evaluations: int) -> str:
        """Ends an update. What there is to say after so many evaluations, once; else ""."""
        if self._least == float("inf"):
            return ""
        self.last, self._least = self._least, float("inf")
        if len(self._first) < MEASURED:
            self._first.append(self.last)
            return ""
        usual = statistics.median(self._first)
        self.slowdown = self.last / usual
        self._slow = self._slow + 1 if self.slowdown > SLOWER else 0
        if self._told or self._slow < MEASURED or evaluations < ENOUGH:
            return ""
        self._told = True
        return (
            f"[device] a forward pass takes {1e3 * self.last:.3g} ms after {evaluations:,} "
            f"evaluations, {self.slowdown:.1f} times the {1e3 * usual:.3g} ms at the start. Hint: "
            "some systems slow down after some 100,000 evaluations of a process; stop with Ctrl-C "
            "and --resume, which compiles the programs anew. Another program may be at work, too."
        )
