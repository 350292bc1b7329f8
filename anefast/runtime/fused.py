"""Forward passes alone, fused as deep as a plan says: arrays in, arrays out.

What `Inference` is for tokens, this is for activations: the trunk of a transformer, or the FFN-only
proxy, compiled once and called from Python. A mega-kernel is the plan `all`: every layer in one
program, one evaluation per call. Any other plan gives the same bytes in more evaluations (the cut
law), which is what fusion is measured against. A plan is a `Plan` or what `find_plan` reads.

    >>> import numpy as np
    >>> from anefast.models import init_ffn
    >>> from anefast.runtime import Device
    >>> params = init_ffn(dim=32, hidden=64, layers=2, seed=0)
    >>> ffn = fused_ffn(32, 64, 2, 64, params, Device("host"), "all")
    >>> ffn(np.ones((1, 32, 1, 64), np.float16)).shape, ffn.evaluations
    ((1, 32, 1, 64), 1)
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import numpy as np

from anefast.checks import instance, refuse, whole
from anefast.config import ROW_MULTIPLE, ModelConfig
from anefast.fuse import Plan, cut, find_plan, lower_all
from anefast.fuse.legal import target_of
from anefast.ir import Graph
from anefast.models import Params, ffn_graph, forward_graph
from anefast.runtime.compiled_graph import CompiledGraph
from anefast.runtime.device import Device, Half


class Fused:
    """A forward graph with one input `x` and one output `h`, compiled under a plan.

    programs: the names of its programs in the order they run; a call evaluates each once.
    evaluations: the number made so far, over all calls. compile_seconds: the time from the graph to
    loaded programs: cut, text, weight files, compilation.
    """

    def __init__(self, graph: Graph, params: Params, device: Device, plan: Plan | str) -> None:
        self.plan = _fitted(device, plan)
        instance("fused", "params", params, Mapping, "init_params or init_ffn draws them")
        start = time.perf_counter()
        programs = lower_all(cut(graph, self.plan.key), self.plan)
        self.compiled = CompiledGraph(device, programs, self.plan.dialect)
        self.compiled.load(params)
        self.compile_seconds = time.perf_counter() - start
        self.programs = tuple(kernel.name for kernel in self.compiled.kernels)
        self._x = self.compiled.surfaces[graph.inputs[0]]
        self._h = self.compiled.surfaces[graph.outputs["h"]]

    def __call__(self, x: Half) -> Half:
        """h of x, both fp16 [1, C, 1, S]. ValueError where x is of another shape or dtype."""
        shape = self._x.shape
        if not isinstance(x, np.ndarray) or x.shape != shape or x.dtype != np.float16:
            refuse("fused", "x", x, f"float16 of shape {shape}", "channels first, [1, C, 1, S]")
        with self._x.write() as data:
            data[:] = x
        self.compiled.run(range(len(self.programs)))
        with self._h.read() as data:
            return data.copy()

    @property
    def evaluations(self) -> int:
        return self.compiled.evaluations

    @property
    def nbytes(self) -> int:
        """Bytes of fp16 weights and constants in the programs, and of every surface around them."""
        baked = sum(
            2 * int(np.prod(t.shape, dtype=np.int64))
            for kernel in self.compiled.kernels
            for t in kernel.program.nodes
            if t.op in ("parameter", "constant") and t.shape
        )
        return baked + self.compiled.surface_bytes

    def close(self) -> None:
        """Unloads the programs. Safe to call twice."""
        self.compiled.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        _, channels, _, seq = self._x.shape
        count = f"{len(self.programs)} program{'s' if len(self.programs) > 1 else ''}"
        return f"Fused({channels} channels, {seq} positions, plan {self.plan.name}: {count})"


def fused_ffn(
    dim: int,
    hidden: int,
    layers: int,
    seq: int,
    params: Params,
    device: Device,
    plan: Plan | str = "all",
) -> Fused:
    """A chain of feed-forward layers (`models/ffn.py`) as programs; call it with x to get h.

    x, h: fp16 (1, dim, 1, seq). seq: a multiple of 32. params: fp32 by name, such as `init_ffn`
    draws. ValueError for sizes or a plan that do not fit; CompileError if the device refuses.
    """
    for name, size in (("dim", dim), ("hidden", hidden), ("layers", layers)):
        whole("fused", name, size, 1)
    _check_seq(seq)
    return Fused(ffn_graph(dim, hidden, layers, 1, seq), params, device, plan)


def fused_transformer(
    config: ModelConfig, params: Params, seq: int, device: Device, plan: Plan | str = "all"
) -> Fused:
    """All layers of a model as programs; call it with x to get h.

    x: fp16 (1, dim, 1, seq), the embedded sequence. h: the same shape, the residual stream after
    the last layer. seq: a multiple of 32. params: fp32 by name, of a whole model; embedding, last
    norm and classifier are not used. ValueError for sizes or a plan that do not fit; CompileError
    if the device refuses.
    """
    instance("fused", "config", config, ModelConfig, "ModelConfig(dim=128, ...)")
    _check_seq(seq)
    fitted = _fitted(device, plan)
    return Fused(forward_graph(config, 1, seq, fitted.spelling), params, device, fitted)


def _fitted(device: Device, plan: Plan | str) -> Plan:
    """The plan as this device takes it. ValueError for what is none."""
    instance("fused", "device", device, Device, "Device('host')")
    return target_of(device).fitted(plan if isinstance(plan, Plan) else find_plan(plan))


def _check_seq(seq: int) -> None:
    if whole("fused", "seq", seq, 1) % ROW_MULTIPLE:
        refuse("fused", "seq", seq, f"a multiple of {ROW_MULTIPLE}", "rows have 64 bytes")
