"""The Mac's device on a machine that misbehaves as real ones do; tests/ane/machine.py has the rows.

Every row goes on with equal bytes or ends in one clear line with the training saved, in bounded
time. Where a defence can be taken out, the same row without it shows that it is needed.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from anefast import _C
from anefast.config import GuardConfig
from anefast.runtime import pace, watchdog

from .ane.build import HERE, Fake
from .test_ane import beside, child


@pytest.fixture(scope="session")
def mac(fake: Fake) -> Fake:
    return fake


# 1) rows that end well: what is said, and which error there is without the defence

GOES_ON = {
    "sleep": ("forward.layers.1 was lost", "loaded again", "Program not loaded"),
    "sleep, one program": ("backward.layers was lost", "loaded again", "Program not loaded"),
    "sleep, weights in surfaces": ("was lost", "loaded again", "Program not loaded"),
    "sleep, async": ("was lost", "loaded again", "Program not loaded"),
    "sleep in validation": ("forward.layers.0 was lost", "loaded again", "Program not loaded"),
    "service": ("code 4097", "compiled anew", "the Neural Engine's service ended"),
    "service, async": ("code 4097", "compiled anew", "the Neural Engine's service ended"),
    "service in a compile": (),
    "service in a load": ("was lost", "compiled anew"),
    "cleaned": (),
    "cleaned, async": (),
    "cleaned in a compile": (),
    "cleaned and asleep": ("was lost", "loaded again", "Program not loaded"),
    "cleaned and its service ended": ("code 4097", "compiled anew"),
    "room for a step": ("", "", "no memory"),
    "soak": ("was lost",),
    "soak, async": ("was lost",),
    "rows of 128": (),
}
# rows that end: the error, the newest checkpoint, parts of the message
ENDS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "sleep without end": ("Failure", "step_000002", ("forward.layers.1, and again once it was",)),
    "service without end": ("Failure", "step_000002", ("service ended", "and again once it was")),
    "service in compiles without end": ("Failure", "step_000003", ("service ended", "compile")),
    "wrong zeros": ("Failure", "step_000002", ("forward.layers.0 gave z", "it gives 0.")),
    "wrong row": ("Failure", "step_000002", ("forward.layers gave", "= 3.12891 and no error")),
    "wrong moment": ("Failure", "step_000002", ("backward.layers gave",)),
    "wrong zeros, async": ("Failure", "step_000002", ("forward.layers.0 gave",)),
    "wrong zeros, packed": ("Failure", "step_000002", ("forward.layers.0 gave",)),
    "wrong from the start": ("Failure", "", ("update 1: ", "No checkpoint of this run")),
    "room for less": ("LoadError", "", ("3 programs are loaded and in use", "more layers")),
    "room for one set, async": ("Failure", "step_000001", ("4 programs are loaded", "async plans")),
    "rows of 128, short": ("ValueError", "", ("rows of port a0_x of forward.layers.0", "seq_len")),
}  # fmt: skip
WITHOUT = {"rows of 128, short": "EvaluationError: [evaluate] status=0x1d"}
PACE = ("slower", "as fast as ever")
SLOW = {
    "sleep, one program", "sleep, weights in surfaces", "sleep in validation", "service, async",
    "cleaned, async", "cleaned and asleep", "cleaned and its service ended", "wrong row",
    "wrong zeros, packed", "room for one set, async", "service in compiles without end",
    "soak", "soak, async",
}  # fmt: skip
ROWS = [*GOES_ON, *ENDS, *PACE]


def ran(mac: Fake, folder: Path, names: list[str]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(HERE / "machine.py"), *names],
        cwd=folder,
        env=mac.environment(folder / "temporary"),
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stderr == ""
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="session")
def quick(mac: Fake, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    names = [name for name in ROWS if name not in SLOW]
    return ran(mac, tmp_path_factory.mktemp("machine"), names)


@pytest.fixture(scope="session")
def rest(mac: Fake, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return ran(mac, tmp_path_factory.mktemp("machine-rest"), sorted(SLOW))


def marked(names: Any) -> list[Any]:
    return [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in names]


def of(request: pytest.FixtureRequest, name: str) -> dict[str, Any]:
    row: dict[str, Any] = request.getfixturevalue("rest" if name in SLOW else "quick")[name]
    run = row["with"]
    assert run["alive"] == {}, run["alive"]
    assert [p for p in run["left"] if not p.endswith(".mil")] == []  # texts of what did not compile
    return row


@pytest.mark.parametrize("name", marked(GOES_ON))
def test_it_goes_on_with_equal_bytes(request: pytest.FixtureRequest, name: str) -> None:
    row = of(request, name)
    run, (said, how, without) = row["with"], (*GOES_ON[name], "", "", "")[:3]
    assert run["error"] == "" and run["metrics"] == row["whole"], run["error"]
    assert len(run["told"]) == bool(said), run["told"]  # once, however many programs there are
    assert said in " ".join(run["told"]) and how in " ".join(run["told"])
    reloads = [json.loads(line).get("reloads", 0) for line in run["timings"].splitlines()]
    assert (max(reloads) > 0) == bool(said)
    if without:
        assert without in row["without"]["error"], row["without"]["error"]


@pytest.mark.parametrize("name", marked(ENDS))
def test_it_ends_with_the_training_saved(request: pytest.FixtureRequest, name: str) -> None:
    row = of(request, name)
    run, (kind, saved, parts) = row["with"], ENDS[name]
    assert run["error"].startswith(f"{kind}: ["), run["error"]
    for part in parts:
        assert part in run["error"], run["error"]
    assert (run["saved"] or [""])[-1] == saved
    if saved and kind == "Failure":
        assert "continue" in run["error"] and "--resume" in run["error"]
    if saved and "room" not in name:
        assert run["metrics"] == row["whole"]  # resumed on a sound machine
    if name.startswith("wrong"):  # unseen, it spoils the checkpoints
        assert row["without"]["error"] == "" and row["without"]["metrics"] != row["whole"]
        assert row["without"]["saved"][-1] == "step_000004"
    if name in WITHOUT:
        assert row["without"]["error"].startswith(WITHOUT[name])


def test_a_device_that_became_slower_is_said_once(request: pytest.FixtureRequest) -> None:
    slower, usual = (of(request, name)["with"] for name in PACE)
    (line,) = [s for s in slower["said"] if "a forward pass takes" in s]
    assert "evaluations" in line and "--resume" in line
    assert json.loads(slower["timings"].splitlines()[-1])["slowdown"] > 5
    assert not [s for s in usual["said"] if "a forward pass takes" in s]


def test_every_row_is_looked_at(quick: dict[str, Any]) -> None:
    assert set(quick) | SLOW == set(ROWS)


def test_pace_waits_for_many_slow_updates_after_many_evaluations() -> None:
    watched = pace.Pace()

    def update(seconds: float, evaluations: int) -> str:
        for noise in (3.0, 1.0, 2.0):  # the least counts
            watched.add(noise * seconds)
        return watched.look(evaluations)

    said = [update(1.0, 10**6) for _ in range(pace.MEASURED)]
    said += [update(9.0, pace.ENOUGH - 1) for _ in range(2 * pace.MEASURED)]  # too early
    said += [update(1.0, 10**6)]
    said += [update(9.0, 10**6) for _ in range(pace.MEASURED - 1)]
    assert not any(said)
    assert "2.0 times" in update(2.0, 100_000) and not update(2.0, 100_000)


# 2) calls that never return

WORDS = (
    "--preset bytes --device ane --steps 4 --data stories:40 --data.seq-len 64 --out run "
    "--eval-batches 1 --eval-every 2 --optim.accumulation 2 --sample-tokens 0 "
    "--model.dim 32 --model.n-layers 2 "
    "--guard.compile-s 1 --guard.load-s 1 --guard.evaluate-s 1 --guard.canary-every 0"
)
# Fault, from which call on, plan, what is named, the update that is saved ("" for none). The plan
# has four programs, an update eight evaluations, validation two.
HANGS = {
    "evaluate": ("hang_evaluate", 2 + 8 + 1, "layer", "evaluating forward.layers.1", "1"),
    "compile": ("hang_compile", 4 + 2, "layer", "compiling backward.layers.1", "1"),
    "load": ("hang_load", 4 + 4 + 1, "layer", "loading forward.layers.1", "2"),
    "unload": ("hang_unload", 4, "layer", "unloading forward.layers.0", "2"),
    "validation": ("hang_evaluate", 2 + 16, "layer", "evaluating forward.layers.0", "2"),
    "compile, async": ("hang_compile", 4 + 3, "layer,async", "compiling backward.layers.0", "1"),
    "the first compile": ("hang_compile", 0, "layer", "compiling forward.layers.0", ""),
}

QUICK_HANGS = ("evaluate", "compile", "compile, async")


def command(mac: Fake, folder: Path, fault: str, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "anefast.train", *words],
        cwd=folder,
        env=mac.environment(folder / "temporary", ANEFAST_FAKE_FAULTS=fault),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def rows(folder: Path) -> str:
    return (folder / "run" / "metrics.jsonl").read_text()


@pytest.fixture(scope="session")
def unhung(mac: Fake, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("unhung")
    with command(mac, folder, "", *WORDS.split(), "--plan", "layer") as process:
        _, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    return rows(folder)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n not in QUICK_HANGS)) for n in HANGS],
)
def test_a_call_that_hangs_ends_the_run(
    mac: Fake,
    unhung: str,
    tmp_path: Path,
    name: str,
) -> None:
    fault, first, plan, named, saved = HANGS[name]
    began = time.monotonic()
    words = [*WORDS.split(), "--plan", plan]
    with command(mac, tmp_path, f"{fault}:{first}:-1", *words) as process:
        _, errors = process.communicate(timeout=100)
    assert process.returncode == 1 and errors.count("\n") == 1, errors
    assert time.monotonic() - began < 60
    kind = fault.removeprefix("hang_").replace("unload", "load")
    assert f"[device] expected {named} to return within 1 s (guard.{kind}_s)" in errors, errors
    if not saved:
        assert "Nothing was trained yet." in errors
        return
    assert f"Update {saved} is saved; continue with: anefast train --resume" in errors
    assert (tmp_path / "run" / "latest").resolve().name == f"step_00000{saved}"
    if plan == "layer":
        with command(mac, tmp_path, "", "--resume", "run") as process:
            _, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors
        assert rows(tmp_path) == unhung


def test_a_short_call_that_hangs_ends_the_run_too(mac: Fake, tmp_path: Path) -> None:
    """It has the interpreter's lock, so nobody can save; the checkpoint before it is there."""
    words = [*WORDS.split(), "--plan", "layer", "--steps", "999", "--checkpoint-every", "1"]
    with command(mac, tmp_path, "hang_lock:600:-1", *words) as process:
        _, errors = process.communicate(timeout=100)
    assert process.returncode == 1 and errors.count("\n") == 1, errors
    assert (
        errors.startswith("[device] expected the device to answer a short call")
        and "--resume" in errors
    )
    assert (tmp_path / "run" / "latest").exists()


