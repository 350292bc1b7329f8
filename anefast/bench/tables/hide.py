"""K: how many micro-steps per update hide a compile in the background."""

from __future__ import annotations

from anefast.bench import published
from anefast.bench.context import Bench

TITLE = "micro-steps per update that hide a compile, K = compile / step"


def measure(bench: Bench) -> tuple[list[str], dict[str, float]]:
    ffns = {288: published.FFNS[2], 768: published.FFNS[4]}
    megas = {m.name: m for m in published.MEGAS}
    sources = {
        published.HIDES[0]: (bench.ffn, ffns[288]),
        published.HIDES[1]: (bench.transformer, megas["stories15m, 6 layers"]),
        published.HIDES[2]: (bench.ffn, ffns[768]),
        published.HIDES[3]: (bench.transformer, megas["stories110m, 12 layers"]),
        published.HIDES[4]: (bench.transformer, megas["stories110m, 4 layers"]),
    }
    here: dict[str, float] = {}
    for hide, (of, what) in sources.items():
        if bench.quick and hide in (published.HIDES[2], published.HIDES[3]):
            continue
        found = of(what)
        here[f"{hide.name}, {hide.step_ms:g} ms a step"] = 1e3 * found.compile_ms / found.separate
    return [
        "step: published and modelled as the row says; here the same forward pass apart, so that "
        "K says how many such passes one compile of the fused program takes",
    ], here
