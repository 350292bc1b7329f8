"""Damaged copies of every file that a command reads, and what becomes of the command.

    python -m tests.siege.mutate 10000 [READER...]

A reader is a command (readers.py) with the sound files it is given (seeds.py); cases are named by
reader and number, and are the same on every machine. They run in a child, one after the other: a
case that ends the child is a crash and costs itself only. What is wrong is a traceback, a crash, a
hang, memory beyond half as much again as the sound files take, a control character on standard
error or output, an exit code that is not documented, or an error that is not one tagged line.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.siege.changes import change
from tests.siege.readers import READERS, Reader
from tests.siege.seeds import make_seeds

RARE = -3  # the number of a case of sound files that takes the rare ways
SECONDS = 10.0  # of the processor: a case that takes more hangs,
WAITS = 240.0  # and so does one that takes these by the clock, also on a busy machine
SLACK_KB = 48 << 10  # of memory, for what libraries load at their first error
ADDRESS_SPACE = 8 << 30
ROOT = Path(__file__).parents[2]
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass
class Verdicts:
    """What became of the cases of a reader."""

    tried: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    wrong: list[dict[str, Any]] = field(default_factory=list)

    def count(self, row: dict[str, Any]) -> None:
        if row["case"] >= 0:  # negative: sound files
            self.tried += 1
            self.codes[str(row["code"])] += 1
        if "wrong" in row:
            self.wrong.append(row)

    def line(self, name: str) -> str:
        kinds = Counter(str(case["wrong"]) for case in self.wrong)
        said = ", ".join(f"{n} {kind}" for kind, n in kinds.items()) or "nothing wrong"
        codes = ", ".join(f"{n} x {code}" for code, n in sorted(self.codes.items()))
        return f"{name}: {self.tried} tried, {said}; exit codes {codes}"


# The child.


def damage(reader: Reader, number: int, seeds: Path, work: Path) -> random.Random:
    """Copies the seeds to `work` and damages a file or two: the same for the same number.

    The copy keeps its name, by which some readers tell their files.
    """
    rng = Rare() if number == RARE else random.Random(f"{reader.name} {number}")
    names = sorted(p.relative_to(seeds) for p in seeds.glob(reader.files) if p.is_file())
    top = Path(reader.folder) if reader.folder else names[0].parent
    shutil.copytree(seeds / top, work / top, symlinks=True)
    for name in rng.sample(names, min(len(names), rng.choice((1, 1, 2)))) if number >= 0 else ():
        change(rng, work / name)
        if name.suffix != ".json" and rng.random() < 0.5:
            hash_again(work / name)
    return rng


def hash_again(path: Path) -> None:
    """Has the state of a checkpoint know its damaged file, so that more than its hash is read."""
    import hashlib

    state = path.parent / "state.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        sizes = [p.stat().st_size if p.is_file() else 1 << 40 for p in (path, state)]
        if max(sizes) < 1 << 26:
            known = json.loads(state.read_text())
            known["sha256"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
            state.write_text(json.dumps(known))


class Rare(random.Random):
    """Takes every rare way, so that what it loads is loaded before memory is looked at."""

    def random(self) -> float:
        return 0.0


class Hang(BaseException):
    """A case took too long."""


def serve(jobs: Sequence[tuple[Reader, int, int]], seeds: Path) -> None:
    """Runs the cases of each reader from the first to before the last.

    Prints a line of JSON before and after each; errors leave no other trace.
    """
    results = os.fdopen(os.dup(1), "w", buffering=1)
    work = Path(tempfile.mkdtemp(dir=seeds.parent))
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, _alarm)
    signal.signal(signal.SIGALRM, _alarm)
    os.chdir(work)
    rates_known(seeds)
    for reader, first, last in jobs:
        sound = 0
        rare = (RARE,) if last - first > 100 else ()
        for number in (*rare, -2, -1, *range(first, last)):  # sound ones first: they load libraries
            results.write(json.dumps({"begins": number, "reader": reader.name}) + "\n")
            row, taken = tried(reader, number, seeds, work / "case")
            if number < 0:
                sound = taken if number == -1 else 0
                if row["code"] not in (0, 1):
                    row["wrong"] = "sound files refused"
            elif taken > 1.5 * sound + SLACK_KB:
                row |= {"wrong": row.get("wrong", "memory"), "kb": taken, "sound_kb": sound}
            results.write(json.dumps(row) + "\n")


def rates_known(seeds: Path) -> None:
    """Has a calibration that is refused be measured anew at no cost."""
    from anefast.runtime import Device, calibrate

    os.environ["ANEFAST_CACHE"] = str(seeds / "cache")
    known = calibrate.calibrate(Device("host"))
    calibrate.measure = lambda device: known


def tried(reader: Reader, number: int, seeds: Path, work: Path) -> tuple[dict[str, object], int]:
    """A case with what was wrong with it, and the KB of memory that it took."""
    shutil.rmtree(work, ignore_errors=True)
    rng = damage(reader, number, seeds, work)
    folder = work / (reader.folder or Path(reader.files).parent)
    before = peak_kb(reset=True)
    row: dict[str, object] = {"reader": reader.name, "case": number, "code": 0}
    began = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with streams_to(out.fileno(), err.fileno()):
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            signal.setitimer(signal.ITIMER_REAL, WAITS)
            try:
                reader.call(folder, rng)
            except SystemExit as left:
                row["code"] = left.code or 0
            except Hang:
                row["wrong"] = "hang"
            except BaseException as error:
                last = traceback.extract_tb(error.__traceback__)[-1]
                told = f"{type(error).__name__}: {str(error)[:200]} ({last.filename}:{last.lineno})"
                row |= {"wrong": "traceback", "told": told}
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
                signal.setitimer(signal.ITIMER_REAL, 0)
        said, errors = (read_back(file.fileno()) for file in (out, err))
    row["seconds"] = round(time.monotonic() - began, 2)
    if "wrong" not in row:
        row |= judged(reader, row["code"], said, errors)
    return row, peak_kb() - before


def judged(reader: Reader, code: object, said: str, errors: str) -> dict[str, object]:
    """What is wrong with how a command ended."""
    lines = errors.strip().splitlines()
    told = {"told": "\n".join(lines)[-400:]}
    if CONTROLS.search(errors) or (not reader.raw and CONTROLS.search(said)):
        return {"wrong": "control character", **told, "said": said[-200:]}
    if code not in (0, 1, 2):
        return {"wrong": "exit code", **told}
    tagged = lines and re.match(r"\[[a-z][\w. -]*\] ", lines[-1])
    if code and (not tagged or len(lines[-1]) > 4100):
        return {"wrong": "no tagged line", **told}
    if code and "Errno" in lines[-1]:
        return {"wrong": "not our words", **told}
    return {}


@contextlib.contextmanager
def streams_to(out: int, err: int) -> Iterator[None]:
    """Standard output and error, at the level of descriptors: commands write to those too."""
    kept = os.dup(1), os.dup(2)
    sys.stdout.flush()
    os.dup2(out, 1)
    os.dup2(err, 2)
    try:
        yield
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        for number, old in zip((1, 2), kept, strict=True):
            os.dup2(old, number)
            os.close(old)


def read_back(descriptor: int) -> str:
    size = os.lseek(descriptor, 0, os.SEEK_END)
    return os.pread(descriptor, min(size, 1 << 20), max(0, size - (1 << 20))).decode(
        "utf-8", "replace"
    )


def peak_kb(reset: bool = False) -> int:
    """The most memory in use since the last reset, where Linux says so; else since ever."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0])
    except OSError:
        return 0


