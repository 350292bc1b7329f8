"""What benchmarks share: one run at a time, the machine's roofline, baselines, and --quick.

    python -m pytest benchmarks                     # judge, and print; minutes
    python -m pytest benchmarks --quick             # smaller budgets
    python -m pytest benchmarks --update-baseline   # what changed was meant: save it

Judged are counts (benchmarks/baselines: counters.json is the same on every machine,
instructions.json of a compiler and an instruction set) and ratios of CPU time within one run,
against floors and against what this machine saved (benchmarks.json in the user's cache folder);
never a bare time.
"""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest

import anefast
from anefast import _C
from anefast.bench import guard
from anefast.bench.context import Bench
from anefast.runtime.calibrate import cache_file
from benchmarks.roofline import measure

BASELINES = Path(__file__).parent / "baselines"
WORSE = 0.8  # of a saved ratio: less is a regression


def pytest_addoption(parser):
    group = parser.getgroup("anefast")
    group.addoption("--quick", action="store_true", help="smaller budgets, smaller sizes")
    group.addoption("--update-baseline", action="store_true", help="save counts and ratios anew")
    group.addoption("--refuse-busy", action="store_true", help="stop where others use the machine")


def pytest_sessionstart(session):
    if session.config.option.collectonly:
        return
    lock = guard.one_at_a_time()
    try:
        lock.__enter__()
        line = guard.look_around(session.config.option.refuse_busy)
    except guard.Busy as busy:
        pytest.exit(str(busy), returncode=2)
    session.config.add_cleanup(lambda: lock.__exit__(None, None, None))
    if line:
        print(line)


def pytest_terminal_summary(terminalreporter, config):
    """What passed has something to say too: without -s, what it printed comes here."""
    if config.option.capture == "no":
        return
    for report in terminalreporter.stats.get("passed", ()):
        for line in report.capstdout.strip().splitlines():
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def quick(request):
    return request.config.option.quick


@pytest.fixture(scope="session")
def bench(quick):
    """Measurements that several benchmarks want are made once."""
    return Bench(anefast.Device("host"), quick=quick, judge=True)


@pytest.fixture(scope="session")
def device(bench):
    return bench.device


@pytest.fixture(scope="session")
def roofline():
    """Of this machine on the pool's threads."""
    limit = measure()
    print(f"\nroofline: {limit}")
    return limit


@pytest.fixture
def timed(benchmark, roofline):
    """timed(call, flops=..., nbytes=...): a pytest-benchmark of `call`, with rates."""

    def run(call, flops=0, nbytes=0, rounds=9):
        benchmark.pedantic(call, rounds=rounds, warmup_rounds=2)
        seconds = benchmark.stats.stats.min
        said = []
        kinds = ((flops, "GFLOP/s", roofline.flops), (nbytes, "GB/s", roofline.stream))
        for done, unit, limit in kinds:
            if done:
                rate = done / seconds
                said.append(f"{rate / 1e9:.1f} {unit}, {100 * rate / limit:.0f} %")
        benchmark.extra_info["of the measured roofline"] = "; ".join(said)
        print(f"\n{benchmark.name}: {1e3 * seconds:.3f} ms, {'; '.join(said)} of the roofline")
        return seconds

    return run


class Ratios:
    """Ratios of this machine: judged against a floor and against what was saved."""

    def __init__(self, path, update):
        self.path, self.update = path, update
        self.key = f"{platform.machine()} {_C.gemm_isa()} {anefast.Device('host').description}"
        self.saved = json.loads(path.read_text()) if path.exists() else {}
        self.found = {}

    def judge(self, name, ratio, floor):
        """Fails below the floor, or far below the saved ratio."""
        self.found[name] = round(ratio, 3)
        known = self.saved.get(self.key, {}).get(name)
        print(f"{name}: {ratio:.2f}x, floor {floor:.2f}, saved {known or 'none'}")
        assert ratio >= floor, f"{name}: {ratio:.2f} is below {floor}"
        if known and not self.update:
            assert ratio >= WORSE * known, f"{name}: {ratio:.2f}, saved {known}"

    def close(self):
        if self.update:
            mine = self.saved.get(self.key, {}) | self.found
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps({**self.saved, self.key: mine}, indent=1) + "\n")


@pytest.fixture(scope="session")
def ratios(request):
    kept = Ratios(cache_file().with_name("benchmarks.json"), request.config.option.update_baseline)
    yield kept
    kept.close()
