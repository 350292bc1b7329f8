"""`anefast train [run.toml] [flags]`, and `fit` for notebooks: a run as a story.

Read it from the top: where the run lives, what is trained, the training, the closing lines.
What is opened for it is opening.py; the updates themselves are trainer.py; the closing lines are
ending.py; what a training step does inside is runtime/step.py; settings are config/; files are
checkpoint/ and telemetry/.

    >>> from anefast.config import TrainConfig
    >>> from anefast.train import fit
    >>> result = fit(TrainConfig.from_preset("tiny", steps=20))      # doctest: +SKIP
    >>> result.losses[0], result.losses[-1], result.model.generate("Once")   # doctest: +SKIP
"""

from __future__ import annotations

import contextlib
import logging
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
    run_of,
    sweep_of,
    train_config,
)
from anefast.config import ConfigError, TrainConfig
from anefast.data import TokenData
from anefast.distributed import check_local, leave, open_world
from anefast.distributed.folder import run_folder
from anefast.ending import finish
from anefast.errors import Failure
from anefast.errors import shown as visible
from anefast.files import open_new, remove
from anefast.flags import repeated
from anefast.keywords import with_keywords
from anefast.opening import open_run, open_step
from anefast.presets import FINETUNE, default_preset
from anefast.progress import Row
from anefast.restart import pace, restart, restarts, stopped
from anefast.results import FitResult
from anefast.run_state import Say, check_config, where_to_go_on
from anefast.signals import stopping
from anefast.sweep import begin, sweep_in, work
from anefast.telemetry import read_config
from anefast.telemetry.history import SAMPLE
from anefast.telemetry.screen import Direct, Screen, is_terminal, is_watched
from anefast.telemetry.sinks import checked, installed
from anefast.trainer import Trainer
from anefast.wishes import check_pairs, wishes_of

if TYPE_CHECKING:
    from anefast.model import Model
    from anefast.runtime import Device

log = logging.getLogger("anefast")

Restart = Callable[[Path], NoReturn]  # goes on with the run in a new process


def fit(
    config: TrainConfig | str = "",
    *,
    model: Model | None = None,
    data: TokenData | str | Path | None = None,
    device: Device | str | None = None,
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
    describes; a model brings its own shape and tokenizer, data may be a path, device a name.
    on_step: called with the metrics row after every update; what it raises is raised again after a
    checkpoint. show: takes each line of progress (default: the "anefast" logger). bar: draw a
    progress bar on stderr, or on this screen; None draws one in a notebook and on a terminal.
    restart: how to replace the process when it has used up its compiles; without one, a run that
    would need it is refused. asked: settings that somebody named, which are then honoured or
    refused even where they equal the preset's.

    SIGINT, SIGTERM or SIGHUP stop at the next micro-step with a checkpoint (compiling async: at the
    next one that no stale programs run); a second one raises KeyboardInterrupt. SIGUSR1 makes a
    checkpoint there and goes on. What the caller can put right is a ValueError in one line.
    """
    if isinstance(device, str):
        settings, device = {**settings, "device": device}, None
    config, data = _arguments(config, model, data, device, on_step, show)
    config, named = with_keywords(config, settings)
    wishes = wishes_of(config, {*asked, *named})
    check_pairs(config, wishes)
    check_local(config.dist, config.optim)
    world = open_world(config.dist.emulate)
    say = (show or log.info) if world.rank == 0 else _silent
    if world.rank:  # rank 0 speaks and writes for all
        config, on_step, bar = config.replace(sinks="", trace="", sample_tokens=0), None, False
    _check_outputs(config.sinks, config.trace)
    # 1) where the run lives; no other process writes there until we are done
    resumes = config.resume
    out = run_of(Path(resumes)) if resumes else Path(config.out or _new_run_name(config.preset))
    out = Path(world.told(str(out)))
    from anefast.runtime.watchdog import watching

    with ExitStack() as stack:
        run = stack.enter_context(run_folder(out, bool(resumes), world))
        stack.enter_context(watching(config.guard, "Nothing was trained yet."))
        stop = stack.enter_context(stopping())
        found = where_to_go_on(run, resumes, say) if world.rank == 0 else None
        told = world.told(str(found or ""))
        resumed = Path(told) if told else None
        if resumes:
            check_config(out, resumed, config.optim.fresh)
            if resumed is None:
                config = config.replace(resume="", init=read_config(out).get("init", ""))
        # 2) what is trained, on what
        goes_on = out if resumes else None
        opened = open_run(config, model, data, device, wishes, goes_on, resumed, world, say)
        opened, step = open_step(opened, world)
        with step.compiler.budget.guard(config.max_compiles, say):
            trainer = Trainer(opened, run, step, say, on_step, world)
            with trainer.ending():
                stop.saves = True
                trainer.begin(resumed, restart is not None)
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
                return finish(trainer, interrupted, opened.device, stop)
    # 5) or go on where compiles are counted from 0 again
    assert restart is not None  # see _check_budget
    say(f"{config.max_compiles} compiles are used up; a new process goes on from {trainer.saved}")
    if opened.device.foreign:
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
        refuse("fit", "device", device, "a Device or its name", "'host', or Device('host')")
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


def _check_outputs(sinks: str, trace: str) -> None:
    """Checks early what would otherwise be missed until after the first compile."""
    for name in checked(sinks):
        installed(name)
    if trace:
        open_new(trace, "trace", append=True, devices=True).close()  # it stays as it was


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


def _new_run_name(preset: str) -> str:
    """runs/<time>_<preset>, with a number behind when two runs start in one second."""
    name = f"runs/{time.strftime('%Y-%m-%dT%H-%M-%S')}_{preset or 'run'}"
    taken, free = 1, name
    while Path(free).exists():
        taken += 1
        free = f"{name}-{taken}"
    return free


def _silent(line: str) -> None:
    """The `say` of a rank other than 0: prints nothing."""


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
            kind = "sweep" if config.sweep else "seeds"
            name = config.out or f"{_new_run_name(config.preset)}_{kind}"
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
