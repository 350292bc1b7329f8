"""Opens what a run needs: model, data, tokenizer, device and plan, and what is recorded of
them.

Whatever was named is honoured or refused here (wishes.py), and the config that comes back says what
runs: config.toml is written from it. Read train.py first.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anefast import checkpoint
from anefast.config import (
    GIVEN,
    ROW_MULTIPLE,
    ConfigError,
    DataConfig,
    ModelConfig,
    TrainConfig,
    check_length,
    flatten,
    to_settings,
)
from anefast.data import ExampleData, TokenData, open_data
from anefast.errors import shown
from anefast.forecast import other_batch
from anefast.formats import open_source
from anefast.models import Trained, matching
from anefast.models.adapter import Base, fingerprint
from anefast.models.lora import NO_PAIRS, draw, targets_of
from anefast.optim import RECORDS, record_of, settled
from anefast.run_state import Say
from anefast.telemetry import read_config
from anefast.tokenizer import Tokenizer, open_tokenizer
from anefast.tokenizer.chat import Chat
from anefast.wishes import (
    OF_AN_OPTIMISER,
    RESUMABLE,
    meet_device,
    meet_model,
    meet_tokenizer,
    recorded_tokenizer,
    same_tokenizer,
    wished,
)

if TYPE_CHECKING:
    from anefast.model import Model
    from anefast.models import Vocabulary
    from anefast.runtime import Device


Ends = Collection[int]


log = logging.getLogger("anefast")


def open_run(
    config: TrainConfig,
    model: Model | None,
    data: TokenData | None,
    resumed: Path | None,
    asked: Collection[str],
    run: Path | None = None,
) -> tuple[TrainConfig, Model, TokenData]:
    """The model and the data, and the config with what they are in it.

    resumed: the checkpoint to go on from. run: the run that goes on, also where it has none yet.
    """
    from anefast.model import Model as Opened

    c = config.data
    _check_given(config, model, data, resumed)
    tokenizer: str | Tokenizer = c.tokenizer
    origin, trained = "the model passed to fit", getattr(model, "trained_length", 0)
    if model is None and config.init:
        # a llama2.c file has no tokenizer, so one is named; all others bring their own
        own, origin = _brings_tokenizer(config.init), config.init
        named = "data.tokenizer" in wished(config, asked)
        model = Opened.load(origin, c.tokenizer if named and not own else "")
        if own:
            meet_tokenizer(config, model.tokenizer, asked, origin)
            if c.tokenizer != origin and not named:
                c = c.replace(tokenizer=recorded_tokenizer(model.tokenizer, origin))
        trained = model.trained_length or model.config.max_seq_len
        model.config = meet_model(config, model.config, asked, origin)
    elif model is None and resumed is not None and config.lora.rank:
        model = Opened.load(resumed)
        model.config = config.model.replace(vocab_size=model.config.vocab_size)
    elif model is not None and resumed is None:
        meet_model(config, model.config, asked, origin, changes=False)
        meet_tokenizer(config, model.tokenizer, asked, origin)
        c = c.replace(tokenizer=recorded_tokenizer(model.tokenizer, GIVEN))
        config = config.replace(init=GIVEN)
    brought = model is not None and resumed is None
    if model is not None:
        tokenizer = model.tokenizer
    elif resumed is not None:
        tokenizer = open_tokenizer(resumed)
    if data is None:
        vocabulary = model.config.vocab_size if model is not None else config.model.vocab_size
        data = data_of(c, tokenizer, vocabulary)
    else:
        if not isinstance(tokenizer, str) and not same_tokenizer(tokenizer, data.tokenizer):
            raise ConfigError(
                f"[fit] expected data in the ids of the model's tokenizer, {tokenizer.name}, got "
                f"those of {data.tokenizer.name}. Hint: open_data(source, model.tokenizer)."
            )
        if isinstance(tokenizer, str):
            meet_tokenizer(config, data.tokenizer, asked, "the data passed to fit")
            c = c.replace(tokenizer=recorded_tokenizer(data.tokenizer, GIVEN))
        wishes = wished(config, asked) if resumed is None else set()
        for name in (
            "data.val_fraction", "data.collapse_spaces", "data.packing", "data.boundaries",
        ):  # fmt: skip
            if name in wishes:
                raise ConfigError(
                    f"[fit] {name} was given, but the data that was passed is prepared already. "
                    "Hint: leave it out and pass it to open_data."
                )
        c = c.replace(source=GIVEN)
    shape = model.config if model is not None else _with_vocabulary(config.model, data.tokenizer)
    longest = shape.max_seq_len // ROW_MULTIPLE * ROW_MULTIPLE
    if brought and 0 < longest < c.seq_len and "data.seq_len" not in wished(config, asked):
        log.warning("[train] data.seq_len %d -> %d, the model's longest", c.seq_len, longest)
        c = c.replace(seq_len=longest)
    config = config.replace(model=shape, data=c)
    check_length(config)
    if run is not None:
        config = _check_same(config, run)
    if resumed is not None:
        trained = checkpoint.load_trained_length(resumed)
    if model is None:
        model = Opened.from_config(shape, data.tokenizer, seed=config.seed)
    model.trained_length, model.optim = max(trained, c.seq_len), config.optim
    return config, model, data


def data_of(c: DataConfig, tokenizer: Tokenizer | str, vocabulary: int) -> TokenData:
    """The data that these settings name. vocabulary: ids of the model, 0 where it is not known."""
    return open_data(
        c.source, tokenizer, seed=c.seed, val_fraction=c.val_fraction,
        vocab_size=vocabulary or None, collapse_spaces=c.collapse_spaces, packing=c.packing,
        boundaries=c.boundaries,
    )  # fmt: skip


def _brings_tokenizer(init: str) -> bool:
    """True if what a run begins from has a tokenizer of its own."""
    return bool(init) and (Path(init).is_dir() or open_source(Path(init)) is not None)


def _check_given(
    config: TrainConfig, model: Model | None, data: TokenData | None, resumed: Path | None
) -> None:
    """Refuses settings of a run whose data or model was passed to `fit`, where neither is now."""
    c = config.data
    nameless = c.source == GIVEN
    if c.tokenizer == GIVEN and model is None and resumed is None:
        nameless |= not _brings_tokenizer(config.init)
    for name, missing in (
        ("data", data is None and nameless),
        ("model", model is None and resumed is None and config.init == GIVEN),
    ):
        if missing:
            whose = f"of {shown(resumed.parent)}" if resumed else "of these settings"
            raise ConfigError(
                f"[train] the {name} {whose} was an object passed to fit, which no file holds. "
                f"Hint: pass {name}= to fit again."
            )
    if model is not None and config.init not in ("", GIVEN):
        raise ConfigError(
            f"[fit] init {shown(config.init)} and a model were both given. "
            "Hint: each brings weights; leave one out."
        )


def sample_prompt(config: TrainConfig, model: Model, data: TokenData) -> tuple[list[int], Ends]:
    """The prompt of the closing sample, and what besides BOS and EOS ends it.

    After training on answers it is one more: to the prompt, or where none is named to that of the
    first example held out.
    """
    if not isinstance(data, ExampleData):
        return model.prompt_ids(config.prompt), ()
    chat = Chat.of(model.tokenizer)
    ends = chat.ends if chat else ()
    if not config.prompt:
        return data.validation.question(0), ends
    written = chat.prompt(config.prompt) if chat and data.chats else None
    return written or model.prompt_ids(config.prompt), ends


def check_prompt(config: TrainConfig, model: Model, data: TokenData) -> None:
    """Refuses a prompt that the closing sample could not begin with, while nothing is lost."""
    if not config.sample_tokens or not config.prompt:
        return
    needed = len(sample_prompt(config, model, data)[0])
    if needed > model.config.max_seq_len:
        raise ConfigError(
            f"[train] expected a prompt of at most {model.config.max_seq_len} tokens for the "
            f"closing sample, got {needed}. Hint: shorten it, or raise model.max_seq_len."
        )


def with_device(config: TrainConfig, device: Device, asked: Collection[str]) -> TrainConfig:
    """The config with the device that it runs on, which is what the run records."""
    from anefast.runtime import Device as Opened

    if not isinstance(device, Opened):
        return config
    meet_device(config, device, asked)
    return config.replace(device=device.name, chip=device.profile)


def with_optimiser(
    config: TrainConfig,
    asked: Collection[str],
    say: Say,
    before: Mapping[str, Any] | None,
    ranks: int = 1,
) -> TrainConfig:
    """The config with the settings of its optimiser, where they are left to it, and with its rate.

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
    named = asked if before else wished(config, asked)
    if "optim.lr" not in named and record.rate != was.rate:
        lr = optim.lr * record.rate / was.rate
        say(
            f"optim.lr {optim.lr:g} -> {lr:g}: a rate of {record.name} is usually "
            f"{record.rate / was.rate:g} x one of {was.name}"
        )
        optim = optim.replace(lr=lr)
    if before is None and "optim.lr" not in named:
        if line := other_batch(config, optim, ranks):
            say(line)
    return config.replace(optim=settled(optim))


