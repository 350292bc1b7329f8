"""The state of a run while it lasts: how it is saved and taken up again.

RunState is what a checkpoint holds, as live objects. checkpoint/ is the folder of files, and
trainer.py what moves the state from update to update.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from anefast import _C, checkpoint
from anefast.checkpoint import CheckpointError
from anefast.config import ConfigError, ModelConfig, TrainConfig, flatten, model_settings
from anefast.data import TokenData
from anefast.distributed import Local, Together, World, digest
from anefast.errors import Failure, shown
from anefast.optim import LossScale
from anefast.optim.average import GROUP
from anefast.progress import Progress, Row, finite, with_infinities
from anefast.soundness import Soundness
from anefast.telemetry import METRICS, TIMINGS, RunFolder, read_config, read_rows
from anefast.telemetry.rows import Mark
from anefast.telemetry.run import CONFIG, is_as_written
from anefast.telemetry.sinks import Sinks
from anefast.wishes import OF_AN_OPTIMISER, RESUMABLE

if TYPE_CHECKING:
    from anefast.distributed.shares import Shares
    from anefast.model import Model
    from anefast.runtime import TrainingStep

Arrays = Mapping[str, npt.NDArray[np.float32]]
Shapes = Mapping[str, tuple[int, ...]]
Say = Callable[[str], None]
UNFINISHED = "unfinished"  # in the state of a checkpoint, where a failed device left one: a row
ROWS = "rows"  # the mark of metrics.jsonl in the state, that of timings.jsonl in the session
SETTINGS = "settings"  # in the session: of config.toml
# Of a session, not of a run: they may differ between config.toml and a checkpoint.
OF_A_SESSION = {"out", "resume", "init", "trace"}

clock = time.monotonic  # what checkpoints by minutes go by


def where_to_go_on(run: RunFolder, resume: str, say: Say) -> Path | None:
    """The checkpoint to go on from, None for a new run and for one that was stopped before its
    first. CheckpointError when it is damaged: an older one never takes its place in silence."""
    checkpoint.sweep(run.path)
    if not resume:
        return None
    named = Path(resume)
    if (named / checkpoint.STATE).is_file() or checkpoint.place(named.name):
        found = checkpoint.find_checkpoint(named)
    elif (newest := checkpoint.newest(run.path)) is not None:
        found = newest
        latest = run.path / checkpoint.LATEST
        if latest.is_symlink() and not latest.exists():
            gone = shown(os.readlink(latest))
            say(f"{gone} is gone from {shown(run.path)}: {found.name} is the newest")
    else:
        _check_never_saved(run.path)
        say(f"{shown(run.path)} was stopped before its first checkpoint: it begins again")
        return None
    checkpoint.load_state(found)
    return found


def _check_never_saved(run: Path) -> None:
    """Refuses a run whose checkpoints were removed: to begin it again would drop its rows."""
    for name in (checkpoint.LATEST, checkpoint.BEST):
        if os.path.lexists(run / name):
            raise CheckpointError(
                f"[checkpoint] expected a checkpoint in {shown(run)}, where {name} says that there "
                "was one, got none. Hint: start a new run: "
                f"anefast train {shown(run / CONFIG)} --out ANOTHER_FOLDER"
            )


def check_config(run: Path, folder: Path | None, fresh: bool = False) -> None:
    """Refuses a config.toml that is not as the run wrote it.

    folder: the checkpoint to go on from. A setting that makes another run must be as it was there;
    one that may change in a run changes by a flag, not by an accident of the file. fresh: whether
    the optimiser may be another one.
    """
    written = is_as_written(run)
    if folder is None:
        if not written:
            raise ConfigError(
                f"[train] {shown(run / CONFIG)} may have been edited since the run began, and "
                "there is no checkpoint to compare it with. Hint: start a new run with it: "
                f"anefast train {shown(run / CONFIG)} --out ANOTHER_FOLDER"
            )
        return
    now = flatten(read_config(run))
    for name, value in flatten(checkpoint.load_session(folder).get(SETTINGS, {})).items():
        if name in OF_A_SESSION or now.get(name) == value:
            continue
        free = RESUMABLE | {"preset"} | (OF_AN_OPTIMISER if fresh else set())
        if not written or name not in free:
            raise ConfigError(
                f"[train] expected {name} {shown(value)} in {shown(run / CONFIG)}, as when "
                f"{folder.name} was saved, got {shown(now.get(name, 'nothing'))}. "
                "Hint: put it back; what may change in a run is changed by a flag."
            )


class RunState:
    """Everything of a run that a checkpoint holds."""

    def __init__(
        self,
        config: TrainConfig,
        run: RunFolder,
        model: Model,
        data: TokenData,
        step: TrainingStep,
        say: Say,
        world: World | None = None,
    ) -> None:
        self.world = world or World()
        self.config, self.run, self.model, self.data, self.step = config, run, model, data, step
        self.say = say
        kind = Local if config.dist.local_steps > 1 else Together
        self.together = kind(config, self.world, step)
        self.optimizer, self.average = self.together.optimizer, self.together.average
        self.scale = LossScale(config.loss_scale)
        self.progress = Progress(fingerprint=data.fingerprint, ranks=self.world.size)
        self.overflows = 0  # in a row
        self.health: Row = {}  # what was seen of the next update's, for its row
        # Of an update whose validation, logging and checkpoint are still to come.
        self.unfinished: Row | None = None
        self.saved: Path | None = None
        self.saved_at = clock()
        self.failed = False
        self.whole = True  # False while an update changes weights and moments
        self.soundness = Soundness()
        self.began_with: float | None = None  # validation of a start before this one
        self._marks: dict[str, Mark] | None = None  # of the row files, at the restored checkpoint

    @property
    def wants_saving(self) -> bool:
        """True if the last checkpoint is so long ago that another one should be made.

        It is made between micro-steps, where no stale programs run, and changes nothing in the run.
        """
        minutes = self.config.checkpoint_minutes
        return minutes > 0 and clock() - self.saved_at >= 60 * minutes

    def settle(self) -> None:
        """Brings the device to the newest weights, which are the same on all ranks."""
        self.step.settle()
        if self.world.size > 1:
            self.world.same({"weights": digest(self.together.common(self.step.trained))})

    def save(self, val_loss: float | None = None, settles: bool = True) -> None:
        """A checkpoint of this moment: weights, moments and what has been accumulated.

        settles: first have the device on the newest weights, which are what is saved.
        """
        p = self.progress
        self.saved_at = clock()
        name = checkpoint.checkpoint_name(p.step, p.micro)
        if self.saved is not None and self.saved.name == name:
            return
        if self.optimizer.torn:
            raise Failure(
                f"[train] expected complete weights to save, but update {p.step + 1} was "
                "interrupted midway. Hint: resume from the last checkpoint."
            )
        before = _C.spans_phase(_C.Phase.SAVE)
        if settles:  # from here on this run is on the newest weights, as a resumed one is
            self.settle()
        groups = self._optimizer_groups(with_grads=p.micro > 0)
        others = map(self._named, self.together.others())
        if self.world.rank:
            for _ in others:  # they go to rank 0
                pass
            self.saved = self.run.path / name
            return
        if val_loss is not None and val_loss < p.best_val:
            p.best_val, p.best = val_loss, name
        self.run.sync()
        marks = self.run.marks()
        state = {
            **finite(asdict(p)),
            "optimizer": self.optimizer.record.name,
            "optimizer_step": self.optimizer.step,
            "loss_scale": self.scale.state(),
            "overflows": self.overflows,
            "health": finite(self.health),
            ROWS: marks[METRICS],
        }
        state |= self.together.state()
        state[checkpoint.TRAINED_LENGTH] = self.model.trained_length
        if self.unfinished is not None:
            state[UNFINISHED] = finite(self.unfinished)
        if (vocabulary := self.step.vocabulary) is not None:
            state[checkpoint.VOCABULARY] = vocabulary.text()
        with _C.Span(_C.Component.CHECKPOINT):
            common = self.together.common
            if (lora := self.model.lora) is not None:
                held: Arrays = lora.plain(common(lora.params))
                state[checkpoint.ADAPTER] = lora.settings()
            else:
                held = self._full(common(self.step.params), self.model.params)
            self.saved = checkpoint.save(
                self.run.path, self.model.config, held, self._named(groups), state,
                self.model.tokenizer,
                {ROWS: marks[TIMINGS], SETTINGS: self.run.settings}, others,
            )  # fmt: skip
            if not p.micro:
                self.soundness.saved(name)
            self._tidy()
        self.saved_at = clock()
        _C.spans_phase(before)

    def _tidy(self) -> None:
        """The work after a checkpoint. A failure of it is printed and does not end the run."""
        p = self.progress
        try:
            if p.best:
                checkpoint.mark_best(self.run.path, p.best, p.best_val)
        except ValueError as error:
            self.say(f"{error} The checkpoints say it as well.")
        kept = {p.best, self.soundness.newest}
        refused = checkpoint.prune(self.run.path, self.config.keep_last, kept)
        if refused:
            self.say(f"could not remove {', '.join(refused)}, which are no longer needed")

    def restore(self, folder: Path) -> None:
        """The inverse of `save`, into the arrays that the step and the optimiser already have.

        folder: of a checkpoint that `where_to_go_on` has read.
        """
        state = checkpoint.load_state(folder, files=False)
        session = checkpoint.load_session(folder)
        config = self.config
        try:
            p = Progress.of(state)
            self._take_numbers(state, p)
            ranks = self.together.restore(state)
            if session:
                self._marks = {METRICS: Mark.of(state[ROWS]), TIMINGS: Mark.of(session[ROWS])}
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(
                f"[checkpoint] {shown(folder / checkpoint.STATE)} does not hold a training run: "
                f"{shown(error)}."
            ) from None
        if p.micro >= (most := config.optim.micro_batches.at(p.step + 1)):
            raise ConfigError(
                f"[train] expected optim.accumulation above {p.micro}, because {folder} was saved "
                f"after {p.micro} micro-steps of an update, got {most}. Hint: resume with more."
            )
        if not self.data.matches(p.fingerprint):
            raise ConfigError(
                f"[train] the data is not what {folder} was trained on. "
                "Hint: resume with the same files, or start a new run with --init."
            )
        if "batches" not in state:  # in checkpoints of before, runs had one rank
            p.batches = p.step * config.optim.accumulation
        p.ranks = max(p.ranks, self.world.size)
        p.fingerprint = self.data.fingerprint  # runs of before recorded a sample of the data
        self._check_model(folder, checkpoint.model_of(folder, state))
        lora = self.model.lora
        held = self.model.params if lora is None else lora.plain(lora.params)
        shapes = {name: a.shape for name, a in held.items()}
        for name, value in checkpoint.read_tensors(folder / checkpoint.MODEL, shapes).items():
            held[name][...] = value
        if lora is None:
            self._take(self.step.params, self.model.params)
        self.together.take_common()
        self._take_states(folder, state.get("optimizer", "adamw"), p.micro > 0, ranks)
        self.step.update_weights()
        self._find_best(p)
        if config.steps < p.step:
            raise ConfigError(
                f"[train] expected steps of at least {p.step}, which the run has made, "
                f"got {config.steps}. Hint: --steps counts from the beginning of a run; an "
                "earlier checkpoint of it can be resumed."
            )
        self.progress = p
        self.saved = folder if self.unfinished is None else None  # saved again when it is whole
        self.saved_at = clock()

    def _take_states(self, folder: Path, optimizer: str, with_grads: bool, ranks: int) -> None:
        """The optimiser's states, unless they are to be fresh, and the gradients so far.

        ranks: how many have arrays of their own in the checkpoint. More than those take turns.
        """
        fresh = self.config.optim.fresh
        if not fresh and optimizer != self.optimizer.record.name:
            raise ConfigError(
                f"[train] {shown(folder)} has the states of {shown(optimizer)}, got optim.name "
                f"{self.optimizer.record.name}. Hint: --optim.fresh goes on without them."
            )
        if fresh:
            self.optimizer.step = 0
            self.say(f"optim.fresh: {self.optimizer.record.name} begins with states of zeros")
        self._take_groups(folder / checkpoint.OPTIM, self._own_groups(with_grads), fresh)
        for rank, own in self.together.owners():
            file = checkpoint.rank_file(rank % ranks)
            self._take_groups(folder / file, own, fresh, others=file == checkpoint.OPTIM)

    def _take_groups(
        self, path: Path, groups: Mapping[str, Arrays], fresh: bool, others: bool = False
    ) -> None:
        """Arrays of a checkpoint's file. fresh: without states. others: it may hold more."""
        taken = {g: a for g, a in groups.items() if not fresh or g not in self.optimizer.state}
        shapes = {g: self._shapes_of(g, arrays) for g, arrays in taken.items()}
        expected = {
            name: array.shape
            for name, array in self._named(
                {g: {n: _of_shape(s) for n, s in of.items()} for g, of in shapes.items()}
            ).items()
        }
        read = checkpoint.read_tensors(path, expected, others=fresh or others)
        for g, arrays in taken.items():
            whole = {n: read[f"{g}.{n}"] for n in shapes[g]}
            self._take(arrays, whole, self.together.shares)

    def _named(self, groups: Mapping[str, Arrays]) -> dict[str, npt.NDArray[np.float32]]:
        """The arrays of groups by the names that they have in a checkpoint."""
        return {f"{g}.{n}": a for g in groups for n, a in self._full(groups[g]).items()}

    def _check_model(self, folder: Path, model: ModelConfig) -> None:
        """Refuses a checkpoint of another model, also where its weights would fit."""
        was, now = model_settings(model), model_settings(self.model.config)
        for name, value in was.items():
            if value != now[name]:
                raise ConfigError(
                    f"[train] {shown(folder)} is of another model: its {name} is {shown(value)}, "
                    f"got {shown(now[name])}. Hint: resume with the model that the run was "
                    "started with."
                )

    def _find_best(self, p: Progress) -> None:
        """Checks that the best checkpoint is there; without it, the next ones are the best."""
        if p.best_val == math.inf:
            return
        if not p.best:  # a checkpoint of before does not name it
            p.best = checkpoint.best_checkpoint(self.run.path) or ""
        if not (self.run.path / p.best / checkpoint.STATE).is_file():
            name = shown(p.best or "which no file names")
            self.say(f"the best checkpoint, {name}, is gone: the best of the coming ones is kept")
            p.best, p.best_val = "", math.inf

    def _take_numbers(self, state: Mapping[str, Any], p: Progress) -> None:
        """Everything but the arrays, checked. KeyError, TypeError or ValueError."""
        config = self.config
        p.check(config.optim.micro_batches.most, config.data.batch * config.data.seq_len * p.ranks)
        steps, overflows = (_whole(state, n, p.step) for n in ("optimizer_step", "overflows"))
        if steps + overflows > p.step:
            raise ValueError(f"{steps} and {overflows} skipped ones are more than {p.step} updates")
        self.scale.restore(state["loss_scale"])
        self.optimizer.step, self.overflows = steps, overflows
        self.health = with_infinities(state.get("health", {}))  # checkpoints of before have none
        if UNFINISHED in state:
            self.unfinished = with_infinities(state[UNFINISHED])
            if self.unfinished["step"] != p.step:
                raise ValueError("its unfinished update is another one")

    def open_logs(self, folder: Path | None, sinks: Sinks) -> None:
        """Opens the run's row files behind what `folder`, the restored checkpoint, counts on."""
        if folder is None:
            self.began_with = _first_validation(self.run.path / METRICS)
            self.run.open_logs(-1, sinks)
            return
        later = checkpoint.set_later_aside(self.run.path, folder.name)
        if later:
            self.say(f"checkpoints past {folder.name} are in {shown(self.run.path / later)} now")
        step = self.progress.step - bool(self.unfinished)
        self.run.open_logs(step, sinks, self._marks, self.say)
        self._judge_again()
        self._tidy()

    def _judge_again(self) -> None:
        """Finds the newest sound checkpoint of a resumed run."""
        names = {}
        for path in checkpoint.checkpoints(self.run.path):
            at = checkpoint.place(path.name)
            if at is not None and not at[1] and at[0] <= self.progress.step:
                names[at[0]] = path.name
        self.soundness.replay(read_rows(self.run.path / METRICS), names)

    def _own_groups(self, with_grads: bool) -> dict[str, Arrays]:
        """The arrays that this rank has, by group."""
        groups: dict[str, Arrays] = {**self.together.groups(), **self.optimizer.state}
        if self.average is not None:
            groups[GROUP] = self.average.arrays
        return groups | {"grad": self.step.grads} if with_grads else groups

    def _shapes_of(self, group: str, arrays: Arrays) -> Shapes:
        """The shapes of a group's arrays where nobody shares them."""
        if group in self.optimizer.shapes:
            return self.optimizer.shapes[group]
        params = self.step.trained if group == GROUP else arrays
        return {n: a.shape for n, a in params.items()}

    def _optimizer_groups(self, with_grads: bool) -> dict[str, Arrays]:
        """The optimiser's states for a checkpoint; of use on rank 0."""
        groups = self._own_groups(with_grads)
        if (shares := self.together.shares) is not None:
            return {g: shares.whole(a, self._shapes_of(g, a)) for g, a in groups.items()}
        return groups

    def _full(self, arrays: Arrays, tables: Arrays | None = None) -> Arrays:
        """`arrays` as a checkpoint has them; with a compact vocabulary, spread over `tables`."""
        vocabulary = self.step.vocabulary
        return arrays if vocabulary is None else vocabulary.spread(arrays, tables)

    def _take(self, arrays: Arrays, full: Arrays, shares: Shares | None = None) -> None:
        """The inverse of `_full`, into `arrays`, or into this rank's shares of them."""
        vocabulary = self.step.vocabulary
        rows = full if vocabulary is None else vocabulary.rows(full)
        for name, array in arrays.items():
            value = rows[name]
            array[...] = value if shares is None else shares.part(name, value)


def _first_validation(metrics: Path) -> float | None:
    """The validation loss before training, where an earlier start of the run wrote it."""
    with contextlib.suppress(ValueError):
        for row in read_rows(metrics)[:1]:
            return row.get("val/loss")
    return None


def _of_shape(shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Zeros that take no memory."""
    return np.broadcast_to(np.float32(0), shape)


def _whole(state: Mapping[str, Any], name: str, most: int) -> int:
    value = state[name]
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"expected {name} to be a whole number from 0 to {most:,}")
    return value
