"""`python -m anefast.train [run.toml] [flags]`, and `fit` for notebooks: a run as a story.

Read it from the top: where the run lives, what is trained, the training, what is said at the end.
The updates themselves are trainer.py; what a training step does inside is runtime/step.py; settings
are config.py; files are checkpoint.py and telemetry.py.

    >>> from anefast.config import TrainConfig
    >>> from anefast.train import fit
    >>> result = fit(TrainConfig.from_preset("tiny", steps=20))      # doctest: +SKIP
    >>> result.losses[0], result.losses[-1], result.model.generate("Once")   # doctest: +SKIP
"""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from anefast import checkpoint
from anefast.cli import describe_origins, guarded, run_of, train_config
from anefast.config import ConfigError, ModelConfig, TrainConfig, flatten, to_settings
from anefast.data import TokenData, open_data
from anefast.files import write_atomic
from anefast.progress import Row
from anefast.restart import restart
from anefast.telemetry import (
    METRICS,
    TIMINGS,
    RunFolder,
    read_config,
    read_rows,
)
from anefast.telemetry import breakdown as shown
from anefast.telemetry.screen import Direct, Screen, is_terminal
from anefast.telemetry.sinks import checked, installed
from anefast.tokenizer import Tokenizer, open_tokenizer
from anefast.trainer import Say, Stop, Trainer, batches_of

if TYPE_CHECKING:
    from anefast.model import Model
    from anefast.nn import Vocabulary
    from anefast.runtime import Device, TrainingStep

log = logging.getLogger("anefast")

Restart = Callable[[Path], NoReturn]  # goes on with the run in a new process


@dataclass
class FitResult:
    """What a run gave. `losses` has one value per update, those before a resumption included."""

    losses: list[float]  # token-weighted mean training loss, nats per token; nan: overflowed
    val_losses: list[tuple[int, float]]  # (update, validation loss); update 0 is before training
    model: Model
    run_dir: Path
    floor: float | None = None  # nats per token that no model beats on average, where that is known
    tokens_per_second: float = 0.0
    interrupted: bool = False  # stopped by a signal; resuming the run goes on bit for bit
    sample: str = ""
    breakdown: str = ""  # where the time of the session went, as a table


def fit(
    config: TrainConfig,
    *,
    model: Model | None = None,
    data: TokenData | None = None,
    device: Device | None = None,
    on_step: Callable[[Row], None] | None = None,
    show: Say | None = None,
    bar: bool | Screen = False,
    restart: Restart | None = None,
) -> FitResult:
    """Trains, and leaves a run folder behind.

    model, data, device: used in place of what `config` describes; a model brings its own shape and
    tokenizer. on_step: called with the metrics row after every update. show: takes each line of
    progress (default: the "anefast" logger). bar: draw a progress bar on stderr, or on this
    screen. SIGINT or SIGTERM stop at the next micro-step with a checkpoint (compiling async: at the
    next one that no stale programs run); a second one raises KeyboardInterrupt. restart: how to
    replace the process when it has used up its compiles; without one, a run that would need it is
    refused. What the caller can put right is a ValueError in one line.
    """
    say = show or log.info
    _check_outputs(config)
    # 1) where the run lives; nobody else writes there until we are done
    resumed = checkpoint.find_checkpoint(config.resume) if config.resume else None
    out = run_of(Path(config.resume)) if resumed else Path(config.out or _new_run_name(config))
    run = RunFolder(out, resume=resumed is not None)
    try:
        # 2) what is trained, on what
        config, model, data = _open(config, model, data, resumed)
        batches_of(config, data)  # too little data is said before anything is compiled
        if device is None:
            from anefast.runtime import Device

            device = Device(config.device, cache_bytes=config.cache_mb << 20, chip=config.chip)
        plans = _plans(config, model, device, say)
        model.vocabulary = _vocabulary(config, model, data, say)
        plan, step = _step(config, plans, model, device, load=resumed is None)
        config = config.replace(plan=plan)
        sizes = getattr(device, "surfaces", "exact")  # a caller's stand-in for a device has none
        with step.compiler.budget.guard(config.max_compiles, say):
            trainer = Trainer(config, run, model, data, step, say, on_step)
            try:
                trainer.begin(resumed, restart is not None, sizes)
                # 3) train
                with _stopping() as stop, _screen(bar) as screen:
                    trainer.train(stop, screen)
                interrupted = trainer.progress.step < config.steps
            finally:
                trainer.close()
            # 4) say how it went
            if not (interrupted and trainer.out_of_compiles and not stop.requested):
                return _finish(trainer, interrupted, device)
    finally:
        run.close()
    # 5) or go on where compiles are counted from 0 again
    assert restart is not None  # see _check_budget
    say(f"{config.max_compiles} compiles are used up; a new process goes on from {trainer.saved}")
    restart(out)


