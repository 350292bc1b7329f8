"""Weights by name, of which some still lie in files.

Training a whole model needs every number in fp32. A model whose matrices are baked, beside an
adapter or to generate text, reads each of them once and is done. So what `Model.load` finds in a
file is read when it is first asked for, and programs are filled by looking without keeping.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Unread:
    """An array that nobody has asked for yet: its shape, and what reads it, each time anew."""

    shape: tuple[int, ...]
    read: Callable[[], Array]


class Weights(MutableMapping[str, Array]):
    """fp32 arrays by name. `weights[name]` is read when it is first asked for and then stays, so
    what is changed in it stays changed; `peeked` looks without keeping.

    >>> made = []
    >>> weights = Weights({"w": Unread((2,), lambda: made.append("w") or np.ones(2, np.float32))})
    >>> peeked(weights)["w"].sum(), shapes_in(weights), held(weights)
    (np.float32(2.0), {'w': (2,)}, {})
    >>> weights["w"] is weights["w"], made
    (True, ['w', 'w'])
    """

    def __init__(self, *tables: MutableMapping[str, Array | Unread]) -> None:
        self._tables = tables  # what a name is, is in the first that has it

    @classmethod
    def of(cls, arrays: MutableMapping[str, Array]) -> Weights:
        """These arrays, not copied: what is set in one is set in the other."""
        return arrays if isinstance(arrays, Weights) else cls(arrays)  # type: ignore[arg-type]

    def over(self, arrays: Mapping[str, Array]) -> Weights:
        """These weights with others in place of them and behind them."""
        return Weights(dict(arrays), *self._tables)

    def __getitem__(self, name: str) -> Array:
        table = self._table(name)
        found = table[name]
        if isinstance(found, Unread):
            found = table[name] = found.read()
        return found

    def __setitem__(self, name: str, array: Array) -> None:
        self._tables[0][name] = array

    def __delitem__(self, name: str) -> None:
        del self._tables[0][name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name for table in self._tables[::-1] for name in table))

    def __len__(self) -> int:
        return len(dict.fromkeys(self))

    def __contains__(self, name: object) -> bool:
        return any(name in table for table in self._tables)

    def __repr__(self) -> str:
        return f"Weights({len(self)} arrays, {len(held(self))} of them read)"

    def _entry(self, name: str) -> Array | Unread:
        return self._table(name)[name]

    def _table(self, name: str) -> MutableMapping[str, Array | Unread]:
        for table in self._tables:
            if name in table:
                return table
        raise KeyError(name)


class _Peeked(Mapping[str, Array]):
    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    def __getitem__(self, name: str) -> Array:
        found = self._weights._entry(name)
        return found.read() if isinstance(found, Unread) else found

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

    def __contains__(self, name: object) -> bool:
        return name in self._weights


def peeked(arrays: Mapping[str, Array]) -> Mapping[str, Array]:
    """The same arrays, for reading each once: what was not read yet is not kept."""
    return _Peeked(arrays) if isinstance(arrays, Weights) else arrays


def held(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The arrays that are in memory."""
    if not isinstance(arrays, Weights):
        return dict(arrays)
    entries = ((name, arrays._entry(name)) for name in arrays)
    return {name: found for name, found in entries if not isinstance(found, Unread)}


def shapes_in(arrays: Mapping[str, Array]) -> dict[str, tuple[int, ...]]:
    """The shape of each array, read from its file or not."""
    if not isinstance(arrays, Weights):
        return {name: array.shape for name, array in arrays.items()}
    return {name: arrays._entry(name).shape for name in arrays}
