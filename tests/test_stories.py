"""The story generator: one derivation per text, exact probabilities, disjoint splits."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np
import pytest

from anefast.stories import Grammar, Story, floor, grammar, recognise, stories, story
from anefast.stories.walk import Pick
from anefast.tokenizer import ByteTokenizer

COUNT = 3000


@pytest.fixture(scope="module")
def told() -> list[Story]:
    return list(stories(0, COUNT))


def every_derivation(small: Grammar) -> Iterator[Story]:
    """All of them, by odometer: replay choices, then advance the last one that can."""
    plan: list[int] = []
    while True:
        sizes: list[int] = []

        def replay(begins: Sequence[str], at: int) -> int:
            sizes.append(len(begins))
            if len(plan) < len(sizes):
                plan.append(0)
            return plan[len(sizes) - 1]

        yield small.derive(replay)
        while plan and plan[-1] + 1 == sizes[len(plan) - 1]:
            plan.pop()
        if not plan:
            return
        plan[-1] += 1


def test_a_small_grammar_sums_to_one_and_no_text_begins_another() -> None:
    with pytest.raises(ValueError, match="''"):
        next(every_derivation(Grammar({"story": ["<a>", "b"], "a": ["a", "c"]})))
    small = Grammar({**SMALL, "story": ["First <n:a> met <n:b!a>. <end>", "So <n:a> slept."]})
    all_of_them = list(every_derivation(small))
    assert len(all_of_them) == 3 * 2 * (1 + 1 + 3) + 3
    assert sum(Fraction(1, s.one_in) for s in all_of_them) == 1
    texts = sorted(s.text for s in all_of_them)
    assert all(not b.startswith(a) for a, b in itertools.pairwise(texts))
    assert all(small.recognise(s.text) == s for s in all_of_them)


SMALL = {
    "n": ["Ann|f", "Bo|m", "Cy|m"],
    "end": ["{b.He} sang.", "{a} ran to {b.him}.", "Both <did>."],
    "did": ["slept", "yawned and yawned", "saw {a.self}"],
}


def test_ambiguous_grammars_are_refused() -> None:
    for rules in (
        {"story": ["a <x>", "a b"], "x": ["c"]},
        {"story": ["<x>"], "x": ["pea", "pear"]},
    ):
        with pytest.raises(ValueError, match="could not tell"):
            Grammar(rules)
    met = Grammar({"story": ["<x:a> <y>"], "x": ["b", "c"], "y": ["{a}", "bc"]})
    with pytest.raises(ValueError, match="could not tell"):
        met.derive(lambda begins, at: 0)  # here the texts depend on memory: "b" begins "bc"


def test_thousands_of_stories_give_their_choices_back(told: list[Story]) -> None:
    for tale in told:
        assert recognise(tale.text) == tale
        assert 300 <= len(tale.text) <= 1000 and tale.text.isascii()
        assert "  " not in tale.text and tale.text.count("\n") == 2
        assert not set("<>{}|") & set(tale.text)


def test_probability_is_the_product_of_choices(told: list[Story]) -> None:
    for tale in told[:50]:
        sizes: list[int] = []
        taken = iter(tale.choices)

        def count(begins: Sequence[str], at: int, sizes: list[int] = sizes) -> int:
            sizes.append(len(begins))
            return next(taken)

        assert grammar().derive(count).text == tale.text
        assert tale.one_in == math.prod(sizes)
        assert tale.logp == pytest.approx(-sum(map(math.log, sizes)), rel=1e-14)


def test_no_story_beyond_the_grammar() -> None:
    text = story(1, 2).text
    changed = [text[:-1], text + " ", "", text.replace("<", ""), text.replace(" the ", " a ", 1)]
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(text), 200):
        changed.append(text[:at] + chr(rng.integers(32, 127)) + text[at + 1 :])
    for other in changed:
        if other != text:
            try:
                assert recognise(other).text == other  # a letter may make another story ("six")
            except ValueError:
                pass


def test_pure_function_of_seed_and_index(told: list[Story]) -> None:
    assert story(0, 17) == told[17] != story(1, 17) != story(0, 17, "validation")
    assert [s.text for s in stories(0, 3, start=40)] == [s.text for s in told[40:43]]
    for seed, index in ((-1, 0), (0, -1), (2**64, 0)):
        with pytest.raises(ValueError, match=r"2\*\*64"):
            story(seed, index)


def test_held_out_stories_are_new(told: list[Story]) -> None:
    seen = {s.text for s in told}
    held_out = [s.text for s in stories(0, COUNT, "validation")]
    assert len(seen) == COUNT == len(set(held_out)) and not seen & set(held_out)
    assert min(-s.logp for s in told) > 80  # each is one of e**80 or rarer


def test_every_rule_is_used_and_choices_are_even(told: list[Story]) -> None:
    used = {
        p.rule
        for alts in grammar().rules.values()
        for a in alts
        for p in a.parts
        if isinstance(p, Pick)
    }
    assert used == set(grammar().rules) - {"story"}
    first = np.bincount([s.choices[0] for s in told])  # the opening
    expected = COUNT / len(grammar().rules["opening"])
    assert len(first) == len(grammar().rules["opening"])
    assert ((first - expected) ** 2 / expected).sum() < 30  # chi-square, 5 degrees of freedom


def test_pronouns_follow_the_hero(told: list[Story]) -> None:
    # A hero alone in the opening: "lived ... with her mother" must be a girl's name.
    girls = {a.text for a in grammar().rules["name"] if a.gender == "f"}
    for tale in told:
        opening = tale.text.split("\n")[0]
        hero = next(w.strip(".,'") for w in opening.split() if w.strip(".,'") in NAMES)
        wrong = {"he", "his", "him", "He", "His"} if hero in girls else {"she", "her", "She", "Her"}
        assert not wrong & set(opening.replace(",", " ").replace(".", " ").split())


NAMES = {a.text for a in grammar().rules["name"]}


def test_floor_per_token(told: list[Story]) -> None:
    tokenizer = ByteTokenizer()
    tokens = sum(len(tokenizer.encode(s.text)) for s in told) - 1
    nats = floor(told, tokens)
    print(
        f"{nats:.4f} nats per byte, {np.mean([len(s.text) for s in told]):.0f} bytes per story, "
        f"{-np.mean([s.logp for s in told]):.1f} nats per story"
    )
    assert 0.1 < nats < 0.5
    assert nats == pytest.approx(sum(math.log(s.one_in) for s in told) / tokens)
    with pytest.raises(ValueError):
        floor(told, 0)
