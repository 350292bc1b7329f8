"""Everything native on many threads at once: as it is built, and as sanitizers see it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .sanitized import ROOT, environment, sees_races

pytest.importorskip("anefast._C", reason="the native module is not built", exc_type=ImportError)

# What exercises the bindings, a second or so each: every argument they take, wrong ones too.
BINDINGS = ("surfaces", "blob", "spans", "unstored", "half", "mil_parse", "cpu_step", "optim")


def run(folder: Path, environment: dict[str, str] | None, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout


def test_all_at_once() -> None:
    assert run(ROOT, None, "-m", "tests.threads_child", "1").endswith("done\n")


DAEMONS = """
import threading, time
import numpy as np
from anefast import _C
from tests.threads_child import doubler, evaluates
device = _C.Device("host", "threads=3")
program, a = doubler(device), np.ones((200, 200), np.float32)
dy, queue = device.surface(96 * 64 * 2), _C.Queue()

def sums():
    queue.weight_grad(dy, dy, np.zeros((96, 96), np.float32), 1, 64)
    queue.wait()

def again(work):
    while True:
        work()

works = [evaluates(program, device, n) for n in (1, 2)]
works += [sums, lambda: _C.gemm(a, a, np.empty_like(a))]
for work in works:
    threading.Thread(target=again, args=(work,), daemon=True).start()
time.sleep(0.2)
"""
UNCLOSED = """
import numpy as np
from anefast.config import ModelConfig
from anefast.fuse import find_plan
from anefast.models import init_params
from anefast.runtime import Device, TrainingStep
config = ModelConfig(dim=32, n_layers=2, n_heads=2, vocab_size=64, max_seq_len=32)
plan = find_plan("unfused,async")
step = TrainingStep(config, init_params(config, 0), Device("host", "threads=2"), 1, 32, plan)
x, y = np.zeros((2, 1, 32), np.int32)
step.micro_step(x, y, 1.0)  # its sums are queued
step.params["layers.0.attn.wq"] += 0.1
step.update_weights()  # its programs are being compiled
"""


@pytest.mark.parametrize("script", [DAEMONS, UNCLOSED], ids=["daemons", "unclosed"])
def test_a_process_ends_whatever_its_threads_do(script: str) -> None:
    run(ROOT, None, "-c", script)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_child_evaluates_what_its_parent_was_evaluating() -> None:
    """The parent's threads are not in it, nor what they held."""
    script = """
import os, signal, threading, warnings
from anefast import _C
from tests.threads_child import doubler, evaluates
warnings.simplefilter("ignore")
device = _C.Device("host", "threads=2")
program, stop = doubler(device), threading.Event()
works = [evaluates(program, device, n) for n in (1, 2)]

def again():  # without reading: a surface that the CPU has locked stays locked in a child
    while not stop.is_set():
        program.evaluate(*works[0].surfaces)

thread = threading.Thread(target=again)
thread.start()
ends = []
for _ in range(20):
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        for work in works:
            program.evaluate(*work.surfaces)
        os._exit(0)
    ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
stop.set()
thread.join()
assert ends == [0] * 20, ends
"""
    run(ROOT, None, "-c", script)


def test_ctrl_c_waits_for_what_runs() -> None:
    """A signal in the middle of a region is raised behind it; nothing is left open."""
    script = """
import signal
import numpy as np
from anefast import _C
_C.set_threads(3)
a = np.ones((300, 300), np.float32)
want, got = np.empty_like(a), np.empty_like(a)
_C.gemm(a, a, want)
raised, armed = 0, False

def interrupt(*_):
    global armed
    if armed:
        armed = False
        raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
while raised < 50:
    try:
        armed = True
        while True:
            _C.gemm(a, a, got)
    except KeyboardInterrupt:
        raised += 1
signal.setitimer(signal.ITIMER_REAL, 0)
_C.gemm(a, a, got)
assert got.tobytes() == want.tobytes()
"""
    run(ROOT, None, "-c", script)


@pytest.mark.slow
def test_no_data_race(tmp_path: Path) -> None:
    """ThreadSanitizer over pool, queue, spans, device, compile service and the writer of rows."""
    sees_races(tmp_path)
    env = environment(tmp_path, "thread")
    (built,) = (tmp_path / "anefast").glob("_C.*.so")
    assert b"__tsan_write8" in built.read_bytes()
    assert run(tmp_path, env, "-m", "tests.threads_child", "8").endswith("done\n")


@pytest.mark.slow
def test_the_bindings_touch_no_memory_that_is_not_theirs(tmp_path: Path) -> None:
    env = environment(tmp_path, "address")
    (built,) = (tmp_path / "anefast").glob("_C.*.so")
    assert b"__asan_report_load8" in built.read_bytes()
    assert run(tmp_path, env, "-m", "tests.threads_child", "3").endswith("done\n")
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
    files = [f"tests/test_{name}.py" for name in BINDINGS]
    assert " passed" in run(tmp_path, env, *words, "--rootdir", str(tmp_path), *files)
