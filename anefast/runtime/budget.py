"""Counts the programs that this process has compiled, against its budget.

Some systems were seen to fail, at first silently, after about 119 compiles in one process; others
took hundreds without complaint. So the number is a guard, not a law: what to do about it is the
caller's choice (`on_budget` in config/; train.py saves and starts a new process).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from anefast.config import TrainConfig
from anefast.errors import AnefastError

log = logging.getLogger("anefast")


class CompileBudgetError(AnefastError, RuntimeError):
    """A run needs more compiles than its process may make, and cannot start another process."""


class CompileBudget:
    """Counts compiles; warns once when there were more than `limit`."""

    def __init__(self, limit: int = TrainConfig.max_compiles) -> None:
        self.limit = limit
        self.used = 0
        self._warn: Callable[[str], None] = log.warning
        self._warned = False
        self._lock = threading.Lock()

    def spend(self) -> None:
        """Counts one compile. Safe from any thread."""
        with self._lock:
            self.used += 1
            warns = self.used > self.limit and not self._warned
            self._warned |= warns
        if warns:
            self._warn(
                f"[compile] this process has used its budget of {self.limit} compiles, and goes "
                "on. Hint: if the system limits compiles, --on-budget checkpoint-restart; if it "
                "does not, a larger --max-compiles."
            )

    @contextmanager
    def guard(self, limit: int, warn: Callable[[str], None]) -> Iterator[None]:
        """Another limit, and another way of saying that it is passed, while the context lasts."""
        before = self.limit, self._warn, self._warned
        self.limit, self._warn, self._warned = limit, warn, False
        try:
            yield
        finally:
            self.limit, self._warn, self._warned = before

    def holds(self, compiles: int) -> bool:
        """True if so many more stay within the limit."""
        return self.used + compiles <= self.limit

    def __repr__(self) -> str:
        return f"CompileBudget({self.used} of {self.limit})"


PROCESS = CompileBudget()  # the limit is of a process, so this is too
