"""Inside a fake build: doctor's questions to the compiler, about a chip that it knows and another.

Not a test. Prints what was found, and errors of the call itself, as JSON.
"""

from __future__ import annotations

import json
from unittest.mock import patch

import inside

from anefast import _C, coverage
from anefast.doctor import targets
from anefast.doctor.subject import Subject
from anefast.ir import Program

KINDS = ("unfused", "layer,norm=row")


def some() -> list[tuple[str, Program]]:
    return [p for p in coverage.programs() if p[0] in KINDS]


def error_of(fault: str) -> str:
    """Of one question, with this fault."""
    with inside.fault(fault):
        try:
            Subject("ane").raw.compile_for("h13", *targets.plain("ios18"))
        except (_C.CompileError, _C.AneUnavailable) as error:
            return f"{type(error).__name__}: {error}"
    return ""


def main() -> None:
    chips = {"h14": "m2", "h19": "m6"}
    with patch.object(targets, "TARGETS", chips), patch.object(targets, "programs", some):
        found = targets.everywhere(Subject("ane", seconds=300))
    errors = {name: error_of(name) for name in ("target", "target_raises", "target_input", "none")}
    facts = {k: list(v) for k, v in found.facts.items()}
    print(json.dumps({"said": found.said, "facts": facts, "errors": errors}))


if __name__ == "__main__":
    main()
