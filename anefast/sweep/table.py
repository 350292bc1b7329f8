"""The table of a sweep's runs, in lines of text, the lowest validation loss first."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from anefast.errors import shown
from anefast.sweep.runs import Run, Sweep
from anefast.telemetry.compare import Unit, unit_of
from anefast.telemetry.history import History


def lines(sweep: Sweep, runs: Sequence[Run]) -> Iterator[str]:
    """A heading, a row for each point with its mean and band over the seeds, or for each seed where
    there is one point, and a line for each run that failed."""
    histories = {run.folder: run.history() for run in runs}
    unit = unit_of([h for h in histories.values() if h is not None])
    rows = []
    for number in range(len(sweep.points)):
        mine = [run for run in runs if run.point == number]
        rows.append(_row(sweep.label(number), mine, histories, unit))
    rows.sort(key=lambda row: row[0])
    if len(rows) == 1:
        alone = [_row(f"seed {run.seed}", [run], histories, unit) for run in runs]
        rows = [*sorted(alone, key=lambda row: row[0]), *rows]
        rows[-1][1][0] = "mean"
    head = ["best first", f"validation, {unit.words}", "lowest to highest", "at update", "state"]
    yield from _aligned([head, *(cells for _, cells in rows)])
    for run in runs:
        if run.failed:
            yield f"{run.folder.name}: {shown(run.failure(), 400)}"


def _row(
    label: str, runs: Sequence[Run], histories: Mapping[Path, History | None], unit: Unit
) -> tuple[tuple[bool, float], list[str]]:
    """The sort key and the cells of a row; rows where every run failed come last. A mean is of
    runs that did not fail, where there are any."""
    failed = all(run.failed for run in runs)
    counted = [histories[run.folder] for run in runs if failed or not run.failed]
    known = [h for h in counted if h is not None and math.isfinite(unit.best(h))]
    states = Counter(_state(run, histories[run.folder]) for run in runs)
    told = ", ".join(f"{n} {state}" if len(runs) > 1 else state for state, n in states.items())
    if not known:
        return (failed, math.inf), [label, "-", "-", "-", told]
    best = [unit.best(h) for h in known]
    mean = math.fsum(best) / len(best)
    band = f"{min(best):.4f} to {max(best):.4f}" if len(best) > 1 else ""
    at = ", ".join(str(_at(h, unit)) for h in known)
    return (failed, mean), [label, f"{mean:.4f}", band, at, told]


def _at(history: History, unit: Unit) -> int:
    """The update with the lowest loss."""
    val = unit.val(history)
    return min(zip(val.values, val.steps, strict=True))[1]


def _state(run: Run, history: History | None) -> str:
    if run.failed:
        return "failed"
    return "not begun" if history is None else history.state


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(f"{c:{w}}" for c, w in zip(row, widths, strict=True)).rstrip()
