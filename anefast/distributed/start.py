"""The start and the end of ranks: the world of this process, and whether all ranks were started
alike."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Mapping
from typing import Any, NoReturn

from anefast import _C
from anefast.config import ConfigError, DistConfig, OptimConfig, flatten
from anefast.distributed.ranks import Ranks, open_ranks
from anefast.distributed.world import Emulated, Floats, World, digest
from anefast.errors import BadInput, shown
from anefast.fuse.plan import is_async

# What launchers set for each process that they start: MPICH and Intel MPI, Open MPI, PMIx.
LAUNCHED = ("PMI_RANK", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "PMIX_RANK")
THREADS = "ANEFAST_NUM_THREADS"
START_SECONDS = 300.0  # within which all ranks come to where MPI starts

_open: Ranks | None = None  # MPI is started once in a process


def open_world(emulate: int = 1) -> World:
    """The world that this process is a rank of. BadInput where mpi4py or its MPI is missing.

    emulate: how many ranks one process stands in for.
    """
    global _open
    if not any(name in os.environ for name in LAUNCHED):
        return Emulated(emulate) if emulate > 1 else World()
    if _open is None:
        _open = _started()
        if _open is None:
            return Emulated(emulate) if emulate > 1 else World()
        _share_cores(_open)
    if emulate > 1:
        raise BadInput(
            f"[dist] expected dist.emulate 1 below mpiexec -n {_open.size}, got {emulate}. "
            "Hint: one process emulates ranks; start it without mpiexec."
        )
    return _open


def _started() -> Ranks | None:
    """MPI starts when all ranks ask for it, and waits for them for ever. So a native thread ends
    this process, and by that all, where one of them never asks."""
    line = (
        f"[dist] expected every rank to start MPI within {START_SECONDS:.0f} s, one did not. "
        "Hint: look for what ended or held it on its machine.\n"
    )
    try:
        _C.calls_last_resort(START_SECONDS, line)
        return open_ranks()
    except (ImportError, RuntimeError) as error:
        raise BadInput(
            f"[dist] expected mpi4py and an MPI below mpiexec, got {shown(error, 120)}. "
            "Hint: pip install 'anefast[mpi]' mpich, and that mpiexec."
        ) from None
    finally:
        _C.calls_last_resort(0.0, "")


def _share_cores(ranks: Ranks) -> None:
    """Ranks of one machine that may use the same cores divide the threads among them.

    A number of threads that somebody named stays; where it is too large, there is advice.
    """
    ask = getattr(os, "sched_getaffinity", None)  # a Mac has none, and its ranks share all cores
    own = sorted(ask(0)) if ask else list(range(os.cpu_count() or 1))
    every = ranks.beside([own, _C.threads()])
    size = len(every)
    if size == 1:
        return
    cores = len({core for theirs, _ in every for core in theirs})
    threads = sum(n for _, n in every)
    if THREADS in os.environ and threads > cores:
        ranks.advice = (
            f"dist: {size} ranks of this machine have {threads} threads on {cores} cores. "
            f"Hint: leave {THREADS} out, and they divide the cores among them"
        )
    elif THREADS not in os.environ and sum(len(theirs) for theirs, _ in every) > cores:
        _C.set_threads(max(1, _C.threads() // size))


def check_local(dist: DistConfig, optim: OptimConfig) -> None:
    """ConfigError for settings that local updates leave no sense to."""
    local = f"dist.local_steps {dist.local_steps}"
    if dist.local_steps == 1:
        return
    if dist.shard_optimizer:
        _refuse("dist.shard_optimizer", local, "each rank has moments of its own")
    if optim.ema_tokens:
        why = "each rank has weights of its own between meetings"
        _refuse("optim.ema_tokens", local, why)


def check_world(world: World, plan: str, swap_after: float, on_budget: str) -> None:
    """ConfigError for settings that several ranks cannot keep."""
    if world.size == 1:
        return
    wrong = {}
    if is_async(plan) and swap_after == 0:
        wrong["swap_after 0"] = "ranks would swap programs at different micro-steps; 0.25 does not"
    if is_async(plan) and world.shares > 1:
        wrong[f"plan {plan}"] = "dist.emulate takes a plan that compiles sync"
    if on_budget != "continue":
        wrong[f"on_budget {on_budget}"] = "a rank of MPI cannot be started again"
    for what, why in wrong.items():
        _refuse(what, f"{world.size} ranks", why)


def _refuse(what: str, beside: str, why: str) -> NoReturn:
    raise ConfigError(f"[dist] {what} does not go with {beside}. Hint: {why}.")


def check_ranks(
    world: World,
    settings: Mapping[str, Any],
    fingerprint: str,
    params: Mapping[str, Floats],
    device: str,
) -> None:
    """BadInput where a rank was started otherwise than rank 0.

    settings: of the run, nested. fingerprint: of the data. params: the weights that training
    begins from. device: which kind of device a rank has.
    """
    if world.size == 1 or world.shares > 1:
        return
    own = ("out", "resume", "sinks", "trace", "sample_tokens")  # rank 0's business alone
    facts = {f"setting {n}": v for n, v in flatten(settings).items() if n not in own}
    version = importlib.metadata.version("anefast")
    world.same({"version of anefast": version, **facts, "device": device, "data": fingerprint})
    world.same({"weights": digest(params)})


def leave(code: int) -> None:
    """The end of a command: where it failed on this rank, all ranks end with its exit code."""
    if _open is not None and code:
        _open.abort(code)
