"""Data parallel training: what several processes of one run say to each other.

`mpiexec -n R anefast train ...` makes a world of R ranks. Each makes the micro-steps of
its own batches; gradients, losses and decisions are then made one for all. This is the only file
that imports mpi4py, and only below `mpiexec`. A world of one is no special case: every call
gives back what it was given. One process can stand in for R ranks (`Emulated`), which is how the
real ones are tested.

Sums go over ranks as a pairwise tree, ((0+1)+(2+3))+..., in fp32 for gradients and in double for
losses. So a run gives the same bytes for a number of ranks, whatever MPI it runs on.
"""

from __future__ import annotations

import atexit
import importlib.metadata
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt

from anefast import _C
from anefast.config import ConfigError, TrainConfig, flatten, to_settings
from anefast.errors import BadInput, Failure, shown
from anefast.fuse.plan import is_async

if TYPE_CHECKING:
    from mpi4py import MPI

Floats = npt.NDArray[np.float32]

PIECE = 1 << 20  # floats of a gradient that are exchanged at a time: 4 MB
# What launchers set for each process that they start: MPICH and Intel MPI, Open MPI, PMIx.
LAUNCHED = ("PMI_RANK", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "PMIX_RANK")
THREADS = "ANEFAST_NUM_THREADS"
LATE_SECONDS = 60.0  # the least that a rank is waited for
LATE_AT_FIRST = 3600.0  # before all came once: they may compile
LATE_UPDATES = 20.0  # and the least in updates, of the length that they had


def tree_sum(parts: Sequence[Any]) -> Any:
    """The sum of arrays or numbers as a pairwise tree over their order. Parts may change.

    >>> tree_sum([1.0, 2.0, 3.0])
    6.0
    """
    left = list(parts)
    while len(left) > 1:
        pairs = range(0, len(left) - 1, 2)
        added = [_added(left[i], left[i + 1]) for i in pairs]
        left = added + left[len(added) * 2 :]
    return left[0]


def _added(a: Any, b: Any) -> Any:
    return np.add(a, b, out=a) if isinstance(a, np.ndarray) else a + b


class World:
    """A world of one rank: this process. What every other world looks like, too.

    rank: of this process, from 0. size: how many ranks there are. shares: of how many ranks this
    process makes the micro-steps. Only rank 0 writes and prints.
    """

    rank, size, shares = 0, 1, 1

    def batch(self, cursor: int, micro: int, accumulation: int) -> int:
        """Which micro-batch of the data this process reads as its `micro`-th of an update.

        cursor: micro-batches that all ranks have read before the update. Ranks take turns, so that
        an update reads the same data however ranks x accumulation is split.
        """
        share, own = divmod(micro, accumulation)
        return cursor + own * self.size + self.rank + share

    def ends_share(self, micro: int, accumulation: int) -> bool:
        """Whether `micro` micro-steps end a share, and another one of this process follows."""
        return micro % accumulation == 0 and micro < self.shares * accumulation

    def bank(self, grads: Floats, losses: tuple[float, int]) -> None:
        """Keeps a share's gradients and losses until `reduce`."""

    def reduce(self, grads: Floats, losses: tuple[float, int]) -> tuple[float, int]:
        """Sums gradients over all ranks, in place. Returns the sums of losses and tokens."""
        return losses

    def agree(self, *flags: bool) -> tuple[bool, ...]:
        """Each flag as true on all ranks where it is true on any."""
        return flags

    def same(self, facts: Mapping[str, object]) -> None:
        """BadInput that names the first rank where a fact is another one than on rank 0."""

    def told(self, text: str) -> str:
        """What rank 0 passes here."""
        return text

    def all(self, text: str) -> list[str]:
        """What each rank passes here, in their order."""
        return [text]

    def arrive(self, at: str) -> dict[str, float]:
        """Waits for all ranks, and returns who was last, as columns of timings. Failure on rank 0,
        naming the ranks that do not come."""
        return {}

    def finish(self) -> None:
        """All ranks come here at the end of a run. One that leaves before ends all."""

    def abort(self, code: int) -> None:
        """Ends all ranks where there are others; returns where there are none."""


