"""A generative grammar whose texts have one derivation each, so that -ln p(text) is exact.

Not here: the words and plots (words.py, plots.py) and seeds (__init__.py). Read this file first.

A grammar maps rule names to alternatives, all equally likely. An alternative is a template:

    the <colour:hue> <toy> was here     expands the rule `colour`, remembers its text as `hue`, ...
    a {hue} one                         repeats what was remembered
    <name:friend!hero>                  any alternative of `name` except the text remembered as
    `hero`

An alternative ending in |f or |m also remembers pronouns: named `hero`, it sets {hero.he}
{hero.him} {hero.his} {hero.self}, and with a capital {hero.He} {hero.His}.

One derivation. Wherever the grammar can choose, the texts with which the alternatives begin (up to
their own first choice) must be prefix-free: none begins another. Every `Walk` refuses to choose
otherwise. So, reading a text from the left, each choice is settled by the text that follows it,
the state after it is settled too, and so on to the end: choices -> text can be undone, no story is
the beginning of another, and p(text) is the product of 1/n over the choices made. `recognise` is
this argument as code.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Choose = Callable[[Sequence[str], int], int]  # (how each alternative begins, characters so far)

_PARTS = re.compile(r"\{([\w.]+)\}|<(\w+)(?::(\w+))?(?:!([\w,]+))?>")
_PRONOUNS = {
    "f": {"he": "she", "him": "her", "his": "her", "self": "herself", "He": "She", "His": "Her"},
    "m": {"he": "he", "him": "him", "his": "his", "self": "himself", "He": "He", "His": "His"},
}


@dataclass(frozen=True)
class Ref:
    """A remembered text."""

    key: str


@dataclass(frozen=True)
class Pick:
    """A choice: any alternative of `rule` whose text is not one of the remembered `but`."""

    rule: str
    key: str | None
    but: tuple[str, ...]


@dataclass(frozen=True)
class Alternative:
    parts: tuple[str | Ref | Pick, ...]
    gender: str | None
    begins: str | None  # text up to the first choice, when it needs no memory

    @property
    def text(self) -> str | None:
        """The whole text, for an alternative that is only words."""
        return self.parts[0] if len(self.parts) == 1 and isinstance(self.parts[0], str) else None


@dataclass(frozen=True)
class Story:
    """A text, the choices that made it, and 1/p, which is a whole number."""

    text: str
    choices: tuple[int, ...]
    one_in: int

    @property
    def logp(self) -> float:
        """ln p(text) under the grammar, exact to about the last bit."""
        return -math.log(self.one_in)


class Grammar:
    """rules: name -> templates. start: the rule of a whole text. ValueError when a rule is
    unsound."""

    def __init__(self, rules: Mapping[str, Sequence[str]], start: str = "story") -> None:
        self.start = start
        self.rules = {name: tuple(map(_alternative, rules[name])) for name in rules}
        for name, alternatives in self.rules.items():
            for pick in (p for a in alternatives for p in a.parts if isinstance(p, Pick)):
                if pick.rule not in self.rules:
                    raise ValueError(f"[stories] {name} uses {pick.rule}, which is no rule.")
                if pick.but and any(a.text is None for a in self.rules[pick.rule]):
                    raise ValueError(f"[stories] {name}: only plain words can be left out.")
            static = [a.begins for a in alternatives if a.begins is not None]
            _check_prefix_free(static, name)

    def derive(self, choose: Choose) -> Story:
        """The story that `choose` steers to."""
        walk = _Walk(self, choose)
        walk.rule(self.start, ())
        return Story("".join(walk.out), tuple(walk.choices), walk.one_in)

    def recognise(self, text: str) -> Story:
        """The one derivation of `text`; ValueError when the grammar cannot say it."""

        def settled(begins: Sequence[str], at: int) -> int:
            fits = [i for i, lead in enumerate(begins) if text.startswith(lead, at)]
            if len(fits) != 1:
                raise ValueError(
                    f"[stories] expected one of {len(begins)} continuations at character {at}, "
                    f"{len(fits)} fit {text[at : at + 24]!r}. Hint: this grammar did not write it."
                )
            return fits[0]

        story = self.derive(settled)
        if story.text != text:
            raise ValueError("[stories] expected a story of this grammar, the fixed words differ.")
        return story


class _Walk:
    """One derivation in progress: text so far, memory, choices, and the product of their counts."""

    def __init__(self, grammar: Grammar, choose: Choose) -> None:
        self.rules = grammar.rules
        self.choose = choose
        self.out: list[str] = []
        self.length = 0
        self.memory: dict[str, str] = {}
        self.choices: list[int] = []
        self.one_in = 1

    def rule(self, name: str, but: tuple[str, ...]) -> Alternative:
        alternatives = self.rules[name]
        if but:
            taken = {self.memory[key] for key in but}
            alternatives = tuple(a for a in alternatives if a.text not in taken)
        chosen = alternatives[0]
        if len(alternatives) > 1:
            begins = [a.begins if a.begins is not None else self.begin(a) for a in alternatives]
            if any(a.begins is None for a in alternatives):
                _check_prefix_free(begins, name)
            index = self.choose(begins, self.length)
            chosen = alternatives[index]
            self.choices.append(index)
            self.one_in *= len(alternatives)
        for part in chosen.parts:
            if isinstance(part, Pick):
                self.pick(part)
            else:
                self.say(part if isinstance(part, str) else self.memory[part.key])
        return chosen

    def begin(self, alternative: Alternative) -> str:
        texts = []
        for part in alternative.parts:
            if isinstance(part, Pick):
                break
            texts.append(part if isinstance(part, str) else self.memory[part.key])
        return "".join(texts)

    def pick(self, pick: Pick) -> None:
        start = len(self.out)
        chosen = self.rule(pick.rule, pick.but)
        if pick.key is not None:
            self.memory[pick.key] = "".join(self.out[start:])
            if chosen.gender is not None:
                for form, word in _PRONOUNS[chosen.gender].items():
                    self.memory[f"{pick.key}.{form}"] = word

    def say(self, text: str) -> None:
        self.out.append(text)
        self.length += len(text)


def _alternative(template: str) -> Alternative:
    gender = None
    if template[-2:] in ("|f", "|m"):
        template, gender = template[:-2], template[-1]
    parts: list[str | Ref | Pick] = []
    at = 0
    for match in _PARTS.finditer(template):
        if match.start() > at:
            parts.append(template[at : match.start()])
        ref, rule, key, but = match.groups()
        parts.append(Ref(ref) if ref else Pick(rule, key, tuple(but.split(",")) if but else ()))
        at = match.end()
    if at < len(template):
        parts.append(template[at:])
    plain = parts[0] if parts and isinstance(parts[0], str) else ""
    needs_memory = False
    for part in parts:
        if isinstance(part, Pick):
            break
        needs_memory |= isinstance(part, Ref)
    return Alternative(tuple(parts), gender, None if needs_memory else plain)


def _check_prefix_free(begins: Sequence[str], name: str) -> None:
    """ValueError if one text begins another: in sorted order it then begins its neighbour."""
    ordered = sorted(begins)
    for a, b in itertools.pairwise(ordered):
        if b.startswith(a):
            raise ValueError(f"[stories] rule {name}: {a!r} begins {b!r}, a reader could not tell.")
