"""Everything native on many threads at once: as it is built, and as sanitizers see it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .sanitized import ROOT, environment, sees_races

pytest.importorskip("anefast._C", reason="the native module is not built", exc_type=ImportError)

# What exercises the bindings, a second or so each: every argument they take, wrong ones too.
BINDINGS = ("surfaces", "blob", "spans", "flow", "half", "mil_parse", "cpu_step", "optim")


def run(folder: Path, environment: dict[str, str] | None, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout


def test_all_at_once() -> None:
    assert run(ROOT, None, "-m", "tests.threads_child", "1").endswith("done\n")


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
