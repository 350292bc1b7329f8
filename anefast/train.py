"""`anefast train [run.toml] [flags]`, and `fit` for notebooks: a run as a story.

Read it from the top: where the run lives, what is trained, the training, the closing lines.
What is opened for it is opening.py; the updates themselves are trainer.py; what a training step
does inside is runtime/step.py; settings are config/; files are checkpoint.py and telemetry/.

    >>> from anefast.config import TrainConfig
    >>> from anefast.train import fit
    >>> result = fit(TrainConfig.from_preset("tiny", steps=20))      # doctest: +SKIP
    >>> result.losses[0], result.losses[-1], result.model.generate("Once")   # doctest: +SKIP
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from anefast import _C
from anefast.checks import refuse
from anefast.cli import (
    describe_origins,
    guarded,
    named_by,
    newest_run,
    one_line,
    run_of,
    sweep_of,
    train_config,
)
from anefast.config import ConfigError, TrainConfig
from anefast.data import TokenData
from anefast.distributed import World, check_local, check_ranks, check_world, leave, open_world
from anefast.distributed.folder import run_folder
from anefast.errors import Failure
from anefast.errors import shown as visible
from anefast.files import open_new, remove, write_atomic
from anefast.flags import repeated
from anefast.keywords import with_keywords
from anefast.opening import (
    check_prompt,
    open_run,
    plans_of,
    sample_prompt,
    trained_of,
    vocabulary_of,
    with_device,
    with_lora,
    with_optimiser,
    with_schedule,
    with_stream,
)
from anefast.optim import record_of
from anefast.presets import FINETUNE, default_preset
from anefast.progress import Row
from anefast.restart import pace, restart, restarts, stopped
from anefast.results import FitResult
from anefast.run_state import Say, check_config, where_to_go_on
from anefast.sampling import SAMPLE_TEMPERATURE, whole_sentences
from anefast.signals import Stop, stopping
from anefast.sweep import begin, sweep_in, work
from anefast.telemetry import METRICS, TIMINGS, read_config, read_rows
from anefast.telemetry import breakdown as shown
from anefast.telemetry.history import SAMPLE
from anefast.telemetry.screen import Direct, Screen, is_terminal, is_watched
from anefast.telemetry.sinks import checked, installed
from anefast.trainer import Trainer, arithmetic, batches_of, swap_at
from anefast.wishes import check_pairs

if TYPE_CHECKING:
    from anefast.model import Model
    from anefast.runtime import Device, TrainingStep

log = logging.getLogger("anefast")

Restart = Callable[[Path], NoReturn]  # goes on with the run in a new process


def fit(
    config: TrainConfig | str = "",
    *,
    model: Model | None = None,
    data: TokenData | str | Path | None = None,
    device: Device | None = None,
    on_step: Callable[[Row], None] | None = None,
    show: Say | None = None,
    bar: bool | Screen | None = None,
    restart: Restart | None = None,
    asked: Collection[str] = (),
    **settings: Any,
) -> FitResult:
    """Trains, and leaves a run folder behind.

    config: settings, or the name of a preset; where it is empty, the default preset, or `finetune`
    for a model that is passed. settings: single ones by keyword, over those (keywords.py): `steps`,
    `lr`, `batch`, `seq_len`, `accumulation`... model, data, device: used in place of what `config`
    describes; a model brings its own shape and tokenizer, data may be a path. on_step: called with
    the metrics row after every update; what it raises is raised again after a checkpoint. show:
    takes each line of progress (default: the "anefast" logger). bar: draw a progress bar on stderr,
    or on this screen; None draws one in a notebook and on a terminal. restart: how to replace the
    process when it has used up its compiles; without one, a run that would need it is refused.
    asked: settings that somebody named, which are then honoured or refused even where they equal
    the preset's.

    SIGINT, SIGTERM or SIGHUP stop at the next micro-step with a checkpoint (compiling async: at the
    next one that no stale programs run); a second one raises KeyboardInterrupt. SIGUSR1 makes a
    checkpoint there and goes on. What the caller can put right is a ValueError in one line.
    """
    config, data = _arguments(config, model, data, device, on_step, show)
    config, named = with_keywords(config, settings)
    asked = {*asked, *named}
    check_pairs(config, asked)
    check_local(config)
    world = open_world(config.dist.emulate)
    say = (show or log.info) if world.rank == 0 else _silent
    if world.rank:  # rank 0 speaks and writes for all
        config, on_step, bar = config.replace(sinks="", trace="", sample_tokens=0), None, False
    _check_outputs(config)
    # 1) where the run lives; no other process writes there until we are done
    resumes = config.resume
    out = run_of(Path(resumes)) if resumes else Path(config.out or _new_run_name(config))
    out = Path(world.told(str(out)))
    from anefast.runtime.watchdog import watching

    nothing = "Nothing was trained yet."
    with ExitStack() as stack:
        run = stack.enter_context(run_folder(out, bool(resumes), world))
        stack.enter_context(watching(config.guard, nothing))
        stop = stack.enter_context(stopping())
        found = where_to_go_on(run, resumes, say) if world.rank == 0 else None
        told = world.told(str(found or ""))
        resumed = Path(told) if told else None
        if resumes:
            check_config(out, resumed, config.optim.fresh)
            if resumed is None:
                config = config.replace(resume="", init=read_config(out).get("init", ""))
        # 2) what is trained, on what
        if device is None:
            from anefast.runtime import Device

            device = Device(config.device, cache_bytes=config.cache_mb << 20, chip=config.chip)
        taken_up = out if resumes else None
        before = read_config(out).get("optim", {}) if resumes else None
        config = with_optimiser(config, asked, say, before, world.size)
        config = with_schedule(config, resumed)
        config, model, data = open_run(config, model, data, resumed, asked, taken_up)
        batches = batches_of(
            config, data
        )  # too little data is an error before anything is compiled
        check_prompt(config, model, data)
        config = with_device(config, device, asked)
        config = with_lora(config, model, resumed, asked, say)
        if config.init and not resumes:
            config = with_stream(config, model, data, asked, say)
        kind = arithmetic(device.description)
        check_ranks(world, config, data.fingerprint, model.params, kind)
        plans = plans_of(config, model, device, say)
        model.vocabulary = vocabulary_of(config, model, data, say)
        plan, step = _step(config, plans, model, device, load=resumed is None, world=world)
        config = config.replace(plan=plan)
        check_world(config, world)
        world.same({"plan": plan})
        sizes = getattr(device, "surfaces", "exact")  # a caller's stand-in for a device has none
        with step.compiler.budget.guard(config.max_compiles, say):
            trainer = Trainer(config, run, model, data, batches, step, say, on_step, world)
            with _closing(trainer, say):
                stop.saves = True
                trainer.begin(resumed, restart is not None, sizes)
                if not trainer.done:
                    with contextlib.suppress(OSError):  # it is of weights that are to change
                        remove(out / SAMPLE)
                # 3) train
                with _screen(bar) as screen:
                    trainer.train(stop, screen)
                interrupted = not trainer.done
            world.finish()
            # 4) say how it went
            if not (interrupted and trainer.out_of_compiles and not stop.requested):
                return _finish(trainer, interrupted, device, stop)
    # 5) or go on where compiles are counted from 0 again
    assert restart is not None  # see _check_budget
    say(f"{config.max_compiles} compiles are used up; a new process goes on from {trainer.saved}")
    if device.foreign:
        pace(say)
    restart(out)


def _arguments(
    config: Any, model: object, data: Any, device: object, on_step: object, show: object
) -> tuple[TrainConfig, TokenData | None]:
    """The config and the data that the caller of `fit` means. ValueError for other things."""
    if isinstance(config, str):
        config = TrainConfig.from_preset(config or _usual(model, data))
    if not isinstance(config, TrainConfig):
        refuse("fit", "config", config, "a TrainConfig or the name of a preset")
    if config.seeds > 1 or config.sweep:
        what = f"seeds {config.seeds}" if config.seeds > 1 else f"sweep {visible(config.sweep)}"
        raise ConfigError(
            f"[fit] {what} was named, and fit trains one run. Hint: anefast train takes it; in "
            "Python a loop of fit(..., seed=s) does the same."
        )
    if config.resume == "latest":
        config = config.replace(resume=str(newest_run(Path("runs"))))
    if isinstance(model, (str, os.PathLike)):
        hint = "Model.load opens a run or a file; config.init starts from its weights"
        refuse("fit", "model", model, "a Model", hint)
    if model is not None and not hasattr(model, "training_step"):
        refuse("fit", "model", model, "a Model", "Model.load or Model.from_config makes one")
    if device is not None and not hasattr(device, "description"):
        refuse("fit", "device", device, "a Device", "Device('host'), or config.device")
    if isinstance(data, (str, os.PathLike)):
        config = config.replace(data=config.data.replace(source=os.fspath(data)))
        data = None
    elif data is not None and not isinstance(data, TokenData):
        refuse("fit", "data", data, "a TokenData or a path", "anefast.data.open_data makes one")
    for name, call in (("on_step", on_step), ("show", show)):
        if call is not None and not callable(call):
            refuse("fit", name, call, "a function")
    return config, data


def _usual(model: object, data: object) -> str:
    """The preset for what was passed."""
    if model is not None:
        return FINETUNE
    return default_preset("stories" if data is None else str(data))


@contextlib.contextmanager
def _closing(trainer: Trainer, say: Say) -> Iterator[None]:
    """Ends the trainer's programs and times. Once everything is trained, failing at that is no
    failure of the run: it is printed."""
    try:
        yield
    except BaseException:
        trainer.close()
        raise
    try:
        trainer.close()
    except Exception as error:
        say(f"the run is whole, but ending it failed: {_told(error)}")


def _step(
    config: TrainConfig, plans: list[str], model: Model, device: Device, load: bool, world: World
) -> tuple[str, TrainingStep]:
    """The first plan that the device takes, which the run records, and the step under it."""
    from anefast.runtime.taken import first_taken

    def make(plan: str) -> TrainingStep:
        asked = config.replace(plan=plan)
        return model.training_step(
            device=device, batch=config.data.batch, seq=config.data.seq_len, plan=plan,
            swap_at=swap_at(asked, 1), load=load, vocabulary=model.vocabulary,
            flows=_flows(config, world),
            trained=trained_of(config, model),
        )  # fmt: skip

    return first_taken(plans, make)


def _flows(config: TrainConfig, world: World) -> bool:
    """True if gradients are used where they are made: no rank and no meeting asks for them."""
    alone = world.size == 1 and config.dist.local_steps == 1
    return alone and config.optim.flows and record_of(config.optim).flows


def _told(error: Exception) -> str:
    return one_line(error) or f"{type(error).__name__}: {visible(error)}"


def _finish(trainer: Trainer, interrupted: bool, device: Device, stop: Stop) -> FitResult:
    """The closing lines: how far the loss came, how fast, a sample, and where everything is.

    The run is whole by now, so nothing that fails here voids it.
    """
    p, say, run, config = trainer.progress, trainer.say, trainer.run.path, trainer.config
    trainer.run.sync()
    try:
        rows = read_rows(run / METRICS, say)
    except (OSError, ValueError) as error:
        say(f"the losses are left out: {_told(error)}")
        rows = []
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
        say(f"continue with: anefast train --resume {run}")
        return result
    if p.step < config.steps:
        say(
            f"ended at update {p.step} of {config.steps}: {p.waited} validations in a row were not "
            f"below {p.lowest:.4f}. Hint: a larger --patience goes on"
        )
    per_byte = [f"{nats * trainer.bits:.3f}" for nats in (p.first_val, p.last_val)]
    floor = ""
    if result.floor is not None:
        floor = f" (floor {result.floor:.4f})"
        per_byte[1] += f" (floor {result.floor * trainer.bits:.3f})"
    seen = result.val_losses[-1][0] if result.val_losses else p.step
    old = f" at update {seen}, not validated since" if seen != p.step else ""
    say(
        f"validation loss {p.first_val:.4f} -> {p.last_val:.4f} nats per token{old}{floor}, "
        f"{' -> '.join(per_byte)} bits per byte"
    )
    errors = [_float(r["val/error"]) for r in rows if "val/error" in r]
    if errors and math.isfinite(errors[-1]):
        say(f"one standard error of the last: {errors[-1]:.4f} nats per token")
    if skipped := sum(bool(r.get("overflow")) for r in rows):
        updates = "1 update was" if skipped == 1 else f"{skipped} updates were"
        scale = trainer.scale.value
        say(f"{updates} skipped as gradients overflowed; the loss scale is {scale:g} now")
    if trainer.seconds:
        say(f"{result.tokens_per_second:,.0f} tokens/s over {trainer.trained:,} tokens")
        if times["micro_steps"]:
            say(shown.line(times))
    else:
        say(f"nothing to do: the run is at update {p.step}. More updates: --steps N")
    if config.sample_tokens and not stop.requested:
        try:
            result.sample = _closing_sample(trainer, device)
        except Exception as error:
            say(f"there is no closing sample: {_told(error)}")
    say(f"written to {run}: {METRICS}, {TIMINGS}, config.toml, checkpoint {trainer.saved}")
    asks = '--chat --prompt "Hello"' if getattr(trainer.data, "chats", False) else '--prompt "Once"'
    say(f"try: anefast generate {run} {asks}")
    return result


def _closing_sample(trainer: Trainer, device: Device) -> str:
    """A text of the trained model, said and kept: to its end, or in whole sentences as far as the
    length goes that was trained."""
    config, model = trainer.config, trainer.model
    ids, ends = sample_prompt(config, model, trainer.data)
    most = min(config.sample_tokens, max(0, model.trained_length - len(ids)))
    new = list(model.stream(
        tuple(ids), most, temperature=SAMPLE_TEMPERATURE, seed=config.seed, device=device, ends=ends
    ))  # fmt: skip
    text = model.tokenizer.decode([*ids, *new])
    if len(new) == most:
        text = whole_sentences(text)
    trainer.say(f"a sample:\n{text}")
    if most < config.sample_tokens != TrainConfig.sample_tokens:
        trainer.say(f"(it ends after {model.trained_length} tokens, the length that was trained)")
    write_atomic(trainer.run.path / SAMPLE, (text + "\n").encode("utf-8", "replace"))
    return text


def _check_outputs(config: TrainConfig) -> None:
    """Checks early what would otherwise be missed until after the first compile."""
    for name in checked(config.sinks):
        installed(name)
    if config.trace:
        open_new(config.trace, "trace", append=True, devices=True).close()  # it stays as it was


@contextlib.contextmanager
def _screen(bar: bool | Screen | None) -> Iterator[Screen | None]:
    """The screen for the bar: a given one, one made for this run, or none."""
    if isinstance(bar, Screen):
        yield bar
        return
    if bar is None:
        bar = is_watched(sys.stderr)
    if bar:
        with closing(Screen(bar=True)) as screen:
            yield screen
    else:
        yield None


def _new_run_name(config: TrainConfig) -> str:
    """runs/<time>_<preset>, with a number behind when two runs start in one second."""
    name = f"runs/{time.strftime('%Y-%m-%dT%H-%M-%S')}_{config.preset or 'run'}"
    taken, free = 1, name
    while Path(free).exists():
        taken += 1
        free = f"{name}-{taken}"
    return free


def _silent(line: str) -> None:
    """The `say` of a rank other than 0: prints nothing."""


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
        arguments = sys.argv[1:] if argv is None else argv
        if (folder := sweep_of(arguments)) is not None:
            return work(sweep_in(folder))
        config, origins = train_config(arguments)
        if config.seeds > 1 or config.sweep:
            name = config.out or f"{_new_run_name(config)}_{'sweep' if config.sweep else 'seeds'}"
            return work(begin(config, arguments, Path(name)))
        asked = named_by(origins)
        world = open_world(config.dist.emulate)
        with closing(terminal()) as screen:
            tell = _silent if world.rank else screen.say
            for line in [*describe_origins(config, origins), *repeated(arguments)]:
                tell(line)

            def go_on(run: Path) -> NoReturn:
                screen.close()
                restart(run, config.sinks)

            try:
                result = fit(config, show=screen.say, bar=screen, restart=go_on, asked=asked)
            except _C.CompileError as error:
                raise Failure(stopped(error)) if restarts() else error from None
            if config.breakdown:
                tell(result.breakdown)

    code = guarded(run)
    leave(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
