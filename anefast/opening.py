"""What a run trains, and on what: all that is settled of it before its first micro-step.

`open_run` is the one place where the config changes: whatever was named is honoured or refused
(wishes.py), what was left open is filled in, and the record that comes back says what runs.
config.toml is written from it. `open_step` then compiles the programs. Where the model and the data
come from is origins.py. Read train.py first.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anefast import checkpoint
from anefast.config import (
    GIVEN,
    ConfigError,
    DataConfig,
    LossScaleConfig,
    OptimConfig,
    ScheduleConfig,
    TrainConfig,
    flatten,
    to_settings,
)
from anefast.data import Batches, ExampleData, Order, TokenData
from anefast.distributed import World, check_ranks, check_world
from anefast.errors import shown
from anefast.forecast import other_batch
from anefast.models import Trained, Vocabulary, matching, shapes
from anefast.models.adapter import Base, fingerprint
from anefast.models.lora import NO_PAIRS, draw, targets_of
from anefast.optim import RECORDS, record_of, settled
from anefast.origins import model_and_data
from anefast.run_state import Say
from anefast.telemetry import arithmetic, read_config
from anefast.tokenizer.chat import Chat
from anefast.wishes import Wishes, meet_device

if TYPE_CHECKING:
    from anefast.model import Model
    from anefast.runtime import Device, TrainingStep


Ends = Collection[int]


@dataclass(frozen=True)
class Opened:
    """What was settled of a run."""

    config: TrainConfig
    model: Model
    data: TokenData
    batches: Batches
    device: Device
    plans: list[str]  # the one to compile, and those to fall back to where it is refused
    fresh: bool  # whether the programs begin with the model's weights, not with a checkpoint's


def open_run(
    config: TrainConfig,
    model: Model | None,
    data: TokenData | None,
    device: Device | None,
    wishes: Wishes,
    run: Path | None,
    resumed: Path | None,
    world: World,
    say: Say,
) -> Opened:
    """All that is settled before anything is compiled. ConfigError, and the errors of files.

    model, data, device: used in place of what `config` describes. run: the folder of the run that
    goes on, and resumed its checkpoint; None for a new run, and where it has no checkpoint yet.
    """
    from anefast.runtime import Device as OwnDevice

    if device is None:
        device = OwnDevice(config.device, cache_bytes=config.cache_mb << 20, chip=config.chip)
    before = read_config(run).get("optim", {}) if run is not None else None
    optim = with_optimiser(config, wishes, say, before, world.size)
    schedule = with_schedule(config.schedule, config.steps, resumed)
    config = config.replace(optim=optim, schedule=schedule)
    config, model, data = model_and_data(config, model, data, resumed, wishes, run)
    batches = batches_of(config.data, data)  # too little data is an error before a compile
    if config.sample_tokens and config.prompt:
        check_prompt(config.prompt, model, data)
    if isinstance(device, OwnDevice):  # a caller's stand-in for one has no name
        asked = {n: getattr(config, n) for n in ("device", "chip", "cache_mb")}
        meet_device(asked, device, wishes)
        config = config.replace(device=device.name, chip=device.profile)
    config = config.replace(optim=with_lora(config, model, resumed, wishes, say))
    if config.init and run is None:
        scale = with_stream(config.loss_scale, model, data, wishes, say)
        config = config.replace(model=model.config, loss_scale=scale)
    kind = arithmetic(device.description)
    check_ranks(world, to_settings(config), data.fingerprint, model.params, kind)
    plans = plans_of(config, model, device, say)
    if config.data.compact_vocab:
        model.vocabulary = vocabulary_of(model, data, say)
    else:
        model.vocabulary = None
    return Opened(config, model, data, batches, device, plans, resumed is None)


def open_step(opened: Opened, world: World) -> tuple[Opened, TrainingStep]:
    """The training step under the first plan that the device takes, and the record with that plan,
    which the run keeps."""
    from anefast.runtime.taken import first_taken

    config, model = opened.config, opened.model
    optim = config.optim
    # gradients are used where they are made where no rank and no meeting asks for them
    alone = world.size == 1 and config.dist.local_steps == 1
    flows = alone and optim.flows and record_of(optim).flows

    def make(plan: str) -> TrainingStep:
        return model.training_step(
            device=opened.device, batch=config.data.batch, seq=config.data.seq_len, plan=plan,
            swap_at=config.swap_at(1), load=opened.fresh, vocabulary=model.vocabulary,
            flows=flows, trained=trained_of(config.train, model),
        )  # fmt: skip

    plan, step = first_taken(opened.plans, make)
    check_world(world, plan, config.swap_after, config.on_budget)
    world.same({"plan": plan})
    return replace(opened, config=config.replace(plan=plan)), step


def sample_prompt(prompt: str, model: Model, data: TokenData) -> tuple[list[int], Ends]:
    """The prompt of the closing sample, and what besides BOS and EOS ends it.

    After training on answers it is one more: to the prompt, or where none is named to that of the
    first example held out.
    """
    if not isinstance(data, ExampleData):
        return model.prompt_ids(prompt), ()
    chat = Chat.of(model.tokenizer)
    ends = chat.ends if chat else ()
    if not prompt:
        return data.validation.question(0), ends
    written = chat.prompt(prompt) if chat and data.chats else None
    return written or model.prompt_ids(prompt), ends


def check_prompt(prompt: str, model: Model, data: TokenData) -> None:
    """Refuses a prompt that the closing sample could not begin with, while nothing is lost."""
    needed = len(sample_prompt(prompt, model, data)[0])
    if needed > model.config.max_seq_len:
        raise ConfigError(
            f"[train] expected a prompt of at most {model.config.max_seq_len} tokens for the "
            f"closing sample, got {needed}. Hint: shorten it, or raise model.max_seq_len."
        )


def with_optimiser(
    config: TrainConfig,
    wishes: Wishes,
    say: Say,
    before: Mapping[str, Any] | None,
    ranks: int = 1,
) -> OptimConfig:
    """The settings of the optimiser, with its own where they are left to it, and with its rate.

    before: the settings under `optim` that a resumed run had so far; None for a new one. ranks: how
    many train together.
    """
    optim = config.optim
    if optim.fresh and before is None:
        raise ConfigError(
            "[config] optim.fresh lets a resumed run go on with another optimiser, and nothing is "
            "resumed. Hint: leave it out, or name the run with --resume."
        )
    record = record_of(optim)
    was = RECORDS.get((before or {}).get("name", "adamw"), RECORDS["adamw"])
    named = wishes.asked if before else wishes.all
    if "optim.lr" not in named and record.rate != was.rate:
        lr = optim.lr * record.rate / was.rate
        say(
            f"optim.lr {optim.lr:g} -> {lr:g}: a rate of {record.name} is usually "
            f"{record.rate / was.rate:g} x one of {was.name}"
        )
        optim = optim.replace(lr=lr)
    if before is None and "optim.lr" not in named:
        if line := other_batch(config.preset, config.update_tokens * ranks, optim):
            say(line)
    return settled(optim)


def with_schedule(schedule: ScheduleConfig, steps: int, resumed: Path | None) -> ScheduleConfig:
    """The schedule with the update that a cool-down begins behind as a number. ConfigError.

    resumed: the checkpoint to go on from.
    """
    begins = schedule.decay_from
    at = checkpoint.place(resumed.name) if resumed is not None else None
    made = at[0] if at is not None else 0
    if begins == "now":
        if resumed is None:
            raise ConfigError(
                "[config] schedule.decay_from now is for a run that is resumed. "
                "Hint: --resume RUN, or the number of an update."
            )
        return schedule.replace(decay_from=str(made))
    same = resumed is not None and begins == _recorded(resumed, "schedule.decay_from")
    if begins and not same and not made <= int(begins) < steps:
        raise ConfigError(
            f"[config] expected schedule.decay_from from {made}, the updates made, to below steps "
            f"{steps}, got {begins}. Hint: now begins at the checkpoint."
        )
    return schedule


def _recorded(folder: Path, name: str) -> object:
    """A setting from the config.toml of a checkpoint's run."""
    return flatten(read_config(folder.resolve().parent)).get(name)


