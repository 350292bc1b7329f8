"""Forms of ours in Apple's compiler for the chips of every Mac, asked on one of them.

The compiler is called in children, for it may end its process: each program's verdict is kept
whatever becomes of the next. Whole programs are asked first. Where one is not taken, its operations
are asked one by one, so that a form is blamed for itself and not for its neighbours.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from anefast import _C, ir, mil
from anefast.chips.asked import WHOLE, Verdicts
from anefast.chips.behaviour import CHIPS, TARGETS
from anefast.coverage import programs
from anefast.doctor.apart import run_all, serve
from anefast.doctor.forms import zeros
from anefast.doctor.result import Check, Found, Number, Wrong
from anefast.doctor.subject import Subject
from anefast.files import make_folder, open_new, read_bytes, read_text
from anefast.ir import Program, Tensor
from anefast.mil.forms import forms_of

SECONDS = 600  # for all targets together
COMPILE_SECONDS = 20  # for one program
WORDS = 200  # of the compiler that are kept for each form
PER_PROCESS = 100  # compiles of one child: an M1 Pro's compile service gave up after 119
TEXT, BLOB = "model.mil", "weight.bin"


@dataclass(frozen=True)
class Asked:
    """A program that was written for a child to compile."""

    kind: str
    forms: frozenset[str]
    folder: Path


@dataclass
class Answers:
    """What became of the forms for one target."""

    verdicts: Verdicts = field(default_factory=Verdicts)
    programs: list[str] = field(default_factory=list)  # kinds of whole programs that are not taken

    def note(self, asked: Asked, status: str, why: str) -> None:
        if status == "passed":
            self.verdicts.taken |= asked.forms
        else:
            for form in asked.forms - self.verdicts.taken:
                self.verdicts.against.setdefault(form, said(status, why))


def said(status: str, why: str) -> str:
    """A refusal in few words: `refused: status 22: (CompilationFailure).`"""
    word = "refused" if status == "failed" else status
    return f"{word}: {why.partition(', got ')[2] or why}"[:WORDS]


def everywhere(subject: Subject) -> Found:
    """Every form for every target. A form is taken where a program that has it is."""
    try:
        subject.raw.compile_for("h13", *plain("ios18"))
    except _C.AneUnavailable as error:
        return Found(f"not asked: {error}")
    except _C.CompileError:
        pass  # for the children to say, target by target
    with tempfile.TemporaryDirectory() as folder:
        return _everywhere(subject, Path(folder))


def _everywhere(subject: Subject, folder: Path) -> Found:
    facts: dict[str, tuple[str, ...]] = {}
    lines: list[str] = []
    numbers: list[Number] = []
    written: dict[str, list[tuple[Asked, Program]]] = {}  # in each dialect
    for i, (target, chip) in enumerate(TARGETS.items()):
        now = time.monotonic()
        until = now + (subject.until - now) / (len(TARGETS) - i)
        dialect = _dialect(subject, target, CHIPS[chip].dialect, folder)
        if not dialect:
            lines.append(f"{target}: no plain program is taken")
            continue
        if dialect not in written:
            written[dialect] = list(covering(dialect, folder / dialect))
        answers = _one(subject, target, dialect, written[dialect], folder / target, until)
        verdicts = answers.verdicts
        facts |= verdicts.facts(target)
        numbers.append(subject.number(f"forms taken for {target}", len(verdicts.taken), ""))
        against = "; ".join(f"{form} {why}" for form, why in sorted(verdicts.against.items())[:2])
        more = f", {len(verdicts.against)} not: {against}" if against else ""
        if answers.programs:
            more += f"; programs not taken: {', '.join(answers.programs[:4])}"
        lines.append(f"{target}: {len(verdicts.taken)} forms taken{more}")
    if not facts:
        raise Wrong("; ".join(lines))
    return Found("; ".join(lines), tuple(numbers), facts)


def _dialect(subject: Subject, target: str, first: str, folder: Path) -> str:
    """The dialect in which a plain program is taken for a target; empty: in none."""
    for dialect in dict.fromkeys((first, "ios18", "ios16")):
        asked = _written(folder / f"plain {dialect}", "plain", *plain(dialect))
        (verdict,) = _judged(subject, target, [asked], subject.until)
        if verdict[1] == "passed":
            return dialect
    return ""


def _one(
    subject: Subject,
    target: str,
    dialect: str,
    wholes: Sequence[tuple[Asked, Program]],
    folder: Path,
    until: float,
) -> Answers:
    answers, of_wholes = Answers(), Answers()
    refused: list[Program] = []
    program_of = {asked.folder: program for asked, program in wholes}
    for asked, status, why in _judged(subject, target, [asked for asked, _ in wholes], until):
        of_wholes.note(asked, status, why)
        if status != "passed":
            refused.append(program_of[asked.folder])
            answers.programs.append(f"{asked.kind} ({said(status, why)})")
    answers.verdicts.taken |= of_wholes.verdicts.taken
    doubtful = set(of_wholes.verdicts.against) - answers.verdicts.taken
    todo = list(pieces(refused, doubtful, dialect, folder)) if doubtful else []
    for asked, status, why in _judged(subject, target, todo, until):
        answers.note(asked, status, why)
    for form in doubtful:
        answers.verdicts.against.setdefault(form, f"{of_wholes.verdicts.against[form]} {WHOLE}")
    for form in answers.verdicts.taken:
        answers.verdicts.against.pop(form, None)
    return answers


def plain(dialect: str) -> tuple[str, dict[str, mil.pack.Bytes]]:
    """A program that every chip takes, and no weights."""
    x = ir.input("a0_x", (1, 32, 1, 32))
    program = Program.cut("doctor", [("a0_x", x)], [("b0_y", x * 0.5)])
    return mil.emit(program, dialect).text, {}


def covering(dialect: str, folder: Path) -> Iterator[tuple[Asked, Program]]:
    """Programs that have every form of ours among them."""
    met: set[str] = set()
    for i, (kind, program) in enumerate(programs()):
        written = mil.emit(program, dialect)
        found = forms_of(written.text)
        if not found <= met:
            met |= found
            yield _written(folder / str(i), kind, written.text, zeros(written)), program


def pieces(
    refused: Sequence[Program], doubtful: set[str], dialect: str, folder: Path
) -> Iterator[Asked]:
    """Programs of one operation each, until each doubtful form was in one of every shape."""
    seen: set[tuple[str, str]] = set()
    for program in refused:
        for node in program.nodes:
            if node.is_leaf or ir.baked(node):
                continue
            key = node.op, repr(([(x.op if x.is_leaf else "", x.shape) for x in node.inputs],
                                 node.shape, node.attrs))  # fmt: skip
            if key in seen:
                continue
            seen.add(key)
            written = mil.emit(alone(node), dialect)
            found = forms_of(written.text)
            if found & doubtful:
                yield _written(folder / str(len(seen)), node.op, written.text, zeros(written))


def alone(node: Tensor) -> Program:
    """A program of one operation, whose operands are inputs as far as they were computed."""
    runtime = [x for x in dict.fromkeys(node.inputs) if not _constant(x)]
    inputs = [(f"a{i}", x) for i, x in enumerate(runtime)]
    return Program.cut("doctor", inputs, [("z0", node)])


def _constant(t: Tensor) -> bool:
    return ir.baked(t) is not None or (t.is_leaf and t.op != "input")


def _written(folder: Path, kind: str, text: str, blobs: dict[str, mil.pack.Bytes]) -> Asked:
    make_folder(folder, "doctor")
    files = [(TEXT, text.encode()), *((BLOB, bytes(data)) for data in blobs.values())]
    for name, data in files:
        with open_new(folder / name, "doctor") as file:
            file.write(data)
    return Asked(kind, frozenset(forms_of(text)), folder)


def _judged(
    subject: Subject, target: str, todo: Sequence[Asked], until: float
) -> Iterator[tuple[Asked, str, str]]:
    """`_verdicts`, but those in whose compile the process ended are asked once more, each in a
    process of its own: what came before may have brought the other down."""
    again = []
    for asked, status, why in _verdicts(subject, target, todo, until):
        if status in ("crashed", "timed out"):
            again.append(asked)
        else:
            yield asked, status, why
    yield from _verdicts(subject, target, again, until, alone=True)


def _verdicts(
    subject: Subject, target: str, todo: Sequence[Asked], until: float, alone: bool = False
) -> Iterator[tuple[Asked, str, str]]:
    """(what was asked, status of doctor/result.py, the compiler's words) of each, by children."""
    for start in range(0, len(todo), PER_PROCESS):
        some = todo[start : start + PER_PROCESS]
        checks = [
            Check(f"{target} {a.folder}", "probes", _never, COMPILE_SECONDS, alone) for a in some
        ]
        device = subject.raw.name
        results = run_all(checks, device, subject.quick, module="anefast.doctor.targets")
        for i, asked in enumerate(some):
            if time.monotonic() > until:
                yield from ((a, "skipped", "there was no time") for a in todo[start + i :])
                return
            result = next(results)
            yield asked, result.status, result.said


def _never(_: Subject) -> Found:
    raise Wrong("a check of a child was run by its parent")


# In the child.


def piece(name: str) -> Check:
    """Asks for one target with a program that the parent wrote: `h14 /folder`."""
    target, _, folder = name.partition(" ")

    def run(subject: Subject) -> Found:
        text = read_text(Path(folder) / TEXT, where="doctor")
        blob = Path(folder) / BLOB
        blobs = {mil.pack.PATH: read_bytes(blob, where="doctor")} if blob.exists() else {}
        subject.raw.compile_for(target, text, blobs)
        return Found("taken")

    return Check(name, "probes", run, COMPILE_SECONDS)


def checks() -> list[Check]:
    return [Check("forms of every chip", "probes", everywhere, SECONDS, alone=True)]


if __name__ == "__main__":
    serve(sys.argv[1:], [piece(name) for name in sys.argv[4:]])
