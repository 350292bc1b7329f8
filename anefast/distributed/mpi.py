"""The only file that imports mpi4py. Others import it inside a function, below `mpiexec` only."""

from mpi4py import MPI as MPI
