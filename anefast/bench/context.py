"""The context of every table of one run: device, chip, thoroughness, and known values.

A measurement that two tables want is made once. Weights are drawn, not trained: times do not depend
on them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, cached_property, partial
from typing import NamedTuple

import numpy as np

from anefast.bench import clock, predictions, published
from anefast.config import ModelConfig
from anefast.fuse import find_plan
from anefast.models import init_ffn, init_params
from anefast.presets import preset_settings
from anefast.runtime import TrainingStep
from anefast.runtime.device import Device, Half
from anefast.runtime.fused import Fused, fused_ffn, fused_transformer
from anefast.runtime.step import Tokens


class Fusion(NamedTuple):
    """us, us, us, ms, and how many times as long the separate evaluations take, in two ways."""

    one: float
    fused: float
    separate: float
    compile_ms: float
    ratio: float
    cpu_ratio: float  # of CPU time on one thread; nan if it is not judged


class Bench:
    """A run of `anefast.bench`. quick: smaller budgets, and the largest sizes left out.

    judge: also find the ratios that a regression is judged by.
    """

    def __init__(
        self, device: Device, chip: str = published.CHIP, quick: bool = False, judge: bool = False
    ) -> None:
        self.device, self.quick, self.judge = device, quick, judge
        self.machine = predictions.Machine(chip)
        self.budget = 0.4 if quick else 4.0  # s for one race
        self.attempts = 1 if quick else clock.ATTEMPTS
        self.ffn = cache(self._ffn)
        self.transformer = cache(self._transformer)

    @property
    def here(self) -> str:
        return f"{self.device.label} on {self.device.description}"

    def rows(self, table: str) -> list[predictions.Row]:
        """Published rows of this table with the chip's modelled times."""
        return [row for row in self._rows if row.table == table]

    @cached_property
    def _rows(self) -> list[predictions.Row]:
        return predictions.rows(self.machine)

    def config(self, preset: str, **changes: int) -> ModelConfig:
        return ModelConfig(**preset_settings(preset)["model"]).replace(**changes)

    @contextmanager
    def training(
        self, config: ModelConfig, seq: int, plan: str, swap_at: int | None = 1
    ) -> Iterator[tuple[TrainingStep, Tokens, Tokens]]:
        """A training step of one sequence, with tokens and targets."""
        params = init_params(config, 0)
        step = TrainingStep(config, params, self.device, 1, seq, find_plan(plan), swap_at)
        drawn = np.random.default_rng(0).integers(0, config.vocab_size, (1, seq + 1), np.int32)
        try:
            yield step, drawn[:, :-1].copy(), drawn[:, 1:].copy()
        finally:
            step.close()

    def compare(self, fused: Fused, apart: Fused, x: Half) -> tuple[float, float, float, float]:
        """(fused us, apart us, apart / fused by the clock and by CPU time) of two passes, which
        must agree to the byte."""
        if fused(x).tobytes() != apart(x).tobytes():
            raise RuntimeError("[bench] expected the same bytes fused and apart, got others.")
        runs = {"fused": partial(fused, x), "apart": partial(apart, x)}
        times, ratios = clock.race(runs, "fused", self.budget, attempts=self.attempts)
        cpu = clock.cpu_ratios(runs, "fused")["apart"] if self.judge else math.nan
        return 1e6 * times["fused"], 1e6 * times["apart"], ratios["apart"], cpu

    def _ffn(self, f: published.Ffn) -> Fusion:
        params, x = init_ffn(f.dim, f.hidden, 12, 0), signal(f.dim, f.seq)
        size = f.dim, f.hidden
        with (
            fused_ffn(*size, 1, f.seq, params, self.device, "all") as one,
            fused_ffn(*size, 12, f.seq, params, self.device, "all") as fused,
            fused_ffn(*size, 12, f.seq, params, self.device, "layer") as apart,
        ):
            together, separate, *ratios = self.compare(fused, apart, x)
            single = 1e6 * clock.typical(partial(one, x), self.budget / 4)
            return Fusion(single, together, separate, 1e3 * fused.compile_seconds, *ratios)

    def _transformer(self, t: published.Mega) -> Fusion:
        config = self.config(t.preset, n_layers=t.layers)
        params, x = init_params(config, 0), signal(config.dim, t.shape.seq)
        with (
            fused_transformer(config, params, t.shape.seq, self.device, "all") as fused,
            fused_transformer(config, params, t.shape.seq, self.device, "unfused") as apart,
        ):
            together, separate, *ratios = self.compare(fused, apart, x)
            return Fusion(0.0, together, separate, 1e3 * fused.compile_seconds, *ratios)


def nudge(step: TrainingStep) -> None:
    """A change of every weight that trains which fp16 sees, as an update makes one."""
    for value in step.trained.values():
        value.flat[0] += 0.01


def signal(dim: int, seq: int) -> Half:
    """fp16 [1, C, 1, S], normal."""
    return np.random.default_rng(0).standard_normal((1, dim, 1, seq)).astype(np.float16)
