"""No form of MIL that nobody was seen to run comes in without a word (anefast/mil/forms.toml)."""

from __future__ import annotations

import functools

import pytest

from anefast.config import ModelConfig
from anefast.fuse import cut, find_plan, lower_all
from anefast.fuse.count import Counter
from anefast.mil import emit
from anefast.mil.forms import forms_of, known
from anefast.nn import decode_graph

CONFIG = ModelConfig(dim=128, n_layers=2, n_heads=4, n_kv_heads=2, hidden_dim=352, vocab_size=64)
SPECS = [
    "unfused", "layer", "all", "layer,recompute", "all,weights=params", "layer,weights=packed",
    "all,ports=packed", "layer,recompute,ports=padded,rope=conv", "all,rope=axis3",
    "unfused,weights=packed,ports=packed", "unfused,recompute,weights=params",
]  # fmt: skip


@functools.cache
def emitted() -> dict[str, frozenset[str]]:
    """Every plan's forms, over all dialects, those of other families, and of generation."""
    counter, found = Counter(CONFIG, 1, 64), {}
    for spec in SPECS:
        programs = [p.lowered.program for p in counter.count(find_plan(spec)).programs]
        texts = [emit(p, dialect).text for p in programs for dialect in ("ios18", "ios16")]
        found[spec] = frozenset().union(*map(forms_of, texts))
    for family in ("qwen2", "qwen3", "gpt2"):
        heads = 4 if family == "gpt2" else 2
        of = Counter(CONFIG.replace(family=family, n_kv_heads=heads), 1, 64)
        plans = map(find_plan, ("unfused", "layer", "all,weights=params", "layer,weights=packed"))
        texts = [emit(p.lowered.program).text for plan in plans for p in of.count(plan).programs]
        found[family] = frozenset().union(*map(forms_of, texts))
    plan = find_plan("unfused")
    decode = lower_all(cut(decode_graph(CONFIG, 32, 64), plan.key), plan)
    texts = [emit(low.program).text for low in decode]
    return {**found, "generation": frozenset().union(*map(forms_of, texts))}


@pytest.mark.parametrize("spec", [*SPECS, "generation", "qwen2", "qwen3", "gpt2"])
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


def test_both_dialects_have_the_same_forms() -> None:
    for p in Counter(CONFIG, 1, 64).count(find_plan("layer,weights=packed")).programs:
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
