"""Inside a fake build: many evaluations, many compiles, and both at once. Not a test.

`soak.py EVALUATIONS CYCLES` prints JSON: growth of resident memory in KiB, and what is alive. The
first tenth of each loop is not counted: allocators and caches settle in it.
"""

from __future__ import annotations

import gc
import json
import resource
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import inside
import numpy as np
from faults import Trial


def resident() -> int:
    """KiB of this process in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() // 1024


def growth(act: Callable[[], object], times: int) -> int:
    for _ in range(times // 10):
        act()
    gc.collect()
    before = resident()
    for _ in range(times - times // 10):
        act()
    gc.collect()
    return resident() - before


def both(cycles: int) -> bool:
    """Compiles in one thread while another evaluates; whether every result was right."""
    trial = Trial()
    trial.evaluate()
    done = threading.Event()
    wrong: list[BaseException] = []

    def compiling() -> None:
        try:
            for i in range(cycles):
                Trial().compile(float(i % 7))
        except BaseException as error:
            wrong.append(error)
        done.set()

    thread = threading.Thread(target=compiling)
    thread.start()
    while not done.is_set():
        trial.evaluate()
    thread.join()
    return not wrong


def main() -> None:
    evaluations, cycles = map(int, sys.argv[1:])
    result = measured(evaluations, cycles)
    gc.collect()
    print(json.dumps({**result, "alive": inside.alive()}))


def measured(evaluations: int, cycles: int) -> dict[str, int]:
    trial = Trial()
    program = trial.compile()
    inputs = [trial.device.surface(p.nbytes) for p in program.inputs]
    outputs = [trial.device.surface(p.nbytes) for p in program.outputs]
    weights = iter(np.arange(2 * cycles, dtype=np.float32))
    return {
        "evaluating": growth(lambda: program.evaluate(inputs, outputs), evaluations),
        "requests": inside.count("requests"),
        "surfaces": growth(trial.evaluate, cycles),
        "compiling": growth(lambda: Trial().compile(float(next(weights))), cycles),
        "both": both(cycles // 10),
    }


if __name__ == "__main__":
    main()
