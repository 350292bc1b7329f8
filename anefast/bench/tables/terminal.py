"""Measures if a terminal slows training: stderr to a file, and to a terminal that reads slowly."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from anefast.bench.context import Bench
from anefast.bench.table import Line

TITLE = "throughput by where stderr goes"
ROUNDS = 2
SHAPE = {"model.dim": 64, "model.n-layers": 2, "model.n-heads": 4, "data.batch": 2} | {
    "data.source": "stories:200",
    "plan": "layer",
}


def measure(bench: Bench) -> tuple[list[str], list[Line]]:
    steps = 60 if bench.quick else 400
    rates: dict[Callable[[list[str], Path], str], list[float]] = {to_file: [], to_slow_terminal: []}
    for _ in range(ROUNDS):
        for to, found in rates.items():
            found.append(throughput(to, steps))
    file, terminal = (max(found) for found in rates.values())  # a neighbour only slows
    return [
        f"here anefast train, 2 layers of 64, {steps} updates, its bar on stderr, the "
        f"faster of {ROUNDS} in turns (closer: benchmarks/bench_terminal.py); the "
        "terminal is read 1 kB at a time, 20 times a second",
        "published: a row of JSON per step on stderr; a stalled terminal is nothing to model",
    ], [
        Line("stderr to a file", "steps/s", file, None, 4.68),
        Line("stderr to a terminal", "steps/s", terminal, None, 0.63),
        Line("file over terminal", "x", file / terminal, None, "7.4"),
    ]


def throughput(run: Callable[[list[str], Path], str], steps: int) -> float:
    """Updates per second of a short training run, as the run reports them."""
    with tempfile.TemporaryDirectory() as folder:
        flags = [f"--{name}={value}" for name, value in SHAPE.items()]
        flags += [f"--steps={steps}", f"--out={folder}/run", "--sample-tokens=0", "--eval-every=0"]
        said = run([sys.executable, "-m", "anefast.train", *flags], Path(folder))
        found = re.search(r"([\d,]+) tokens/s over ([\d,]+) tokens", said)
        if found is None:
            last = said.strip().splitlines()[-1:]
            raise RuntimeError(
                f"[bench] expected a throughput from anefast.train, its last line was {last}. "
                f"Hint: {' '.join(['anefast train', *flags[:-3]])} says what is wrong."
            )
        rate, tokens = (int(n.replace(",", "")) for n in found.groups())
    return rate * steps / tokens


def to_file(command: list[str], folder: Path) -> str:
    with open(folder / "stderr", "w", encoding="utf-8") as file:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=file, text=True)
    return done.stdout


def to_slow_terminal(command: list[str], folder: Path) -> str:
    """Runs with stderr on a terminal that reads slowly."""
    ours, theirs = os.openpty()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, text=True)
    os.close(theirs)

    def read_slowly() -> None:
        try:
            while os.read(ours, 1024):
                time.sleep(0.05)
        except OSError:  # the other side has closed
            pass

    reader = threading.Thread(target=read_slowly, daemon=True)
    reader.start()
    said, _ = process.communicate()
    reader.join(timeout=30)
    os.close(ours)
    return said
