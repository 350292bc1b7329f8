"""The plots of a report, drawn with matplotlib (extra `plot`) onto whatever axes they are given.

Each `draw_*` takes axes and the runs; one run gets the colours of phases and a light line of raw
values under a smooth one, several get one colour each. page.py puts them on a page, `png` on one
sheet.
"""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import numpy.typing as npt

from anefast.errors import shown
from anefast.telemetry.compare import (
    AXES,
    along,
    band,
    ceiling,
    groups,
    named,
    unit_of,
)
from anefast.telemetry.history import History, Series, phase_of

INK, FAINT, GRID = "#1f2933", "#7b8794", "#e4e7eb"
RUNS = ("#2f6db5", "#d9722b", "#3f9668", "#a3479a", "#c23b4a", "#6b7f1e", "#1d9aa8", "#6a5acd")
PHASES = {
    "forward": "#2f6db5",
    "backward": "#d9722b",
    "update": "#3f9668",
    "between": "#8d7bb5",
    "python": "#9aa5b1",
}
MOST_POINTS = 1200  # of a line; more would only make the file larger
MOST_SMOOTHED = 20_000  # points of a line that are smoothed one by one
MOST_BARS = 14

Draw = Callable[[Any, Sequence[History]], None]


def draw_loss(ax: Any, runs: Sequence[History], axis: str = "update") -> None:
    """Training as a line, validation as circles; of several seeds the mean, and a band."""
    unit, several = unit_of(runs), len(runs) > 1
    for group, colour in coloured(runs):
        train = [s for s in (smoothed(along(r, unit.train(r), axis)) for r in group) if s]
        val = [s for s in (along(r, unit.val(r), axis) for r in group) if s]
        name = plain(named(group)) if several else "training"
        if train and len(group) > 1:
            x, mean, low, high = band(train)
            ax.fill_between(x, low, high, color=colour, alpha=0.18, lw=0)
            ax.plot(x, mean, color=colour, lw=1.8, label=name)
        elif train:
            smooth_line(ax, along(group[0], unit.train(group[0]), axis), colour, name, not several)
        if val:
            x, mean, low, high = band(val)
            if len(val) > 1:
                ax.vlines(x, low, high, color=colour, lw=1)
            ax.plot(
                x, mean, "o-" if len(x) < 60 else "-", ms=4, lw=1.2,
                color=colour if several else "#c23b4a", mfc="white",
                label=None if several else "validation",
            )  # fmt: skip
    floors = {unit.floor(run) for run in runs} - {None}
    if len(floors) == 1:
        ax.axhline(floors.pop(), color=FAINT, lw=1, ls="--", label="floor")
    finish(ax, "Loss", unit.words, legend=True)
    ax.set_xlabel(AXES[axis] + (labels(runs) if axis == "time" else ""), color=FAINT, fontsize=9)
    told = ["lines: training, circles: validation"] if several else []
    top = ceiling(runs, unit)
    first = max((unit.val(run).values[0] for run in runs if unit.val(run)), default=0.0)
    if first > 1.3 * top:
        ax.set_ylim(top=1.06 * top)
        told.append(f"begins at {first:.2f}, above the plot")
    ax.set_title("; ".join(told), **SMALL)


def draw_loss_by_tokens(ax: Any, runs: Sequence[History]) -> None:
    draw_loss(ax, runs, "tokens")


def draw_loss_by_time(ax: Any, runs: Sequence[History]) -> None:
    draw_loss(ax, runs, "time")


def draw_rate(ax: Any, runs: Sequence[History]) -> None:
    for run, colour in zip(runs, colours(runs), strict=True):
        s = thin(run.series("lr"))
        ax.plot(s.steps, s.values, color=colour, lw=1.6)
    finish(ax, "Learning rate", "")
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:.1e}" if value else "0")


def draw_norm(ax: Any, runs: Sequence[History]) -> None:
    lowest, highest = np.inf, 0.0
    for run, colour in zip(runs, colours(runs), strict=True):
        s = run.series("grad_norm")
        smooth_line(ax, s, colour, raw=len(runs) == 1)
        if positive := [v for v in s.values if v > 0]:
            lowest, highest = min(lowest, min(positive)), max(highest, max(positive))
        bad = run.overflows
        if bad:
            ax.plot(bad, [0.02] * len(bad), "^", color="#c23b4a", ms=5, clip_on=False,
                    transform=ax.get_xaxis_transform(), label="overflow, skipped")  # fmt: skip
    if highest > 20 * lowest:
        ax.set_yscale("log")
    finish(ax, "Gradient norm", "before clipping", legend=bool(ax.get_legend_handles_labels()[0]))


def draw_speed(ax: Any, runs: Sequence[History]) -> None:
    for run, colour in zip(runs, colours(runs), strict=True):
        s = run.series("tok_per_s")
        smooth_line(ax, Series(s.steps, [v / 1e3 for v in s.values]), colour, raw=len(runs) == 1)
    finish(ax, "Throughput", f"1000 tokens/s{labels(runs)}")
    ax.set_ylim(bottom=0)