def with_schedule(config: TrainConfig, resumed: Path | None) -> TrainConfig:
    """The config with the update that a cool-down begins behind as a number. ConfigError.

    resumed: the checkpoint to go on from.
    """
    begins = config.schedule.decay_from
    at = checkpoint.place(resumed.name) if resumed is not None else None
    made = at[0] if at is not None else 0
    if begins == "now":
        if resumed is None:
            raise ConfigError(
                "[config] schedule.decay_from now is for a run that is resumed. "
                "Hint: --resume RUN, or the number of an update."
            )
        return config.replace(schedule=config.schedule.replace(decay_from=str(made)))
    same = resumed is not None and begins == _recorded(resumed, "schedule.decay_from")
    if begins and not same and not made <= int(begins) < config.steps:
        raise ConfigError(
            f"[config] expected schedule.decay_from from {made}, the updates made, to below steps "
            f"{config.steps}, got {begins}. Hint: now begins at the checkpoint."
        )
    return config


def _recorded(folder: Path, name: str) -> object:
    """A setting from the config.toml of a checkpoint's run."""
    return flatten(read_config(folder.resolve().parent)).get(name)


def with_stream(
    config: TrainConfig, model: Model, data: TokenData, asked: Collection[str], say: Say
) -> TrainConfig:
    """The config with the scale that keeps a trained model's residual stream within fp16, which is
    what the run records. The model's config gets it, too."""
    from anefast.models import shapes
    from anefast.runtime.stream import SAMPLE, stream_scale

    own_step = model.params.keys() != shapes(model.config).keys()  # a model of the caller's own
    if own_step or "model.stream_scale" in asked:
        return config
    before, loss = model.config.stream_scale, config.loss_scale
    tokens = data.train.read(0, min(SAMPLE, len(data.train)))
    scale = stream_scale(model.config, model.params, tokens)
    if scale == before:
        return config
    model.config = model.config.replace(stream_scale=scale)
    line = (
        f"model.stream_scale {before:g} -> {scale:g}, as fp16 ends at 65504: the device keeps the "
        "residual stream smaller, no result changes"
    )
    if "loss_scale.initial" not in asked:
        # Gradients of the stream are larger by it; below 4 chips lose too many of the weights.
        initial = min(loss.initial, max(4.0, loss.initial * scale / before))
        line += f"; loss_scale.initial {loss.initial:g} -> {initial:g} with it"
        loss = loss.replace(initial=initial)
    say(line)
    return config.replace(model=model.config, loss_scale=loss)


