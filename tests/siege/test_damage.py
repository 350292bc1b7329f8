"""One file of a finished run is damaged, and the run goes on: refused by name, or the same run.

Where rows of metrics.jsonl or timings.jsonl are lost, it is said, the damaged file stays beside
them, and the weights are those of the run that nobody damaged.
"""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from .runs import STEPS, Ground, differing, everything, size
from .server import End

LAST, BEFORE = f"step_{STEPS:06d}", f"step_{STEPS - 2:06d}"
CHECKPOINT = ("model.safetensors", "optim.safetensors", "state.json", "session.json")
FILES = [
    *(f"{LAST}/{name}" for name in (*CHECKPOINT, "tokenizer.json")),
    "metrics.jsonl", "timings.jsonl", "config.toml", "env.json", "best.json", "breakdown.json",
    "run.lock",
]  # fmt: skip
ROWS = ("metrics.jsonl", "timings.jsonl")
# A session writes these anew, and nothing else reads them.
OF_NO_WEIGHT = ("best.json", "breakdown.json", "run.lock")

Damage = Callable[[Path, random.Random], None]


def flip(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes() or b"?")
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def zeros(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes() or b"?")
    at = draw.randrange(len(content))
    content[at : at + 512] = bytes(len(content[at : at + 512]))
    path.write_bytes(content)


def swap(path: Path, draw: random.Random) -> None:
    """The same file of the checkpoint before, or of no run at all."""
    other = path.parent.parent / BEFORE / path.name
    shutil.copyfile(other if other.is_file() else Path(__file__), path)


def repeat(path: Path, draw: random.Random) -> None:
    lines = path.read_bytes().splitlines(keepends=True) or [b"x"]
    at = draw.randrange(len(lines))
    path.write_bytes(b"".join([*lines[:at], lines[at], *lines[at:]]))


def drop(path: Path, draw: random.Random) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    if lines:
        lines.pop(draw.randrange(len(lines)))
    path.write_bytes(b"".join(lines))


def rewrite(change: Callable[[bytes], bytes]) -> Damage:
    def damage(path: Path, _: random.Random) -> None:
        path.write_bytes(change(path.read_bytes()))

    return damage


DAMAGE: dict[str, Damage] = {
    "deleted": lambda path, _: path.unlink(),
    "emptied": rewrite(lambda content: b""),
    "halved": rewrite(lambda content: content[: len(content) // 2]),
    "all zeros": rewrite(lambda content: bytes(len(content))),
    "longer": rewrite(lambda content: content + b'{"step": 3}\n'),
    "swapped": swap,
    "a line twice": repeat,
    "a line less": drop,
    "some zeros": zeros,
    "a bit": flip,
}


class Judge:
    """Damages copies of a run of some updates, and lets each go on for two more."""

    def __init__(self, field: Ground) -> None:
        self.field = field
        self.sound = self._go_on()
        assert self.sound.code == 0, self.sound.text
        self.gold = everything(field.run)
        self.rows = {name: (field.folder / "gold" / name).read_bytes() for name in ROWS}

    def _fresh(self) -> Path:
        self.field.clear()
        shutil.copytree(self.field.folder / "gold", self.field.run, symlinks=True)
        return self.field.run

    def _go_on(self, damage: Callable[[Path], None] | None = None) -> End:
        run = self._fresh()
        if damage is not None:
            damage(run)
        return self.field.resume("--steps", str(STEPS + 2))

    def judge(self, name: str, how: str, draw: random.Random) -> str:
        """What became of the run, in a word. AssertionError for a silent loss."""
        damaged: bytes | None = None

        def damage(run: Path) -> None:
            nonlocal damaged
            DAMAGE[how](run / name, draw)
            damaged = (run / name).read_bytes() if (run / name).exists() else None

        end = self._go_on(damage)
        about = f"{name}, {how}: {end.code}\n{end.text}"
        assert "Traceback" not in end.text, about
        if end.code:
            assert end.code == 2 and end.last.startswith("["), about
            # a setting that makes no sense is told by its own name, which no other file has
            assert name == "config.toml" or Path(name).name in end.last, about
            assert name not in ROWS + OF_NO_WEIGHT, about
            if name.startswith(LAST):
                self._go_on_as_told(end, about)
            return "refused"
        changed = differing(self.field.run, self.gold)
        if name in ROWS:
            return self._judge_rows(name, damaged, end, changed, about)
        assert changed == [], f"{changed} {about}"
        sessions = json.loads((self.field.run / "env.json").read_text())["sessions"]
        assert len(sessions) == 2 or "env.json is missing" in end.text, about
        return "the same run"

    def _judge_rows(
        self, name: str, damaged: bytes | None, end: End, changed: list[str], about: str
    ) -> str:
        run = self.field.run
        said = f"{name} is " in end.text
        aside = [p for p in run.iterdir() if ".damaged-" in p.name]
        kept = (run / name).read_bytes().startswith(self.rows[name])
        assert said or (kept and not changed), f"{changed} {about}"
        if said:
            assert damaged is None or [p.read_bytes() for p in aside] == [damaged], about
        # the chain of the rows is in the state, nothing else of them anywhere
        assert set(changed) <= {"metrics.jsonl", f"step_{STEPS + 2:06d}/state.json"}, about
        return "rows set aside" if said else "the same run"

    def _go_on_as_told(self, end: End, about: str) -> None:
        """The older checkpoint that the refusal names is whole, and leads to the same run."""
        assert f"{BEFORE} is whole" in end.last, about
        told = end.last.partition("`--resume ")[2].partition("`")[0]
        again = self.field.server.run(["--resume", told, "--steps", str(STEPS + 2)])
        assert again.code == 0, f"{about}\n{again.text}"
        changed = differing(self.field.run, self.gold)
        assert changed == [], f"{changed} {about}\n{again.text}"


def besiege(field: Ground, number: int, seed: int) -> Counter[str]:
    """So many damaged runs; each kind of damage to each file comes before any comes again."""
    draw, judge = random.Random(seed), Judge(field)
    all_ = [(name, how) for how in DAMAGE for name in FILES]
    flips = [(name, "a bit") for name in FILES if name not in OF_NO_WEIGHT]
    cases = all_ + flips * (max(0, number - len(all_)) // len(flips) + 1)
    if number < len(all_):
        cases = draw.sample(all_, number)
    counts: Counter[str] = Counter()
    for name, how in cases[:number]:
        counts[f"{Path(name).name}: {judge.judge(name, how, draw)}"] += 1
    return counts


def test_some_damage(field: Ground) -> None:
    assert sum(besiege(field, 12, seed=0).values()) == 12


@pytest.mark.slow
def test_damage(field: Ground, capsys: pytest.CaptureFixture[str]) -> None:
    counts = besiege(field, size(40, 400), seed=1)
    with capsys.disabled():
        print(f"\n{sum(counts.values())} damaged runs: {dict(sorted(counts.items()))}")
