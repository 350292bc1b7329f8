"""A system call of a run fails, or the process dies there: nothing but the newest updates is lost.

Every call that a run makes on its folder is numbered, so that dying "at call 57" is repeatable and
all points are reached. After each fault the run is taken up again, and must end as the one that
nobody disturbed.
"""

from __future__ import annotations

import errno
import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from .runs import (
    STEPS,
    Ground,
    best_is_kept,
    differing,
    everything,
    leftovers,
    resumed_at,
    size,
)
from .server import End, Fault

ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EDQUOT)
DEATHS = ("kill", "torn", "power")


@dataclass(frozen=True)
class Scene:
    """What a run folder looks like before the command, and the command."""

    prepare: Callable[[Ground], None]
    command: Callable[..., End]
    said: str = ""  # part of what the command says when nothing goes wrong


def nothing(field: Ground) -> None:
    field.clear()


def stopped(field: Ground) -> None:
    """Killed before its last checkpoint appeared."""
    kept = field.folder / "stopped"
    if not kept.exists():
        field.clear()
        last = f"/run/step_{STEPS:06d}"
        assert field.start(fault=Fault(last, 1, "kill", "rename")).code == -9
        field.run.rename(kept)
    field.clear()
    shutil.copytree(kept, field.run, symlinks=True)


def finished(field: Ground) -> None:
    field.clear()
    shutil.copytree(field.folder / "gold", field.run, symlinks=True)


def damaged(field: Ground) -> None:
    stopped(field)
    for name in ("metrics.jsonl", "timings.jsonl"):
        lines = (field.run / name).read_bytes().splitlines(keepends=True)
        (field.run / name).write_bytes(b"".join([*lines[:2], b"?" + lines[2][1:], *lines[3:]]))


def from_older(field: Ground, **how: object) -> End:
    """A second session, which goes on from a checkpoint that is not the newest."""
    oldest = f"step_{STEPS - 2:06d}"
    return field.server.run(["--resume", str(field.run / oldest)], **how)  # type: ignore[arg-type]


SCENES = {
    "train": Scene(nothing, Ground.start),
    "resume": Scene(stopped, Ground.resume, "resumed from"),
    "mend": Scene(damaged, Ground.resume, "is damaged: update 2 "),
    "older": Scene(finished, from_older, "are in"),
}


class Attack:
    """One scene, all of whose calls are known."""

    def __init__(self, field: Ground, name: str) -> None:
        self.field, self.name, self.scene = field, name, SCENES[name]
        log = field.folder / "calls.txt"
        self.scene.prepare(field)
        end = self.scene.command(field, fault=Fault("/run", log=str(log)))
        assert end.code == 0 and self.scene.said in end.text, end.text
        self.calls = log.read_text().splitlines()
        self.gold = everything(field.run)

    def with_fault(self, fault: Fault) -> str:
        """Prepares, disturbs, goes on, compares. Returns what happened, in a word."""
        field = self.field
        self.scene.prepare(field)
        about = f"{self.name}: {fault}, {self.calls[fault.at - 1]}"
        end = self.scene.command(field, fault=fault)
        assert "Traceback" not in end.text, f"{about}\n{end.text}"
        assert end.code in ((-9, 0) if fault.how in DEATHS else (0, 1, 2)), f"{about}\n{end.text}"
        if end.code in (1, 2):
            assert end.last.startswith("[") and "Hint:" in end.last, f"{about}\n{end.text}"
            assert "/run" in end.last, f"no file is named: {about}\n{end.text}"
        if self.name == "older":
            again = self.scene.command(field)
        else:
            newest = field.newest()
            assert best_is_kept(field.run), f"{about}\n{end.text}"
            again = field.go_on()
            assert not newest or resumed_at(again.text) == newest, f"{about}\n{again.text}"
        about += f"\n{end.text}\n--- then ---\n{again.text}"
        assert again.code == 0, about
        if self.name != "mend":
            assert "is damaged" not in again.text, about
        assert differing(field.run, self.gold) == [], about
        assert leftovers(field.run) == [], about
        assert best_is_kept(field.run), about
        return {-9: "died", 0: "went on"}.get(end.code, "refused")


def attacks(field: Ground, number: int, seed: int) -> Counter[str]:
    """Faults of every kind, spread over all calls of all scenes."""
    draw = random.Random(seed)
    counts: Counter[str] = Counter()
    for name in SCENES:
        attack = Attack(field, name)
        share = number // 2 if name == "train" else -(-number // 2 // (len(SCENES) - 1))
        points = spread(len(attack.calls), share, draw)
        for at in points:
            how = draw.choice([*DEATHS, "fail", "fail", "short"])
            many = how in ("fail", "short") and draw.random() < 0.5  # the disk stays full
            fault = Fault("/run", at, how, number=10**6 if many else 1, error=draw.choice(ERRORS))
            counts[f"{name}: {attack.with_fault(fault)}"] += 1
    return counts


def spread(calls: int, number: int, draw: random.Random) -> list[int]:
    """So many numbers of calls: each once, evenly, before any comes a second time."""
    rounds, rest = divmod(number, calls)
    return [*range(1, calls + 1)] * rounds + sorted(draw.sample(range(1, calls + 1), rest))


def test_a_few_faults(field: Ground) -> None:
    assert attacks(field, 10, seed=0)["train: died"]


@pytest.mark.slow
def test_faults(field: Ground, capsys: pytest.CaptureFixture[str]) -> None:
    counts = attacks(field, size(100, 1000), seed=1)
    with capsys.disabled():
        print(f"\n{sum(counts.values())} faults: {dict(sorted(counts.items()))}")
    assert sum(counts.values()) >= 90
