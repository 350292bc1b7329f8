"""Damaged files of every kind, through every reader: some hundred always, ten thousand if asked."""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from tests.siege.mutate import siege, sound_files
from tests.siege.readers import READERS

QUICK, MANY = 16, 10_000  # of each reader; of all
HALVES = READERS[::2], READERS[1::2]


@pytest.fixture(scope="module")
def seeds():
    with sound_files() as folder:
        yield folder


def test_damaged_files_are_refused_or_read(seeds):
    """In two children at once, for each spends its first seconds on imports."""
    with ThreadPoolExecutor(2) as pool:
        halves = pool.map(partial(siege, first=0, count=QUICK, seeds=seeds), HALVES)
        every = [found for half in halves for found in half]
    assert [row for found in every for row in found.wrong] == []
    assert sum(found.tried for found in every) > QUICK * len(READERS) * 0.8


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_ten_thousand_damaged_files(reader, seeds, capsys):
    began = time.monotonic()
    each = MANY / sum(reader.part for reader in READERS)
    (found,) = siege([reader], QUICK, math.ceil(each), seeds)
    with capsys.disabled():
        print(f"\n{found.line(reader.name)}; {time.monotonic() - began:.0f} s")
    assert found.wrong == []
