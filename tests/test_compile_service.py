"""The compile service: staleness, stalls, errors and memory, with real programs on the host."""

from __future__ import annotations

import gc
import re
import threading
import time
import weakref
from concurrent.futures import wait
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("anefast._C", reason="the native module is not built", exc_type=ImportError)

from anefast import _C
from anefast.bench.context import nudge
from anefast.config import ModelConfig
from anefast.fuse import find_plan
from anefast.models import init_params
from anefast.runtime import CompileService, Device, TrainingStep

CONFIG = ModelConfig(dim=32, n_layers=1, n_heads=2, vocab_size=64, max_seq_len=32)
RNG = np.random.default_rng(0)
X, Y = RNG.integers(0, 64, (2, 1, 32), dtype=np.int32)


class Gate:
    """Lets compiles of a device through, or holds them."""

    def __init__(self, device: Device) -> None:
        self.open = threading.Event()
        self.open.set()
        self.asked = 0
        inner = device.programs._compile

        def compile(text, blobs, *key):
            self.asked += 1
            assert self.open.wait(20), "nobody opened the gate"
            return inner(text, blobs, *key)

        device.programs._compile = compile


def made(plan: str = "unfused,async", swap_at: int | None = 2):
    """A step, and the gate of its device."""
    device = Device("host")
    gate = Gate(device)
    params = init_params(CONFIG, 0)
    for p in params.values():  # gains other than 1, layers that matter to the loss
        p += (0.3 * np.random.default_rng(1).standard_normal(p.shape)).astype(np.float32)
    return TrainingStep(CONFIG, params, device, 1, 32, find_plan(plan), swap_at), gate


def change(step: TrainingStep, by: float) -> None:
    """An update that no weight escapes."""
    for p in step.params.values():
        p *= np.float32(by)


def micro(step: TrainingStep) -> tuple[float, bytes]:
    """Loss and gradients of one micro-step, apart from those before."""
    for g in step.grads.values():
        g[...] = 0
    loss, _ = step.micro_step(X, Y, 16.0)
    step.wait()
    return loss, b"".join(g.tobytes() for g in step.grads.values())


@pytest.fixture(scope="module")
def truth():
    """What a micro-step gives: before the update, half taken over, and whole."""
    step, _ = made("unfused")
    before = micro(step)
    change(step, 1.25)
    stale = micro(step)  # the CPU has the new weights, the device the old ones
    step.update_weights()
    fresh = micro(step)
    assert len({before[0], stale[0], fresh[0]}) == 3
    return before, stale, fresh


def test_the_set_takes_over_at_its_micro_step(truth):
    step, _ = made(swap_at=2)
    assert micro(step) == truth[0]
    change(step, 1.25)
    step.update_weights()
    seen = []
    for _ in range(4):
        seen.append(step.compiler.stale)
        assert micro(step) == truth[1 if seen[-1] else 2]
    assert seen == [True, True, False, False]  # however fast the compile was
    recent = step.compiler.collect()
    assert (recent.staleness, recent.stale_micro_steps) == (1, 2)
    assert recent.compiles == 6 + 5 and recent.compile_ms > 0
    step.close()


def test_ready_sets_take_over_at_once(truth):
    step, gate = made(swap_at=None)
    gate.open.clear()
    change(step, 1.25)
    step.update_weights()
    assert [micro(step) for _ in range(5)] == [truth[1]] * 5  # as long as it takes
    gate.open.set()
    step.compiler._pending.future.result(20)
    assert micro(step) == truth[2]
    assert step.compiler.collect().stalled_steps == 0
    step.close()


def test_a_late_set_is_waited_for_and_counted():
    step, gate = made(swap_at=1)
    change(step, 1.1)
    gate.open.clear()
    step.update_weights()
    micro(step)
    threading.Timer(0.05, gate.open.set).start()
    micro(step)
    recent = step.compiler.collect()
    assert recent.stalled_steps == 1 and recent.stall_ms > 20
    # an update finds the set before it unfinished: at most one update stale
    step.compiler.swap_at = 99
    gate.open.clear()
    change(step, 1.1)
    step.update_weights()
    micro(step)
    threading.Timer(0.05, gate.open.set).start()
    asked = gate.asked
    change(step, 1.1)
    step.update_weights()
    assert gate.asked >= asked and step.compiler.collect().stalled_steps == 1
    assert step.compiler.stale
    step.close()


def test_validation_sees_the_newest_weights():
    step, gate = made(swap_at=5)
    other, _ = made("unfused")
    for s in (step, other):
        change(s, 1.25)
    gate.open.clear()
    step.update_weights()
    other.update_weights()
    threading.Timer(0.05, gate.open.set).start()
    assert step.evaluate(X, Y) == other.evaluate(X, Y)
    recent = step.compiler.collect()
    assert recent.settle_ms > 20 and recent.stalled_steps == 0 and recent.staleness == 0
    assert micro(step) == micro(other)
    step.close()


