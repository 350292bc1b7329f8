"""Signals at random moments: the run goes on from its newest checkpoint and ends as undisturbed."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter

import pytest

from .runs import (
    OFTEN,
    Ground,
    best_is_kept,
    differing,
    ground,
    leftovers,
    resumed_at,
    size,
)
from .server import Server

HARD = (signal.SIGKILL, signal.SIGKILL, signal.SIGQUIT)
POLITE = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
MOST_SESSIONS = 12  # after which a run is left to end


def besiege(field: Ground, number: int, draw: random.Random) -> Counter[str]:
    """Runs that are signalled again and again until so many signals were sent. What they did."""
    began = time.perf_counter()
    assert field.start().code == 0
    whole = time.perf_counter() - began
    counts: Counter[str] = Counter()
    while sum(counts.values()) < number:
        field.clear()
        for session in range(MOST_SESSIONS):
            newest = field.newest()
            # anywhere, or while it trains, where the handlers of polite signals are in place
            behind = draw.choice(["", "device: ", "step 1 "])
            send = (draw.choice([*HARD, *POLITE]), draw.uniform(0, whole / (3 if behind else 1)))
            end = field.go_on(send=None if session == MOST_SESSIONS - 1 else send, behind=behind)
            about = f"session {session}, {send}, {behind!r}: {end}"
            assert "Traceback" not in end.text, about
            assert end.code in (0, 130, -send[0]), about
            assert "is damaged" not in end.text, about
            if newest and "device:" in end.text:
                assert resumed_at(end.text) == newest or end.code, about
            assert best_is_kept(field.run), about
            if "written to" in end.text and end.code == 0:
                break
            counts[f"{send[0].name}: {'saved' if end.code == 0 else 'died'}"] += 1
        assert differing(field.run, field.gold) == [], about
        assert leftovers(field.run) == [], about
    return counts


def test_a_few_kills(field: Ground) -> None:
    assert sum(besiege(field, 8, random.Random(0)).values()) >= 8


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], OFTEN], ids=["by updates", "between all micro-steps"])
def test_kills(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with ground() as folder, Server(folder) as server:
        field = Ground(folder, server, flags) if flags else Ground(folder, server)
        counts = besiege(field, size(25, 500) // 2, random.Random(1))
    with capsys.disabled():
        print(f"\n{sum(counts.values())} signals: {dict(sorted(counts.items()))}")
