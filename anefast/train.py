"""`python -m anefast.train [run.toml] [flags]`, and `fit` for notebooks: the loop as a story.

Read it from the top: where the run lives, what is trained, the loop, what is said at the end.
What a training step does inside is runtime/step.py; settings are config.py; files are checkpoint.py
and telemetry.py.

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
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from anefast import checkpoint
from anefast.cli import Failure, describe_origins, guarded, run_of, train_config
from anefast.config import ConfigError, ModelConfig, TrainConfig, flatten, to_settings
from anefast.data import Batches, Order, TokenData, open_data
from anefast.optim import AdamW, LossScale, learning_rate
from anefast.restart import restart, restarts
from anefast.telemetry import (
    METRICS,
    TIMINGS,
    RunFolder,
    environment,
    peak_memory_bytes,
    read_config,
    read_rows,
    write_atomic,
)
from anefast.tokenizer import Tokenizer, open_tokenizer

if TYPE_CHECKING:
    from anefast.model import Model
    from anefast.runtime import Device, TrainingStep

log = logging.getLogger("anefast")

Row = dict[str, Any]
Say = Callable[[str], None]
Restart = Callable[[Path], NoReturn]  # goes on with the run in a new process
HOPELESS_OVERFLOWS = 30  # this many in a row halve any loss scale to nothing: it is not the scale


@dataclass
class FitResult:
    """What a run gave. `losses` has one value per update, those before a resumption included."""

    losses: list[
        float
    ]  # token-weighted mean training loss, nats per token; nan where it overflowed
    val_losses: list[tuple[int, float]]  # (update, validation loss); update 0 is before training
    model: Model
    run_dir: Path
    floor: float | None = None  # nats per token that no model beats on average, where that is known
    tokens_per_second: float = 0.0
    interrupted: bool = False  # stopped by a signal; resuming the run goes on bit for bit
    sample: str = ""


@dataclass
class Progress:
    """How far a run is: what a checkpoint needs besides arrays, optimiser and loss scale."""

    step: int = 0  # updates made or skipped
    micro: int = 0  # micro-steps of the next update already in the gradients
    tokens: int = 0  # trained on, whole updates only
    loss_sum: float = 0.0  # of the tokens of the unfinished update, nats
    loss_tokens: int = 0
    first_val: float = math.nan
    last_val: float = math.nan
    best_val: float = math.inf
    fingerprint: str = ""  # of the data


def fit(
    config: TrainConfig,
    *,
    model: Model | None = None,
    data: TokenData | None = None,
    device: Device | None = None,
    on_step: Callable[[Row], None] | None = None,
    show: Say | None = None,
    bar: bool = False,
    restart: Restart | None = None,
) -> FitResult:
    """Trains, and leaves a run folder behind.

    model, data, device: used in place of what `config` describes; a model brings its own shape and
    tokenizer. on_step: called with the metrics row after every update. show: takes each line of
    progress (default: the "anefast" logger). bar: draw a progress bar on stderr. SIGINT or SIGTERM
    stop at the next micro-step with a checkpoint (compiling async: at the next one that no stale
    programs run); a second one raises KeyboardInterrupt. restart: how to replace the process when
    it has used up its compiles; without one, a run that would need it is refused. What the caller
    can put right is a ValueError in one line.
    """
    say = show or log.info
    # 1) where the run lives; nobody else writes there until we are done
    resumed = checkpoint.find_checkpoint(config.resume) if config.resume else None
    out = run_of(Path(config.resume)) if resumed else Path(config.out or _new_run_name(config))
    run = RunFolder(out, resume=resumed is not None)
    try:
        # 2) what is trained, on what
        config, model, data = _open(config, model, data, resumed)
        _batches(config, data)  # too little data is said before anything is compiled
        if device is None:
            from anefast.runtime import Device

            device = Device(config.device, cache_bytes=config.cache_mb << 20)
        config = _with_plan(config, model, device, say)
        step = model.training_step(
            device=device, batch=config.data.batch, seq=config.data.seq_len, plan=config.plan,
            swap_at=_swap_at(config), load=resumed is None,
        )  # fmt: skip
        with step.compiler.budget.guard(config.max_compiles, say):
            try:
                trainer = _Trainer(config, run, model, data, step, say, on_step)
                trainer.begin(resumed, can_restart=restart is not None)
                # 3) train
                with _stopping() as stop:
                    trainer.train(stop, bar)
                interrupted = trainer.progress.step < config.steps
            finally:
                step.close()
            # 4) say how it went
            if not (interrupted and trainer.out_of_compiles and not stop.requested):
                return _finish(trainer, interrupted, device)
    finally:
        run.close()
    # 5) or go on where compiles are counted from 0 again
    assert restart is not None  # see _check_budget
    say(f"{config.max_compiles} compiles are used up; a new process goes on from {trainer.saved}")
    restart(out)


class _Trainer:
    """The objects of one run while it lasts."""

    def __init__(
        self,
        config: TrainConfig,
        run: RunFolder,
        model: Model,
        data: TokenData,
        step: TrainingStep,
        say: Say,
        on_step: Callable[[Row], None] | None,
    ) -> None:
        self.config, self.run, self.model, self.data, self.step = config, run, model, data, step
        self.say, self.on_step = say, on_step
        c = config.data
        self.batches = _batches(config, data)
        self.validation = list(data.validation_batches(c.batch, c.seq_len, config.eval_batches))
        self.optimizer = AdamW(step.params, config.optim)
        self.scale = LossScale(config.loss_scale)
        self.progress = Progress(fingerprint=data.fingerprint)
        self.overflows = 0  # in a row
        self.saved: Path | None = None
        self.out_of_compiles = False  # going on is another process's business
        self.seconds, self.trained = 0.0, 0  # in this session

    def begin(self, resumed: Path | None, can_restart: bool = False) -> None:
        """Restores a checkpoint if there is one, notes what this run is, measures the start."""
        checkpoint.sweep(self.run.path)
        if resumed is not None:
            self._restore(resumed)
        device = self.step.device
        seen = environment(
            sys.argv, device=device.description, label=device.label, restarts=restarts()
        )
        self.run.begin(self.config, seen)
        self.run.open_logs(self.progress.step)
        self.say(f"device: {device.description}; programs are {device.label}")
        self.say(f"data: {self.data.description}; {len(self.data.train):,} tokens to train on")
        self.say(f"model: {_count(self.step.params):,} weights; run folder {self.run.path}")
        optim = self.config.optim
        if optim.scale_lr_with_accumulation:
            self.say(f"lr {optim.lr:g} x accumulation {optim.accumulation} = {optim.peak_lr:g}")
        if resumed is not None:
            self.say(f"resumed from {resumed} at update {self.progress.step}")
        else:
            self._log({"step": 0, "tokens": 0, "val/loss": self.evaluate()}, {"step": 0})
            self.progress.first_val = self.progress.last_val
            self.say(f"step 0 val {self.progress.first_val:.4f}")
        self._check_budget(can_restart)

    def train(self, stop: _Stop, bar: bool) -> None:
        """Updates until the last one or until `stop`, which is looked at between micro-steps.

        Nothing stops while the device is an update behind: a checkpoint has the newest weights
        only, and resuming from it would not repeat the micro-steps on the ones before.
        """
        config, p = self.config, self.progress
        accumulation = config.optim.accumulation
        total = config.steps * accumulation
        with tqdm(
            total=total, initial=p.step * accumulation + p.micro, disable=not bar, unit="batch"
        ) as shown:
            while p.step < config.steps:
                began = time.perf_counter()
                while p.micro < accumulation:
                    leaves = stop.requested or self.out_of_compiles
                    if leaves and not self.step.compiler.stale:
                        break
                    x, y = self.batches.batch(p.step * accumulation + p.micro)
                    loss, tokens = self.step.micro_step(x, y, self.scale.value)
                    p.loss_sum += loss
                    p.loss_tokens += tokens
                    p.micro += 1
                    shown.update()
                if p.micro < accumulation:
                    break
                row = self._update()
                seconds = time.perf_counter() - began
                self._after_update(row, seconds, shown, bar)
        if p.step < config.steps:
            self.step.wait()
            self.save()

    def _update(self) -> Row:
        """Turns the accumulated gradients into new weights, or skips them when they overflowed."""
        p, scale = self.progress, self.scale.value
        self.step.wait()
        lr = learning_rate(self.config.optim, p.step + 1, self.config.steps)
        tokens = max(1, p.loss_tokens)
        done = self.optimizer.update(self.step.grads, 1.0 / (scale * tokens), lr)
        if not done.overflow:
            self.step.update_weights()
        self.scale.update(done.overflow)
        self.overflows = self.overflows + 1 if done.overflow else 0
        loss = p.loss_sum / tokens
        self.trained += p.loss_tokens
        p.step, p.micro, p.tokens = p.step + 1, 0, p.tokens + p.loss_tokens
        p.loss_sum, p.loss_tokens = 0.0, 0
        return {
            "step": p.step,
            "tokens": p.tokens,
            "train/loss": loss,
            "lr": lr,
            "grad_norm": done.grad_norm,
            "loss_scale": scale,
            "overflow": done.overflow,
        }

    def _after_update(self, row: Row, seconds: float, shown: Any, bar: bool) -> None:
        """Validation, logging and checkpoint, where they are due."""
        config, step = self.config, self.progress.step
        self.seconds += seconds
        last = step == config.steps
        validates = last or bool(config.eval_every and step % config.eval_every == 0)
        if validates:
            row["val/loss"] = self.evaluate()
        rate = config.optim.accumulation * config.data.batch * config.data.seq_len / seconds
        timing = {"step": step, "time": time.time(), "ms": seconds * 1e3, "tok_per_s": rate}
        timing |= {"peak_mem_mb": peak_memory_bytes() / 2**20, **self.step.compiler.report()}
        self._log(row, timing)
        if row["overflow"]:
            self.say(
                f"step {step} skipped: gradients overflowed, loss scale now {self.scale.value:g}"
            )
        shown.set_postfix_str(f"loss {row['train/loss']:.4f}", refresh=False)
        every = max(1, config.steps // 20)
        if validates or (not bar and (step % every == 0 or step == 1)):
            self.say(_line(row, rate))
        if self.overflows >= HOPELESS_OVERFLOWS:
            raise Failure(
                f"[train] the gradients of {self.overflows} updates in a row were not finite, "
                f"the last at step {step}. Hint: lower optim.lr."
            )
        every = config.checkpoint_every
        if last or (step % every == 0 if every else validates):
            self.save(row.get("val/loss"))
        if self.on_step is not None:
            self.on_step(row)
        if config.on_budget == "checkpoint-restart" and not self.step.compiler.affords():
            self.out_of_compiles = True

    def _check_budget(self, can_restart: bool) -> None:
        """Refuses a run that could not go on where its process has used up its compiles."""
        config, compiler = self.config, self.step.compiler
        left = config.steps - self.progress.step
        if config.on_budget != "checkpoint-restart" or compiler.affords(left):
            return
        from anefast.runtime import CompileBudgetError

        if not can_restart:
            raise CompileBudgetError(
                f"[train] expected {left} updates within max_compiles {config.max_compiles}, but "
                f"each takes {compiler.per_update} compiles and a process that is not the train "
                "command cannot be replaced. Hint: python -m anefast.train, fewer steps, or "
                "on_budget continue."
            )
        if not compiler.affords():
            raise CompileBudgetError(
                f"[train] expected max_compiles of at least {compiler.needs()}, which the start "
                f"and one update take, got {config.max_compiles}. Hint: raise it, or choose a "
                "plan with fewer programs."
            )

    def evaluate(self) -> float:
        """Mean loss over the validation batches, weighted by token, in nats."""
        total, count = 0.0, 0
        for x, y in self.validation:
            loss, tokens = self.step.evaluate(x, y)
            total, count = total + loss, count + tokens
        self.progress.last_val = total / max(1, count)
        return self.progress.last_val

    def save(self, val_loss: float | None = None) -> None:
        """A checkpoint of this moment: weights, moments and what has been accumulated."""
        p, name = self.progress, checkpoint.checkpoint_name
        if self.saved is not None and self.saved.name == name(p.step, p.micro):
            return
        self.step.settle()  # from here on this run is on the newest weights, as a resumed one is
        if best := val_loss is not None and val_loss < p.best_val:
            p.best_val = val_loss if val_loss is not None else p.best_val
        self.run.sync()
        state = {
            **{k: _jsonable(v) for k, v in asdict(p).items()},
            "optimizer_step": self.optimizer.step,
            "loss_scale": self.scale.state(),
            "overflows": self.overflows,
        }
        arrays = self._optimizer_arrays(with_grads=p.micro > 0)
        self.saved = checkpoint.save(
            self.run.path, self.model.config, self.step.params, arrays, state, self.model.tokenizer
        )
        if best:
            checkpoint.mark_best(self.run.path, self.saved, p.best_val)
        checkpoint.prune(self.run.path, self.config.keep_last)

    def _restore(self, folder: Path) -> None:
        """The inverse of `save`, into the arrays that the step and the optimiser already have."""
        state = checkpoint.load_state(folder)
        try:
            known = {k: state[k] for k in asdict(self.progress)}
            p = Progress(**{k: _number(k, v) for k, v in known.items()})
            self.optimizer.step = int(state["optimizer_step"])
            self.scale.restore(state["loss_scale"])
            self.overflows = int(state["overflows"])
        except (KeyError, TypeError, ValueError):
            raise checkpoint.CheckpointError(
                f"[checkpoint] {folder}/state.json does not hold a training run."
            ) from None
        if p.fingerprint != self.progress.fingerprint:
            raise ConfigError(
                f"[train] the data is not what {folder} was trained on. "
                "Hint: resume with the same files, or start a new run with --init."
            )
        targets = self._optimizer_arrays(with_grads=p.micro > 0)
        for path, arrays in (
            (folder / checkpoint.MODEL, dict(self.step.params)),
            (folder / checkpoint.OPTIM, targets),
        ):
            shapes = {name: a.shape for name, a in arrays.items()}
            for name, value in checkpoint.read_tensors(path, shapes).items():
                arrays[name][...] = value
        self.step.update_weights()
        self.progress, self.saved = p, folder

    def _optimizer_arrays(self, with_grads: bool) -> dict[str, npt.NDArray[np.float32]]:
        groups = {"mean": self.optimizer.mean, "square": self.optimizer.square}
        if with_grads:
            groups["grad"] = self.step.grads
        return {f"{g}.{name}": a for g, arrays in groups.items() for name, a in arrays.items()}

    def _log(self, row: Row, timing: Row) -> None:
        self.run.log(row, timing)


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


def _with_plan(config: TrainConfig, model: Model, device: Device, say: Say) -> TrainConfig:
    """The config with what `auto` stands for on this device, which is what the run records."""
    from anefast.runtime import resolve

    c, n = config.data, config.optim.accumulation
    plan, why = resolve(config.plan, model.config, device, c.batch, c.seq_len, n)
    if why:
        say(f"plan {config.plan} -> {plan}: {why}")
    return config.replace(plan=plan)


def _batches(config: TrainConfig, data: TokenData) -> Batches:
    c = config.data
    order: Order = "sequential" if c.order == "sequential" else "shuffled"
    return data.batches(c.batch, c.seq_len, c.seed, order)


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


def _finish(trainer: _Trainer, interrupted: bool, device: Device) -> FitResult:
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
    if interrupted:
        say(f"stopped at update {p.step} of {config.steps}; saved {trainer.saved}")
        say(f"continue with: python -m anefast.train --resume {run}")
        return result
    floor = f" (floor {result.floor:.4f})" if result.floor is not None else ""
    say(f"validation loss {p.first_val:.4f} -> {p.last_val:.4f} nats per token{floor}")
    if trainer.seconds:
        say(
            f"{result.tokens_per_second:,.0f} tokens/s over {trainer.trained:,} tokens "
            f"({trainer.step.device.label} on {trainer.step.device.description})"
        )
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


class _Stop:
    """Set by the first signal; the second one raises KeyboardInterrupt from wherever we are."""

    requested = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


@contextlib.contextmanager
def _stopping() -> Iterator[_Stop]:
    stop = _Stop()
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


def _line(row: Row, rate: float) -> str:
    val = f" val {row['val/loss']:.4f}" if "val/loss" in row else ""
    return (
        f"step {row['step']} loss {row['train/loss']:.4f}{val} lr {row['lr']:.1e} "
        f"norm {row['grad_norm']:.2f} tok/s {rate / 1e3:.1f}k"
    )


def _count(params: Mapping[str, npt.NDArray[np.float32]]) -> int:
    return sum(p.size for p in params.values())


def _float(value: float | None) -> float:
    return math.nan if value is None else value


def _jsonable(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(name: str, value: Any) -> Any:
    """`None` stands for the value a field starts with, as JSON has no inf."""
    return getattr(Progress(), name) if value is None else value


def _printer(bar: bool) -> Say:
    """Lines to stdout. A reader that went away (a pipe to head) does not end the training."""

    def say(line: str) -> None:
        try:
            tqdm.write(line, file=sys.stdout) if bar else print(line, flush=True)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    return say


def main(argv: Sequence[str] | None = None, fit: Callable[..., FitResult] = fit) -> None:
    """The command. Exit codes: 0 done or stopped cleanly, 1 failed, 2 bad request, 130 quit."""

    def run() -> None:
        config, origins = train_config(sys.argv[1:] if argv is None else argv)
        bar = sys.stderr.isatty()
        say = _printer(bar)
        for line in describe_origins(config, origins):
            say(line)
        fit(config, show=say, bar=bar, restart=restart)

    sys.exit(guarded(run))


if __name__ == "__main__":
    main()
