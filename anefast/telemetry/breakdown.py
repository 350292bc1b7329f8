"""The summary of a timeline as a table: component, milliseconds per micro-step, share, count, rate.

>>> part = {"component": "evaluate", "ms": 30.0, "count": 6, "flops": 6 * 10**9, "bytes": 0}
>>> updates = {"ms": 40.0, "python_ms": 0.5, "beside": [], "programs": [],
...            "components": [{"phase": "forward", **part}]}
>>> print(table({"label": "emulated", "micro_steps": 2, "updates": updates, "lost": 0}))
means of 2 micro-steps, emulated
per micro-step                         ms       %    count  GFLOP/s     GB/s
forward                            15.000    75.0
  evaluate                         15.000    75.0      3.0    200.0
Python                              0.250     1.2
in all                             20.000   100.0
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from anefast.schema import line as line_of
from anefast.schema import number, record, several, whole

PHASES = ("forward", "backward", "update", "between", "validation", "save")
MOST_PROGRAMS, NAMES = 12, 32  # rows, and the width of what they are called
ACCUMULATION = (
    "accumulation has no row: a gradient is added to its fp32 sum as it is multiplied, that of a\n"
    "layer in dW run, the others in classifier, elementwise and embedding of backward."
)

Summary = Mapping[str, Any]

# What a summary must look like that is read from a file.
_COUNTED = {"ms": number(0), "count": whole(1), "flops": number(0), "bytes": number(0)}
_BESIDE = {"component": line_of(80), "ms": number(0), "count": whole(1)}
_PARTS = record(
    {
        "ms": number(0),
        "python_ms": number(0),
        "components": several(record({"phase": line_of(80), "component": line_of(80), **_COUNTED})),
        "beside": several(record(_BESIDE)),
        "programs": several(record({"name": line_of(400), **_COUNTED})),
    }
)
SUMMARY = record(
    {
        "label": line_of(80),
        "device": line_of(400),
        "first_step": whole(),
        "last_step": whole(),
        "micro_steps": whole(),
        "updates": _PARTS,
        "between": _PARTS,
        "lost": whole(),
    }
)


def line(summary: Summary) -> str:
    """One line: the time of a micro-step, by component."""
    parts, total = summary["updates"], summary["updates"]["ms"]
    share = [(100 * ms(parts, phase) / total, phase) for phase in PHASES]
    said = [f"{phase} {percent:.0f}%" for percent, phase in share if percent >= 0.05]
    return (
        f"{total / summary['micro_steps']:.1f} ms per micro-step: "
        f"{', '.join(said)}, "
        f"Python {100 * parts['python_ms'] / total:.1f}%{_lost(summary)}"
    )


def table(summary: Summary) -> str:
    """The whole breakdown. The training thread's times add up to the wall time."""
    steps, parts = summary["micro_steps"], with_dw_rate(summary["updates"])
    rows = [f"means of {steps} micro-steps, {summary['label']}", heading("per micro-step")]
    for phase in PHASES:
        found = [c for c in parts["components"] if c["phase"] == phase]
        if not found:
            continue
        rows.append(entry(phase, ms(parts, phase), parts["ms"], steps))
        for c in found:
            rows.append(entry(f"  {spelled(c['component'])}", c["ms"], parts["ms"], steps, c))
    rows.append(entry("Python", parts["python_ms"], parts["ms"], steps))
    rows.append(entry("in all", parts["ms"], parts["ms"], steps))
    if parts["beside"]:
        rows += ["", "beside it, on other threads"]
        for c in parts["beside"]:
            if c["component"] == "dw_queued":  # many wait at once: their mean says more than a sum
                each = f"{'  dW in the queue, each':<{NAMES}} {c['ms'] / c['count']:8.3f}"
                rows.append(f"{each} {'':7} {c['count'] / steps:8.1f}")
            else:
                rows.append(entry(f"  {spelled(c['component'])}", c["ms"], parts["ms"], steps, c))
    if any(c["component"] == "dw_run" for c in parts["components"] + parts["beside"]):
        rows += ["", ACCUMULATION]
    if parts["programs"]:
        rows += ["", *programs(parts["programs"], parts["ms"], steps)]
    if "between" in summary and summary["between"]["components"]:
        rows += ["", *between(summary["between"], parts["ms"])]
    if summary["lost"]:
        rows += ["", _lost(summary).removeprefix("; ")]
    return "\n".join(rows)


def _lost(summary: Summary) -> str:
    """A warning if the times do not add up; else empty."""
    lost = summary["lost"]
    said = f"; {lost:,} spans were lost, for want of memory: their time is counted as Python's"
    return said if lost else ""


def with_dw_rate(parts: Summary) -> Summary:
    """Weight gradients are counted where they are submitted; their rate belongs where they run."""
    lists = {name: [dict(c) for c in parts[name]] for name in ("components", "beside")}
    every = [c for rows in lists.values() for c in rows]
    flops = sum(c.get("flops", 0) for c in every if c["component"] == "dw_submit")
    ran = sum(c["ms"] for c in every if c["component"] == "dw_run")
    for c in every:
        if c["component"] == "dw_submit":
            c["flops"] = 0
        if c["component"] == "dw_run" and ran:
            c["flops"] = flops * c["ms"] / ran
    return {**parts, **lists}


def programs(rows: Sequence[Summary], total: float, steps: int) -> list[str]:
    """Programs by the time they took, most first; the rest in one row."""
    rows = sorted(rows, key=lambda r: -r["ms"])
    told, rest = rows[:MOST_PROGRAMS], rows[MOST_PROGRAMS:]
    if len(rest) == 1:
        told, rest = rows, []
    out = [heading("programs (bytes of ports)")]
    out += [entry(f"  {r['name']}", r["ms"], total, steps, r) for r in told]
    if rest:
        names = ("ms", "count", "flops", "bytes")
        added = {name: sum(r[name] for r in rest) for name in names}
        out.append(entry(f"  {len(rest)} more", added["ms"], total, steps, added))
    return out


def between(parts: Summary, training_ms: float) -> list[str]:
    """Validation, checkpoints and the rest, in seconds of the session."""
    said = [f"{phase} {ms(parts, phase) / 1e3:.2f}" for phase in PHASES if ms(parts, phase) >= 10]
    left = f"Python {parts['python_ms'] / 1e3:.2f}"
    return [
        f"seconds: {training_ms / 1e3:.2f} in updates, {parts['ms'] / 1e3:.2f} between them "
        f"({', '.join([*said, left])})"
    ]


def heading(what: str) -> str:
    return f"{what:<{NAMES}} {'ms':>8} {'%':>7} {'count':>8} {'GFLOP/s':>8} {'GB/s':>8}"


def entry(what: str, spent: float, total: float, steps: int, of: Summary | None = None) -> str:
    """A row: milliseconds and count per micro-step; rates where the work is known."""
    text = f"{what:<{NAMES}} {spent / steps:8.3f} {100 * spent / total if total else 0:7.1f}"
    if of is None:
        return text
    text += f" {of['count'] / steps:8.1f}"
    rates = [f"{of.get(k, 0) / spent / 1e6:8.1f}" if of.get(k) and spent else " " * 8
             for k in ("flops", "bytes")]  # fmt: skip
    return f"{text} {rates[0]} {rates[1]}".rstrip()


def ms(parts: Summary, phase: str) -> float:
    """Milliseconds of all components of a phase."""
    return float(sum(c["ms"] for c in parts["components"] if c["phase"] == phase))


def spelled(component: str) -> str:
    """'dw_wait' -> 'dW wait'."""
    return component.replace("dw_", "dW ").replace("_", "-")
