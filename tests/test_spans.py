"""Native spans: nothing lost, nothing counted twice, every thread told apart."""

from __future__ import annotations

import multiprocessing
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from anefast import _C

ROOT = Path(__file__).resolve().parent.parent
Component, Phase = _C.Component, _C.Phase


@pytest.fixture(autouse=True)
def recording():
    _C.spans_drain()
    _C.spans_record(True)
    yield
    _C.spans_record(False)
    _C.spans_drain()
    _C.spans_phase(Phase.BETWEEN)


def mine():
    records = _C.spans_drain()
    return records[records["thread"] == _C.spans_thread()]


def test_names_in_the_stub_are_those_of_the_header():
    stub = (ROOT / "anefast" / "_C.pyi").read_text()
    for kind in (Component, Phase):
        body = stub.split(f"class {kind.__name__}(IntEnum):\n")[1].split("\n\n")[0]
        assert [line.split(" = ")[0].strip() for line in body.splitlines()] == [
            member.name for member in kind
        ]
        assert all(member.__doc__ for member in kind)


def test_selves_of_nested_spans_add_up_to_the_outermost():
    with _C.Span(Component.OPTIMIZER):
        for _ in range(3):
            with _C.Span(Component.STAGE, 0, 7, 9):
                with _C.Span(Component.LOCK):
                    time.sleep(0.001)
                time.sleep(0.001)
    records = mine()
    lasted = records["end"] - records["start"]
    assert len(records) == 7 and (records["self"] >= 0).all()
    assert records["self"].sum() == lasted.max()
    locks, stages = (records[records["component"] == c] for c in (Component.LOCK, Component.STAGE))
    assert (locks["self"] >= 1e6).all() and (stages["self"] >= 1e6).all()
    assert stages["flops"].tolist() == [7] * 3 and stages["bytes"].tolist() == [9] * 3


def test_nothing_is_recorded_while_off_and_a_span_open_at_the_switch_ends_well():
    _C.spans_record(False)
    with _C.Span(Component.LOCK):
        _C.spans_record(True)
    assert len(mine()) == 0
    with _C.Span(Component.LOCK):
        _C.spans_record(False)
    assert len(mine()) == 1


def test_threads_have_rings_of_their_own_and_their_last_spans_are_kept():
    def work(i):
        _C.spans_name_thread(f"worker {i}")
        _C.spans_phase(Phase.UPDATE)
        for _ in range(500):
            with _C.Span(Component.STAGE, _C.spans_label(f"label {i}")):
                pass

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    records = [_C.spans_drain()]
    for t in threads:
        t.start()
    while any(t.is_alive() for t in threads):
        records.append(_C.spans_drain())
    records = np.concatenate([*records, _C.spans_drain()])
    names, labels = _C.spans_threads(), _C.spans_labels()
    for i in range(4):
        own = records[[names[t] == f"worker {i}" for t in records["thread"]]]
        assert len(own) == 500 and {labels[n] for n in own["label"]} == {f"label {i}"}
        assert (own["phase"] == Phase.UPDATE).all() and (np.diff(own["start"]) >= 0).all()
    assert _C.spans_phase(Phase.BETWEEN) == Phase.BETWEEN  # a thread's phase is its own


def test_what_a_full_ring_has_no_room_for_is_added_up():
    """By phase, component and label, so that memory stays as it is and no time is lost."""
    label = _C.spans_label("many")
    kinds = [(Component.LOCK, 0), (Component.EVALUATE, label), (Component.STAGE, label)]
    for _ in range(1 << 14):
        with _C.Span(Component.DATA):
            pass
    began = _C.spans_clock()
    for phase in (Phase.FORWARD, Phase.UPDATE):
        _C.spans_phase(phase)
        for kind, named in kinds * 1000:
            with _C.Span(kind, named, 3, 5):
                pass
    took = _C.spans_clock() - began
    records = mine()
    assert _C.spans_dropped() == 0 and len(records) == (1 << 14) + 2 * len(kinds)
    assert (records["count"][: 1 << 14] == 1).all()
    sums = records[1 << 14 :]
    assert (sums["count"] == 1000).all() and (sums["flops"] == 3000).all()
    assert (sums["bytes"] == 5000).all() and (sums["self"] > 0).all()
    assert ((sums["end"] - sums["start"]) == sums["self"]).all() and sums["self"].sum() < took
    assert {(c, p) for c, p in sums[["component", "phase"]].tolist()} == {
        (kind, phase) for kind, _ in kinds for phase in (Phase.FORWARD, Phase.UPDATE)
    }
    with _C.Span(Component.LOCK):
        pass
    assert mine()["count"].tolist() == [1]


