"""The run folder: its lock, the config and environment it began with, and one row per update.

What a row is: rows.py. Rows are written in the background (background.py), and every one of them is
on disk before a checkpoint is. Weights are checkpoint/'s.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from anefast.config import TrainConfig, to_settings
from anefast.errors import shown
from anefast.files import (
    TEMPORARY,
    FileError,
    Locked,
    guarding,
    lock,
    make_folder,
    read_json,
    read_text,
    read_toml,
    refusal,
    remove,
    write_atomic,
    write_json,
)
from anefast.parsing import checksum, parse_toml
from anefast.schema import line, maybe, number, record, several
from anefast.telemetry.background import Background
from anefast.telemetry.mend import kept_rows
from anefast.telemetry.rows import METRICS, TIMINGS, Mark, Row, RowFiles, RunError
from anefast.telemetry.sinks import Sinks

LOCK, CONFIG, ENVIRONMENT = "run.lock", "config.toml", "env.json"
SEAL = "# sha256 of these settings: "  # the last line of config.toml
MOST_SESSIONS = 200  # in env.json: the first one and the newest

_SESSION = record({}, {"label": line(80), "device": line(), "floor": maybe(number(0))})


class RunFolder:
    """An open run folder, locked until `close`."""

    def __init__(self, path: Path, *, resume: bool) -> None:
        """Makes the folder, or with `resume` takes up an existing one. RunError if it is taken."""
        self.path = path
        if resume and not (path / CONFIG).is_file():
            raise RunError(f"[run] {path} is not a run: it has no {CONFIG}.")
        if path.exists() and not path.is_dir():
            raise RunError(
                f"[run] {path} is a file, expected a folder. Hint: choose another --out."
            )
        self._files: RowFiles | None = None
        self._sinks: Sinks | None = None
        self.settings: dict[str, Any] = {}  # in config.toml, after `begin`
        self._made = False
        made = not path.exists()
        if not resume and path.is_dir() and not (path / LOCK).exists():
            _check_unused(path)  # before a lock is left in a folder that is somebody's own
        try:
            make_folder(path, "run")
            self._lock = _lock(path)
        except FileError as error:
            told = refusal("use", path, error, "run") if error.errno else error
            raise RunError(str(told)) from None
        if not resume:
            try:
                _check_unused(path)
            except RunError:
                self.close()
                raise

        self._made = made

    def begin(self, config: TrainConfig, environment: dict[str, Any]) -> dict[str, Any]:
        """Writes config.toml and adds this session's environment to env.json.

        Returns the environment of the session before; {} where this is the first.
        """
        import tomli_w

        settings = {**to_settings(config), "resume": "", "trace": ""}
        if (self.path / CONFIG).is_file():
            settings["init"] = read_config(self.path).get("init", "")
        text = tomli_w.dumps(settings)
        self.settings = parse_toml(text)
        text += f"{SEAL}{checksum(self.settings)}\n"
        write_atomic(self.path / CONFIG, text.encode(), "run")
        sessions = read_sessions(self.path / ENVIRONMENT)
        kept = [*sessions[:1], *sessions[1:][-(MOST_SESSIONS - 2) :], environment]
        write_json(self.path / ENVIRONMENT, {"sessions": kept}, "run", indent=2)
        return sessions[-1] if sessions else {}

    def open_logs(
        self,
        step: int = -1,
        sinks: Sinks | None = None,
        marks: Mapping[str, Mark] | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Opens the row files after dropping rows past `step`, where training goes on.

        sinks: get every row as well; they are closed with the folder. marks: what the files must
        begin with, by name; `say` gets a line about one that does not (mend.py).
        """
        self._files = RowFiles(self.path, kept_rows(self.path, step, marks, say))
        self._sinks = sinks
        self.background = Background("anefast-writer")

    def marks(self) -> dict[str, Row]:
        """The marks of the row files, by name. After `sync`."""
        files = self._files
        return {METRICS: files.metrics.mark(), TIMINGS: files.timings.mark()} if files else {}

    def log(self, metrics: Row, timings: Row, more: Callable[[], Row] = dict) -> None:
        """A row for each file, soon: written in the background, as the sinks are fed.

        more: called over there for the rest of `timings`. Raises RunError for an earlier row that
        could not be written.
        """
        if self._files is None:
            raise RuntimeError("[run] expected open_logs to be called before log.")
        self.background.call(self._write, metrics, timings, more)

    def sync(self) -> None:
        """Rows are on disk when this returns: call it before a checkpoint that counts on them."""
        if self._files is not None:
            self.background.call(self._files.sync)
            self.background.flush()

    def close(self) -> None:
        """Writes what is left, closes the files and gives the folder free; one that nothing came
        into goes away. RunError when something could not be written."""
        try:
            if self._files is not None:
                self.background.close()
        finally:
            self._release()

    def _write(self, metrics: Row, timings: Row, more: Callable[[], Row]) -> None:
        timings = timings | more()
        if self._files is not None:
            self._files.write(metrics, timings)
        if self._sinks is not None:
            self._sinks.log(metrics, timings)

    def _release(self) -> None:
        if self._sinks is not None:
            self._sinks.close()
        if self._files is not None:
            self._files.close()
        self._files = self._sinks = None
        if self._made and not (self.path / CONFIG).exists():
            with contextlib.suppress(OSError, FileError):
                remove(self.path / LOCK)
                self.path.rmdir()
        with contextlib.suppress(OSError):  # the lock goes with the process at the latest
            os.ftruncate(self._lock, 0)
            os.close(self._lock)


