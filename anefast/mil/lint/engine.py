"""The linter: text in, findings out.

Runs every check whose rules apply to the target, and orders what they found. Which checks there are
is the business of checks/, how findings look of report.py, and rewriting of fix.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from anefast.chips.behaviour import Chip
from anefast.mil.lint.catalogue import rule
from anefast.mil.lint.checks import ON_FUNCTION, ON_SOURCE, Finding, Platform, found
from anefast.mil.lint.source import Source, read

COMPILES = 119


def lint(
    text: bytes | str, path: Path | None = None, target: Platform | None = None
) -> list[Finding]:
    """Findings in MIL text, by position. `path`: its file, beside which weight files are sought;
    without one they are not looked at. Never raises for what the text says."""
    raw = text.encode() if isinstance(text, str) else text
    return check(read(raw, path), target or Platform())


def check(source: Source, target: Platform) -> list[Finding]:
    """Findings in a text that was read."""
    findings: list[Finding] = []

    def wanted(ids: Iterable[str]) -> bool:
        return any(rule(id).applies(target.chip, target.os) for id in ids)

    for ids, on_source in ON_SOURCE:
        if wanted(ids):
            findings += on_source(source, target)
    for ids, on_function in ON_FUNCTION:
        if wanted(ids):
            for function in source.functions:
                findings += on_function(source, function, target)
    kept = {
        (f.at, f.rule.id, f.message): aimed(replace(f, path=source.path), target)
        for f in findings
        if f.rule.applies(target.chip, target.os)
    }
    return sorted(kept.values(), key=lambda f: (f.at, f.rule.id))


def aimed(finding: Finding, target: Platform) -> Finding:
    """Without a chip, an uncertain rule of some chips is a note, never rewritten."""
    if target.chip is None and finding.rule.chips and finding.level != "error":
        return replace(finding, level="note", edits=())
    return finding


def check_set(paths: list[Path], target: Platform) -> list[Finding]:
    """Findings about all programs that one process compiles and may hold loaded."""
    loaded = int((target.chip or Chip("")).loaded_programs.value)
    found_here = []
    for id, most in (("ANE092", COMPILES), ("ANE093", loaded)):
        if len(paths) > most and rule(id).applies(target.chip, target.os):
            found_here.append(
                replace(found(id, (1, 1), f"{len(paths)} programs"), path=paths[most])
            )
    return found_here
