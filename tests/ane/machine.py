"""Inside a fake build: training on a machine that does what real ones do. Not a test.

A row is something that befalls the machine in the middle of a run: it sleeps, its service ends, its
values go wrong, its temporary folder is cleaned, it has room for few programs. Each row is run with
the product as it is and, `without`, with the defence taken out that is meant for it. Prints JSON:
for each, the error (type and message, "" for none), what was logged, the metrics, the checkpoint,
and the metrics of the same run resumed on a sound machine. tests/test_machine.py judges.
"""

from __future__ import annotations

import gc
import json
import logging
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import inside
from faults import TEXT, WEIGHTS, weight_file
from training import config, metrics

import anefast
from anefast.config import DataConfig, GuardConfig
from anefast.runtime import cache, kernel, pace, revive
from anefast.runtime.budget import PROCESS
from anefast.trainer import Row

Without = Callable[[], AbstractContextManager[Any]]
AFTER = 2  # updates


@dataclass(frozen=True)
class Case:
    """befalls: once update `AFTER` is through and saved. before: when the run begins. idle: the
    device has a program of somebody else's loaded. always: holds with the defence and without.
    soaks: something befalls it after each update.
    """

    befalls: Callable[[], Any] = lambda: None
    before: Callable[[], Any] = lambda: None
    plan: str = "layer"
    without: Without | None = None
    always: Without = nullcontext
    idle: bool = False
    soaks: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    resumes: bool = True


def clean() -> None:
    """As systems do with what nobody has opened for days."""
    for path in Path(tempfile.gettempdir()).iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def fail(self: Any, name: str, program: Any, error: Exception, *rest: Any) -> None:
    raise error


def not_brought_back() -> AbstractContextManager[Any]:
    return patch.object(revive.Revivals, "again", fail)


def not_evicted() -> AbstractContextManager[Any]:
    return patch.object(
        cache.CompileCache, "_fitted", lambda self, text, blobs: self._compile(text, blobs)
    )


def rows_not_looked_at() -> AbstractContextManager[Any]:
    return patch.object(kernel, "check_rows", lambda name, program: None)


def impatient() -> AbstractContextManager[Any]:
    return patch.multiple(pace, MEASURED=3, ENOUGH=60, SLOWER=10)


def often() -> AbstractContextManager[Any]:
    return patch.object(revive, "SOON", 0.0)


def anything() -> None:
    """What a long run meets over its days, in no order, but one at a time."""
    inside.heal()
    what = CHANCE.choice(
        ["sleep", "service", "service_compile", "service_load", "clean", "cleaned"]
    )
    clean() if what == "cleaned" else inside.arm(what, CHANCE.randrange(8), 1)


def fault(name: str, first: int = 1, count: int = 1) -> Callable[[], None]:
    return lambda: inside.arm(name, first, count)


def setting(**values: int) -> Callable[[], None]:
    return lambda: [inside.set_(*pair) for pair in values.items()] and None


