"""What a terminal costs: the same micro-steps with their lines and bar going to different places.

    python -m pytest benchmarks/bench_terminal.py -s

Published for an M1 Pro: 7.4 times slower with rows printed to a terminal than to a file
(maderix/ANE issue 24). Here a line per micro-step, far more than training says, and the bar go to
a file, to a terminal that is read at 1.3 KB/s, and to a pipe that nobody reads any more. Segments
take turns in one process; neither may be slower than the file by more than 2%, as far as the rounds
can tell. The last ratio is what the screen's own thread prevents: 1.3 KB a micro-step, printed by
the thread that evaluates to a terminal read at 13 KB/s.
"""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import numpy as np
import pytest

import anefast
from anefast.config import ModelConfig
from anefast.presets import preset_settings
from anefast.telemetry import screen as screen_module
from anefast.telemetry.screen import Direct, Screen
from benchmarks.paired import ratio, taken

ROUNDS, STEPS = 40, 6
SLOW_READER = """
import os, time
while os.read(0, 64):
    time.sleep({pause})
"""


@pytest.fixture
def micro_step():
    settings = preset_settings("bytes")
    config = ModelConfig(**settings["model"], vocab_size=259)
    params = anefast.init_params(config, 0)
    model = anefast.Model(config, params, anefast.open_tokenizer("bytes"))
    shape = settings["data"]["batch"], settings["data"]["seq_len"]
    step = model.training_step(anefast.Device("host"), *shape, plan="all")
    x = np.random.default_rng(0).integers(0, 259, shape).astype(np.int32)

    def run() -> None:
        step.micro_step(x, x, 64.0)
        step.wait()

    run()
    yield run
    step.close()


def test_terminal(micro_step, tmp_path, monkeypatch):
    monkeypatch.setattr(screen_module, "PATIENCE_SECONDS", 0.5)
    master, slave = pty.openpty()
    other_master, other_slave = pty.openpty()
    readers = [
        subprocess.Popen([sys.executable, "-c", SLOW_READER.format(pause=pause)], stdin=m)
        for m, pause in ((master, 0.05), (other_master, 0.005))
    ]
    reader, gone = os.pipe()
    os.close(reader)
    file = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    screens = {
        "a file": Screen(True, Direct(file), Direct(file)),
        "a slow terminal": Screen(True, Direct(slave), Direct(slave)),
        "a closed pipe": Screen(True, Direct(gone), Direct(gone)),
    }
    done = 0

    def through(screen: Screen) -> None:
        nonlocal done
        for _ in range(STEPS):
            micro_step()
            done += 1
            screen.say(f"step {done} loss 1.2345 lr 3.0e-03 norm 0.81 tok/s 17.9k ms 57.2")
            screen.show(done, 10**6, "loss 1.2345")

    def printed() -> None:
        for _ in range(STEPS):
            micro_step()
            os.write(other_slave, b"step 1 loss 1.2345 lr 3.0e-03 norm 0.81 tok/s 17.9k " * 24)

    ways = {name: lambda s=s: through(s) for name, s in screens.items()}
    seconds = taken({**ways, "printed by the training thread": printed}, ROUNDS)
    for screen in screens.values():
        screen.close()
    for process in readers:
        process.kill()
        process.wait()
    for fd in (master, slave, other_master, other_slave, file, gone):
        os.close(fd)
    print(f"\ntiny, {ROUNDS} rounds of {STEPS} micro-steps, measured here, against a file:")
    base = seconds["a file"]
    found = {name: ratio(seconds[name], base) for name in list(seconds)[1:]}
    for name, r in found.items():
        print(f"  {name:<32} {r}")
    for name in ("a slow terminal", "a closed pipe"):
        r = found[name]
        assert r.low <= 1.02, f"{name}: {r}"
