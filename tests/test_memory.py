"""Memory that a longer sequence takes: linear, though a causal mask is a square.

Programs carry the mask as a constant, since a chip's must. Nobody else keeps it: in Python it is a
view of a line, and the host executor knows its rows by where they end.
"""

from __future__ import annotations

import math
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anefast import ir, mil
from anefast.chips.behaviour import find_chip
from anefast.config import ModelConfig
from anefast.fuse.choose import choose
from anefast.fuse.cost import WORTHWHILE, modelled
from anefast.fuse.count import Counter
from anefast.fuse.legal import HOST
from anefast.models import MASKED, causal_mask
from tests.host_programs import Name, Text
from tests.test_groups import OFF, ON, both, halves


def test_a_causal_mask_takes_the_memory_of_a_line():
    for seq in (1, 2, 96):
        mask = causal_mask(seq)
        want = np.triu(np.full((1, 1, seq, seq), MASKED, np.float16), k=1)
        assert mask.tobytes() == want.tobytes() and mask.shape == want.shape
        assert not mask.flags.writeable and mask.base.nbytes == 2 * (2 * seq - 1)


def test_constants_are_copied_where_somebody_could_write_to_them():
    frozen, open_ = causal_mask(8), np.zeros((4, 4), np.float16)
    view = open_[::2]
    view.flags.writeable = False  # but `open_` is not
    assert ir.constant(frozen).value is frozen
    assert not any(np.shares_memory(ir.constant(a).value, open_) for a in (open_, view))


def masked(mask: np.ndarray) -> mil.Text:
    x = ir.input("x", mask.shape)
    y = ir.simplify(ir.Graph([x], {"y": x + ir.constant(mask)})).outputs["y"]
    return mil.emit(ir.Program.cut("masked", [("a0_x", x)], [("z0_y", y)]))


def test_writing_a_program_copies_no_mask():
    mask = causal_mask(1024)
    tracemalloc.start()
    program = masked(mask)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < mask.nbytes / 8
    same = masked(np.array(mask))
    (file,), (want,) = (p.blobs.fill({}).values() for p in (program, same))
    assert program.text == same.text and file.tobytes() == want.tobytes()


def attention(seq: int, mask: np.ndarray, size: float = 1.0) -> tuple[Text, Name, dict]:
    rng = np.random.default_rng(seq)
    feeds = {n: halves(rng, 1, 1, 32, seq, size=size) for n in "kqv"}
    t = Text(**feeds)
    square = np.empty((1, 1, seq, seq), np.float16)
    x = t.op("matmul", square, x=Name("q"), y=Name("k"), transpose_x=True, transpose_y=False)
    x = t.op("softmax", square, x=t.op("add", square, x=x, y=mask), axis=-1)
    y = t.op("matmul", feeds["v"], x=Name("v"), y=x, transpose_x=False, transpose_y=True)
    return t, y, feeds


def held(device, seq: int, mask: np.ndarray) -> int:
    t, y, _ = attention(seq, mask)
    return device.compile(t.program([y]), t.blobs).nbytes


def test_the_host_keeps_no_causal_mask():
    a, b, c = (held(ON, seq, causal_mask(seq)) for seq in (2048, 3072, 4096))
    assert abs((c - b) - (b - a)) <= 2 * 4096
    assert held(OFF, 256, causal_mask(256)) >= 2 * 256 * 256


@pytest.mark.parametrize("size", [1.0, 100.0, 1000.0], ids=["trusted", "large", "inf"])
def test_rows_of_a_mask_that_is_not_kept(size):
    """Large scores: hidden keys may not be left out, so that whole rows of the mask are added."""
    t, y, feeds = attention(160, causal_mask(160), size)
    assert both(t, [y], feeds) > 0


@pytest.mark.parametrize(
    "change", [(0, 0, -1), (150, 3, 1e-3), (3, 150, -9e3), (3, 150, 0), (159, 3, -3e3), (3, 4, 0)]
)
def test_a_mask_that_is_almost_causal_is_kept(change):
    """Something where nothing is hidden, or hidden keys that differ."""
    query, key, value = change
    mask = np.array(causal_mask(160))
    mask[0, 0, query, key] = value
    for size in (1.0, 1000.0):
        t, y, feeds = attention(160, mask, size)
        both(t, [y], feeds)
    if change != (3, 4, 0):  # one key more is seen: still a row that ends
        assert held(ON, 160, mask) - held(ON, 160, causal_mask(160)) >= 2 * 160 * 160 - 4096


@pytest.mark.parametrize("seq", [256, 4096])
def test_auto_keeps_no_probabilities(seq):
    config = ModelConfig(dim=64, n_layers=2, n_heads=4, vocab_size=64, max_seq_len=seq)
    free = {"dispatch": 0.0, "product": 0.0, "port_bytes": math.inf}  # only flops cost anything
    rates = replace(modelled(find_chip("m1-pro")), flops=1e9, **free)
    found = choose(Counter(config, 1, seq), 1, HOST, rates)
    costs = {c.spec: c.cost for c in found.candidates if c.cost}
    assert costs["unfused"].count.probs_bytes == 2 * 4 * seq * seq * 2  # layers, heads
    assert costs["unfused"].step * WORTHWHILE < costs[found.spec].step
    assert costs[found.spec].count.probs_bytes == 0


PEAK = """
import sys
import numpy as np
import anefast
from anefast.runtime import Device
from anefast.config import ModelConfig, OptimConfig
from anefast.optim import Optimizer
from anefast.telemetry.run import peak_memory_bytes
seq, plan = int(sys.argv[1]), sys.argv[2]
shape = {"dim": 288, "n_layers": 2, "n_heads": 6, "hidden_dim": 768}
config = ModelConfig(**shape, vocab_size=512, max_seq_len=seq)
params = anefast.init_params(config, 0)
model = anefast.Model(config, params, anefast.open_tokenizer("bytes"))
step = model.training_step(Device("host", "threads=2"), 1, seq, plan, accumulation=1)
optimizer, x = Optimizer(step.params, OptimConfig(accumulation=1)), np.ones((1, seq), np.int32)
for _ in range(2):
    loss, tokens = step.micro_step(x, x, 64.0)
    step.wait()
    optimizer.update(step.grads, 1 / (64.0 * tokens), 1e-4)
    step.update_weights()
print(peak_memory_bytes())
"""


@pytest.mark.slow
@pytest.mark.parametrize("plan", ["auto", "all", "layer"])
def test_peak_memory_of_training_is_linear(plan):
    """Resident, by the system's own count, of training steps in processes of their own.

    A weight file passes the door whole, mask and all, one at a time: hence some tolerance.
    """
    peaks = []
    for seq in (1024, 2048, 4096):
        done = subprocess.run(
            [sys.executable, "-c", PEAK, str(seq), plan],
            capture_output=True, text=True, timeout=900, cwd=Path(__file__).parent.parent,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout.split()[-1]) >> 20)
    print(f"{plan}: {peaks} MiB")
    assert peaks[2] - peaks[1] < 2.4 * (peaks[1] - peaks[0]), peaks
