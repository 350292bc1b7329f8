"""Decode programs of one size with their surfaces: what an evaluation reads is written here.

Which texts are evaluated is infer.py's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from anefast import _C
from anefast.config import ModelConfig
from anefast.models import MASKED, causal_mask, rope_tables, rotated_heads
from anefast.runtime.compiled_graph import CompiledGraph
from anefast.runtime.device import Surface
from anefast.runtime.inspect.health import Health
from anefast.runtime.prefixes import Columns

CHUNK = 32  # positions that are evaluated together: the narrowest row a device has
EXACT, STEP = 8, 8  # so many live columns are exactly told apart; more are rounded up


@dataclass(frozen=True)
class Run:
    """Tokens of one text that follow one another, and lie side by side in a chunk.

    path: columns of the whole text up to its last token here, the first of which is at position
    `begin`. apart: each token is in the cache already, and is evaluated for its logits alone: it
    sees itself in the chunk, and those before it in the cache.
    """

    tokens: list[int]
    path: Columns
    begin: int
    apart: bool = False

    @property
    def positions(self) -> slice:
        """The positions of its tokens in their text."""
        return slice(self.begin, self.begin + len(self.tokens))

    def split(self, count: int) -> tuple[Run, Run]:
        """Its first `count` tokens, and the rest."""
        middle = self.begin + count
        first = replace(self, tokens=self.tokens[:count], path=self.path[:middle])
        return first, replace(self, tokens=self.tokens[count:], begin=middle)


class Bucket:
    """The decode programs for up to `length` cached columns and a chunk, and their surfaces.

    inputs: by name, as in `decode_graph`. cached, fresh: keys and values of every attention in
    turn, [1, KV * D, 1, length] and [1, KV * D, 1, chunk]. table: the classifier, [V, C], of the
    weights that the programs have.
    """

    def __init__(
        self,
        config: ModelConfig,
        chunk: int,
        length: int,
        compiled: CompiledGraph,
        inputs: dict[str, Surface],
        h: Surface,
        cached: list[Surface],
        fresh: list[Surface],
        health: Health,
        table: npt.NDArray[np.float16],
    ) -> None:
        self.config, self.chunk, self.length, self.compiled = config, chunk, length, compiled
        self.inputs, self.h, self.cached, self.fresh = inputs, h, cached, fresh
        self.health, self.table = health, table
        tables = rope_tables(config, config.max_seq_len + 1)
        self._rotations = [t.astype(np.float16) for t in tables]
        names = {surface: name for name, surface in inputs.items()}
        only = compiled.bound[0]  # of a device that takes parts
        ports = zip(only.inputs, only.kernel.program.inputs, strict=True)
        self._ports = [(names.get(s, ""), t.shape) for s, (_, t) in ports]
        with inputs["mask"].write() as mask:
            mask[...] = causal_mask(chunk, config.sliding_window)
        with inputs["past_mask"].write() as mask:
            mask[...] = MASKED

    def place(self, runs: list[Run], cached: int) -> None:
        """Writes masks and rotations of runs that lie one behind the other. cached: columns in use
        before them, behind which those that are not `apart` come."""
        count = sum(len(run.tokens) for run in runs)
        with self.inputs["past_mask"].write() as past, self.inputs["mask"].write() as mask:
            past[0, 0, :count] = MASKED
            mask[0, 0, :count] = MASKED
            at = 0
            for run in runs:
                self._hide(past[0, 0], mask[0, 0], run, at, cached)
                at += len(run.tokens)
        positions = [run.begin + i for run in runs for i in range(len(run.tokens))]
        for heads in rotated_heads(self.config):
            for name, table in zip(("cos", "sin"), self._rotations, strict=True):
                with self.inputs[f"rope.{heads}.{name}"].write() as to:
                    to[0, :, 0, :count] = np.tile(table[:, positions], (heads, 1))

    def _hide(
        self,
        past: npt.NDArray[np.float16],
        mask: npt.NDArray[np.float16],
        run: Run,
        at: int,
        cached: int,
    ) -> None:
        """Shows a run what it may read. at: its first row of the masks."""
        n, window = len(run.tokens), self.config.sliding_window
        positions = np.arange(len(run.path))
        rows = at + np.arange(n)
        own = run.begin + np.arange(n)  # positions of the rows
        seen = (
            positions[None, :] < own[:, None] if run.apart else positions[None, :] <= own[:, None]
        )
        if window:
            seen &= own[:, None] - positions[None, :] < window
        before = run.path < cached
        past[rows[:, None], run.path[before]] = np.where(seen[:, before], 0, MASKED)
        if run.apart:
            mask[rows, rows] = 0
        else:
            fresh = run.path[~before] - cached
            mask[rows[:, None], fresh] = np.where(seen[:, ~before], 0, MASKED)

    def extents(self, count: int, cached: int) -> list[int]:
        """The used length of every axis of the only program's inputs; empty if all is used."""
        if self.chunk == CHUNK:
            return []
        live = count if count <= EXACT else -(-count // STEP) * STEP
        past = min(bucket_length(cached), self.length)
        found: list[int] = []
        for name, shape in self._ports:
            rows = live if name in ("mask", "past_mask") else shape[2]
            columns = live if name in ("x", "mask") or name.startswith("rope.") else shape[3]
            found += [*shape[:2], rows, past if "past_" in name else columns]
        return found

    def keep(self, cached: int, count: int) -> bool:
        """Moves the keys and values of the first `count` positions behind so many columns of the
        cache. Whether all are finite."""
        fresh, to = ([s.native for s in side] for side in (self.fresh, self.cached))
        return _C.copy_columns(fresh, to, self.chunk, self.length, 0, cached, count)

    def take(self, other: Bucket, columns: Columns) -> None:
        """Takes over these columns of another's cache, or of its own, as its first ones."""
        for source, target in zip(other.cached, self.cached, strict=True):
            with source.read() as found:
                kept = found[..., columns]
            with target.write() as wider:
                wider[..., : len(columns)] = kept


def bucket_length(cached: int) -> int:
    """The smallest power of two, at least CHUNK, that holds so many positions."""
    return max(CHUNK, 1 << (cached - 1).bit_length()) if cached else CHUNK
