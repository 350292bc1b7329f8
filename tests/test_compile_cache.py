"""The compile cache: keys, counters, sharing and eviction. Real programs, on the host executor."""

from __future__ import annotations

import gc
import hashlib
import threading
import weakref

import numpy as np
import pytest

pytest.importorskip("anefast._C", reason="the native module is not built", exc_type=ImportError)

from anefast import _C
from anefast.bench.context import nudge
from anefast.config import ModelConfig, TrainConfig
from anefast.fuse import find_plan
from anefast.model import Model
from anefast.models import init_params
from anefast.runtime import CompileCache, Device, TrainingStep
from anefast.runtime.budget import CompileBudget
from anefast.runtime.cache import key_of
from anefast.tokenizer import ByteTokenizer

from .host_programs import Name, Text

CONFIG = ModelConfig(dim=32, n_layers=2, n_heads=4, n_kv_heads=2, vocab_size=259, max_seq_len=32)


def conv(seed: int = 0, channels: int = 32):
    """(text, blobs) of a program with a baked weight; the text depends on `channels` only."""
    x = np.zeros((1, channels, 1, 32), np.float16)
    w = np.random.default_rng(seed).standard_normal((channels, channels, 1, 1)).astype(np.float16)
    text = Text(x=x)
    y = text.op(
        "conv", x, x=Name("x"), weight=w, strides=[1, 1], pad_type="valid", pad=[0] * 4,
        dilations=[1, 1], groups=1,
    )  # fmt: skip
    return text.program([y]), {p: bytes(b) for p, b in text.blobs.items()}


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_key_is_three_hashes():
    assert key_of("text", "", {}) == f"{sha(b'text')}_{sha(b'')}_{sha(b'')}"
    assert key_of("text", "o", {"p": b"w"}) == f"{sha(b'text')}_{sha(b'o')}_{sha(b'w')}"
    array = np.arange(5, dtype=np.uint8)
    assert key_of("t", "", {"p": array}) == key_of("t", "", {"p": array.tobytes()})
    # in any order, but no byte may change its file
    a, b = {"a": b"1", "b": b"23"}, {"b": b"23", "a": b"1"}
    assert key_of("", "", a) == key_of("", "", b)
    assert key_of("", "", a) != key_of("", "", {"a": b"12", "b": b"3"})


def test_equal_programs_are_one_and_others_are_not():
    cache = Device("host").programs
    a = cache.acquire(*conv(seed=1))
    b = cache.acquire(*conv(seed=1))
    c = cache.acquire(*conv(seed=2))
    assert a.native is b.native and c.native is not a.native
    counters = cache.counters
    assert (counters.hits, counters.misses, counters.compiles) == (1, 2, 2)
    assert cache.live == 2 and cache.nbytes == a.native.nbytes + c.native.nbytes
    a.release()
    a.release()
    assert cache.acquire(*conv(seed=1)).native is b.native  # b still holds it


def test_an_idle_program_is_found_until_it_is_evicted():
    cache = Device("host").programs
    leases = [cache.acquire(*conv(seed=s)) for s in range(4)]
    one = leases[0].native.nbytes
    cache.limit_bytes = 3 * one
    natives = [weakref.ref(x.native) for x in leases]
    keys = [x.key for x in leases]
    for i in (2, 0, 1):  # in use nothing goes, whatever the limit
        assert cache.live == 4 - (i != 2)
        leases[i].release()
    assert [k in cache for k in keys] == [True, True, False, True]  # 2 was idle longest
    assert (cache.counters.evictions, cache.live, cache.nbytes) == (1, 3, 3 * one)
    cache.acquire(*conv(seed=0)).release()  # used last now
    cache.acquire(*conv(seed=9))
    assert [k in cache for k in keys] == [True, False, False, True]
    del leases
    gc.collect()
    assert [n() is None for n in natives] == [False, True, True, False]
    cache.clear()
    assert cache.live == 2  # 3, whose lease was dropped and not released, and 9


def test_what_has_no_key_is_freed_at_once():
    cache = Device("host").programs
    lease = cache.acquire(*conv(), keep=False)
    assert lease.key is None and cache.live == 1
    assert cache.acquire(*conv(), keep=False).native is not lease.native
    assert cache.acquire(*conv()).native is not lease.native  # and nobody finds it
    lease.release()
    assert cache.live == 2 and cache.counters.hits == 0


