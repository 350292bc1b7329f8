"""Every optimiser against its plain loop, and against PyTorch's or the published one."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from anefast import _C
from anefast.checks import ConfigError
from anefast.config import OptimConfig
from anefast.optim import RECORDS, Optimizer, record_of, settled
from anefast.optim.muon import QUINTIC
from anefast.optim.record import Work
from tests.conftest import ROOT

SHAPES = {
    "norm": (64,),
    "layers.0.wq": (64, 96),
    "layers.0.w2": (96, 64),
    "tok_embeddings": (80, 64),
}
ODD = {
    "a": (1,),
    "b": (31,),
    "layers.0.c": (7, 10_003),
    "d": (64, 512),
    "e": (32_768,),
    "f": (1, 5),
}
# A row for each: its configs, and whether the native update is the plain loop to the byte.
ROWS = {
    "adamw": ([{}, {"beta2": 0.999, "eps": 1e-3}], True),
    "adam": ([{}], True),
    "lion": ([{}, {"beta1": 0.95, "beta2": 0.98}], True),
    "muon": ([{}, {"momentum": 0.8}], False),
    "sgd": ([{}, {"nesterov": True, "weight_decay": 0.1}, {"momentum": 0}], True),
    "adafactor": ([{}, {"weight_decay": 0.1, "eps": 1e-7}], False),
}
CONFIGS = [OptimConfig(name=n, clip=1.0, **c) for n, (changes, _) in ROWS.items() for c in changes]


def draw(rng, shapes, scale=1.0):
    return {n: (rng.standard_normal(s) * scale).astype(np.float32) for n, s in shapes.items()}


def test_every_optimiser_has_a_row():
    assert list(ROWS) == list(RECORDS)
    assert all(name == record.name for name, record in RECORDS.items())


def test_every_optimiser_is_in_the_table_of_its_page():
    page = (ROOT / "docs" / "optimisers.md").read_text("utf-8").partition("\n## ")[0]
    table = {n: rest for n, rest in re.findall(r"(?m)^\| `(\w+)`[^|]*\|[^|]*(\|.*)$", page)}
    assert list(table) == list(RECORDS)
    for name, record in RECORDS.items():
        grows = {0.5: "the root of the batch", 1.0: "the batch"}[record.batch]
        figures = f"| {record.own.get('weight_decay', 0):g} | {record.rate:g} x | {grows} |"
        assert table[name].startswith(figures), name


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_the_native_update_is_the_plain_loop_on_any_number_of_threads(config):
    """Tensors of less than a vector and of several panels, with decay and rates of their own."""
    record, config = record_of(config), settled(config)
    rng = np.random.default_rng(5)
    weights, grads = (list(draw(rng, ODD).values()) for _ in range(2))
    states = [record.states(config, n, s) for n, s in ODD.items()]
    states = [{n: np.abs(a) for n, a in draw(rng, of_one).items()} for of_one in states]
    rates, decays = [3e-3, 1e-3, 3e-3, 2e-3, 3e-3, 0.0], [0.1, 0.0, 0.3, 0.1, 0.0, 0.1]

    def copied():
        return [w.copy() for w in weights], [{n: a.copy() for n, a in s.items()} for s in states]

    def work(weights, states):
        return Work(config, 3, 0.37, list(ODD), weights, grads, states, rates, decays)

    plain, plain_states = copied()
    for one in work(plain, plain_states).each():
        record.reference(one)
    seen, threads = [], _C.threads()
    try:
        for count in (1, 2, 3):
            _C.set_threads(count)
            mine, mine_states = copied()
            record.update(work(mine, mine_states))
            arrays = [*mine, *(a for s in mine_states for a in s.values())]
            seen.append([a.tobytes() for a in arrays])
    finally:
        _C.set_threads(threads)
    assert seen[0] == seen[1] == seen[2]
    theirs = [*plain, *(a for s in plain_states for a in s.values())]
    if ROWS[config.name][1]:
        assert seen[0] == [a.tobytes() for a in theirs]
    for a, b in zip(arrays, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6 * np.abs(b).max())


def test_no_instruction_set_changes_a_byte_of_an_update():
    """But Muon's, whose products sum in an order of their own."""
    code = "from tests.test_optimisers import digest; digest()"
    seen = set()
    for isa in ("portable", "avx2", ""):
        env = os.environ | {"ANEFAST_ISA": isa}
        call = [sys.executable, "-c", code]
        seen.add(subprocess.run(call, env=env, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
    assert len(seen) == 1 and len(seen.pop().split()) == len(CONFIGS) - 2


def digest():
    """Prints a hash of what two updates make, for each config but Muon's."""
    for config in map(settled, (c for c in CONFIGS if c.name != "muon")):
        record, rng, seen = record_of(config), np.random.default_rng(5), hashlib.sha256()
        weights, grads = (list(draw(rng, ODD).values()) for _ in range(2))
        states = [
            {n: np.zeros(a, np.float32) for n, a in record.states(config, name, shape).items()}
            for name, shape in ODD.items()
        ]
        for step in (1, 2):
            rates, decays = [1e-3] * len(ODD), [0.1] * len(ODD)
            record.update(
                Work(config, step, 0.37, list(ODD), weights, grads, states, rates, decays)
            )
        for array in (*weights, *(a for of_one in states for a in of_one.values())):
            seen.update(array.tobytes())
        print(seen.hexdigest())


@pytest.mark.parametrize("eps", [1e-30, 0.5], ids=["sizes known", "sizes measured"])
def test_adafactor_takes_gradients_of_zeros_and_means_below_its_least(eps):
    """With 1 / eps = 2 most values are cut, and the update's size takes a pass of its own."""
    config = settled(OptimConfig(name="adafactor", eps=eps))
    record, rng = record_of(config), np.random.default_rng(6)
    shapes = {"a": (70, 33), "b": (9, 40), "c": (5, 3)}
    weights, grads = (list(draw(rng, shapes).values()) for _ in range(2))
    grads[0][10:20], grads[0][:, 5:9], grads[1][:] = 0, 0, 0
    grads[0][3:6] *= 1e-4
    both = []
    for update in (record.update, lambda work: [record.reference(one) for one in work.each()]):
        mine = [w.copy() for w in weights]
        states = [
            {n: np.zeros(s, np.float32) for n, s in record.states(config, "", shape).items()}
            for shape in shapes.values()
        ]
        for step in (1, 2):
            update(
                Work(config, step, 0.5, list(shapes), mine, grads, states, [1e-2] * 3, [0.1] * 3)
            )
        both.append([*mine, *(a for of_one in states for a in of_one.values())])
    for a, b in zip(*both, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6 * np.abs(b).max())


def test_adafactor_updates_many_tensors_as_each_alone():
    """More than are taken together, among them one that is larger than that alone."""
    rng = np.random.default_rng(7)
    shapes = [(700, 1000), (900, 1000), (1100, 1000), (2200, 1000), (3, 5)]
    made = [rng.standard_normal((2, *shape), np.float32) for shape in shapes]

    def updated(chosen):
        w, g = ([made[i][k].copy() for i in chosen] for k in (0, 1))
        rows, columns = ([np.zeros(s, np.float32) for s in sizes] for sizes in zip(
            *(((shapes[i][0], 1), (1, shapes[i][1])) for i in chosen), strict=True))  # fmt: skip
        settings = ([1e-2] * len(w), [0.1] * len(w), 0.5, 1.0, 1.0, 1e-30, 1e-3)
        _C.adafactor(w, g, rows, columns, *settings)
        return [a.tobytes() for a in (*w, *rows, *columns)]

    alone = zip(*(updated([i]) for i in range(len(shapes))), strict=True)
    assert updated(range(len(shapes))) == [a for of_one in alone for a in of_one]


def judge_of(torch, config, peers):
    """The same optimiser of another hand, over float64 copies of the weights."""
    c = settled(config)
    decay = max(0.0, c.weight_decay)
    groups = [
        {"params": [p for p in peers.values() if p.ndim == 2], "weight_decay": decay},
        {"params": [p for p in peers.values() if p.ndim != 2], "weight_decay": 0.0},
    ]
    betas = (c.beta1, c.beta2)
    if c.name in ("adamw", "adam"):
        kind = torch.optim.AdamW if c.name == "adamw" else torch.optim.Adam
        return [kind(groups, betas=betas, eps=c.eps)]
    if c.name == "lion":
        lion = pytest.importorskip("lion_pytorch", reason="lion-pytorch is not installed (judges)")
        return [lion.Lion(groups, lr=1e-3, betas=betas)]
    if c.name == "sgd":  # theirs has no decay apart from the momentum: `train` sees to it
        return [torch.optim.SGD(peers.values(), momentum=c.momentum, nesterov=c.nesterov)]
    if c.name == "adafactor":
        return [torch.optim.Adafactor(groups, eps=(c.eps, 1e-3))]
    hidden = [p for n, p in peers.items() if n.startswith("layers.")]
    others = [
        {**g, "params": [p for p in g["params"] if all(p is not h for h in hidden)]} for g in groups
    ]
    muon = torch.optim.Muon(
        hidden, weight_decay=decay, momentum=c.momentum, adjust_lr_fn="match_rms_adamw"
    )
    return [muon, torch.optim.AdamW(others, betas=betas, eps=c.eps)]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_two_hundred_updates_are_those_of_another_hand(config, monkeypatch):
    """Clipped ones and skipped ones among them, under a schedule, to 1e-5 of the largest weight."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra: peers)")
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda t: t)  # their Newton-Schulz, not rounded
    rng = np.random.default_rng(2)
    params = draw(rng, SHAPES, 0.1)
    peers = {n: torch.nn.Parameter(torch.tensor(p, dtype=torch.float64)) for n, p in params.items()}
    judges, optimizer = judge_of(torch, config, peers), Optimizer(params, config)
    decay = max(0.0, optimizer.config.weight_decay) if config.name == "sgd" else 0.0
    for step in range(200):
        rate = 1e-3 * min(1.0, (step + 1) / 20)
        grads = draw(rng, SHAPES, 10.0 ** rng.integers(-3, 1))
        if step % 50 == 7:
            grads["norm"][3] = np.inf
            assert optimizer.update(grads, 1.0, rate).overflow
            continue
        for n, p in peers.items():
            p.grad = torch.tensor(grads[n], dtype=torch.float64)
            p.data *= 1 - rate * decay * (p.ndim == 2)
        norm = torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in peers.values()]))
        for p in peers.values():
            p.grad *= min(1.0, config.clip / float(norm))
        for judge in judges:
            for group in judge.param_groups:
                group["lr"] = rate
            judge.step()
        summed = {n: g * np.float32(64) for n, g in grads.items()}
        assert optimizer.update(summed, 1 / 64, rate).grad_norm == pytest.approx(
            float(norm), rel=1e-6
        )
    assert optimizer.step == 196
    for name, p in params.items():
        theirs = peers[name].detach().numpy()
        assert np.abs(p - theirs).max() <= 1e-5 * np.abs(theirs).max(), name


def test_what_an_optimiser_does_not_read_is_refused():
    with pytest.raises(ConfigError, match=r"optim.eps 1e-07 was named, but lion does not read it"):
        Optimizer({}, OptimConfig(name="lion", eps=1e-7))
    with pytest.raises(ConfigError, match="nesterov 1 was named, but adamw"):
        Optimizer({}, OptimConfig(nesterov=True))
    with pytest.raises(ConfigError, match=r"did you mean lion"):
        Optimizer({}, OptimConfig(name="loin"))


def test_rules_reach_the_tensors_that_fit():
    one = {n: np.ones(s, np.float32) for n, s in SHAPES.items()}
    rules = "*:decay=0.5; tok_*:lr=0.5x; layers.*:lr=2x,decay=0; *.w2:lr=0x"
    optimizer = Optimizer(one, OptimConfig(name="sgd", momentum=0, clip=0, rules=rules))
    optimizer.update({n: np.ones(s, np.float32) for n, s in SHAPES.items()}, 1.0, 0.1)
    got = {n: float(p.flat[0]) for n, p in one.items()}
    expected = {"norm": 0.85, "layers.0.wq": 0.8, "layers.0.w2": 1.0, "tok_embeddings": 0.925}
    assert got == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "rules,message",
    [
        ("norm", "'norm'"),
        ("norm:lr=2", "lr=2"),
        ("norm:decay=-1", "decay=-1"),
        ("norm:decay=0x", "decay=0x"),
        ("norm:size=1", "size=1"),
        ("norm:lr=1x,lr=2x", "lr=2x"),
        ("other.*:lr=2x", r"fits 'other\.\*'"),
    ],
)
def test_rules_that_say_nothing_are_refused(rules, message):
    with pytest.raises(ConfigError, match=message):
        Optimizer({"norm": np.ones(3, np.float32)}, OptimConfig(rules=rules))


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (3, 5), (64, 64), (96, 33), (33, 200)])
def test_newton_schulz_moves_each_singular_value_alone(shape):
    """By its quintic, in float64: those of 0.02 and more of the norm end near 1."""
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    u, s, v = np.linalg.svd(x.astype(np.float64), full_matrices=False)
    s = seen = s / np.linalg.norm(s)
    a, b, c = QUINTIC
    for _ in range(5):
        s = a * s + b * s**3 + c * s**5
    assert np.abs(s[seen > 0.02] - 0.95).max() < 0.3
    _C.newton_schulz(x)
    np.testing.assert_allclose(x, u * s @ v, rtol=0, atol=2e-5)


def test_averages_follow_the_weights():
    rng = np.random.default_rng(3)
    a, w = (list(draw(rng, ODD).values()) for _ in range(2))
    expected = [x + np.float32(0.25) * (y - x) for x, y in zip(a, w, strict=True)]
    _C.average(a, w, 0.25)
    assert [x.tobytes() for x in a] == [x.tobytes() for x in expected]
