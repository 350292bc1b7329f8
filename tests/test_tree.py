"""The house rules that a test can keep: imports run one way, one file knows pybind11."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
LAYERS = [
    {"errors", "files", "kinds", "checks", "spelling"},
    {"_C", "config", "chips", "debug", "environment", "presets"},
    {"ir"},
    {"nn"},
    {"mil"},
    {"fuse"},
    {"runtime"},
    {
        "optim",
        "data",
        "stories",
        "tokenizer",
        "sampling",
        "llama2c",
        "checkpoint",
        "telemetry",
        "formats",
    },
    {"model", "cli", "flags", "wishes", "restart", "progress", "signals", "soundness", "forecast"},
    {"trainer", "opening"},
    {"train", "generate", "plan", "lint", "report", "replay", "export", "inspect"},
    {"bench"},
    {"doctor"},
]
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
        for other in imports(path) & set(RANK):
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