def plans_of(config: TrainConfig, model: Model, device: Device, say: Say) -> list[str]:
    """Resolves `auto` to a plan for this device and its fallbacks; keeps any other plan."""
    from anefast.runtime.auto import candidates

    c = config.data
    n = max(1, round(config.optim.micro_batches.total(config.steps) / config.steps))
    trained, ranks = trained_of(config, model), model.lora.ranks if model.lora else NO_PAIRS
    plans, why = candidates(
        config.plan, model.config, device, c.batch, c.seq_len, n, trained, ranks
    )
    if why:
        say(f"plan {config.plan} -> {plans[0]}: {why}")
    return plans


def with_lora(
    config: TrainConfig, model: Model, resumed: Path | None, asked: Collection[str], say: Say
) -> TrainConfig:
    """The model gets the adapter that the run trains: drawn, or as large as the checkpoint's. The
    config gets an accumulation of 1 unless another was asked for: an update compiles nothing.

    ConfigError, and AdapterError where the base is not the checkpoint's.
    """
    lora, base = config.lora, config.init
    if model.lora is not None and resumed is None:
        raise ConfigError(
            f"[config] expected a model to begin from, got {shown(base)}, an adapter beside one. "
            "Hint: anefast export --merge makes a model of both; a run of an adapter is resumed."
        )
    if not lora.rank:
        return config
    if resumed is not None:
        adapter = checkpoint.load_adapter(resumed)
        assert adapter is not None  # the run was started with this rank
        model.adapt(adapter)
        return config
    if not base:
        raise ConfigError(
            f"[config] lora.rank {lora.rank} trains an adapter beside a model, got no model. "
            "Hint: --init names one."
        )
    targets = targets_of(model.config, lora)
    path = "" if base == GIVEN else os.path.abspath(base)
    origin = Base(path, fingerprint(model.params))
    model.adapt(draw(lora.rank, lora.alpha, lora.rslora, targets, origin, config.seed))
    if "optim.accumulation" not in wished(config, asked) and config.optim.accumulation > 1:
        say(f"optim.accumulation {config.optim.accumulation} -> 1, as no update compiles anything")
        config = config.replace(optim=config.optim.replace(accumulation=1))
    return config


