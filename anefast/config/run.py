"""A run's settings: those at the top, and the sections below them.

Also their other form, nested plain dicts: `to_settings`, `from_settings` and the names of all.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from anefast import spelling
from anefast.checks import Checked, ConfigError, need, need_choice
from anefast.config.limits import need_seed
from anefast.config.model import ModelConfig, model_settings
from anefast.config.nested import flatten, merge
from anefast.config.parts import (
    DataConfig,
    DistConfig,
    GuardConfig,
    LoraConfig,
    LossScaleConfig,
    OptimConfig,
    ScheduleConfig,
)
from anefast.errors import shown
from anefast.presets import preset_settings

# What a run's config.toml says of data, a tokenizer or a model that the caller of `fit` passed.
GIVEN = "given to fit"


@dataclass(frozen=True)
class TrainConfig(Checked):
    """One training run."""

    # Start from a named model and schedule: see presets.py. The command starts from tiny, from
    # bytes where other data than the built-in stories is named, and with --init from finetune; in
    # Python TrainConfig.from_preset takes them. Empty: the defaults below.
    preset: str = ""
    steps: int = 200  # Updates to make.
    eval_every: int = 50  # Updates between validations; 0: only at the start and the end.
    eval_batches: int = 8  # Micro-batches in one validation.
    # Validations in a row without a lower loss after which a run ends early; 0: none.
    patience: int = 0
    checkpoint_every: int = 0  # Updates between checkpoints; 0: whenever it validates.
    # Minutes after which a checkpoint is made besides, between micro-steps; 0: none. The run is the
    # same with and without.
    checkpoint_minutes: float = 10.0
    keep_last: int = 3  # Newest checkpoints to keep; the best one is kept besides.
    seed: int = 0  # Decides the initial weights, and the closing sample.
    # Train so many times, one process after another, with this seed and data.seed and those after
    # them, and compare: mean and band.
    seeds: int = 1
    # A TOML file of settings that runs differ in, one process after another, compared at the end;
    # see docs/sweeps.md.
    sweep: str = ""
    device: str = "auto"  # Where programs run: "auto", "host" or "ane".
    # The host emulates: CHIPS, doctor.json.
    chip: str = ""
    # How the step is cut into programs: unfused, layer, 4, all, auto; see anefast plan.
    plan: str = "auto"
    # With a plan that compiles async: the part of the next accumulation that still runs on the
    # programs of the previous update. It is fixed, so that a run repeats and resumes bit for bit.
    # With 0, programs are swapped as soon as the new ones are ready, and a run does not repeat.
    # A smaller part learns better, a larger one hides a longer compile (compiler.py has numbers).
    swap_after: float = 0.25
    # Compiles that one process may make: some systems were reported to fail after about 119.
    max_compiles: int = 500
    # What to do after max_compiles: "continue" with a warning, or "checkpoint-restart" in a new
    # process.
    on_budget: str = "continue"
    health_every: int = 10  # Updates between checks of numeric health; an overflow always gets one.
    cache_mb: int = 256  # MiB of loaded programs above which idle ones are unloaded.
    out: str = ""  # The run folder; empty: runs/<time>_<preset>.
    # Continue this run or checkpoint, bit for bit, or a sweep; "latest" is the newest run.
    resume: str = ""
    # Start from the weights of a run, a checkpoint, a Hugging Face folder, hf:owner/name, a GGUF
    # file or a llama2.c .bin.
    init: str = ""
    # Train only the parameters that match these patterns, separated by commas, such as layers.5.*
    # or wq; empty: all of them. The rest is frozen.
    train: str = ""
    prompt: str = ""  # Begin the closing sample with this text.
    # Tokens of the closing sample at most; it ends with its document, or with the last sentence
    # that fits into the length that was trained. 0: none.
    sample_tokens: int = 200
    # Measure where the time goes, for timings.jsonl and the last lines; costs less than 1%.
    timeline: bool = True
    breakdown: bool = False  # Print where the time went, component by component, at the end.
    trace: str = ""  # Write a trace for ui.perfetto.dev or chrome://tracing to this file.
    sinks: str = ""  # Also log to "tensorboard", "trackio" or "wandb", separated by commas.
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    loss_scale: LossScaleConfig = field(default_factory=LossScaleConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    dist: DistConfig = field(default_factory=DistConfig)

    def _check(self) -> None:
        for name in ("steps", "eval_batches", "keep_last", "max_compiles", "seeds"):
            value = getattr(self, name)
            need(value >= 1, f"{name} must be at least 1, got {value}", "see --help")
        for name in (
            "eval_every", "checkpoint_every", "checkpoint_minutes", "sample_tokens", "cache_mb",
            "patience",
            "health_every",
        ):  # fmt: skip
            value = getattr(self, name)
            need(value >= 0, f"{name} must not be negative, got {value}", "see --help")
        need_seed("seed", self.seed)
        need_choice("device", self.device, ("auto", "host", "ane"))
        if self.chip:
            _check_chip(self.chip, self.device)
        need_choice("on_budget", self.on_budget, ("continue", "checkpoint-restart"))
        need(
            0 <= self.swap_after <= 1,
            f"swap_after must lie in [0, 1], got {self.swap_after}",
            "0.25 swaps programs after a quarter of the next accumulation",
        )
        if not self.init:  # else the shape is that of the weights, and not known yet
            check_length(self)
        need(
            not (self.resume and self.init),
            "resume and init were both given",
            "resume continues a run with its own weights; init starts a new one",
        )
        self._check_preset()

    def _check_preset(self) -> None:
        """ConfigError if the config names a preset and has none of its settings."""
        need(
            not self.preset or self.has_of(self.preset),
            f"preset {self.preset} is named, but none of its settings is here",
            f"TrainConfig.from_preset({self.preset!r}, ...) takes them",
        )

    def has_of(self, preset: str) -> bool:
        """True if any setting that the preset changes has the preset's value here."""
        mine, plain = flatten(to_settings(self)), flatten(to_settings(TrainConfig()))
        changed = {k: v for k, v in flatten(preset_settings(preset)).items() if v != plain[k]}
        return any(mine[k] == v for k, v in changed.items()) or self.model != ModelConfig()

    @classmethod
    def from_preset(cls, name: str, **changes: Any) -> TrainConfig:
        """The preset `name`, with top-level fields changed. Where none of its settings is left, the
        config has no preset.

        >>> TrainConfig.from_preset("stories260k", steps=10).model.dim
        64
        """
        return from_settings(merge(preset_settings(name), changes)).called(name)

    def called(self, preset: str) -> TrainConfig:
        """This config with the preset's name, if it has any of the preset's settings."""
        named = preset and self.has_of(preset)
        return dataclasses.replace(self, preset=preset) if named else self

    @property
    def update_tokens(self) -> int:
        """Tokens that a rank reads for an update, before any ramp."""
        return self.data.batch * self.data.seq_len * self.optim.accumulation

    def swap_at(self, update: int) -> int | None:
        """At which micro-step of this update's accumulation the programs of new weights take
        over."""
        if self.swap_after == 0:
            return None
        accumulation = self.optim.micro_batches.at(update)
        return min(math.ceil(self.swap_after * accumulation), accumulation - 1)

    def replace(self, **changes: Any) -> TrainConfig:
        """A copy with some fields changed, checked again."""
        need(
            changes.get("preset", self.preset) == self.preset,
            "replace keeps the settings of the preset it has, so preset cannot change",
            "TrainConfig.from_preset starts from another",
        )
        return super().replace(**changes)