def _open(
    config: TrainConfig, model: Model | None, data: TokenData | None, resumed: Path | None
) -> tuple[TrainConfig, Model, TokenData]:
    """The model and the data, and the config with the model's final shape in it."""
    c = config.data
    tokenizer: str | Tokenizer = c.tokenizer
    if model is None and config.init:
        from anefast.model import Model as Opened

        # a run or a checkpoint brings its tokenizer, a llama2.c file does not
        model = Opened.load(config.init, "" if Path(config.init).is_dir() else c.tokenizer)
    if model is not None:
        tokenizer = model.tokenizer
    elif resumed is not None:
        tokenizer = open_tokenizer(resumed)
    if data is None:
        vocabulary = model.config.vocab_size if model is not None else config.model.vocab_size
        data = open_data(
            c.source, tokenizer, seed=c.seed, val_fraction=c.val_fraction,
            vocab_size=vocabulary or None, collapse_spaces=c.collapse_spaces,
        )  # fmt: skip
    shape = model.config if model is not None else _with_vocabulary(config.model, data.tokenizer)
    config = config.replace(model=shape)
    if resumed is not None:
        _check_same(config, run_of(resumed))
    if model is None:
        from anefast.model import Model as Opened

        model = Opened.from_config(shape, data.tokenizer, seed=config.seed)
    return config, model, data


def _plans(config: TrainConfig, model: Model, device: Device, say: Say) -> list[str]:
    """What `auto` stands for on this device, and what to fall back to; any other plan as it is."""
    from anefast.runtime.auto import candidates

    c, n = config.data, config.optim.accumulation
    plans, why = candidates(config.plan, model.config, device, c.batch, c.seq_len, n)
    if why:
        say(f"plan {config.plan} -> {plans[0]}: {why}")
    return plans


def _step(
    config: TrainConfig, plans: list[str], model: Model, device: Device, load: bool
) -> tuple[str, TrainingStep]:
    """The first plan that the device takes, which the run records, and the step under it."""
    from anefast.runtime.taken import first_taken

    def make(plan: str) -> TrainingStep:
        asked = config.replace(plan=plan)
        return model.training_step(
            device=device, batch=config.data.batch, seq=config.data.seq_len, plan=plan,
            swap_at=_swap_at(asked), load=load, vocabulary=model.vocabulary,
            flows=config.optim.flows,
        )  # fmt: skip

    return first_taken(plans, make)


def _vocabulary(config: TrainConfig, model: Model, data: TokenData, say: Say) -> Vocabulary | None:
    """The ids to train over, None for all of them."""
    if not config.data.compact_vocab:
        return None
    from anefast.nn import Vocabulary

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


def _check_same(config: TrainConfig, run: Path) -> None:
    """Resuming with other settings would not be the same run."""
    from anefast.cli import RESUMABLE

    was, now = flatten(read_config(run)), flatten(to_settings(config))
    for name, value in now.items():
        if name not in RESUMABLE | {"preset", "init"} and was.get(name, value) != value:
            raise ConfigError(
                f"[train] {name} is {value}, the run in {run} was started with {was[name]}. "
                "Hint: keep it, or start a new run with --init."
            )
    from anefast.fuse.plan import is_async

    before = str(was.get("plan", config.plan))  # any cut gives the same bytes, stale weights do not
    if is_async(before) != is_async(config.plan):
        raise ConfigError(
            f"[train] plan {config.plan} compiles another way than the run's {before}. "
            "Hint: keep async or sync, or start a new run with --init."
        )


