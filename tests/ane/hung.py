"""Inside a fake build: calls that never return, for those who do not run the command. Not a test.

`hung.py fit`: a notebook's run, whose background compile hangs; prints what it raised, and whether
its thread is still there. `hung.py slow LIMIT`: one on the host, each of whose evaluations takes
longer than LIMIT seconds.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import inside
from training import config

import anefast
from anefast.config import GuardConfig
from anefast.trainer import Row


def fit() -> None:
    def hang(row: Row) -> None:
        if row["step"] == 2:
            inside.arm("hang_compile")

    guard = GuardConfig(compile_s=1)
    settings = config(Path("run"), "ane", "layer,async", eval_every=1, guard=guard)
    try:
        anefast.fit(settings, on_step=hang)
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
    print([thread.name for thread in threading.enumerate() if "compile" in thread.name])


def slow(limit: str) -> None:
    device = anefast.Device("host", "profile=slow dispatch_us=2000000")
    settings = config(Path("run"), "host", "all", guard=GuardConfig(evaluate_s=float(limit)))
    anefast.fit(settings, device=device)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