def draw_time(ax: Any, runs: Sequence[History]) -> None:
    """One run: milliseconds of an update by phase, stacked. Several: the whole update."""
    if len(runs) == 1:
        phases = {name: s for name, s in runs[0].phases().items() if s}
        if phases:
            known = [name for name in PHASES if name in phases]
            every = sorted({step for name in known for step in phases[name].steps})
            rows = [np.interp(every, phases[n].steps, phases[n].values) for n in known]
            steps, stack = binned(np.array(every, float), np.array(rows))
            ax.stackplot(steps, stack, labels=known, colors=[PHASES[n] for n in known], lw=0)
            ax.set_ylim(0, 1.15 * float(np.percentile(stack.sum(0), 99)))
    else:
        for run, colour in zip(runs, colours(runs), strict=True):
            smooth_line(ax, run.series("ms"), colour, raw=False)
        ax.set_ylim(bottom=0)
    finish(ax, "Time of an update", f"ms{labels(runs)}")
    if len(runs) == 1 and ax.has_data():  # beside the title: nothing is free inside
        ax.legend(
            loc="lower right", bbox_to_anchor=(1.01, 0.98), ncols=5, frameon=False, fontsize=8,
            labelcolor=INK, handlelength=0.9, handletextpad=0.4, columnspacing=0.9,
        )  # fmt: skip


def draw_parts(ax: Any, runs: Sequence[History]) -> None:
    """Draws the time of a micro-step: bars by component, longest first, one per run."""
    spent = [run.spent() for run in runs]
    names = sorted({n for s in spent for n in s}, key=lambda n: -max(s.get(n, 0) for s in spent))
    most = MOST_BARS if len(runs) == 1 else MOST_BARS * 2 // 3
    told, rest = names[:most], names[most:]
    if rest:
        told.append("the rest")
        for s in spent:
            s["the rest"] = sum(s.get(n, 0) for n in rest)
    height = 0.8 / len(runs)
    widest = max((s.get(n, 0) for s in spent for n in told), default=0)
    for i, (run, s, colour) in enumerate(zip(runs, spent, colours(runs), strict=True)):
        total = sum(v for k, v in s.items() if k != "the rest") or 1
        for row, name in enumerate(told):
            ms, y = s.get(name, 0), row - 0.4 + height * (i + 0.5)
            shade = colour if len(runs) > 1 else PHASES.get(phase_of(name), FAINT)
            ax.barh(y, ms, height * 0.9, color=shade, label=plain(run.name) if row == 0 else None)
            share = f"  {100 * ms / total:.0f}%" if len(runs) == 1 else ""
            ax.text(ms + widest / 90, y, f"{ms:.3g}{share}", va="center", color=INK,
                    fontsize=max(6, 9.5 - len(runs)))  # fmt: skip
    ax.set_yticks(range(len(told)), [plain(spelled(n)) for n in told])
    ax.invert_yaxis()
    ax.set_xlim(0, widest * 1.2 or 1)
    finish(ax, "Where a micro-step goes", "", legend=len(runs) > 1)
    ax.set_xlabel(f"ms{labels(runs)}", color=FAINT, fontsize=9)
    ax.grid(axis="y", visible=False)


PANELS: dict[str, tuple[Draw, tuple[float, float]]] = {  # name: drawing, inches
    "loss": (draw_loss, (10.4, 4.0)),
    "loss-tokens": (draw_loss_by_tokens, (10.4, 4.0)),
    "loss-time": (draw_loss_by_time, (10.4, 4.0)),
    "lr": (draw_rate, (5.1, 2.7)),
    "norm": (draw_norm, (5.1, 2.7)),
    "speed": (draw_speed, (5.1, 2.7)),
    "time": (draw_time, (5.1, 2.7)),
    "parts": (draw_parts, (10.4, 4.6)),
}
SMALL: dict[str, Any] = {"fontsize": 8.5, "color": FAINT, "loc": "right"}


def panel(name: str, runs: Sequence[History]) -> Any:
    """A panel as a figure of its own."""
    draw, size = PANELS[name]
    figure = new_figure(size)
    draw(figure.add_subplot(), runs)
    return figure


def svg(name: str, runs: Sequence[History]) -> str:
    """A panel as a data URI."""
    out = io.BytesIO()
    save(panel(name, runs), out, format="svg", metadata={"Date": None, "Creator": "anefast"})
    return "data:image/svg+xml;base64," + base64.b64encode(out.getvalue()).decode()


