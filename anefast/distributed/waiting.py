"""Waiting for other ranks: without keeping a core busy, and not for ever.

MPI waits as fast as it can and has no limit of time. Here a rank asks, sleeps a tenth of the time
that it has waited so far, and asks again. Some MPIs move a message only while they are asked, a few
KB at a time: what is on its way is asked for without a pause first, and then after short ones. A
rank that has waited too long asks all others whether they wait too. Those that do not answer are
the ones that everybody waits for, and are named.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from anefast.errors import Failure

if TYPE_CHECKING:
    from anefast.distributed.mpi import MPI

LATE_SECONDS = 60.0  # the least that a rank is waited for
LATE_BETWEEN = 900.0  # between updates, where rank 0 may write a checkpoint
LATE_AT_FIRST = 3600.0  # before all came once: they may compile
LATE_UPDATES = 20.0  # and the least in updates, of the length that they had
ANSWERS = 1.0  # seconds after which a rank that waits answers those who ask
ASKING = 3.0  # seconds that they have for it
LEAST_NAP, SHORT_NAP, LONGEST_NAP = 2e-5, 5e-5, 2e-3
MOVING, MOVING_SLOWLY = 2e-3, 1.0  # seconds of asking without naps, and with short ones
ARE_YOU_THERE, HERE = 101, 102  # tags


class Waiting:
    """The time that a rank of `comm` waits for others, and the rank that its error names."""

    def __init__(self, comm: MPI.Intracomm) -> None:
        self._comm = comm
        self._length = 0.0  # seconds between two arrivals, smoothed
        self._arrived = 0.0

    def arrived(self) -> None:
        """All ranks came, at an update's end."""
        now = time.monotonic()
        if self._arrived:
            length = now - self._arrived
            self._length = 0.9 * self._length + 0.1 * length if self._length else length
        self._arrived = now

    def until(
        self, done: Callable[[], object], at: str, least: float = 0.0, moves: bool = False
    ) -> None:
        """Returns once `done` says so. Failure where that takes too long, which names the ranks
        that do not wait.

        at: where ranks wait, for that line. least: seconds that they have in any case. moves:
        whether much is moved meanwhile, which asking is a part of.
        """
        for _ in range(50):
            if done():
                return
        began = time.monotonic()
        patience = LATE_AT_FIRST
        if self._arrived:
            patience = max(LATE_SECONDS, LATE_UPDATES * self._length)
        patience = max(least, patience)
        while not done():
            waited = time.monotonic() - began
            if waited > ANSWERS:
                self._answer()
            if waited > patience:
                self._late(at, patience)
            time.sleep(_nap(waited, moves))

    def _answer(self) -> None:
        """Says to those who ask that this rank waits too."""
        from anefast.distributed.mpi import MPI

        asked = MPI.Status()
        while self._comm.Iprobe(tag=ARE_YOU_THERE, status=asked):
            self._comm.Recv(bytearray(0), asked.source, ARE_YOU_THERE)
            self._comm.Isend(b"", asked.source, HERE)

    def _late(self, at: str, patience: float) -> NoReturn:
        """Ends all ranks. The first that waits names those that do not; the others leave it the
        time for that."""
        from anefast.distributed.mpi import MPI

        rank, size = self._comm.rank, self._comm.size
        missing = set(range(size)) - {rank}
        for other in missing:
            self._comm.Isend(b"", other, ARE_YOU_THERE)
        asked, until = MPI.Status(), time.monotonic() + ASKING
        while time.monotonic() < until:
            self._answer()
            while self._comm.Iprobe(tag=HERE, status=asked):
                self._comm.Recv(bytearray(0), asked.source, HERE)
                missing.discard(asked.source)
            time.sleep(0.01)
        if rank != min(set(range(size)) - missing):
            time.sleep(5)
            self._comm.Abort(1)
        named = ", ".join(map(str, sorted(missing))) or "none that could be found"
        raise Failure(
            f"[dist] expected all ranks at {at}, rank {named} did not come within {patience:.0f} "
            "s. Hint: look at its machine and its network; --resume goes on from the last "
            "checkpoint."
        )


def _nap(waited: float, moves: bool) -> float:
    """Seconds until a rank asks again that has asked for so long. 0 lets other threads run."""
    if moves and waited < MOVING:
        return 0.0
    longest = SHORT_NAP if moves and waited < MOVING_SLOWLY else LONGEST_NAP
    return min(max(LEAST_NAP, waited / 10), longest)
