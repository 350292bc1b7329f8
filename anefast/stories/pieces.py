"""The word pieces of the built-in stories, as a tokenizer.bin that ships with the package.

`python -m anefast.stories.pieces` writes vocabulary.bin anew; a test compares the two. Pieces are
byte-pair merges, as in Sennrich et al. (2016), made until every word of the stories is one piece.
What is merged on the way stands for itself in other texts, and never occurs in a story: training
with `data.compact_vocab` leaves it out of the classifier.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter

from anefast.files import write_atomic
from anefast.tokenizer import Llama2cTokenizer

from . import VOCABULARY, stories

_COUNTED = 20_000  # stories: each of the rarest words, the names, occurs in dozens of them
# A word with the space before it, or a run of marks. Two of these never merge into one piece.
WORD = re.compile(r" ?[A-Za-z]+| ?[^A-Za-z ]+")
_CONTROLS = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *(b"<0x%02X>" % byte for byte in range(256))]


def words() -> Counter[str]:
    """The words of the stories, and how often each occurs in the counted ones."""
    counts: Counter[str] = Counter()
    for story in stories(0, _COUNTED):
        counts.update(WORD.findall(" " + story.text))
    return counts


def pieces(counts: Counter[str]) -> list[str]:
    """Characters, then merges in the order in which they apply; every word is among them."""
    spelt = {word: list(word) for word in counts}
    made = sorted(set(itertools.chain.from_iterable(spelt.values())))
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in spelt.items():
            for pair in itertools.pairwise(parts):
                pairs[pair] += counts[word]
        if not pairs:
            return made
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        made.append("".join(best))
        spelt = {word: _merged(parts, best) for word, parts in spelt.items()}


def _merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    """`parts` with every neighbouring `pair` merged, from the left."""
    out: list[str] = []
    for part in parts:
        if out and (out[-1], part) == pair:
            out[-1] += part
        else:
            out.append(part)
    return out


def vocabulary() -> Llama2cTokenizer:
    """The tokenizer: earlier merges have higher scores."""
    merges = pieces(words())
    scores = [0.0] * len(_CONTROLS) + [-float(i) for i in range(len(merges))]
    return Llama2cTokenizer([*_CONTROLS, *(piece.encode() for piece in merges)], scores)


if __name__ == "__main__":
    write_atomic(VOCABULARY, vocabulary().to_bytes(), "stories")
