"""A program is compiled again only where the bytes that it bakes are others, whoever asks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import anefast
from anefast import _C
from anefast.fuse import find_plan
from anefast.models import matching, shapes
from anefast.models.lora import Lora
from anefast.runtime import TrainingStep
from anefast.tokenizer import ByteTokenizer
from tests.test_judges import CONFIGS, random_case
from tests.test_lora import adapter_of, step_of

CONFIG = CONFIGS["gqa"]
WEIGHT = "layers.1.attn.wq"


def made(spec="layer", trained=None):
    params, x, y = random_case(CONFIG, batch=2, seed=5)
    plan = replace(find_plan(spec), trained=trained)
    return TrainingStep(CONFIG, params, anefast.Device("host"), *x.shape, plan), x, y


def compiled(step, act) -> set[str]:
    """The programs that are compiled while `act` runs."""
    before = [k.compiles for k in step.compiled.kernels]
    asked = step.device.programs.counters.compiles
    act()
    step.settle()
    pairs = zip(step.compiled.kernels, before, strict=True)
    again = {k.name for k, count in pairs if k.compiles > count}
    assert step.device.programs.counters.compiles - asked == len(again)
    return again


def baking(step, *names: str) -> set[str]:
    """The programs that have one of these weights in them."""
    return {
        k.name
        for k in step.compiled.kernels
        if any(t.op == "parameter" and t.name in names for t in k.program.nodes)
    }


@pytest.mark.parametrize("spec", ["unfused", "layer", "layer,async", "all", "all,recompute"])
def test_equal_weights_compile_nothing_and_one_changed_just_its_programs(spec):
    step, x, y = made(spec)
    assert compiled(step, step.update_weights) == set()
    for name, value in step.params.items():
        step.params[name] = value.copy()  # loaded once more, from a checkpoint say
    assert compiled(step, step.update_weights) == set()
    step.params[WEIGHT][3, 5] += 0.5
    wanted = baking(step, WEIGHT)
    assert compiled(step, step.update_weights) == wanted != set()
    assert len(wanted) < len(step.compiled.kernels) or spec.startswith("all")
    loss, _ = step.micro_step(x, y, 32.0)
    fresh = TrainingStep(CONFIG, step.params, anefast.Device("host"), *x.shape, step.plan)
    assert fresh.micro_step(x, y, 32.0)[0] == loss
    assert step.compiler.collect().compiles == len(wanted) + len(step.compiled.kernels)
    step.close()
    fresh.close()


def test_what_fp16_does_not_see_compiles_nothing():
    step, *_ = made()
    step.params[WEIGHT][...] = step.params[WEIGHT].astype(np.float16)
    assert compiled(step, step.update_weights) == set()
    step.params[WEIGHT] *= np.float32(1 + 1e-6)
    assert compiled(step, step.update_weights) == set()
    step.close()


def test_frozen_weights_are_looked_at_where_they_may_have_changed():
    trained = matching("layers.0.*", shapes(CONFIG), "train")
    step, x, y = made("layer", trained)
    step.params[WEIGHT][...] *= 2
    assert compiled(step, step.update_weights) == set()  # no update changes it
    assert compiled(step, lambda: step.update_weights(every=True)) == baking(step, WEIGHT) != set()
    assert compiled(step, lambda: step.update_weights(every=True)) == set()
    fresh = TrainingStep(CONFIG, step.params, anefast.Device("host"), *x.shape, step.plan)
    assert step.micro_step(x, y, 32.0)[0] == fresh.micro_step(x, y, 32.0)[0]
    step.close()
    fresh.close()


def test_a_base_beside_an_adapter():
    step, *_ = step_of(CONFIG, adapter_of(CONFIG))
    for value in step.trained.values():
        value += 0.1
    assert compiled(step, lambda: step.update_weights(every=True)) == set()
    assert compiled(step, lambda: step.adapt(Lora.of(adapter_of(CONFIG, seed=3)))) == set()
    step.params[WEIGHT][...] *= 2
    wanted = baking(step, WEIGHT)
    assert compiled(step, lambda: step.update_weights(every=True)) == wanted and len(wanted) == 2
    step.close()


def test_programs_that_generate():
    model = anefast.Model.from_config(CONFIG.replace(vocab_size=259), ByteTokenizer(), 0)
    device = anefast.Device("host")
    counts = device.programs.counters

    def logits(model):
        inference = model.inference(device, "layer")
        found = inference.logits([1, 2, 3])
        graph = inference._bucket.compiled
        before = counts.compiles
        graph.load(model.params)
        assert counts.compiles == before
        inference.close()
        return found

    first = logits(model)
    assert counts.compiles == CONFIG.n_layers
    assert np.array_equal(logits(model), first) and counts.compiles == CONFIG.n_layers
    model.params[WEIGHT] *= 2
    assert not np.array_equal(logits(model), first) and counts.compiles == CONFIG.n_layers + 1


@pytest.mark.parametrize("size", [0, 1, 7, 16, 63, 64, 65, 128, 1000])
def test_a_hash_sees_every_bit(size):
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    seen = {_C.blob_hash(data)}
    for at in range(size):
        for bit in range(8):
            other = data.copy()
            other[at] ^= 1 << bit
            seen.add(_C.blob_hash(other))
    assert len(seen) == 1 + 8 * size and all(len(h) == 16 for h in seen)
    assert _C.blob_hash(data.copy()) in seen
    assert _C.blob_hash(np.append(data, np.uint8(0))) not in seen


def test_a_hash_sees_order_and_zeros():
    zeros = {_C.blob_hash(np.zeros(n, np.uint8)) for n in range(300)}
    assert len(zeros) == 300
    blocks = np.random.default_rng(0).integers(0, 256, (6, 64), np.uint8)
    orders = {_C.blob_hash(np.roll(blocks, k, 0)) for k in range(6)}
    words = blocks.reshape(-1, 8)
    swapped = {_C.blob_hash(np.roll(words, k, 0)) for k in range(len(words))}
    assert len(orders) == 6 and len(swapped) == len(words)
    # words that make one factor of a product zero leave no lane without its past
    constants = (0x243F6A8885A308D3, 0x13198A2E03707345, 0xA4093822299F31D1, 0x082EFA98EC4E6C89)
    killing = np.zeros((1, 8), np.uint64)
    killing[0, 1::2] = constants
    halves = np.random.default_rng(1).integers(0, 2**63, (20, 8), np.uint64)
    found = {_C.blob_hash(np.concatenate([h[None], killing]).view(np.uint8)) for h in halves}
    assert len(found) == 20
