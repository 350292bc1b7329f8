"""The time model's error table over every published time, and its limits."""

from __future__ import annotations

from anefast.bench import predictions


def test_published_times_are_modelled():
    rows = predictions.rows()
    print("", *predictions.report(rows), sep="\n")
    worst, typical = predictions.errors(rows)
    assert worst <= predictions.WORST and typical <= predictions.TYPICAL
