"""Where a run's model, tokenizer and data come from: a file, a run, the caller of `fit`, or a draw.

The config that comes back says what they are. Read opening.py first.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

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
from anefast.data import TokenData, open_data
from anefast.errors import shown
from anefast.formats import open_source
from anefast.fuse.plan import is_async, is_auto, multiplies
from anefast.telemetry import read_config
from anefast.tokenizer import Tokenizer, open_tokenizer
from anefast.wishes import (
    OF_AN_OPTIMISER,
    RESUMABLE,
    Wishes,
    meet_model,
    meet_tokenizer,
    recorded_tokenizer,
    same_tokenizer,
)

if TYPE_CHECKING:
    from anefast.model import Model

log = logging.getLogger("anefast")


def model_and_data(
    config: TrainConfig,
    model: Model | None,
    data: TokenData | None,
    resumed: Path | None,
    wishes: Wishes,
    run: Path | None = None,
) -> tuple[TrainConfig, Model, TokenData]:
    """The model and the data, and the config with what they are in it.

    resumed: the checkpoint to go on from. run: the run that goes on, also where it has none yet.
    """
    from anefast.model import Model as Opened

    c = config.data
    _check_given(c, config.init, model, data, resumed)
    tokenizer: str | Tokenizer = c.tokenizer
    origin, trained = "the model passed to fit", getattr(model, "trained_length", 0)
    if model is None and config.init:
        # a llama2.c file has no tokenizer, so one is named; all others bring their own
        own, origin = _brings_tokenizer(config.init), config.init
        named = "data.tokenizer" in wishes.all
        model = Opened.load(origin, c.tokenizer if named and not own else "")
        if own:
            meet_tokenizer(c.tokenizer, model.tokenizer, wishes, origin)
            if c.tokenizer != origin and not named:
                c = c.replace(tokenizer=recorded_tokenizer(model.tokenizer, origin))
        trained = model.trained_length or model.config.max_seq_len
        model.config = meet_model(config.model, model.config, wishes, origin)
    elif model is None and resumed is not None and config.lora.rank:
        model = Opened.load(resumed)
        model.config = config.model.replace(vocab_size=model.config.vocab_size)
    elif model is not None and resumed is None:
        meet_model(config.model, model.config, wishes, origin, changes=False)
        meet_tokenizer(c.tokenizer, model.tokenizer, wishes, origin)
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
            meet_tokenizer(c.tokenizer, data.tokenizer, wishes, "the data passed to fit")
            c = c.replace(tokenizer=recorded_tokenizer(data.tokenizer, GIVEN))
        wished = wishes.all if resumed is None else frozenset()
        for name in (
            "data.val_fraction", "data.collapse_spaces", "data.packing", "data.boundaries",
        ):  # fmt: skip
            if name in wished:
                raise ConfigError(
                    f"[fit] {name} was given, but the data that was passed is prepared already. "
                    "Hint: leave it out and pass it to open_data."
                )
        c = c.replace(source=GIVEN)
    shape = model.config if model is not None else _with_vocabulary(config.model, data.tokenizer)
    longest = shape.max_seq_len // ROW_MULTIPLE * ROW_MULTIPLE
    if brought and 0 < longest < c.seq_len and "data.seq_len" not in wishes.all:
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
    c: DataConfig, init: str, model: Model | None, data: TokenData | None, resumed: Path | None
) -> None:
    """Refuses settings of a run whose data or model was passed to `fit`, where neither is now."""
    nameless = c.source == GIVEN
    if c.tokenizer == GIVEN and model is None and resumed is None:
        nameless |= not _brings_tokenizer(init)
    for name, missing in (
        ("data", data is None and nameless),
        ("model", model is None and resumed is None and init == GIVEN),
    ):
        if missing:
            whose = f"of {shown(resumed.parent)}" if resumed else "of these settings"
            raise ConfigError(
                f"[train] the {name} {whose} was an object passed to fit, which no file holds. "
                f"Hint: pass {name}= to fit again."
            )
    if model is not None and init not in ("", GIVEN):
        raise ConfigError(
            f"[fit] init {shown(init)} and a model were both given. "
            "Hint: each brings weights; leave one out."
        )


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
