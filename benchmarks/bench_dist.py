"""What a second rank brings: throughput of 2 ranks x 1 thread against 1 rank x 1 thread.

    python -m pytest benchmarks/bench_dist.py -s

An update of stories15m (B 2, S 256) has 8 micro-steps in all, made by one rank or by two. Both take
turns, each in processes of its own; the figures are the median ratio of their updates, and the part
of all CPU seconds that ranks spend on each other: waiting for the last, summing, deciding.
It needs two free cores, mpi4py and an `mpiexec`.
"""

from __future__ import annotations

import json
import statistics
import sys
import time

import numpy as np
import pytest

ROUNDS, UPDATES, MICRO_STEPS, BATCH = 3, 4, 8, 2
LEAST_SPEED_UP, MOST_COMMUNICATION = 1.9, 0.03


def rank() -> None:
    """One rank; the first prints seconds of each update, and CPU seconds of all ranks."""
    import anefast
    from anefast.config import ModelConfig, TrainConfig
    from anefast.distributed import Together, open_world
    from anefast.presets import preset_settings

    world = open_world()
    settings = preset_settings("stories15m")
    shape = BATCH, settings["data"]["seq_len"]
    config = ModelConfig(**settings["model"])
    params = anefast.init_params(config, 0)
    model = anefast.Model(config, params, anefast.open_tokenizer("bytes"))
    step = model.training_step(anefast.Device("host"), *shape, plan="all")
    together = Together(TrainConfig(), world, step)
    ids = np.random.default_rng(world.rank).integers(0, config.vocab_size, shape, np.int32)

    def update() -> float:
        """Returns the CPU seconds of what ranks do for each other."""
        step.begin_update()
        for left in reversed(range(MICRO_STEPS // world.size)):
            if left == 0:
                together.last("an update")
            step.micro_step(ids, ids, 64.0)
        step.end_update()
        began = time.thread_time()
        if world.size > 1:
            world.agree(False, False, False)
            together.arrive("an update")
            together.sum((1.0, 1))
            world.agree(False)
        spent = time.thread_time() - began
        together.apply(64.0, BATCH * shape[1] * MICRO_STEPS, 1e-4, False)
        step.update_weights()
        return spent

    update()
    seconds, communication, before = [], 0.0, time.process_time()
    for _ in range(UPDATES):
        began = time.perf_counter()
        communication += update()
        seconds.append(time.perf_counter() - began)
    every = world.numbers([[communication, time.process_time() - before]])
    if world.rank == 0:
        spent, of = map(sum, zip(*every, strict=True))
        print(json.dumps({"seconds": seconds, "communication": spent, "cpu": of}))
    step.close()
    world.finish()


def measured(mpi: str, ranks: int) -> dict:
    """An update's seconds, and the part of CPU seconds that is communication."""
    from tests.launching import launched

    command = ["-n", str(ranks), sys.executable, "-m", "benchmarks.bench_dist"]
    ended = launched(mpi, command, ANEFAST_NUM_THREADS="1")
    assert ended.code == 0, ended.text
    return json.loads(next(line for line in ended.text.splitlines() if line.startswith("{")))


def test_two_ranks():
    from tests.launching import LAUNCHERS

    if not LAUNCHERS:
        pytest.skip("no mpiexec is there (pip install mpich)")
    mpi = next(iter(LAUNCHERS))
    ratios, parts = [], []
    for turn in range(ROUNDS):
        order = (1, 2) if turn % 2 == 0 else (2, 1)
        found = {ranks: measured(mpi, ranks) for ranks in order}
        one, two = (statistics.median(found[ranks]["seconds"]) for ranks in (1, 2))
        ratios.append(one / two)
        parts.append(found[2]["communication"] / found[2]["cpu"])
        print(f"\n1 rank {one:.2f} s, 2 ranks {two:.2f} s an update: {ratios[-1]:.3f} x; "
              f"communication {100 * parts[-1]:.2f} % of CPU seconds", end="")  # fmt: skip
    speed_up, part = statistics.median(ratios), statistics.median(parts)
    print(f"\n{mpi}: 2 ranks against 1, {MICRO_STEPS} micro-steps of stories15m: {speed_up:.3f} x, "
          f"communication {100 * part:.2f} % of CPU seconds")  # fmt: skip
    assert speed_up >= LEAST_SPEED_UP
    assert part <= MOST_COMMUNICATION


if __name__ == "__main__":
    rank()