def test_without_a_limit_it_hangs(mac: Fake, tmp_path: Path) -> None:
    words = [*WORDS.split(), "--plan", "layer", "--guard.evaluate-s", "0"]
    with command(mac, tmp_path, "hang_evaluate:13:-1", *words) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.communicate(timeout=4)
        assert (tmp_path / "run" / "metrics.jsonl").exists()
        process.send_signal(signal.SIGKILL)


def test_a_notebook_is_told_and_can_leave(mac: Fake, tmp_path: Path) -> None:
    """A background compile that hangs is an error there; nothing waits for its thread."""
    said, threads = child(mac, tmp_path, "hung.py", "fit").splitlines()
    assert said.startswith("Failure: [device] expected compiling ") and "Update 3 is saved" in said
    assert threads == "['anefast-compile']"


def test_the_host_is_watched_too(mac: Fake, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(HERE / "hung.py"), "slow", "0.5"],
        cwd=tmp_path,
        env=mac.environment(tmp_path / "temporary"),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert "expected evaluating forward.layers to return within 0.5 s" in done.stderr


def test_only_time_that_the_watchdog_was_awake_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int, str, str]] = [(1, 7, "evaluate", "forward")]
    monkeypatch.setattr(_C, "calls_under_way", lambda: list(calls))
    monkeypatch.setattr(watchdog, "_found", "")
    dog = watchdog.Watchdog(GuardConfig(evaluate_s=10, compile_s=0, load_s=0))
    dog.stop()
    for _ in range(10):
        dog._look(0.5)  # as much as a look counts for, however long the computer slept
    assert not watchdog.stuck()
    calls[0] = (1, 8, "evaluate", "forward")  # another call
    for _ in range(20):
        dog._look(0.5)
    assert not watchdog.stuck()
    calls.append((2, 1, "compile", "backward"))  # no limit
    dog._look(0.5)
    assert watchdog.stuck()
    with pytest.raises(watchdog.Hung, match="expected evaluating forward to return within 10 s"):
        watchdog.check()


