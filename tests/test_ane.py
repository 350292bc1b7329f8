"""The Mac's device over a fake system: the real Objective-C, run and broken on Linux.

The runs are child processes of a build of its own (tests/ane/build.py), made once per session. What
passes here is consistent with what is believed about Apple's framework; it has not run on a Mac.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .ane.build import HERE, OBJC, ROOT, Fake, build, missing, printed
from .conftest import session_folder

NATIVE = sorted((ROOT / "csrc" / "ane").glob("*.m"))
Child = Callable[..., Any]


@pytest.fixture(scope="session")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Fake:
    if why := missing():
        pytest.skip(why)
    if not printed("-print-file-name=libasan.so").startswith("/"):
        pytest.skip("no libasan beside gcc")
    return build(session_folder(tmp_path_factory) / "fake-ane-sanitized", sanitize=True)


def child(fake: Fake, folder: Path, script: str, *words: str, **more: str) -> str:
    """stdout of one of the scripts in tests/ane. The fakes abort on what must not happen."""
    temporary = folder / "temporary"
    done = subprocess.run(
        [sys.executable, "-W", "error", str(HERE / script), *words],
        cwd=folder,
        env=fake.environment(temporary, **more),
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stderr == ""  # nothing released without a pool, nothing reported by a sanitizer
    return done.stdout


@pytest.fixture(scope="session")
def faults(fake: Fake, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What came of every fault; see faults.py."""
    found: dict[str, Any] = json.loads(child(fake, tmp_path_factory.mktemp("faults"), "faults.py"))
    return found


# 1) training

PLANS = ("unfused", "all,weights=params", "layer,async")


def check_training(fake: Fake, folder: Path, plans: tuple[str, ...]) -> None:
    found = json.loads(child(fake, folder, "training.py", "same", *plans))
    assert found["same"] == dict.fromkeys(plans, True)
    assert found["evaluations"] > 50 * len(plans) // 2
    assert found["device"] == ["ane (fake framework)", "emulated"]
    assert found["alive"] == {}
    assert list((folder / "temporary").iterdir()) == []


def test_training_is_that_of_the_host_byte_for_byte(fake: Fake, tmp_path: Path) -> None:
    check_training(fake, tmp_path, PLANS)


def test_training_over_a_system_that_wants_ports_in_order_of_size_and_surfaces_equal(
    fake: Fake, tmp_path: Path
) -> None:
    plans = ("unfused", "all,weights=params", "layer,recompute,ports=packed", "layer,ports=padded")
    strict = {"ANEFAST_FAKE_SIZES": "1"}
    found = json.loads(child(fake, tmp_path, "training.py", "wide", *plans, **strict))
    assert found["same"] == dict.fromkeys(plans, True)
    assert found["surfaces"] == "equal" and found["alive"] == {}
    refused = json.loads(child(fake, tmp_path, "sizes.py", **strict))
    assert "status=0x1d" in refused["unequal"]  # it does want that
    assert refused["equal"] == 64.0 and refused["turned"] == 0.0
    assert "to make room for 1048576 bytes, got one that is locked" in refused["locked"]
    assert refused["kept"] == [4096, 4096, 7]


SAVED = {
    "evaluate": 2, "evaluate raises": 2, "lock": 2, "compile": 3, "unload": 3, "validation": 3,
    "compile, async": 3, "validation, async": 3,
}  # fmt: skip


def check_broken_training(fake: Fake, folder: Path) -> None:
    found = json.loads(child(fake, folder, "training.py", "faults"))
    assert {*found} == {*SAVED}
    for name, run in found.items():
        saved = SAVED[name]
        assert run["error"].startswith("Failure: ["), name
        assert f"Update {saved} is saved; continue with: anefast train" in run["error"], name
        assert run["alive"] == [{}, {}] and run["losses"] == 4, name
        got, want = run["metrics"].splitlines(), run["whole"].splitlines()
        assert [json.loads(row)["step"] for row in got] == [0, 1, 2, 3, 4], name
        if name == "compile, async":  # its checkpoint is part of what such a run computes
            got, want = got[: saved + 1], want[: saved + 1]
        assert got == want, name


