"""Findings as text for people, JSON for programs and SARIF 2.1.0 for code hosts.

Pure functions from findings to strings; what is found is decided elsewhere.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from anefast.mil.lint.catalogue import CONFIDENCE, LEVELS, SEVERITIES, Rule, catalogue
from anefast.mil.lint.checks import Finding, Platform

WIDTH = 100  # of an excerpt: MIL lines are long
SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
ABOUT = "what public evidence says the Apple Neural Engine refuses or misreads"


def as_text(findings: Sequence[Finding], sources: Mapping[Path | None, bytes]) -> str:
    """A block per finding: place, words, excerpt with a caret, why, and what to write instead."""
    return "\n".join(_block(f, sources.get(f.path)) for f in findings)


def _block(finding: Finding, text: bytes | None) -> str:
    rule = finding.rule
    line, column = finding.at
    place = f"{finding.path or '<text>'}:{line}:{column}"
    lines = [f"{place}: {finding.level} {rule.id} {finding.message} [{rule.name}]"]
    if text is not None:
        lines += [f"    {row}" for row in excerpt(text, line, column)]
    disputed = ", disputed" if rule.disputed else ""
    lines.append(f"    {SEVERITIES[rule.severity]} ({rule.where}{disputed}): {rule.why}")
    lines.append(f"    Instead: {rule.rewrite}" + (" (--fix does)" if finding.fixable else ""))
    return "\n".join(lines)


def excerpt(text: bytes, line: int, column: int) -> list[str]:
    """The line of a position and a caret under it, cut to WIDTH around it."""
    rows = text.split(b"\n")
    if not 0 < line <= len(rows):
        return []
    row = rows[line - 1].decode("utf-8", "replace").replace("\t", " ").rstrip()
    row = "".join(c if c.isprintable() else "?" for c in row)
    at = min(character(rows[line - 1], column) - 1, len(row))
    start = max(0, at - WIDTH // 2) if len(row) > WIDTH else 0
    shown = ("..." if start else "") + row[start : start + WIDTH]
    more = "..." if start + WIDTH < len(row) else ""
    return [shown + more, " " * (at - start + 3 * bool(start)) + "^"]


def character(row: bytes, column: int) -> int:
    """The column in characters that is `column` in bytes, both from 1."""
    return len(row[: column - 1].decode("utf-8", "replace")) + 1


def summary(findings: Sequence[Finding], programs: int) -> str:
    """`3 programs: 1 error, 2 warnings`, or that they are clean."""
    counts = Counter(f.level for f in findings)
    said = [f"{n} {level}{'s' * (n != 1)}" for level in reversed(LEVELS) if (n := counts[level])]
    return f"{programs} program{'s' * (programs != 1)}: {', '.join(said) or 'clean'}"


def as_json(findings: Sequence[Finding], programs: int, target: Platform) -> str:
    """One object: the target, the number of programs and the findings with their rules' words."""
    chip = target.chip.name if target.chip else None
    return json.dumps(
        {
            "tool": "anefast.lint",
            "target": {"chip": chip, "os": target.os or None},
            "programs": programs,
            "findings": [
                {
                    "path": str(f.path) if f.path else None,
                    "line": f.at[0],
                    "column": f.at[1],
                    "level": f.level,
                    "message": f.message,
                    "fixable": f.fixable,
                    **described(f.rule),
                }
                for f in findings
            ],
        },
        indent=1,
    )


def described(rule: Rule) -> dict[str, Any]:
    """A rule as plain data."""
    return {
        "rule": rule.id, "name": rule.name, "title": rule.title, "severity": rule.severity,
        "confidence": rule.confidence, "disputed": rule.disputed, "chips": list(rule.chips),
        "os": rule.os or None, "why": rule.why, "rewrite": rule.rewrite,
        "sources": list(rule.sources), "against": list(rule.against),
    }  # fmt: skip


def as_sarif(findings: Sequence[Finding], sources: Mapping[Path | None, bytes]) -> str:
    """A SARIF 2.1.0 log of one run, rules included; columns count characters."""
    rules = list(catalogue().values())
    index = {rule.id: i for i, rule in enumerate(rules)}
    rows = {path: text.split(b"\n") for path, text in sources.items()}
    run = {
        "tool": {
            "driver": {
                "name": "anefast.lint",
                "fullName": f"anefast.lint: {ABOUT}",
                "rules": [_sarif_rule(rule) for rule in rules],
            }
        },
        "columnKind": "unicodeCodePoints",
        "results": [_result(f, index[f.rule.id], rows[f.path]) for f in findings],
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1)


def _sarif_rule(rule: Rule) -> dict[str, Any]:
    name = "".join(word.capitalize() for word in rule.name.split("-"))
    return {
        "id": rule.id,
        "name": name,
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.why},
        "help": {"text": f"Instead: {rule.rewrite} Sources: {'; '.join(rule.sources)}."},
        "defaultConfiguration": {"level": rule.level},
        "properties": {
            "severity": SEVERITIES[rule.severity], "confidence": rule.confidence,
            "chips": list(rule.chips), "against": list(rule.against),
        },
    }  # fmt: skip


def _result(finding: Finding, index: int, rows: Sequence[bytes]) -> dict[str, Any]:
    line, column = finding.at
    region = {"startLine": line, "startColumn": character(rows[line - 1], column)}
    place: dict[str, Any] = {"region": region}
    if finding.path is not None:
        path = finding.path
        uri = path.as_uri() if path.is_absolute() else quote(path.as_posix())
        place["artifactLocation"] = {"uri": uri}
    return {
        "ruleId": finding.rule.id,
        "ruleIndex": index,
        "level": finding.level,
        "message": {"text": f"{finding.message}. {finding.rule.why} {finding.rule.rewrite}"},
        "locations": [{"physicalLocation": place}] if finding.path is not None else [],
    }


def listing() -> str:
    """The catalogue for people: every rule with its evidence, both sides where it is disputed."""
    rules = catalogue().values()
    lines = [f"{len(rules)} rules: {ABOUT}. Nothing here was measured by this project."]
    lines += [f"Confidence {k}: {v}." for k, v in CONFIDENCE.items()]
    for rule in rules:
        disputed = ", disputed" if rule.disputed else ""
        fix = ", --fix" if rule.fix else ""
        lines += [
            "",
            f"{rule.id} {rule.name}: {rule.title}",
            f"  {rule.level}: {SEVERITIES[rule.severity]}; {rule.where}; "
            f"confidence {rule.confidence}{disputed}{fix}",
            f"  {rule.why}",
            f"  Instead: {rule.rewrite}",
            f"  Sources: {'; '.join(rule.sources)}",
        ]
        if rule.against:
            lines.append(f"  Against: {'; '.join(rule.against)}")
    return "\n".join(lines)