def png(runs: Sequence[History], title: str) -> bytes:
    """Every panel on one sheet."""
    figure = new_figure((12.5, 15))
    figure.suptitle(
        plain(title) + "\n", x=0.01, ha="left", fontsize=13, color=INK, fontweight="bold"
    )
    rows = (("loss",), ("lr", "norm"), ("speed", "time"), ("parts",))
    parts = figure.subfigures(len(rows), 1, height_ratios=(1.35, 1, 1, 1.5), hspace=0.04)
    for part, names in zip(parts, rows, strict=True):
        for name, ax in zip(names, part.subplots(1, len(names), squeeze=False)[0], strict=True):
            PANELS[name][0](ax, runs)
    out = io.BytesIO()
    save(figure, out, format="png", dpi=110)
    return out.getvalue()


def new_figure(size: tuple[float, float]) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(
            "[report] plots need matplotlib, which is not installed. "
            "Hint: pip install 'anefast[plot]'."
        ) from None
    return Figure(figsize=size, layout="constrained", facecolor="white")


def save(figure: Any, out: io.BytesIO, **how: Any) -> None:
    """Draws it. A name may have characters that the font lacks; that is no error."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(out, **how)


def plain(text: str) -> str:
    """Text that anybody may have written, as matplotlib shows it unread: it takes what stands
    between dollars as a formula, and leaves out a label that begins with an underscore."""
    line = shown(text, 60).replace("$", r"\$")
    return f" {line}" if line.startswith("_") else line


def finish(ax: Any, title: str, unit: str, legend: bool = False) -> None:
    """Applies the settings that all panels share."""
    ax.set_title(title, loc="left", fontsize=11.5, fontweight="bold", color=INK)
    ax.set_xlabel("update", color=FAINT, fontsize=9)
    if unit:
        ax.set_ylabel(unit, color=FAINT, fontsize=9)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color("#cbd2d9")
    ax.tick_params(colors=FAINT, labelsize=9, labelcolor=INK)
    ax.set_axisbelow(True)
    ax.grid(color=GRID, lw=0.8)
    if not ax.has_data():
        ax.text(0.5, 0.5, "nothing recorded yet", transform=ax.transAxes, ha="center", color=FAINT)
    elif legend:
        ax.legend(frameon=False, fontsize=9, labelcolor=INK)


def smooth_line(
    ax: Any, s: Series, colour: str, label: str | None = None, raw: bool = True
) -> None:
    """Draws a running mean, with the raw values faint beneath."""
    if not s:
        return
    if raw and smoothing(s) > 1:
        r = thin(s)
        ax.plot(r.steps, r.values, color=colour, lw=0.8, alpha=0.25)
    t = smoothed(s)
    ax.plot(t.steps, t.values, color=colour, lw=1.8, label=label)


def smoothing(s: Series) -> int:
    """The number of neighbours that each mean covers."""
    return max(1, min(len(s.values), MOST_SMOOTHED) // 60)


def smoothed(s: Series) -> Series:
    """The series as running means, at most MOST_POINTS of them."""
    if not s:
        return s
    s = thin(s, MOST_SMOOTHED)
    width = smoothing(s)
    padded = np.pad(np.array(s.values), (width // 2, width - 1 - width // 2), mode="edge")
    return thin(Series(s.steps, np.convolve(padded, np.ones(width) / width, "valid").tolist()))


def thin(s: Series, most: int = MOST_POINTS) -> Series:
    """The series reduced to at most `most` points, each the mean of a bin."""
    steps, values = binned(np.array(s.steps, float), np.array([s.values]), most)
    return Series(steps.tolist(), values[0].tolist())


def binned(
    steps: npt.NDArray[np.float64], rows: npt.NDArray[np.float64], most: int = MOST_POINTS
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Means over stretches so long that at most `most` are left; rows (n, points)."""
    if len(steps) <= most:
        return steps, rows
    edges = np.linspace(0, len(steps), most + 1).astype(int)
    sizes = np.diff(edges)
    means = np.add.reduceat(np.vstack([steps, rows]), edges[:-1], axis=1) / sizes
    return means[0], means[1:]


def coloured(runs: Sequence[History]) -> list[tuple[list[History], str]]:
    """The groups of runs that differ in their seed alone, with a colour each."""
    return list(zip(groups(runs), cycle(RUNS), strict=False))


def colours(runs: Sequence[History]) -> list[str]:
    """The colour of each run."""
    found = {id(run): colour for group, colour in coloured(runs) for run in group}
    return [found[id(run)] for run in runs]


def labels(runs: Sequence[History]) -> str:
    """The label of a run's times, such as ' (emulated)'."""
    found = list(dict.fromkeys(run.label for run in runs if run.label))
    return plain(f" ({', '.join(found)})") if found else ""


def spelled(name: str) -> str:
    """'backward/dw_run' -> 'backward: dW run'."""
    phase, _, component = name.partition("/")
    if not component:
        return "Python" if phase == "python" else phase
    return f"{phase}: {component.replace('dw_', 'dW ').replace('_', '-')}"
