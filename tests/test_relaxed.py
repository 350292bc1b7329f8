"""Products of operands rounded to bf16, which nobody gets who does not ask: ANEFAST_ISA=relaxed.

What each product is, to the byte and within its bound, is test_isa.py's matter. Here a training run
is made of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from anefast import _C

NOT_HERE = "as there is no relaxed here"
RUN = """
import json, sys
import anefast
from anefast import _C
from anefast.config import TrainConfig

config = TrainConfig.from_preset("bytes", steps=60, out=sys.argv[1], plan=sys.argv[2])
config = config.replace(
    data=config.data.replace(source="stories:200", batch=4, seq_len=64),
    model=config.model.replace(dim=64, n_layers=2, n_heads=2),
    sample_tokens=0, eval_every=0, eval_batches=4,
)
print(json.dumps([_C.gemm_isa(), anefast.fit(config).val_losses[-1][1]]))
"""


def run(folder: Path, isa: str, plan: str = "all", threads: int = 2) -> tuple[str, float]:
    """The products' path, and the validation loss."""
    env = os.environ | {"ANEFAST_ISA": isa, "ANEFAST_NUM_THREADS": str(threads)}
    out = folder / f"{isa}-{plan}-{threads}"
    words = [sys.executable, "-c", RUN, str(out), plan]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=True)
    path, loss = json.loads(done.stdout.splitlines()[-1])
    return path, loss


def test_it_is_asked_for_only() -> None:
    if not os.environ.get("ANEFAST_ISA"):
        assert "relaxed" not in _C.gemm_isa()


def test_no_chip_multiplies_so(tmp_path: Path) -> None:
    env = os.environ | {"ANEFAST_ISA": "relaxed"}
    ask = [sys.executable, "-c", "from anefast import _C; print(_C.gemm_isa())"]
    path = subprocess.run(ask, env=env, capture_output=True, text=True, check=True).stdout.strip()
    if path.endswith(NOT_HERE):
        pytest.skip("this processor multiplies no bf16")
    words = [sys.executable, "-m", "anefast.train", "--chip", "m1", "--out", str(tmp_path / "run")]
    done = subprocess.run(words, env=env, capture_output=True, text=True)
    assert done.returncode == 2 and not (tmp_path / "run").exists()
    assert len(done.stderr.splitlines()) == 1
    assert f"profile=m1, got {path} ones. Hint: unset ANEFAST_ISA." in done.stderr


def test_a_run_repeats_and_ends_where_the_exact_one_does(tmp_path: Path) -> None:
    path, loss = run(tmp_path, "relaxed")
    if path.endswith(NOT_HERE):
        pytest.skip("this processor multiplies no bf16")
    assert path in ("AVX-512 BF16 relaxed", "AMX-BF16 relaxed")
    assert run(tmp_path, "relaxed", "unfused", threads=1) == (path, loss)
    _, exact = run(tmp_path, "")
    assert loss != exact and loss == pytest.approx(exact, rel=0.01)
