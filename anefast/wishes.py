"""The laws of settings that somebody names: each is honoured or refused, never dropped.

A fresh run honours every setting. A run that begins from weights (`init`, or a model passed to
`fit`) has their shape and their tokenizer, and a resumed one goes on with the settings it was
started with; LAWS says which of them may still be named. Named is what a flag or a file says, and
what differs from the preset.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from anefast.config import (
    DERIVED,
    GIVEN,
    ConfigError,
    GuardConfig,
    LoraConfig,
    ModelConfig,
    TrainConfig,
    flatten,
    merge,
    model_settings,
    to_settings,
)
from anefast.errors import shown
from anefast.fuse.plan import is_async
from anefast.optim.record import OWN
from anefast.presets import preset_settings
from anefast.tokenizer import ByteTokenizer, Tokenizer, open_tokenizer

if TYPE_CHECKING:
    from anefast.runtime import Device

Fate = Literal["honoured", "same"]  # same: only as it is already; anything else is refused


@dataclass(frozen=True)
class Law:
    """The rule for a setting when a run starts from weights, and when it is resumed."""

    init: Fate = "honoured"
    resume: Fate = "same"


_ANY = Law(resume="honoured")
_FRESH = Law()
_SHAPE = Law(init="same")
LAWS: dict[str, Law] = {
    **dict.fromkeys(
        (
            "steps", "eval_every", "eval_batches", "checkpoint_every", "keep_last", "device",
            "patience",
            "checkpoint_minutes",
            "chip", "plan", "max_compiles", "on_budget", "health_every", "cache_mb", "prompt",
            "sample_tokens", "timeline", "breakdown", "trace", "sinks", "resume", "optim.fresh",
            "schedule.decay_from", "dist.emulate", "dist.shard_optimizer", "optim.ema_eval",
            *(f"guard.{f.name}" for f in fields(GuardConfig)),
        ),
        _ANY,
    ),
    **dict.fromkeys(
        (
            "preset", "seed", "seeds", "sweep", "swap_after", "out", "init", "train",
            "data.source", "data.seq_len", "data.batch", "data.val_fraction", "data.order",
            "data.packing", "data.boundaries",
            "data.compact_vocab", "data.collapse_spaces", "data.seed",
            "schedule.name", "schedule.decay",
            "dist.local_steps", "dist.outer_lr", "dist.outer_momentum",
            "optim.ema_tokens", "optim.name", "optim.momentum", "optim.nesterov", "optim.rules",
            "optim.lr", "optim.beta1", "optim.beta2", "optim.eps", "optim.weight_decay",
            "optim.warmup_steps", "optim.min_lr_ratio", "optim.clip", "optim.accumulation",
            "optim.ramp",
            "optim.scale_lr_with_accumulation",
            *(f"lora.{f.name}" for f in fields(LoraConfig)),
            "loss_scale.initial", "loss_scale.dynamic", "loss_scale.growth_interval",
            "loss_scale.maximum",
            # they change no weight: what fine-tuning to longer texts or other files may want
            "model.max_seq_len", "model.rope_theta", "model.rope_scaling", "model.sliding_window",
            "model.norm_eps", "model.stream_scale",
        ),
        _FRESH,
    ),
    **dict.fromkeys(
        (
            "model.family", "model.attention_bias", "model.mlp_bias",
            "model.dim", "model.n_layers", "model.n_heads", "model.n_kv_heads", "model.head_dim",
            "model.hidden_dim", "model.vocab_size", "model.tied", "model.residual_scale",
            "model.init_std", "data.tokenizer",
        ),
        _SHAPE,
    ),
}  # fmt: skip
RESUMABLE = {name for name, law in LAWS.items() if law.resume == "honoured"}
# What `optim.fresh` lets a resumed run change.
OF_AN_OPTIMISER = {f"optim.{n}" for n in ("name", "lr", "rules", *OWN)}
# In a run's config.toml, but about the session that wrote it: outputs go where a flag says.
_SESSION = ("init", "resume", "out", "trace", "sinks")


def of_a_run(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a resumed run takes from its config.toml."""
    kept = {k: v for k, v in settings.items() if k not in _SESSION}
    optim = kept.get("optim")
    if isinstance(optim, Mapping):
        kept["optim"] = {k: v for k, v in optim.items() if k != "fresh"}
    return kept


