"""Gradients that flow into the update without being stored: the same weights, byte for byte."""

from __future__ import annotations

import json

import numpy as np
import pytest

import anefast
from anefast.config import DataConfig, ModelConfig, OptimConfig, TrainConfig
from anefast.errors import Failure
from anefast.models import init_params
from anefast.optim import Optimizer
from anefast.runtime.unstored import UnstoredGradients
from anefast.trainer import Trainer

OPTIM = OptimConfig(accumulation=1, clip=0, weight_decay=0.2)


def trained(config, plan, batch, flows, updates=3, poison=None):
    """(weights, mean, square, what each update said) after some updates on random tokens."""
    model = anefast.Model(config, init_params(config, 0), anefast.open_tokenizer("bytes"))
    step = model.training_step(anefast.Device("host"), batch, 64, plan, flows=flows)
    assert (step.unstored is not None) == flows
    optimizer = Optimizer(step.params, OPTIM)
    rng, said = np.random.default_rng(0), []
    for i in range(updates):
        tokens = rng.integers(0, config.vocab_size, (batch, 65), np.int32)
        step.micro_step(
            tokens[:, :-1].copy(), tokens[:, 1:].copy(), poison if i == 1 and poison else 64.0
        )
        step.wait()
        said.append(optimizer.update(step.grads, 1 / (64.0 * 64 * batch), 1e-2, step.unstored))
        step.begin_update()
        if not said[-1].overflow:
            step.update_weights()
    step.close()
    return step.params, optimizer.state["mean"], optimizer.state["square"], said


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("plan,batch", [("layer", 1), ("all,weights=params", 3), ("all", 9)])
def test_flowing_changes_no_byte(tied, plan, batch):
    config = ModelConfig(
        dim=48, n_layers=2, n_heads=4, n_kv_heads=2, vocab_size=70, max_seq_len=64, tied=tied
    )
    stored, flowing = (trained(config, plan, batch, flows) for flows in (False, True))
    for group, other in zip(stored[:3], flowing[:3], strict=True):
        for name, a in group.items():
            assert a.any() and a.tobytes() == other[name].tobytes(), name
    for one, other in zip(stored[3], flowing[3], strict=True):
        assert not one.overflow and not other.overflow
        assert other.grad_norm == pytest.approx(one.grad_norm, rel=1e-9)


def test_an_overflow_changes_nothing():
    """A loss scale that only the backward pass of the layers cannot bear."""
    config = ModelConfig(dim=32, n_layers=1, n_heads=4, vocab_size=70, max_seq_len=64)
    before = trained(config, "layer", 1, True, updates=1)
    after = trained(config, "layer", 1, True, updates=2, poison=2.0**22)
    assert [s.overflow for s in after[3]] == [False, True]
    for group, other in zip(before[:3], after[:3], strict=True):
        assert all(a.tobytes() == other[name].tobytes() for name, a in group.items())


@pytest.mark.parametrize("name", ["norm", "tok_embeddings"])
def test_logits_that_are_not_finite_change_nothing(name):
    """Of the classifier's gradient nothing is stored that a norm could be taken of."""
    config = ModelConfig(dim=32, n_layers=1, n_heads=4, vocab_size=70, max_seq_len=64, tied=False)
    params = init_params(config, 0)
    model = anefast.Model(config, params, anefast.open_tokenizer("bytes"))
    step = model.training_step(anefast.Device("host"), 1, 64, "layer", flows=True)
    step.params["output" if name == "tok_embeddings" else name][3] = np.inf
    optimizer = Optimizer(step.params, OPTIM)
    before = {name: p.copy() for name, p in step.params.items()}
    targets = np.full((1, 64), -1, np.int32)  # left out, all of them: the loss is a finite 0
    step.micro_step(np.zeros((1, 64), np.int32), targets, 64.0)
    step.wait()
    assert optimizer.update(step.grads, 1.0, 1e-2, step.unstored).overflow
    step.close()
    assert all(p.tobytes() == before[name].tobytes() for name, p in step.params.items())


