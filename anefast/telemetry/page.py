"""The report as one HTML page: no script, no network, everything inside.

A content security policy says so to the browser as well. What a run holds is history.py's, what
is drawn figures.py's; here is the text around it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from anefast import _C
from anefast.errors import shown, visible
from anefast.telemetry import breakdown
from anefast.telemetry.compare import groups, named, unit_of
from anefast.telemetry.figures import PANELS, coloured, svg
from anefast.telemetry.history import History

ALTERNATIVES = {
    "loss": "training and validation loss over the updates",
    "loss-tokens": "training and validation loss over the tokens",
    "loss-time": "training and validation loss over the time of training",
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
    several = len(runs) > 1
    images = {
        name: f'<img class="{name}" src="{svg(name, runs)}" alt="{ALTERNATIVES[name]}">'
        for name in PANELS
    }
    losses = tabs({axis: images.pop(name) for axis, name in LOSSES.items()})
    wide = f'<div class="scroll">{images.pop("parts")}</div>'
    plots = f'<section class="plots">{losses}{"".join(images.values())}{wide}</section>'
    cards = [summary(run, alone=not several) for run in runs]
    first = [ranking(runs), legend(runs), plots, *cards] if several else [*cards, plots]
    body = [f"<h1>{said}</h1>", *first]
    if several:
        body.append(differences(runs))
    for run in runs:
        body.append(times(run, named=several))
    body.append(glossary())
    return TEMPLATE.replace("{title}", escape(title)).replace(
        "{body}", "\n".join(filter(None, body))
    )


LOSSES = {"by update": "loss", "by tokens": "loss-tokens", "by time": "loss-time"}


def tabs(pictures: Mapping[str, str]) -> str:
    """Tabs that show one of several pictures, without a script."""
    buttons = "".join(
        f'<input type="radio" name="axis" id="axis{i}"{" checked" * (i == 0)}>'
        f'<label for="axis{i}">{escape(name)}</label>'
        for i, name in enumerate(pictures)
    )
    return f'<div class="tabs">{buttons}{"".join(pictures.values())}</div>'


def ranking(runs: Sequence[History]) -> str:
    """The runs as a table, in their order: the best first."""
    unit = unit_of(runs)
    rows = []
    for group in groups(runs):
        spread = [unit.best(run) for run in group]
        for run in group:
            val = unit.val(run)
            best = min(zip(val.values, val.steps, strict=True), default=(math.nan, "-"))
            tokens = f"{int(run.series('tokens').last):,}" if run.series("tokens") else "0"
            rows.append([run.name, number(best[0]), str(best[1]), tokens, run.state])
        if len(group) > 1 and all(map(math.isfinite, spread)):
            mean, least, most = sum(spread) / len(spread), min(spread), max(spread)
            told = f"{mean:.4f} ({least:.4f} to {most:.4f})"
            rows.append([f"mean of {len(group)} seeds", told, "", "", ""])
    head = ["best first", f"validation, {unit.words}", "at update", "tokens", "state"]
    return table(head, rows)


def with_error(value: float, error: float) -> str:
    """'0.7348 ± 0.0040'; a run of before has no errors."""
    return f"{number(value)} ± {error:.4f}" if math.isfinite(error) else number(value)


def summary(run: History, alone: bool) -> str:
    """The run's name, state and main numbers, and its sample."""
    rate, unit = run.series("tok_per_s"), unit_of([run])
    recent, floor = rate.values[-100:], unit.floor(run)
    cards = [
        (f"{unit.words}, best", number(unit.best(run))),
        ("floor of the data", number(floor))
        if floor is not None
        else ("training, last update", number(unit.train(run).last)),
        ("nats per token", with_error(run.series("val/loss").last, run.series("val/error").last)),
        *(
            [("nats per token, average of weights", number(run.series("val/ema").last))]
            if run.series("val/ema")
            else []
        ),
        ("updates", f"{run.step:,} of {run.steps:,}"),
        ("tokens", f"{int(run.series('tokens').last):,}" if run.series("tokens") else "0"),
        ("tokens/s", f"{sum(recent) / len(recent):,.0f}" if recent else "-"),
    ]
    boxes = "".join(f"<div><b>{escape(v)}</b><span>{escape(k)}</span></div>" for k, v in cards)
    s = run.settings
    facts = ", ".join(
        [
            f"preset {shown(s.get('preset'))}",
            f"plan {shown(s.get('plan'))}",
            f"batch {s.get('data.batch')} of {s.get('data.seq_len')} tokens",
            f"accumulation {s.get('optim.accumulation')}"
            + (f", ramp {shown(s['optim.ramp'])}" if s.get("optim.ramp") else ""),
        ]
    )
    return (
        f'<section class="run"><h2>{escape(run.name)} <em class="{run.state}">{run.state}</em></h2>'
        f"<p>{escape(facts)}<br>{escape(run.device)}"
        f"{escape(f'; times are {run.label}') if run.label else ''}</p>"
        f'<div class="cards">{boxes}</div>{notes(run)}{sample(run, alone)}</section>'
    )


