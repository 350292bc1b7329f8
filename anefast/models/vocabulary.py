"""Vocabulary compaction: training over the token ids that occur, in tables of their rows alone.

Of V ids a data set uses K, ascending: the present ones. With compaction the embedding and the
classifier are tables [K, C] of their rows, and the loss is the cross-entropy of a softmax over
those K classes, exactly what the full tables give when the logits of absent ids are -inf. So the
gradients of present rows are the same, absent rows have none, and nothing else touches them either:
no decay, no moments, and no part in the gradient norm. (Without compaction every absent row is
pushed away from each hidden state a little, and decays: the two are different models of the absent
ids, of which the data says nothing.)

Outside the step nothing is compact: `spread` puts rows back into full tables, which is what
checkpoints and exports hold. A model trained so must never choose an absent id: `hide`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from anefast.models.parameters import Params

TABLES = ("tok_embeddings", "output")  # [V, C], a row for each id
Array = npt.NDArray[np.float32]


class Vocabulary:
    """The present ids among `size`; ids: any order, repeats are fine. ValueError outside [0, size).

    >>> v = Vocabulary(np.array([4, 1, 4]), 6)
    >>> v.ids.tolist(), v.compact(np.array([[1, 4, -1]], np.int32)).tolist()
    ([1, 4], [[0, 1, -1]])
    """

    def __init__(self, ids: npt.NDArray[np.integer], size: int) -> None:
        self.ids = np.unique(ids)
        if not self.ids.size or self.ids[0] < 0 or self.ids[-1] >= size:
            raise ValueError(f"[vocabulary] expected ids from 0 to {size - 1}, got others or none.")
        self.size = size
        self._row = np.full(size, -1, np.int32)
        self._row[self.ids] = np.arange(len(self.ids), dtype=np.int32)

    def __len__(self) -> int:
        return len(self.ids)

    def compact(self, tokens: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """Row numbers of `tokens`, any shape; negative ones (ignored targets) stay as they are.

        Raises ValueError for an id that is absent.
        """
        rows = np.where(tokens < 0, tokens, self._row[np.maximum(tokens, 0)])
        if ((rows < 0) & (tokens >= 0)).any():
            absent = int(tokens[(rows < 0) & (tokens >= 0)][0])
            raise ValueError(
                f"[vocabulary] expected ids that the data has, got {absent}. "
                "Hint: compact_vocab was made for other data."
            )
        return rows.astype(np.int32)

    def rows(self, params: Mapping[str, Array]) -> Params:
        """`params` with compact copies of its tables; the other arrays are the same objects.

        A table is one that has a row for each id: an optimiser may keep less of one."""
        return {
            n: p[self.ids] if n in TABLES and len(p) == self.size else p for n, p in params.items()
        }

    def spread(
        self, compact: Mapping[str, Array], full: Mapping[str, Array] | None = None
    ) -> Params:
        """`compact` with full tables: those of `full`, changed in place, or new ones of zeros."""
        out = dict(compact)
        for name in TABLES:
            if name in compact and len(compact[name]) == len(self):
                rows = compact[name]
                shape = (self.size, *rows.shape[1:])
                out[name] = full[name] if full is not None else np.zeros(shape, np.float32)
                out[name][self.ids] = rows
        return out

    def hide(self, logits: Array) -> Array:
        """logits [V] with -inf for absent ids."""
        hidden = np.full_like(logits, -np.inf)
        hidden[self.ids] = logits[self.ids]
        return hidden

    def text(self) -> str:
        """The present ids as hexadecimal bits, id 0 first, for a checkpoint's state."""
        bits = np.zeros(self.size, bool)
        bits[self.ids] = True
        return np.packbits(bits).tobytes().hex()

    @classmethod
    def from_text(cls, text: str, size: int) -> Vocabulary:
        """The inverse of `text`. ValueError where it is not one of `size` ids."""
        try:
            bits = np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8))
        except (TypeError, ValueError):
            bits = np.zeros(0, np.uint8)
        if len(bits) != -(-size // 8) * 8:
            raise ValueError(f"[vocabulary] expected {size} bits as hex text, got something else.")
        return cls(np.flatnonzero(bits), size)
