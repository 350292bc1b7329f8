"""Inference: next-token logits of growing texts, with a key-value cache that they share.

Programs have static shapes. So a text is worked off in chunks: a decode program reads the keys
and values of what was evaluated before from surfaces, beside the embedded tokens of the newest
chunk, and the CPU adds the chunk's own to them. Columns of chunk and cache may be of several texts
(prefixes.py): a mask shows each token those before it, and hides what is of others or not written.
Hidden columns add exact zeros to the sums of attention, so logits are those of one evaluation of
the whole text alone, to the byte on the host. The CPU reads the classifier in fp16, as programs
have all other matrices, and sums in fp32; a tied embedding is read from the same table.

A device that takes parts (`Device.takes_parts`) is told how many columns of chunk and cache there
are, and computes no others: chunks are wide there, and one set of programs serves all lengths. On
others a chunk is as narrow as a row may be, and programs are compiled for a power of two of cached
columns (a bucket).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from anefast import _C
from anefast.config import ModelConfig
from anefast.fuse import Plan, cut, lower_all
from anefast.fuse.legal import target_of
from anefast.mil.pack import halves
from anefast.models import Params, classifier, decode_graph, family_of
from anefast.models.lora import NO_PAIRS, Lora
from anefast.models.weights import Weights, peeked
from anefast.runtime.bucket import CHUNK, Bucket, Run, bucket_length
from anefast.runtime.compiled_graph import CompiledGraph
from anefast.runtime.device import Device
from anefast.runtime.inspect.health import Health
from anefast.runtime.prefixes import ROOT, Columns, Prefixes
from anefast.runtime.stream import advice, stream_scale

log = logging.getLogger("anefast")

WIDE = 256  # positions of a chunk where unread columns cost nothing
ROOM = 4096  # columns of a cache to begin with, there
THIN = 8  # columns of a product that reads its wide operand where it lies (csrc/cpu/gemm/thin.h)
FEW = 256  # up to so many columns that are no longer needed are left in place

Logits = npt.NDArray[np.float32]
Asked = tuple[list[int], int]  # a text, and how many of its last tokens want logits
Places = dict[int, list[tuple[int, int]]]  # by column: whose logits they are, text and row


class Inference:
    """Decode programs of one model, compiled when first needed.

    Keeps what it has evaluated of the texts that were asked for last: those that go on from them
    cost what is new, any other one what is behind the part that it shares with one of them. Where
    the residual stream overflows, it begins again with one that is scaled, and reports it once.
    lasting: the weights are those of a model that nothing trains, so that other processes may find
    the programs (kept.py).
    """

    def __init__(
        self,
        config: ModelConfig,
        params: Params,
        device: Device,
        plan: Plan,
        lora: Lora | None = None,
        lasting: bool = False,
    ) -> None:
        self.config, self.params, self.device, self.lora = config, params, device, lora
        self.family = family_of(config)
        # Positions are added to the embedding before it is rounded.
        self._shares = "output" not in params and self.family.positions not in params
        for name in ("norm", self.family.norm_bias, self.family.positions):
            params.get(name)  # what still lies in a file, and the CPU needs, is read now and stays
        if not self._shares:
            params.get("tok_embeddings")
        # the columns of cache and chunk differ, so values cannot share a port
        self.plan = replace(target_of(device).fitted(plan), ports="several")
        if lasting and plan.weights == "const":
            self.plan = replace(self.plan, trained=frozenset(lora.params if lora else ()))
        self.evaluations = 0  # of a chunk
        self._bucket: Bucket | None = None
        self._prefixes = Prefixes()  # whose keys and values are in the cache
        self._cached = 0  # columns that are there
        self._rows: dict[int, int] = {}  # by column: where in `h` the last evaluation left it
        self._told = False  # of an overflow

    def logits(self, tokens: list[int]) -> Logits:
        """Logits [V] of the token after `tokens`, of which there are 1 to max_seq_len."""
        only: Logits = self.last_logits(tokens, 1)[0]
        return only

    def last_logits(self, tokens: list[int], count: int) -> Logits:
        """Logits [count, V] of the tokens after `tokens` less its last count - 1, .., less 1, and
        all of it."""
        return self.logits_of([(tokens, count)])[0]

    def logits_of(self, asked: list[Asked]) -> list[Logits]:
        """`last_logits` of several texts, which are evaluated side by side: each weight is read
        once for all of them."""
        for tokens, _ in asked:
            if not 0 < len(tokens) <= self.config.max_seq_len:
                raise ValueError(
                    f"[generate] expected 1 to {self.config.max_seq_len} tokens, got {len(tokens)}."
                )
        try:
            return self._logits_of(asked)
        except Overflow:  # of a stream that was scaled since
            self.close()
            return self._logits_of(asked)
        finally:  # where it was interrupted, what was to come is not there
            self._forget(self._cached)

    @property
    def wide(self) -> bool:
        """True if unread columns cost nothing, and others do."""
        return self.device.takes_parts and self.plan.forward == "all"

    @property
    def drafts_most(self) -> int:
        """Drafts that may be verified with a token: as many as a thin product takes at once, or as
        a chunk has besides, where columns are there anyway."""
        return THIN - 1 if self.wide else CHUNK - 1

    @property
    def cache_bytes(self) -> int:
        """Bytes of the keys and values of all cached positions."""
        kv = self.config.n_kv_heads * self.config.head_dim
        return 2 * 2 * self.config.n_layers * kv * len(self._prefixes)

    def _logits_of(self, asked: list[Asked]) -> list[Logits]:
        out: list[Logits] = [
            np.empty((count, self.config.vocab_size), np.float32) for _, count in asked
        ]
        bucket, known = self._room_for(asked)
        cached = len(self._prefixes)
        runs: list[Run] = []
        again: list[Run] = []  # in the cache, and their logits are wanted
        places: Places = {}
        for text, ((tokens, count), path) in enumerate(zip(asked, known, strict=True)):
            columns, begin = self._columns(tokens, path)
            if begin < len(tokens):
                runs.append(Run(tokens[begin:], columns, begin))
            for at in range(len(tokens) - count, len(tokens)):
                column = int(columns[at])
                if column < cached and column not in self._rows and column not in places:
                    again.append(Run([tokens[at]], columns[: at + 1], at, apart=True))
                places.setdefault(column, []).append((text, at - len(tokens) + count))
        self._read(bucket, places, out)
        for chunk in in_chunks(runs + again, bucket.chunk):
            self._evaluate(bucket, chunk)
            self._read(bucket, places, out)
        return out

    def _columns(self, tokens: list[int], path: list[int]) -> tuple[Columns, int]:
        """The columns of a text, `path` those of its beginning, and how many of them were there."""
        path = self._prefixes.path(tokens, path)  # a text before it may have added some
        begin = len(path)
        for token in tokens[begin:]:
            path.append(self._prefixes.add(path[-1] if path else ROOT, token))
        return np.array(path, np.int64), begin

    def _read(self, bucket: Bucket, places: Places, out: list[Logits]) -> None:
        """Logits of columns that the last evaluation left in `h`, to the places that want them,
        which are done with then."""
        columns = [column for column in places if column in self._rows]
        if not columns:
            return
        at = np.array([self._rows[column] for column in columns], np.int32)
        found: Logits = np.empty((len(at), self.config.vocab_size), np.float32)
        with bucket.h.read() as h:
            _C.head_logits(
                h, self.params["norm"], bucket.table, self.config.stream_eps, at, found,
                self.params.get(self.family.norm_bias),
            )  # fmt: skip
        for column, logits in zip(columns, found, strict=True):
            for text, row in places.pop(column):
                out[text][row] = logits

    def adapt(self, lora: Lora) -> None:
        """From now on with another adapter beside the same matrices: surfaces are written, nothing
        is compiled. ValueError where the matrices or the padded ranks are others."""
        if self.lora is None or lora.ranks != self.lora.ranks:
            raise ValueError(
                "[generate] expected an adapter of the matrices and ranks that the programs have, "
                "got another. Hint: model.inference makes programs for it."
            )
        self.lora = lora
        self._forget(0)
        if self._bucket is not None:
            self._bucket.compiled.stage(lora.staged())

    def close(self) -> None:
        """Unloads the programs and forgets the cache."""
        if self._bucket is not None:
            self._bucket.compiled.close()
        self._bucket = None
        self._forget(0)

    def _forget(self, kept: int) -> None:
        """Leaves so many columns in the cache."""
        self._cached = min(self._cached, kept)
        self._prefixes.cut(kept)
        self._rows = {column: row for column, row in self._rows.items() if column < kept}

    def _evaluate(self, bucket: Bucket, runs: list[Run]) -> None:
        """Evaluates a chunk and moves the keys and values of what is new into the cache."""
        columns = [int(c) for run in runs for c in run.path[run.begin :][: len(run.tokens)]]
        fresh = sum(len(run.tokens) for run in runs if not run.apart)  # which come first
        cached = columns[0] if fresh else len(self._prefixes)
        bucket.place(runs, cached)
        self._embed(bucket, runs)
        kernels = range(len(bucket.compiled.kernels))
        bucket.compiled.run(kernels, bucket.extents(len(columns), cached))
        self.evaluations += 1
        if not self._told and bucket.health.overflows():
            self._overflowed(bucket, runs)
        finite = bucket.keep(cached, fresh)  # which a chip may hide: no number counts as 0 there
        if not self._told and not finite:
            self._overflowed(bucket, runs)
        self._cached = cached + fresh
        self._rows = {column: row for row, column in enumerate(columns)}

    def _embed(self, bucket: Bucket, runs: list[Run]) -> None:
        ids = np.array([[token for run in runs for token in run.tokens]], np.int32)
        table = self.params.get(self.family.positions)
        rows = None if table is None else np.concatenate([table[run.positions] for run in runs])
        columns: npt.NDArray[np.float16]
        columns = np.empty((1, self.config.dim, 1, ids.size), np.float16)
        embedding = bucket.table if self._shares else self.params["tok_embeddings"]
        _C.embed(ids, embedding, columns, rows)
        with bucket.inputs["x"].write() as x:
            x[..., : ids.size] = columns

    def _overflowed(self, bucket: Bucket, runs: list[Run]) -> None:
        """Says what overflowed. Raises Overflow where a smaller stream helps, which it has then."""
        self._told = True
        finding = bucket.health.overflow(self.params)
        before = self.config.stream_scale
        tokens = max((self._prefixes.tokens(run.path) for run in runs), key=len)
        scale = stream_scale(self.config, self.params, np.array(tokens))
        log.warning("[generate] %s", advice(finding, before, scale, taken=True))
        if scale != before:
            self.config = self.config.replace(stream_scale=scale)
            self._told = False  # of what is still to come
            raise Overflow

    def _room_for(self, asked: list[Asked]) -> tuple[Bucket, list[list[int]]]:
        """The bucket with columns for these texts, and those of each that are in its cache. What
        is of none of them is forgotten where that is free, or where room is scarce."""
        known = self._prefixes.paths([tokens for tokens, _ in asked])
        self._forget(1 + max((path[-1] for path in known if path), default=ROOT))
        more = sum(len(tokens) - len(path) for (tokens, _), path in zip(asked, known, strict=True))
        used, bucket = sum(map(len, known)), self._bucket
        if bucket is None:
            self._bucket = bucket = self._compiled(more)
        full = len(self._prefixes) + more > bucket.length
        if full or len(self._prefixes) > 2 * used + FEW:
            self._cached = 0  # until they are moved
            kept = self._prefixes.keep(known)
            old = {column: i for i, column in enumerate(kept.tolist())}
            self._rows = {old[c]: row for c, row in self._rows.items() if c in old}
            known = [[old[column] for column in path] for path in known]
            target = bucket
            if len(kept) + more > bucket.length:
                target = self._compiled(len(kept) + more)
            target.take(bucket, kept)
            if target is not bucket:
                self._rows = {}  # in the surfaces of the old one
                bucket.compiled.close()
                self._bucket = bucket = target
            self._cached = len(kept)
        return bucket, known

    def _compiled(self, columns: int) -> Bucket:
        chunk, length = CHUNK, bucket_length(columns)
        if self.wide:
            whole = -(-self.config.max_seq_len // CHUNK) * CHUNK
            chunk, length = min(WIDE, whole), max(length, min(ROOM, whole))
        ranks = self.lora.ranks if self.lora is not None else NO_PAIRS
        graph = decode_graph(self.config, chunk, length, self.plan.spelling, ranks)
        programs = lower_all(cut(graph, self.plan.key), self.plan)
        table = halves(peeked(self.params), classifier(self.params))
        compiled = CompiledGraph(self.device, programs, self.plan.dialect)
        pairs = self.lora.staged() if self.lora is not None else {}
        compiled.load(Weights.of(self.params).over(pairs))
        surfaces = {str(t.name): compiled.surfaces[t] for t in graph.inputs}
        names = [name.removesuffix(".past_k") for name in surfaces if name.endswith(".past_k")]
        cached_in = [surfaces[f"{name}.past_{what}"] for name in names for what in "kv"]
        fresh = [
            compiled.surfaces[graph.outputs[f"{name}.{what}"]] for name in names for what in "kv"
        ]
        h = compiled.surfaces[graph.outputs["h"]]
        health = Health(graph, compiled)
        return Bucket(
            self.config, chunk, length, compiled, surfaces, h, cached_in, fresh, health, table
        )


class Overflow(Exception):
    """The residual stream left fp16, and is scaled from now on."""


def in_chunks(runs: Iterable[Run], size: int) -> Iterator[list[Run]]:
    """Runs cut so that each list of them has `size` tokens, the last one as many as are left."""
    chunk: list[Run] = []
    room = size
    for run in runs:
        while len(run.tokens) > room:
            first, run = run.split(room)
            yield [*chunk, first] if first.tokens else chunk
            chunk, room = [], size
        chunk.append(run)
        room -= len(run.tokens)
    if chunk:
        yield chunk
