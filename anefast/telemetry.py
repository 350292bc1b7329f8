"""The run folder: its lock, the config and environment it began with, and one row per update.

metrics.jsonl holds only what is a function of the config and the data, so that a resumed run writes
the same bytes as one that was never stopped. What a clock or the machine decides goes to
timings.jsonl. Weights are checkpoint.py's.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import IO, Any

import numpy as np

from anefast.config import TrainConfig, to_settings

LOCK, CONFIG, ENVIRONMENT = "run.lock", "config.toml", "env.json"
METRICS, TIMINGS = "metrics.jsonl", "timings.jsonl"


class RunError(ValueError):
    """A run folder that cannot be used. One line."""


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
        self._metrics: IO[bytes] | None = None
        self._timings: IO[bytes] | None = None
        self._made = False
        made = not path.exists()
        if not resume and path.is_dir() and not (path / LOCK).exists():
            _check_unused(path)  # before a lock is left in a folder that is somebody's own
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(path)
        except OSError as error:
            raise RunError(f"[run] cannot use {path}: {error.strerror}.") from None
        if not resume:
            try:
                _check_unused(path)
            except RunError:
                self.close()
                raise

        self._made = made

    def begin(self, config: TrainConfig, environment: dict[str, Any]) -> None:
        """Writes config.toml and adds this session's environment to env.json."""
        import tomli_w

        settings = {**to_settings(config), "resume": ""}
        if (self.path / CONFIG).is_file():
            settings["init"] = read_config(self.path).get("init", "")
        write_atomic(self.path / CONFIG, tomli_w.dumps(settings).encode())
        sessions = []
        if (self.path / ENVIRONMENT).is_file():
            sessions = json.loads((self.path / ENVIRONMENT).read_text())["sessions"]
        text = json.dumps({"sessions": [*sessions, environment]}, indent=2) + "\n"
        write_atomic(self.path / ENVIRONMENT, text.encode())

    def open_logs(self, step: int) -> None:
        """Opens the row files after dropping rows past `step`, where training goes on."""
        for name in (METRICS, TIMINGS):
            if (self.path / name).exists():
                drop_rows_after(self.path / name, step)
        self._metrics = open(self.path / METRICS, "ab", buffering=0)
        self._timings = open(self.path / TIMINGS, "ab", buffering=0)

    def log(self, metrics: dict[str, Any], timings: dict[str, Any]) -> None:
        """Appends a row to each file; numbers that are not finite become null."""
        if self._metrics is None or self._timings is None:
            raise RuntimeError("[run] open_logs comes before log.")
        for file, row in ((self._metrics, metrics), (self._timings, timings)):
            line = json.dumps({k: _plain(v) for k, v in row.items()}).encode() + b"\n"
            try:
                written = file.write(line)
            except OSError as error:
                reason = error.strerror
            else:
                if written == len(line):
                    continue
                reason = "the disk is full"
            raise RunError(
                f"[run] cannot write {file.name}: {reason}. "
                f"Hint: free some space, then --resume {self.path} from its last checkpoint."
            )

    def sync(self) -> None:
        """Rows are on disk when this returns: call it before a checkpoint that counts on them."""
        for file in (self._metrics, self._timings):
            if file is not None:
                os.fsync(file.fileno())

    def close(self) -> None:
        """Closes the files and gives the folder free; one that nothing came into goes away."""
        for file in (self._metrics, self._timings):
            if file is not None:
                file.close()
        self._metrics = self._timings = None
        if self._made and not (self.path / CONFIG).exists():
            (self.path / LOCK).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.path.rmdir()
        os.close(self._lock)


def read_config(run: Path) -> dict[str, Any]:
    """The settings in a run's config.toml. RunError when there is none."""
    try:
        return tomllib.loads((run / CONFIG).read_text("utf-8"))
    except (OSError, ValueError):
        raise RunError(
            f"[run] {run} is not a run: it has no readable {CONFIG}. Hint: name a run folder."
        ) from None


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl or timings.jsonl; a half-written last row is left out."""
    rows = []
    for line in path.read_bytes().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def drop_rows_after(path: Path, step: int) -> None:
    """Cuts the file after the last row of update `step`, or at a row that is damaged."""
    keep = 0
    with open(path, "rb") as file:
        for line in file:
            try:
                if json.loads(line)["step"] > step or not line.endswith(b"\n"):
                    break
            except (ValueError, KeyError, TypeError):
                break
            keep += len(line)
    os.truncate(path, keep)


def environment(argv: list[str], **more: Any) -> dict[str, Any]:
    """What a reader needs to know about this machine and this version to repeat the run."""
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
    """The largest resident size of this process so far."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def write_atomic(path: Path, content: bytes) -> None:
    """Writes beside, fsyncs, renames: the old file or the new one, also after a power cut."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _check_unused(path: Path) -> None:
    if held := sorted(p.name for p in path.iterdir() if p.name != LOCK):
        run = (path / CONFIG).is_file()
        continues = f"--resume {path} continues this run; " if run else ""
        raise RunError(
            f"[run] {path} already holds {held[0]}. Hint: {continues}another --out starts afresh."
        )


def _lock(path: Path) -> int:
    """A lock the kernel releases however the process ends. RunError when somebody has it."""
    handle = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(handle, 20).decode("ascii", "replace").strip() or "unknown"
        os.close(handle)
        raise RunError(
            f"[run] {path} is in use by process {owner}. "
            "Hint: wait for it, or choose another --out."
        ) from None
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    return handle


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _git(*arguments: str) -> str:
    """A line about the checkout this package lies in; empty for an installed one or without git."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return ""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
