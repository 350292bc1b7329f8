"""Ranks that make updates of their own and meet: the outer step, skipped updates, checkpoints."""

from __future__ import annotations

import json
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

import anefast
from anefast import checkpoint
from anefast.config import TrainConfig
from anefast.distributed import Emulated, Local, Together, World
from anefast.models.parameters import zeros_of
from tests.launching import FLAGS, cursor, emulated, emulated_on, everything, one_mpi, ranks

SHAPES = {"layers.0.w": (6, 5), "norm": (7,)}
LOCAL = [*FLAGS, "--dist.local-steps", "4", "--eval-every", "4"]


def a_step() -> SimpleNamespace:
    trained = zeros_of(SHAPES)
    for name, p in trained.items():
        p[...] = np.random.default_rng(len(name)).standard_normal(p.shape)
    return SimpleNamespace(
        trained=trained, grads=zeros_of(SHAPES), unstored=None, update_weights=lambda: None
    )


def config(**dist: float) -> TrainConfig:
    plain = TrainConfig()
    optim = plain.optim.replace(name="sgd", momentum=0.0, clip=0.0)
    return plain.replace(optim=optim, dist=plain.dist.replace(**dist))


def made(together: Together, step: SimpleNamespace, grads: list[float], last: bool = False):
    """One update in which the emulated ranks have such gradients, of two tokens each."""
    for rank, g in enumerate(grads):
        together.begin(rank)
        for array in step.grads.values():
            array[...] = g * (1 + np.arange(array.size).reshape(array.shape))
        if rank + 1 < len(grads):
            together.bank((0.5, 2))
    assert together.sum((0.5, 2)) == (0.5 * len(grads), 2 * len(grads))
    return together.apply(4.0, 2 * len(grads), 0.1, last)


def test_meetings_are_nesterov_steps_on_the_mean_of_what_ranks_changed():
    step = a_step()
    local = Local(config(local_steps=2, outer_lr=0.7, outer_momentum=0.9), Emulated(2), step)
    weights = {name: p.astype(np.float64) for name, p in step.trained.items()}
    momenta = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    rounds = [([1.0, 3.0], [-2.0, 0.5]), ([4.0, 4.0], [0.25, -1.0]), ([2.0, 2.0], [1.0, 0.0])]
    for first, second in rounds:
        made(local, step, first)
        assert local._made == 1
        made(local, step, second)
        assert local._made == 0
        for name, w in weights.items():
            # plain SGD: 0.1 x gradient / (loss scale 4 x 2 tokens), twice, the mean of both ranks
            ramp = 1 + np.arange(w.size).reshape(w.shape)
            change = 0.1 * (np.mean(first) + np.mean(second)) * ramp / 8
            momenta[name] = 0.9 * momenta[name] + change
            w -= 0.7 * (change + 0.9 * momenta[name])
            for rank in range(2):
                local.begin(rank)
                np.testing.assert_allclose(step.trained[name], w, rtol=1e-5, atol=1e-6)


def test_meeting_at_every_update_with_a_rate_of_1_is_synchronous():
    steps = a_step(), a_step()
    local = Local(config(local_steps=1, outer_lr=1.0, outer_momentum=0.0), Emulated(3), steps[0])
    together = Together(config(), Emulated(3), steps[1])
    for grads in ([1.0, 3.0, -1.0], [-2.0, 0.5, 0.25]):
        made(local, steps[0], grads)
        made(together, steps[1], grads)
    for name, p in steps[1].trained.items():
        np.testing.assert_allclose(steps[0].trained[name], p, rtol=1e-6, atol=1e-6)


def test_an_update_that_overflows_on_one_rank_is_skipped_on_all():
    step = a_step()
    local = Local(config(local_steps=8), Emulated(2), step)
    before = {name: p.copy() for name, p in step.trained.items()}
    done = made(local, step, [1.0, math.inf])
    assert done.overflow and done.grad_norm == math.inf and not local.changed
    assert local.optimizer.step == 0
    for rank in range(2):
        local.begin(rank)
        assert all((p == before[name]).all() for name, p in step.trained.items())
    assert not made(local, step, [1.0, 2.0]).overflow and local.optimizer.step == 1


def test_a_round_ends_with_the_run():
    step = a_step()
    local = Local(config(local_steps=8), Emulated(2), step)
    made(local, step, [1.0, 2.0])
    made(local, step, [1.0, 2.0], last=True)
    one = step.trained["norm"].copy()
    local.begin(0)
    assert (one == step.trained["norm"]).all()
    assert local.due(2, 2) and local.due(2, 1) and not local.due(2, 3)


def test_one_rank_meets_itself():
    step = a_step()
    local = Local(config(local_steps=2, outer_lr=1.0, outer_momentum=0.0), World(), step)
    before = step.trained["norm"].copy()
    made(local, step, [1.0])
    own = step.trained["norm"].copy()
    assert (own != before).all() and (local.anchor["norm"] == before).all()
    made(local, step, [0.0])
    np.testing.assert_allclose(step.trained["norm"], own, rtol=1e-6)


@one_mpi
@pytest.mark.parametrize(
    "number,more",
    [
        (2, []),
        pytest.param(3, ["--optim.name", "muon"], marks=pytest.mark.slow),
        pytest.param(2, ["--data.compact-vocab"], marks=pytest.mark.slow),
    ],
)
def test_ranks_that_stop_between_meetings_go_on_to_the_bytes_of_an_emulation(
    tmp_path, mpi, number, more
):
    flags = [*LOCAL, "--steps", "10", *more]
    emulated(number, tmp_path / "whole", flags)
    run = tmp_path / "parts"
    ended = ranks(mpi, number, tmp_path, [*flags, "--out", str(run)], f"stop {number - 1} 11")
    assert ended.code == 0 and "stopped at update 6 of 10" in ended.text, ended.text
    last = checkpoint.find_checkpoint(run)
    assert len(list(last.glob("rank_*.safetensors"))) == number - 1
    assert json.loads((last / checkpoint.STATE).read_text())["local_updates"]["made"] == 2
    shutil.copytree(run, tmp_path / "here")
    again = ranks(mpi, number, tmp_path, ["--resume", str(run)])
    assert again.code == 0 and everything(run) == everything(tmp_path / "whole"), again.text
    emulated_on(number, tmp_path / "here")
    assert everything(tmp_path / "here") == everything(tmp_path / "whole")


def test_another_number_of_ranks_goes_on(tmp_path):
    flags = [*LOCAL, "--steps", "5"]
    emulated(3, tmp_path / "run", flags)
    for number, steps in ((1, 7), (4, 9)):
        emulated_on(number, tmp_path / "run", "--steps", str(steps))
        assert cursor(tmp_path / "run")[0] == steps
    assert cursor(tmp_path / "run") == (9, 5 * 6 + 2 * 2 + 2 * 8)


REFUSED = {
    "dist.shard_optimizer does not go with dist.local_steps 4": {"shard_optimizer": True},
    "optim.ema_tokens does not go with dist.local_steps 4": {"ema_tokens": 100},
}


@pytest.mark.parametrize("told", REFUSED)
def test_what_ranks_with_weights_of_their_own_cannot_keep_is_refused(tmp_path, told):
    settings = {"local_steps": 4, "emulate": 2, "steps": 1, "dim": 32, "seq_len": 32}
    with pytest.raises(ValueError, match=told):
        anefast.fit(**settings | REFUSED[told], out=tmp_path / "run")


def test_an_outer_rate_that_nothing_uses_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"dist\.local_steps 1 has none"):
        anefast.fit(outer_lr=0.5, emulate=2, steps=1, out=tmp_path / "run")