def with_stream(
    loss: LossScaleConfig, model: Model, data: TokenData, wishes: Wishes, say: Say
) -> LossScaleConfig:
    """Gives the model's config the scale that keeps a trained model's residual stream within fp16.

    Returns the loss scale that goes with it.
    """
    from anefast.runtime.stream import SAMPLE, stream_scale

    own_step = model.params.keys() != shapes(model.config).keys()  # a model of the caller's own
    if own_step or "model.stream_scale" in wishes.asked:
        return loss
    before = model.config.stream_scale
    tokens = data.train.read(0, min(SAMPLE, len(data.train)))
    scale = stream_scale(model.config, model.params, tokens)
    if scale == before:
        return loss
    model.config = model.config.replace(stream_scale=scale)
    line = (
        f"model.stream_scale {before:g} -> {scale:g}, as fp16 ends at 65504: the device keeps the "
        "residual stream smaller, no result changes"
    )
    if "loss_scale.initial" not in wishes.asked:
        # Gradients of the stream are larger by it; below 4 chips lose too many of the weights.
        initial = min(loss.initial, max(4.0, loss.initial * scale / before))
        line += f"; loss_scale.initial {loss.initial:g} -> {initial:g} with it"
        loss = loss.replace(initial=initial)
    say(line)
    return loss


