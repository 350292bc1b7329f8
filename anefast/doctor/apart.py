"""Checks in processes of their own: one that ends its process costs its own result, no other's.

A child is given names of checks and prints a line of JSON when it begins one and when it is done.
Where it dies or takes too long, the check that was under way gets the blame and a new child goes on
with the rest.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Any

from anefast.doctor.result import Check, Found, Result, Wrong, of_plain

START_SECONDS = 30.0  # for a child to import everything and open the device


def run_all(
    checks: Sequence[Check],
    device: str,
    quick: bool = False,
    chip: str = "",
    module: str = "anefast.doctor.apart",
) -> Iterator[Result]:
    """Results in the order of `checks`, each as soon as it is known. chip: one to emulate."""
    words = [sys.executable, "-m", module, device, "quick" if quick else "full", chip]
    todo = list(checks)
    while todo:
        together = 1 if todo[0].alone else next(
            (i for i, check in enumerate(todo) if check.alone), len(todo)
        )  # fmt: skip
        done = 0
        for result in _child(todo[:together], words):
            yield result
            done += 1
        todo = todo[done:]


def _child(checks: Sequence[Check], words: Sequence[str]) -> Iterator[Result]:
    """Results of one child: all of `checks`, or up to and including the one that ended it."""
    child = subprocess.Popen(
        [*words, *(check.name for check in checks)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout is not None and child.stderr is not None
    lines: queue.Queue[str | None] = queue.Queue()
    noise: list[str] = []
    readers = [
        threading.Thread(target=_pass, args=(child.stdout, lines.put, lines), daemon=True),
        threading.Thread(target=_pass, args=(child.stderr, noise.append, None), daemon=True),
    ]
    for reader in readers:
        reader.start()
    try:
        for check in checks:
            began = time.monotonic()
            result, wait = None, START_SECONDS + check.seconds
            while result is None:
                try:
                    line = lines.get(timeout=max(0.01, began + wait - time.monotonic()))
                except queue.Empty:
                    yield _ended(check, "timed out", f"no result in {wait:.0f} s", began)
                    return
                if line is None:
                    code = child.wait()
                    readers[1].join(2)
                    yield _ended(check, "crashed", f"{_why(code)}{_last(noise)}", began)
                    return
                result = _result(line)
            yield result
    finally:
        child.kill()
        child.wait()
        for reader in readers:
            reader.join(2)
        child.stdout.close()
        child.stderr.close()


def _pass(
    stream: IO[str], put: Callable[[str], object], end: queue.Queue[str | None] | None
) -> None:
    for line in stream:
        put(line)
    if end is not None:
        end.put(None)


def _result(line: str) -> Result | None:
    """The result in a line of a child; lines that something else printed are ignored."""
    try:
        plain = json.loads(line)
        return of_plain(plain["doctor"]) if isinstance(plain, dict) else None
    except (ValueError, KeyError, TypeError):
        return None


def _ended(check: Check, status: Any, said: str, began: float) -> Result:
    return Result(check.name, check.group, status, said, round(time.monotonic() - began, 3))


def _why(code: int) -> str:
    if code >= 0:
        return f"its process ended with exit code {code}"
    try:
        return f"its process was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"its process was ended by signal {-code}"


def _last(noise: list[str]) -> str:
    said = [line.strip() for line in noise if line.strip()]
    return f": {said[-1][:300]}" if said else ""


# In the child.


def run_one(check: Check, subject: Callable[[float], Any]) -> Result:
    """Runs a check and returns its result, or its failure as a result."""
    start = time.perf_counter()

    def result(status: Any, found: Found) -> Result:
        seconds = round(time.perf_counter() - start, 3)
        said = " ".join(found.said.split())[:600]
        return Result(
            check.name, check.group, status, said, seconds, found.numbers, dict(found.facts)
        )

    try:
        return result("passed", check.run(subject(check.seconds)))
    except Wrong as wrong:
        return result("failed", Found(str(wrong), wrong.numbers))
    except (ValueError, RuntimeError, OSError, MemoryError) as error:
        return result("failed", Found(f"{type(error).__name__}: {error}"))


def serve(arguments: Sequence[str], known: Iterable[Check]) -> None:
    """The child: arguments are a device, quick or full, a chip or "", and names of checks."""
    from anefast.doctor.subject import Subject

    device, pace, chip, *names = arguments
    by_name = {check.name: check for check in known}
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # prints must not mix with the results
    for name in names:
        found = run_one(by_name[name], lambda s: Subject(device, pace == "quick", s, chip))
        print(json.dumps({"doctor": found.plain()}), file=out, flush=True)


if __name__ == "__main__":
    from anefast.doctor.registry import everything

    serve(sys.argv[1:], everything())
