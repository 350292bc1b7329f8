"""Training and inference against PyTorch, and each against what this machine can do at most.

    python -m pytest benchmarks/bench_peers.py -s                 # all of it: some 20 minutes
    python -m pytest benchmarks/bench_peers.py -s -k "b1 and 15m"
    ANEFAST_ISA=relaxed python -m pytest benchmarks/bench_peers.py -s  # ours of bf16 too

Everything in one table runs in one process, in turns, and medians are compared: a machine's
absolute times drift, ratios hold. A PyTorch mode that is missing or fails is named with its reason.
The roofline is multiply-adds in registers, fp32 ones or what our path has more, plus AdamW's
traffic, one after the other. All figures are measured on the host.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import pytest

import anefast
from anefast import _C
from anefast.config import ModelConfig, OptimConfig
from anefast.models import count_params, init_ffn, init_params
from anefast.optim import Optimizer
from anefast.presets import preset_settings
from anefast.runtime import Device, fused_ffn
from benchmarks.peer import MODES, Peer
from benchmarks.roofline import measure

pytestmark = pytest.mark.filterwarnings("ignore")  # torch.compile warns of PyTorch itself

SEQ, ROUNDS, BUDGET = 256, 7, 90.0  # tokens; turns at most, and seconds after which no more begin
PAUSE = 0.02  # seconds between turns, in which a library's waiting threads go to sleep


def config_of(preset: str) -> ModelConfig:
    return ModelConfig(**preset_settings(preset)["model"]).replace(max_seq_len=SEQ)


def flops(config: ModelConfig, batch: int, seq: int = SEQ) -> float:
    """Of a forward pass: two per weight and token, and the causal half of attention."""
    q = config.n_heads * config.head_dim
    weights = count_params(config) - config.dim * (2 * config.n_layers + 1)  # the tied table once
    return batch * seq * (2.0 * weights + 2.0 * seq * q * config.n_layers)


class Ours:
    """The same work as `Peer`: a micro-step and AdamW, or logits of every position."""

    def __init__(self, config: ModelConfig, params: dict, batch: int) -> None:
        model = anefast.Model(config, params, anefast.open_tokenizer("bytes"))
        self.device, self.config = Device("host"), config
        optim = OptimConfig(accumulation=1, clip=0)  # the peer does not clip either
        self._step = model.training_step(
            self.device, batch, SEQ, "auto", accumulation=1, flows=optim.flows
        )
        self.optimizer = Optimizer(self._step.params, optim)

    def step(self, x: np.ndarray, y: np.ndarray) -> float:
        loss, tokens = self._step.micro_step(x, y, 64.0)
        self._step.wait()
        self.optimizer.update(self._step.grads, 1 / (64.0 * tokens), 1e-4, self._step.unstored)
        self._step.begin_update()
        self._step.update_weights()
        return loss / tokens

    def forward(self, x: np.ndarray, y: np.ndarray) -> float:
        """The loss, which takes every logit: nobody wants the 33 MB of them."""
        loss, tokens = self._step.evaluate(x, y)
        return loss / tokens

    def close(self) -> None:
        self._step.close()


def tokens_of(config: ModelConfig, batch: int) -> tuple[np.ndarray, np.ndarray]:
    drawn = np.random.default_rng(0).integers(0, config.vocab_size, (batch, SEQ + 1), np.int32)
    return drawn[:, :-1].copy(), drawn[:, 1:].copy()


def alternate(variants: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each, in turns, after a first one that compiles and warms."""
    taken: dict[str, list[float]] = {}
    for name, run in list(variants.items()):
        try:
            run()
            taken[name] = []
        except Exception as reason:  # any way a mode may be missing here; ours must not fail
            if name == "ours":
                raise
            print(f"  {name}: skipped, {type(reason).__name__}: {str(reason).splitlines()[0]}")
    began = time.perf_counter()
    for turn in range(ROUNDS):
        for name, times in taken.items():
            time.sleep(PAUSE)
            start = time.perf_counter()
            variants[name]()
            times.append(time.perf_counter() - start)
        if turn >= 2 and time.perf_counter() - began > BUDGET:
            break
    return {name: median(times) for name, times in taken.items()}