def test_calls_are_noted_while_they_last() -> None:
    device = _C.Device("host", "profile=slow compile_us=300000")
    text = "program(1.3)\n{\nfunc main<ios18>(tensor<fp16, [1, 32]> a) {\n"
    text += 'tensor<fp16, [1, 32]> y = abs(x = a)[name = string("y")];\n} -> (y);\n}\n'
    label = _C.spans_label("a program's name")

    def compile_() -> None:
        assert _C.calls_naming(label) == 0
        device.compile(text, {})

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(compile_)
        seen = set()
        while not future.done():
            seen |= {call[1:] for call in _C.calls_under_way()}
            time.sleep(0.01)
        future.result()
    assert {(kind, name) for _, kind, name in seen} == {("compile", "a program's name")}
    assert len(seen) == 1 and _C.calls_under_way() == []


# 3) two processes with one identifier


def test_two_processes_use_one_program_at_once(mac: Fake, tmp_path: Path) -> None:
    both = [beside(mac, tmp_path, "hammer") for _ in range(2)]
    for process in both:
        _, errors = process.communicate("go\n", timeout=100)
        assert process.returncode == 0 and not errors, errors
    assert list((tmp_path / "temporary").iterdir()) == []


def test_two_programs_that_the_system_names_alike(mac: Fake, tmp_path: Path) -> None:
    said = json.loads(child(mac, tmp_path, "folders.py", "alike"))
    assert said["both"].startswith("CompileError: [ane] expected") and "TMPDIR" in said["both"]
    assert said["first"] == said["after"] == ""  # the one that was there is as it was
    assert list((tmp_path / "temporary").iterdir()) == []
