"""Inference: next-token logits for a growing prefix, with a key-value cache.

Programs have static shapes. So a prefix is worked off in chunks: a decode program reads the keys
and values of what was evaluated before from surfaces, beside the embedded tokens of the newest
chunk, and the CPU adds the chunk's own to them. A mask hides what is not written. Hidden columns
add exact zeros to the sums of attention, so logits are those of one evaluation of the whole prefix,
to the byte on the host.

A device that takes parts (`Device.takes_parts`) is told how many columns of chunk and cache there
are, and computes no others: chunks are wide there, and one set of programs serves all lengths. On
others a chunk is as narrow as a row may be, and programs are compiled for a power of two of cached
columns (a bucket).
"""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from anefast import _C
from anefast.config import ModelConfig
from anefast.fuse import Plan, cut, lower_all
from anefast.fuse.legal import target_of
from anefast.nn import (
    MASKED,
    Params,
    causal_mask,
    classifier,
    decode_graph,
    family_of,
    rope_tables,
    rotated_heads,
)
from anefast.nn.lora import NO_PAIRS, Lora
from anefast.runtime.device import Device, Surface
from anefast.runtime.health import Health
from anefast.runtime.sequence import Sequence
from anefast.runtime.stream import advice, stream_scale

log = logging.getLogger("anefast")

CHUNK = 32  # positions that are evaluated together: the narrowest row a device has
WIDE = 256  # where columns that nobody reads cost nothing
ROOM = 4096  # columns of a cache to begin with, there
EXACT, STEP = 8, 8  # so many live columns are exactly told apart; more are rounded up


