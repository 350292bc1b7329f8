"""Real ranks, below every MPI that is there: the bytes of an emulation, and one end for all."""

from __future__ import annotations

import os
import random
import re
import shutil
import sys

import pytest

from anefast import checkpoint
from anefast.telemetry import read_rows
from tests.launching import (
    FLAGS,
    cursor,
    emulated,
    emulated_on,
    everything,
    launched,
    mpi,
    one_mpi,
    ranks,
)


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
def test_ranks_give_the_bytes_of_an_emulation(tmp_path, mpi, number, more):
    flags = [*FLAGS, *more]
    emulated(number, tmp_path / "emulated", flags)
    ended = ranks(mpi, number, tmp_path, [*flags, "--out", str(tmp_path / "ranks")])
    assert ended.code == 0, ended.text
    assert f"this is rank 0 of {number} ranks" in ended.text
    assert ended.text.count("written to") == ended.text.count("flag: ") == 1  # rank 0 speaks
    assert everything(tmp_path / "ranks") == everything(tmp_path / "emulated")


@one_mpi
@pytest.mark.parametrize("more", [[], ["--dist.shard-optimizer"]])
def test_sums_begin_while_the_pass_goes_on(tmp_path, mpi, more):
    """With two threads a rank sums what is complete beside the rest; rank 1 does so afterwards,
    having one. The parts and their order are the same, and so is every byte."""
    flags = [*FLAGS, "--steps", "6", *more]
    emulated(2, tmp_path / "emulated", flags)
    run, command = tmp_path / "ranks", [sys.executable, "-m", "anefast.train", *flags]
    threads = "ANEFAST_NUM_THREADS"
    each = [["-n", "1", "env", f"{threads}={n}", *command, "--out", str(run)] for n in (2, 1)]
    ended = launched(mpi, [*each[0], ":", *each[1]])
    assert ended.code == 0, ended.text
    assert everything(run) == everything(tmp_path / "emulated")
    rows = read_rows(run / "timings.jsonl")[1:]
    assert all(row["beside_ms"]["communication"] > 0 for row in rows)
    assert all(row["spans_ms"]["update/communication"] > 0 for row in rows)
    assert {row["slowest_rank"] for row in rows} <= {0, 1}


@one_mpi
@pytest.mark.parametrize("threads", [pytest.param("1", marks=pytest.mark.slow), "2"])
def test_ranks_train_an_adapter_as_an_emulation_does(tmp_path, mpi, threads):
    base = tmp_path / "base"
    emulated(1, base, [*FLAGS, "--steps", "2"])
    shape = "--data.seq-len 32 --data.batch 2 --optim.accumulation 2 --steps 4 --sample-tokens 0"
    lora = "--lora.rank 4 --lora.alpha 5 --device host"  # a scale of 1.25 rounds
    flags = [*shape.split(), "--init", str(base), *lora.split()]
    emulated(2, tmp_path / "emulated", flags)
    beside = [*flags, "--out", str(tmp_path / "ranks")]
    ended = ranks(mpi, 2, tmp_path, beside, ANEFAST_NUM_THREADS=threads)
    assert ended.code == 0, ended.text
    rows = read_rows(tmp_path / "ranks" / "timings.jsonl")[1:]
    assert all(("communication" in row["beside_ms"]) == (threads == "2") for row in rows)
    assert everything(tmp_path / "ranks") == everything(tmp_path / "emulated")