def trained_of(config: TrainConfig, model: Model) -> Trained:
    """The names of the parameters that change, None for all. ConfigError."""
    return matching(config.train, model.params, "train") if config.train else None


def vocabulary_of(
    config: TrainConfig, model: Model, data: TokenData, say: Say
) -> Vocabulary | None:
    """The ids to train over, None for all of them."""
    if not config.data.compact_vocab:
        return None
    from anefast.models import Vocabulary

    found = Vocabulary(data.ids(), model.config.vocab_size)
    say(f"data.compact_vocab: {len(found):,} of {found.size:,} token ids occur in the data")
    return found


def _with_vocabulary(model: ModelConfig, tokenizer: Tokenizer) -> ModelConfig:
    if model.vocab_size == 0:
        return model.replace(vocab_size=tokenizer.vocab_size)
    if model.vocab_size < tokenizer.vocab_size:
        raise ConfigError(
            f"[config] model.vocab_size expected at least the tokenizer's {tokenizer.vocab_size}, "
            f"got {model.vocab_size}. Hint: 0 takes it from the tokenizer."
        )
    return model


def _check_same(config: TrainConfig, run: Path) -> TrainConfig:
    """Resuming with other settings would not be the same run. Returns what to record."""
    was, now = flatten(read_config(run)), flatten(to_settings(config))
    source = {name: str(was.get(name, now[name])) for name in ("data.source", "data.tokenizer")}
    free = RESUMABLE | {"preset", "init", "out"}
    free |= OF_AN_OPTIMISER if config.optim.fresh else set()
    for name, value in now.items():
        if name in free or was.get(name, value) == value:
            continue
        if name in source and GIVEN in (value, source[name]):
            continue  # the fingerprint says whether it is the same data
        raise ConfigError(
            f"[train] {name} is {shown(value)}, the run in {shown(run)} was started with "
            f"{shown(was[name])}. Hint: keep it, or start a new run with --init."
        )
    from anefast.fuse.plan import is_async, is_auto, multiplies

    before = str(was.get("plan", config.plan))  # any cut gives the same bytes, stale weights do not
    if is_async(before) != is_async(config.plan):
        raise ConfigError(
            f"[train] expected a plan with async as before, or without it as before: the run had "
            f"{before}, got {config.plan}. Hint: keep that word, or start a new run with --init."
        )
    if config.lora.rank and is_auto(config.plan) and "gradients=" not in config.plan:
        config = config.replace(plan=f"{config.plan},gradients={multiplies(before)}")
    if config.lora.rank and multiplies(before) != multiplies(config.plan):
        raise ConfigError(
            f"[train] plan {config.plan} computes gradients on the {multiplies(config.plan)}, the "
            f"run's {before} on the {multiplies(before)}, which round differently. "
            "Hint: keep gradients=, or start a new run with --init."
        )
    names = {name.removeprefix("data."): value for name, value in source.items()}
    return config.replace(data=config.data.replace(**names))