def test_two_threads_that_compile_the_same_end_with_one():
    gate = threading.Barrier(2)
    device = Device("host")

    def compile(text, blobs):
        gate.wait(10)  # both have missed
        return device.compile(text, blobs)

    cache = CompileCache(compile)
    found = []
    threads = [threading.Thread(target=lambda: found.append(cache.acquire(*conv()))) for _ in "ab"]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert found[0].native is found[1].native and cache.live == 1
    assert (cache.counters.compiles, cache.counters.hits) == (2, 0)


def test_a_failed_compile_leaves_nothing():
    cache = Device("host").programs
    with pytest.raises(ValueError):
        cache.acquire("program(1.3) nonsense", {})
    assert cache.live == 0 and cache.counters.compiles == 0


def test_layers_share_a_program_without_weights_and_updates_miss():
    device = Device("host")
    step = TrainingStep(CONFIG, init_params(CONFIG, 0), device, 1, 32, find_plan("unfused"))
    counters = device.programs.counters
    kernels, baked = len(step.compiled.kernels), step.compiler.per_update
    assert kernels == 12 and baked == 10  # two backward.layers.*.attn.scores have none
    assert (counters.hits, counters.misses) == (1, 11)
    nudge(step)
    step.update_weights()
    assert (counters.hits, counters.misses, counters.compiles) == (1, 21, 21)
    assert device.programs.live == 11
    step.close()
    assert device.programs.live == 1  # without weights: the next step will want it


def test_generating_twice_compiles_once():
    model = Model.from_config(CONFIG, ByteTokenizer(), seed=0)
    device = Device("host")
    first = model.generate("a", tokens=4, device=device)
    compiles = device.programs.counters.compiles
    assert model.generate("a", tokens=4, device=device) == first
    assert device.programs.counters.compiles == compiles > 0
    model.params["layers.1.ffn.w1"] += 1
    model.generate("a", tokens=4, device=device)
    assert device.programs.counters.compiles == compiles + 1  # that one's program


@pytest.mark.parametrize("plan", ["unfused", "all", "all,recompute,weights=params"])
def test_training_evaluation_and_generation_compile_each_program_once(plan, tmp_path, monkeypatch):
    """On one device. Their programs have other ports, so their texts differ; none comes twice."""
    model, device = Model.from_config(CONFIG, ByteTokenizer(), seed=0), Device("host")
    cache, given, data = device.programs, [], tmp_path / "text.txt"
    data.write_text("one two three. " * 20)
    compiled = cache._compile

    def compile(text, blobs, *key):
        given.append(key_of(text, "", blobs))
        return compiled(text, blobs, *key)

    monkeypatch.setattr(cache, "_compile", compile)
    x = np.ones((1, 32), np.int32)
    with model.trainer(batch=1, seq=32, device=device, plan=plan) as trainer:
        trainer.update((x, x))
        after_update = cache.counters.compiles
        trainer.evaluate((x, x))
        assert cache.counters.compiles == after_update  # the step's own forward
        model.evaluate(data)
        model.generate("a", tokens=4)
        assert model._device is device
        assert cache.counters.compiles == after_update + 2
        for _ in range(2):
            model.evaluate(data)
            model.generate("ab", tokens=4)
        assert cache.counters.compiles == after_update + 2 == len(given) == len(set(given))


def test_a_budget_warns_once():
    said = []
    budget = CompileBudget()
    assert budget.limit == TrainConfig().max_compiles == 500
    with budget.guard(2, said.append):
        assert budget.holds(2) and not budget.holds(3)
        for _ in range(4):
            budget.spend()
    assert budget.used == 4 and budget.limit == 500
    assert (
        len(said) == 1 and "its budget of 2 compiles" in said[0] and "checkpoint-restart" in said[0]
    )


def test_a_device_without_room_gets_idle_programs_off_and_then_says_how_many_are_in_use():
    device = Device("host", "profile=small loaded=2")
    cache = device.programs
    idle, kept = cache.acquire(*conv(seed=0)), cache.acquire(*conv(seed=1))
    idle.release()
    other = cache.acquire(*conv(seed=2), keep=False)
    assert cache.counters.evictions == 1 and cache.live == 2
    with pytest.raises(_C.LoadError, match=r"at most 2 programs .* 2 programs are loaded and in"):
        cache.acquire(*conv(seed=3))
    kept.release()  # idle now
    assert cache.acquire(*conv(seed=3)).native is not other.native and cache.live == 2
