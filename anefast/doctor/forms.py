"""Every form of MIL that our programs have (anefast/coverage.py), given to this device's compiler.

One Mac says so for its own chip. What a form is, and what other people's records have of it, is
said by `anefast lint --coverage`; a report of doctor's is what fills the rest of that table.
"""

from __future__ import annotations

import numpy as np

from anefast import mil
from anefast.coverage import programs
from anefast.doctor.limits import compiles
from anefast.doctor.result import Check, Found, Wrong
from anefast.doctor.subject import Subject
from anefast.mil.forms import forms_of
from anefast.mil.pack import Bytes
from anefast.mil.text import Text


def forms(subject: Subject) -> Found:
    """Compiles programs until every form was in one that is taken. A form is refused where no
    program that has it is taken; the programs of one kind may share what is refused."""
    taken: set[str] = set()
    met: set[str] = set()
    refused: set[str] = set()
    for kind, program in programs():
        if subject.late:
            raise Wrong(f"there was time for {len(met)} forms only")
        written = mil.emit(program, subject.dialect)
        found = forms_of(written.text)
        met |= found
        if found <= taken:
            continue
        if compiles(subject, written.text, zeros(written)):
            taken |= found
        else:
            refused.add(kind)
    numbers = (
        subject.number("forms of ours taken", len(taken), ""),
        subject.number("forms of ours in refused programs only", len(met - taken), ""),
    )
    facts = {"forms taken": tuple(sorted(taken)), "forms not taken": tuple(sorted(met - taken))}
    if met - taken:
        some = "; ".join(sorted(met - taken)[:8])
        said = f"only in programs that are refused ({', '.join(sorted(refused))}): {some}"
        return Found(f"{len(taken)} of {len(met)} forms of ours are taken; {said}", numbers, facts)
    return Found(f"all {len(met)} forms of ours are taken", numbers, facts)


def zeros(written: Text) -> dict[str, Bytes]:
    """The weight file of a program whose weights are all zero."""
    entries = [e for e in written.blobs.entries if e.parameter is not None]
    return written.blobs.fill({str(e.parameter): np.zeros(e.shape, np.float32) for e in entries})


def checks() -> list[Check]:
    return [Check("forms", "probes", forms, 120, alone=True)]