CHANCE = random.Random(0)
COMMON: dict[str, Any] = {"eval_every": AFTER, "max_compiles": 10**6}
NARROW = DataConfig(source="stories:40", seq_len=32, batch=1)
CASES: dict[str, Case] = {
    # evaluations 1, 5: one in the forward, one in the backward programs of a micro-step
    "sleep": Case(fault("sleep"), without=not_brought_back),
    "sleep, one program": Case(fault("sleep"), plan="all", without=not_brought_back),
    "sleep, weights in surfaces": Case(
        fault("sleep", 2), plan="all,weights=params", without=not_brought_back
    ),
    "sleep, async": Case(fault("sleep", 2), plan="layer,async", without=not_brought_back),
    "sleep in validation": Case(fault("sleep", 6 * 4), without=not_brought_back),
    "sleep without end": Case(fault("sleep", count=-1)),
    "service": Case(fault("service"), without=not_brought_back),
    "service, async": Case(fault("service", 3), plan="layer,async", without=not_brought_back),
    "service in a compile": Case(fault("service_compile", 2)),
    "service in a load": Case(fault("service_load", 2)),
    "service without end": Case(fault("service", count=-1)),
    "service in compiles without end": Case(fault("service_compile", count=-1)),
    "cleaned": Case(clean),
    "cleaned, async": Case(clean, plan="layer,async"),
    "cleaned in a compile": Case(fault("clean", 0)),
    "cleaned and asleep": Case(lambda: (clean(), fault("sleep")()), without=not_brought_back),
    "cleaned and its service ended": Case(lambda: (clean(), fault("service")())),
    "wrong zeros": Case(fault("wrong_zero", 1, -1), plan="layer"),
    "wrong row": Case(fault("wrong_row", 1, -1), plan="all"),
    "wrong moment": Case(fault("wrong_old", 1, -1), plan="all,weights=params"),
    "wrong zeros, async": Case(fault("wrong_zero", 1, -1), plan="layer,async"),
    "wrong zeros, packed": Case(fault("wrong_zero", 1, -1), plan="layer,weights=packed"),
    "wrong from the start": Case(before=fault("wrong_zero", 0, -1)),
    "room for a step": Case(before=setting(loaded=4), idle=True, without=not_evicted),
    "room for less": Case(before=setting(loaded=3), resumes=False),
    "room for one set, async": Case(before=setting(loaded=4), plan="layer,async", resumes=False),
    "rows of 128": Case(before=setting(rows=128)),
    "rows of 128, short": Case(
        before=setting(rows=128), settings={"data": NARROW}, without=rows_not_looked_at,
        resumes=False,
    ),
    "soak": Case(anything, always=often, soaks=True, settings={"steps": 60}),
    "soak, async": Case(
        anything, plan="layer,async", always=often, soaks=True, settings={"steps": 60}
    ),
    "slower": Case(
        setting(slow_after=1, slow_us=4000), settings={"steps": 8}, always=impatient
    ),
    "as fast as ever": Case(settings={"steps": 8}, always=impatient),
}  # fmt: skip


def ran(case: Case, folder: Path, defended: bool) -> dict[str, Any]:
    """One run of a case, and the same resumed on a sound machine."""
    told: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("anefast").addHandler(handler)
    said: list[str] = []

    def befall(row: Row) -> None:
        if row["step"] == AFTER or case.soaks:
            case.befalls()

    settings = {**COMMON, **case.settings}
    if not defended and case.without is None:
        settings["guard"] = GuardConfig(canary_every=0)
    out, error, device = folder, "", None
    revive.PROCESS_WIDE.__init__()  # type: ignore[misc]
    before = inside.count("compiles")
    try:
        weak = case.without() if case.without and not defended else nullcontext()
        with weak, case.always():
            device = anefast.Device("ane")
            case.before()
            if case.idle:
                device.programs.acquire(TEXT, {WEIGHTS: weight_file(1.0)}).release()
            anefast.fit(
                config(out, "ane", case.plan, **settings), device=device, on_step=befall,
                show=said.append,
            )  # fmt: skip
    except Exception as raised:
        error = f"{type(raised).__name__}: {raised}"
    finally:
        del device
        inside.heal()
        logging.getLogger("anefast").removeHandler(handler)
    gc.collect()
    found = {
        "error": error,
        "told": told,
        "said": said,
        "metrics": metrics(out) if (out / "metrics.jsonl").exists() else "",
        "timings": (out / "timings.jsonl").read_text() if (out / "timings.jsonl").exists() else "",
        "saved": sorted(p.name for p in out.glob("step_*")) if out.exists() else [],
        "alive": inside.alive(),
        "left": [p.name for p in Path(tempfile.gettempdir()).iterdir()],
        "compiles": inside.count("compiles") - before,
    }
    if error and case.resumes and found["saved"]:
        anefast.fit(
            config(out, "ane", case.plan, **{**COMMON, **case.settings, "resume": str(out)})
        )
        found["metrics"] = metrics(out)
    return found


def whole(case: Case, folder: Path) -> str:
    """Metrics of that run on a machine that nothing befalls; the host's, for they are the same."""
    if not folder.exists():
        anefast.fit(config(folder, "host", case.plan, **COMMON, **case.settings))
    return metrics(folder)


def main() -> None:
    folder = Path(tempfile.mkdtemp(dir=Path.cwd()))
    results: dict[str, Any] = {}
    PROCESS.limit = 10**6  # of many runs together
    for i, (name, case) in enumerate(CASES.items()):
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        stale = "async" in case.plan
        kind = f"{stale}{sorted(case.settings)}".replace("/", "")
        results[name] = {
            "with": ran(case, folder / f"{i}", True),
            "whole": whole(case, folder / f"whole{kind}"),
        }
        if case.without is not None or name.startswith("wrong"):
            results[name]["without"] = ran(case, folder / f"{i}without", False)
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
