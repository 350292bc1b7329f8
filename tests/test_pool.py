"""The thread pool through what runs on it: counts, callers side by side, fork, background order."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

_C = pytest.importorskip("anefast._C", reason="the native module is not built")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = _C.threads()
    yield
    _C.set_threads(before)


def run(code: str, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_threads_come_from_the_environment() -> None:
    ask = "from anefast import _C; print(_C.threads())"
    assert run(ask, ANEFAST_NUM_THREADS="3") == "3"
    usual = run(ask, ANEFAST_NUM_THREADS="")
    if hasattr(os, "sched_getaffinity"):
        assert 1 <= int(usual) <= len(os.sched_getaffinity(0))  # less where there is a quota


@pytest.mark.parametrize("value", ["none", "0", "-2", "2.5", "9999", "4 threads"])
def test_threads_of_no_use_are_said_once(value: str) -> None:
    ask = "from anefast import _C; _C.threads(); _C.set_threads(1); print(_C.threads(), end='')"
    done = subprocess.run(
        [sys.executable, "-c", ask],
        env=os.environ | {"ANEFAST_NUM_THREADS": value},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "1" and done.stderr.count("\n") == 1, done.stderr
    usual = run("from anefast import _C; print(_C.threads())", ANEFAST_NUM_THREADS="")
    assert f'1 to 1024, got "{value}": taking {usual},' in done.stderr


def test_threads_can_be_set_again_and_again() -> None:
    a = np.random.default_rng(0).standard_normal((200, 200)).astype(np.float32)
    want = np.empty_like(a)
    _C.gemm(a, a, want, reference=True)
    for count in (1, 3, 2, 1, 2):
        _C.set_threads(count)
        assert _C.threads() == count
        got = np.empty_like(a)
        _C.gemm(a, a, got)
        assert got.tobytes() == want.tobytes()
    with pytest.raises(ValueError):
        _C.set_threads(0)


def test_callers_side_by_side() -> None:
    _C.set_threads(2)
    rng = np.random.default_rng(1)
    inputs = [rng.standard_normal((150, 150)).astype(np.float32) for _ in range(4)]

    def work(a: np.ndarray) -> bytes:  # type: ignore[type-arg]
        out = np.empty_like(a)
        for _ in range(20):
            _C.gemm(a, a, out)
        return out.tobytes()

    alone = [work(a) for a in inputs]
    with ThreadPoolExecutor(4) as callers:
        assert list(callers.map(work, inputs)) == alone


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_has_a_pool_of_its_own() -> None:
    said = run(
        """
import os, warnings, numpy as np
from anefast import _C
warnings.simplefilter("ignore")
_C.set_threads(2)
a = np.random.default_rng(0).standard_normal((300, 300)).astype(np.float32)
out = np.empty_like(a)
_C.gemm(a, a, out)
child = os.fork()
again = np.empty_like(a)
_C.gemm(a, a, again)
same = again.tobytes() == out.tobytes() and _C.threads() == 2
if child == 0:
    os._exit(0 if same else 1)
print(same, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    )
    assert said == "True 0"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_is_refused_the_sums_of_its_parent() -> None:
    said = run(
        """
import os, warnings, numpy as np
from anefast import _C
warnings.simplefilter("ignore")
_C.set_threads(1)  # sums wait for wait()
device = _C.Device("host")
dy, acc, queue = device.surface(4 * 32 * 2), np.zeros(4, np.float32), _C.Queue()
queue.bias_grad(dy, acc, 1, 32)
child = os.fork()
if child == 0:
    try:
        queue.wait()
    except RuntimeError as error:
        os._exit(3 if "before the fork" in str(error) else 1)
    os._exit(0)
queue.wait()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    )
    assert said == "3"


@pytest.mark.skipif(sys.platform != "linux", reason="limits address space as Linux does")
def test_a_pool_takes_the_threads_it_can_get() -> None:
    """500 stacks do not fit the address space of this process; some do."""
    said = run(
        """
import resource, numpy as np
from anefast import _C
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), used + (1 << 30)))
a = np.random.default_rng(0).standard_normal((200, 200)).astype(np.float32)
want, got = np.empty_like(a), np.empty_like(a)
_C.gemm(a, a, want, reference=True)
_C.gemm(a, a, got)
print(1 < _C.threads() < 500, got.tobytes() == want.tobytes())
""",
        ANEFAST_NUM_THREADS="500",
    )
    assert said == "True True"


def test_threads_are_set_by_several_callers() -> None:
    a = np.random.default_rng(0).standard_normal((150, 150)).astype(np.float32)
    want = np.empty_like(a)
    _C.gemm(a, a, want, reference=True)

    def work(seed: int) -> bool:
        got = np.empty_like(a)
        for i in range(30):
            _C.set_threads(1 + (seed + i) % 4)
            _C.gemm(a, a, got)
        return got.tobytes() == want.tobytes()

    with ThreadPoolExecutor(4) as callers:
        assert all(callers.map(work, range(4)))


def test_background_sums_have_one_order() -> None:
    """Many jobs on few accumulators, regions in between: the bytes of one thread alone."""
    device = pytest.importorskip("anefast._C").Device("host")
    rng = np.random.default_rng(2)
    channels, seq = 40, 64

    def surface() -> object:
        s = device.surface(channels * seq * 2)
        values = rng.standard_normal(channels * seq).astype(np.float16)
        s.lock()[:] = values.view(np.uint8)
        s.unlock()
        return s

    dys, xs = [surface() for _ in range(6)], [surface() for _ in range(6)]
    results = []
    for count in (1, 2, 3):
        _C.set_threads(count)
        queue = _C.Queue()
        acc = [np.zeros((channels, channels), np.float32) for _ in range(3)]
        scale = np.zeros(channels, np.float32)
        square = np.eye(64, dtype=np.float32)
        for step in range(60):
            queue.weight_grad(dys[step % 6], xs[step * 5 % 6], acc[step % 3], 1, seq)
            queue.scale_grad(dys[step % 6], xs[step % 6], scale, 1, seq)
            _C.gemm(square, square, np.empty_like(square))
        queue.wait()
        results.append([a.tobytes() for a in [*acc, scale]])
    assert results[0] == results[1] == results[2]
    assert np.abs(acc[0]).max() > 1
