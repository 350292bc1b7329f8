"""Real ranks, over MPI. It is imported below `mpiexec` only (mpi.py)."""

from __future__ import annotations

import atexit
import json
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NoReturn, cast

import numpy as np

from anefast.distributed.exchange import Messages, Shared, clipped, even
from anefast.distributed.waiting import LATE_BETWEEN, Waiting
from anefast.distributed.world import Ends, Floats, Losses, World, summed
from anefast.errors import BadInput, shown

if TYPE_CHECKING:
    from anefast.distributed.mpi import MPI

HEARD = 0.5  # seconds: mpiexec drops what it has not read when ranks are aborted


class Ranks(World):
    """A rank of several. local: those of them that are on this machine."""

    def __init__(self, comm: MPI.Intracomm, local: MPI.Intracomm) -> None:
        self._comm = comm
        self.rank, self.size = comm.rank, comm.size
        first = np.array([comm.rank], np.int64)
        local.Bcast(first)
        self._machine = int(first[0])  # the first rank on it stands for it
        self._waiting = Waiting(comm)
        together = local.size == comm.size
        self._exchange = (Shared if together else Messages)(comm, self._waiting)
        self._done = False
        self._before = sys.excepthook
        sys.excepthook = self._fell
        atexit.register(self._left)

    def sum(self, grads: Floats, part: tuple[int, int], ends: Ends | None = None) -> None:
        for first, last in self._pieces(*part):
            piece = grads[first:last]
            cut = even(last - first, self.size) if ends is None else clipped(ends, first, last)
            self._exchange.sums(piece, cut)
            if ends is None:
                self._exchange.shares(piece, cut)

    def reduce(
        self,
        grads: Floats,
        losses: Losses,
        ends: Ends | None = None,
        but: Sequence[tuple[int, int]] = (),
    ) -> Losses:
        done = 0
        for first, last in [*sorted(but), (len(grads), len(grads))]:
            self.sum(grads, (done, first), ends)
            done = last
        return summed([(loss, int(tokens)) for loss, tokens in self.numbers([losses])])

    def gather(self, floats: Floats, ends: Ends) -> None:
        for first, last in self._pieces(0, len(floats)):
            self._exchange.shares(floats[first:last], clipped(ends, first, last))

    def _pieces(self, first: int, last: int) -> list[tuple[int, int]]:
        step = self._exchange.piece
        return [(at, min(at + step, last)) for at in range(first, last, step)]

    def collect(self, floats: Floats) -> Iterator[Floats]:
        sizes = [int(row[0]) for row in self.numbers([[len(floats)]])]
        if self.rank:
            self._wait(self._comm.Isend(floats, 0), "a checkpoint")
            return
        yield floats
        for other in range(1, self.size):
            theirs = np.empty(sizes[other], np.float32)
            self._wait(self._comm.Irecv(theirs, other), "a checkpoint")
            yield theirs

    def _wait(self, request: MPI.Request, at: str) -> None:
        self._waiting.until(request.Test, at, LATE_BETWEEN, moves=True)

    def all(self, text: str) -> list[str]:
        own = text.encode("utf-8", "surrogatepass")
        sizes = np.empty(self.size, np.int64)
        asked = self._comm.Iallgather(np.array([len(own)], np.int64), sizes)
        self._wait(asked, "a decision")
        room = bytearray(int(sizes.sum()))
        firsts = [0, *np.cumsum(sizes).tolist()]
        parts = [room, (sizes.tolist(), firsts[:-1])]
        self._wait(self._comm.Iallgatherv(own, parts), "a decision")
        texts = (bytes(room[a:b]) for a, b in pairwise(firsts))
        return [t.decode("utf-8", "surrogatepass") for t in texts]

    def _values(self, own: Any) -> list[Any]:
        """Plain values of all ranks."""
        return [json.loads(text) for text in self.all(json.dumps(own))]

    def beside(self, own: Any) -> list[Any]:
        """Plain values of the ranks on this machine."""
        every = self._values([self._machine, own])
        return [value for machine, value in every if machine == self._machine]

    def numbers(self, own: Sequence[Sequence[float]]) -> list[list[float]]:
        return [row for rows in self._values([list(row) for row in own]) for row in rows]

    def agree(self, *flags: bool) -> tuple[bool, ...]:
        return tuple(any(column) for column in zip(*self._values(flags), strict=True))

    def told(self, text: str) -> str:
        return self.all(text)[0]

    def same(self, facts: Mapping[str, object]) -> None:
        every = self._values({name: str(value) for name, value in facts.items()})
        for rank, theirs in enumerate(every):
            for name, value in every[0].items():
                if theirs.get(name) != value:
                    self._refuse(
                        f"[dist] expected the same {name} on every rank, rank {rank} has "
                        f"{shown(theirs.get(name, 'none'))} and rank 0 {shown(value)}. "
                        "Hint: start all ranks with the same command, code and files."
                    )

    def _refuse(self, line: str) -> NoReturn:
        """All ranks refuse, and rank 0 says why."""
        self._done = True
        if self.rank:
            raise SystemExit(2)
        raise BadInput(line)

    def arrive(self, at: str) -> dict[str, float]:
        self._done = False
        began = time.monotonic()
        self._waiting.until(self._comm.Ibarrier().Test, at)
        waited = time.monotonic() - began
        self._waiting.arrived()
        every = [row[0] for row in self.numbers([[waited]])]
        slowest = min(range(self.size), key=every.__getitem__)
        return {"slowest_rank": slowest, "late_ms": 1e3 * (max(every) - every[slowest])}

    def finish(self) -> None:
        self.arrive("the end of the run")
        self._done = True

    def abort(self, code: int) -> None:
        if not self._done:
            self._done = True
            who = f"rank {self.rank} of {self.size}, on {socket.gethostname()},"
            print(f"[dist] {who} ends all with exit code {code}", file=sys.stderr)
            sys.stdout.flush()
            sys.stderr.flush()
            time.sleep(HEARD)
            self._comm.Abort(code)

    def _fell(self, kind: Any, error: Any, trace: Any) -> None:
        """An exception ends all ranks: those that wait for this one would wait for ever."""
        self._before(kind, error, trace)
        self.abort(1)

    def _left(self) -> None:
        """Runs at the exit of a rank that did not finish its run."""
        self.abort(1)


def open_ranks() -> Ranks | None:
    """The ranks that MPI has started; None where there is one only. ImportError, RuntimeError."""
    from anefast.distributed.mpi import MPI

    if MPI.Query_thread() < MPI.THREAD_SERIALIZED:  # sums are made by a thread of their own
        raise RuntimeError("one that serves a single thread")
    comm = MPI.COMM_WORLD
    if comm.size == 1:
        return None
    local = comm.Split_type(MPI.COMM_TYPE_SHARED)
    return Ranks(comm, cast("MPI.Intracomm", local))
