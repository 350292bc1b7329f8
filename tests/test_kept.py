"""Compiled programs on disk: a second process with the same base compiles nothing.

Real processes over the fake framework of tests/ane, which counts what it compiles. What stays on a
disk, and for how long, is tried with a device that only writes files.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from anefast import environment
from anefast.runtime import kept
from anefast.runtime.kept import KeptPrograms

from .ane.build import Fake
from .test_ane import child

SEED = 1


def ran(fake: Fake, folder: Path, seed: int = SEED, **more: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(child(fake, folder, "kept.py", str(seed), **more))
    assert found["alive"] == {} and list((folder / "temporary").iterdir()) == []
    assert found["budget"] == found["compiles"]  # what was brought counts against nothing
    return found


def programs(folder: Path) -> list[Path]:
    return sorted(p for p in (folder / "cache" / "programs").glob("*/*/"))


@pytest.fixture(scope="module")
def first(fake: Fake, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder in which a first process has run, and what it did."""
    folder = tmp_path_factory.mktemp("first")
    return folder, ran(fake, folder)


@pytest.fixture
def folder(first: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(first[0], tmp_path / "copy")
    return tmp_path / "copy"


def test_a_second_process_with_the_same_base_compiles_nothing(
    fake: Fake, first: tuple[Path, dict[str, Any]], folder: Path
) -> None:
    count = first[1]["compiles"]
    assert count == len(programs(folder)) > 4 and first[1]["brought"] == 0
    assert first[1]["found"] == f"programs: 0 of {count} were in the cache, {count} compiled"
    second = ran(fake, folder)
    assert (second["compiles"], second["brought"]) == (0, count)
    assert second["found"] == f"programs: {count} of {count} were in the cache, 0 compiled"
    assert second["result"] == first[1]["result"]
    assert first[1]["warnings"] == second["warnings"] == []


@pytest.mark.slow
def test_another_base_is_compiled_and_the_first_one_stays(
    fake: Fake, first: tuple[Path, dict[str, Any]], folder: Path
) -> None:
    other = ran(fake, folder, SEED + 1)
    assert other["compiles"] == first[1]["compiles"]  # every program bakes some of it
    assert other["result"] != first[1]["result"]
    assert ran(fake, folder)["compiles"] == 0


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("data", "changed"),
        pytest.param("net.plist", "cut", marks=pytest.mark.slow),
        pytest.param("data", "gone", marks=pytest.mark.slow),
    ],
)
def test_a_damaged_program_is_compiled_again(
    fake: Fake, first: tuple[Path, dict[str, Any]], folder: Path, name: str, damage: str
) -> None:
    path = programs(folder)[0] / "files" / name
    content = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1] * (damage == "changed")))
    second = ran(fake, folder)
    assert (second["compiles"], second["result"]) == (1, first[1]["result"])
    assert path.read_bytes() == content  # kept anew


def test_a_system_that_forgets_is_asked_once(
    fake: Fake, first: tuple[Path, dict[str, Any]], folder: Path
) -> None:
    forgets = {"ANEFAST_FAKE_SETTINGS": "forgets:1"}
    second = ran(fake, folder, **forgets)
    assert second["compiles"] == first[1]["compiles"] and second["result"] == first[1]["result"]
    (line,) = second["warnings"]
    assert line.startswith("[kept] expected the system to load programs that it compiled")
    assert second["found"] == "" and programs(folder) == []
    third = ran(fake, folder)  # it would load them now, and nobody asks
    assert (third["compiles"], third["warnings"]) == (first[1]["compiles"], [])


