"""Worlds of one process: sums as a tree, data in one order, and the emulation of ranks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import anefast
from anefast.distributed import LAUNCHED, Emulated, World, open_world, tree_sum
from anefast.distributed.folder import LOCK, PREFIX, YOUNG_SECONDS, sweep
from anefast.files import lock
from anefast.models.parameters import block, zeros_of
from tests.launching import FLAGS, cursor, emulated, emulated_on, everything

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


def test_what_killed_ranks_left_is_removed_and_nothing_else(tmp_path):
    def folder(name: str, old: bool = True) -> Path:
        made = tmp_path / name
        (made / "run").mkdir(parents=True)
        (made / "run" / "metrics.jsonl").write_text("{}")
        if old:
            long_ago = time.time() - YOUNG_SECONDS - 60
            os.utime(made, (long_ago, long_ago))
        return made

    left, elsewhere = folder(f"{PREFIX}left"), folder("other")
    kept = [elsewhere, folder(f"{PREFIX}young", old=False), folder(f"{PREFIX}lives")]
    held = lock(kept[-1] / LOCK)
    os.utime(kept[-1], (0, 0))
    link = tmp_path / f"{PREFIX}link"
    link.symlink_to(elsewhere)
    sweep(tmp_path)
    assert not left.exists() and link.is_symlink()
    assert all((k / "run" / "metrics.jsonl").exists() for k in kept)
    assert not (elsewhere / LOCK).exists()
    os.close(held)  # as the system does when that rank ends
    os.utime(kept[-1], (0, 0))
    sweep(tmp_path)
    assert [k.exists() for k in kept] == [True, True, False]


@pytest.mark.parametrize("ends", [[0, 7, 7, 40, 41], [0, 0, 0, 0, 9], [0, 0, 0, 0, 0]])
def test_slices_cover_every_part_once(monkeypatch, ends):
    from anefast.distributed import exchange

    monkeypatch.setattr(exchange, "SLICE", 3)
    found = []
    for firsts, counts in exchange.Messages(SimpleNamespace(size=4), None)._slices(ends):
        assert max(counts) <= 3
        found += [range(f, f + n) for f, n in zip(firsts, counts, strict=True)]
    assert sorted(i for part in found for i in part) == list(range(ends[-1]))


def test_naps_are_short_only_while_much_is_moved():
    from anefast.distributed import waiting

    waits = [0.0, 1e-3, 0.1, 10.0]
    assert [waiting._nap(w, False) for w in waits] == [2e-5, 1e-4, 2e-3, 2e-3]
    assert [waiting._nap(w, True) for w in waits] == [0, 0, 5e-5, 2e-3]


def test_one_file_imports_mpi():
    package = Path(anefast.__file__).parent
    found = [p for p in package.rglob("*.py") if "from mpi4py" in p.read_text()]
    assert [p.relative_to(package).as_posix() for p in found] == ["distributed/mpi.py"]


def test_the_page_has_the_modelled_table():
    from benchmarks.model_ranks import table

    page = Path(__file__).parent.parent / "docs" / "many-machines.md"
    assert table() in page.read_text()


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
    emulated_on(3, tmp_path / "parts")
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
    from anefast.distributed import start

    class Two:
        size = 2

    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setattr(start, "_open", Two())
    with pytest.raises(ValueError, match="start it without mpiexec"):
        open_world(2)
