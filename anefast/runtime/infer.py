"""Inference: next-token logits for a growing prefix, with a key-value cache.

Programs have static shapes, and rows of 32 columns at least. So a prefix is worked off in chunks of
32 positions: the keys and values of finished chunks lie in surfaces, which a decode program reads
beside the embedded tokens of the newest chunk and the CPU extends once every 32 tokens. Surfaces
have room for a power of two of columns (a bucket); a mask hides what is not written yet. Hidden
columns add exact zeros to the sums of attention, so logits are those of one evaluation of the whole
prefix, to the byte on the host.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

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
    rope_rows,
    rotated_heads,
)
from anefast.nn.lora import NO_PAIRS, Lora
from anefast.runtime.device import Device, Surface
from anefast.runtime.health import Health
from anefast.runtime.sequence import Sequence
from anefast.runtime.stream import advice, stream_scale

log = logging.getLogger("anefast")

CHUNK = 32  # positions that are evaluated together: the narrowest row a device has


class Inference:
    """Decode programs of one model, one set per bucket, compiled when first needed.

    Keeps what it has evaluated: asking for a prefix that goes on from the last one costs one
    evaluation of a chunk, any other one as many as it has chunks behind what they share. Where the
    residual stream overflows, it begins again with one that is scaled, and says so once.
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
        self._bucket: Bucket | None = None
        self._done: list[int] = []  # tokens whose keys and values are in the cache; whole chunks
        self._newest: list[int] = []  # tokens of the chunk that was evaluated last, behind those
        self._told = False  # of an overflow

    def logits(self, tokens: list[int]) -> npt.NDArray[np.float32]:
        """Logits [V] of the token after `tokens`, of which there are 1 to max_seq_len."""
        if not 0 < len(tokens) <= self.config.max_seq_len:
            raise ValueError(
                f"[generate] expected 1 to {self.config.max_seq_len} tokens, got {len(tokens)}."
            )
        try:
            return self._logits(tokens)
        except Overflow:  # of a stream that was scaled since
            self.close()
            return self._logits(tokens)

    def _logits(self, tokens: list[int]) -> npt.NDArray[np.float32]:
        last = (len(tokens) - 1) // CHUNK * CHUNK
        self._forget(tokens[:last])
        while len(self._done) < last:
            begin = len(self._done)
            self._evaluate(tokens[begin : begin + CHUNK])
            self._keep()
        bucket = self._evaluate(tokens[last:])
        out: npt.NDArray[np.float32] = np.empty((1, self.config.vocab_size), np.float32)
        position = np.array([len(tokens) - 1 - last], np.int32)
        head = self.params[classifier(self.params)]
        with bucket.h.read() as h:
            _C.head_logits(
                h, self.params["norm"], head, self.config.stream_eps, position, out,
                self.params.get(self.family.norm_bias),
            )  # fmt: skip
        return out.reshape(-1)

    def adapt(self, lora: Lora) -> None:
        """From now on with another adapter beside the same matrices: surfaces are written, nothing
        is compiled. ValueError where the matrices or the padded ranks are others."""
        if self.lora is None or lora.ranks != self.lora.ranks:
            raise ValueError(
                "[generate] expected an adapter of the matrices and ranks that the programs have, "
                "got another. Hint: model.inference makes programs for it."
            )
        self.lora, self._done, self._newest = lora, [], []
        if self._bucket is not None:
            self._bucket.sequence.stage(lora.staged())

    def close(self) -> None:
        """Unloads the programs and forgets the cache."""
        if self._bucket is not None:
            self._bucket.sequence.close()
        self._bucket, self._done, self._newest = None, [], []

    def _forget(self, tokens: list[int]) -> None:
        """Leaves of the cache what `tokens`, whole chunks, begin with."""
        begin = 0
        while self._done[begin : begin + CHUNK] == tokens[begin : begin + CHUNK] != []:
            begin += CHUNK
        if begin < len(self._done):
            self._done, self._newest = self._done[:begin], []

    def _evaluate(self, chunk: list[int]) -> Bucket:
        """Runs up to CHUNK tokens behind the cached ones, unless that was the last thing done."""
        bucket = self._room_for(len(self._done))
        if chunk == self._newest:
            return bucket
        padded = np.zeros((1, CHUNK), np.int32)
        padded[0, : len(chunk)] = chunk
        bucket.place(len(self._done), self.config)
        with bucket.x.write() as x:
            _C.embed(padded, self.params["tok_embeddings"], x, self._positions(len(self._done)))
        bucket.sequence.run(range(len(bucket.sequence.kernels)))
        if not self._told and bucket.health.overflows():
            self._overflowed(bucket, self._done + chunk)
        self._newest = list(chunk)
        return bucket

    def _positions(self, begin: int) -> npt.NDArray[np.float32] | None:
        """The rows of learned positions of a chunk; what is behind the table's end is padding."""
        table = self.params.get(self.family.positions)
        if table is None:
            return None
        rows = np.zeros((CHUNK, table.shape[1]), np.float32)
        found = table[begin : begin + CHUNK]
        rows[: len(found)] = found
        return rows

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

    def _keep(self) -> None:
        """Moves the keys and values of a whole chunk, just evaluated, into the cache."""
        begin, source = len(self._done), self._bucket
        assert source is not None and len(self._newest) == CHUNK
        target = self._room_for(begin + CHUNK)
        overflowed = False  # which a chip may hide: a score that is no number counts as 0
        for cached, fresh in zip(target.cached, source.fresh, strict=True):
            with fresh.read() as new, cached.write() as columns:
                columns[..., begin : begin + CHUNK] = new
                overflowed = overflowed or _C.half_overflows(new)
        self._done, self._newest = self._done + self._newest, []
        if overflowed and not self._told:
            self._overflowed(source, self._done)

    def _room_for(self, cached: int) -> Bucket:
        """The bucket with columns for that many positions, the cache in it."""
        length = bucket_length(cached)
        old = self._bucket
        if old is not None and length <= old.length:
            return old
        new = self._compiled(length)
        if old is not None:
            for source, target in zip(old.cached, new.cached, strict=True):
                with source.read() as columns, target.write() as wider:
                    wider[..., : old.length] = columns
            old.sequence.close()
        self._bucket = new
        return new

    def _compiled(self, length: int) -> Bucket:
        ranks = self.lora.ranks if self.lora is not None else NO_PAIRS
        graph = decode_graph(self.config, CHUNK, length, self.plan.rope, ranks)
        programs = lower_all(cut(graph, self.plan.key), self.plan)
        sequence = Sequence(self.device, programs, self.plan.dialect)
        sequence.load(self.params if self.lora is None else self.params | self.lora.staged())
        surfaces = {str(t.name): sequence.surfaces[t] for t in graph.inputs}
        names = [name.removesuffix(".past_k") for name in surfaces if name.endswith(".past_k")]
        cached = [surfaces[f"{name}.past_{what}"] for name in names for what in "kv"]
        fresh = [
            sequence.surfaces[graph.outputs[f"{name}.{what}"]] for name in names for what in "kv"
        ]
        h = sequence.surfaces[graph.outputs["h"]]
        return Bucket(length, sequence, surfaces, h, cached, fresh, Health(graph, sequence))


