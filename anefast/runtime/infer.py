"""Inference: next-token logits for a growing prefix.

Programs have static shapes, so a prefix is padded to the next power-of-two bucket (the mask is
causal: padding after a position cannot reach it). There is no key-value cache yet: each call
evaluates the whole prefix.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anefast import _C
from anefast.config import ModelConfig
from anefast.fuse import Plan, cut, lower_all
from anefast.fuse.legal import target_of
from anefast.nn import Params, classifier, forward_graph
from anefast.runtime.device import Device, Surface
from anefast.runtime.sequence import Sequence

SMALLEST_BUCKET = 32  # tokens; a multiple of 32 as every last axis


class Inference:
    """Forward programs of one model, one set per bucket, compiled when first needed."""

    def __init__(self, config: ModelConfig, params: Params, device: Device, plan: Plan) -> None:
        self.config, self.params, self.device = config, params, device
        self.plan = target_of(device).fitted(plan)
        self._buckets: dict[int, Bucket] = {}

    def logits(self, tokens: list[int]) -> npt.NDArray[np.float32]:
        """Logits [V] of the token after `tokens`, of which there are 1 to max_seq_len."""
        if not 0 < len(tokens) <= self.config.max_seq_len:
            raise ValueError(
                f"[generate] expected 1 to {self.config.max_seq_len} tokens, got {len(tokens)}."
            )
        bucket = self._bucket(bucket_length(len(tokens)))
        padded = np.zeros((1, bucket.seq), np.int32)
        padded[0, : len(tokens)] = tokens
        with bucket.x.write() as x:
            _C.embed(padded, self.params["tok_embeddings"], x)
        bucket.sequence.run(range(len(bucket.sequence.kernels)))
        out: npt.NDArray[np.float32] = np.empty((1, self.config.vocab_size), np.float32)
        position = np.array([len(tokens) - 1], np.int32)
        head = self.params[classifier(self.params)]
        with bucket.h.read() as h:
            _C.head_logits(h, self.params["norm"], head, self.config.norm_eps, position, out)
        return out.reshape(-1)

    def close(self) -> None:
        """Unloads every program."""
        for bucket in self._buckets.values():
            bucket.sequence.close()
        self._buckets.clear()

    def _bucket(self, seq: int) -> Bucket:
        if seq not in self._buckets:
            graph = forward_graph(self.config, 1, seq)
            programs = lower_all(cut(graph, self.plan.key), self.plan)
            sequence = Sequence(self.device, programs, self.plan.dialect)
            sequence.load(self.params)
            x, h = sequence.surfaces[graph.inputs[0]], sequence.surfaces[graph.outputs["h"]]
            self._buckets[seq] = Bucket(seq, sequence, x, h)
        return self._buckets[seq]


@dataclass(frozen=True)
class Bucket:
    """The forward programs for prefixes of up to `seq` tokens."""

    seq: int
    sequence: Sequence
    x: Surface
    h: Surface


def bucket_length(tokens: int) -> int:
    """The smallest power of two, at least 32, that holds `tokens`."""
    return max(SMALLEST_BUCKET, 1 << (tokens - 1).bit_length())