class Inference:
    """Decode programs of one model, compiled when first needed.

    Keeps what it has evaluated: asking for a prefix that goes on from the last one costs what is
    new, any other one what is behind the part they share. Where the residual stream overflows, it
    begins again with one that is scaled, and says so once.
    """

    def __init__(
        self,
        config: ModelConfig,
        params: Params,
        device: Device,
        plan: Plan,
        lora: Lora | None = None,
    ) -> None:
        self.config, self.params, self.device, self.lora = config, params, device, lora
        self.family = family_of(config)
        # the columns of cache and chunk differ, so values cannot share a port
        self.plan = replace(target_of(device).fitted(plan), ports="several")
        self.evaluations = 0  # of a chunk
        self._bucket: Bucket | None = None
        self._done: list[int] = []  # tokens whose keys and values are in the cache
        self._begin = 0  # of the chunk that was evaluated last, the end of which is that of `_done`
        self._told = False  # of an overflow

    def logits(self, tokens: list[int]) -> npt.NDArray[np.float32]:
        """Logits [V] of the token after `tokens`, of which there are 1 to max_seq_len."""
        only: npt.NDArray[np.float32] = self.last_logits(tokens, 1)[0]
        return only

    def last_logits(self, tokens: list[int], count: int) -> npt.NDArray[np.float32]:
        """Logits [count, V] of the tokens after `tokens` less its last count - 1, .., less 1, and
        all of it. count: 1 to `widest`."""
        if not 0 < len(tokens) <= self.config.max_seq_len:
            raise ValueError(
                f"[generate] expected 1 to {self.config.max_seq_len} tokens, got {len(tokens)}."
            )
        try:
            return self._logits(tokens, count)
        except Overflow:  # of a stream that was scaled since
            self.close()
            return self._logits(tokens, count)

    @property
    def widest(self) -> int:
        """How many positions one evaluation may have."""
        return self._bucket.chunk if self._bucket is not None else CHUNK

    @property
    def cache_bytes(self) -> int:
        """Of keys and values of the positions that are cached."""
        kv = self.config.n_kv_heads * self.config.head_dim
        return 2 * 2 * self.config.n_layers * kv * len(self._done)

    def _logits(self, tokens: list[int], count: int) -> npt.NDArray[np.float32]:
        first = len(tokens) - count  # position whose logits are wanted first
        shared = common_prefix(self._done, tokens)
        if shared < len(tokens) or first < self._begin:
            self._forget(min(shared, first))
            while len(self._done) < len(tokens):
                self._evaluate(tokens, first)
        out: npt.NDArray[np.float32] = np.empty((count, self.config.vocab_size), np.float32)
        positions = np.arange(first - self._begin, len(tokens) - self._begin, dtype=np.int32)
        assert self._bucket is not None
        with self._bucket.h.read() as h:
            _C.head_logits(
                h, self.params["norm"], self.params[classifier(self.params)],
                self.config.stream_eps, positions, out, self.params.get(self.family.norm_bias),
            )  # fmt: skip
        return out

    def adapt(self, lora: Lora) -> None:
        """From now on with another adapter beside the same matrices: surfaces are written, nothing
        is compiled. ValueError where the matrices or the padded ranks are others."""
        if self.lora is None or lora.ranks != self.lora.ranks:
            raise ValueError(
                "[generate] expected an adapter of the matrices and ranks that the programs have, "
                "got another. Hint: model.inference makes programs for it."
            )
        self.lora, self._done, self._begin = lora, [], 0
        if self._bucket is not None:
            self._bucket.sequence.stage(lora.staged())

    def close(self) -> None:
        """Unloads the programs and forgets the cache."""
        if self._bucket is not None:
            self._bucket.sequence.close()
        self._bucket, self._done, self._begin = None, [], 0

    def _forget(self, kept: int) -> None:
        """Leaves so many positions in the cache."""
        self._done = self._done[:kept]
        self._begin = min(self._begin, kept)

    def _evaluate(self, tokens: list[int], first: int) -> None:
        """Evaluates the next chunk of `tokens` and moves its keys and values into the cache. No
        chunk ends behind `first` but before the end: their logits come from one evaluation."""
        begin = len(self._done)
        bucket = self._room_for(len(tokens))
        count = min(bucket.chunk, len(tokens) - begin)
        if begin < first < begin + count < len(tokens):
            count = first - begin
        chunk = tokens[begin : begin + count]
        bucket.place(begin, count)
        self._embed(bucket, chunk, begin)
        bucket.sequence.run(range(len(bucket.sequence.kernels)), bucket.extents(begin, count))
        self.evaluations += 1
        if not self._told and bucket.health.overflows():
            self._overflowed(bucket, tokens[: begin + count])
        finite = bucket.keep(begin, count)  # which a chip may hide: no number counts as 0 there
        if not self._told and not finite:
            self._overflowed(bucket, tokens[: begin + count])
        self._begin, self._done = begin, tokens[: begin + count]

    def _embed(self, bucket: Bucket, chunk: list[int], begin: int) -> None:
        ids = np.array([chunk], np.int32)
        table = self.params.get(self.family.positions)
        rows = None if table is None else table[begin : begin + len(chunk)]
        columns: npt.NDArray[np.float16]
        columns = np.empty((1, self.config.dim, 1, len(chunk)), np.float16)
        _C.embed(ids, self.params["tok_embeddings"], columns, rows)
        with bucket.inputs["x"].write() as x:
            x[..., : len(chunk)] = columns

    def _overflowed(self, bucket: Bucket, tokens: list[int]) -> None:
        """Says what overflowed. Raises Overflow where a smaller stream helps, which it has then."""
        self._told = True
        finding = bucket.health.overflow(self.params)
        before = self.config.stream_scale
        scale = stream_scale(self.config, self.params, np.array(tokens))
        log.warning("[generate] %s", advice(finding, before, scale, taken=True))
        if scale != before:
            self.config = self.config.replace(stream_scale=scale)
            self._told = False  # of what is still to come
            raise Overflow

    def _room_for(self, cached: int) -> Bucket:
        """The bucket with columns for that many positions, the cache in it."""
        old = self._bucket
        if old is not None and cached <= old.length:
            return old
        new = self._compiled(cached)
        if old is not None:
            for source, target in zip(old.cached, new.cached, strict=True):
                with source.read() as columns, target.write() as wider:
                    wider[..., : old.length] = columns
            old.sequence.close()
        self._bucket = new
        return new

    def _compiled(self, cached: int) -> Bucket:
        chunk, length = CHUNK, bucket_length(cached)
        if self.device.takes_parts and self.plan.forward == "all":
            whole = -(-self.config.max_seq_len // CHUNK) * CHUNK
            chunk, length = min(WIDE, whole), min(max(length, ROOM), whole)
        ranks = self.lora.ranks if self.lora is not None else NO_PAIRS
        graph = decode_graph(self.config, chunk, length, self.plan.rope, ranks)
        programs = lower_all(cut(graph, self.plan.key), self.plan)
        sequence = Sequence(self.device, programs, self.plan.dialect)
        sequence.load(self.params if self.lora is None else self.params | self.lora.staged())
        surfaces = {str(t.name): sequence.surfaces[t] for t in graph.inputs}
        names = [name.removesuffix(".past_k") for name in surfaces if name.endswith(".past_k")]
        cached_in = [surfaces[f"{name}.past_{what}"] for name in names for what in "kv"]
        fresh = [
            sequence.surfaces[graph.outputs[f"{name}.{what}"]] for name in names for what in "kv"
        ]
        h = sequence.surfaces[graph.outputs["h"]]
        health = Health(graph, sequence)
        return Bucket(self.config, chunk, length, sequence, surfaces, h, cached_in, fresh, health)


class Overflow(Exception):
    """The residual stream left fp16, and is scaled from now on."""


class Bucket:
    """The decode programs for up to `length` cached positions and a chunk, and their surfaces.

    inputs: by name, as in `decode_graph`. cached, fresh: keys and values of every attention in
    turn, [1, KV * D, 1, length] and [1, KV * D, 1, chunk].
    """

    def __init__(
        self,
        config: ModelConfig,
        chunk: int,
        length: int,
        sequence: Sequence,
        inputs: dict[str, Surface],
        h: Surface,
        cached: list[Surface],
        fresh: list[Surface],
        health: Health,
    ) -> None:
        self.config, self.chunk, self.length, self.sequence = config, chunk, length, sequence
        self.inputs, self.h, self.cached, self.fresh = inputs, h, cached, fresh
        self.health = health
        self._rotations = [t.astype(np.float16) for t in rope_tables(config, length + chunk)]
        names = {surface: name for name, surface in inputs.items()}
        only = sequence.bound[0]  # of a device that takes parts
        ports = zip(only.inputs, only.kernel.program.inputs, strict=True)
        self._ports = [(names.get(s, ""), t.shape) for s, (_, t) in ports]
        with inputs["mask"].write() as mask:
            mask[...] = causal_mask(chunk, config.sliding_window)
        self._hide()

    def _hide(self) -> None:
        """Masks the whole cache."""
        with self.inputs["past_mask"].write() as mask:
            mask[...] = MASKED
        self._begin = 0  # of the last chunk that was placed since

    def place(self, begin: int, count: int) -> None:
        """Writes the mask and the rotations of `count` positions from `begin` on."""
        if begin < self._begin:
            self._hide()
        window = self.config.sliding_window
        with self.inputs["past_mask"].write() as mask:
            mask[0, 0, :count, :begin] = 0
            if window:
                behind = begin + np.arange(count)[:, None] - np.arange(begin)
                mask[0, 0, :count, :begin] = np.where(behind < window, 0, MASKED)
        for heads in rotated_heads(self.config):
            for name, table in zip(("cos", "sin"), self._rotations, strict=True):
                rows = np.tile(table[:, begin : begin + count], (heads, 1))
                with self.inputs[f"rope.{heads}.{name}"].write() as to:
                    to[0, :, 0, :count] = rows
        self._begin = begin

    def extents(self, begin: int, count: int) -> list[int]:
        """How much of every axis of the only program's inputs counts; nothing for all of it."""
        if self.chunk == CHUNK:
            return []
        live = count if count <= EXACT else -(-count // STEP) * STEP
        past = min(bucket_length(begin), self.length)
        found: list[int] = []
        for name, shape in self._ports:
            rows = live if name in ("mask", "past_mask") else shape[2]
            columns = live if name in ("x", "mask") or name.startswith("rope.") else shape[3]
            found += [*shape[:2], rows, past if "past_" in name else columns]
        return found

    def keep(self, begin: int, count: int) -> bool:
        """Moves the keys and values of `count` positions into the cache. Whether all are finite."""
        fresh, cached = ([s.native for s in side] for side in (self.fresh, self.cached))
        return _C.copy_columns(fresh, cached, self.chunk, self.length, 0, begin, count)


def bucket_length(cached: int) -> int:
    """The smallest power of two, at least CHUNK, that holds so many positions."""
    return max(CHUNK, 1 << (cached - 1).bit_length()) if cached else CHUNK


def common_prefix(a: list[int], b: list[int]) -> int:
    """How many tokens both begin with."""
    shorter = min(len(a), len(b))
    if a[:shorter] == b[:shorter]:
        return shorter
    return next(i for i in range(shorter) if a[i] != b[i])
