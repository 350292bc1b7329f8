"""`anefast`: one table of commands, their help, the names of flags, completion in two shells."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from anefast import helping
from anefast.chips.behaviour import CHIPS
from anefast.commands import COMMANDS, main
from anefast.completion import bash, zsh
from anefast.config import ModelConfig, OptimConfig, TrainConfig, keys
from anefast.flags import command_of, spelled_out
from anefast.keywords import setting, shortest
from anefast.models.families import FAMILIES
from anefast.optim import RECORDS

ROOT = Path(__file__).resolve().parent.parent


def told(capsys, *argv: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(argv)
    out, err = capsys.readouterr()
    return int(left.value.code or 0), out, err


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return done.stdout.strip()


def test_importing_the_package_imports_nothing_else_of_ours_and_no_numpy():
    loaded = "import sys; before = set(sys.modules); import {0}; new = set(sys.modules) - before; "
    heavy = "print(sorted(m for m in new if m.partition('.')[0] in ('anefast', 'numpy', 'tyro')))"
    assert python(loaded.format("anefast") + heavy) == "['anefast']"
    named = python(loaded.format("anefast.commands") + heavy)
    assert named == "['anefast', 'anefast.commands', 'anefast.errors', 'anefast.spelling']"
    assert int(python(loaded.format("anefast") + "print(len(new))")) < 60


def test_every_public_name_is_found_and_no_other():
    code = "import anefast; print(*(getattr(anefast, n).__name__ for n in anefast.__all__))"
    assert "init_ffn" in python(code).split()
    code = "import anefast; print(anefast.models.__name__, anefast._C.__name__, dir(anefast))"
    assert python(code).startswith("anefast.models anefast._C ['Device', ")
    code = "import anefast; print(hasattr(anefast, 'zebra'), hasattr(anefast, '_repr_html_'))"
    assert python(code) == "False False"


def test_the_script_is_the_module(capsys):
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"anefast": "anefast.commands:main"}
    for argv in ([], ["--help"], ["help"]):
        code, out, err = told(capsys, *argv)
        assert code == 0 and err == "" and len(out.splitlines()) < 40
        assert all(f"  {name} " in out for name in COMMANDS)
    code, out, _ = told(capsys, "--version")
    assert code == 0 and out.startswith("anefast ")


def test_every_module_that_is_a_command_is_in_the_table():
    files = [p for p in (ROOT / "anefast").rglob("*.py") if "command(" in p.read_text()]
    modules = {".".join(p.relative_to(ROOT / "anefast").with_suffix("").parts) for p in files}
    listed = {command.module for command in COMMANDS.values()}
    assert modules - {"cli", "restart", "commands"} <= listed
    assert {command_of(command.flags()) for command in COMMANDS.values()} == set(COMMANDS)


@pytest.mark.parametrize(
    "typed,hint",
    {
        "trian": "did you mean train?",
        "gen": "--help lists",
        "generat": "did you mean generate?",
        "finetune": "did you mean train?",
        "sample": "did you mean generate?",
        "benchmark": "did you mean bench?",
        "--lr": "anefast train --lr",
        "zebra": "anefast --help lists the commands",
    }.items(),
)
def test_an_unknown_command_is_one_line(capsys, typed, hint):
    code, out, err = told(capsys, typed)
    assert code == 2 and out == "" and err.count("\n") == 1
    assert err.startswith("[anefast] unknown command") and hint in err


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_a_screen(capsys, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = told(capsys, name, "--help")
    lines = out.splitlines()
    assert code == 0 and err == "" and len(lines) < 40, len(lines)
    assert lines[0].startswith(f"usage: anefast {name} ") and max(map(len, lines)) <= 80
    for flag in helping.flags_of(COMMANDS[name].flags()):
        if name != "train" and not flag.placed:
            assert re.search(rf"--(no-)?{flag.name.replace('_', '-')}\b", out), flag.name


def test_train_s_help_is_ten_settings_and_all_of_them_on_request(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    brief = told(capsys, "train", "--help")[1]
    shown = re.findall(r"^  --([a-z-]+)", brief, re.M)
    usual = [name for names in helping.EVERYDAY.values() for name in names]
    assert shown == [shortest(name).replace("_", "-") for name in usual] and len(shown) == 10
    assert "--help-all" in brief
    whole = told(capsys, "train", "--help-all")[1]
    assert re.search(r"--no-dynamic [^(]*\(on\)", whole) and "(0)" in whole
    for name in keys():
        word = shortest(name).replace("_", "-")
        assert re.search(rf"^  --(no-)?{re.escape(word)}\b", whole.replace(".no-", "."), re.M), name


def test_every_flag_of_every_command_says_what_it_is_in_a_sentence_of_its_own():
    for name, command in COMMANDS.items():
        for flag in helping.flags_of(command.flags()):
            assert re.match(r"[A-Z0-9\"].*\.$", flag.text), f"{name}: {flag.name}: {flag.text!r}"


def test_one_word_for_one_thing_in_every_command():
    """What train calls --batch is --batch elsewhere too, and means the same type."""
    ours = {shortest(name): kind for name, kind in keys().items()}
    for name, command in COMMANDS.items():
        if name == "train":
            continue
        for flag in helping.flags_of(command.flags()):
            if flag.name in ours and not flag.placed:
                assert flag.kind in (ours[flag.name], Path), (name, flag.name)
    assert {"preset", "batch", "seq_len", "accumulation", "chip", "plan"} <= {
        flag.name for flag in helping.flags_of(COMMANDS["plan"].flags())
    }


def test_a_short_flag_is_the_setting():
    for name in keys():
        assert setting(shortest(name)) == name
    assert spelled_out("--lr=1") == "--optim.lr=1" and spelled_out("--seq-len") == "--data.seq-len"
    assert spelled_out("--no-tied") == "--model.no-tied" and spelled_out("--seed") == "--seed"
    assert spelled_out("--no-timeline") == "--no-timeline" and spelled_out("x--lr") == "x--lr"


HABITS = {
    "--learning-rate": "did you mean --lr?",
    "--batch-size": "did you mean --batch?",
    "--max-iters": "did you mean --steps?",
    "--epochs": "the length of a run is --steps",
    "--context-length": "did you mean --seq-len?",
    "--n-layer": "did you mean --n-layers?",
    "--block-size": "did you mean --seq-len?",
    "--n-embd": "did you mean --dim?",
    "--grad-accum": "did you mean --accumulation?",
    "--weight_decya": "did you mean --weight-decay?",
}


@pytest.mark.parametrize("typed,hint", HABITS.items())
def test_names_that_people_bring_along(capsys, typed, hint):
    code, out, err = told(capsys, "train", typed, "3")
    assert code == 2 and out == "" and err.count("\n") == 1 and hint in err, err


def test_short_flags_and_keys_reach_the_run(tmp_path, capsys):
    from anefast.cli import train_config

    file = tmp_path / "run.toml"
    file.write_text("lr = 0.5\nbatch = 2\n[optim]\nclip = 0.25\n")
    config, origins = train_config([str(file), "--seq-len", "64", "--n-layers=1", "--no-tied"])
    assert (config.optim.lr, config.optim.clip, config.data.batch) == (0.5, 0.25, 2)
    assert (config.data.seq_len, config.model.n_layers, config.model.tied) == (64, 1, False)
    assert origins["data.seq_len"] == "flag" and origins["optim.lr"] == str(file)


# ---- completion ----


def bash_says(*words: str) -> list[str]:
    typed = " ".join(f"'{w}'" for w in words)
    script = (
        f"{bash()}\nCOMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}; _anefast;"
        "printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stderr == ""
    return done.stdout.split()


def zsh_says(*words: str) -> list[str]:
    """What the function hands to compadd, of which zsh shows what begins as the word does."""
    if not shutil.which("zsh"):
        pytest.skip("zsh is not installed: apt-get install zsh")
    typed = " ".join(f"'{w}'" for w in words)
    script = (
        "compdef() { }\n_files() { print -l -- *(N) }\ncompadd() { shift; print -l -- $@ }\n"
        f"{zsh()}\nwords=({typed}); CURRENT={len(words)}; _anefast"
    )
    done = subprocess.run(
        ["zsh", "-f", "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stderr == ""
    return [word for word in done.stdout.split() if word.startswith(words[-1])]


@pytest.mark.parametrize("says", [bash_says, zsh_says])
def test_completion(says):
    assert says("anefast", "tr") == ["train"]
    assert set(says("anefast", "")) == {*COMMANDS, "--help", "--version"}
    assert says("anefast", "train", "--seq") == ["--seq-len"]
    assert set(says("anefast", "train", "--help")) == {"--help", "--help-all"}
    assert set(says("anefast", "train", "--ti")) == {"--tied", "--timeline"}
    assert says("anefast", "plan", "--preset", "stories1") == ["stories15m", "stories110m"]
    assert says("anefast", "lint", "--format", "") == ["text", "json", "sarif"]
    assert set(says("anefast", "completion", "")) == {"bash", "zsh"}
    assert says("anefast", "generate", "pyproj") == ["pyproject.toml"]


def test_completion_prints_the_script(capsys):
    for shell, script in (("bash", bash()), ("zsh", zsh())):
        code, out, _ = told(capsys, "completion", shell)
        assert code == 0 and out == script + "\n"
    code, _, err = told(capsys, "completion", "fish")
    assert code == 2 and err.count("\n") == 1


def test_a_comment_of_a_field_is_found_wherever_it_stands():
    texts = helping.comments(TrainConfig)
    assert texts["steps"] == "Updates to make."
    assert texts["chip"].startswith("The host emulates: " + ", ".join(CHIPS))
    assert ", ".join(RECORDS) in helping.comments(OptimConfig)["name"]
    assert ", ".join(FAMILIES) in helping.comments(ModelConfig)["family"]
