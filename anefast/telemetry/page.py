"""The report as one HTML page: no script, no network, everything inside.

A content security policy says so to the browser as well. What a run holds is history.py's, what
is drawn figures.py's; here is the text around it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from anefast import _C
from anefast.errors import shown, visible
from anefast.telemetry import breakdown
from anefast.telemetry.figures import PANELS, colours, svg
from anefast.telemetry.history import History

ALTERNATIVES = {
    "loss": "training and validation loss over the updates",
    "lr": "learning rate over the updates",
    "norm": "gradient norm over the updates",
    "speed": "tokens per second over the updates",
    "time": "time of each update by phase",
    "parts": "milliseconds of a micro-step by component",
}


def page(runs: Sequence[History]) -> str:
    """A whole document."""
    title = f"anefast: {', '.join(run.name for run in runs)}"
    said = "Training report" if len(runs) == 1 else f"{len(runs)} runs compared"
    body = [f"<h1>{said}</h1>", "".join(summary(r) for r in runs), legend(runs)]
    images = "".join(
        f'<img class="{name}" src="{svg(name, runs)}" alt="{ALTERNATIVES[name]}">'
        for name in PANELS
    )
    body.append(f'<section class="plots">{images}</section>')
    if len(runs) > 1:
        body.append(differences(runs))
    for run in runs:
        body.append(times(run, named=len(runs) > 1))
    body.append(glossary())
    body.append(samples(runs))
    return TEMPLATE.replace("{title}", escape(title)).replace(
        "{body}", "\n".join(filter(None, body))
    )


def summary(run: History) -> str:
    """Name, state and the numbers people ask for first."""
    rate, train = run.series("tok_per_s"), run.series("train/loss")
    val = run.series("val/loss")
    best = min(val.values, default=math.nan)
    recent = rate.values[-100:]
    cards = [
        ("updates", f"{run.step:,} of {run.steps:,}"),
        ("training loss", number(train.last)),
        ("validation loss", number(val.last)),
        ("best validation", number(best)),
        ("tokens", f"{int(run.series('tokens').last):,}" if run.series("tokens") else "0"),
        (
            f"tokens/s, {run.label or 'unlabelled'}",
            f"{sum(recent) / len(recent):,.0f}" if recent else "-",
        ),
    ]
    boxes = "".join(f"<div><b>{escape(v)}</b><span>{escape(k)}</span></div>" for k, v in cards)
    s = run.settings
    facts = ", ".join(
        [
            f"preset {shown(s.get('preset'))}",
            f"plan {shown(s.get('plan'))}",
            f"batch {s.get('data.batch')} of {s.get('data.seq_len')} tokens",
            f"accumulation {s.get('optim.accumulation')}",
        ]
    )
    return (
        f'<section class="run"><h2>{escape(run.name)} <em class="{run.state}">{run.state}</em></h2>'
        f"<p>{escape(facts)}<br>{escape(run.device)}"
        f"{escape(f'; times are {run.label}') if run.label else ''}</p>"
        f'<div class="cards">{boxes}</div>{notes(run)}</section>'
    )


def notes(run: History) -> str:
    """What of the run could not be read."""
    return "".join(f"<p>{escape(note)}</p>" for note in run.notes)


def legend(runs: Sequence[History]) -> str:
    """Which colour is which run."""
    if len(runs) == 1:
        return ""
    items = "".join(
        f'<span><i style="background:{c}"></i>{escape(r.name)}</span>'
        for r, c in zip(runs, colours(runs), strict=True)
    )
    return f'<p class="legend">{items}</p>'


def differences(runs: Sequence[History]) -> str:
    """The settings in which the runs are not alike."""
    names = sorted({name for run in runs for name in run.settings} - {"out", "resume", "trace"})
    rows = [
        [name, *(shown(run.settings.get(name, "-")) for run in runs)]
        for name in names
        if len({str(run.settings.get(name)) for run in runs}) > 1
    ]
    if not rows:
        return "<h2>Settings</h2><p>All runs have the same.</p>"
    return "<h2>Settings that differ</h2>" + table(["", *(run.name for run in runs)], rows)


def times(run: History, named: bool) -> str:
    """The breakdown table of the last session."""
    if not run.summary or not run.summary["micro_steps"]:
        return ""
    of = f" of {escape(run.name)}" if named else ""
    steps = f"updates {run.summary['first_step']} to {run.summary['last_step']}"
    label, device = (shown(run.summary[name]) for name in ("label", "device"))
    return (
        f"<h2>Time{of}, component by component</h2>"
        f"<p>{escape(steps)} of its last session, {escape(label)} on {escape(device)}. What the "
        f"training thread did adds up to the whole; Python is what no span accounts for.</p>"
        f"<pre>{escape(visible(breakdown.table(run.summary)))}</pre>"
    )


def glossary() -> str:
    """What the names of components mean, in the words of csrc/span.h."""
    rows = [[breakdown.spelled(c.name.lower()), str(c.__doc__)] for c in _C.Component]
    return f"<details><summary>What the components are</summary>{table(['', ''], rows)}</details>"


def samples(runs: Iterable[History]) -> str:
    told = [run for run in runs if run.sample]
    if not told:
        return ""
    parts = [
        f"<figure><figcaption>{escape(run.name)}, update {run.step:,}</figcaption>"
        f"<blockquote>{escape(run.sample)}</blockquote></figure>"
        for run in told
    ]
    return "<h2>Samples</h2>" + "".join(parts)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def row(cells: Iterable[Any], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(str(c))}</{tag}>" for c in cells) + "</tr>"

    body = "".join(row(cells, "td") for cells in rows)
    return f'<div class="wide"><table>{row(head, "th")}{body}</table></div>'


def number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "-"


TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
:root { color-scheme: light }
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2933; background: #f5f7fa; margin: 0 }
main { max-width: 1080px; margin: 0 auto; padding: 28px 20px 60px }
h1 { font-size: 24px; margin: 0 0 18px }
h2 { font-size: 18px; margin: 32px 0 8px }
section.run h2 { margin-top: 0 }
em { font-style: normal; font-size: 12px; font-weight: 600; padding: 2px 9px; border-radius: 9px;
     vertical-align: 2px; margin-left: 6px; background: #e4e7eb; color: #52606d }
em.running { background: #dbeafe; color: #1d4f91 }
em.finished { background: #d8f0e0; color: #226944 }
em.interrupted { background: #fdeacc; color: #8a5a10 }
section.run, section.plots, figure, pre, .wide { background: #fff; border: 1px solid #e4e7eb;
     border-radius: 10px; padding: 18px 20px; margin: 0 0 16px; overflow-x: auto }
section.run p { color: #616e7c; margin: 0 0 14px }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: 12px }
.cards div { background: #f5f7fa; border-radius: 8px; padding: 10px 12px }
.cards b { display: block; font-size: 18px; font-variant-numeric: tabular-nums }
.cards span { color: #616e7c; font-size: 12.5px }
.plots { display: grid; grid-template-columns: 1fr 1fr; gap: 14px }
.plots img { width: 100%; height: auto; display: block }
.plots img.loss, .plots img.parts { grid-column: 1 / -1 }
.legend span { margin-right: 18px } .legend i { display: inline-block; width: 12px; height: 12px;
     border-radius: 3px; margin-right: 6px; vertical-align: -1px }
pre { font: 12.5px/1.45 ui-monospace, monospace }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
details { margin: 0 0 16px } summary { cursor: pointer; margin-bottom: 8px }
th, td { text-align: left; padding: 5px 18px 5px 0; border-bottom: 1px solid #e4e7eb }
figcaption { color: #616e7c; font-size: 13px; margin-bottom: 6px }
blockquote { margin: 0; white-space: pre-wrap; font-family: Georgia, serif }
@media (max-width: 700px) { .plots { grid-template-columns: 1fr } }
</style>
</head>
<body><main>
{body}
</main></body>
</html>
"""
