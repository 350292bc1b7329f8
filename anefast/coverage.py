"""Which forms our programs have, over dialects, plans, ways of weights and families, and what was
seen of each in Apple's compiler and on chips: `anefast lint --coverage`.

Programs are those of a model small enough to emit them all. The tables of what is known are data of
mil/: forms.toml and verdicts.toml.
"""

from __future__ import annotations

import functools
from collections import Counter as Tally
from collections.abc import Iterator

from anefast.chips.asked import Verdicts, of_file
from anefast.config import LoraConfig, ModelConfig
from anefast.fuse import cut, find_plan, lower_all
from anefast.fuse.count import Counter
from anefast.ir import Program
from anefast.mil import emit
from anefast.mil.forms import Verdict, forms_of, known, verdicts
from anefast.mil.spelling import DIALECTS
from anefast.models import decode_graph
from anefast.models.families import FAMILIES
from anefast.models.lora import NO_PAIRS, Ranks, padded, targets_of

MODEL = ModelConfig(dim=128, n_layers=2, n_heads=4, n_kv_heads=2, hidden_dim=352, vocab_size=64)
BATCH, SEQ, CHUNK = 1, 64, 32
PLANS = (
    "unfused", "layer", "all", "layer,recompute", "all,weights=params", "layer,weights=packed",
    "all,ports=packed", "layer,recompute,ports=padded,rope=conv", "all,rope=axis3",
    "layer,norm=row", "layer,weights=const,norms=params",
    "unfused,weights=packed,ports=packed", "unfused,recompute,weights=params",
)  # fmt: skip
OF_FAMILIES = ("unfused", "layer", "all,weights=params", "layer,weights=packed")
OF_ADAPTERS = ("layer", "all,gradients=cpu", "layer,recompute,weights=packed")
RANK = 8


def programs() -> Iterator[tuple[str, Program]]:
    """Every program of every plan of a Llama, of every other family, of adapters, and of
    generation, each with the name of its kind."""
    for spec in PLANS:
        yield from ((spec, p) for p in of_model(MODEL, (spec,)))
    for family in FAMILIES:
        if family != MODEL.family:
            heads = MODEL.n_heads if family == "gpt2" else MODEL.n_kv_heads
            model = MODEL.replace(family=family, n_kv_heads=heads)
            yield from ((family, p) for p in of_model(model, OF_FAMILIES))
    ranks = dict.fromkeys(targets_of(MODEL, LoraConfig(rank=RANK)), padded(RANK))
    yield from (("adapters", p) for p in of_model(MODEL, OF_ADAPTERS, ranks))
    plan = find_plan("unfused")
    decode = lower_all(cut(decode_graph(MODEL, CHUNK, SEQ), plan.key), plan)
    yield from (("generation", low.program) for low in decode)


def of_model(
    model: ModelConfig, plans: tuple[str, ...], ranks: Ranks = NO_PAIRS
) -> Iterator[Program]:
    """A model's programs under these plans."""
    counter = Counter(model, BATCH, SEQ, ranks=ranks)
    for spec in plans:
        yield from (p.lowered.program for p in counter.count(find_plan(spec)).programs)


@functools.cache
def emitted() -> dict[str, frozenset[str]]:
    """The forms of every kind of programs, in all dialects."""
    found: dict[str, frozenset[str]] = {}
    for kind, program in programs():
        texts = [emit(program, dialect).text for dialect in DIALECTS]
        found[kind] = found.get(kind, frozenset()).union(*map(forms_of, texts))
    return found


def report(doctor: str = "") -> list[str]:
    """The table, as Markdown: the least that is known first. doctor: a file of `anefast doctor
    --probe`; its answers get a column, and what it saw refused comes first. ValueError and
    FileError for a file that is none."""
    said, whose = of_file(doctor) if doctor else ({}, "")

    def order(form: str) -> tuple[bool, int, str]:
        return not any(form in v.against for v in said.values()), rank(form), form

    ours = sorted(frozenset().union(*emitted().values()), key=order)
    tally = Tally("taken" if v.taken else "refused" if v.refused else "never tried"
                  for v in map(verdict, ours))  # fmt: skip
    head = (
        f"{len(ours)} forms in the programs of {len(PLANS)} plans, {len(DIALECTS)} dialects, "
        f"{len(FAMILIES)} families, adapters and generation. Apple's compiler (another project's "
        f"records) took {tally['taken']}, refused {tally['refused']}, was never asked about "
        f"{tally['never tried']}. None has met a chip of ours."
    )
    cells = ["form", "Apple's compiler", "on chips, or why we have it"]
    rows = [[f"`{form}`", str(verdict(form)), elsewhere(form)] for form in ours]
    if said:
        cells.insert(1, f"doctor on {whose}")
        rows = [
            [row[0], answered(form, said), *row[1:]] for form, row in zip(ours, rows, strict=True)
        ]
    table = [f"| {' | '.join(row)} |" for row in (cells, *rows)]
    table.insert(1, "|---" * len(cells) + "|")
    return ["# Forms of MIL that we emit", "", head, "", *table]


def answered(form: str, said: dict[str, Verdicts]) -> str:
    """What doctor's compiler said of a form, target by target; equal answers together."""
    of: dict[str, list[str]] = {}
    for target, they in said.items():
        word = "taken" if form in they.taken else they.against.get(form, "not asked")
        of.setdefault(word, []).append(target)
    return "; ".join(f"{word} ({', '.join(targets)})" for word, targets in of.items())


def verdict(form: str) -> Verdict:
    return verdicts().get(form, Verdict())


def rank(form: str) -> int:
    """A sort key. Riskier forms come first: refused, never tried, only seen, taken."""
    said, seen = verdict(form), form in known() and known()[form].programs
    return 3 if said.taken else 0 if said.refused else 2 if seen else 1


def elsewhere(form: str) -> str:
    """The project that ran a form, or a note if none did."""
    if form not in known():
        return "no word on it"
    seen = known()[form]
    ran = "ran in " + ", ".join(seen.programs) if seen.programs else ""
    return "; ".join(filter(None, (ran, seen.note)))