class Emulated(World):
    """R ranks in one process, one after the other: the bytes of R real ones, for R times the time
    and the memory of gradients."""

    def __init__(self, size: int) -> None:
        self.size = self.shares = size
        self._grads: list[Floats] = []
        self._losses: list[tuple[float, int]] = []

    def bank(self, grads: Floats, losses: tuple[float, int]) -> None:
        self._grads.append(grads.copy())
        self._losses.append(losses)

    def reduce(self, grads: Floats, losses: tuple[float, int]) -> tuple[float, int]:
        grads[...] = tree_sum([*self._grads, grads.copy()])
        found = _summed([*self._losses, losses])
        self._grads, self._losses = [], []
        return found


class Ranks(World):
    """Real ranks, over MPI."""

    def __init__(self, comm: MPI.Intracomm) -> None:
        self.comm = comm
        self.rank, self.size = comm.rank, comm.size
        self._done = False
        self._updates = 0.0  # seconds between two arrivals, smoothed
        self._arrived = 0.0
        self._before = sys.excepthook
        sys.excepthook = self._fell
        atexit.register(self._left)

    def reduce(self, grads: Floats, losses: tuple[float, int]) -> tuple[float, int]:
        for first in range(0, len(grads), PIECE):
            self._reduce(grads[first : first + PIECE])
        return _summed(self.comm.allgather(losses))

    def _reduce(self, piece: Floats) -> None:
        """Each rank gets a slice of the piece from all, adds them as the tree, and shares it."""
        ends = [len(piece) * r // self.size for r in range(self.size + 1)]
        counts = [ends[r + 1] - ends[r] for r in range(self.size)]
        mine = counts[self.rank]
        got = np.empty((self.size, mine), np.float32)
        theirs = [mine] * self.size, [mine * r for r in range(self.size)]
        self.comm.Alltoallv([piece, (counts, ends[:-1])], [got, theirs])
        summed = tree_sum(list(got))
        self.comm.Allgatherv(summed, [piece, (counts, ends[:-1])])

    def agree(self, *flags: bool) -> tuple[bool, ...]:
        return tuple(any(column) for column in zip(*self.comm.allgather(flags), strict=True))

    def same(self, facts: Mapping[str, object]) -> None:
        every = self.comm.allgather({name: str(value) for name, value in facts.items()})
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

    def told(self, text: str) -> str:
        found: str = self.comm.bcast(text)
        return found

    def all(self, text: str) -> list[str]:
        found: list[str] = self.comm.allgather(text)
        return found

    def arrive(self, at: str) -> dict[str, float]:
        began = time.monotonic()
        patience = LATE_AT_FIRST
        if self._arrived:
            length = began - self._arrived
            self._updates = length if not self._updates else 0.9 * self._updates + 0.1 * length
            patience = max(LATE_SECONDS, LATE_UPDATES * self._updates)
        waiting = self.comm.Ibarrier()
        signs = self._signs()
        while not waiting.Test():
            signs = {rank: sign for rank, sign in signs.items() if not sign.test()[0]}
            if time.monotonic() - began > patience:
                self._late(at, list(signs), patience)
            time.sleep(0.0002)
        for sign in signs.values():
            sign.wait()
        self._arrived = time.monotonic()
        waited = self.comm.allgather(self._arrived - began)
        slowest = min(range(self.size), key=waited.__getitem__)
        return {"slowest_rank": slowest, "late_ms": 1e3 * (max(waited) - waited[slowest])}

    def _signs(self) -> dict[int, MPI.Request]:
        """A sign that this rank is here, to rank 0; there, those of the others."""
        if self.rank:
            return {0: self.comm.isend(None, dest=0, tag=1)}
        return {rank: self.comm.irecv(source=rank, tag=1) for rank in range(1, self.size)}

    def _late(self, at: str, missing: list[int], patience: float) -> None:
        """Ends all ranks. Rank 0 names those that are missing; the others give it time for that."""
        if self.rank:
            time.sleep(5)
            self.comm.Abort(1)
        named = ", ".join(map(str, missing))
        raise Failure(
            f"[dist] expected all ranks at {at}, rank {named} did not come within {patience:.0f} "
            "s. Hint: look at its machine and its network."
        )

    def finish(self) -> None:
        self.arrive("the end of the run")
        self._done = True

    def abort(self, code: int) -> None:
        if not self._done:
            sys.stdout.flush()
            sys.stderr.flush()
            self.comm.Abort(code)

    def _fell(self, kind: Any, error: Any, trace: Any) -> None:
        """An exception ends all ranks: those that wait for this one would wait for ever."""
        print(f"rank {self.rank} of {self.size}:", file=sys.stderr)
        self._before(kind, error, trace)
        self.abort(1)

    def _left(self) -> None:
        """At the exit of a rank that never came to the end of its run."""
        self.abort(1)


def _summed(losses: Sequence[tuple[float, int]]) -> tuple[float, int]:
    return tree_sum([loss for loss, _ in losses]), sum(tokens for _, tokens in losses)


_open: Ranks | None = None  # MPI is started once in a process


def open_world(emulate: int = 1) -> World:
    """The world that this process is a rank of. BadInput where mpi4py or its MPI is missing.

    emulate: how many ranks one process stands in for.
    """
    global _open
    if not any(name in os.environ for name in LAUNCHED):
        return Emulated(emulate) if emulate > 1 else World()
    if _open is None:
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            raise BadInput(
                f"[dist] expected mpi4py and an MPI below mpiexec, got {shown(error, 120)}. "
                "Hint: pip install 'anefast[mpi]' mpich, and that mpiexec."
            ) from None
        if MPI.COMM_WORLD.size == 1:
            return Emulated(emulate) if emulate > 1 else World()
        _open = Ranks(MPI.COMM_WORLD)
        _share_cores(MPI.COMM_WORLD.Split_type(MPI.COMM_TYPE_SHARED))
    if emulate > 1:
        raise BadInput(
            f"[dist] expected dist.emulate 1 below mpiexec -n {_open.size}, got {emulate}. "
            "Hint: one process emulates ranks; start it without mpiexec."
        )
    return _open


def _share_cores(local: MPI.Comm) -> None:
    """Ranks of one machine that may use the same cores divide the threads among them.

    A number of threads that somebody named stays.
    """
    if local.size == 1 or THREADS in os.environ:
        return
    ask = getattr(os, "sched_getaffinity", None)  # a Mac has none, and its ranks share all cores
    every = local.allgather(sorted(ask(0)) if ask else [0])
    if sum(map(len, every)) > len({core for cores in every for core in cores}):
        _C.set_threads(max(1, _C.threads() // local.size))


def check_world(config: TrainConfig, world: World) -> None:
    """ConfigError for settings that several ranks cannot keep."""
    if world.size == 1:
        return
    wrong = {}
    if is_async(config.plan) and config.swap_after == 0:
        wrong["swap_after 0"] = "ranks would swap programs at different micro-steps; 0.25 does not"
    if is_async(config.plan) and world.shares > 1:
        wrong[f"plan {config.plan}"] = "dist.emulate takes a plan that compiles sync"
    if config.on_budget != "continue":
        wrong[f"on_budget {config.on_budget}"] = "a rank of MPI cannot be started again"
    for what, why in wrong.items():
        raise ConfigError(f"[dist] {what} does not go with {world.size} ranks. Hint: {why}.")


def check_ranks(
    world: World, config: TrainConfig, fingerprint: str, params: Mapping[str, Floats]
) -> None:
    """BadInput where a rank was started otherwise than rank 0.

    fingerprint: of the data. params: the weights that training begins from.
    """
    if world.size == 1 or world.shares > 1:
        return
    settings = flatten(to_settings(config))
    own = ("out", "resume", "sinks", "trace", "sample_tokens")  # rank 0's business alone
    facts = {f"setting {n}": v for n, v in settings.items() if n not in own}
    version = importlib.metadata.version("anefast")
    world.same(
        {"version of anefast": version, **facts, "data": fingerprint, "weights": digest(params)}
    )


def leave(code: int) -> None:
    """The end of a command: where it failed on this rank, all ranks end with its exit code."""
    if _open is not None and code:
        _open.abort(code)


def digest(arrays: Mapping[str, Floats]) -> str:
    """A short name for the bytes of arrays, for comparing them over ranks."""
    from hashlib import blake2b

    found = blake2b(digest_size=8)
    for name, array in arrays.items():
        found.update(name.encode())
        found.update(array.data if array.flags.c_contiguous else array.tobytes())
    return found.hexdigest()
