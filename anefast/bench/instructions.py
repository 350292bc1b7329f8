"""Instructions of a micro-step on one thread: no neighbour adds to them, and a slower path does.

A child makes a small training step, and forks: one process runs n micro-steps, another one 2n. The
difference is the micro-steps' alone. The processor's own counter counts where the kernel lends it
(`perf stat`), else valgrind, which needs no kernel. A count depends on the compiler, the
instruction set, the interpreter and the counter: its key names them, and only counts of one key
compare.

    valgrind --tool=cachegrind --cache-sim=no python -m anefast.bench.instructions 1: 2:
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anefast import _C

if TYPE_CHECKING:
    from anefast.runtime import TrainingStep

PRESET, SEQ, PLAN = "stories260k", 64, "all"
JOB = f"{PRESET}, S {SEQ}, {PLAN}, one thread"
STEPS = 1
TOLERANCE = 0.001  # four runs from other folders and environments were within 0.00023
CHILD = ("-m", "anefast.bench.instructions")


class NoCounter(RuntimeError):
    """This machine cannot count instructions. One line."""


@dataclass(frozen=True)
class Counter:
    """A command that runs another one and prints its instructions on stderr."""

    name: str
    command: tuple[str, ...]
    said: str  # a pattern: process, empty where they are counted together, and number
    apart: bool  # whether each process has a number

    def run(self, *arguments: str) -> tuple[dict[str, int], str]:
        """(instructions by process, stdout) of a Python program."""
        env = os.environ | {"PYTHONHASHSEED": "0"}
        env |= dict.fromkeys(("ANEFAST_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        done = subprocess.run(
            [*self.command, sys.executable, *arguments], capture_output=True, text=True, env=env
        )
        found = re.findall(self.said, done.stderr)
        if done.returncode or not found:
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise NoCounter(f"[instructions] {self.name} counted nothing: {last}")
        return {process: int(n.replace(",", "")) for process, n in found}, done.stdout

    def jobs(self, *jobs: str) -> tuple[list[int], dict[str, str]]:
        """(instructions of each job and of the part common to all jobs, what ran them)."""
        groups = [jobs] if self.apart else [(job,) for job in jobs]
        counts = []
        for group in groups:
            numbers, out = self.run(*CHILD, *group)
            about = json.loads(out.splitlines()[-1])
            counts += [numbers[pid if self.apart else ""] for pid in about.pop("processes")]
        return counts, about


COUNTERS = (
    Counter(
        "perf",
        ("perf", "stat", "-x;", "-e", "instructions:u"),
        r"(?m)^()(\d+);;instructions",
        apart=False,
    ),
    Counter(
        "valgrind",
        ("valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"),
        r"==(\d+)== I +refs: +([\d,]+)",
        apart=True,
    ),
)


def find_counter() -> Counter:
    """The first counter that works here. NoCounter says why none does."""
    why = []
    for counter in COUNTERS:
        if not shutil.which(counter.command[0]):
            why.append(f"{counter.name} is not installed")
            continue
        try:
            counter.run("-S", "-c", "")
            return counter
        except NoCounter as reason:
            why.append(str(reason))
    raise NoCounter(f"{'; '.join(why)}. Hint: apt install valgrind")


def measure(counter: Counter, *options: str) -> tuple[str, list[int]]:
    """(key, instructions of one micro-step for each of these options of the device)."""
    jobs = [f"{n}:{o}" for o in options for n in (STEPS, 2 * STEPS)]
    counts, about = counter.jobs(*jobs)
    key = f"{about['compiler']}, {about['isa']}, Python {about['python']}, {counter.name}"
    once, twice = counts[::2], counts[1::2]
    return key, [(b - a) // STEPS for a, b in zip(once, twice, strict=True)]


def compare(key: str, count: int, baseline: Mapping[str, int]) -> str:
    """A line if the count differs from the baseline, else empty. Fewer is a change too."""
    change = count / baseline[key] - 1
    if abs(change) <= TOLERANCE:
        return ""
    return (
        f"{count:,} instructions, baseline {baseline[key]:,}: {100 * change:+.2f} %, "
        f"{100 * TOLERANCE:.1f} % are allowed ({key})"
    )


def training_step(options: str) -> TrainingStep:
    from anefast.config import ModelConfig
    from anefast.fuse import find_plan
    from anefast.models import init_params
    from anefast.presets import preset_settings
    from anefast.runtime import Device, TrainingStep

    config = ModelConfig(**preset_settings(PRESET)["model"]).replace(max_seq_len=SEQ)
    device = Device("host", options)
    return TrainingStep(config, init_params(config, 0), device, 1, SEQ, find_plan(PLAN))


def main(jobs: Sequence[str]) -> None:
    """The child process: runs each `MICRO_STEPS:OPTIONS` and prints what it ran."""
    x = np.arange(SEQ, dtype=np.int32)[None]
    asked = [(int(count), options) for count, _, options in (job.partition(":") for job in jobs)]
    steps = {options: training_step(options) for _, options in asked}
    processes = []
    for count, options in asked:
        if not (pid := os.fork()):
            for _ in range(count):
                steps[options].micro_step(x, x, 1.0)
                steps[options].wait()
            os._exit(0)
        if os.waitpid(pid, 0)[1]:
            sys.exit(f"[instructions] {count} micro-steps with {options!r} failed")
        processes.append(str(pid))
    python = ".".join(map(str, sys.version_info[:2]))
    about = {"compiler": _C.compiler(), "isa": _C.gemm_isa(), "python": python}
    print(json.dumps(about | {"processes": processes}))


if __name__ == "__main__":
    main(sys.argv[1:])
