"""Dashboards fed with the same rows as the files: TensorBoard, trackio, Weights & Biases.

All are extras and all work without a network. A sink that is not installed is refused before
training; one that fails later is dropped with one warning, for no dashboard is worth a run.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from anefast.errors import BadInput, shown
from anefast.files import make_folder
from anefast.telemetry.rows import Row

log = logging.getLogger("anefast")


class SinkError(BadInput):
    """A sink cannot be used. One line."""


class Sink(Protocol):
    """A dashboard."""

    def log(self, values: Mapping[str, float], step: int) -> None: ...
    def close(self) -> None: ...


class TensorBoard:
    """Event files in RUN/tensorboard: `tensorboard --logdir RUN`."""

    def __init__(self, run: Path, config: Mapping[str, Any]) -> None:
        make_folder(run / "tensorboard", "sinks", inside=run)
        self._writer = installed("tensorboard").SummaryWriter(str(run / "tensorboard"))
        lines = [f"    {k} = {v!r}" for k, v in config.items()]
        self._writer.add_text("config", "\n".join(lines), 0)

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class Tracked:
    """trackio and wandb, which are called alike: `init`, `log` and `finish`.

    trackio keeps its database in the user's cache, or in $TRACKIO_DIR; wandb its files in
    RUN/wandb, for `wandb sync` some day. $WANDB_MODE=online asks for the network.
    """

    def __init__(self, library: str, run: Path, config: Mapping[str, Any]) -> None:
        options: dict[str, Any] = {"project": "anefast", "name": run.name, "config": dict(config)}
        module = installed(library)
        if library == "wandb":  # the network only if the environment asks for it
            mode = os.environ.get("WANDB_MODE", "offline")
            quiet = module.Settings(silent=True, console="off", disable_git=True)
            make_folder(run / "wandb", "sinks", inside=run)
            options |= {"dir": str(run), "mode": mode, "settings": quiet}
        else:
            options |= {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
        with contextlib.redirect_stdout(io.StringIO()):  # trackio greets
            self._run = module.init(**options)
        self._finish = module.finish  # the run's own leaves trackio to finish it again at exit

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            self._finish()


EXTRAS = {  # name: what is imported, what installs it
    "tensorboard": ("tensorboardX", "tb"),
    "trackio": ("trackio", "trackio"),
    "wandb": ("wandb", "wandb"),
}


class Sinks:
    """The dashboards that a run logs to. `log` and `close` never raise."""

    def __init__(self, names: str, run: Path, config: Mapping[str, Any]) -> None:
        """names: separated by commas. SinkError for one that is unknown or not installed."""
        self._sinks: dict[str, Sink] = {}
        wanted = checked(names)
        for name in wanted:
            installed(name)  # none is opened while another is missing
        for name in wanted:
            self._guard(name, lambda name=name: self._open(name, run, config))

    def log(self, metrics: Row, timings: Row) -> None:
        """Both rows as one, numbers only; nested times by path: 'spans_ms/forward/evaluate'."""
        if self._sinks:
            values = numbers(timings | metrics)
            step = int(metrics["step"])
            for name, sink in list(self._sinks.items()):
                self._guard(name, lambda sink=sink: sink.log(values, step))

    def close(self) -> None:
        for name, sink in list(self._sinks.items()):
            self._guard(name, sink.close)
        self._sinks.clear()

    def _open(self, name: str, run: Path, config: Mapping[str, Any]) -> None:
        self._sinks[name] = (
            TensorBoard(run, config) if name == "tensorboard" else Tracked(name, run, config)
        )

    def _guard(self, name: str, call: Any) -> None:
        try:
            call()
        except Exception as error:  # somebody else's code: anything may come
            self._sinks.pop(name, None)
            said = shown(" ".join(str(error).split())) or type(error).__name__
            log.warning("sink %s gets no more rows: %s", name, said)


def checked(names: str) -> list[str]:
    """The names in 'a,b'. SinkError for one that is unknown."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if name not in EXTRAS:
            raise SinkError(
                f"[sinks] expected some of {', '.join(EXTRAS)}, separated by commas, got {name!r}."
            )
    return list(dict.fromkeys(wanted))


def installed(name: str) -> Any:
    """The library of a sink. SinkError that names the extra."""
    module, extra = EXTRAS[name]
    try:
        return importlib.import_module(module)
    except ImportError:
        raise SinkError(
            f"[sinks] {name} needs {module}, which is not installed. "
            f"Hint: pip install 'anefast[{extra}]'."
        ) from None


def numbers(row: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The finite numbers of a row, flat; 'time', a date, is left out."""
    found: dict[str, float] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            found |= numbers(value, f"{prefix}{key}/")
        elif isinstance(value, (int, float)) and math.isfinite(value) and key not in DATES:
            found[prefix + key] = float(value)
    return found


DATES = ("step", "time")
