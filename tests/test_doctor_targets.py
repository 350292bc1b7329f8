"""doctor's question to Apple's compiler, form by form and for every chip: asked of a fake one, kept
in doctor's file, and read back by the coverage table and by the planner."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from anefast import coverage, lint, mil
from anefast.chips.asked import WHOLE, Verdicts, of_facts, of_file
from anefast.chips.behaviour import CHIPS, TARGETS, find_chip
from anefast.doctor import targets
from anefast.doctor.subject import Subject
from anefast.fuse import find_plan
from anefast.fuse.count import Counter
from anefast.fuse.legal import Target, check
from anefast.mil.forms import forms_of

from .ane.build import Fake
from .test_ane import child
from .test_doctor_probes import document


@pytest.fixture(scope="module")
def asked(fake: Fake, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of a compiler whose every process dies in its third compile, and that takes no concat for
    h14."""
    folder = tmp_path_factory.mktemp("targets")
    faults, settings = "target_crash:2:1", "no_concat:14"
    more = {"ANEFAST_FAKE_SETTINGS": settings, "ANEFAST_FAKE_FAULTS": faults}
    found: dict[str, Any] = json.loads(child(fake, folder, "targets.py", **more))
    assert list((folder / "temporary").iterdir()) == []  # and nothing of it is left
    return found


def test_a_process_that_ends_costs_no_answer_and_a_form_is_blamed_for_itself(
    asked: dict[str, Any],
) -> None:
    texts = [mil.emit(program, "ios18").text for program in some()]
    ours = set().union(*map(forms_of, texts))
    (of,) = of_facts([asked["facts"]]).values()
    concats = {form for form in ours if form.startswith("concat")}
    whole = {form for form, why in of.against.items() if why.endswith(WHOLE)}
    assert whole == {"more than 8 outputs"}  # no operation has that
    assert len(concats) == 3 and set(of.against) == concats | whole
    assert of.taken == ours - concats - whole
    said = {of.against[form] for form in concats}
    assert said == {"refused: status 22: (CompilationFailure)."}
    assert "programs not taken: unfused" in asked["said"]


def test_a_chip_that_the_compiler_does_not_know_is_said(asked: dict[str, Any]) -> None:
    assert "h19: no plain program is taken" in asked["said"]


def test_the_call_says_what_the_compiler_said(asked: dict[str, Any]) -> None:
    errors = asked["errors"]
    expected = "CompileError: [ane] expected the compiler to take the program for h13, got "
    assert errors["target"] == expected + "status 22: (CompilationFailure)."
    assert errors["target_raises"].startswith(expected + "NSGenericException code 0: no such targ")
    assert "ANECCreateCompilerInputDictionary to read the program" in errors["target_input"]
    assert errors["none"] == ""


def test_a_host_has_no_compiler_for_other_chips() -> None:
    assert "a device with a compiler for other chips" in targets.everywhere(Subject("host")).said


def test_an_operation_alone_has_its_own_forms_only(tmp_path: Path) -> None:
    layer = next(p for kind, p in coverage.programs() if kind == "layer")
    found = list(targets.pieces([layer], {"softmax axis 3 of 4"}, "ios18", tmp_path))
    assert [a.kind for a in found] == ["softmax"] and "softmax(axis, x)" in found[0].forms
    every = forms_of((found[0].folder / targets.TEXT).read_text())
    assert every == found[0].forms and not any("conv" in form for form in every)


def test_covering_programs_have_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "programs", lambda: [("some", p) for p in some()])
    asked = [a for a, _ in targets.covering("ios18", tmp_path)]
    ours = set().union(*(forms_of(mil.emit(p, "ios18").text) for p in some()))
    assert set().union(*(a.forms for a in asked)) == ours and len(asked) < len(some())


# Read back.


def some() -> list[Any]:
    """Programs of tests/ane/targets.py."""
    return [p for kind, p in coverage.programs() if kind in ("unfused", "layer,norm=row")]


AGAINST = {"concat axis 2 of 4": "refused: status 22: (CompilationFailure)."}


def written(folder: Path, target: str, label: str = "measured", **of: Any) -> str:
    """A file of doctor's on an Apple M5 (h17), with verdicts for one target."""
    verdicts = Verdicts({"conv by blob"}, {**AGAINST, **of})
    content = document(label=label)
    content["results"].append({"facts": verdicts.facts(target)})
    (folder / "doctor.json").write_text(json.dumps(content))
    return str(folder / "doctor.json")


def test_what_is_written_is_what_is_read() -> None:
    one = Verdicts({"a", "b(x, y)"}, {"rsqrt(epsilon:fp32, x)": "refused: it\nsays: no"})
    found = of_facts([one.facts("h13"), {"numbers": ("axis=3",)}, Verdicts({"c"}).facts("h18")])
    assert list(found) == ["h13", "h18"] and found["h13"].taken == one.taken
    assert found["h13"].against == {"rsqrt(epsilon:fp32, x)": "refused: it says: no"}


def test_the_coverage_table_has_the_answers_and_begins_with_refusals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lint.run(lint.LintCommand(coverage=True, doctor=written(tmp_path, "h13")))
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert "| doctor on Apple M5, h17g, measured |" in rows[0]
    assert rows[2].startswith("| `concat axis 2 of 4` | refused: status 22: (CompilationFailure)")
    (conv,) = [row for row in rows if row.startswith("| `conv by blob` |")]
    assert "| taken (h13) |" in conv
    assert "| not asked (h13) |" in rows[5]


def test_a_file_without_verdicts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "doctor.json"
    path.write_text(json.dumps(document()))
    with pytest.raises(ValueError, match="a file with forms that anefast doctor --probe asked"):
        of_file(str(path))


def test_plans_avoid_what_the_chips_own_compiler_refuses(tmp_path: Path) -> None:
    counter = Counter(coverage.MODEL, 1, 64)

    def refusals(path: str, plan: str) -> list[str]:
        chip = find_chip(path)
        return [v.limit for v in check(find_plan(plan), counter, Target("m5", chip))[0]]

    path = written(tmp_path, "h17")
    assert find_chip(path).refused == AGAINST
    assert refusals(path, "layer") == ["form concat axis 2 of 4"]
    assert refusals(path, "layer,rope=conv") == []
    path = written(tmp_path, "h13")  # another chip's refusal is none of ours
    assert refusals(path, "layer") == []
    unclear = {"conv groups 1": "skipped: there was no time", "tanh(x)": f"refused: 1 {WHOLE}"}
    assert find_chip(written(tmp_path, "h17", **unclear)).refused == AGAINST


def test_every_chip_has_a_target_and_every_target_a_chip() -> None:
    assert {chip.target for chip in CHIPS.values()} == set(TARGETS)
    assert CHIPS["m4-max"].target == "h16" and CHIPS["m1-pro"].target == "h13"
