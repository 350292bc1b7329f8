"""Inside a fake build: runs beside a frozen base, and what they compile. Not a test.

`kept.py SEED`: trains an adapter of the base that SEED draws, generates with it, and prints what
the fake system compiled and loaded, what the run logged, and everything that came out of it.
"""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import sys
from typing import Any

import inside
import numpy as np

import anefast
from anefast.config import ModelConfig
from anefast.models.adapter import Base, adaptable
from anefast.models.lora import draw
from anefast.optim import Optimizer
from anefast.tokenizer import ByteTokenizer

CONFIG = ModelConfig(dim=32, n_layers=2, n_heads=4, n_kv_heads=2, vocab_size=259, max_seq_len=64)


def run(seed: int) -> dict[str, Any]:
    model = anefast.Model.from_config(CONFIG, ByteTokenizer(), seed)
    model.adapt(draw(4, 8.0, False, adaptable(CONFIG), Base(), 0))
    device = anefast.Device("ane")
    step = model.training_step(device, 1, 32, "layer,recompute")
    optimizer = Optimizer(step.trained, anefast.OptimConfig(lr=1e-2))
    x = np.arange(32, dtype=np.int32)[None]
    losses = []
    for _ in range(2):
        step.begin_update()
        losses.append(step.micro_step(x, x + 1, 64.0)[0])
        step.end_update()
        optimizer.update(step.grads, 1 / 64, 1e-2)
        step.update_weights()
    text = model.generate("a", tokens=4, temperature=0, device=device)
    trained = hashlib.sha256(b"".join(step.params[n].tobytes() for n in sorted(step.trained)))
    found, used = device.found, step.compiler.budget.used
    step.close()
    model.close()
    device.programs.clear()
    del step, model, device
    gc.collect()
    return {
        "compiles": inside.count("compiles"),
        "brought": inside.count("brought"),
        "budget": used,
        "found": found,
        "result": [losses, text, trained.hexdigest()],
        "alive": inside.alive(),
    }


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def main() -> None:
    lines = Lines()
    logging.getLogger("anefast").addHandler(lines)
    json.dump({**run(int(sys.argv[1])), "warnings": lines.lines}, sys.stdout)


if __name__ == "__main__":
    main()
