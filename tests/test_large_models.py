"""Models of the sizes that people have: what loading one takes, and a step with many words.

Resident memory by the system's own count, in processes of their own. Files are mapped, so that
pages of theirs count as well.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from anefast.config import ModelConfig
from anefast.formats import save_folder, save_gguf
from anefast.models import shapes

from .conftest import ROOT

QWEN3 = ModelConfig(  # Qwen3-0.6B
    family="qwen3", dim=1024, n_layers=28, n_heads=16, n_kv_heads=8, head_dim=128, hidden_dim=3072,
    vocab_size=151_936, max_seq_len=40_960, rope_theta=1e6, norm_eps=1e-6,
)  # fmt: skip
SHAPES = {
    "small": QWEN3.replace(dim=512, n_layers=6, n_heads=8, hidden_dim=1536, vocab_size=49_152),
    "0.6 B": QWEN3,
    "GPT-2": ModelConfig(
        family="gpt2", dim=768, n_layers=12, n_heads=12, hidden_dim=3072, vocab_size=50_257,
        max_seq_len=1024,
    ),
}  # fmt: skip
SIZES = ["small", *(pytest.param(n, marks=pytest.mark.slow) for n in ("0.6 B", "GPT-2"))]

LOAD = """
import sys
from pathlib import Path
from anefast.formats import open_source
from anefast.telemetry.run import peak_memory_bytes
before = peak_memory_bytes()
weights = open_source(Path(sys.argv[1])).load()
size = sum(w.nbytes for w in weights.values())  # each is read when it is asked for, and kept
print((peak_memory_bytes() - before) / size)
"""


def said(code: str, *words: object) -> float:
    """The number that a program prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        capture_output=True, text=True, timeout=900, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.parametrize("dtype", ["F32", "BF16", "Q8_0"])
@pytest.mark.parametrize("size", SIZES)
def test_loading_takes_little_more_than_the_weights(tmp_path: Path, size: str, dtype: str) -> None:
    config = SHAPES[size]
    zeros = {name: np.zeros(shape, np.float32) for name, shape in shapes(config).items()}
    path = tmp_path / "model.gguf"
    if dtype == "Q8_0":
        save_gguf(path, config, zeros, dtype)
    else:
        path = tmp_path / "model"
        save_folder(path, config, zeros, dtype)
    taken = said(LOAD, path)
    print(f"{size}, {dtype}: {taken:.3f} of the weights")
    assert 0.99 < taken < 1.15


STEP = """
import sys
import numpy as np
import anefast
from anefast.config import ModelConfig
from anefast.runtime import Device
from anefast.telemetry.run import peak_memory_bytes
vocabulary, seq = int(sys.argv[1]), int(sys.argv[2])
config = ModelConfig(
    dim=32, n_layers=1, n_heads=2, hidden_dim=32, vocab_size=vocabulary, max_seq_len=seq
)
model = anefast.Model(config, anefast.init_params(config, 0), anefast.open_tokenizer("bytes"))
step = model.training_step(Device("host", "threads=2"), 1, seq, "unfused")
for grad in step.grads.values():
    grad[:] = 1
before = peak_memory_bytes()
x = np.full((1, seq), vocabulary - 1, np.int32)
loss, tokens = step.micro_step(x, x, 64.0)
step.wait()
assert np.isfinite(loss)
step.evaluate(x, x)
print((peak_memory_bytes() - before) / (4 * vocabulary * seq))
"""


def test_no_matrix_of_all_words_and_positions_is_held() -> None:
    """Loss and gradients of 262,144 words. A block of positions keeps 68 MB of it at most."""
    assert said(STEP, 262_144, 512) < 0.2
