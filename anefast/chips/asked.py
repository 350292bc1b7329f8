"""What the compiler of a doctor's Mac said of our forms (mil/forms.py), as its file keeps it.

doctor/targets.py asks for every chip that the compiler knows, doctor/forms.py for the Mac's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from anefast.errors import shown
from anefast.files import read_json

TAKEN, AGAINST = "taken for", "not taken for"
WHOLE = "(a whole program)"  # at the end of what was said of it: it may have been a neighbour


@dataclass
class Verdicts:
    """Of one target. against: of each form that is not taken, what was said instead of yes, such
    as `refused: ...` or `crashed: ...`."""

    taken: set[str] = field(default_factory=set)
    against: dict[str, str] = field(default_factory=dict)

    def facts(self, target: str) -> dict[str, tuple[str, ...]]:
        """For doctor's file: facts of a result by name."""
        said = (f"{form}: {' '.join(why.split())}" for form, why in sorted(self.against.items()))
        return {
            f"{TAKEN} {target}": tuple(sorted(self.taken)),
            f"{AGAINST} {target}": tuple(said),
        }


def of_facts(facts: Iterable[Mapping[str, Iterable[str]]]) -> dict[str, Verdicts]:
    """The inverse of `facts`, of all results of a file: verdicts by target, in order of the
    targets. AttributeError or TypeError for what has another form."""
    found: dict[str, Verdicts] = {}
    for one in facts:
        for name, lines in one.items():
            for kind in (AGAINST, TAKEN):
                if not name.startswith(kind):
                    continue
                verdicts = found.setdefault(name.removeprefix(kind).strip(), Verdicts())
                if kind == TAKEN:
                    verdicts.taken |= {str(line) for line in lines}
                else:
                    parts = (line.partition(": ") for line in lines)
                    verdicts.against |= {form: why for form, _, why in parts}
                break
    return dict(sorted(found.items()))


def of_file(path: str) -> tuple[dict[str, Verdicts], str]:
    """The verdicts in a file of `anefast doctor --probe`, and what was examined. ValueError for one
    without any; FileError where it cannot be read."""
    document = read_json(path, where="lint")
    try:
        device = document["device"]
        found = of_facts(result["facts"] for result in document["results"])
        if not found:
            raise ValueError("no verdicts")
        return found, f"{device['description']}, {device['label']}"
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"[lint] expected a file with forms that anefast doctor --probe asked for, got "
            f"{shown(path)}. Hint: run it on a Mac."
        ) from error