def check_length(config: TrainConfig) -> None:
    """ConfigError where the sequences to train on are longer than the model takes."""
    need(
        config.data.seq_len <= config.model.max_seq_len,
        f"data.seq_len {config.data.seq_len} is longer than model.max_seq_len "
        f"{config.model.max_seq_len}",
        "shorten the sequence or raise model.max_seq_len",
    )


def _check_chip(chip: str, device: str) -> None:
    from anefast.chips.behaviour import find_profile

    try:
        find_profile(chip)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    need(
        device != "ane",
        f"chip {chip} was given with device ane",
        "a chip is emulated by the host; without chip the ANE runs the programs",
    )


def to_settings(config: TrainConfig) -> dict[str, Any]:
    """`config` as nested plain dicts; derived sizes are 0, so that an edited file derives them."""
    values = dataclasses.asdict(config)
    values["model"] = model_settings(config.model)
    return values


def from_settings(settings: Mapping[str, Any]) -> TrainConfig:
    """Nested dicts -> a checked TrainConfig. Missing keys keep defaults, unknown ones raise."""
    check_keys(settings)
    values = dict(settings)
    for name, kind in sections().items():
        if name in values and isinstance(values[name], Mapping):
            values[name] = kind(**values[name])
    return TrainConfig(**values)


def sections() -> dict[str, type[Any]]:
    """The nested dataclasses of TrainConfig by field name."""
    hints = typing.get_type_hints(TrainConfig)
    return {k: v for k, v in hints.items() if dataclasses.is_dataclass(v) and isinstance(v, type)}


def keys() -> dict[str, type[Any]]:
    """Every setting by dotted name with its type: 'steps', 'model.n_layers', ..."""
    found: dict[str, type[Any]] = {}
    for name, kind in typing.get_type_hints(TrainConfig).items():
        if dataclasses.is_dataclass(kind):
            found.update({f"{name}.{k}": v for k, v in typing.get_type_hints(kind).items()})
        elif not isinstance(kind, types.GenericAlias):
            found[name] = kind
    return found


def check_keys(settings: Mapping[str, Any], where: str = "") -> None:
    """ConfigError naming the first key that no setting has, with the closest one that exists."""
    known = keys()
    for key in flatten(settings):
        if key not in known:
            source = f" in {where}" if where else ""
            near = spelling.hint(key, known)
            raise ConfigError(f"[config] unknown setting {shown(repr(key))}{source}.{near}")
