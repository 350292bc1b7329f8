"""--fix: the rewrites that are safe, applied until none is left.

A rewrite is offered by the check that found the violation, as edits of the text. Here they are put
together, tried, and kept only where the text reads at least as well afterwards. What is safe: the
same results up to a rounding of fp16, except within 8e-6 of zero for rsqrt and log, where the
device has no finite result to keep.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from anefast.errors import BadInput, shown
from anefast.files import write_atomic
from anefast.mil.lint.checks import Finding, Platform
from anefast.mil.lint.edits import Edit
from anefast.mil.lint.engine import check
from anefast.mil.lint.source import read

ROUNDS = 20  # rewrites uncover others: an added call has a constant to be named


def fixed(text: bytes, path: Path | None, target: Platform) -> tuple[bytes, list[Finding]]:
    """(the text with every safe rewrite made, the findings that went). Running it on its own result
    changes nothing."""
    gone: list[Finding] = []
    for _ in range(ROUNDS):
        source = read(text, path)
        fixable = [f for f in check(source, target) if f.fixable]
        if not fixable:
            break
        faults = len(source.problems)
        after, used = apply(text, fixable)
        if not used or len(read(after, path).problems) > faults:
            # Together they do not read: one at a time, those that do.
            for finding in fixable:
                after, used = apply(text, [finding])
                if used and len(read(after, path).problems) <= faults:
                    break
            else:
                break
        text = after
        gone += used
    return text, gone


def apply(text: bytes, findings: Sequence[Finding]) -> tuple[bytes, list[Finding]]:
    """The text with these findings' edits, except where an edit touches another's bytes."""
    taken: list[tuple[int, int]] = []
    edits: list[Edit] = []
    used = []
    for finding in findings:
        spans = [e.span for e in finding.edits]
        clash = any(a < d and c < b for a, b in spans for c, d in taken)
        inside = any(c < a < d for a, b in spans if a == b for c, d in taken)
        around = any(a < c < b for a, b in spans for c, d in taken if c == d)
        if clash or inside or around:
            continue
        taken += spans
        edits += finding.edits
        used.append(finding)
    out = bytearray()
    at = 0
    for span, new in sorted(edits, key=lambda e: e.span):
        out += text[at : span[0]] + new.encode()
        at = span[1]
    return bytes(out + text[at:]), used


def write(path: Path, text: bytes) -> None:
    """Replaces a file atomically: a reader sees the old text or the new. BadInput for a link:
    what it leads to may be somebody else's."""
    if path.is_symlink():
        raise BadInput(
            f"[lint] expected a file to rewrite, {shown(path)} is a link. Hint: name the file."
        )
    write_atomic(path, text, "lint")
