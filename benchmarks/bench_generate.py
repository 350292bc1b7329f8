"""Generating text: decode against the time it takes to read the weights, pre-fill against products.

    python -m pytest benchmarks/bench_generate.py -s      # some two minutes

The bound of a token is its weights, once, as fp16 has them, over what this machine reads per
second; a program that reads them in fp32, as llama2.c does, can reach half of it at best. That of a
prompt is its multiply-adds over those the registers make. Weights are drawn: what they are changes
no time. Model and bounds are measured in turns, and the best of each counts, as a
neighbour only adds time.
"""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from anefast import _C
from anefast.config import ModelConfig
from anefast.formats import llama2c
from anefast.fuse import find_plan
from anefast.models import init_params
from anefast.runtime import Device, Inference
from anefast.tokenizer.llama2c import Llama2cTokenizer

SHAPES = {
    "stories15m": {"dim": 288, "n_layers": 6, "n_heads": 6, "hidden_dim": 768},
    "stories110m": {"dim": 768, "n_layers": 12, "n_heads": 12, "hidden_dim": 2048},
    "SmolLM2-135M": {
        "dim": 576, "n_layers": 30, "n_heads": 9, "n_kv_heads": 3, "hidden_dim": 1536,
        "vocab_size": 49152,
    },
}  # fmt: skip
GOALS = {"stories110m", "SmolLM2-135M"}
SHARE = 0.70  # of the bound
PREFILL = 0.60  # of the multiply-adds
PROMPT, TOKENS, TURNS = 512, 32, 4
BYTES = 1 << 28  # that no cache holds


def read_rate(memory: list[np.ndarray]) -> float:
    """Bytes per second that the pool's number of threads read, the best of a few passes."""
    best = 0.0
    with ThreadPoolExecutor(len(memory)) as threads:
        for _ in range(3):
            start = time.perf_counter()
            list(threads.map(np.bitwise_or.reduce, memory))
            best = max(best, sum(m.nbytes for m in memory) / (time.perf_counter() - start))
    return best


@pytest.mark.parametrize("name", SHAPES)
def test_decode_and_prefill(name):
    config = ModelConfig(**({"vocab_size": 32000, "max_seq_len": 1024} | SHAPES[name]))
    params = init_params(config, 1)
    weights = sum(p.size for p in params.values())
    inference = Inference(config, params, Device("host"), find_plan("all"))
    ids = [int(i) for i in np.random.default_rng(0).integers(0, config.vocab_size, 1024)]
    memory = [np.ones(BYTES // 8 // _C.threads(), np.uint64) for _ in range(_C.threads())]
    start = time.perf_counter()
    inference.logits(ids[:5])
    first = time.perf_counter() - start
    token, prompt, rate, flops = float("inf"), float("inf"), 0.0, 0.0
    for turn in range(TURNS):
        rate = max(rate, read_rate(memory))
        flops = max(flops, _C.probe_peak()[1])
        inference.logits([turn])  # forgets the rest
        start = time.perf_counter()
        inference.logits(ids[:PROMPT])
        prompt = min(prompt, time.perf_counter() - start)
        for n in range(6, 6 + TOKENS):
            inference.logits(ids[:n]) if n == 6 else None
            start = time.perf_counter()
            inference.logits(ids[: n + 1])
            token = min(token, time.perf_counter() - start)
    inference.close()
    table = 0 if config.tied else config.vocab_size * config.dim
    bound = 2 * (weights - table) / rate
    trunk = weights - config.vocab_size * config.dim * (1 if config.tied else 2)
    products = 2 * PROMPT * trunk / flops
    print(
        f"{name}: {1 / token:.1f} tok/s, {bound / token:.0%} of what reading "
        f"{2 * (weights - table) / 1e6:.0f} MB at {rate / 1e9:.1f} GB/s allows, "
        f"{2 * bound / token:.2f} x what reading them in fp32 does; a prompt of {PROMPT} in "
        f"{prompt * 1e3:.0f} ms, {products / prompt:.0%} of {flops / 1e9:.0f} GFLOP/s; "
        f"the first token after {first:.2f} s ({_C.threads()} threads, measured)"
    )
    if name in GOALS:
        assert bound / token >= SHARE
        assert products / prompt >= PREFILL


FIRST_SECONDS = 0.5


def test_start_to_first_token(tmp_path):
    """As a user has it: from the command to the first character, of a stories15m file."""
    config = ModelConfig(**SHAPES["stories15m"], vocab_size=32000, max_seq_len=256)
    llama2c.save(tmp_path / "model.bin", config, init_params(config, 1))
    marks, digits = [b"<unk>", b"\n<s>\n", b"\n</s>\n"], range(config.vocab_size - 259)
    pieces = [*marks, *(b"<0x%02X>" % i for i in range(256)), *(b" w%d" % i for i in digits)]
    tokenizer = Llama2cTokenizer(pieces, [-float(i) for i in range(len(pieces))])
    path = tokenizer.save(tmp_path)
    line = [sys.executable, "-m", "anefast", "generate", tmp_path / "model.bin", "--tokens", "8"]
    line += ["--tokenizer", path, "--temperature", "0", "--device", "host"]
    taken = []
    for _ in range(8):
        start = time.perf_counter()
        with subprocess.Popen(
            line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=tmp_path
        ) as process:
            assert process.stdout.read(1)
            taken.append(time.perf_counter() - start)
    print(f"start to first token: {min(taken):.2f} s (the best of {len(taken)}, measured)")
    assert min(taken) < FIRST_SECONDS