def _alarm(*_: object) -> None:
    raise Hang


# The parent.


def siege(readers: Sequence[Reader], first: int, count: int, seeds: Path) -> list[Verdicts]:
    """Runs cases in children until all were tried; what became of them by reader."""
    found = {reader.name: Verdicts() for reader in readers}
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    env.pop("ANEFAST_TRACEBACK", None)
    jobs = [(r, first, first + max(1, round(count * r.part))) for r in readers]
    while jobs:
        words = [f"{reader.name}:{at}:{end}" for reader, at, end in jobs]
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.siege.mutate", "serve", str(seeds), *words],
            stdout=subprocess.PIPE, text=True, env=env,
        )  # fmt: skip
        assert child.stdout is not None
        row: dict[str, Any] = {"begins": jobs[0][1], "reader": jobs[0][0].name}
        began = False
        for line in child.stdout:
            began = True
            row = json.loads(line)
            if "begins" not in row:
                found[row["reader"]].count(row)
        child.stdout.close()
        if child.wait() == 0:
            break
        if not began:
            raise RuntimeError("[siege] the child ended before its first case")
        name, number = row["reader"], int(row.get("begins", row.get("case", 0)))
        crash = {"reader": name, "case": number, "wrong": f"crash {child.returncode}", "code": "-"}
        found[name].count(crash)
        at = [reader.name for reader, *_ in jobs].index(name)
        reader, _, end = jobs[at]
        jobs = [(reader, number + 1, end)] * (0 <= number < end - 1) + jobs[at + 1 :]
    return list(found.values())


@contextlib.contextmanager
def sound_files() -> Iterator[Path]:
    """A folder of seeds, made in a child so that this process stays as it is."""
    with tempfile.TemporaryDirectory() as folder:
        seeds = Path(folder) / "seeds"
        done = subprocess.run(
            [sys.executable, "-m", "tests.siege.mutate", "seeds", str(seeds)],
            env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        yield seeds


def main(words: Sequence[str]) -> int:
    by_name = {reader.name: reader for reader in READERS}
    if words[0] == "serve":
        jobs = [word.split(":") for word in words[2:]]
        serve([(by_name[n], int(first), int(last)) for n, first, last in jobs], Path(words[1]))
        return 0
    if words[0] == "seeds":
        make_seeds(Path(words[1]))
        return 0
    readers = [by_name[name] for name in words[1:]] or READERS
    each, wrong = int(words[0]) / sum(reader.part for reader in readers), 0
    with sound_files() as seeds:
        for reader in readers:
            began = time.monotonic()
            (found,) = siege([reader], 0, math.ceil(each), seeds)
            print(f"{found.line(reader.name)}; {time.monotonic() - began:.0f} s", flush=True)
            for row in found.wrong:
                print("   ", json.dumps(row))
            wrong += len(found.wrong)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