@one_mpi
@pytest.mark.parametrize(
    "number,more",
    [
        (2, ["--optim.ema-tokens", "1000"]),
        pytest.param(3, [], marks=pytest.mark.slow),
        pytest.param(3, ["--optim.name", "muon"], marks=pytest.mark.slow),
        pytest.param(2, ["--optim.name", "adafactor"], marks=pytest.mark.slow),
        pytest.param(2, ["--optim.name", "lion"], marks=pytest.mark.slow),
        pytest.param(3, ["--data.compact-vocab"], marks=pytest.mark.slow),
    ],
)
def test_a_sharded_optimiser_gives_the_same_bytes(tmp_path, mpi, number, more):
    """On a model of several panels, with moments of more than one rank; then another number of
    ranks goes on, which has other parts, and one process, which has all."""
    flags = [*FLAGS, "--model.dim", "64", "--steps", "8", *more]
    emulated(number, tmp_path / "whole", flags)
    own = [*flags, "--dist.shard-optimizer", "--out", str(tmp_path / "parts")]
    ended = ranks(mpi, number, tmp_path, own, f"stop {number - 1} 9")
    assert ended.code == 0 and "stopped at update 5 of 8" in ended.text, ended.text
    assert re.search(r"dist: rank 0 keeps 0\.\d of \d\.\d MB", ended.text), ended.text
    shutil.copytree(tmp_path / "parts", tmp_path / "other")
    again = ranks(mpi, number, tmp_path, ["--resume", str(tmp_path / "parts")])
    assert again.code == 0, again.text
    assert everything(tmp_path / "parts") == everything(tmp_path / "whole")
    emulated_on(number, tmp_path / "other")
    assert everything(tmp_path / "other") == everything(tmp_path / "whole")


EXCHANGES = """
import numpy as np
from anefast.distributed import open_world, tree_sum
from anefast.distributed.exchange import Messages
world = open_world()
n, seen = 1_700_001, []  # several slices of each rank's part
for exchange in (world._exchange, Messages(world._comm, world._waiting)):
    world._exchange = exchange
    every = [np.random.default_rng(r).standard_normal(n, np.float32) for r in range(world.size)]
    own = every[world.rank].copy()
    assert world.reduce(own, (0.5, 2)) == (0.5 * world.size, 2 * world.size)
    whole = tree_sum([e.copy() for e in every])
    assert own.tobytes() == whole.tobytes(), type(exchange)
    ends = [n * r * r // world.size**2 for r in range(world.size + 1)]
    own = every[world.rank].copy()
    world.reduce(own, (0.0, 0), ends)
    part = slice(ends[world.rank], ends[world.rank + 1])
    assert own[part].tobytes() == whole[part].tobytes()
    own[: part.start], own[part.stop :] = 0, 0
    world.gather(own, ends)
    assert own.tobytes() == whole.tobytes()
    seen.append(type(exchange).__name__)
assert seen == ["Shared", "Messages"]
assert world.all("\\udcff" * world.rank) == ["\\udcff" * r for r in range(world.size)]
assert world.numbers([[world.rank, float("inf")]]) == [[r, float("inf")] for r in range(world.size)]
got = list(world.collect(np.full(world.rank + 1, world.rank, np.float32)))
assert [g.tolist() for g in got] == [[r] * (r + 1) for r in range(world.size)][: len(got)]
assert len(got) == (0 if world.rank else world.size)
world.finish()
"""


@mpi
@pytest.mark.parametrize("number", [2, 3])
def test_sums_are_the_tree_in_shared_memory_and_over_messages(mpi, number):
    ended = launched(mpi, ["-n", str(number), sys.executable, "-c", EXCHANGES])
    assert ended.code == 0, ended.text


@one_mpi
def test_a_signal_to_one_rank_stops_all_at_one_update(tmp_path, mpi):
    whole = tmp_path / "whole"
    emulated(2, whole, FLAGS)
    run = tmp_path / "run"
    ended = ranks(mpi, 2, tmp_path, [*FLAGS, "--out", str(run)], "stop 1 13")
    assert ended.code == 0 and "stopped at update 7 of 20" in ended.text, ended.text
    assert cursor(run) == (7, 28)
    again = ranks(mpi, 2, tmp_path, ["--resume", str(run)])
    assert again.code == 0 and everything(run) == everything(whole), again.text


@mpi
def test_a_rank_that_leaves_ends_all(tmp_path, mpi):
    ended = ranks(mpi, 2, tmp_path, [*FLAGS, "--out", str(tmp_path / "run")], "exit 1 9")
    assert ended.code != 0