def notes(run: History) -> str:
    """The parts of the run that could not be read."""
    return "".join(f"<p>{escape(note)}</p>" for note in run.notes)


def legend(runs: Sequence[History]) -> str:
    """The legend: the colour of each run, or of each set of seeds."""
    items = "".join(
        f'<span><i style="background:{colour}"></i>{escape(named(group))}</span>'
        for group, colour in coloured(runs)
    )
    return f'<p class="legend">{items}</p>'


def differences(runs: Sequence[History]) -> str:
    """The settings that differ between the runs."""
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
        f"training thread did adds up to the whole; Python is the time outside all spans.</p>"
        f"<pre>{escape(visible(breakdown.table(run.summary)))}</pre>"
    )


def glossary() -> str:
    """The meaning of each component's name, in the words of csrc/span.h."""
    rows = [[breakdown.spelled(c.name.lower()), str(c.__doc__)] for c in _C.Component]
    return f"<details><summary>What the components are</summary>{table(['', ''], rows)}</details>"


def sample(run: History, alone: bool) -> str:
    """The sample at the run's end; folded where there are other runs."""
    if not run.sample:
        return ""
    title = f"a sample, update {run.step:,}"
    text = f"<blockquote>{escape(run.sample)}</blockquote>"
    if alone:
        return f"<figure><figcaption>{title}</figcaption>{text}</figure>"
    return f"<details><summary>{title}</summary>{text}</details>"


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
em.finished, em.ended { background: #d8f0e0; color: #226944 }
em.interrupted { background: #fdeacc; color: #8a5a10 }
section.run, section.plots, figure, pre, .wide { background: #fff; border: 1px solid #e4e7eb;
     border-radius: 10px; padding: 18px 20px; margin: 0 0 16px; overflow-x: auto }
section.run p { color: #616e7c; margin: 0 0 14px }
.cards { display: grid; grid-template-columns: repeat(6, 1fr); gap: 12px }
.cards div { background: #f5f7fa; border-radius: 8px; padding: 10px 12px; min-width: 0 }
.cards b { display: block; font-size: 18px; font-variant-numeric: tabular-nums; white-space: nowrap;
     overflow: hidden; text-overflow: ellipsis }
.cards span { color: #616e7c; font-size: 12.5px; display: block; line-height: 1.3;
     white-space: nowrap; overflow: hidden; text-overflow: ellipsis }
.tabs { grid-column: 1 / -1 } .tabs input { position: absolute; opacity: 0 }
.tabs label { cursor: pointer; padding: 3px 12px; border-radius: 8px; color: #52606d }
.tabs input:checked + label { background: #e4e7eb; color: #1f2933; font-weight: 600 }
.tabs input:focus-visible + label { outline: 2px solid #2f6db5 }
.tabs img { display: none; margin-top: 8px }
#axis0:checked ~ img.loss, #axis1:checked ~ img.loss-tokens,
#axis2:checked ~ img.loss-time { display: block }
.plots { display: grid; grid-template-columns: 1fr 1fr; gap: 14px }
.plots img { width: 100%; height: auto }
.plots .scroll { grid-column: 1 / -1 }
.legend span { margin-right: 18px } .legend i { display: inline-block; width: 12px; height: 12px;
     border-radius: 3px; margin-right: 6px; vertical-align: -1px }
pre { font: 12.5px/1.45 ui-monospace, monospace }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
details { margin: 0 0 16px } summary { cursor: pointer; margin-bottom: 8px }
th, td { text-align: left; padding: 5px 18px 5px 0; border-bottom: 1px solid #e4e7eb }
figcaption { color: #616e7c; font-size: 13px; margin-bottom: 6px }
blockquote { margin: 0; white-space: pre-wrap; font-family: Georgia, serif }
figure { margin-top: 16px; background: #fbfcfd } section.run details { margin: 14px 0 0 }
@media (max-width: 980px) { .cards { grid-template-columns: repeat(3, 1fr) } }
@media (max-width: 560px) { main { padding: 16px 10px 40px } .cards, .plots { gap: 8px }
     .cards { grid-template-columns: 1fr 1fr } section.run, section.plots { padding: 12px }
     .tabs, .scroll { overflow-x: auto } .tabs img, .plots .scroll img { width: 680px }
     th, td { padding-right: 10px } }
@media (max-width: 700px) { .plots { grid-template-columns: minmax(0, 1fr) } }
</style>
</head>
<body><main>
{body}
</main></body>
</html>
"""
