"""The residual stream's range: how large it gets, and the power of two that keeps it within fp16.

Pretrained models carry a few numbers of thousands, larger ones of a hundred thousand, on their
first position; fp16 ends at 65504, a chip's products at 32768. `ModelConfig.stream_scale` keeps the
stream smaller by a power of two, which changes no result: embedding and branches are multiplied,
the norms divide it out, weights stay as they are. Here it is chosen, by one forward pass of real
tokens on the exact host. Read models/layers.py for where it enters.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from anefast import _C
from anefast.config import ModelConfig
from anefast.fuse import cut, find_plan, lower_all
from anefast.models import Params, family_of, forward_graph
from anefast.runtime.compiled_graph import CompiledGraph
from anefast.runtime.device import Device
from anefast.runtime.inspect.health import Finding, counts

LARGEST = 16384.0  # a stream beyond this is scaled, for training may double it
ROOM = 8192.0  # so that it stays below this
STEP, LEAST = 2.0**-6, 2.0**-18  # scales that are tried while nothing finite comes out
SAMPLE = 64  # tokens: what is massive is so from the first position on


def peak(config: ModelConfig, params: Params, tokens: npt.NDArray[Any]) -> float:
    """Largest magnitude between layers, as the device keeps it, of tokens [S]; inf: beyond fp16."""
    seq = min(SAMPLE, len(tokens) // 32 * 32)
    if seq == 0:
        tokens, seq = np.resize(tokens, 32), 32
    graph, plan = forward_graph(config, 1, seq), find_plan("layer")
    compiled = CompiledGraph(
        Device("host", budgeted=False), lower_all(cut(graph, plan.key), plan), plan.dialect
    )
    try:
        compiled.load(params)
        rows = np.ascontiguousarray(tokens[None, :seq], np.int32)
        positions = None
        if (table := params.get(family_of(config).positions)) is not None:
            positions = np.zeros((seq, config.dim), np.float32)
            positions[: len(table)] = table[:seq]
        with compiled.surfaces[graph.inputs[0]].write() as x:
            _C.embed(rows, params["tok_embeddings"], x, positions)
        largest = 0.0
        for i in range(len(compiled.kernels)):
            compiled.run([i])
            for t in compiled.bound[i].made:
                with compiled.surfaces[t].read() as data:
                    seen = counts(data)
                if seen.overflow:
                    return math.inf
                largest = max(largest, seen.largest)
        return largest
    finally:
        compiled.close()


def stream_scale(config: ModelConfig, params: Params, tokens: npt.NDArray[Any]) -> float:
    """The largest power of two that leaves the stream room. `config.stream_scale` where that does,
    and where no scale helps."""
    scale = config.stream_scale
    while (found := peak(config.replace(stream_scale=scale), params, tokens)) == math.inf:
        scale *= STEP
        if scale < LEAST:
            return config.stream_scale
    true = found / scale
    if true * config.stream_scale <= LARGEST:
        return config.stream_scale
    return 2.0 ** math.floor(math.log2(ROOM / true))


def advice(finding: Finding | None, before: float, scale: float, taken: bool = False) -> str:
    """A line about an overflow of the forward; scale: what `stream_scale` gave, and whether it is
    in use from now on."""
    said = finding.message if finding is not None else "the residual stream overflowed."
    if scale == before:
        return said
    said = said.partition(" Hint: ")[0]
    if taken:
        return f"{said} The residual stream is kept times {scale:g} from here on, which is exact."
    return f"{said} Hint: model.stream_scale {scale:g} keeps the residual stream within fp16."
