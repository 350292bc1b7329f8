"""No form of MIL that nobody was seen to run comes in without a word (anefast/mil/forms.toml)."""

from __future__ import annotations

from pathlib import Path

import pytest

from anefast import lint
from anefast.coverage import MODEL, PLANS, emitted, report
from anefast.fuse import find_plan
from anefast.fuse.count import Counter
from anefast.mil import emit
from anefast.mil.forms import forms_of, known, verdicts
from anefast.models.families import FAMILIES

DOCS = Path(__file__).parent.parent / "docs"
KINDS = [*PLANS, "generation", *(f for f in FAMILIES if f != MODEL.family)]


@pytest.mark.parametrize("spec", KINDS)
def test_every_form_was_seen_elsewhere_or_has_a_note(spec: str) -> None:
    assert emitted()[spec] - set(known()) == set()


def test_the_table_has_what_we_emit_and_a_word_on_each() -> None:
    assert set(known()) == frozenset().union(*emitted().values())
    assert all(seen.programs or seen.note for seen in known().values())
    unseen = {form for form, seen in known().items() if not seen.programs}
    assert all(len(known()[form].note) > 10 for form in unseen)
    # What a cautious plan is left with, none of which is another project's.
    cautious = emitted()["layer,recompute,ports=padded,rope=conv"] & unseen
    norm = ("abs", "maximum", "minimum", "real_div", "reduce_max", "reduce_mean")  # of its root
    assert {form for form in cautious if not form.startswith(norm)} == {
        "mul of runtime and blob ====", "pad(constant_val, mode, pad, x)", "pad mode constant",
    }  # fmt: skip


def test_the_table_in_the_docs_is_what_the_command_prints(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`anefast lint --coverage > docs/coverage.md` renews it."""
    with pytest.raises(SystemExit) as left:
        lint.main(["--coverage"])
    assert left.value.code in (0, None)
    assert (DOCS / "coverage.md").read_text("utf-8") == capsys.readouterr().out


def test_nothing_we_emit_was_refused_for_what_it_is() -> None:
    ours = frozenset().union(*emitted().values())
    refused = {
        form: verdicts()[form] for form in ours if form in verdicts() and verdicts()[form].refused
    }
    # Two programs that pad were refused, and both leave out the value, which ours say (ANE104).
    assert {form: v.why for form, v in refused.items()} == {
        "pad mode constant": "no constant_val: may be why"
    }
    assert sum(1 for form in ours if form in verdicts()) > 35  # the table speaks of ours
    assert sum("never tried" in row for row in report()) > 35


def test_both_dialects_have_the_same_forms() -> None:
    for p in Counter(MODEL, 1, 64).count(find_plan("layer,weights=packed")).programs:
        program = p.lowered.program
        assert forms_of(emit(program).text) == forms_of(emit(program, "ios16").text)


def test_a_form_is_told_from_its_neighbour() -> None:
    head = "program(1.3)\n{\n    func main<ios18>(tensor<fp16, [1, 8, 1, 32]> a, "
    head += "tensor<fp16, [1, 1, 1, 32]> b) {\n        "
    tail = '[name = string("z")];\n    } -> (z);\n}\n'

    def forms(call: str) -> set[str]:
        return forms_of(f"{head}tensor<fp16, [1, 8, 1, 32]> z = {call}{tail}")

    assert "mul of runtime and runtime =>==" in forms("mul(x = a, y = b)")
    smaller_first = forms("mul(x = b, y = a)")
    assert "mul of runtime and runtime =<==" in smaller_first
    assert "mul of runtime and runtime =<==" not in known()
    assert "inputs of several sizes" in smaller_first and "several outputs" not in smaller_first
