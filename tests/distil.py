"""From verdicts on another project's programs to verdicts on forms: anefast/mil/verdicts.toml.

`python -m tests.distil CORPUS > anefast/mil/verdicts.toml`, where CORPUS is rows of joshuaswarren/
mil-hwx-compiler. A program that was taken speaks for all of its forms; one of sound text that was
refused, against those of its forms that no program was taken with.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from anefast.mil.forms import forms_of

HEAD = """\
# What Apple's own compiler said of forms (forms.py), distilled by tests/distil.py: {n} verdicts of
# joshuaswarren/mil-hwx-compiler (MIT), private ANECCompile with TargetArchitecture on an M1 Ultra,
# macOS 26.6.2 (25G83). Nothing was executed there, malformed text and weight records are left out,
# and other systems may say otherwise. h13 is M1, h14 M2, h15 M3, h16 M4, h17 M5, h18 M6.
"""
OF_SIZE = "callback_status=1"  # the words of a refusal that no form explains


def load(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def table(rows: list[dict[str, Any]]) -> str:
    """verdicts.toml, of rows with mil, target, accepted, well_formed and note."""
    taken: dict[str, list[str]] = defaultdict(list)
    refused: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for row in rows:
        for form in forms_of(row["mil"]):
            if row["accepted"]:
                taken[form].append(row["target"])
            elif row["well_formed"]:
                refused[form].append((row["target"], row["note"] or OF_SIZE))
    lines = [HEAD.format(n=len(rows))]
    for form in sorted(set(taken) | set(refused)):
        if found := taken.get(form):
            said = f'taken = "{span(found)}", programs = {len(found)}'
        else:
            targets, notes = zip(*refused[form], strict=True)
            said = f'refused = "{span(targets)}", programs = {len(targets)}, why = "{notes[0]}"'
        lines.append(f'"{form}" = {{ {said} }}\n')
    return "".join(lines)


def span(targets: Any) -> str:
    """h13 to h18, which no row leaves one out between."""
    first, last = min(targets), max(targets)
    return first if first == last else f"{first} to {last}"


if __name__ == "__main__":
    sys.stdout.write(table(load(Path(sys.argv[1]))))