def report(title: str, medians: dict[str, float], least: float, tokens: int) -> None:
    print(f"{title}; {_C.threads()} threads, {_C.gemm_isa()}")
    ours = medians["ours"]
    for name, seconds in medians.items():
        print(
            f"  {name:14s} {seconds * 1e3:9.1f} ms {tokens / seconds:9.0f} tok/s"
            f"  {least / seconds:5.0%} of the roofline  {seconds / ours:5.2f} x ours"
        )


def peers(config: ModelConfig, params: dict, modes: tuple[str, ...] = tuple(MODES)) -> dict:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra: peers)")
    return {mode: Peer(torch, mode, config, params, _C.threads()) for mode in modes}


@pytest.mark.parametrize(
    "preset,batch", [("stories15m", 1), ("stories15m", 8), ("stories110m", 1)],
    ids=["15m-b1", "15m-b8", "110m-b1"],
)  # fmt: skip
def test_training_step(preset: str, batch: int) -> None:
    config = config_of(preset)
    params = init_params(config, 0)
    others, (x, y) = peers(config, params), tokens_of(config, batch)
    ours = Ours(config, params, batch)
    variants: dict[str, Callable[[], object]] = {"ours": lambda: ours.step(x, y)}
    variants |= {mode: lambda p=peer: p.step(x, y) for mode, peer in others.items()}
    limit = measure()
    print(f"\nroofline: {limit}")
    medians = alternate(variants)
    least = limit.seconds(3 * flops(config, batch), count_params(config))
    report(f"{preset}, B {batch}, S {SEQ}, training step with AdamW", medians, least, x.size)
    ours.close()
    gc.collect()
    assert medians["eager fp32"] > medians["ours"]


@pytest.mark.parametrize("preset", ["stories15m", "stories110m"])
def test_forward(preset: str) -> None:
    config = config_of(preset)
    params = init_params(config, 0)
    others, (x, y) = peers(config, params), tokens_of(config, 1)
    ours = Ours(config, params, 1)
    variants: dict[str, Callable[[], object]] = {"ours": lambda: ours.forward(x, y)}
    variants |= {mode: lambda p=peer: p.forward(x) for mode, peer in others.items()}
    limit = measure()
    print(f"\nroofline: {limit}")
    least = flops(config, 1) / limit.flops
    report(f"{preset}, B 1, S {SEQ}, forward", alternate(variants), least, x.size)
    ours.close()


def busy() -> None:
    while True:
        pass


def test_beside_a_busy_neighbour() -> None:
    """One other process that never sleeps: our threads share their work by counters."""
    config = config_of("stories15m")
    params = init_params(config, 0)
    others, (x, y) = peers(config, params, ("eager fp32", "compile bf16")), tokens_of(config, 1)
    ours = Ours(config, params, 1)
    variants: dict[str, Callable[[], object]] = {"ours": lambda: ours.step(x, y)}
    variants |= {mode: lambda p=peer: p.step(x, y) for mode, peer in others.items()}
    limit = measure()
    neighbour = multiprocessing.get_context("spawn").Process(target=busy, daemon=True)
    neighbour.start()
    try:
        medians = alternate(variants)
    finally:
        neighbour.kill()
        neighbour.join()
    least = limit.seconds(3 * flops(config, 1), count_params(config))
    print(f"\nroofline without the neighbour: {limit}")
    report(f"stories15m, B 1, S {SEQ}, beside a busy process", medians, least, x.size)
    ours.close()
    assert medians["eager fp32"] > medians["ours"]


MEMORY = """
import json, sys
preset, batch, mode = sys.argv[1], int(sys.argv[2]), sys.argv[3]
from anefast.telemetry.run import peak_memory_bytes
from benchmarks import bench_peers as bench
from benchmarks.peer import Peer
import anefast
if mode != "ours":
    import torch
    torch.compile
before = peak_memory_bytes()
config = bench.config_of(preset)
params = bench.init_params(config, 0)
x, y = bench.tokens_of(config, batch)
if mode == "ours":
    run = bench.Ours(config, params, batch)
else:
    run = Peer(torch, mode, config, params, anefast._C.threads())
    del params
for _ in range(3):
    run.step(x, y)
print(json.dumps((peak_memory_bytes() - before) / 2**20))
"""


