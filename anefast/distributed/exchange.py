"""How ranks sum floats: over messages, or in memory that the ranks of one machine share.

Both do the same two things with a piece of an array that is cut into a part for each rank. `sums`
makes each part the sum over ranks, on the rank whose part it is; `shares` gives each rank's part to
all. Who waits does so by `until` (waiting.py), which never keeps a core busy for long.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from anefast.distributed.waiting import Waiting
from anefast.distributed.world import Ends, Floats, tree_sum

if TYPE_CHECKING:
    from anefast.distributed.mpi import MPI

SLICE = 1 << 17  # floats that a rank sends to another in one message: 512 KB
ROOM = 1 << 23  # and the most that it gets at a time from all: 32 MB
FARTHEST = 1 << 30  # floats that an MPI can count with ints, whatever it counts
SHARED = 1 << 18  # and in shared memory, where a piece should stay in the caches: 1 MB
LINE = 8  # of int64: a cache line for each rank's counter


class Messages:
    """Over MPI's messages, between any machines.

    A slice of every rank's part is exchanged at a time, so that all links are busy in both
    directions, however the parts lie.
    """

    piece = FARTHEST

    def __init__(self, comm: MPI.Intracomm, waiting: Waiting) -> None:
        self._comm, self._waiting = comm, waiting
        self._slice = max(1, min(SLICE, ROOM // comm.size))
        self._got = np.empty(self._slice * comm.size, np.float32)

    def sums(self, piece: Floats, ends: Ends) -> None:
        """Each rank gets its part from all, and adds them as the tree."""
        rank, size = self._comm.rank, self._comm.size
        for firsts, counts in self._slices(ends):
            mine = counts[rank]
            got = self._got[: size * mine].reshape(size, mine)
            theirs = [mine] * size, [mine * r for r in range(size)]
            asked = self._comm.Ialltoallv([piece, (counts, firsts)], [got, theirs])
            self._waiting.until(asked.Test, "a sum of gradients", moves=True)
            piece[firsts[rank] : firsts[rank] + mine] = tree_sum(list(got))

    def shares(self, piece: Floats, ends: Ends) -> None:
        """Each rank sends its part to all."""
        rank = self._comm.rank
        for firsts, counts in self._slices(ends):
            own = self._got[: counts[rank]]
            own[...] = piece[firsts[rank] : firsts[rank] + counts[rank]]
            asked = self._comm.Iallgatherv(own, [piece, (counts, firsts)])
            self._waiting.until(asked.Test, "an exchange of parts", moves=True)

    def _slices(self, ends: Ends) -> Iterator[tuple[list[int], list[int]]]:
        """The start and the length of the next slice of each rank's part."""
        for at in range(0, max(b - a for a, b in pairwise(ends)), self._slice):
            firsts = [min(a + at, b) for a, b in pairwise(ends)]
            counts = [min(self._slice, b - a) for a, b in zip(firsts, ends[1:], strict=True)]
            yield firsts, counts


class Shared:
    """In memory that all ranks have, being on one machine.

    Each rank has two places there, used in turn: while some still read what was put into one, the
    next piece goes into the other. A counter for each rank says how often it has put something.
    """

    piece = SHARED

    def __init__(self, comm: MPI.Intracomm, waiting: Waiting) -> None:
        from anefast.distributed.mpi import MPI

        self._rank, self._size, self._waiting = comm.rank, comm.size, waiting
        counters = 8 * LINE * comm.size
        places = 4 * 2 * SHARED * comm.size
        self._window = MPI.Win.Allocate_shared(
            counters + places if comm.rank == 0 else 0, 1, MPI.INFO_NULL, comm
        )
        self._window.Lock_all()
        memory, _ = self._window.Shared_query(0)
        raw = np.frombuffer(cast(Any, memory), np.uint8)
        self._put = raw[:counters].view(np.int64)[::LINE]
        self._places = raw[counters:].view(np.float32).reshape(2, comm.size, SHARED)
        self._turn = 0
        if comm.rank == 0:
            self._put[...] = 0
        self._window.Sync()
        comm.Barrier()

    def sums(self, piece: Floats, ends: Ends) -> None:
        """Each rank puts its piece there, and adds up its own part of all."""
        place = self._places[self._turn % 2]
        own = slice(ends[self._rank], ends[self._rank + 1])
        mine = place[self._rank]
        mine[: own.start] = piece[: own.start]
        mine[own.stop : len(piece)] = piece[own.stop :]
        self._meet("a sum of gradients")
        parts = [piece[own] if r == self._rank else place[r, own] for r in range(self._size)]
        piece[own] = tree_sum(parts)

    def shares(self, piece: Floats, ends: Ends) -> None:
        """Each rank puts its part there, and takes those of the others."""
        place = self._places[self._turn % 2]
        own = slice(ends[self._rank], ends[self._rank + 1])
        place[self._rank, own] = piece[own]
        self._meet("an exchange of parts")
        for r in range(self._size):
            if r != self._rank:
                theirs = slice(ends[r], ends[r + 1])
                piece[theirs] = place[r, theirs]

    def _meet(self, at: str) -> None:
        """Returns when all ranks have put what belongs to this turn."""
        self._turn += 1
        self._window.Sync()  # what was put is seen before the counter is
        self._put[self._rank] = self._turn
        self._waiting.until(self._all_have_put, at)
        self._window.Sync()

    def _all_have_put(self) -> bool:
        self._window.Sync()
        return bool(self._put.min() >= self._turn)


def clipped(ends: Ends, first: int, last: int) -> list[int]:
    """The ends of the parts within floats `first` to `last`, counted from `first`.

    >>> clipped([0, 5, 9], 4, 8)
    [0, 1, 4]
    """
    return [min(max(end, first), last) - first for end in ends]


def even(length: int, size: int) -> list[int]:
    """The ends of `size` parts of equal length.

    >>> even(7, 3)
    [0, 2, 4, 7]
    """
    return [length * r // size for r in range(size + 1)]
