"""A training micro-step of stories15m against PyTorch eager fp32, in one run on the same cores.

    python -m pytest benchmarks/bench_step.py -s

Forward, backward and every weight gradient, B 1, S 256; the optimizer is left out on both sides.
Runs alternate, medians are compared: a machine's absolute times drift, the ratio holds.
"""

from __future__ import annotations

import time
from statistics import median

import numpy as np
import pytest

import anefast
from anefast import _C
from anefast.config import ModelConfig
from anefast.presets import preset_settings
from tests.test_judges import torch_loss

ROUNDS, SEQ = 9, 256


def test_stories15m_step_against_pytorch_eager():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra: peers)")
    torch.set_num_threads(_C.threads())
    config = ModelConfig(**preset_settings("stories15m")["model"])
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, config.vocab_size, (1, SEQ + 1), dtype=np.int32)
    x, y = tokens[:, :-1].copy(), tokens[:, 1:].copy()
    params = anefast.init_params(config, 0)

    device = anefast.Device("host")
    model = anefast.Model(config, params, anefast.open_tokenizer("bytes"))
    step = model.training_step(device, batch=1, seq=SEQ)
    p = {k: torch.tensor(v, requires_grad=True) for k, v in params.items()}
    tx, ty = torch.tensor(x), torch.tensor(y)

    def ours() -> float:
        loss, _ = step.micro_step(x, y, 64.0)
        step.wait()
        return loss

    def peer() -> float:
        loss = torch_loss(torch, p, config, tx, ty)
        loss.backward()
        return loss.item()

    assert abs(ours() - peer()) < 1e-3 * SEQ  # the same work, and warm
    times: dict = {ours: [], peer: []}
    for _ in range(ROUNDS):
        for run, taken in times.items():
            start = time.perf_counter()
            run()
            taken.append(time.perf_counter() - start)
    mine, theirs = (1e3 * median(t) for t in times.values())
    print(
        f"\nstories15m, B 1, S {SEQ}, {_C.threads()} threads, medians of {ROUNDS}:"
        f"\n  {device.description} {mine:.1f} ms"
        f"\n  PyTorch {torch.__version__} eager fp32 {theirs:.1f} ms, ratio {theirs / mine:.2f}x"
    )
    assert theirs / mine >= 1.0