class Overflow(Exception):
    """The residual stream left fp16, and is scaled from now on."""


@dataclass
class Bucket:
    """The decode programs for up to `length` cached positions, and their surfaces.

    inputs: by name, as in `decode_graph`. cached, fresh: keys and values of every attention in
    turn, [1, KV * D, 1, length] and [1, KV * D, 1, CHUNK].
    """

    length: int
    sequence: Sequence
    inputs: dict[str, Surface]
    h: Surface
    cached: list[Surface]
    fresh: list[Surface]
    health: Health
    begin: int = -1  # where the chunk lies that mask and rotations are written for

    @property
    def x(self) -> Surface:
        return self.inputs["x"]

    def place(self, begin: int, config: ModelConfig) -> None:
        """Writes the mask and the rotations of a chunk that begins at `begin`."""
        if begin == self.begin:
            return
        with self.inputs["mask"].write() as mask:
            mask[..., :begin] = 0
            mask[..., begin : self.length] = MASKED
            mask[..., self.length :] = causal_mask(CHUNK, config.sliding_window)
            if config.sliding_window:
                behind = begin + np.arange(CHUNK)[:, None] - np.arange(begin)
                mask[0, 0, :, :begin] = np.where(behind < config.sliding_window, 0, MASKED)
        for heads in rotated_heads(config):
            for name, rows in zip(
                ("cos", "sin"), rope_rows(heads, config, begin, begin + CHUNK), strict=True
            ):
                with self.inputs[f"rope.{heads}.{name}"].write() as table:
                    table[...] = rows
        self.begin = begin


def bucket_length(cached: int) -> int:
    """The smallest power of two, at least CHUNK, that holds so many positions."""
    return max(CHUNK, 1 << (cached - 1).bit_length()) if cached else CHUNK