def _finish(trainer: Trainer, interrupted: bool, device: Device) -> FitResult:
    """The closing lines: how far the loss came, how fast, a sample, and where everything is."""
    p, say, run, config = trainer.progress, trainer.say, trainer.run.path, trainer.config
    trainer.run.sync()
    rows = read_rows(run / METRICS)
    result = FitResult(
        losses=[_float(r["train/loss"]) for r in rows if "train/loss" in r],
        val_losses=[(r["step"], _float(r["val/loss"])) for r in rows if "val/loss" in r],
        model=trainer.model,
        run_dir=run,
        floor=trainer.data.floor,
        tokens_per_second=trainer.trained / trainer.seconds if trainer.seconds else 0.0,
        interrupted=interrupted,
    )
    times = {"label": device.label} | trainer.timeline.summary()
    if times["micro_steps"]:
        result.breakdown = shown.table(times)
    if interrupted:
        say(f"stopped at update {p.step} of {config.steps}; saved {trainer.saved}")
        say(f"continue with: python -m anefast.train --resume {run}")
        return result
    floor = f" (floor {result.floor:.4f})" if result.floor is not None else ""
    say(f"validation loss {p.first_val:.4f} -> {p.last_val:.4f} nats per token{floor}")
    on = trainer.step.device
    if trainer.seconds:
        say(
            f"{result.tokens_per_second:,.0f} tokens/s over {trainer.trained:,} tokens "
            f"({on.description}, {on.label})"
        )
        if times["micro_steps"]:
            say(shown.line(times))
    else:
        say(f"nothing to do: the run is at update {p.step}. More updates: --steps N")
    if config.sample_tokens:
        result.sample = trainer.model.generate(
            config.prompt,
            tokens=config.sample_tokens,
            temperature=0.5,  # a small model's likelier words; generate offers the rest
            seed=config.seed,
            device=device,
        )
        write_atomic(run / "sample.txt", (result.sample + "\n").encode("utf-8", "replace"))
        say(f"a sample:\n{result.sample}")
    say(f"written to {run}: {METRICS}, {TIMINGS}, config.toml, checkpoint {trainer.saved}")
    say(f'try: python -m anefast.generate {run} --prompt "Once"')
    return result


def _check_outputs(config: TrainConfig) -> None:
    """What would otherwise be missed after the first compile."""
    for name in checked(config.sinks):
        installed(name)
    if config.trace:
        open(config.trace, "w").close()


@contextlib.contextmanager
def _screen(bar: bool | Screen) -> Iterator[Screen | None]:
    """Where the bar is drawn: a screen that is there, one made for this run, or none."""
    if not isinstance(bar, bool):
        yield bar
    elif bar:
        with closing(Screen(bar=True)) as screen:
            yield screen
    else:
        yield None


@contextlib.contextmanager
def _stopping() -> Iterator[Stop]:
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # Python delivers signals to the main thread only
        return
    before = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _swap_at(config: TrainConfig) -> int | None:
    """At which micro-step of an accumulation the programs of new weights take over."""
    if config.swap_after == 0:
        return None
    accumulation = config.optim.accumulation
    return min(math.ceil(config.swap_after * accumulation), accumulation - 1)


def _new_run_name(config: TrainConfig) -> str:
    """runs/<time>_<preset>, with a number behind when two runs start in one second."""
    name = f"runs/{time.strftime('%Y-%m-%dT%H-%M-%S')}_{config.preset}"
    taken, free = 1, name
    while Path(free).exists():
        taken += 1
        free = f"{name}-{taken}"
    return free


def _float(value: float | None) -> float:
    return math.nan if value is None else value


def terminal() -> Screen:
    """Standard output for lines and, where it is a terminal, standard error for a bar."""
    sys.stdout.flush()
    out, err = Direct(sys.stdout.fileno()), Direct(sys.stderr.fileno())
    return Screen(is_terminal(sys.stderr), out, err)


def main(argv: Sequence[str] | None = None, fit: Callable[..., FitResult] = fit) -> None:
    """The command. Exit codes: 0 done or stopped cleanly, 1 failed, 2 bad request, 130 quit."""

    def run() -> None:
        config, origins = train_config(sys.argv[1:] if argv is None else argv)
        with closing(terminal()) as screen:
            for line in describe_origins(config, origins):
                screen.say(line)

            def go_on(run: Path) -> NoReturn:
                screen.close()
                restart(run)

            result = fit(config, show=screen.say, bar=screen, restart=go_on)
            if config.breakdown:
                screen.say(result.breakdown)

    sys.exit(guarded(run))


if __name__ == "__main__":
    main()
