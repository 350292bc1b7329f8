"""Surfaces, locks, evaluation errors and threads of the host device.

They are the contract's, not the host's: test_ane.py runs them on the Mac's device too.
"""

from __future__ import annotations

import gc
import os
import threading
from typing import Any

import numpy as np
import pytest

from anefast import _C

from .host_programs import Name, Text, read_port, rows, write_port


@pytest.fixture(scope="module")
def host() -> Any:
    return _C.Device(os.environ.get("ANEFAST_TEST_DEVICE", "host"))


def doubler(host: Any, shape: tuple[int, ...] = (1, 4, 1, 33)) -> Any:
    x = np.zeros(shape, np.float16)
    t = Text(a=x)
    y = t.op("add", x, x=Name("a"), y=Name("a"))
    return host.compile(t.program([y]), {})


def test_a_device_says_what_it_is(host: Any) -> None:
    assert host.name == "host" and host.label == "measured on the host"
    assert host.description.startswith("host (") and "thread" in host.description
    assert _C.Device("host", "profile=exact").label == "measured on the host"


@pytest.mark.parametrize("options", ["thread=2", "profile=fast", "threads=0", "threads=two", "x"])
def test_bad_options(options: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        _C.Device("host", options)


def test_an_unknown_device() -> None:
    with pytest.raises(ValueError, match='"host" or "ane"'):
        _C.Device("tpu")


def test_no_ane_here_says_why() -> None:
    try:
        _C.Device("ane")
    except _C.AneUnavailable as error:
        assert "host" in str(error)
    else:
        pytest.skip("this machine has an ANE")


def test_surfaces_are_aligned_zero_filled_and_remember(host: Any) -> None:
    surface = host.surface(1000)
    view = surface.lock()
    assert surface.nbytes == view.nbytes == 1000 and view.ctypes.data % 4096 == 0 and not view.any()
    view[:] = 7
    surface.unlock()
    view = surface.lock(read_only=True)
    assert (view == 7).all() and not view.flags.writeable
    del surface
    gc.collect()
    assert (view == 7).all()  # the view keeps its surface
    view.base.unlock(read_only=True)
    with pytest.raises(ValueError):
        host.surface(0)


def test_locks_nest_and_pair_up(host: Any) -> None:
    surface = host.surface(64)
    surface.lock(read_only=True)
    surface.lock(read_only=True)
    surface.unlock(read_only=True)
    with pytest.raises(ValueError, match="read_only"):
        surface.unlock()
    surface.unlock(read_only=True)
    with pytest.raises(ValueError):
        surface.unlock(read_only=True)


def test_rows_start_every_64_bytes(host: Any) -> None:
    program = doubler(host)
    port = program.inputs[0]
    assert (port.name, port.dtype, port.shape) == ("a", "fp16", (1, 4, 1, 33))
    assert port.strides == (4 * 128, 128, 128, 2) and port.nbytes == 4 * 128
    i, o = host.surface(port.nbytes), host.surface(port.nbytes)
    o.lock()[:] = 0xEE
    o.unlock()
    x = np.arange(132, dtype=np.float16).reshape(1, 4, 1, 33)
    write_port(i, port, x)
    program.evaluate([i], [o])
    np.testing.assert_array_equal(read_port(o, program.outputs[0]), x + x)
    assert (o.lock(read_only=True).reshape(4, 128)[:, 66:] == 0xEE).all()  # padding is left alone
    assert rows(o.lock(read_only=True), port).shape == (4, 66)


def test_ports_are_in_order_of_name(host: Any) -> None:
    x, y = np.ones((1, 2, 1, 32), np.float16), np.ones((1, 3, 1, 32), np.float16)
    t = Text(b=x, B1=y, a=x)
    p, q = t.op("add", x, x=Name("b"), y=Name("a")), t.op("square", y, x=Name("B1"))
    program = host.compile(t.program([q, p]), {})
    assert [i.name for i in program.inputs] == ["B1", "a", "b"]
    assert [o.name for o in program.outputs] == sorted([p, q])


def test_short_surface_fails_as_on_the_device(host: Any) -> None:
    program = doubler(host)
    good, short = host.surface(512), host.surface(511)
    for inputs, outputs in (([short], [good]), ([good], [short])):
        with pytest.raises(_C.EvaluationError, match=r"status=0x1d.*512.*511"):
            program.evaluate(inputs, outputs)
    program.evaluate([host.surface(513)], [host.surface(9999)])


def test_wrong_surfaces(host: Any) -> None:
    program = doubler(host)
    a, b = host.surface(512), host.surface(512)
    with pytest.raises(ValueError, match="expected 1 input surfaces, got 2"):
        program.evaluate([a, a], [b])
    with pytest.raises(ValueError, match="expected 1 output surfaces, got 0"):
        program.evaluate([a], [])
    with pytest.raises((TypeError, ValueError)):
        program.evaluate([None], [b])
    with pytest.raises(_C.EvaluationError, match="also an input"):
        program.evaluate([a], [a])


def test_locked_surfaces_are_refused_until_unlocked(host: Any) -> None:
    program = doubler(host)
    a, b = host.surface(512), host.surface(512)
    a.lock(read_only=True)
    program.evaluate([a], [b])  # the CPU and the device may read together
    a.unlock(read_only=True)
    for locked, read_only in ((a, False), (b, False), (b, True)):
        locked.lock(read_only)
        with pytest.raises(_C.EvaluationError, match="locked"):
            program.evaluate([a], [b])
        locked.unlock(read_only)
        program.evaluate([a], [b])


def test_one_surface_for_two_outputs(host: Any) -> None:
    x = np.zeros((1, 2, 1, 32), np.float16)
    t = Text(a=x)
    p, q = t.op("square", x, x=Name("a")), t.op("abs", x, x=Name("a"))
    program = host.compile(t.program([p, q]), {})
    a, b = host.surface(128), host.surface(128)
    with pytest.raises(_C.EvaluationError, match="two outputs"):
        program.evaluate([a], [b, b])
    program.evaluate([a], [b, host.surface(128)])


def test_an_unloaded_program(host: Any) -> None:
    program = doubler(host)
    program.unload()
    program.unload()
    with pytest.raises(_C.EvaluationError, match="unloaded"):
        program.evaluate([host.surface(512)], [host.surface(512)])


def test_weights_are_copied_at_compile(host: Any) -> None:
    w = np.full((1, 70, 1, 32), 3, np.float16)
    t = Text(a=np.zeros_like(w))
    y = t.op("add", w, x=Name("a"), y=w)
    blobs = {path: bytearray(file) for path, file in t.blobs.items()}
    program = host.compile(t.program([y]), blobs)
    for file in blobs.values():
        file[128:] = bytes(len(file) - 128)
    i, o = host.surface(program.inputs[0].nbytes), host.surface(program.outputs[0].nbytes)
    program.evaluate([i], [o])
    assert (read_port(o, program.outputs[0]) == 3).all()
    assert program.nbytes >= w.nbytes


def test_bad_mil_says_where(host: Any) -> None:
    text = Text(a=np.zeros((1, 4, 1, 32), np.float16)).program(["nothing_here"])
    with pytest.raises(_C.MILError, match="nothing_here") as caught:
        host.compile(text, {})
    assert caught.value.line == 5 and isinstance(caught.value, ValueError)


def test_two_threads_evaluate_at_once(host: Any) -> None:
    """One program from two threads, then two programs: nothing is torn."""
    shape = (1, 96, 1, 512)
    programs = [doubler(host, shape), doubler(host, shape)]
    problems: list[str] = []

    def work(program: Any, seed: int) -> None:
        port = program.inputs[0]
        i, o = host.surface(port.nbytes), host.surface(port.nbytes)
        for n in range(40):
            x = np.full(shape, seed * 100 + n, np.float16)
            write_port(i, port, x)
            program.evaluate([i], [o])
            if not (read_port(o, port) == x + x).all():
                problems.append(f"thread {seed}, turn {n}")

    for pair in ((0, 0), (0, 1)):
        workers = [threading.Thread(target=work, args=(programs[p], k)) for k, p in enumerate(pair)]
        for w in workers:
            w.start()
        for w in workers:
            w.join()
    assert not problems


def test_threads_never_change_a_byte(host: Any) -> None:
    """One softmax-and-products program, once with one thread and once with two."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 64, 1, 256)).astype(np.float16)
    w = rng.standard_normal((192, 64, 1, 1)).astype(np.float16)
    wide = np.empty((2, 192, 1, 256), np.float16)
    t = Text(a=x)
    y = t.op(
        "conv", wide, x=Name("a"), weight=w, strides=[1, 1], pad_type="valid",
        pad=[0, 0, 0, 0], dilations=[1, 1], groups=1,
    )  # fmt: skip
    s = t.op("softmax", wide, x=y, axis=1)
    r = t.op("reduce_sum", wide[:, :1], x=t.op("mul", wide, x=s, y=y), axes=[1], keep_dims=True)
    z = t.op("sigmoid", wide, x=t.op("real_div", wide, x=y, y=r))
    program = host.compile(t.program([s, r, z]), t.blobs)
    before = _C.threads()
    seen = []
    try:
        for n in (1, 2):
            _C.set_threads(n)
            surfaces = [host.surface(p.nbytes) for p in (*program.inputs, *program.outputs)]
            write_port(surfaces[0], program.inputs[0], x)
            program.evaluate(surfaces[:1], surfaces[1:])
            seen.append(
                [read_port(o, p) for o, p in zip(surfaces[1:], program.outputs, strict=True)]
            )
    finally:
        _C.set_threads(before)
    for one, two in zip(*seen, strict=True):
        np.testing.assert_array_equal(one.view(np.uint16), two.view(np.uint16))


def test_the_queue_locks_until_its_work_is_done(host: Any) -> None:
    b, co, ci, s = 2, 96, 64, 64
    rng = np.random.default_rng(1)
    dy, x = (rng.standard_normal((b, c, 1, s)).astype(np.float16) for c in (co, ci))
    surfaces = []
    for a in (dy, x):
        surface = host.surface(a.nbytes)
        surface.lock()[:] = a.reshape(-1).view(np.uint8)
        surface.unlock()
        surfaces.append(surface)
    acc, scale, bias = (np.zeros(n, np.float32) for n in ((co, ci), co, co))
    queue = _C.Queue()
    for _ in range(2):
        queue.weight_grad(*surfaces, acc, b, s)
        queue.scale_grad(surfaces[0], surfaces[0], scale, b, s)
        queue.bias_grad(surfaces[0], bias, b, s)
    queue.wait()
    wide = dy.astype(np.float64)
    np.testing.assert_allclose(acc, 2 * np.einsum("bohs,bihs->oi", wide, x), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(scale, 2 * (wide * wide).sum((0, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(bias, 2 * wide.sum((0, 2, 3)), rtol=1e-4, atol=1e-3)
    for surface in surfaces:  # every lock was let go
        with pytest.raises(ValueError):
            surface.unlock(read_only=True)


def test_the_queue_refuses_what_does_not_fit(host: Any) -> None:
    queue, small, big = _C.Queue(), host.surface(64), host.surface(8192)
    acc = np.zeros((8, 4), np.float32)
    for arguments in (
        (small, big, acc, 1, 32),
        (big, small, acc, 1, 32),
        (big, big, acc, 1, 33),
        (big, big, acc.astype(np.float64), 1, 32),
        (big, big, acc.T, 1, 32),
        (big, big, np.zeros(8, np.float32), 1, 32),
    ):
        with pytest.raises(ValueError):
            queue.weight_grad(*arguments)
    for surface in (small, big):
        with pytest.raises(ValueError):  # nothing stayed locked
            surface.unlock(read_only=True)
