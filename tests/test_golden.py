"""The whole program path (graph -> MIL text -> parser -> host) against llama2.c-checked goldens."""

from __future__ import annotations

import json

import numpy as np
import pytest

import anefast
from anefast.config import OptimConfig
from anefast.data import Batches, open_data
from anefast.formats import llama2c
from anefast.optim import Optimizer
from tests.reference import relative_error

LOSS_TOLERANCE, LOGIT_TOLERANCE, GRAD_TOLERANCE = 1e-3, 0.1, 1.5e-2  # fp16 storage
LOSS_SCALE = 64.0

LLAMA2C_NAMES = {
    "attention_norm": "attn.norm",
    "wq": "attn.wq",
    "wk": "attn.wk",
    "wv": "attn.wv",
    "wo": "attn.wo",
    "ffn_norm": "ffn.norm",
    "w1": "ffn.w1",
    "w2": "ffn.w2",
    "w3": "ffn.w3",
}


def stacked(grads, name, layers):
    """A gradient under llama2.c's name: layers stacked on a first axis."""
    if name in grads:
        return grads[name]
    return np.stack([grads[f"layers.{i}.{LLAMA2C_NAMES[name]}"] for i in range(layers)])


@pytest.fixture(scope="module")
def stories260k(data_dir):
    return anefast.Model.load(data_dir / "stories260K.bin", str(data_dir / "tok512.bin"))


@pytest.mark.parametrize("case", ["B1S256", "B4S128"])
def test_loss_logits_and_gradients(stories260k, data_dir, case):
    golden = np.load(data_dir / "golden" / f"stories260K_ts_{case}.npz")
    x, y = golden["x"], golden["y"]
    batch, seq = x.shape
    model = stories260k
    device = anefast.Device("host")
    step = model.training_step(device, batch=batch, seq=seq)
    loss, tokens = step.micro_step(x, y, LOSS_SCALE)
    step.wait()
    assert tokens == batch * seq
    assert abs(loss / tokens - golden["loss"]) < LOSS_TOLERANCE
    np.testing.assert_allclose(step.nll, golden["nll"], atol=0.1)
    inference = model.inference(device)
    for row, want in zip(x, golden["logits_last"], strict=True):
        assert np.abs(inference.logits(list(row)) - want).max() < LOGIT_TOLERANCE
    grads = {name: g / (LOSS_SCALE * tokens) for name, g in step.grads.items()}
    inference.close()
    step.close()
    total = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in grads.values()))
    assert abs(total / golden["gnorm_total"] - 1) < GRAD_TOLERANCE
    for name in [*LLAMA2C_NAMES, "tok_embeddings", "norm"]:
        got = stacked(grads, name, model.config.n_layers)
        norms = np.linalg.norm(got.reshape(np.size(golden[f"gnorm/{name}"]), -1), axis=1)
        np.testing.assert_allclose(norms, golden[f"gnorm/{name}"], GRAD_TOLERANCE, err_msg=name)
        if f"grad/{name}" in golden:
            assert relative_error(got, golden[f"grad/{name}"]) < GRAD_TOLERANCE, name


def test_twenty_adamw_steps(data_dir):
    golden = np.load(data_dir / "golden" / "stories260K_adamw_finetune.npz")
    config, params = llama2c.load(data_dir / "stories260K.bin")
    batch, seq = int(golden["B"]), int(golden["S"])
    text = open_data(
        data_dir / "tinystories_train_2MiB.txt", data_dir / "tok512.bin", collapse_spaces=True
    )
    windows = Batches(text.train, batch, seq, seed=0, order="sequential")
    optim = Optimizer(
        params,
        OptimConfig(
            lr=float(golden["lr"]),
            beta1=float(golden["betas"][0]),
            beta2=float(golden["betas"][1]),
            eps=float(golden["eps"]),
            weight_decay=float(golden["wd"]),
            clip=float(golden["clip"]),
        ),
    )
    model = anefast.Model(config, params, anefast.open_tokenizer("bytes"))
    device = anefast.Device("host")
    step = model.training_step(device, batch=batch, seq=seq)
    for i, want in enumerate(golden["losses"]):
        x, y = windows.batch(i)
        loss, tokens = step.micro_step(x, y, LOSS_SCALE)
        step.wait()
        assert abs(loss / tokens - want) < 5e-3, f"step {i}"
        update = optim.update(step.grads, 1 / (LOSS_SCALE * tokens), float(golden["lr"]))
        step.begin_update()
        assert abs(update.grad_norm / golden["gnorms"][i] - 1) < 2e-2, f"step {i}"
        step.update_weights()
    x, y = windows.batch(0)
    loss, tokens = step.evaluate(x, y)
    assert abs(loss / tokens - golden["loss_window0_after"]) < 5e-3
    step.close()


@pytest.fixture(scope="module")
def greedy(data_dir):
    return json.loads((data_dir / "golden" / "stories260K_greedy.json").read_text())


def test_greedy_texts(stories260k, greedy):
    """Free running: equal up to the first position whose golden gap is under 0.05."""
    for case in greedy:
        gaps, want = case["top1_minus_top2_logit"], case["ids"]
        prompt = len(want) - len(gaps)
        sure = prompt + next((i for i, gap in enumerate(gaps) if gap < 0.05), len(gaps))
        ids = stories260k.stream(case["prompt"], tokens=sure - prompt, temperature=0.0)
        assert want[prompt:sure] == list(ids), case["prompt"]


def test_greedy_choices_along_the_golden_text(stories260k, greedy):
    """Given the golden prefix, the choice is the golden one wherever it is not a near tie."""
    inference, checked = stories260k.inference(), 0
    for case in greedy:
        gaps, want = case["top1_minus_top2_logit"], case["ids"]
        for i, gap in enumerate(gaps, start=len(want) - len(gaps)):
            if gap > 2 * LOGIT_TOLERANCE:
                assert int(inference.logits(want[:i]).argmax()) == want[i], (case["prompt"], i)
                checked += 1
    inference.close()
    assert checked > 300
