"""Maps the columns of a key-value cache to tokens, for several texts in one cache.

A column is a node of a tree: a token, behind the column of the token before it. So texts that begin
alike share the columns of what they share. A column's number is larger than that of the column it
follows, so a sum over columns has the order of a sum over positions.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

ROOT = -1  # the column that a text's first token follows

Columns = npt.NDArray[np.int64]


class Prefixes:
    """The tree. `len` of it is how many columns are in use."""

    def __init__(self) -> None:
        self._follows: list[int] = []  # by column
        self._tokens: list[int] = []
        self._column: dict[tuple[int, int], int] = {}  # of a token behind a column
        self._walked: list[tuple[list[int], list[int]]] = []  # tokens and columns, of `paths`

    def __len__(self) -> int:
        return len(self._tokens)

    def paths(self, texts: list[list[int]]) -> list[list[int]]:
        """The columns of as much of each text as there is. A text that goes on from the one that
        was in its place at the last call costs what is new."""
        begun = [columns for _, columns in self._walked] + [[]] * len(texts)
        known = [tokens for tokens, _ in self._walked] + [[]] * len(texts)
        found = [
            self.path(tokens, columns if tokens[: len(before)] == before else None)
            for tokens, columns, before in zip(texts, begun, known, strict=False)
        ]
        self._walked = [(t[: len(path)], path) for t, path in zip(texts, found, strict=True)]
        return [list(path) for path in found]

    def path(self, tokens: list[int], begun: list[int] | None = None) -> list[int]:
        """The columns of as much of a text as there is. begun: those of its beginning."""
        found = list(begun or ())
        at = found[-1] if found else ROOT
        for token in tokens[len(found) :]:
            column = self._column.get((at, token))
            if column is None:
                break
            found.append(column)
            at = column
        return found

    def tokens(self, path: Columns) -> list[int]:
        """The tokens of some columns."""
        return [self._tokens[column] for column in path.tolist()]

    def add(self, follows: int, token: int) -> int:
        """A new column for a token behind another column."""
        self._follows.append(follows)
        self._tokens.append(token)
        column = len(self._tokens) - 1
        self._column[follows, token] = column
        return column

    def cut(self, length: int) -> None:
        """Forgets all but the first so many columns."""
        if any(path and path[-1] >= length for _, path in self._walked):
            self._walked = []
        while len(self._tokens) > length:
            del self._column[self._follows.pop(), self._tokens.pop()]

    def keep(self, paths: Iterable[list[int]]) -> Columns:
        """Forgets what is on none of these paths, whose columns move together. Returns the columns
        that are kept, in order."""
        self._walked = []
        kept = sorted({column for path in paths for column in path})
        new = {ROOT: ROOT} | {old: i for i, old in enumerate(kept)}
        self._follows = [new[self._follows[old]] for old in kept]
        self._tokens = [self._tokens[old] for old in kept]
        pairs = zip(self._follows, self._tokens, strict=True)
        self._column = {pair: i for i, pair in enumerate(pairs)}
        return np.array(kept, np.int64)
