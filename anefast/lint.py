"""`anefast lint FILE|DIR...`: why a chip will refuse MIL text, or silently misread it.

Offline, on any MIL text: ours, or model.mil of a .mlmodelc with its weights beside it. Exit codes
fit for CI: 0 clean, 1 findings at or above --fail-on, 2 input that cannot be used. The rules and
their evidence are in mil/lint/; --list prints them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from anefast.chips.behaviour import find_chip
from anefast.cli import command, say
from anefast.errors import BadInput, Failure, shown
from anefast.files import read_bytes
from anefast.mil.lint import LEVELS, Finding, Platform, check_set, lint, report
from anefast.mil.lint import fix as fixing

MAX_BYTES = 1 << 28  # of one text, as in csrc/mil/lex.cpp


@dataclass(frozen=True)
class LintCommand:
    """Say what a chip will refuse or misread in MIL text, and what to write instead."""

    files: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()  # MIL text, or folders of *.mil.
    chip: str = ""  # Lint for CHIPS, doctor.json; empty: every chip.
    os: str = ""  # A macOS version such as 26.2; empty: the current ones.
    format: Literal["text", "json", "sarif"] = "text"  # How findings are printed.
    # Exit with 1 if a finding is at least this severe.
    fail_on: Literal["error", "warning", "note", "never"] = "warning"
    fix: bool = False  # Rewrite files where that is safe, each file in one step.
    list: bool = False  # Print every rule with its sources.
    coverage: bool = False  # Print what is known about every form of MIL that anefast writes.
    doctor: str = ""  # With --coverage: a file of anefast doctor --probe, set beside the table.


def main(argv: Sequence[str] | None = None) -> None:
    """The command. Exit codes: 0 clean, 1 findings, 2 for input that cannot be used."""
    command(LintCommand, run, argv)


def run(asked: LintCommand) -> None:
    """Lints, prints, and raises Failure where the findings are bad enough."""
    if asked.doctor and not asked.coverage:
        raise BadInput("[lint] --doctor is about --coverage. Hint: --coverage --doctor FILE.")
    tables = (
        ("list", LintCommand(list=True)),
        (
            "coverage",
            LintCommand(coverage=True, doctor=asked.doctor),
        ),
    )
    for flag, alone in tables:
        if getattr(asked, flag) and asked != alone:
            raise BadInput(
                f"[lint] --{flag} prints a table and checks no text. Hint: leave out the rest."
            )
    if asked.list:
        say(report.listing())
        return
    if asked.coverage:
        from anefast.coverage import report as forms  # emits programs, as a lint need not

        say(*forms(asked.doctor))
        return
    target = target_of(asked)
    paths = texts(asked.files)
    sources: dict[Path | None, bytes] = {}
    findings: list[Finding] = []
    mended = 0
    for path in paths:
        sources[path] = read(path)
        if asked.fix:
            text, gone = fixing.fixed(sources[path], path, target)
            if text != sources[path]:
                fixing.write(path, text)
                sources[path] = text
                mended += len(gone)
        findings += lint(sources[path], path, target)
    findings += check_set(paths, target)
    if asked.format == "json":
        say(report.as_json(findings, len(paths), target))
    elif asked.format == "sarif":
        say(report.as_sarif(findings, sources))
    elif findings:
        say(report.as_text(findings, sources))
    said = report.summary(findings, len(paths))
    said += f"; {mended} rewritten" if asked.fix else ""
    if asked.fail_on != "never" and any(
        LEVELS.index(f.level) >= LEVELS.index(asked.fail_on) for f in findings
    ):
        raise Failure(f"[lint] {said}.")
    if asked.format == "text":
        say(said)


def target_of(asked: LintCommand) -> Platform:
    """The chip and system to lint for. BadInput in one line."""
    if asked.os and not re.fullmatch(r"\d+(\.\d+){0,2}", asked.os):
        raise BadInput(f"[lint] expected --os such as 26.2, got {asked.os!r}.")
    return Platform(find_chip(asked.chip) if asked.chip else None, asked.os)


def texts(files: Sequence[Path]) -> list[Path]:
    """The texts named, and those in the folders named. BadInput where there is none."""
    if not files:
        raise BadInput("[lint] expected a MIL file or a folder, got none. Hint: --list for rules.")
    found: list[Path] = []
    for file in files:
        if not file.exists():
            raise BadInput(
                f"[lint] expected a file or folder, got {shown(file)}, which is not there."
            )
        inside = [file]
        if file.is_dir():
            inside = sorted(p for p in file.rglob("*.mil") if not p.is_dir())
        if not inside:
            raise BadInput(f"[lint] expected *.mil files in {shown(file)}, got none.")
        if gone := next((p for p in inside if not p.exists()), None):
            raise BadInput(f"[lint] expected a file, got {shown(gone)}, a link to none.")
        found += inside
    return list(dict.fromkeys(found))


def read(path: Path) -> bytes:
    """The bytes of a text. BadInput where it is none."""
    text = read_bytes(path, MAX_BYTES, "lint")
    if b"program" not in text:
        hint = "a .mlmodelc holds it as model.mil; an .mlpackage must be compiled first"
        raise BadInput(f"[lint] expected MIL text in {shown(path)}, got other bytes. Hint: {hint}.")
    return text


if __name__ == "__main__":
    main()