def of_another_optimiser(started: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The settings that a run was started with; without those of its optimiser if it changes."""
    optim = started.get("optim", {})
    if not isinstance(optim, Mapping) or name in ("", optim.get("name", "adamw")):
        return dict(started)
    return {**started, "optim": {k: v for k, v in optim.items() if k not in OWN}}


def check_resumed(
    named: Mapping[str, tuple[Any, str]], started: Mapping[str, Any], run: Path, fresh: bool = False
) -> None:
    """ConfigError for a setting that a resumed run cannot have.

    named: by dotted name, the value and where it was named. started: what the run was started with.
    fresh: whether the optimiser may be another one.
    """
    was = flatten(started)
    for name, (value, origin) in named.items():
        if LAWS[name].resume == "honoured" or value == was.get(name):
            continue
        if name in OF_AN_OPTIMISER:
            if fresh:
                continue
            raise ConfigError(
                f"[config] {name} cannot change while a run is resumed: it is "
                f"{shown(was.get(name, 'not set'))}, got {shown(value)}. Hint: --optim.fresh goes "
                "on with it, and states that begin at zero."
            )
        if name == "out":
            if not value or Path(value).resolve() == run.resolve():
                continue
            raise ConfigError(
                f"[config] out {shown(value)} was given, but a resumed run stays in its folder "
                f"{shown(run)}. Hint: leave it out; --init {shown(run)} starts a run elsewhere."
            )
        if name == "init" and origin != "flag":  # a run's own config.toml may name it
            continue
        raise ConfigError(
            f"[config] {name} cannot change while a run is resumed: it is "
            f"{shown(was.get(name, 'not set'))}, got {shown(value)}. "
            "Hint: --init RUN starts a new run from its weights."
        )


class Wishes(NamedTuple):
    """The settings that somebody named: as such (`asked`), and by what they are (`all`)."""

    asked: frozenset[str]  # by a flag, a keyword or a file
    all: frozenset[str]  # these, and all that the preset has not


def wishes_of(config: TrainConfig, asked: Collection[str] = ()) -> Wishes:
    """What counts as named in a config; `asked` was named in words."""
    plain = to_settings(TrainConfig())
    base = flatten(merge(plain, preset_settings(config.preset) if config.preset else {}))
    now = flatten(to_settings(config))
    differs = {name for name, value in now.items() if value != base[name]}
    return Wishes(frozenset(asked), frozenset({*asked, *differs}))


def check_pairs(config: TrainConfig, wishes: Wishes) -> None:
    """ConfigError for a named setting that another one leaves without any effect."""
    names = wishes.asked if config.resume else wishes.all  # a run was asked for before
    for name in sorted(n for n in names if n.startswith("lora.") and not config.lora.rank):
        raise ConfigError(
            f"[config] {name} needs an adapter, and lora.rank 0 makes none. Hint: --lora.rank 8."
        )
    for name, useless, why, hint in (
        (
            "prompt",
            config.prompt and not config.sample_tokens,
            "begins the closing sample, and sample_tokens 0 makes none",
            "leave out the prompt, or raise sample_tokens",
        ),
        (
            "breakdown",
            config.breakdown and not config.timeline,
            "prints what the timeline records, which is turned off",
            "leave the timeline on",
        ),
        (
            "swap_after",
            not is_async(config.plan),
            f"is for plans that compile async, and plan {config.plan} does not",
            f"--plan {config.plan},async, or leave it out",
        ),
        (
            "train",
            config.train and config.lora.rank,
            "names parameters of the model, and with an adapter only the adapter trains",
            "choose its matrices with lora.targets and lora.layers",
        ),
        (
            "schedule.decay",
            config.schedule.name != "wsd",
            f"is for wsd, and schedule {config.schedule.name} has no part that cools down",
            "--schedule.name wsd, or --schedule.decay-from N",
        ),
        (
            "optim.min_lr_ratio",
            config.schedule.name in ("constant", "inverse-sqrt") and not config.schedule.decay_from,
            f"is where the rate ends, and schedule {config.schedule.name} does not end there",
            "--schedule.name wsd, or leave it out",
        ),
        *(
            (
                name,
                config.dist.local_steps == 1,
                "is of the step that ranks take when they meet, and dist.local_steps 1 has none",
                "--dist.local-steps 8",
            )
            for name in ("dist.outer_lr", "dist.outer_momentum")
        ),
        (
            "optim.ema_eval",
            config.optim.ema_eval and not config.optim.ema_tokens,
            "evaluates an average of the weights, and optim.ema_tokens 0 keeps none",
            "--optim.ema-tokens 1000000",
        ),
        (
            "optim.scale_lr_with_accumulation",
            config.optim.scale_lr_with_accumulation and config.optim.ramp,
            "multiplies lr by one accumulation, and optim.ramp has several",
            "name the optim.lr that is meant",
        ),
        (
            "trace",
            config.trace and config.on_budget == "checkpoint-restart",
            "is of one process, and on_budget checkpoint-restart may go on in another",
            "leave one of them out",
        ),
    ):
        if useless and name in names:
            raise ConfigError(f"[config] {name} {why}. Hint: {hint}.")


def meet_model(
    asked: ModelConfig, shape: ModelConfig, wishes: Wishes, origin: str, changes: bool = True
) -> ModelConfig:
    """`shape`, which the weights of `origin` have, with what of it `asked` may change.

    ConfigError where a named setting contradicts it. changes: whether anything may be changed; not
    in a model that the caller holds.
    """
    changed: dict[str, Any] = {}
    for name in sorted(wishes.all):
        section, _, field = name.partition(".")
        if section != "model":
            continue
        want, has = getattr(asked, field), getattr(shape, field)
        derived = field in DERIVED and not model_settings(asked)[field]
        if want == has or (derived and name not in wishes.asked):
            continue
        if changes and LAWS[name].init == "honoured":
            changed[field] = want
            continue
        raise ConfigError(
            f"[config] {name} {want} was named, but {shown(origin)} has {has}. "
            "Hint: leave it out; a model that is given keeps its shape."
        )
    return shape.replace(**changed) if changed else shape


def meet_tokenizer(spec: str, own: Tokenizer, wishes: Wishes, origin: str) -> None:
    """ConfigError where `spec`, data.tokenizer, was named and `origin` brings another one."""
    if "data.tokenizer" not in wishes.all or spec in (GIVEN, origin):
        return
    other = None if spec.startswith("bpe") else open_tokenizer(spec)
    if other is None or not same_tokenizer(own, other):
        raise ConfigError(
            f"[config] tokenizer {shown(spec)} was named, but {shown(origin)} brings its own, "
            f"{shown(own.name)}. Hint: leave it out; other pieces need a model of their own."
        )


def same_tokenizer(a: Tokenizer, b: Tokenizer) -> bool:
    """True if two tokenizers are the same: both would be saved as the same bytes."""
    if a is b:
        return True
    if type(a) is not type(b) or a.vocab_size != b.vocab_size:
        return False
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        return a.save(one).read_bytes() == b.save(two).read_bytes()


def recorded_tokenizer(tokenizer: Tokenizer, otherwise: str) -> str:
    """The tokenizer's entry in config.toml where `data.tokenizer` did not name one."""
    return "bytes" if isinstance(tokenizer, ByteTokenizer) else otherwise


def meet_device(asked: Mapping[str, Any], device: Device, wishes: Wishes) -> None:
    """ConfigError where a setting contradicts the device that was passed to `fit`."""
    has = {
        "device": device.name,
        "chip": device.profile,
        "cache_mb": device.programs.limit_bytes >> 20,
    }
    for name, want in asked.items():
        if name in wishes.all and want not in (has[name], "auto"):
            raise ConfigError(
                f"[config] {name} {shown(want)} was named, but the device that was passed has "
                f"{shown(has[name]) or 'none'}. Hint: leave one of them out."
            )
