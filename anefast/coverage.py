"""Which forms our programs have, over dialects, plans, ways of weights and families, and what was
seen of each in Apple's compiler and on chips: `anefast lint --coverage`.

Programs are those of a model small enough to emit them all. The tables of what is known are data of
mil/: forms.toml and verdicts.toml.
"""

from __future__ import annotations

import functools
from collections import Counter as Tally

from anefast.config import ModelConfig
from anefast.fuse import cut, find_plan, lower_all
from anefast.fuse.count import Counter
from anefast.mil import emit
from anefast.mil.forms import Verdict, forms_of, known, verdicts
from anefast.mil.spelling import DIALECTS
from anefast.nn import decode_graph
from anefast.nn.families import FAMILIES

MODEL = ModelConfig(dim=128, n_layers=2, n_heads=4, n_kv_heads=2, hidden_dim=352, vocab_size=64)
BATCH, SEQ, CHUNK = 1, 64, 32
PLANS = (
    "unfused", "layer", "all", "layer,recompute", "all,weights=params", "layer,weights=packed",
    "all,ports=packed", "layer,recompute,ports=padded,rope=conv", "all,rope=axis3",
    "unfused,weights=packed,ports=packed", "unfused,recompute,weights=params",
)  # fmt: skip
OF_FAMILIES = ("unfused", "layer", "all,weights=params", "layer,weights=packed")


@functools.cache
def emitted() -> dict[str, frozenset[str]]:
    """The forms of every plan of a Llama, of every other family, and of generation."""
    found = {spec: forms(MODEL, (spec,)) for spec in PLANS}
    for family in FAMILIES:
        if family != MODEL.family:
            heads = MODEL.n_heads if family == "gpt2" else MODEL.n_kv_heads
            found[family] = forms(MODEL.replace(family=family, n_kv_heads=heads), OF_FAMILIES)
    plan = find_plan("unfused")
    decode = lower_all(cut(decode_graph(MODEL, CHUNK, SEQ), plan.key), plan)
    return {**found, "generation": all_of([emit(low.program).text for low in decode])}


def forms(model: ModelConfig, plans: tuple[str, ...]) -> frozenset[str]:
    """The forms of a model's programs under these plans, in all dialects."""
    counter = Counter(model, BATCH, SEQ)
    programs = [p.lowered.program for s in plans for p in counter.count(find_plan(s)).programs]
    return all_of([emit(p, dialect).text for p in programs for dialect in DIALECTS])


def all_of(texts: list[str]) -> frozenset[str]:
    return frozenset().union(*map(forms_of, texts))


def report() -> list[str]:
    """The table, as Markdown: the least that is known first."""
    ours = sorted(frozenset().union(*emitted().values()), key=lambda form: (rank(form), form))
    tally = Tally("taken" if v.taken else "refused" if v.refused else "never tried"
                  for v in map(verdict, ours))  # fmt: skip
    head = f"{len(ours)} forms in the programs of {len(PLANS)} plans, {len(DIALECTS)} dialects, "
    head += (
        f"{len(FAMILIES)} families and generation. Apple's compiler (another project's records) "
    )
    head += f"took {tally['taken']}, refused {tally['refused']}, was never asked about "
    head += f"{tally['never tried']}. None has met a chip of ours."
    rows = [f"| `{form}` | {verdict(form)} | {elsewhere(form)} |" for form in ours]
    title = "| form | Apple's compiler | on chips, or why we have it |"
    return ["# Forms of MIL that we emit", "", head, "", title, "|---|---|---|", *rows]


def verdict(form: str) -> Verdict:
    return verdicts().get(form, Verdict())


def rank(form: str) -> int:
    """What is riskier comes first: refused, neither tried nor seen, seen only, taken."""
    said, seen = verdict(form), form in known() and known()[form].programs
    return 3 if said.taken else 0 if said.refused else 2 if seen else 1


def elsewhere(form: str) -> str:
    """Who ran it, or the note on what nobody ran."""
    if form not in known():
        return "no word on it"
    seen = known()[form]
    ran = "ran in " + ", ".join(seen.programs) if seen.programs else ""
    return "; ".join(filter(None, (ran, seen.note)))