def plans_of(config: TrainConfig, model: Model, device: Device, say: Say) -> list[str]:
    """Resolves `auto` to a plan for this device and its fallbacks; keeps any other plan."""
    from anefast.runtime.auto import candidates

    c = config.data
    n = max(1, round(config.optim.micro_batches.total(config.steps) / config.steps))
    trained, ranks = trained_of(config.train, model), model.lora.ranks if model.lora else NO_PAIRS
    plans, why = candidates(
        config.plan, model.config, device, c.batch, c.seq_len, n, trained, ranks
    )
    if why:
        say(f"plan {config.plan} -> {plans[0]}: {why}")
    return plans


def with_lora(
    config: TrainConfig, model: Model, resumed: Path | None, wishes: Wishes, say: Say
) -> OptimConfig:
    """The model gets the adapter that the run trains: drawn, or as large as the checkpoint's.

    Returns the optimiser's settings with an accumulation of 1 unless another was asked for: an
    update compiles nothing. ConfigError, and AdapterError where the base is not the checkpoint's.
    """
    lora, base, optim = config.lora, config.init, config.optim
    if model.lora is not None and resumed is None:
        raise ConfigError(
            f"[config] expected a model to begin from, got {shown(base)}, an adapter beside one. "
            "Hint: anefast export --merge makes a model of both; a run of an adapter is resumed."
        )
    if not lora.rank:
        return optim
    if resumed is not None:
        adapter = checkpoint.load_adapter(resumed)
        assert adapter is not None  # the run was started with this rank
        model.adapt(adapter)
        return optim
    if not base:
        raise ConfigError(
            f"[config] lora.rank {lora.rank} trains an adapter beside a model, got no model. "
            "Hint: --init names one."
        )
    targets = targets_of(model.config, lora)
    path = "" if base == GIVEN else os.path.abspath(base)
    origin = Base(path, fingerprint(model.params))
    model.adapt(draw(lora.rank, lora.alpha, lora.rslora, targets, origin, config.seed))
    if "optim.accumulation" not in wishes.all and optim.accumulation > 1:
        say(f"optim.accumulation {optim.accumulation} -> 1, as no update compiles anything")
        optim = optim.replace(accumulation=1)
    return optim


def trained_of(patterns: str, model: Model) -> Trained:
    """The names of the parameters that change, None for all. ConfigError."""
    return matching(patterns, model.params, "train") if patterns else None


def vocabulary_of(model: Model, data: TokenData, say: Say) -> Vocabulary:
    """The ids that occur in the data."""
    found = Vocabulary(data.ids(), model.config.vocab_size)
    say(f"data.compact_vocab: {len(found):,} of {found.size:,} token ids occur in the data")
    return found


def batches_of(c: DataConfig, data: TokenData) -> Batches:
    """The micro-batches that a run reads."""
    order: Order = "sequential" if c.order == "sequential" else "shuffled"
    return data.batches(c.batch, c.seq_len, c.seed, order)