# A second of patience, in place of minutes.
@one_mpi
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_does_not_come_is_named(tmp_path, mpi, rank):
    flags, fault = [*FLAGS, "--out", str(tmp_path / "run")], f"sleep {rank} 9"
    ended = ranks(mpi, 2, tmp_path, flags, fault, IMPATIENT="1")
    assert ended.code != 0 and ended.seconds < 60
    assert f"rank {rank} did not come within" in ended.text, ended.text


@one_mpi
def test_a_rank_that_never_starts_mpi_ends_all(tmp_path, mpi):
    flags = [*FLAGS, "--out", str(tmp_path / "run")]
    ended = ranks(mpi, 2, tmp_path, flags, "late 1 0", IMPATIENT="1")
    assert ended.code != 0 and ended.seconds < 60
    assert "expected every rank to start MPI within 2 s" in ended.text, ended.text


@mpi
@pytest.mark.parametrize("fault", ["vanish 1 9", "early 1 0"])
def test_a_process_that_says_that_all_went_well_holds_nobody(tmp_path, mpi, fault):
    """What the launcher then says is its own business: MPICH's passes on the good news."""
    flags = [*FLAGS, "--out", str(tmp_path / "run")]
    ended = ranks(mpi, 2, tmp_path, flags, fault, IMPATIENT="1")
    assert ended.seconds < 60 and "written to" not in ended.text, ended.text


@one_mpi
def test_a_rank_that_fails_by_itself_is_named(tmp_path, mpi):
    same = [sys.executable, "-m", "anefast.train", *FLAGS, "--out", str(tmp_path / "run")]
    done = launched(mpi, ["-n", "1", *same, ":", "-n", "1", *same, "--data", "nowhere.txt"])
    assert done.code == 2 and "there is no nowhere.txt" in done.text, done.text
    said = re.findall(r"rank (\d) of 2, on \S+, ends all with exit code (\d)", done.text)
    assert said == [("1", "2")], done.text


@one_mpi
def test_a_rank_that_was_started_otherwise_is_named(tmp_path, mpi):
    same = [sys.executable, "-m", "anefast.train", *FLAGS, "--out", str(tmp_path / "run")]
    command = ["-n", "1", *same, ":", "-n", "1", *same, "--optim.lr", "0.5"]
    done = launched(mpi, command)
    assert done.code == 2, done.text
    assert "setting optim.lr on every rank, rank 1 has 0.5 and rank 0 0.003" in done.text
    assert not list((tmp_path / "run").glob("step_*"))


@mpi
@pytest.mark.slow
def test_siege(tmp_path, mpi):
    """Kills, stops and exceptions anywhere, on any rank; what is left is resumed on 1 to 3, which
    go on in the data where the others ended."""
    draw = random.Random(5)
    flags = [*FLAGS, "--checkpoint-every", "3", "--steps", "16"]
    for number in range(12 if os.environ.get("ANEFAST_SIEGE") != "full" else 80):
        run = tmp_path / f"run-{number}"
        size = draw.choice([2, 3])
        kind = ("kill", "stop", "raise", "exit")[number % 4]
        fault = f"{kind} {draw.randrange(size)} {draw.randrange(1, 33)}"
        ended = ranks(mpi, size, tmp_path, [*flags, "--out", str(run)], fault)
        assert (ended.code == 0) == (kind == "stop"), (fault, ended.text)
        step, batches = (0, 0) if checkpoint.newest(run) is None else cursor(run)
        assert batches == step * 2 * size, (fault, ended.text)
        size = draw.choice([1, 2, 3])
        again = ranks(mpi, size, tmp_path, ["--resume", str(run)])
        assert again.code == 0 and cursor(run) == (16, batches + (16 - step) * 2 * size), again.text


@one_mpi
def test_doctor_measures_what_ranks_say_to_each_other(mpi):
    code = (
        "from anefast.doctor import ranks; ranks.SIZES = {'few': 1000}; "
        "from anefast.doctor.__main__ import main; main(['--dist'])"
    )
    done = launched(mpi, ["-n", "2", sys.executable, "-c", code])
    assert done.code == 0, done.text
    assert "2 ranks: 2 on" in done.text and done.text.count("few") == 1