@pytest.mark.parametrize("batch,flows", [(8, True), (9, False)])
def test_the_classifier_flows_where_its_tokens_are_one_block(batch, flows):
    config = ModelConfig(dim=32, n_layers=1, n_heads=4, vocab_size=70, max_seq_len=64)
    model = anefast.Model(config, init_params(config, 0), anefast.open_tokenizer("bytes"))
    step = model.training_step(anefast.Device("host"), batch, 64, "layer", flows=True)
    assert ("tok_embeddings" in step.unstored.names) == flows != ("tok_embeddings" in step.grads)
    step.close()


def test_wrong_operands_are_refused():
    flow = anefast._C.UnstoredGradients(1, 520)
    h, dh = np.zeros((1, 8, 1, 520), np.float16), np.zeros((1, 8, 1, 520), np.float16)
    norm, weight = np.ones(8, np.float32), np.ones((40, 8), np.float32)
    targets, nll = np.zeros((1, 520), np.int32), np.zeros((1, 520), np.float32)
    with pytest.raises(ValueError, match="at most 512 tokens"):
        anefast._C.head_loss_grad(h, norm, weight, targets, 1e-5, 1.0, nll, dh, norm, flow)
    with pytest.raises(ValueError, match="expected a surface of 4160 halves, got None"):
        flow.add(None, None, 8, 8)
    with pytest.raises(ValueError, match="batch and seq of at least 1"):
        anefast._C.UnstoredGradients(0, 32)
    with pytest.raises(ValueError, match="2 states as gradients, which are 0"):
        rule = anefast._C.UpdateRule.adamw(1.0, 0.9, 0.95, 1e-8, 0.1, 0.05)
        flow.update(rule, [weight], [[weight], [weight]], [1e-3], [0.0])


def test_clipping_and_flowing_exclude_each_other():
    config = ModelConfig(dim=32, n_layers=1, n_heads=4, vocab_size=70, max_seq_len=64)
    model = anefast.Model(config, init_params(config, 0), anefast.open_tokenizer("bytes"))
    step = model.training_step(anefast.Device("host"), 1, 64, "layer", flows=True)
    with pytest.raises(ValueError, match="clip 0"):
        Optimizer(step.params, OptimConfig()).update(step.grads, 1.0, 1e-3, step.unstored)
    step.close()


def run_config(folder, **changes):
    return TrainConfig(
        **{
            "steps": 6, "eval_every": 3, "eval_batches": 1, "sample_tokens": 0, "plan": "layer",
            "out": str(folder),
            "model": ModelConfig(dim=32, n_layers=2, n_heads=4, n_kv_heads=2, max_seq_len=64),
            "data": DataConfig(source="stories:40", seq_len=64, batch=1),
            "optim": OptimConfig(lr=3e-3, warmup_steps=2, accumulation=1, clip=0),
        } | changes
    )  # fmt: skip


def test_a_run_without_clipping_flows(tmp_path):
    whole = anefast.fit(run_config(tmp_path / "whole"))
    clipped = OptimConfig(lr=3e-3, warmup_steps=2, accumulation=1, clip=1e9)
    stored = anefast.fit(run_config(tmp_path / "stored", optim=clipped))
    assert whole.losses == stored.losses and whole.val_losses == stored.val_losses
    rows = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("whole", "stored")
    ]
    for one, other in zip(*(r[1:] for r in rows), strict=True):
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-9)
    more = anefast.fit(run_config(tmp_path / "whole", steps=8, resume=str(tmp_path / "whole")))
    assert len(more.losses) == 8 and more.losses[:6] == whole.losses


def test_weights_of_half_an_update_are_never_saved(tmp_path, monkeypatch):
    """Memory may run out between two panels; whoever rescues such a run must not keep them."""
    calls, inner, close = [], UnstoredGradients.update, Trainer.close

    def update(self, *arguments):
        calls.append(self)
        if len(calls) == 2:
            raise MemoryError("[unstored] expected memory to work in, got none.")
        return inner(self, *arguments)

    def saving(self):
        with pytest.raises(Failure, match="update 2 was interrupted midway"):
            self.save()
        close(self)

    monkeypatch.setattr(UnstoredGradients, "update", update)
    monkeypatch.setattr(Trainer, "close", saving)
    with pytest.raises(MemoryError):
        anefast.fit(run_config(tmp_path / "run"))