@pytest.mark.parametrize("preset,batch", [("stories15m", 1), ("stories15m", 8), ("stories110m", 1)])
def test_peak_memory(preset: str, batch: int) -> None:
    """Peak resident memory of three training steps, in a process of its own, net of imports."""
    pytest.importorskip("torch", reason="PyTorch is not installed (extra: peers)")
    used = {}
    for mode in ("ours", *MODES):
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, preset, str(batch), mode],
            capture_output=True, text=True, timeout=900, cwd=Path(__file__).parent.parent,
        )  # fmt: skip
        if done.returncode:
            print(f"  {mode}: skipped, {done.stderr.strip().splitlines()[-1]}")
        else:
            used[mode] = json.loads(done.stdout.splitlines()[-1])
    print(f"\n{preset}, B {batch}, S {SEQ}: peak memory of training, net of imports")
    for mode, mib in used.items():
        print(f"  {mode:14s} {mib:7.0f} MiB  ours is {used['ours'] / mib:5.2f} of it")
    assert used["ours"] < used["eager fp32"]


@pytest.mark.parametrize("size", [1 << 16, 1 << 24])
def test_conversion_against_memcpy(size: int) -> None:
    """fp16 to fp32 and back on one thread, against a copy of as many bytes (6 a value).

    The copy is the faster of memcpy (it was slow, at 1 GB/s, in a virtual machine on Zen 3) and
    of a loop that changes the sign on the way.
    """
    floats, halves = np.ones(size, np.float32), np.ones(size, np.float16)
    source, copy = (np.ones(3 * size // 4, np.float32) for _ in range(2))  # 3 bytes each way
    variants: dict[str, Callable[[], object]] = {
        "memcpy": lambda: np.copyto(copy, source),
        "loop": lambda: np.negative(source, out=copy),
        "to fp32": lambda: _C.half_to_floats(halves, floats),
        "to fp16": lambda: _C.half_from_floats(floats, halves),
    }
    repeats = max(1, (1 << 22) // size)
    taken: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(4 * ROUNDS):
        for name, run in variants.items():
            start = time.perf_counter()
            for _ in range(repeats):
                run()
            taken[name].append((time.perf_counter() - start) / repeats)
    base = min(median(taken[name]) for name in ("memcpy", "loop"))
    rates = ", ".join(f"{n} {6 * size / median(t) / 1e9:.1f} GB/s" for n, t in taken.items())
    parts = (base / median(taken[name]) for name in ("to fp32", "to fp16"))
    print(f"\n{size} values: {rates}; of the faster copy", *(f"{part:.0%}" for part in parts))


def straight(xs: list[float], ys: list[float]) -> float:
    """r squared of the line through them."""
    return float(np.corrcoef(xs, ys)[0, 1] ** 2)


def fastest(run: Callable[[], object], rounds: int = 5) -> float:
    taken = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return min(taken[1:])


def test_time_is_linear_in_layers() -> None:
    layers, taken = [2, 4, 8, 12, 16, 24], []
    for n in layers:
        config = ModelConfig(dim=128, n_layers=n, n_heads=4, vocab_size=256, max_seq_len=128)
        model = anefast.Model(config, init_params(config, 0), anefast.open_tokenizer("bytes"))
        step = model.training_step(Device("host"), 1, 128, "all")
        x = np.zeros((1, 128), np.int32)

        def run(step=step, x=x) -> None:
            step.micro_step(x, x, 64.0)
            step.wait()

        taken.append(fastest(run))
        step.close()
    print(
        f"\nlayers {layers}: {[f'{t * 1e3:.1f}' for t in taken]} ms,"
        f" r2 {straight(layers, taken):.4f}"
    )
    assert straight(layers, taken) > 0.99


def test_time_is_linear_in_tokens() -> None:
    """Outside attention, which is quadratic by nature: the FFN-only proxy."""
    lengths, taken = [128, 256, 512, 1024, 2048], []
    params = init_ffn(288, 768, 2, 0)
    for seq in lengths:
        x = np.ones((1, 288, 1, seq), np.float16)
        with fused_ffn(288, 768, 2, seq, params, Device("host")) as ffn:
            taken.append(fastest(lambda x=x, ffn=ffn: ffn(x), 15))
    print(
        f"\nS {lengths}: {[f'{t * 1e3:.2f}' for t in taken]} ms, r2 {straight(lengths, taken):.4f}"
    )
    assert straight(lengths, taken) > 0.99
