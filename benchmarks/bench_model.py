"""The time model's error table over every published time, and its limits."""

from __future__ import annotations

from anefast.bench import model


def test_published_times_are_modelled():
    rows = model.rows()
    print("", *model.report(rows), sep="\n")
    worst, typical = model.errors(rows)
    assert worst <= model.WORST and typical <= model.TYPICAL
