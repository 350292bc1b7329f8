"""Memory that runs out on any thread is told to who asked for the work, with what it was for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .test_native import ROOT, native

pytest.importorskip("anefast._C", reason="the native module is not built", exc_type=ImportError)


@pytest.mark.skipif(sys.platform != "linux", reason="preloads a library as Linux does")
def test_every_allocation_fails_once(tmp_path: Path) -> None:
    """Queued sums, evaluations, compiles, owners and micro-steps: an error or the right bytes."""
    library = native(
        tmp_path / "failing_new.so", [ROOT / "tests/native/failing_new.cpp"], "-shared", "-fPIC"
    )
    done = subprocess.run(
        [sys.executable, "-m", "tests.memory_child", str(library)],
        cwd=ROOT, env=os.environ | {"LD_PRELOAD": str(library)}, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert all(count >= 5 for count in found["told"].values()), found["told"]
    said = "\n".join(found["messages"])
    for words in (
        "[weight_grad of layers.0.wq] expected memory",
        "[host evaluate] expected memory",
        "(program forward.all)",
        "[host compile] expected memory",
        "[surface] expected memory for 4096 bytes",
        "[head_loss_grad] expected memory",
    ):
        assert words in said, said
