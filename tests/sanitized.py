"""The package built for a sanitizer, bindings and all, and the environment to run it in.

Objects are setup.py's own, in a tree for each sanitizer, which builds of other folders share.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RUNTIMES = {"address": "libasan", "thread": "libtsan"}


def printed(question: str) -> str:
    return subprocess.run(
        ["gcc", question], capture_output=True, text=True, check=True
    ).stdout.strip()


def sees_races(folder: Path) -> None:
    """Skips where ThreadSanitizer does not run; fails where it runs and misses a planted race."""
    if sys.platform != "linux" or not shutil.which("gcc"):
        pytest.skip("ThreadSanitizer is gcc's, on Linux")
    if not printed("-print-file-name=libtsan.so").startswith("/"):
        pytest.skip("no libtsan beside gcc")
    source, program = folder / "planted.cpp", folder / "planted"
    source.write_text(
        "#include <thread>\nint xs[1000];\n"  # one that both threads meet at once is not seen
        "int main() { std::thread t([] { for (int &x : xs) x = 1; });\n"
        "for (int &x : xs) x = 2; t.join(); }\n"
    )
    words = ["g++", "-g1", "-fsanitize=thread", "-pthread", source, "-o", program]
    subprocess.run(words, check=True)
    seen = subprocess.run([program], capture_output=True, text=True).stderr
    if "FATAL: ThreadSanitizer" in seen:  # of where the system puts its memory
        pytest.skip(seen)
    assert "data race" in seen


def environment(folder: Path, sanitizer: str) -> dict[str, str]:
    """Of a child process in `folder`, which gets the package and the tests. Or skips."""
    if sys.platform != "linux" or not (shutil.which("gcc") and (ROOT / "setup.py").is_file()):
        pytest.skip("sanitized builds are made of a source tree, by gcc, on Linux")
    runtime = printed(f"-print-file-name={RUNTIMES[sanitizer]}.so")
    if not runtime.startswith("/"):
        pytest.skip(f"no {RUNTIMES[sanitizer]} beside gcc")
    pytest.importorskip("pybind11")
    ignored = shutil.ignore_patterns("*.so", "__pycache__", "*.c")
    for name in ("anefast", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    words = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(folder)]
    switches = {"CC": "gcc", "CXX": "g++", **os.environ, "ANEFAST_SANITIZE": sanitizer}
    (ROOT / "build").mkdir(exist_ok=True)
    with open(ROOT / "build" / "fake-ane.lock", "w") as lock:  # of tests/ane/build.py
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(words, cwd=ROOT, env=switches, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith("LD_")},
        "LD_PRELOAD": f"{runtime} {printed('-print-file-name=libstdc++.so')}",
        "PYTHONPATH": str(folder),
        "PYTHONMALLOC": "malloc",
        "OPENBLAS_NUM_THREADS": "1",
        "ASAN_OPTIONS": "abort_on_error=1:malloc_context_size=2:allocator_may_return_null=1",
        "LSAN_OPTIONS": f"suppressions={ROOT / 'tests/ane/lsan.supp'}:print_suppressions=0",
        "UBSAN_OPTIONS": "print_stacktrace=1:abort_on_error=1",
        "TSAN_OPTIONS": f"suppressions={ROOT / 'tests/tsan.supp'}:die_after_fork=0:history_size=4",
    }
