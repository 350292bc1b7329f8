"""One training step: tokens in, loss and weight gradients out.

tokens -> embedding (CPU) -> layers (device) -> final norm, classifier, cross-entropy (CPU) ->
layers backward (device) -> embedding gradient (CPU). Every weight gradient of the layers is queued
on the CPU as soon as its operands exist and runs while the device goes on.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt

from anefast import _C
from anefast.checks import real
from anefast.checks import refuse as refuse_argument
from anefast.config import ModelConfig
from anefast.fuse import Plan, Region, cut, lower_all, recompute
from anefast.fuse.legal import refuse, target_of
from anefast.ir import Tensor, terms
from anefast.models import (
    GRAD,
    Params,
    Vocabulary,
    classifier,
    family_of,
    training_graph,
    trains,
    zeros_of,
)
from anefast.models.lora import NO_PAIRS, Lora, Ranks
from anefast.models.vocabulary import TABLES
from anefast.models.weights import Weights
from anefast.runtime.compiled_graph import CompiledGraph, block
from anefast.runtime.compiler import CompileService
from anefast.runtime.device import Device, Surface
from anefast.runtime.grain import Grain
from anefast.runtime.inspect.health import Health
from anefast.runtime.pace import Pace
from anefast.runtime.revive import PROCESS_WIDE
from anefast.runtime.stream import advice, stream_scale
from anefast.runtime.unstored import UnstoredGradients, head_flows

log = logging.getLogger("anefast")

Tokens = npt.NDArray[np.int32]
Job = Callable[[bool], None]  # queues a sum of a gradient: anew, or onto what is there


class TrainingStep:
    """The compiled step of one model for micro-batches of `batch` sequences of `seq` tokens.

    `shape` is (batch, seq). `params` and `grads` are fp32 arrays by name. `trained` are those of
    `params` that `plan.trained` names; only they have gradients. `grads` accumulate over
    micro-steps, from `begin_update` to the next; they are gradients of loss_scale x the SUM of
    token losses. Under a plan that compiles `async`, changed weights reach the device `swap_at`
    micro-steps after an update (None: when ready; see compiler.py). Without `load` nothing is
    compiled before the first `update_weights`. With a `vocabulary`, embedding and classifier in
    `params` and `grads` are compact copies, not the caller's arrays; tokens stay as they are. With
    `flows`, which is for updates of one micro-step, gradients of the layers' matrices, and of the
    classifier's where its tokens are few, are not in `grads` but in `unstored`. A forward that
    overflows is reported once, by name, to `say`; of micro-steps only while nothing else watches
    them (`watched`). `on_complete`, where it is set, is called during the backward pass with the
    names of gradients whose last part is in `queue` now: when its jobs have run, whoever set it
    calls `finish` for them.
    """

    def __init__(
        self,
        config: ModelConfig,
        params: Params,
        device: Device,
        batch: int,
        seq: int,
        plan: Plan,
        swap_at: int | None = 1,
        load: bool = True,
        vocabulary: Vocabulary | None = None,
        flows: bool = False,
        lora: Lora | None = None,
    ) -> None:
        if seq > config.max_seq_len:
            raise ValueError(
                f"[step] expected at most {config.max_seq_len} tokens, which model.max_seq_len is, "
                f"got seq {seq}."
            )
        self.config, self.device, self.vocabulary = config, device, vocabulary
        self.family = family_of(config)
        params = Weights.of(params)
        if vocabulary is not None:
            params = params.over(vocabulary.rows({n: params[n] for n in TABLES if n in params}))
        self.lora = lora
        ranks: Ranks = NO_PAIRS
        if lora is not None:
            params, ranks = params.over(lora.params), lora.ranks
            plan = replace(plan, trained=frozenset(lora.params))
        self.params = params
        self._old: set[str] = set()  # gradients that are still those of the update before
        self._told: set[str] = set()  # gradients that `on_complete` was told of in this update
        self.shape = (batch, seq)
        target = target_of(device)
        self.plan = plan = target.fitted(plan)
        graph = training_graph(
            config, batch, seq, plan.spelling, plan.trained, ranks, plan.gradients
        )
        graph = recompute(graph, plan)
        schedule = cut(graph, plan.key)
        programs = lower_all(schedule, plan)
        refuse(programs, plan, target)
        self.compiled = CompiledGraph(device, programs, plan.dialect)
        self.compiler = CompileService(
            device.programs, self.compiled.kernels, plan.compile, swap_at
        )
        fixed = device.fixed_point
        self.grain = Grain(graph, self.compiled.surfaces) if fixed else None
        self.health = Health(graph, self.compiled, self.grain)
        self.pace = Pace()
        names = [kernel.name for kernel in self.compiled.kernels]
        self._forward = [i for i, name in enumerate(names) if name.startswith("forward.")]
        self._backward = [i for i, name in enumerate(names) if name.startswith("backward.")]
        surface = self.compiled.surfaces
        x, dh = graph.inputs
        self._x, self._h = surface[x], surface[graph.outputs["h"]]
        self._dh = surface.get(dh) or device.surface(dh.shape)  # nobody reads it: no backward
        self._dx = surface[graph.outputs["dx"]] if "dx" in graph.outputs else None
        owner = {t: name.removeprefix(GRAD) for name, g in graph.outputs.items() for t in terms(g)}
        jobs = [[(owner[n], n) for n in nodes] for nodes in schedule.cpu_nodes]
        taps = {
            name: (surface[n.inputs[0]], surface[n.inputs[1]])
            for name, n in (job for of_program in jobs for job in of_program)
            if flows and n.op == "weight_grad" and len(terms(graph.outputs[GRAD + name])) == 1
        }
        self._head = classifier(params)
        rows = len(params[self._head])
        self.trained = {n: params[n] for n in params if trains(plan.trained, n)}
        flows_too = flows and self._head in self.trained and head_flows(batch * seq, rows)
        head = self._head if flows_too else None
        self.unstored = UnstoredGradients(params, taps, head, batch, seq) if flows else None
        flowing = self.unstored.names if self.unstored else []
        stored = {n: p.shape for n, p in self.trained.items() if n not in flowing}
        self.grads: Params = zeros_of(stored)
        self.queue = _C.Queue()
        self._jobs = [
            [(name, self._job(name, node)) for name, node in of_program if name not in flowing]
            for of_program in jobs
        ]
        # By backward program: the gradients that have all their parts when its jobs have run.
        last = {name: i for i in self._backward for name, _ in self._jobs[i]}
        self._complete = {i: [n for n, at in last.items() if at == i] for i in self._backward}
        self.on_complete: Callable[[list[str]], None] | None = None
        self._nll = np.zeros((batch, seq), np.float32)
        self.say: Callable[[str], None] = log.warning
        self.watched = self._overflow_said = False
        if load:
            try:
                self.update_weights()
            except Exception:
                self.close()  # a device may refuse one program and hold those before it
                raise

    def update_weights(self, every: bool = False) -> None:
        """Takes over changed `params`: baked weights by compiling, others by rewriting.

        What has the same bytes is not compiled. every: frozen weights may have changed, too; to
        look costs reading all of them.
        """
        self.compiler.update(self.params, every)
        self.compiled.stage(self.params if self.lora is None else self.lora.staged())

    def adapt(self, lora: Lora) -> None:
        """From now on with another adapter beside the same matrices, whose arrays are `trained`
        then: surfaces are written, nothing is compiled. ValueError where the matrices or the padded
        ranks are others."""
        if self.lora is None or lora.ranks != self.lora.ranks:
            raise ValueError(
                "[step] expected an adapter of the matrices and ranks that the programs have, got "
                "another. Hint: model.training_step makes programs for it."
            )
        self.wait()
        self.lora = lora
        self.params.update(lora.params)
        self.trained = dict(lora.params)
        self.begin_update()
        self.update_weights()

    def begin_update(self) -> None:
        """Discards the values in `grads`: the next micro-step overwrites them.

        That is cheaper than zeros, which would be written, and read back to be added to.
        """
        self._old, self._told = set(self.grads), set()

    def end_update(self) -> None:
        """Call it once after the last micro-step of an update: `grads` are those of `params`."""
        self.wait()
        self.finish(self.grads.keys() - self._told)

    def finish(self, names: Collection[str]) -> None:
        """Gradients that have all their parts become those of `params`."""
        if self.lora is not None:
            self.lora.unscale({name: self.grads[name] for name in names})

    def starved(self) -> bool:
        """True if the device's products lost so much of the last micro-step's gradients that a
        larger loss scale is wanted. Never where their arithmetic is not known to be fixed point."""
        return self.grain is not None and self.grain.starved(self.params)

    def largest(self) -> float:
        """The largest gradient that a fixed-point product of the last micro-step was given; 0 where
        their arithmetic is not known to be that."""
        return self.grain.largest() if self.grain is not None else 0.0

    def settle(self) -> None:
        """Returns when every program is that of `params` as they were at the last update."""
        self.compiler.settle()

    def micro_step(self, x: Tokens, y: Tokens, loss_scale: float) -> tuple[float, int]:
        """Forward and backward of one micro-batch.

        x, y: int32 [B, S] tokens and targets; a target below 0 is left out. Returns the sum of
        token losses in nats and how many tokens it is of. Gradients are in `grads` after `wait()`.
        loss_scale: finite and above 0. ValueError for arguments that are not these.
        """
        self._check(x, y)
        if type(loss_scale) is not float or not 0 < loss_scale < math.inf:
            loss_scale = _scale(loss_scale)
        params, grads, head = self.params, self.grads, self._head
        _C.spans_phase(_C.Phase.FORWARD)
        self.wait()  # surfaces are written again from here on
        self.compiler.edge()
        x, y = self._compact(x), self._compact(y)
        began = time.perf_counter()
        self._run_forward(x)
        self.pace.add(time.perf_counter() - began)
        bias = self.family.norm_bias
        fresh = not self._old.isdisjoint(("norm", bias, head))
        with self._h.read() as h, self._dh.write() as dh:
            overflowed = not self._overflow_said and not self.watched and _C.half_overflows(h)
            loss, tokens = _C.head_loss_grad(
                h, params["norm"], params[head], y, self.config.stream_eps, loss_scale,
                self._nll, dh, grads.get("norm"), self._dweight(head), fresh,
                params.get(bias), grads.get(bias),
            )  # fmt: skip
        if overflowed:
            self._say_overflow(x)
        self._old -= {"norm", bias, head}
        _C.spans_phase(_C.Phase.BACKWARD)
        self._enqueue(self._forward)  # what waited for nothing but dh
        for i in self._backward:
            self.compiled.run([i])
            self._enqueue([i])
            if self.on_complete is not None and self._complete[i]:
                self._told.update(self._complete[i])
                self.on_complete(self._complete[i])
        self._embed_grad(x)
        return loss, tokens

    def evaluate(self, x: Tokens, y: Tokens) -> tuple[float, int]:
        """Forward only, with the newest weights. Returns the sum of token losses in nats and the
        number of tokens. x, y: as in `micro_step`."""
        self._check(x, y)
        self.wait()
        self.settle()
        x, y = self._compact(x), self._compact(y)
        self._run_forward(x)
        norm, weight = self.params["norm"], self.params[self._head]
        bias = self.params.get(self.family.norm_bias)
        with self._h.read() as h:
            overflowed = not self._overflow_said and _C.half_overflows(h)
            epsilon = self.config.stream_eps
            result = _C.head_loss(h, norm, weight, y, epsilon, self._nll, bias)
        if overflowed:
            self._say_overflow(x)
        return result

    def report(self) -> dict[str, float]:
        """A row of numbers on compiles and the device since the last call."""
        pace = {"forward_ms": 1e3 * self.pace.last, "slowdown": self.pace.slowdown}
        return {**self.compiler.report(), "reloads": PROCESS_WIDE.count, **pace}

    def slowness(self) -> str:
        """Ends an update's timing. A line where the device became slower, once; else ""."""
        said = self.pace.look(self.compiled.evaluations)
        return said if self.device.foreign else ""

    @property
    def nll(self) -> npt.NDArray[np.float32]:
        """Token losses of the last micro-step or evaluation, [B, S] nats."""
        return self._nll

    def wait(self) -> None:
        """Returns when every queued weight gradient is in `grads`."""
        self.queue.wait()

    def close(self) -> None:
        """Waits for queued work and unloads the programs."""
        self.wait()
        self.compiler.close()
        self.compiled.close()

    def _compact(self, tokens: Tokens) -> Tokens:
        return tokens if self.vocabulary is None else self.vocabulary.compact(tokens)

    def _check(self, x: Tokens, y: Tokens) -> None:
        """ValueError unless both are int32 of this step's shape. The ids are looked at natively."""
        for name, tokens in (("x", x), ("y", y)):
            fits = isinstance(tokens, np.ndarray) and tokens.dtype == np.int32
            if not fits or tokens.shape != self.shape:
                expected = f"an int32 array of shape {self.shape}"
                refuse_argument("step", name, tokens, expected, "np.asarray(tokens, np.int32)")

    def _run_forward(self, x: Tokens) -> None:
        with self._x.write() as out:
            _C.embed(x, self.params["tok_embeddings"], out, self._positions(self.params))
        self.compiled.run(self._forward)

    def _positions(self, arrays: Params) -> npt.NDArray[np.float32] | None:
        """The rows of learned positions, or of their gradient, that a sequence uses."""
        table = arrays.get(self.family.positions)
        return None if table is None else table[: self.shape[1]]

    def _say_overflow(self, x: Tokens) -> None:
        """Which value of the forward overflowed first, and what would help."""
        self._overflow_said = True
        before = self.config.stream_scale
        finding = self.health.overflow(self.params)
        self.say(f"[step] {advice(finding, before, stream_scale(self.config, self.params, x[0]))}")

    def _dweight(self, head: str) -> npt.NDArray[np.float32] | _C.UnstoredGradients | None:
        """Where the classifier's gradient goes; None: it is frozen."""
        if head not in self.trained or head in self.grads:
            return self.grads.get(head)
        assert self.unstored is not None
        return self.unstored.native

    def _embed_grad(self, x: Tokens) -> None:
        """The embedding's gradient, on top of the classifier's where they are one matrix, and that
        of learned positions."""
        if self._dx is None:
            return
        if (dpositions := self._positions(self.grads)) is not None:
            if self._take_fresh(self.family.positions):
                self.grads[self.family.positions].fill(0)
            with self._dx.read() as dx:
                _C.positions_grad(dx, dpositions)
        name = "tok_embeddings"
        if name not in self.trained:
            return
        if name not in self.grads:
            assert self.unstored is not None
            return self.unstored.native.embed(x, self._dx.native)
        if self._take_fresh(name):  # and not the classifier's too
            self.grads[name].fill(0)
        with self._dx.read() as dx:
            _C.embed_grad(x, dx, self.grads[name])

    def _job(self, name: str, node: Tensor) -> Job:
        """A call that queues the weight gradient which this node is, or is a part of."""
        if node.op == "batch_grad":
            return partial(add_made, *self.compiled.gradients[node.inputs[0]], self.grads[name])
        operands = [self.compiled.surfaces[t].native for t in node.inputs]
        batch, _, _, seq = node.inputs[0].shape  # of a norm over heads, each is a row of the batch
        label = _C.spans_label(name)
        return partial(getattr(self.queue, node.op), *operands, self.grads[name], batch, seq, label)

    def _enqueue(self, programs: list[int]) -> None:
        """Queues the weight gradients whose operands exist once these programs have run."""
        for i in programs:
            for name, submit in self._jobs[i]:
                submit(self._take_fresh(name))

    def _take_fresh(self, name: str) -> bool:
        """True the first time after `begin_update`: the caller must overwrite this gradient, and
        not add to it. False from then on."""
        old = name in self._old
        self._old.discard(name)
        return old


def add_made(region: Region, surface: Surface, acc: npt.NDArray[np.float32], fresh: bool) -> None:
    """acc (Co, Ci) fp32 += sum over B of the gradients that a device has made; fresh: = instead."""
    with surface.read() as data:
        made = block(data, region)[:, :, 0]
        acc[...] = made.sum(axis=0, dtype=np.float32) if fresh else acc + made.sum(0, np.float32)


def _scale(given: float) -> float:
    """A loss scale as a float. ValueError for what scales no gradient."""
    expected, hint = "finite and above 0", "64 is usual"
    found = real("step", "loss_scale", given, expected, hint)
    if found <= 0:
        refuse_argument("step", "loss_scale", given, expected, hint)
    return found