def read_config(run: Path) -> dict[str, Any]:
    """The settings in a run's config.toml. RunError when there is none."""
    if not os.path.lexists(run / CONFIG):
        raise RunError(
            f"[run] {shown(run)} is not a run: it has no readable {CONFIG}. "
            "Hint: name a run folder."
        )
    return read_toml(run / CONFIG, where="run", follow=False)


def is_as_written(run: Path) -> bool:
    """True if a run's config.toml is known to hold the settings that the run wrote."""
    last = read_text(run / CONFIG, where="run", follow=False).rstrip().rpartition("\n")[2]
    return last == SEAL + checksum(read_config(run))


def read_sessions(file: Path) -> list[dict[str, Any]]:
    """Reads env.json: a record of each session; [] where there is none. RunError if damaged."""
    if not os.path.lexists(file):
        return []
    hint = "Hint: move it away; training needs nothing in it."
    try:
        form = record({"sessions": several(_session)})
        found = read_json(file, where="run", follow=False, form=form)
    except FileError as error:
        raise RunError(f"{str(error).partition(' Hint:')[0]} {hint}") from None
    sessions: list[dict[str, Any]] = found["sessions"]
    return sessions


def _session(value: Any) -> Any:
    """Checks the form of the fields that are read; keeps the others as they are."""
    _SESSION(value)
    return value


def arithmetic(description: str) -> str:
    """A device's line without the number of threads, which changes no result."""
    return re.sub(r", \d+ threads?\)$", ")", description)


def environment(argv: list[str], **more: Any) -> dict[str, Any]:
    """The facts about machine and version that somebody needs to repeat the run."""
    try:
        version = importlib.metadata.version("anefast")
    except importlib.metadata.PackageNotFoundError:
        version = "not installed"
    return {
        "anefast": version,
        "commit": _git("rev-parse", "HEAD"),
        "changed_files": bool(_git("status", "--porcelain", "-uno")),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "argv": argv,
        **more,
    }


def peak_memory_bytes() -> int:
    """The largest resident size of this process so far.

    Linux begins a new program's `ru_maxrss` with its parent's, but not its VmHWM.
    """
    if os.path.exists("/proc/self/status"):
        return int(read_text("/proc/self/status").split("VmHWM:")[1].split()[0]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _check_unused(path: Path) -> None:
    with guarding("list", path, "run"):
        names = sorted(os.listdir(path))
    held = [name for name in names if name != LOCK and not TEMPORARY.fullmatch(name)]
    if held:
        run = (path / CONFIG).is_file()
        continues = f"--resume {path} continues this run; " if run else ""
        raise RunError(
            f"[run] {path} already holds {shown(held[0])}. "
            f"Hint: {continues}another --out starts afresh."
        )


def _lock(path: Path) -> int:
    """Takes a lock that ends with the process. RunError if another process has it."""
    try:
        handle = lock(path / LOCK, "run")
    except Locked as held:
        raise RunError(
            f"[run] {path} is in use by process {shown(held) or 'unknown'}. "
            "Hint: wait for it, or choose another --out."
        ) from None
    with guarding("write", path / LOCK, "run"):
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    return handle


def _git(*arguments: str) -> str:
    """A line about this package's git checkout; empty if it is installed or git is missing."""
    root = Path(__file__).resolve().parent.parent.parent
    if not (root / ".git").exists():
        return ""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
