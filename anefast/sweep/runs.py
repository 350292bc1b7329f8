"""The runs of a sweep: a folder of run folders, worked through one process after another.

What has been done is what the run folders say: a run that is finished is passed, one that was
stopped goes on from its checkpoint, and one that failed is tried again. `sweep.json` holds which
runs there are, so that the folder alone is enough to go on with.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from anefast.checks import coerce
from anefast.cli import SWEEP, named_by, read_settings, say, train_config
from anefast.config import ConfigError, TrainConfig, keys
from anefast.distributed import LAUNCHED
from anefast.errors import AnefastError, shown
from anefast.files import (
    Locked,
    lock,
    make_folder,
    read_json,
    read_text,
    remove,
    write_atomic,
    write_json,
)
from anefast.flags import named, spelled_out
from anefast.keywords import shortest
from anefast.restart import interpreter
from anefast.schema import Check, record, several, table, text, whole
from anefast.signals import Stop, stopping
from anefast.sweep.points import MOST_POINTS, Point, read_points
from anefast.telemetry.history import DONE, History, read_history
from anefast.telemetry.run import CONFIG
from anefast.wishes import check_pairs, wishes_of

LOCK, BASE = "sweep.lock", "base.toml"
MOST_SEEDS = 1_000
SEEDS = ("seed", "data.seed")
HEARD_SECONDS = 0.2  # between looks at signals while a run lasts


@dataclass(frozen=True)
class Run:
    """One run. point: its number. folder: it may not be there yet. arguments: of train."""

    point: int
    seed: int
    folder: Path
    arguments: list[str]

    @property
    def note(self) -> Path:
        """The file in which its process leaves a line if it fails."""
        return self.folder.with_name(f"{self.folder.name}.failed")

    def failure(self) -> str:
        """The reason why its last attempt failed, or ''."""
        return read_text(self.note, where="sweep", follow=False).strip() if self.failed else ""

    @property
    def failed(self) -> bool:
        return self.note.exists()

    def history(self) -> History | None:
        """Its rows so far; None if it has not begun."""
        return read_history(self.folder) if (self.folder / CONFIG).is_file() else None

    @property
    def done(self) -> bool:
        found = self.history()
        return found is not None and found.state in DONE and not self.failed


@dataclass(frozen=True)
class Sweep:
    """settings: a file that all runs begin with, and the flags that they have. seeds: of each
    point, for the initial weights and for the data."""

    folder: Path
    settings: Path | None
    flags: list[str]
    points: list[Point]
    seeds: list[tuple[int, int]]

    def runs(self) -> list[Run]:
        """All runs; the seeds of a point follow one another."""
        first = [f"{self.settings}"] if self.settings else []
        runs = []
        for number, point in enumerate(self.points):
            for pair in self.seeds:
                own = dict(zip(SEEDS, pair, strict=True)) | point
                folder = self.folder / self._name(number, pair[0])
                runs.append(Run(number, own["seed"], folder, [*first, *self.flags, *typed(own)]))
        return runs

    def label(self, number: int) -> str:
        """A point in words: 'lr 0.003, batch 8'."""
        point = self.points[number]
        return ", ".join(f"{shortest(k)} {shown(v, 40)}" for k, v in point.items()) or "all"

    def _name(self, number: int, seed: int) -> str:
        """The name of a run's folder, such as '03-lr=0.003-seed=1'."""
        point, width = self.points[number], len(str(len(self.points)))
        parts = [f"{shortest(k)}={v}" for k, v in point.items()]
        if len(self.points) > 1 or point:
            parts.insert(0, f"{number + 1:0{width}}")
        if len(self.seeds) > 1:
            parts.append(f"seed={seed}")
        plain = re.sub(r"[^\w.=+-]+", "_", "-".join(parts), flags=re.ASCII)
        return plain if len(plain) <= 80 else f"{number + 1:0{width}}-seed={seed}"

    def work(self) -> bool:
        """Trains the unfinished runs. False if a signal ended it early."""
        runs = self.runs()
        with self._locked(), stopping() as stop:
            stop.saves = True
            for place, run in enumerate(runs, 1):
                if run.done:
                    continue
                told = f"{self.label(run.point)}, " if self.points[run.point] else ""
                say(f"run {place} of {len(runs)}: {told}seed {run.seed}, in {run.folder}")
                self._train(run, stop)
                if stop.requested:
                    return False
        return True

    def _train(self, run: Run, stop: Stop) -> None:
        """Trains one run in its own process. If it fails, its note says how."""
        if run.failed:
            remove(run.note, "sweep")
        begun = (run.folder / CONFIG).is_file()
        words = ["--resume", f"{run.folder}"] if begun else [*run.arguments, f"--out={run.folder}"]
        command = [*interpreter(), "-m", "anefast.sweep.child", f"{run.note}", *words]
        sys.stdout.flush()
        # a group of its own, for a terminal's Ctrl-C goes to all of ours, and one is enough
        with subprocess.Popen(command, stdin=subprocess.PIPE, process_group=0) as process:
            code = _heard(process, stop)
        if code == 0 or stop.requested:
            return
        if not run.failed:
            told = f"it ended by signal {-code}" if code < 0 else f"it ended with exit code {code}"
            write_atomic(run.note, f"{told}\n".encode(), "sweep")
        say(f"the run failed, and the next one begins: {run.failure()}")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            handle = lock(self.folder / LOCK, "sweep")
        except Locked:
            raise ConfigError(
                f"[sweep] {shown(self.folder)} is being worked on by another process. "
                "Hint: wait for it, or end it."
            ) from None
        try:
            yield
        finally:
            os.close(handle)

    def save(self) -> None:
        """Writes the list of runs."""
        held = {"flags": self.flags, "points": self.points, "seeds": self.seeds}
        write_json(self.folder / SWEEP, held, "sweep")


