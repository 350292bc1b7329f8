"""The trainer: the updates of one run.

Read train.py first: it opens what this trains, and says how it went. What a checkpoint of it holds
is run_state.py; what a training step does inside is runtime/step.py.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from anefast import _C
from anefast.cli import told
from anefast.config import flatten, to_settings
from anefast.distributed import World
from anefast.errors import AnefastError, Failure
from anefast.forecast import forecast, rate_change, scaled_rate
from anefast.models.weights import shapes_in
from anefast.optim import learning_rate
from anefast.optim.loss_scale import Lost
from anefast.progress import Row, losses, progress_line
from anefast.rescue import Rescue
from anefast.restart import check_budget, restarts
from anefast.run_state import Say
from anefast.score import Ids, Losses, Score, bits_per_byte, scored
from anefast.signals import Stop
from anefast.telemetry import (
    RunFolder,
    arithmetic,
    environment,
    peak_memory_bytes,
    read_config,
)
from anefast.telemetry.history import SUMMARY
from anefast.telemetry.run import ENVIRONMENT
from anefast.telemetry.screen import Screen
from anefast.telemetry.sinks import Sinks
from anefast.telemetry.timeline import Timeline
from anefast.tokenizer.base import Lengths

if TYPE_CHECKING:
    from anefast.opening import Opened
    from anefast.optim.average import Average
    from anefast.runtime import TrainingStep
    from anefast.runtime.canary import Canary

DEVICE_ERRORS = (_C.CompileError, _C.EvaluationError, _C.MILError, _C.AneUnavailable)
HOPELESS_OVERFLOWS = 30  # this many in a row halve any loss scale to nothing: it is not the scale


class Trainer(Rescue):
    """The objects of one run while it lasts."""

    def __init__(
        self,
        opened: Opened,
        run: RunFolder,
        step: TrainingStep,
        say: Say,
        on_step: Callable[[Row], None] | None,
        world: World | None = None,
    ) -> None:
        config, data = opened.config, opened.data
        super().__init__(config, run, opened.model, data, step, say, world)
        self.batches, self.on_step = opened.batches, on_step
        step.say, step.watched = say, bool(config.health_every)
        c = config.data
        self.validation = list(data.validation_batches(c.batch, c.seq_len, config.eval_batches))
        self.lengths = lengths = Lengths(data.tokenizer)
        tokens = sum(int((y >= 0).sum()) for _, y in self.validation)
        # What a nat per token is in bits per byte, at the tokens of the validation batches.
        self.bits = bits_per_byte(tokens, sum(lengths.of(x, y) for x, y in self.validation))
        self.out_of_compiles = False  # going on is another process's business
        self.seconds, self.trained = 0.0, 0  # in this session
        self.timeline = Timeline(config.timeline, config.trace)
        self.advice_given: set[str] = set()  # on numeric health, once each
        self.note = ""  # what the bar says beside its numbers
        self.lost = Lost()
        self.arrival: Row = {}  # how late the slowest rank came to the last update
        self.canary = self._canary()

    def begin(self, resumed: Path | None, can_restart: bool = False) -> None:
        """Restores a checkpoint if there is one, notes what this run is, measures the start."""
        if resumed is not None:
            self.restore(resumed)
        device = self.step.device
        seen = environment(
            sys.argv,
            device=device.description,
            label=device.label,
            surfaces=device.surfaces,
            restarts=restarts(),
            floor=self.data.floor,
        )
        steps = read_config(self.run.path).get("steps", 0) if resumed is not None else 0
        if resumed is not None and not (self.run.path / ENVIRONMENT).exists():
            self.say(f"{self.run.path / ENVIRONMENT} is missing: earlier sessions are not known")
        before = self.run.begin(self.config, seen)
        sinks = Sinks(self.config.sinks, self.run.path, flatten(to_settings(self.config)))
        self.open_logs(resumed, sinks)
        self.timeline.start(self.run.background)
        self.say(f"device: {device.description}; times are {device.label}")
        if line := device.found:
            self.say(line)
        self.say(f"data: {self.data.description}; {self.data.amount}")
        self.say(f"model: {_count(self.model.params):,} weights; run folder {self.run.path}")
        optim = self.config.optim
        if self.world.size > 1:
            made = "one process stands in for" if self.world.shares > 1 else "this is rank 0 of"
            self.say(
                f"dist: {made} {self.world.size} ranks; an update takes {self.world.size} x "
                f"{optim.accumulation} micro-batches"
            )
        for line in filter(None, (self.world.advice, *self.together.about())):
            self.say(line)
        if optim.scale_lr_with_accumulation:
            self.say(scaled_rate(optim))
        if self.progress.step < self.config.steps:
            for line in forecast(self.config, self.batches.epoch, self.world.size):
                self.say(line)
        if resumed is not None:
            self.say(f"resumed from {resumed} at update {self.progress.step}")
            for line in rate_change(self.config, steps, self.progress.step):
                self.say(line)
            if arithmetic(was := before.get("device", "")) not in (
                "",
                arithmetic(device.description),
            ):
                self.say(f"before, its device was {was}: results may differ in the last bits")
        else:
            row = {"step": 0, "tokens": 0, **self.validate()}
            self.run.log(row, {"step": 0})
            self.progress.first_val = self.progress.lowest = self.progress.last_val
            self.say(f"step 0 val {losses(row, 'val')}: nats per token, and bits per byte of text")
            if self.began_with not in (None, self.progress.first_val):
                self.say(
                    f"it was {self.began_with} when the run began before: its data, the weights "
                    "that it begins from, or the device have changed"
                )
        if self.config.on_budget == "checkpoint-restart":
            left = self.config.steps - self.progress.step
            check_budget(self.step.compiler, left, self.config.max_compiles, can_restart)

    def train(self, stop: Stop, screen: Screen | None = None) -> None:
        """Updates until the last one or until `stop`, which is looked at between micro-steps.

        Nothing stops while the device is an update behind: a checkpoint has the newest weights
        only, and resuming from it would not repeat the micro-steps on the ones before. A device
        that fails ends the run with a checkpoint of its last update, and a Failure that says so;
        one that gives wrong values ends it without, for they may be in the weights by now. Whatever
        else ends it, such as a callback that raises, is raised again after a checkpoint.
        """
        from anefast.runtime import watchdog
        from anefast.runtime.canary import WrongValues

        watchdog.rescued_by(self._abandon)
        try:
            if self.unfinished is not None:  # a resumed run makes up for what a failure left out
                self._after_update(self.unfinished, 0.0, 0, screen is not None and screen.has_bar)
            self._train(stop, screen)
        except DEVICE_ERRORS as error:
            raise Failure(f"{error} {self.rescue()}") from error
        except WrongValues as error:
            self.failed = True
            raise Failure(f"{error} {self._last_good()}") from error
        except AnefastError:
            raise  # it says what to do, and where the disk refused, another try would not help
        except BaseException as error:
            if not self.failed:
                self._keep(error)
            raise

    def _train(self, stop: Stop, screen: Screen | None) -> None:
        config, p = self.config, self.progress
        world, ramp = self.world, config.optim.micro_batches
        total = ramp.total(config.steps) * world.shares
        while not self.done:
            accumulation = ramp.at(p.step + 1)
            micros, made = accumulation * world.shares, ramp.total(p.step) * world.shares
            self.step.compiler.swap_at = config.swap_at(p.step + 1)
            before = p.micro  # more than 0 only where a run goes on in the middle of an update
            had = p.tokens + p.loss_tokens
            began = self.timeline.begin_update()
            while p.micro < micros:
                if (p.micro == 0 or world.size == 1) and self._leaves(stop):
                    break
                if screen is not None:
                    screen.show(made + p.micro, total, self.note)
                if p.micro % accumulation == 0:
                    self.together.begin(p.micro // accumulation)
                if p.micro + 1 == micros:
                    self.together.last(f"update {p.step + 1}")
                _C.spans_phase(_C.Phase.FORWARD)
                with _C.Span(_C.Component.DATA):
                    x, y = self.batches.batch(world.batch(p.batches, p.micro, accumulation))
                loss, tokens = self.step.micro_step(x, y, self.scale.value)
                p.loss_sum += loss
                p.loss_tokens += tokens
                p.micro += 1
                if world.ends_share(p.micro, accumulation):
                    self._bank()
                self._watch()
                self.timeline.tick()
            if p.micro < micros:
                break
            row = self._update(stop)
            seconds = (self.timeline.end_update(p.step, micros - before) - began) / 1e9
            if screen is not None:
                screen.show(made + micros, total, self.note)
            self._after_update(row, seconds, p.tokens - had, screen is not None and screen.has_bar)
        if not self.done:
            self.step.wait()
            self.save()

    def _leaves(self, stop: Stop) -> bool:
        """True if training ends before the next micro-step. Where ranks train together they decide
        so together; what was asked for besides, a checkpoint, is done here."""
        if self.step.compiler.stale:
            return False
        leaves, saves, keeps = self.world.agree(
            stop.requested or self.out_of_compiles, self.wants_saving, stop.checkpoint
        )
        if leaves:
            return True
        if keeps:
            self._on_request(stop)
        elif saves:
            self.step.wait()
            self.save()
        return False

    def _bank(self) -> None:
        """Puts an emulated rank's gradients aside, for the next rank begins."""
        p = self.progress
        self.step.end_update()
        self.lost.note(self.step)
        self.together.bank((p.loss_sum, p.loss_tokens))
        p.loss_sum, p.loss_tokens = 0.0, 0
        self.step.begin_update()

    def _reduce(self) -> None:
        """Gradients, losses and tokens become those of all ranks."""
        p = self.progress
        with _C.Span(_C.Component.COMMUNICATION):
            self.arrival = self.together.arrive(f"update {p.step + 1}")
            p.loss_sum, p.loss_tokens = self.together.sum((p.loss_sum, p.loss_tokens))

    def _update(self, stop: Stop) -> Row:
        """Turns the accumulated gradients into new weights, or skips them when they overflowed."""
        p, scale = self.progress, self.scale.value
        _C.spans_phase(_C.Phase.UPDATE)
        self.step.end_update()
        if not self.together.alone:
            self._reduce()
        lr = learning_rate(self.config.optim, p.step + 1, self.config.steps, self.config.schedule)
        tokens = max(1, p.loss_tokens)
        every = self.config.health_every
        if every and (p.step + 1) % every == 0 and not self.health:
            self._look()  # before the weights change
        if self.canary is not None and self._is_due(p.step + 1) and self.step.compiler.settled:
            with _C.Span(_C.Component.HEALTH):
                self.canary.look(self.step.params, p.step + 1)
        with _C.Span(_C.Component.HEALTH):
            self.lost.note(self.step)
        starved, largest = self.lost.of_all(self.world.agree)
        with stop.shielded():
            with _C.Span(_C.Component.OPTIMIZER):
                self.whole = False
                done = self.together.apply(scale, tokens, lr, p.step + 1 == self.config.steps)
            self.step.begin_update()
            if done.overflow and every and not self.health:
                self._look()  # a weight gradient whose operands are finite
            self.scale.update(done.overflow, starved, largest)
            self.overflows = self.overflows + 1 if done.overflow else 0
            loss = p.loss_sum / tokens
            self.note = f"loss {loss:.4f}"
            p.step, p.micro, p.tokens = p.step + 1, 0, p.tokens + p.loss_tokens
            p.batches += self.config.optim.micro_batches.at(p.step) * self.world.size
            p.loss_sum, p.loss_tokens = 0.0, 0
            self.unfinished = {
                "step": p.step,
                "tokens": p.tokens,
                "train/loss": loss,
                "train/bits_per_byte": loss * self.bits,
                "lr": lr,
                "grad_norm": done.grad_norm,
                "loss_scale": scale,
                "overflow": done.overflow,
                **self.health,
            }
            self.whole = True
        self.health = {}
        if self.together.changed:  # last, for it may fail, and the update is whole all the same
            self.step.update_weights()
        return self.unfinished

    def _watch(self) -> None:
        """Looks at the first micro-step of an update that overflows, before the next one runs."""
        if not self.config.health_every or self.health:
            return
        with _C.Span(_C.Component.HEALTH):
            overflows = self.step.health.overflows()
        if overflows:
            self._look()

    def _look(self) -> None:
        """Checks the last micro-step's numeric health, for the row, and prints new findings."""
        with _C.Span(_C.Component.HEALTH):
            report = self.step.health.look(self.step.params)
        for finding in report.findings:
            if finding.of_scale and self.scale.config.dynamic:
                continue  # it adapts its scale
            advice = finding.message.partition("Hint: ")[2]
            if advice not in self.advice_given:
                self.advice_given.add(advice)
                self.say(f"health, update {self.progress.step + 1}: {finding.message}")
        self.health = report.row()

    def _after_update(self, row: Row, seconds: float, trained: int, bar: bool) -> None:
        """Validation, logging and checkpoint, where they are due.

        seconds: that the update took; 0 where not known. trained: how many tokens had a loss in
        that time.
        """
        _C.spans_phase(_C.Phase.BETWEEN)
        config, step = self.config, self.progress.step
        self.seconds, self.trained = self.seconds + seconds, self.trained + trained
        last = step == config.steps
        due = self.together.due
        validates = last or bool(config.eval_every and due(step, config.eval_every))
        lowest, waited = self.progress.lowest, self.progress.waited
        if validates:
            row |= self.validate()
            lowest, waited = self.progress.after(row["val/loss"])
            last = last or 0 < config.patience <= waited
        if self.average is not None and (last or (validates and config.optim.ema_eval)):
            row["val/ema"] = self._evaluate_average(self.average)
            self.say(f"step {step} val of the average {row['val/ema']:.4f}")
        timing: Row = {"step": step, "time": time.time()}
        if seconds:
            timing |= {"ms": seconds * 1e3, "tok_per_s": trained / seconds}
        timing |= self.arrival
        timing |= {"peak_mem_mb": peak_memory_bytes() / 2**20, **self.step.report()}
        self.run.log(row, timing, self.timeline.row)
        self.soundness.update(row)
        self.unfinished = None
        self.progress.lowest, self.progress.waited = lowest, waited
        if row["overflow"] and not self.scale.config.dynamic:
            self.say(
                f"step {step} skipped: gradients overflowed at loss scale {self.scale.value:g}"
            )
        if slow := self.step.slowness():
            self.say(slow)
        every = max(1, config.steps // 20)
        if validates or (not bar and (step % every == 0 or step == 1)):
            self.say(progress_line(row, timing.get("tok_per_s")))
        if self.overflows >= HOPELESS_OVERFLOWS:
            raise Failure(
                f"[train] the gradients of {self.overflows} updates in a row were not finite, "
                f"the last at step {step}. Hint: lower optim.lr{self._from_sound()}."
            )
        every = config.checkpoint_every
        if last or (due(step, every) if every else validates):
            self.save(row.get("val/loss"))
        self._tell(row)
        if config.on_budget == "checkpoint-restart" and not self.step.compiler.affords():
            self.out_of_compiles = True

    @property
    def done(self) -> bool:
        """True if the last update is made, or the last one that there was patience for."""
        p, config = self.progress, self.config
        return p.step >= config.steps or 0 < config.patience <= p.waited

    @contextlib.contextmanager
    def ending(self) -> Iterator[None]:
        """Ends its programs and times when the block does. Once everything is trained, failing at
        that is no failure of the run: it is printed."""
        try:
            yield
        except BaseException:
            self.close()
            raise
        try:
            self.close()
        except Exception as error:
            self.say(f"the run is whole, but ending it failed: {told(error)}")

    def close(self) -> None:
        """Ends the timeline, and the programs."""
        from anefast.runtime import watchdog

        try:
            self.timeline.stop(self.run.path / SUMMARY, **self._about())
        finally:
            if watchdog.stuck():  # a device that holds one thread would hold this one too
                watchdog.keep(self.step)
            else:
                # a device that failed once may fail again: the first error is the one to tell
                quiet = contextlib.suppress(*DEVICE_ERRORS)
                with quiet if self.failed else contextlib.nullcontext():
                    self.step.close()

    def _about(self) -> dict[str, Any]:
        """The machine and the shapes, for a summary of times."""
        device, c = self.step.device, self.config
        shape = {"plan": c.plan, "batch": c.data.batch, "seq_len": c.data.seq_len}
        return {"device": device.description, "label": device.label, **shape}

    def validate(self) -> Row:
        """The loss over the validation batches, weighted by token."""
        score = self._validate()
        loss, error = score.per(score.tokens)
        self.progress.last_val = loss
        return {"val/loss": loss, "val/error": error, "val/bits_per_byte": score.bits_per_byte}

    def _evaluate_average(self, average: Average) -> float:
        """The loss in nats per token with the average of the weights."""
        self.whole = False  # nothing may be saved meanwhile
        try:
            with average.in_place():
                self.together.spread()
                self.step.update_weights()
                return self._validate().nats_per_token
        finally:
            self.together.spread()
            self.whole = True
            self.step.update_weights()
            self.step.settle()  # else the next micro-steps would run on the average

    def _validate(self) -> Score:
        before = _C.spans_phase(_C.Phase.VALIDATION)
        score = scored(self.validation, self._losses, self.lengths)
        _C.spans_phase(before)
        return score

    def _losses(self, x: Ids, y: Ids) -> Losses:
        self.step.evaluate(x, y)
        self.timeline.tick()
        return self.step.nll

    def _tell(self, row: Row) -> None:
        """Calls the caller's function; what it raises goes on after a checkpoint."""
        if self.on_step is None:
            return
        try:
            self.on_step(row)
        except BaseException as error:
            self._keep(error)
            raise

    def _on_request(self, stop: Stop) -> None:
        """The checkpoint that SIGUSR1 asks for."""
        stop.checkpoint = False
        self.step.wait()
        self.save()
        self.say(f"checkpoint {self.saved}, as a signal asked; training goes on")

    def _canary(self) -> Canary | None:
        guard = self.config.guard
        if not guard.canary_every or not self.step.device.foreign:
            return None
        from anefast.runtime.canary import Canary

        return Canary(self.step.device, self.step.compiled, guard.canary_tolerance)

    def _is_due(self, step: int) -> bool:
        """True if the canary looks at this update: every so many, and at a session's first."""
        assert self.canary is not None
        return self.canary.looked < 0 or step - self.canary.looked >= self.config.guard.canary_every

    def settle(self) -> None:
        """See RunState; the canary looks at what is about to be saved."""
        super().settle()
        if self.canary is not None and self.canary.looked != self.progress.step:
            self.canary.evaluate(self.step.params, self.progress.step)

    def save(self, val_loss: float | None = None, settles: bool = True) -> None:
        """See RunState; the times so far are written as well."""
        super().save(val_loss, settles)
        self.timeline.report(self.run.path / SUMMARY, **self._about())


def _count(params: Mapping[str, npt.NDArray[np.float32]]) -> int:
    return sum(map(math.prod, shapes_in(params).values()))
