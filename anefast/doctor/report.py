"""The findings as one JSON document and as text to read. No checks, no device."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anefast.chips.behaviour import SEED
from anefast.doctor.result import Number, Result
from anefast.files import write_json
from anefast.runtime.doctor_facts import Learned

FORMAT = 1  # of the document, counted up when a field means something else
PROVEN = "cross-compiled and harness-tested and has not yet run on Apple hardware"
MARKS = {"passed": "ok", "failed": "FAILED", "skipped": "-", "crashed": "CRASHED"}
MARKS["timed out"] = "TIMED OUT"


@dataclass(frozen=True)
class Report:
    """Everything found. device: name, description and label of the one examined. ane: why there is
    none (empty where there is), what is known of the framework, and every private method in use."""

    device: dict[str, str]
    machine: dict[str, str]
    ane: dict[str, Any]
    results: Sequence[Result]
    learned: Learned
    asked: dict[str, Any]

    def plain(self) -> dict[str, Any]:
        """The document, without names or paths that identify the user or the machine."""
        from anefast import __version__

        document = {
            "tool": "anefast.doctor",
            "format": FORMAT,
            "version": __version__,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "asked": self.asked,
            "device": self.device,
            "machine": self.machine,
            "ane": {**self.ane, "private_path": private_path(self)},
            "published": SEED,
            "results": [r.plain() for r in self.results],
            "learned": {
                "broken": list(self.learned.broken),
                "dialects": list(self.learned.dialects),
                "weights": list(self.learned.weights),
                "ports": list(self.learned.ports),
                "seen": list(self.learned.seen),
                "dispatch_us": self.learned.dispatch_us,
            },
        }
        cleaned: dict[str, Any] = json.loads(_without_home(json.dumps(document)))
        return cleaned


def private_path(report: Report) -> str:
    """Whether the private framework took a plain program: some systems refuse all (macOS 27.0, as
    another project reports: jundot/omlx issues 3044 and 3124)."""
    tried = [r for r in report.results if r.name == "dialects"]
    if report.device["name"] != "ane" or not tried:
        return "not tried"
    return "takes programs" if tried[0].passed else f"refused: {tried[0].said}"


def _without_home(text: str) -> str:
    try:
        home = str(Path.home())
    except RuntimeError:
        return text
    return text.replace(home, "~") if len(home) > 1 else text


def write(report: Report, path: Path) -> None:
    """The document as a file. FileError where it cannot be written."""
    write_json(path, report.plain(), "doctor")


# Text.


def heading(report: Report) -> list[str]:
    """Lines about the machine and its ANE."""
    lines = [f"{name + ':':12} {value}" for name, value in report.machine.items()]
    lines.append(f"{'framework:':12} {report.ane['framework']}")
    lines += selectors(report.ane["selectors"])
    if why := report.ane["why_not"]:
        lines.append(f"{'ane:':12} none, so the host executor is examined instead. {why}")
        lines.append(f"{'':12} The path to it is {PROVEN}.")
    lines.append(
        f"{'device:':12} {report.device['description']}; numbers are {report.device['label']}"
    )
    if chip := report.asked["chip"]:
        lines.append(f"{'':12} all that follows is the host executor's emulation of {chip}")
    return lines


def selectors(table: Iterable[dict[str, Any]]) -> list[str]:
    """The private methods: a line for all of them, or one for each where some are missing."""
    rows = list(table)
    found = sum(bool(row["found"]) for row in rows)
    if not found:
        return [
            f"{'methods:':12} {len(rows)} private ones would be used; there was none to look up"
        ]
    lines = [f"{'methods:':12} {found} of {len(rows)} private methods in use were found"]
    return lines + [
        f"{'':12} missing: {row['kind']}[{row['class']} {row['selector']}]"
        + (", needed" if row["required"] else ", optional")
        for row in rows
        if not row["found"]
    ]


def line(result: Result) -> str:
    """One check."""
    numbers = "" if result.group == "probes" else ", ".join(map(figure, result.numbers))
    said = "; ".join(part for part in (result.said, numbers) if part)
    return f"{MARKS[result.status]:9} {result.name:22} {said}".rstrip()


def figure(number: Number) -> str:
    unit = f" {number.unit}" if number.unit else ""
    return f"{number.name} {digits(number.value)}{unit} ({number.label})"


def digits(value: float) -> str:
    """Three or more digits, never an exponent."""
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def operations(results: Sequence[Result]) -> list[str]:
    """The smoke test of all operations in a few lines: names of what passed, a line per failure."""
    group = [r for r in results if r.group == "operations"]
    good = [r.name.removeprefix("op ") for r in group if r.passed]
    worst = max((n.value for r in group for n in r.numbers), default=0.0)
    label = group[0].numbers[0].label if group and group[0].numbers else "emulated"
    lines = [
        f"operations against NumPy: {len(good)} of {len(group)} right, "
        f"at worst {worst:.2g}% off ({label})"
    ]
    return lines + [line(r) for r in group if not r.passed]


def table(results: Sequence[Result]) -> list[str]:
    """A table of the probes' figures beside the published ones."""
    rows = [(r.name.removeprefix("probe "), n) for r in results for n in r.numbers]
    rows = [(probe, n) for probe, n in rows if n.published or n.unit in ("us", "ms")]
    if not rows:
        return []
    label = sorted({n.label for _, n in rows})
    width = max(len(n.name) for _, n in rows) + 1
    lines = ["", f"{'':{width}} {'here, ' + ' or '.join(label):>28} {'M1 Pro, published':>20}"]
    before = ""
    for probe, n in rows:
        lines += [probe] if probe != before else []
        before = probe
        here = f"{digits(n.value)} {n.unit}" + (f" ({n.label})" if len(label) > 1 else "")
        there = f"{digits(n.published)} {n.unit}" if n.published else "-"
        lines.append(f"{n.name:{width}} {here:>28} {there:>20}")
    return [*lines, f"published: {SEED}"]


def verdict(report: Report) -> list[str]:
    """Advice that follows from the results."""
    learned, name = report.learned, report.device["name"]
    if chip := report.asked["chip"]:
        name = f"{name} as {chip}, emulated,"
    if (path := private_path(report)).startswith("refused"):
        return [
            f"the private path is {path}. macOS 27.0 was reported to refuse it where 26.6.2 takes "
            f"it (jundot/omlx 3044, 3124); this is build {report.machine['build']}"
        ]
    if learned.broken:
        passed_over = "" if chip else "; device auto will not choose it on this machine"
        return [f"{name} is broken for training: {', '.join(learned.broken)}{passed_over}"]
    return [
        f"{name} works: dialects {_list(learned.dialects)}; weights {_list(learned.weights)}; "
        f"ports {_list(learned.ports)}; also {_list(learned.seen)}; "
        f"dispatch {digits(learned.dispatch_us)} us ({report.device['label']})"
    ]


def _list(words: Sequence[str]) -> str:
    return ", ".join(words) or "none"