def test_a_device_that_fails_in_the_middle_loses_nothing(fake: Fake, tmp_path: Path) -> None:
    check_broken_training(fake, tmp_path)


def test_the_command_says_it_in_one_line(fake: Fake, tmp_path: Path) -> None:
    words = "--device ane --steps 2 --data stories:40 --data.seq-len 64 --plan layer --out run"
    words += " --preset bytes --eval-batches 1 --optim.accumulation 2 --sample-tokens 0"
    done = subprocess.run(
        [sys.executable, "-m", "anefast.train", *words.split()],
        cwd=tmp_path,
        env=fake.environment(tmp_path / "temporary", ANEFAST_FAKE_FAULTS="evaluate:9:-1"),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert "status=0x1d" in done.stderr and "--resume run" in done.stderr
    assert "device: ane (fake framework); times are emulated" in done.stdout
    assert (tmp_path / "run" / "latest").exists()


THREADS = """
from anefast import Device, _C
for device, options, count in (
    ("auto", "threads=3", 3),
    ("auto", "groups=off threads=2", 2),
    ("ane", "qos=9 threads=1", 1),
    ("ane", "", 1),
    ("host", "threads=2", 2),
):
    opened = Device(device, options)
    assert opened.name == ("host" if device == "host" else "ane"), opened.description
    assert _C.threads() == count, (device, options, _C.threads())
"""


def test_threads_are_those_of_the_pool_on_every_device(fake: Fake, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", THREADS],
        cwd=tmp_path,
        env=fake.environment(tmp_path / "temporary"),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr


# 2) faults: (name, what is raised, parts of its message)

FAULTS = [
    ("none", "", ()),
    ("descriptor nil", "MILError", ("no descriptor", "Hint: this system may be older")),
    ("descriptor raises", "MILError", ("NSInvalidArgumentException", "unrecognized selector")),
    ("model nil", "CompileError", ("a model of the program's descriptor", "Hint:")),
    ("identifier nil", "CompileError", ("an identifier of the program", "Hint:")),
    ("identifier a path", "CompileError", ("that can name a folder",)),
    ("compile NO", "CompileError", ("appleneuralengine.compiler code 1", "--on-budget")),
    ("compile NO, invalid", "CompileError", ("InvalidMILProgram", "two values share a name")),
    ("compile NO, no error", "CompileError", ("neither that nor an error", "Hint:")),
    ("compile NO, at length", "CompileError", ("code 1: ääää", "ää. Hint: anefast doctor")),
    ("compile NO, of the system", "CompileError", ("code 13: Permission", "Hint: anefast doctor")),
    ("compile raises", "CompileError", ("NSInvalidArgumentException",)),
    ("compile budget", "CompileError", (" compiles of this process", "--on-budget")),
    ("load NO once", "", ()),
    ("load NO twice", "LoadError", ("tried twice", "code 6", "too large to load")),
    ("load NO, no memory", "LoadError", ("code 53", "too many programs are loaded")),
    ("load NO, no error", "LoadError", ("tried twice", "neither that nor an error")),
    ("load raises", "LoadError", ("NSInvalidArgumentException",)),
    ("attributes missing", "", ()),
    ("attributes odd", "", ()),
    ("attributes raise", "", ()),
    ("symbol order", "CompileError", ("inputs to be a0_x, a1_y", "got a1_y, a0_x")),
    ("symbol count", "CompileError", ("inputs to be a0_x, a1_y", "got t0")),
    ("port shape", "CompileError", ("Channels of port a0_x to be 4, got 5",)),
    ("port interleave", "CompileError", ("interleave of 4",)),
    ("port stride too small", "CompileError", ("RowStride of port a0_x", "64 bytes", "got 2.")),
    ("port stride too large", "CompileError", ("RowStride of port a0_x", "less than a terabyte")),
    ("port stride no number", "CompileError", ("RowStride of port a0_x",)),
    ("port stride larger", "EvaluationError", ("0x1d", "to have 512 bytes", "surface of 256")),
    ("surface short", "EvaluationError", ("0x1d", "a0_x to have 256 bytes", "surface of 254")),
    ("surface none", "MemoryError", ("an IOSurface of 256 bytes",)),
    ("surface wrap nil", "EvaluationError", ("a request for these surfaces",)),
    ("surface unlock at creation", "EvaluationError", ("[unlock]", "IOSurfaceUnlock status 0x2c7")),
    ("surface of a page and a half", "", ()),
    ("surface lock", "EvaluationError", ("[lock]", "IOSurfaceLock status 0x2c7")),
    ("surface lock at creation", "EvaluationError", ("[lock]", "IOSurfaceLock status 0x2c7")),
    ("surface unlock", "EvaluationError", ("[unlock]", "IOSurfaceUnlock status 0x2c7")),
    ("request nil", "EvaluationError", ("a request for these surfaces",)),
    ("request raises", "EvaluationError", ("NSInvalidArgumentException",)),
    ("evaluate NO", "DeviceError", ("status=0x1d", "Hint: a surface is smaller")),
    ("evaluate NO, no error", "DeviceError", ("neither that nor an error",)),
    ("evaluate NO, indices", "DeviceError", ("status=0x2 ", "indices are not those")),
    ("evaluate raises", "DeviceError", ("NSInvalidArgumentException",)),
    ("unload NO", "EvaluationError", ("a program to unload", "code 12")),
    ("unload raises", "EvaluationError", ("a program to unload", "NSInvalidArgumentException")),
    ("blob outside", "CompileError", ("a blob path like", "@model_path/../weight.bin")),
    ("blob over the text", "CompileError", ("a blob path like", "@model_path/model.mil")),
    ("unload NO, nobody waits", "RuntimeError", ("reported: [ane]", "a program to unload")),
    ("disk full", "CompileError", ("expected to write", "File too large", "Hint:")),
    ("folder unwritable", "CompileError", ("expected to write", "Not a directory", "Hint:")),
    ("no engine", "AneUnavailable", ("a Neural Engine", 'device "host"')),
    ("option unknown", "ValueError", ('got "groups=on"',)),
    ("option out of range", "ValueError", ("from 0 to 63", 'got "qos=64"')),
    ("option no number", "ValueError", ('got "qos=fast"',)),
    ("option threads", "ValueError", ("from 1 to 1024", 'got "threads=0"')),
]


@pytest.mark.parametrize("name,raised,parts", FAULTS, ids=[name for name, _, _ in FAULTS])
def test_a_fault(faults: dict[str, Any], name: str, raised: str, parts: tuple[str, ...]) -> None:
    found = faults[name]
    assert found["raised"] == raised, found
    for part in parts:
        assert part in found["message"], found
    assert found["alive"] == {} and found["left"] == []


def test_every_fault_is_looked_at(faults: dict[str, Any]) -> None:
    assert set(faults) == {name for name, _, _ in FAULTS}
    assert sum(bool(f["raised"]) for f in faults.values()) >= 20


def table() -> list[tuple[str, str, str, bool]]:
    """(class, + or -, selector, required) of the one table."""
    from anefast import _C

    return [entry[:4] for entry in _C.ane_selectors()]


def without(fake: Fake, folder: Path, *names: str) -> str:
    """A copy of the framework in which these names are spelled otherwise."""
    binary = fake.framework.read_bytes()
    for name in names:
        found = name.encode() + b"\0"
        assert found in binary, name
        binary = binary.replace(found, b"X" * len(name) + b"\0")
    path = folder / "framework.so"
    path.write_bytes(binary)
    return str(path)


def opened(fake: Fake, folder: Path, framework: str) -> str:
    package = str(fake.folder / "package" / "anefast")
    return child(fake, folder, "missing.py", package, ANEFAST_FAKE_ANE_PATH=framework)


@pytest.mark.parametrize("selector", [s for _, _, s, required in table() if required])
def test_a_missing_selector_is_named(fake: Fake, tmp_path: Path, selector: str) -> None:
    (owner,) = {owner for owner, _, s, _ in table() if s == selector}
    said = opened(fake, tmp_path, without(fake, tmp_path, selector))
    assert said.startswith("[ane] expected") and f"[{owner} {selector}]" in said, said
    assert "a framework without that method" in said and "Hint: anefast doctor" in said


@pytest.mark.parametrize("name", sorted({owner for owner, _, _, required in table() if required}))
def test_a_missing_class_is_named(fake: Fake, tmp_path: Path, name: str) -> None:
    said = opened(fake, tmp_path, without(fake, tmp_path, name))
    assert f"[{name} " in said and "a framework without that class" in said, said


REQUESTS = """
import numpy as np
from anefast import Device, ir
from anefast.runtime import Kernel
x = ir.input("a0_x", (1, 32, 1, 32))
kernel = Kernel(Device("ane"), ir.Program.cut("half", [("a0_x", x)], [("b0_y", x * 0.5)]), "ios18")
kernel.load({})
print(kernel.run(a0_x=np.full(x.shape, 3, np.float16))["b0_y"].max())
kernel.unload()
kernel.device.programs.clear()
"""


def test_another_maker_of_requests_serves_where_the_first_is_missing(
    fake: Fake, tmp_path: Path
) -> None:
    first = next(s for owner, _, s, _ in table() if owner == "_ANERequest")
    path = Path(without(fake, tmp_path, first))
    binary = path.read_bytes()
    assert binary.count(b":hiddenEvents:\0") >= 1
    path.write_bytes(binary.replace(b":hiddenEvents:\0", b":sharedEvents:\0"))
    done = subprocess.run(
        [sys.executable, "-c", REQUESTS],
        cwd=tmp_path,
        env=fake.environment(tmp_path / "temporary", ANEFAST_FAKE_ANE_PATH=str(path)),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0 and done.stdout == "1.5\n", done.stderr


def test_optional_names_may_be_missing(fake: Fake, tmp_path: Path) -> None:
    optional = [s for _, _, s, required in table() if not required]
    said = opened(fake, tmp_path, without(fake, tmp_path, *optional))
    count = len(table())
    assert said == f"opened ane (fake framework) with {count - len(optional)} of {count}\n"


def test_a_missing_framework_is_named(fake: Fake, tmp_path: Path) -> None:
    said = opened(fake, tmp_path, "/nowhere/AppleNeuralEngine")
    assert "/nowhere/AppleNeuralEngine" in said and 'device "host"' in said, said


SEEN = """
import numpy as np
from anefast import Device, _C, ir
from anefast.runtime import Kernel
x = ir.input("a0_x", (1, 32, 1, 32))
kernel = Kernel(Device("ane"), ir.Program.cut("twice", [("a0_x", x)], [("b0_y", x * 0.5)]), "ios18")
for _ in range(2):
    kernel.load({})
    kernel.unload()
    kernel.device.programs.clear()
"""


@pytest.mark.parametrize(
    ("keeps", "second"),
    [
        ("0", "compiled and loaded; the system still had it"),
        ("1", "loaded as it was kept on disk, and not compiled"),
    ],
)
def test_it_is_said_where_a_program_came_from(
    fake: Fake, tmp_path: Path, keeps: str, second: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SEEN],
        cwd=tmp_path,
        env=fake.environment(tmp_path / "temporary", DEBUG="2", ANEFAST_KEEP_MB=keeps),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert re.findall("twice: ((?:compiled|loaded).*)", done.stderr) == [
        "compiled and loaded; the system had not seen it",
        second,
    ]


# 3) beside other processes

FOLDER = r"[0-9A-F]{16}_0_[0-9A-F]{16}"


def names(listed: str) -> list[str]:
    """Programs whose folders were seen, each beside its lock."""
    found: list[str] = json.loads(listed)
    programs = [name for name in found if re.fullmatch(FOLDER, name)]
    assert sorted(found) == sorted([*programs, *(f"anefast_{name}.lock" for name in programs)])
    return programs


def beside(fake: Fake, folder: Path, what: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(HERE / "folders.py"), what],
        cwd=folder,
        env=fake.environment(folder / "temporary"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_what_a_killed_process_left_goes_with_the_next(fake: Fake, tmp_path: Path) -> None:
    with beside(fake, tmp_path, "killed") as process:
        output, errors = process.communicate(timeout=100)
    assert process.returncode == -signal.SIGKILL and not errors
    (left,) = names(output)
    assert (tmp_path / "temporary" / left / "model.mil").is_file()
    (seen,) = names(child(fake, tmp_path, "folders.py", "once"))
    assert seen != left
    assert list((tmp_path / "temporary").iterdir()) == []


def test_equal_programs_of_two_processes_share_a_folder(fake: Fake, tmp_path: Path) -> None:
    with beside(fake, tmp_path, "held") as process:
        assert process.stdout
        (held,) = names(process.stdout.readline())
        for _ in range(2):
            assert names(child(fake, tmp_path, "folders.py", "once")) == [held]
        assert (tmp_path / "temporary" / held / "weights" / "weight.bin").is_file()
        _, errors = process.communicate("go on\n", timeout=100)
    assert process.returncode == 0 and not errors
    assert list((tmp_path / "temporary").iterdir()) == []


def test_equal_programs_of_two_threads(fake: Fake, tmp_path: Path) -> None:
    assert json.loads(child(fake, tmp_path, "folders.py", "threads")) == []
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_fork_is_refused_and_harms_nobody(fake: Fake, tmp_path: Path) -> None:
    said = json.loads(child(fake, tmp_path, "folders.py", "forked"))
    assert len(said) == 5
    assert all("got a fork of it" in line and "spawn" in line for line in said)
    assert list((tmp_path / "temporary").iterdir()) == []


# 4) for long, and at once


def check_soak(fake: Fake, folder: Path, evaluations: int, cycles: int, kilobytes: int) -> None:
    found = json.loads(child(fake, folder, "soak.py", str(evaluations), str(cycles)))
    assert found["requests"] == 1  # built once for a set of surfaces
    assert found["both"] is True
    assert found["alive"] == {}
    for loop in ("evaluating", "surfaces", "compiling"):
        assert found[loop] < kilobytes, found
    assert list((folder / "temporary").iterdir()) == []


def test_nothing_grows(fake: Fake, tmp_path: Path) -> None:
    # Under a byte for each evaluation, under two kilobytes for each program.
    check_soak(fake, tmp_path, 10_000, 1_000, 1_500)


ABOUT_HOST = ("says_what", "bad_options", "unknown_device", "no_ane_here")
CHOSEN = ["-W", "error", "-k", " and ".join(f"not {name}" for name in ABOUT_HOST)]


@pytest.fixture(scope="session")
def contract(fake: Fake) -> Path:
    """The tests of the contract, beside the fake build's package."""
    folder = fake.folder / "package" / "tests"
    folder.mkdir(exist_ok=True)
    for name in ("__init__", "conftest", "host_programs", "test_surfaces"):
        shutil.copy(ROOT / "tests" / f"{name}.py", folder)
    return folder


def test_the_contract_of_surfaces_and_programs_holds(contract: Path, fake: Fake) -> None:
    done = subprocess.run(
        [sys.executable, *"-m pytest -q -p no:cacheprovider".split(), *CHOSEN, str(contract)],
        cwd=contract.parent,
        env=fake.environment(contract / "temporary", ANEFAST_TEST_DEVICE="ane"),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) >= 15


TOUCHES = {
    "unlocked": "view = s.lock(); s.unlock(); view[0]",
    "read-only": "view = s.lock(True); import ctypes; ctypes.memset(view.ctypes.data, 1, 1)",
}


@pytest.mark.parametrize("touch", TOUCHES)
def test_a_surface_is_out_of_reach_without_its_lock(fake: Fake, tmp_path: Path, touch: str) -> None:
    """The fake's own teeth: without them the runs above would prove less."""
    code = f"from anefast import _C; s = _C.Device('ane').surface(64); {TOUCHES[touch]}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=fake.environment(tmp_path / "temporary"),
        capture_output=True,
        timeout=100,
    )
    assert done.returncode == -signal.SIGSEGV, done.stderr


# 5) under sanitizers


@pytest.mark.slow
def test_all_of_it_sanitized(sanitized: Fake, tmp_path: Path) -> None:
    checked = [o for o in sanitized.objects.rglob("*.o") if b"__asan" in o.read_bytes()]
    assert {"ane", "cpu", "host", "units"} <= {o.parent.name for o in checked}
    assert {"mil", "plans"} <= {o.stem for o in checked} and len(checked) > 50
    assert json.loads(child(sanitized, tmp_path, "machine.py", "service, async", "cleaned"))
    found = json.loads(child(sanitized, tmp_path, "faults.py"))
    assert {name: row["raised"] for name, row in found.items()} == {n: r for n, r, _ in FAULTS}
    for script in (check_training_sanitized, check_broken_training, check_soak_sanitized):
        folder = tmp_path / script.__name__
        folder.mkdir()
        script(sanitized, folder)


LEAK = "import ctypes; m = ctypes.CDLL(None).malloc; [m(4321) for _ in range(9)]"


@pytest.mark.slow
def test_a_leak_is_seen(sanitized: Fake, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import anefast; {LEAK}"],
        cwd=tmp_path,
        env=sanitized.environment(tmp_path / "temporary"),
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0 and "Direct leak" in done.stderr, done.stderr


def check_training_sanitized(fake: Fake, folder: Path) -> None:
    check_training(fake, folder, ("unfused", "all,async"))


def check_soak_sanitized(fake: Fake, folder: Path) -> None:
    check_soak(fake, folder, 300, 60, 1 << 20)  # the sanitizer keeps what was freed


# 6) the text of it


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_objective_c_compiles_without_a_warning(compiler: str, tmp_path: Path) -> None:
    if why := missing():
        pytest.skip(why)
    if not shutil.which(compiler):
        pytest.skip(f"no {compiler}")
    words = [compiler, *OBJC, "-O1"]
    if compiler == "clang":  # headers of the GCC runtime are in gcc's folder
        words += ["-fobjc-runtime=gcc", "-idirafter", printed("-print-file-name=include")]
    assert len(NATIVE) >= 7
    for source in [*NATIVE, *HERE.glob("*.m")]:
        macro = ["-DANEFAST_FAKE_ANE"] if source.name == "runtime.m" else []
        done = subprocess.run(
            [*words, *macro, "-c", str(source), "-o", str(tmp_path / "x.o")],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr


def functions(path: Path) -> list[tuple[str, str]]:
    """(name, body) of the C functions of a file."""
    text = path.read_text()
    return re.findall(r"^[A-Za-z][^\n;]*?(\w+)\([^;{}]*\) \{\n(.*?)^\}", text, re.M | re.S)


PAIRS = [
    (r"pthread_mutex_lock\(", r"pthread_mutex_unlock\("),
    (r"\[\[NSAutoreleasePool alloc\] init\]", r"\[pool release\]"),
]


def test_what_is_taken_is_given_back() -> None:
    """Mutexes and pools: as many ends as beginnings, and no return between."""
    seen = 0
    for path in NATIVE:
        for name, body in functions(path):
            for begin, end in PAIRS:
                starts = [m.start() for m in re.finditer(begin, body)]
                ends = [m.start() for m in re.finditer(end, body)]
                assert len(starts) == len(ends), f"{path.name} {name}"
                for a, b in zip(starts, ends, strict=True):
                    assert a < b and "return" not in body[a:b], f"{path.name} {name}"
                seen += len(starts)
        text = path.read_text()
        for begin, _ in PAIRS:  # none outside what `functions` finds
            found = sum(len(re.findall(begin, body)) for _, body in functions(path))
            assert found == len(re.findall(begin, text)), path.name
    assert seen >= 15


def test_surfaces_are_locked_and_unlocked_in_one_file() -> None:
    users = {p.name for p in NATIVE if "IOSurfaceLock(" in p.read_text()}
    assert users == {"surface.m"}
    text = (ROOT / "csrc" / "ane" / "surface.m").read_text()
    assert text.count("IOSurfaceUnlock(") > text.count("IOSurfaceLock(")  # and once for the dead


def test_private_names_are_in_one_table() -> None:
    for path in (ROOT / "csrc" / "ane").iterdir():
        if path.name != "selectors.h":
            assert not re.search(r'"_ANE|@selector|NSClassFromString', path.read_text()), path
            if path.name != "private.m":
                assert "objc_msgSend" not in path.read_text(), path
