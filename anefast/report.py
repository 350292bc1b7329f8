"""`anefast report RUN [RUN...]`: what runs did, as one HTML page and one PNG.

A run may be finished, interrupted or still going; several are compared. The page needs no network
and no script. Nothing in the run folders changes but the report itself.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from anefast.cli import SWEEP, command, say
from anefast.errors import BadInput, shown, visible
from anefast.files import make_folder, write_atomic
from anefast.sweep import sweep_in
from anefast.telemetry import breakdown
from anefast.telemetry.compare import ranked
from anefast.telemetry.figures import png
from anefast.telemetry.history import History, read_history
from anefast.telemetry.page import page
from anefast.telemetry.run import CONFIG

NAME = "report"


@dataclass(frozen=True)
class ReportConfig:
    """Show what runs did, as a web page."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional]  # Run folders, or sweeps of them.
    out: str = ""  # A folder; empty: the run's own, or this one when there are several runs.
    text: bool = False  # Print where the time went instead.


def report(config: ReportConfig) -> None:
    """Writes report.html and report.png. Raises RunError for a folder that is not a run."""
    if not config.runs:
        raise BadInput("[report] expected a run folder, got none. Hint: runs/2026-...")
    if config.text and config.out:
        raise BadInput(
            "[report] --text prints and writes no file, but --out was given. Hint: leave one out."
        )
    runs = ranked([read_history(folder) for name in config.runs for folder in runs_in(Path(name))])
    for note in (note for run in runs for note in run.notes):
        print(visible(note), file=sys.stderr)
    if config.text:
        for run in runs:
            timed = run.summary is not None and run.summary["micro_steps"]
            told = breakdown.table(run.summary) if timed and run.summary else "no times recorded"
            say(run.name, told)
        return
    out = Path(config.out) if config.out else runs[0].path if len(runs) == 1 else Path()
    make_folder(out, "report")
    sheet = png(runs, "; ".join(titled(run) for run in runs[:2]))
    write_atomic(out / f"{NAME}.png", sheet, "report")
    write_atomic(out / f"{NAME}.html", page(runs).encode(), "report")
    say(f"{out / NAME}.html and {out / NAME}.png")


def runs_in(folder: Path) -> list[Path]:
    """The runs of a sweep that have begun, or the folder itself."""
    if not (folder / SWEEP).is_file():
        return [folder]
    begun = [run.folder for run in sweep_in(folder).runs() if (run.folder / CONFIG).is_file()]
    if not begun:
        raise BadInput(f"[report] no run of the sweep {shown(folder)} has begun.")
    return begun


def titled(run: History) -> str:
    """'name, finished, 30 of 30 updates, emulated'."""
    label = f", {run.label}" if run.label else ""
    return f"{run.name}, {run.state}, {run.step:,} of {run.steps:,} updates{label}"


def main(argv: Sequence[str] | None = None) -> None:
    """The command. Exit codes: 0, or 2 for a request that makes no sense."""
    command(ReportConfig, report, argv)


if __name__ == "__main__":
    main()
