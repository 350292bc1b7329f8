"""An independent Llama in NumPy float64: loss and every gradient, written by hand.

The judge of the graph, the cuts and the executor. It shares no code with them: token-major
`[B, S, C]`, explicit loops over heads, derivatives from the textbook.
"""

from __future__ import annotations

import numpy as np


def rms_forward(x, gain, eps):
    rstd = 1 / np.sqrt((x * x).mean(-1, keepdims=True) + eps)
    return x * rstd * gain, rstd


def rms_backward(dy, x, gain, rstd):
    xhat = x * rstd
    dxhat = dy * gain
    dx = rstd * (dxhat - xhat * (dxhat * xhat).mean(-1, keepdims=True))
    return dx, (dy * xhat).sum((0, 1))


def rotate(x, theta, sign=1.0):
    """Interleaved RoPE of one head, x: [B, S, D]."""
    size = x.shape[-1]
    frequency = theta ** (-np.arange(0, size, 2) / size)
    turn = np.exp(sign * 1j * np.outer(np.arange(x.shape[1]), frequency))
    z = (x[..., 0::2] + 1j * x[..., 1::2]) * turn
    out = np.empty_like(x)
    out[..., 0::2], out[..., 1::2] = z.real, z.imag
    return out


def attention_forward(xn, p, name, config):
    size, group = config.head_dim, config.n_heads // config.n_kv_heads
    q, k, v = (xn @ p[f"{name}.{w}"].T for w in ("wq", "wk", "wv"))
    hidden = np.triu(np.ones((xn.shape[1],) * 2, bool), 1)
    heads, out = [], []
    for h in range(config.n_heads):
        qs, ks = slice(h * size, (h + 1) * size), slice(h // group * size, (h // group + 1) * size)
        qh, kh = rotate(q[..., qs], config.rope_theta), rotate(k[..., ks], config.rope_theta)
        scores = np.einsum("bid,bjd->bij", qh, kh) / np.sqrt(size)
        scores[:, hidden] = -np.inf
        e = np.exp(scores - scores.max(-1, keepdims=True))
        probs = e / e.sum(-1, keepdims=True)
        heads.append((qs, ks, qh, kh, v[..., ks], probs))
        out.append(np.einsum("bij,bjd->bid", probs, v[..., ks]))
    return np.concatenate(out, -1), heads


def attention_backward(do, xn, heads, p, g, name, config):
    size = config.head_dim
    dq = np.zeros((*xn.shape[:2], config.n_heads * size))
    dk = np.zeros((*xn.shape[:2], config.n_kv_heads * size))
    dv = np.zeros_like(dk)
    for qs, ks, qh, kh, vh, probs in heads:
        dp = np.einsum("bid,bjd->bij", do[..., qs], vh)
        dv[..., ks] += np.einsum("bij,bid->bjd", probs, do[..., qs])
        ds = probs * (dp - (dp * probs).sum(-1, keepdims=True)) / np.sqrt(size)
        dq[..., qs] = rotate(np.einsum("bij,bjd->bid", ds, kh), config.rope_theta, -1.0)
        dk[..., ks] += rotate(np.einsum("bij,bid->bjd", ds, qh), config.rope_theta, -1.0)
    dxn = 0
    for d, w in ((dq, "wq"), (dk, "wk"), (dv, "wv")):
        g[f"{name}.{w}"] = np.einsum("bso,bsi->oi", d, xn)
        dxn = dxn + d @ p[f"{name}.{w}"]
    return dxn


def silu(x):
    return x / (1 + np.exp(-x))


def loss_and_grads(params, config, x, y, absent=()):
    """(sum of token losses, gradients of that sum by name, logits [B, S, V]), all float64.

    absent: ids that the softmax leaves out.
    """
    p = {name: a.astype(np.float64) for name, a in params.items()}
    g: dict[str, np.ndarray] = {}
    alpha, eps = config.residual_scale, config.norm_eps
    h, saved = p["tok_embeddings"][x], []
    for i in range(config.n_layers):
        a, f = f"layers.{i}.attn", f"layers.{i}.ffn"
        xn, r1 = rms_forward(h, p[f"{a}.norm"], eps)
        o, heads = attention_forward(xn, p, a, config)
        mid = h + alpha * (o @ p[f"{a}.wo"].T)
        xm, r2 = rms_forward(mid, p[f"{f}.norm"], eps)
        h1, h3 = xm @ p[f"{f}.w1"].T, xm @ p[f"{f}.w3"].T
        gate = silu(h1) * h3
        saved.append((h, xn, r1, o, heads, mid, xm, r2, h1, h3, gate))
        h = mid + alpha * (gate @ p[f"{f}.w2"].T)
    head = "output" if "output" in p else "tok_embeddings"
    hn, rf = rms_forward(h, p["norm"], eps)
    logits = hn @ p[head].T
    logits[..., list(absent)] = -np.inf
    e = np.exp(logits - logits.max(-1, keepdims=True))
    probs = e / e.sum(-1, keepdims=True)
    b, s = np.indices(y.shape)
    loss = -np.log(probs[b, s, y]).sum()

    dlogits = probs.copy()
    dlogits[b, s, y] -= 1
    g[head] = np.einsum("bsv,bsc->vc", dlogits, hn)
    dh, g["norm"] = rms_backward(dlogits @ p[head], h, p["norm"], rf)
    for i in reversed(range(config.n_layers)):
        a, f = f"layers.{i}.attn", f"layers.{i}.ffn"
        h, xn, r1, o, heads, mid, xm, r2, h1, h3, gate = saved[i]
        dy = alpha * dh
        g[f"{f}.w2"] = np.einsum("bso,bsi->oi", dy, gate)
        dgate = dy @ p[f"{f}.w2"]
        sig = 1 / (1 + np.exp(-h1))
        dh1, dh3 = dgate * h3 * sig * (1 + h1 * (1 - sig)), dgate * silu(h1)
        g[f"{f}.w1"] = np.einsum("bso,bsi->oi", dh1, xm)
        g[f"{f}.w3"] = np.einsum("bso,bsi->oi", dh3, xm)
        dxm = dh1 @ p[f"{f}.w1"] + dh3 @ p[f"{f}.w3"]
        d, g[f"{f}.norm"] = rms_backward(dxm, mid, p[f"{f}.norm"], r2)
        dmid = dh + d
        g[f"{a}.wo"] = np.einsum("bso,bsi->oi", alpha * dmid, o)
        dxn = attention_backward(alpha * dmid @ p[f"{a}.wo"], xn, heads, p, g, a, config)
        d, g[f"{a}.norm"] = rms_backward(dxn, h, p[f"{a}.norm"], r1)
        dh = dmid + d
    g.setdefault("tok_embeddings", np.zeros_like(p["tok_embeddings"]))
    np.add.at(g["tok_embeddings"], x, dh)
    return loss, g, logits


def relative_error(got, want):
    """L2 norm of the difference over the L2 norm of `want`."""
    return np.linalg.norm(got.astype(np.float64) - want) / np.linalg.norm(want)