@pytest.mark.parametrize("threads", [1, 2])
def test_jobs_are_told_from_queueing_to_the_end(threads):
    device, before = _C.Device("host", ""), _C.threads()
    _C.set_threads(threads)
    try:
        dy, x = (device.surface(2 * 64 * 64) for _ in "ab")
        acc, queue = np.zeros((64, 64), np.float32), _C.Queue()
        label = _C.spans_label("layers.0.wq")
        for _ in range(5):
            queue.weight_grad(dy, x, acc, 1, 64, label)
        queue.wait()
    finally:
        _C.set_threads(before)
    records = _C.spans_drain()

    def of(component):
        return records[(records["component"] == component) & (records["label"] == label)]

    assert len(of(Component.DW_SUBMIT)) == 5
    assert of(Component.DW_SUBMIT)["flops"].tolist() == [2 * 64**3] * 5
    assert len(of(Component.DW_QUEUED)) == 10  # the product, and what unlocks its surfaces
    assert len(of(Component.DW_RUN)) >= 10
    assert (of(Component.DW_QUEUED)["self"] == 0).all()  # it overlaps with everything
    assert (records["phase"][records["component"] >= Component.DW_SUBMIT] == Phase.BACKWARD).all()


def test_the_head_tells_its_parts_and_passes_apart():
    rng = np.random.default_rng(0)
    h = rng.standard_normal((2, 32, 1, 64)).astype(np.float16)
    norm = np.ones(32, np.float32)
    weight = rng.standard_normal((300, 32)).astype(np.float32)
    targets = rng.integers(0, 300, (2, 64)).astype(np.int32)
    nll, dh = np.zeros((2, 64), np.float32), np.zeros_like(h)
    dnorm, dweight = np.zeros_like(norm), np.zeros_like(weight)
    _C.spans_phase(Phase.FORWARD)
    _C.head_loss_grad(h, norm, weight, targets, 1e-5, 64.0, nll, dh, dnorm, dweight)
    records = mine()
    for component in (Component.CLASSIFIER, Component.ELEMENTWISE):
        phases = records["phase"][records["component"] == component]
        assert set(phases) == {Phase.FORWARD, Phase.BACKWARD}, component
    products = records[records["component"] == Component.CLASSIFIER]
    assert products["flops"].sum() == 3 * 2 * 300 * 32 * 128
    assert _C.spans_phase(Phase.BETWEEN) == Phase.FORWARD  # restored


def test_gradients_are_added_up_inside_the_spans_that_the_breakdown_names():
    """The second micro-step adds to the first's sums, and is spent on the same components."""
    h, norm = np.ones((1, 32, 1, 64), np.float16), np.ones(32, np.float32)
    weight = np.random.default_rng(0).standard_normal((8, 32), np.float32)
    tokens, nll, dh = np.zeros((1, 64), np.int32), np.zeros((1, 64), np.float32), np.zeros_like(h)
    dnorm, dweight, dtable, acc = (
        np.zeros(n, np.float32) for n in (32, (8, 32), (8, 32), (32, 32))
    )
    device, queue = _C.Device("host", ""), _C.Queue()
    dy, x = (device.surface(h.nbytes) for _ in "ab")
    for surface in (dy, x):
        surface.lock().view(np.float16)[:] = 1
        surface.unlock()
    sums, spent = [], []
    for _ in range(2):
        _C.spans_drain()
        queue.weight_grad(dy, x, acc, 1, 64)
        queue.wait()
        jobs = {Component(c).name for c in _C.spans_drain()["component"]}
        _C.head_loss_grad(h, norm, weight, tokens, 1e-5, 1.0, nll, dh, dnorm, dweight)
        head = {Component(c).name for c in mine()["component"]}
        _C.embed_grad(tokens, h, dtable)
        table = {Component(c).name for c in mine()["component"]}
        spent.append((jobs - {"LOCK"}, head, table))
        sums.append([a.copy() for a in (acc, dnorm, dweight, dtable)])
    for first, second in zip(*sums, strict=True):
        assert first.any() and np.allclose(second, 2 * first, rtol=1e-4)
    assert spent[0] == spent[1]
    assert spent[0] == (
        {"DW_SUBMIT", "DW_QUEUED", "DW_RUN", "DW_WAIT"},
        {"CLASSIFIER", "ELEMENTWISE", "CROSS_ENTROPY"},
        {"EMBEDDING"},
    )


def in_child(queue):
    quiet = not _C.spans_recording()
    _C.spans_record(True)
    with _C.Span(Component.LOCK):
        pass
    queue.put((quiet, len(_C.spans_drain())))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_starts_anew():
    with _C.Span(Component.LOCK):
        pass
    fork = multiprocessing.get_context("fork")
    queue = fork.Queue()
    child = fork.Process(target=in_child, args=(queue,))
    child.start()
    assert queue.get(timeout=20) == (True, 1)
    child.join()
