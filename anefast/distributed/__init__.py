"""Data parallel training: what several processes of one run say to each other.

`mpiexec -n R anefast train ...` makes a world of R ranks. Each makes the micro-steps of
its own batches; gradients, losses and decisions are then made one for all. A world of one is no
special case: every call gives back what it was given. One process can stand in for R ranks
(`Emulated`), which is how the real ones are tested.

Sums go over ranks as a pairwise tree, ((0+1)+(2+3))+..., in fp32 for gradients and in double for
losses. So a run gives the same bytes for a number of ranks, whatever MPI it runs on. Read world.py
first; mpi.py is the only file that imports mpi4py, below `mpiexec`.
"""

from anefast.distributed.local import Local
from anefast.distributed.start import (
    LAUNCHED,
    check_local,
    check_ranks,
    check_world,
    leave,
    open_world,
)
from anefast.distributed.together import Together
from anefast.distributed.world import Emulated, World, digest, tree_sum

__all__ = [
    "LAUNCHED",
    "Emulated",
    "Local",
    "Together",
    "World",
    "check_local",
    "check_ranks",
    "check_world",
    "digest",
    "leave",
    "open_world",
    "tree_sum",
]
