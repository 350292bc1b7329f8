"""Curves of training under a chip's arithmetic, beside exact: the tables of docs/chips.md.

python -m benchmarks.chip_curves PRESET STEPS EVERY [CHIP,CHIP...] [SCALE,SCALE...]

A scale is `loss_scale.initial`, `1` or `64`; `1!` stays there, where others are dynamic. Every run
sees the same batches; what differs is the chip. One row for each validation.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import anefast
from anefast.config import TrainConfig


def main(preset: str, steps: str, every: str, chips: str = "m4,m6", scales: str = "") -> None:
    runs = [(chip, scale) for scale in scales.split(",") for chip in chips.split(",")]
    columns = {"exact": curve(preset, int(steps), int(every), "", "")}
    for chip, scale in runs:
        name = f"{chip}, scale {scale}" if scale else chip
        columns[name] = curve(preset, int(steps), int(every), chip, scale)
        print(name, columns[name], flush=True)
    print("", f"| update | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|", sep="\n")
    exact = columns["exact"]
    for step, loss in exact.items():
        cells = [f"{c[step]:.4f} ({100 * (c[step] / loss - 1):+.2f} %)" for c in columns.values()]
        print(f"| {step} | {' | '.join(cells)} |")


def curve(preset: str, steps: int, every: int, chip: str, scale: str) -> dict[int, float]:
    """Validation losses by update; the scale's way and what is lost are printed."""
    config = TrainConfig.from_preset(preset, steps=steps, chip=chip, device="host")
    config = config.replace(eval_every=every, sample_tokens=0, checkpoint_every=0)
    if scale:
        dynamic, initial = not scale.endswith("!"), float(scale.rstrip("!"))
        of = config.loss_scale.replace(initial=initial, dynamic=dynamic)
        config = config.replace(loss_scale=of)
    with tempfile.TemporaryDirectory() as folder:
        run = anefast.fit(config.replace(out=str(Path(folder) / "run")), show=lambda line: None)
        rows = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
        found = [json.loads(row) for row in rows]
        ways = [r["loss_scale"] for r in found if "loss_scale" in r]
        print(f"{chip or 'exact'} {scale}: loss scale {ways[:1]} to {ways[-1:]}", flush=True)
        return dict(run.val_losses)


if __name__ == "__main__":
    main(*sys.argv[1:])