def test_nothing_is_kept_where_the_environment_says_so(fake: Fake, tmp_path: Path) -> None:
    found = ran(fake, tmp_path, ANEFAST_KEEP_MB="0")
    assert found["compiles"] > 4 and found["brought"] == 0 and found["found"] == ""
    assert not (tmp_path / "cache" / "programs").exists()


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_costs_only_compiles(
    fake: Fake, first: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("no folder")
    found = ran(fake, tmp_path)
    assert (found["compiles"], found["result"]) == (first[1]["compiles"], first[1]["result"])


def test_a_run_says_how_many_were_in_the_cache(fake: Fake, tmp_path: Path) -> None:
    words = "--device ane --steps 1 --data stories:40 --data.seq-len 64 --plan layer,weights=params"
    words += " --preset bytes --eval-batches 1 --optim.accumulation 1 --sample-tokens 0"

    def said(out: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "anefast.train", *words.split(), "--out", out],
            cwd=tmp_path,
            env=fake.environment(tmp_path / "temporary"),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        (line,) = (line for line in done.stdout.splitlines() if line.startswith("programs: "))
        return line

    line = said("one")
    count = int(line.split()[3])
    assert line == f"programs: 0 of {count} were in the cache, {count} compiled" and count
    assert said("two") == f"programs: {count} of {count} were in the cache, 0 compiled"
    metrics = [(tmp_path / out / "metrics.jsonl").read_text() for out in ("one", "two")]
    assert metrics[0] == metrics[1]


# What stays, with a device that writes `size` bytes.


class Writes:
    description = "a device"
    keeps = True

    def __init__(self, size: int = 1000) -> None:
        self.size, self.loads = size, 0

    def keep(self, folder: str) -> None:
        (Path(folder) / "net.plist").write_bytes(os.urandom(self.size))

    def load_kept(self, text: str, blobs: object, folder: str) -> str:
        self.loads += 1
        return text


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    device = Writes()
    keeps = KeptPrograms(device, tmp_path / "system", 3500)  # type: ignore[arg-type]
    for age, key in enumerate("abc"):
        keeps.keep(key, device)  # type: ignore[arg-type]
        when = time.time() - 100 + age
        for path in (tmp_path / "system" / key, tmp_path / "system" / key / kept.LIST):
            os.utime(path, (when, when))
    # a system before the last update counts, and is the oldest
    before = tmp_path / "before" / "z"
    shutil.copytree(tmp_path / "system" / "a", before)
    for path in (before, before / kept.LIST):
        os.utime(path, (1, 1))
    assert keeps.load("a", "text a", {}) == "text a"  # used now
    keeps.keep("d", device)  # type: ignore[arg-type]
    left = sorted(p.name for p in tmp_path.glob("*/*"))
    assert left == ["a", "c", "d"] and not list(before.parent.iterdir())
    assert kept.held(tmp_path)[0] == 3 and kept.held(tmp_path)[1] <= 3500


def test_a_program_that_no_room_is_for_drives_nothing_out(tmp_path: Path) -> None:
    device = Writes()
    keeps = KeptPrograms(device, tmp_path / "system", 3500)  # type: ignore[arg-type]
    keeps.keep("a", device)  # type: ignore[arg-type]
    keeps.keep("large", Writes(4000))  # type: ignore[arg-type]
    assert [p.name for p in (tmp_path / "system").iterdir()] == ["a"]


def test_what_a_killed_process_has_left_goes_later(tmp_path: Path) -> None:
    device = Writes()
    keeps = KeptPrograms(device, tmp_path / "system", 3500)  # type: ignore[arg-type]
    for name, age in ((".old", 2 * kept.ABANDONED), (".young", 1)):
        (tmp_path / "system" / name).mkdir(parents=True)
        os.utime(tmp_path / "system" / name, (time.time() - age,) * 2)
    keeps.keep("a", device)  # type: ignore[arg-type]
    assert sorted(p.name for p in (tmp_path / "system").iterdir()) == [".young", "a"]


def test_who_is_second_keeps_what_the_first_has_kept(tmp_path: Path) -> None:
    device = Writes()
    keeps = KeptPrograms(device, tmp_path / "system", 3500)  # type: ignore[arg-type]
    keeps.keep("a", device)  # type: ignore[arg-type]
    keeps.keep("a", device)  # type: ignore[arg-type]
    assert keeps.load("a", "text", {}) == "text"
    assert [p.name for p in (tmp_path / "system").iterdir()] == ["a"]


@pytest.mark.parametrize("said", ["-1", "many", "1.5", "9999999999"])
def test_a_bound_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv("ANEFAST_KEEP_MB", said)
    with pytest.raises(ValueError, match="expected ANEFAST_KEEP_MB to be a whole number of MiB"):
        environment.check()