@pytest.mark.parametrize("spec", ["all,async,weights=params", "layer,async,weights=packed"])
def test_weights_that_are_data_are_never_stale(truth, spec):
    step, _ = made(spec, swap_at=2)
    compiles = step.device.programs.counters.compiles
    change(step, 1.25)
    step.update_weights()
    assert not step.compiler.stale and step.compiler.per_update == 0
    assert micro(step)[0] == truth[2][0]
    assert step.device.programs.counters.compiles == compiles
    step.close()


@pytest.mark.parametrize("swap_at", [3, None])
def test_a_compile_error_surfaces_at_the_next_edge(truth, swap_at, monkeypatch, tmp_path):
    monkeypatch.setenv("ANEFAST_DUMP", str(tmp_path))
    step, _ = made(swap_at=swap_at)
    kernel = step.compiled.kernels[3]
    good, kernel.text = kernel.text, kernel.text.replace("mul(", "mull(", 1)
    live = step.device.programs.live
    change(step, 1.25)
    step.update_weights()
    with pytest.raises(_C.MILError) as caught:
        for _ in range(2):
            micro(step)
            while not step.compiler._pending.future.done():
                time.sleep(0.001)
    assert "mull" in str(caught.value) and kernel.name in str(caught.value)
    assert caught.value.line > 1  # it is the original
    path = Path(re.search(r"in (\S+\.mil)\)", str(caught.value))[1])
    assert path.parent == tmp_path and path.read_text() == kernel.text
    assert step.device.programs.live == live  # nothing of the broken set is left
    kernel.text = good
    step.update_weights()
    step.settle()
    assert micro(step) == truth[2]
    step.close()


def test_a_compile_error_at_once_names_the_program_too(tmp_path, monkeypatch):
    monkeypatch.setenv("ANEFAST_DUMP", str(tmp_path))
    step, _ = made("unfused")
    step.compiled.kernels[0].text = "program(1.3)"
    change(step, 1.1)
    with pytest.raises(_C.MILError, match=r"forward\.layers\.0\.attn"):
        step.update_weights()
    assert len(list(tmp_path.glob("forward.layers.0.attn-*.mil"))) == 1


def test_closing_drops_what_is_under_way():
    step, gate = made()
    gate.open.clear()
    change(step, 1.1)
    step.update_weights()
    threading.Timer(0.05, gate.open.set).start()
    step.close()
    assert step.device.programs.live <= 1  # but for the one without weights, which is kept
    assert not [t for t in threading.enumerate() if t.name.startswith("anefast-compile")]


def test_modes_and_edges_are_checked():
    cache = Device("host").programs
    with pytest.raises(ValueError, match="one of sync, async, got 'later'"):
        CompileService(cache, [], "later")
    with pytest.raises(ValueError, match="at least 0 or None, got -1"):
        CompileService(cache, [], "async", -1)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc to read the size from")
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_thousand_updates_leak_nothing(mode):
    step, _ = made(f"all,{mode}", swap_at=1)
    programs, seen = step.device.programs, weakref.WeakSet()
    held = 2 if mode == "sync" else 4
    for i in range(1000):
        nudge(step)
        step.update_weights()
        step.compiler.edge()
        step.compiler.edge()
        assert programs.live <= held
        for kernel in step.compiled.kernels:
            seen.add(kernel._lease.native)
        if i == 100:
            warm = resident_bytes()
    gc.collect()
    assert resident_bytes() - warm < 8 << 20
    assert programs.counters.compiles >= 2000 and len(seen) <= held
    step.close()
    assert programs.live == 0 and programs.nbytes == 0


def test_no_stalls_in_a_thousand_micro_steps():
    step, _ = made(swap_at=None)
    # enough micro-steps before the swap, from what this machine takes; a neighbour may be busy
    began = time.perf_counter()
    for _ in range(10):
        micro(step)
    one = (time.perf_counter() - began) / 10 * 1e3
    change(step, 1.001)
    began = time.perf_counter()
    step.update_weights()
    step.settle()
    compile_ms = (time.perf_counter() - began) * 1e3
    step.compiler.swap_at = swap_at = int(10 * compile_ms / one) + 10
    accumulation = 2 * swap_at
    step.compiler.collect()
    for i in range(1000):
        if i % accumulation == 0:
            change(step, 1.001)
            step.update_weights()
        if i % accumulation == swap_at - 1:  # a busy machine may be ten times slower
            wait([step.compiler._pending.future])
        step.micro_step(X, Y, 16.0)
    recent = step.compiler.collect()
    step.settle()
    print(f"compile {compile_ms:.1f} ms, micro-step {one:.2f} ms, accumulation {accumulation}")
    assert recent.stalled_steps == 0 and recent.settle_ms == 0
    assert recent.stale_micro_steps >= 1000 // 2 - swap_at and recent.staleness == 1
    step.close()
