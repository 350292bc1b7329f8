"""Does training in fp16 on this executor end at a higher loss than PyTorch in fp32?

    python -m benchmarks.bench_penalty rows.jsonl        # some 12 minutes of one core; resumable
    python -m benchmarks.bench_penalty rows.jsonl --only "torch fp32,exact" --seeds 3

Every way trains the same small model from the same initial weights on the same batches under the
same schedule, AdamW and clipping; a seed decides all three. A gap is the difference of two losses
of one seed. Two trainings that differ in the last bit drift apart, so a gap of one seed says
little: `nudged` is fp32 once more, from weights moved by a millionth, and shows how far chance
alone goes. Each run is a process of its own and a row of the file, which a second call goes on
with.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from anefast.config import TrainConfig
from benchmarks.peer import logits_of

STEPS, EVERY, BATCHES = 400, 100, 24
SCALE = 64.0  # of the sum of a micro-batch's losses, where values are fp16
# Student's t for 95%, two-sided, by degrees of freedom.
T95 = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
BASE = "torch fp32"
WAYS = {  # name: seeds
    BASE: 10, "exact": 10, "nudged": 10, "torch bf16": 10, "emulated fp16": 3,
    "relaxed": 3, "m1": 3, "m4": 3, "async": 3,
}  # fmt: skip


def config_of(seed: int, **more: Any) -> TrainConfig:
    """The run of one seed: 0.17 M weights, built-in stories as bytes."""
    return TrainConfig.from_preset(
        "tiny", steps=STEPS, eval_every=EVERY, eval_batches=BATCHES, seed=seed, sample_tokens=0,
        timeline=False, health_every=0, checkpoint_every=STEPS, device="host",
        data={"source": "stories:2000", "tokenizer": "bytes", "seq_len": 128,
              "packing": True, "compact_vocab": False, "seed": seed},
        **{"plan": "all,weights=params", **more},
    )  # fmt: skip


def ours(way: str, seed: int) -> dict[str, Any]:
    """One run of this package."""
    from anefast.train import fit

    more: dict[str, Any] = {}
    if way in ("m1", "m4"):
        more = {"chip": way, "plan": "all"}
    config = config_of(seed, **more)
    if way == "async":  # a quarter of an update's micro-batches, of the same sequences, is stale
        config = config.replace(
            plan="all,async", max_compiles=10**6, eval_batches=4 * BATCHES,
            data=config.data.replace(batch=config.data.batch // 4),
            optim=config.optim.replace(accumulation=4),
        )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        result = fit(config.replace(out=f"{folder}/run"), bar=False)
    return {"val": dict(result.val_losses), "train": float(np.mean(result.losses[-50:]))}


def theirs(way: str, seed: int) -> dict[str, Any]:
    """One run of PyTorch, written out."""
    import torch

    from anefast.data import open_data
    from anefast.model import Model
    from anefast.optim import learning_rate
    from anefast.tokenizer import open_tokenizer

    torch.set_num_threads(1)
    config = config_of(seed)
    d, o = config.data, config.optim
    data = open_data(d.source, d.tokenizer, val_fraction=d.val_fraction, seed=seed)
    shape = config.model.replace(vocab_size=data.tokenizer.vocab_size)
    params = Model.from_config(shape, open_tokenizer(d.tokenizer), seed=seed).params
    if way == "nudged":
        rng = np.random.default_rng(seed)
        params = {k: v * (1 + 1e-6 * rng.standard_normal(v.shape)) for k, v in params.items()}
    p = {k: torch.tensor(v.astype(np.float32), requires_grad=True) for k, v in params.items()}
    p.pop("output", None)
    turn = np.outer(
        np.arange(d.seq_len),
        shape.rope_theta ** (-np.arange(0, shape.head_dim, 2) / shape.head_dim),
    )
    tables = {n: torch.tensor(f(turn), dtype=torch.float32)
              for n, f in (("cos", np.cos), ("sin", np.sin))}  # fmt: skip
    groups = [
        {"params": [w for w in p.values() if w.ndim >= 2], "weight_decay": 0.1},
        {"params": [w for w in p.values() if w.ndim < 2], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8)
    rounded = way == "emulated fp16"

    def cast() -> AbstractContextManager[Any]:
        if rounded:
            return rounding(torch)
        return torch.autocast("cpu", torch.bfloat16) if way == "torch bf16" else nullcontext()

    def loss_of(x: np.ndarray, y: np.ndarray) -> Any:
        tx, ty = (torch.tensor(t, dtype=torch.int64) for t in (x, y))
        with cast():
            logits = logits_of(torch, p | tables, shape, tx)
        return torch.nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), ty.flatten(), ignore_index=-1, reduction="sum"
        ), int((y >= 0).sum())

    def validate() -> float:
        with torch.no_grad():
            pairs = [loss_of(x, y) for x, y in validation]
        return sum(float(loss) for loss, _ in pairs) / sum(n for _, n in pairs)

    validation = list(data.validation_batches(d.batch, d.seq_len, BATCHES))
    batches = data.batches(d.batch, d.seq_len, seed)
    val, train = {0: validate()}, []
    for step in range(1, STEPS + 1):
        loss, tokens = loss_of(*batches.batch(step - 1))
        adamw.zero_grad(set_to_none=True)
        scale = SCALE if rounded else 1.0 / tokens
        with cast() if rounded else nullcontext():
            (loss * scale).backward()
        if rounded:
            for w in p.values():
                w.grad /= SCALE * tokens
        torch.nn.utils.clip_grad_norm_(list(p.values()), o.clip)
        for group in adamw.param_groups:
            group["lr"] = learning_rate(o, step, STEPS, config.schedule)
        adamw.step()
        train.append(float(loss.detach()) / tokens)
        if step % EVERY == 0:
            val[step] = validate()
    return {"val": val, "train": float(np.mean(train[-50:]))}


def rounding(torch: Any) -> Any:
    """A mode in which each operation gives fp16 values, kept in fp32: fp16 with fp32 sums.

    Weights' gradients stay fp32, as ours do, and so do the norms' statistics, one of a position.
    """
    from torch.utils._python_dispatch import TorchDispatchMode

    class Rounding(TorchDispatchMode):  # type: ignore[misc]
        def __torch_dispatch__(self, call: Any, kinds: Any, args: Any = (), named: Any = None):
            out = call(*args, **(named or {}))
            schema = call._schema
            if schema.is_mutable or any(r.alias_info is not None for r in schema.returns):
                return out  # a view, or an accumulator
            return tuple(map(rounded, out)) if isinstance(out, tuple) else rounded(out)

    def rounded(value: Any) -> Any:
        is_one = torch.is_tensor(value) and value.dtype is torch.float32 and value.ndim > 2
        return value.half().float() if is_one and value.shape[-1] > 1 else value

    return Rounding()


def run(ways: Sequence[str], seed: int) -> Iterator[dict[str, Any]]:
    """Rows of one seed's runs, in a process of their own: `relaxed` is decided at its start."""
    environment = os.environ | {"ANEFAST_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    if "relaxed" in ways:
        environment["ANEFAST_ISA"] = "relaxed"
    code = "from benchmarks import bench_penalty as b; b.several()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(seed), *ways], env=environment, text=True,
        stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        yield from map(json.loads, process.stdout)
    if process.returncode:
        raise SystemExit(f"the runs of seed {seed} failed")


def several() -> None:
    """What the process of some runs does."""
    for way in sys.argv[2:]:
        is_theirs = way in (BASE, "nudged", "torch bf16", "emulated fp16")
        make: Callable[[str, int], dict[str, Any]] = theirs if is_theirs else ours
        seed = int(sys.argv[1])
        print(json.dumps({"way": way, "seed": seed, **make(way, seed)}), flush=True)


def interval(values: list[float]) -> tuple[float, float]:
    """Mean, and half of its 95% interval by Student's t."""
    n = len(values)
    half = (
        T95.get(n - 1, 1.96) * float(np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    )
    return float(np.mean(values)), half


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Lines of Markdown: the loss at the end, and the gap to fp32 of the same seed."""
    last = str(STEPS)
    ends = {(r["way"], r["seed"]): r["val"][last] for r in rows}
    yield "| way | seeds | last validation loss | gap to fp32 of the same seed, nats (95%) |"
    yield "|---|---|---|---|"
    for way in WAYS:
        seeds = sorted(s for w, s in ends if w == way)
        if not seeds:
            continue
        mean, spread = np.mean(v := [ends[way, s] for s in seeds]), np.std(v, ddof=1)
        gaps = [ends[way, s] - ends[BASE, s] for s in seeds if (BASE, s) in ends]
        gap, half = interval(gaps)
        told = "" if way == BASE else f"{gap:+.4f} ± {half:.4f}"
        yield f"| {way} | {len(seeds)} | {mean:.4f} ± {spread:.4f} | {told} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=Path, help="a file of rows, made or gone on with")
    parser.add_argument("--only", default=",".join(WAYS), help="ways, with commas between")
    parser.add_argument("--seeds", type=int, default=10, help="at most so many of each way")
    asked = parser.parse_args()
    rows = (
        [json.loads(line) for line in asked.rows.read_text().splitlines()]
        if (asked.rows.exists())
        else []
    )
    done = {(r["way"], r["seed"]) for r in rows}
    for seed in range(asked.seeds):
        left = [w for w in asked.only.split(",") if seed < WAYS[w] and (w, seed) not in done]
        for ways in ([w for w in left if w != "relaxed"], [w for w in left if w == "relaxed"]):
            for row in run(ways, seed) if ways else ():
                rows.append(row)
                with asked.rows.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(row["way"], seed, f"{row['val'][str(STEPS)]:.4f}", flush=True)
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
