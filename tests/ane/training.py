"""Inside a fake build: training runs, with faults in the middle. Not a test.

`same PLAN...`: each plan on "ane" and on "host"; prints whether their metrics are byte for byte
the same, and how many evaluations the fake carried out. `wide PLAN...`: the same with a model whose
surfaces are larger than a page, of many sizes, with a sample at the end. `faults`: runs that a
fault ends, and what became of them: the error, the checkpoint, and the metrics after resuming
beside those of a run that nothing ended.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import inside

import anefast
from anefast.config import DataConfig, ModelConfig, OptimConfig, TrainConfig
from anefast.fuse.plan import is_async
from anefast.trainer import Row

STEPS = 4


def config(folder: Path, device: str, plan: str, **more: Any) -> TrainConfig:
    said: dict[str, Any] = dict(
        steps=STEPS,
        eval_every=3,
        eval_batches=1,
        sample_tokens=0,
        plan=plan,
        device=device,
        out=str(folder),
        model=ModelConfig(dim=32, n_layers=2, n_heads=4, n_kv_heads=2, max_seq_len=64),
        data=DataConfig(source="stories:40", seq_len=64, batch=1),
        optim=OptimConfig(lr=3e-3, warmup_steps=2, accumulation=3),
    )
    return TrainConfig(**{**said, **more})


def metrics(folder: Path) -> str:
    return (folder / "metrics.jsonl").read_text()


WIDE: dict[str, Any] = {
    "model": ModelConfig(dim=256, n_layers=2, n_heads=4, n_kv_heads=2, max_seq_len=64),
    "sample_tokens": 40,
}


def same(plans: list[str], folder: Path, **more: Any) -> dict[str, Any]:
    results = {}
    for i, plan in enumerate(plans):
        runs: list[str] = []
        samples: list[str] = []
        for device in ("ane", "host"):
            out = folder / f"{i}{device}"
            samples.append(anefast.fit(config(out, device, plan, **more)).sample)
            runs.append(metrics(out))
        rows = len(runs[0].splitlines())
        results[plan] = runs[0] == runs[1] and samples[0] == samples[1] and rows == STEPS + 1
    environment = json.loads((folder / "0ane" / "env.json").read_text())["sessions"][0]
    gc.collect()
    return {
        "same": results,
        "evaluations": inside.count("evaluations"),
        "device": [environment["device"], environment["label"]],
        "surfaces": environment["surfaces"],
        "alive": inside.alive(),
    }


# Run: what fails from which call on, once the second update is through, the plan, and eval_every.
BROKEN: dict[str, tuple[str, int, str, int]] = {
    "evaluate": ("evaluate", 1, "layer", 3),
    "evaluate raises": ("evaluate_raises", 1, "all", 3),
    "lock": ("lock", 1, "layer", 3),
    "compile": ("compile", 1, "layer", 3),
    "unload": ("unload", 1, "layer", 3),
    "validation": ("evaluate", 3 * 4, "layer", 3),  # behind update 3's micro-steps
    # Validation settles the second update's background compile before the fault is armed.
    "compile, async": ("compile", 1, "layer,async", 2),
    "validation, async": ("compile", 1, "layer,async", 1),
}


def broken(name: str, folder: Path) -> dict[str, Any]:
    """A run whose device fails after the second update, and the same run resumed."""
    what, first, plan, eval_every = BROKEN[name]

    def break_(row: Row) -> None:
        if row["step"] == 2:
            inside.arm(what, first)

    out, error = folder / "run", ""
    try:
        anefast.fit(config(out, "ane", plan, eval_every=eval_every), on_step=break_)
    except Exception as raised:
        error = f"{type(raised).__name__}: {raised}"
    finally:
        inside.heal()
    gc.collect()
    alive = inside.alive()
    resumed = anefast.fit(config(out, "ane", plan, eval_every=eval_every, resume=str(out)))
    gc.collect()
    return {
        "error": error,
        "alive": [alive, inside.alive()],
        "losses": len(resumed.losses),
        "metrics": metrics(out),
        "whole": whole(folder.parent / f"whole{eval_every}{is_async(plan)}", plan, eval_every),
    }


def whole(folder: Path, plan: str, eval_every: int) -> str:
    """Metrics of the run that nothing ends; any cut gives the same."""
    if not folder.exists():
        plan = "layer,async" if is_async(plan) else "layer"
        anefast.fit(config(folder, "ane", plan, eval_every=eval_every))
    return metrics(folder)


def main() -> None:
    folder = Path(tempfile.mkdtemp(dir=Path.cwd()))
    if sys.argv[1] in ("same", "wide"):
        result = same(sys.argv[2:], folder, **(WIDE if sys.argv[1] == "wide" else {}))
    else:
        result = {name: broken(name, folder / str(i)) for i, name in enumerate(BROKEN)}
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
