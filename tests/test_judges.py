"""Loss and gradients of random 2-layer models against a float64 NumPy model and PyTorch."""

from __future__ import annotations

import numpy as np
import pytest

import anefast
from anefast.config import ModelConfig
from tests.reference import loss_and_grads, relative_error

CONFIGS = {
    "mha": ModelConfig(dim=64, n_layers=2, n_heads=4, hidden_dim=96, vocab_size=97),
    "gqa": ModelConfig(dim=48, n_layers=2, n_heads=6, n_kv_heads=2, hidden_dim=72, vocab_size=65),
    "wide heads, untied, scaled": ModelConfig(
        dim=40, n_layers=2, n_heads=3, n_kv_heads=1, head_dim=22, hidden_dim=56, vocab_size=83,
        rope_theta=5e5, tied=False, residual_scale=0.5,
    ),
}  # fmt: skip
SCALE = 32.0


def random_case(config, batch=2, seq=64, seed=0):
    """A model with gains and weights far from their initial values, and a batch."""
    rng = np.random.default_rng(seed)
    params = anefast.init_params(config, seed)
    for p in params.values():
        p += (0.1 * rng.standard_normal(p.shape)).astype(np.float32)
    tokens = rng.integers(0, config.vocab_size, (batch, seq + 1), dtype=np.int32)
    return params, tokens[:, :-1].copy(), tokens[:, 1:].copy()


def run(config, params, x, y):
    """(mean loss, mean gradients) through graph, MIL text, parser and host executor."""
    model = anefast.Model(config, params, anefast.open_tokenizer("bytes"))
    device = anefast.Device("host")
    step = model.training_step(device, batch=x.shape[0], seq=x.shape[1])
    loss, tokens = step.micro_step(x, y, SCALE)
    step.wait()
    grads = {name: g / (SCALE * tokens) for name, g in step.grads.items()}
    step.close()
    return loss / tokens, grads


@pytest.mark.parametrize("name", CONFIGS)
def test_against_numpy_float64(name):
    config = CONFIGS[name]
    params, x, y = random_case(config)
    loss, grads = run(config, params, x, y)
    want_loss, want, _ = loss_and_grads(params, config, x, y)
    assert abs(loss - want_loss / x.size) < 1e-3
    assert set(grads) == set(want)
    for key, g in grads.items():
        assert relative_error(g, want[key] / x.size) < 1e-2, key


@pytest.mark.parametrize("name", CONFIGS)
def test_numpy_model_against_pytorch(name):
    """The judge is judged: the float64 model agrees with autograd to rounding."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra: peers)")
    config = CONFIGS[name]
    params, x, y = random_case(config)
    want_loss, want, _ = loss_and_grads(params, config, x, y)
    p = {k: torch.tensor(v, dtype=torch.float64, requires_grad=True) for k, v in params.items()}
    loss = torch_loss(torch, p, config, torch.tensor(x), torch.tensor(y))
    loss.backward()
    assert abs(loss.item() / want_loss - 1) < 1e-12
    for key, tensor in p.items():
        assert relative_error(tensor.grad.numpy(), want[key]) < 1e-10, key


def test_against_pytorch_float32():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra: peers)")
    config = CONFIGS["gqa"]
    params, x, y = random_case(config, seed=3)
    loss, grads = run(config, params, x, y)
    p = {k: torch.tensor(v, requires_grad=True) for k, v in params.items()}
    peer = torch_loss(torch, p, config, torch.tensor(x), torch.tensor(y)) / x.size
    peer.backward()
    assert abs(loss - peer.item()) < 1e-3
    for key, tensor in p.items():
        assert relative_error(grads[key], tensor.grad.numpy().astype(np.float64)) < 1e-2, key


def torch_loss(torch, p, config, x, y):
    """Sum of token losses, with PyTorch's own attention, RMSNorm and cross-entropy."""
    from torch.nn import functional as F

    batch, seq = x.shape
    size, dtype = config.head_dim, p["norm"].dtype
    frequency = config.rope_theta ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    turn = torch.polar(torch.ones(()).double(), torch.outer(torch.arange(seq).double(), frequency))

    def heads(t, w, n):
        return F.linear(t, w).view(batch, seq, n, size).transpose(1, 2)

    def rotate(t):
        pairs = torch.view_as_complex(t.double().reshape(*t.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * turn).flatten(-2).to(dtype)

    h = p["tok_embeddings"][x.long()]
    for i in range(config.n_layers):
        a, f = f"layers.{i}.attn.", f"layers.{i}.ffn."
        t = F.rms_norm(h, (config.dim,), p[a + "norm"], config.norm_eps)
        q = rotate(heads(t, p[a + "wq"], config.n_heads))
        k = rotate(heads(t, p[a + "wk"], config.n_kv_heads))
        v = heads(t, p[a + "wv"], config.n_kv_heads)
        group = config.n_heads // config.n_kv_heads
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        o = F.linear(o.transpose(1, 2).reshape(batch, seq, -1), p[a + "wo"])
        h = h + config.residual_scale * o
        t = F.rms_norm(h, (config.dim,), p[f + "norm"], config.norm_eps)
        t = F.silu(F.linear(t, p[f + "w1"])) * F.linear(t, p[f + "w3"])
        h = h + config.residual_scale * F.linear(t, p[f + "w2"])
    h = F.rms_norm(h, (config.dim,), p["norm"], config.norm_eps)
    logits = F.linear(h, p.get("output", p["tok_embeddings"]))
    return F.cross_entropy(logits.flatten(0, 1), y.flatten().long(), reduction="sum")
