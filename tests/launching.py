"""Ranks for tests: a training command below every `mpiexec` that is there, and what it leaves.

The launcher of this environment is found by itself. `ANEFAST_TEST_MPI` names folders with others,
such as the `bin` of an environment that has Open MPI: two MPIs do not go into one.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from anefast import checkpoint
from tests.conftest import ROOT

FLAGS = [
    *"--preset bytes".split(),
    *"--model.dim 32 --model.n-layers 2 --model.n-heads 2 --data.seq-len 32 --data.batch 2".split(),
    *"--optim.accumulation 2 --optim.warmup-steps 2 --steps 20 --eval-every 10".split(),
    *"--eval-batches 2 --sample-tokens 0 --health-every 0 --device host --plan layer".split(),
]
# Open MPI asks before it runs as root, or more ranks than there are cores.
OPEN_MPI = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}
KINDS = ("mpich", "openmpi")
OTHERS = "ANEFAST_TEST_MPI"


def _launchers() -> dict[str, Path]:
    """By kind, the first `mpiexec` of it."""
    folders = [str(Path(sys.executable).parent), os.environ.get(OTHERS, "")]
    found: dict[str, Path] = {}
    for folder in os.pathsep.join([*folders, os.environ["PATH"]]).split(os.pathsep):
        if folder and (path := shutil.which("mpiexec", path=folder)):
            kind = KINDS[(Path(folder) / "ompi_info").exists()]
            # MPICH looks for its other programs beside the one that was called
            found.setdefault(kind, Path(path).resolve() if kind == "mpich" else Path(path))
    return found


LAUNCHERS = _launchers()


def _of(kind: str) -> object:
    missing = kind not in LAUNCHERS or importlib.util.find_spec("mpi4py") is None
    reason = f"mpi4py or an mpiexec of {kind} is not there (extra: mpi, and a wheel of {kind})"
    return pytest.param(kind, marks=pytest.mark.skipif(missing, reason=reason))


mpi = pytest.mark.parametrize("mpi", [_of(kind) for kind in KINDS])
one_mpi = pytest.mark.parametrize("mpi", [_of(next(iter(LAUNCHERS), KINDS[0]))])


class Ended(NamedTuple):
    code: int
    text: str
    seconds: float


def launched(mpi: str, command: list[str], **environment: str) -> Ended:
    """`mpiexec` of that kind with these arguments."""
    mpiexec = LAUNCHERS[mpi]
    found = {  # its other programs, and its library, which may lie in another environment than ours
        "PATH": f"{mpiexec.parent}{os.pathsep}{os.environ['PATH']}",
        "LD_LIBRARY_PATH": str(mpiexec.parent.parent / "lib"),
    }
    libraries = sorted(Path(found["LD_LIBRARY_PATH"]).glob("libmpi.so.*"))
    if libraries:  # mpi4py would take that of its own environment, which may be of the other MPI
        found["MPI4PY_LIBMPI"] = str(libraries[0])
    own = {name: value for name, value in os.environ.items() if name != OTHERS}
    began = time.monotonic()
    done = subprocess.run(
        [str(mpiexec), *command],
        env=own | OPEN_MPI | found | environment,
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return Ended(done.returncode, done.stdout + done.stderr, time.monotonic() - began)


def ranks(
    mpi: str, number: int, folder: Path, flags: list[str], fault: str = "none 0 0", **more: str
) -> Ended:
    """A training command of so many ranks, with a fault. No process of it may be left."""
    command = [sys.executable, "-m", "tests.dist_child", str(folder), *fault.split(), *flags]
    done = launched(mpi, ["-n", str(number), *command], **{"ANEFAST_NUM_THREADS": "1", **more})
    for file in folder.glob("pid-*"):
        patience = time.monotonic() + LEFT_SECONDS
        while _trains(int(file.read_text())):
            assert time.monotonic() < patience, f"{file.name} is left: {done.text}"
            time.sleep(0.05)
        file.unlink()
    return done


# Seconds in which no process may be left; the machine of a test may be busy with others.
LEFT_SECONDS = 5 if os.environ.get("ANEFAST_SIEGE") == "full" else 60


def _trains(process: int) -> bool:
    try:
        return b"dist_child" in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False


def emulated(number: int, run: Path, flags: list[str]) -> None:
    """A run of so many ranks in this process."""
    _here([*flags, "--dist.emulate", str(number), "--out", str(run)])


def emulated_on(number: int, run: Path, *flags: str) -> None:
    """It goes on, in this process."""
    _here(["--resume", str(run), "--dist.emulate", str(number), *flags])


def _here(flags: list[str]) -> None:
    from anefast.train import main

    with pytest.raises(SystemExit) as end:
        main(flags)
    assert end.value.code == 0


def everything(run: Path) -> dict[str, bytes]:
    last = checkpoint.find_checkpoint(run)
    files = [*last.glob("*.safetensors"), run / "metrics.jsonl"]
    return {path.name: path.read_bytes() for path in files}


def cursor(run: Path) -> tuple[int, int]:
    state = json.loads((checkpoint.find_checkpoint(run) / checkpoint.STATE).read_text())
    return state["step"], state["batches"]
