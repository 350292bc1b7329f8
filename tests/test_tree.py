"""The house rules that a test can keep: imports run one way, one file knows pybind11."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
LAYERS = [
    {
        "errors",
        "parsing",
        "files",
        "mapped",
        "kinds",
        "checks",
        "spelling",
        "schema",
        "npz",
        "ramp",
    },
    {"_C", "config", "chips", "debug", "environment", "presets", "keywords"},
    {"ir"},
    {"models"},
    {"mil"},
    {"fuse"},
    {"runtime"},
    {
        "optim",
        "data",
        "stories",
        "tokenizer",
        "sampling",
        "checkpoint",
        "telemetry",
        "formats",
    },
    {"decode", "drafts", "score"},
    {"summary", "saving", "loading", "model", "updates", "results", "coverage"},
    {"distributed"},
    {
        "cli",
        "flags",
        "helping",
        "wishes",
        "restart",
        "progress",
        "signals",
        "soundness",
        "forecast",
    },
    {"run_state", "adapting"},
    {"rescue"},
    {"origins"},
    {"trainer", "opening"},
    {"ending"},
    {
        "train",
        "sweep",
        "generate",
        "chat",
        "eval",
        "plan",
        "lint",
        "report",
        "replay",
        "export",
        "inspect",
    },
    {"serve"},
    {"bench"},
    {"doctor"},
    {"commands", "completion"},
]
# Methods of the object that a notebook holds: what they call is imported when they are called.
LATE = {"model.py": {"train", "eval"}}
RANK = {name: i for i, layer in enumerate(LAYERS) for name in layer}


def imports(path: Path) -> set[str]:
    """Modules of ours that a file imports at its top level, by their first name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("anefast"):
            parts = node.module.split(".")[1:]
            found |= {parts[0]} if parts else {alias.name for alias in node.names}
        if isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("anefast.")}
    return found


def test_imports_run_downward():
    for path in sorted((ROOT / "anefast").rglob("*.py")):
        name = path.relative_to(ROOT / "anefast").parts[0].removesuffix(".py")
        if name in {"__init__", "__main__"}:
            continue
        assert name in RANK, f"{path.name}: give {name} its place in LAYERS"
        for other in (imports(path) & set(RANK)) - LATE.get(path.name, set()):
            assert RANK[other] <= RANK[name], f"{path.relative_to(ROOT)} imports {other}"


def test_pybind11_is_seen_by_the_bindings_only():
    sources = [p for p in (ROOT / "csrc").rglob("*.*") if "pybind11" in p.read_text()]
    assert sources
    assert all(p.name.startswith("bind") or p.parent.name == "bind" for p in sources), sources


def test_errors_are_filled_in_one_place():
    sources = [p for p in (ROOT / "csrc").rglob("*.*") if "error->message, sizeof" in p.read_text()]
    assert [p.name for p in sources] == ["error.c"]


def test_no_device_is_asked_for_its_name():
    door = {"device.py"}
    for path in (ROOT / "anefast").rglob("*.py"):
        if path.name not in door:
            assert "device ==" not in path.read_text(), path
            assert "device.name ==" not in path.read_text(), path


# What opens, changes or removes files by their path; files.py has a function for each.
BUILTINS = {"open"}
MODULES = {
    "os": {"open", "fdopen", "mkdir", "makedirs", "rmdir", "removedirs", "unlink", "remove",
           "rename", "renames", "replace", "link", "symlink", "truncate", "mkfifo"},
    "shutil": {"rmtree", "copy", "copy2", "copyfile", "copytree", "move"},
    "tempfile": {"mkstemp", "mkdtemp", "mktemp", "NamedTemporaryFile"},
    "np": {"load", "save", "memmap", "fromfile", "loadtxt", "genfromtxt"},
    "io": {"open", "FileIO"},
    "zipfile": {"ZipFile"},
}  # fmt: skip
METHODS = {"read_text", "read_bytes", "write_text", "write_bytes", "touch", "unlink", "mkdir",
           "rmdir", "rename", "symlink_to", "hardlink_to", "open"}  # fmt: skip
LIBRARIES = {"load_file", "save_file", "safe_open", "serialize_file"}
# Stated exceptions: file -> what it may call besides, and why.
MAY_OPEN = {
    "files.py": {*BUILTINS, *METHODS, *MODULES["os"], *MODULES["shutil"]},  # the border itself
    "npz.py": {"ZipFile", "open"},  # of a file that the border opened
    # a library writes the tensors; a new folder, which must not be there; a link for people
    "checkpoint/writing.py": {"save_file", "open", "mkdir", "symlink_to"},
    "data/shards.py": {"open"},  # a method of data's own, which opens at the border
    "data/source.py": {"open", "fdopen"},  # the same, and what was opened once more
    "data/text.py": {"open"},  # the same
    "cli.py": {"open"},  # /dev/null, for standard streams that were closed
    "doctor/apart.py": {"fdopen"},  # standard output
    "mil/lint/catalogue.py": {"read_text"},  # the rules, which are part of the package
    "wishes.py": {"read_bytes"},  # what it has just written into a temporary folder
    "telemetry/run.py": {"rmdir"},  # an empty folder that it made
    "bench/tables/terminal.py": {"open"},  # in a temporary folder of its own
}  # fmt: skip


def opened(path: Path) -> list[str]:
    """The calls of a file that open, change or remove files by their path. NumPy may be lent an
    open `file` or `reader`."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        call = node.func
        if isinstance(call, ast.Name) and call.id in BUILTINS | LIBRARIES:
            found.append(call.id)
        if isinstance(call, ast.Attribute):
            module = call.value.id if isinstance(call.value, ast.Name) else ""
            names = MODULES.get(module, METHODS)
            first = [a.id for a in node.args[:1] if isinstance(a, ast.Name)]
            lent = first in (["file"], ["reader"])
            if call.attr in names or call.attr in LIBRARIES:
                found += [] if module == "np" and lent else [call.attr]
    return found


def test_files_are_opened_at_the_border_only():
    for path in sorted((ROOT / "anefast").rglob("*.py")):
        name = path.relative_to(ROOT / "anefast").as_posix()
        calls = set(opened(path)) - MAY_OPEN.get(name, set())
        assert not calls, (
            f"{name} calls {', '.join(sorted(calls))}: anefast/files.py has a function"
        )


def test_every_exception_is_needed():
    for name, calls in MAY_OPEN.items():
        if name != "files.py":
            assert calls == set(opened(ROOT / "anefast" / name)) & calls, name


def test_the_search_for_opened_files_finds_them(tmp_path):
    lines = ["open(p)", "os.replace(a, b)", "Path(p).read_text()", "np.memmap(p)", "load_file(p)"]
    for line in lines:
        (tmp_path / "x.py").write_text(line)
        assert opened(tmp_path / "x.py"), line
    (tmp_path / "x.py").write_text(
        "text.replace(a, b); read_text(p); np.savez(file); np.memmap(file)"
    )
    assert opened(tmp_path / "x.py") == []


MOST_LINES = 500  # past these, two stories share a file


def test_a_file_tells_one_story():
    long = {
        path.relative_to(ROOT).as_posix(): lines
        for path in (ROOT / "anefast").rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > MOST_LINES
    }
    assert not long, f"over {MOST_LINES} lines: {long}"