def _heard(process: subprocess.Popen[bytes], stop: Stop) -> int:
    """Waits for a process and passes on our signals. Returns its exit code."""
    told = False
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            try:
                return process.wait(HEARD_SECONDS)
            except KeyboardInterrupt:  # the second one: it quits at once, and so do we
                process.terminate()
                raise
        if stop.requested and not told:
            process.terminate()
            told = True
        if stop.checkpoint:
            stop.checkpoint = False
            process.send_signal(signal.SIGUSR1)


def typed(settings: Mapping[str, Any]) -> list[str]:
    """Settings as command-line flags: --optim.lr=0.003, --no-timeline."""
    found = []
    for name, value in settings.items():
        section, dot, last = name.replace("_", "-").rpartition(".")
        if isinstance(value, bool):
            found.append(f"--{section}{dot}{'' if value else 'no-'}{last}")
        else:
            found.append(f"--{section}{dot}{last}={value}")
    return found


def without(arguments: Sequence[str], names: set[str]) -> list[str]:
    """Arguments of train without the flags of these settings."""
    kept, skips = [], False
    for i, argument in enumerate(arguments):
        if skips:
            skips = False
            continue
        if set(named([argument])) & names:
            is_switch = i + 1 == len(arguments) or arguments[i + 1].startswith("--")
            skips = "=" not in argument and not is_switch
            continue
        kept.append(argument)
    return kept


def begin(config: TrainConfig, argv: Sequence[str], folder: Path) -> Sweep:
    """The sweep that `config`, which `argv` stands for, asks for, in a new folder.

    Everything that can be known of its runs before the first of them is checked here: ConfigError.
    """
    _check(config)
    points = read_points(Path(config.sweep)) if config.sweep else [{}]
    swept = {name for point in points for name in point}
    if config.seeds > 1 and (clash := swept & set(SEEDS)):
        raise ConfigError(
            f"[sweep] {clash.pop()} is in {shown(config.sweep)}, and seeds {config.seeds} was "
            "named too. Hint: leave one of them out."
        )
    words = [spelled_out(word) for word in argv]
    settings = Path(words.pop(0)) if words and not words[0].startswith("-") else None
    words = without(words, swept | {"seeds", "sweep", "out", *SEEDS})
    seeds = [(config.seed + i, config.data.seed + i) for i in range(config.seeds)]
    sweep = Sweep(folder, settings, words, points, seeds)
    for run in sweep.runs()[:: config.seeds]:
        try:
            asked, origins = train_config(run.arguments)
            check_pairs(asked, wishes_of(asked, named_by(origins)))
        except AnefastError as error:
            if not config.sweep:
                raise
            at = f"in the run with {sweep.label(run.point)} of {shown(config.sweep)}"
            raise ConfigError(f"{str(error).rstrip('.')}, {at}.") from None
    if (folder / SWEEP).exists():
        raise ConfigError(
            f"[sweep] {shown(folder)} holds a sweep. Hint: --resume {shown(folder)} goes on with "
            "it; another --out starts afresh."
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"[sweep] {shown(folder)} is in use. Hint: choose another --out.")
    make_folder(folder, "sweep")
    if settings is not None:  # kept as it is now, for runs that begin later
        sweep = replace(sweep, settings=_keep(settings, folder))
    sweep.save()
    return sweep


def _check(config: TrainConfig) -> None:
    """ConfigError for settings that several runs cannot share."""
    for name, has, why, hint in (
        ("resume", config.resume, "goes on with one run", "--init starts from its weights"),
        ("trace", config.trace, "is of one run", "leave it out"),
        (
            "data.source -",
            config.data.source == "-",
            "is a pipe, which can be read once",
            "write it to a file",
        ),
        (
            "mpiexec",
            any(name in os.environ for name in LAUNCHED),
            "trains one run by many processes",
            "a sweep without it, with mpiexec for single runs",
        ),
    ):
        if has:
            raise ConfigError(f"[sweep] {name} {why}. Hint: {hint}.")


def _keep(settings: Path, folder: Path) -> Path:
    """Copies the settings that a sweep begins with, but for those of the sweep itself."""
    import tomli_w

    kept = {k: v for k, v in read_settings(settings).items() if k not in ("seeds", "sweep", "out")}
    write_atomic(folder / BASE, tomli_w.dumps(kept).encode(), "sweep")
    return folder / BASE


_FORM: Check = record(
    {
        "flags": several(text()),
        "points": several(table(lambda value: value), MOST_POINTS),
        "seeds": several(several(whole(0, 1 << 63)), MOST_SEEDS),
    }
)


def sweep_in(folder: Path) -> Sweep:
    """The sweep of a folder. ConfigError or FileError where what it holds is damaged."""
    found = read_json(folder / SWEEP, where="sweep", follow=False, form=_FORM)
    kinds = keys()
    try:
        points = [
            {name: coerce(value, kinds[name], name) for name, value in point.items()}
            for point in found["points"]
        ]
        seeds = [(of_weights, of_data) for of_weights, of_data in found["seeds"]]
        if not points or not seeds:
            raise ValueError("it has no runs")
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"[sweep] {shown(folder / SWEEP)} is damaged: {shown(error)}. Hint: its runs go on "
            "one by one with --resume."
        ) from None
    settings = folder / BASE if (folder / BASE).is_file() else None
    return Sweep(folder, settings, found["flags"], points, seeds)
