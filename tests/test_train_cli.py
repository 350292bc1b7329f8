"""The command: layering of settings, and every bad request as one line with exit code 2."""

from __future__ import annotations

import struct
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from anefast.cli import describe_origins, parse, train_config
from anefast.config import ConfigError
from anefast.train import fit, main

from .bigram import DEVICE, BigramModel

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    """Every test works in a folder of its own, which stands for the user's."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def table(config, **options):
    """`fit` with a table for a model; a table has no programs to plan."""
    return fit(config.replace(plan="unfused"), model=BigramModel(), device=DEVICE, **options)


SMALL = [
    "--preset",
    "bytes",
    "--data",
    "stories:30",
    "--data.seq-len",
    "32",
    "--steps",
    "4",
    "--eval-batches",
    "2",
]


def command(capfd, *argv, fit=table):
    """Exit code, stdout and stderr of the command."""
    with pytest.raises(SystemExit) as left:
        main(list(argv), fit=fit)
    out, err = capfd.readouterr()
    return left.value.code, out, err


def test_flag_over_file_over_preset_over_default(in_folder):
    Path("run.toml").write_text(
        'preset = "stories260k"\nsteps = 7\ndata = "my.txt"\n[optim]\nlr = 1\nbeta1 = 0.8\n'
    )
    config, origins = train_config(["run.toml", "--optim.lr=2", "--tokenizer", "tok.bin"])
    assert (config.model.dim, config.steps, config.optim.lr) == (64, 7, 2.0)
    assert (config.optim.beta1, config.optim.beta2) == (0.8, -1.0)
    assert (config.data.source, config.data.tokenizer) == ("my.txt", "tok.bin")
    assert origins["optim.lr"] == "flag" and origins["steps"] == "run.toml"
    assert origins["model.dim"] == "preset stories260k" and "optim.beta2" not in origins
    lines = describe_origins(config, origins)
    assert "flag: data.tokenizer tok.bin, optim.lr 2.0" in lines
    config, _ = train_config(["run.toml", "--preset", "stories15m"])
    assert config.model.dim == 288 and config.steps == 7


def test_a_flag_may_put_a_file_right():
    Path("run.toml").write_text('preset = "bytes"\n[model]\nn_heads = 5\n')
    with pytest.raises(ConfigError, match="not divisible by"):
        train_config(["run.toml"])
    assert train_config(["run.toml", "--model.dim", "80"])[0].model.head_dim == 16


def test_booleans_and_integers_as_floats():
    config, _ = train_config(["--model.no-tied", "--optim.lr=1", "--optim.weight-decay", "0"])
    assert (config.model.tied, config.optim.lr, config.optim.weight_decay) == (False, 1.0, 0.0)


def test_help_of_the_module_is_that_of_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "anefast.train", "--help-all"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr == ""
    for word in ("usage: anefast train", "--seq-len", "smollm2-135m", "--accumulation", "--resume"):
        assert word in done.stdout


def test_a_whole_run_says_what_matters(capfd):
    code, out, err = command(capfd, *SMALL, "--out", "runs/a", "--optim.lr", "0.1")
    assert code == 0 and err == ""
    assert "validation loss 5.5" in out and "(floor 0." in out and "tokens/s" in out
    assert "emulated" in out and "a sample:\n......" in out and "runs/a" in out
    assert {p.name for p in Path("runs/a").iterdir()} >= {
        "config.toml", "env.json", "metrics.jsonl", "timings.jsonl", "latest", "best.json",
        "sample.txt", "step_000004",
    }  # fmt: skip
    code, out, err = command(capfd, "--resume", "--steps", "6")  # the newest run
    assert code == 0 and "resumed from runs/a/step_000004 at update 4" in out and err == ""
    code, out, _ = command(capfd, "--resume=runs/a")
    assert code == 0 and "nothing to do" in out
    # the snapshot starts the same run again
    first = Path("runs/a/metrics.jsonl").read_bytes()
    code, _, err = command(capfd, "runs/a/config.toml", "--out", "runs/b")
    assert code == 0 and err == ""
    assert len(Path("runs/b/metrics.jsonl").read_bytes().splitlines()) == 7
    assert first.splitlines()[0] == Path("runs/b/metrics.jsonl").read_bytes().splitlines()[0]


def files():
    """The bad files that the rows below name."""
    Path("empty.txt").write_text("")
    Path("short.txt").write_text("Once.")
    Path("words.txt").write_text("Once upon a time\n")
    Path("long.txt").write_text("Once upon a time.\n\n\n" * 100_000)
    Path("wide.txt").write_text("Once", encoding="utf-16")
    Path("binary.txt").write_bytes(bytes(range(256)) * 8)
    Path("odd.bin").write_bytes(b"123")
    Path("large.bin").write_bytes(struct.pack("<H", 7) * 5000 + struct.pack("<H", 9999))
    Path("folder").mkdir()
    Path("model.bin").write_bytes(b"this is a text and no model at all, " * 30)
    Path("cut.bin").write_bytes(struct.pack("<7i", 64, 172, 5, 8, 4, 512, 512) + bytes(1000))
    Path("key.toml").write_text("[optim]\nlearning_rate = 1\n")
    Path("type.toml").write_text('steps = "many"\n')
    Path("broken.toml").write_text("steps = \n")
    Path("used").mkdir()
    Path("used/thesis.txt").write_text("irreplaceable")


BAD = [
    (["--data", "none.txt"], "there is no none.txt"),
    (["--data", "empty.txt"], "empty.txt is empty"),
    (["--data", "short.txt"], "at least"),
    (["--data", "binary.txt"], "binary.txt"),
    (["--data", "folder"], "folder"),
    (["--data", "odd.bin"], "odd.bin has 3"),
    (["--data", "large.bin"], "large.bin has 9999 at token 5000"),
    (["--tokenizer", "none.bin"], "none.bin"),
    (["--tokenizer", "model.bin"], "model.bin"),
    (["--data.seq-len", "100"], "multiple of 32, got 100. Hint: use 128"),
    (["--preset", "bytes", "--model.n-heads", "3"], "not divisible by model.n_heads 3"),
    (["--model.n-kv-heads", "3"], "not divisible by model.n_kv_heads 3"),
    (["--model.vocab-size", "100"], "at least the tokenizer's 2172, got 100"),
    (["--preset", "stories15"], "did you mean stories15m?"),
    (
        ["--model.n-layer", "2"],
        "unknown flag --model.n-layer. Hint: did you mean --n-layers?",
    ),
    (["--dta", "x"], "unknown flag --dta. Hint: did you mean --data?"),
    (["key.toml"], "unknown setting 'optim.learning_rate' in key.toml"),
    (["type.toml"], "steps expected int, got 'many' (str) in type.toml"),
    (["broken.toml"], "broken.toml is not TOML"),
    (["none.toml"], "cannot read none.toml"),
    (["words.txt"], "words.txt is not TOML"),
    (["words.txt"], "Hint: settings come first; did you mean --data words.txt, or --init?"),
    (["long.txt"], "at most 1,048,576 bytes, it has 2,000,000. Hint: settings come first; did"),
    (["used"], "expected used to be a file, it is a folder. Hint: settings come first; did you"),
    (["wide.txt"], "got UTF-16. Hint: settings come first; did you mean --data wide.txt"),
    (["--steps", "many"], "--steps"),
    (["--steps"], "--steps"),
    (["--steps", "0"], "steps must be at least 1"),
    (["--device", "gpu"], "device must be one of"),
    (["--out", "used"], "used already holds thesis.txt"),
    (["--out", "empty.txt"], "is a file"),
    (["--out", "empty.txt/run"], "cannot use empty.txt/run"),
    (["--resume", "none"], "none is not a run"),
    (["--resume", "used"], "used is not a run"),
    (["--resume"], "there is no run"),
    (["--resume", "none", "--optim.lr", "1"], "none is not a run"),
    (["--init", "none.bin"], "[model] expected a run, a checkpoint, a Hugging Face folder"),
    (["--init", "none.bin"], "there is no none.bin"),
    (["--init", "model.bin"], "model.bin is not a llama2.c model"),
    (["--init", "cut.bin"], "cut.bin is cut short"),
    (["--init", "used"], "used has none"),
]


@pytest.mark.parametrize("argv,message", BAD, ids=[" ".join(argv) for argv, _ in BAD])
def test_bad_requests_get_one_line_and_exit_code_2(capfd, argv, message):
    files()
    before = {p: p.read_bytes() for p in Path().rglob("*") if p.is_file()}
    inner = fit
    if not any("init" in a or "vocab" in a for a in argv):
        bigram = BigramModel()
        shape = bigram.config.replace(max_seq_len=256)
        bigram.config = shape
        if "--tokenizer" in argv or argv == ["--data", "large.bin"]:
            bigram = None
        inner = partial(fit, model=bigram, device=DEVICE)
    elif "--init" in argv:
        pytest.importorskip(
            "anefast._C", reason="the native module is not built", exc_type=ImportError
        )
    code, _, err = command(capfd, *argv, fit=inner)
    assert code == 2 and err.count("\n") == 1, err
    assert message in err and err.startswith("["), err
    assert before == {p: p.read_bytes() for p in Path().rglob("*") if p.is_file()}


def test_a_defect_is_not_dressed_up_as_a_bad_request():
    def broken(config, **_):
        raise ValueError("setting an array element with a sequence")

    with pytest.raises(ValueError, match="array element"):
        main(SMALL, fit=broken)


def test_other_commands_parse_the_same_way():
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Other:
        top_k: int = 0

    assert parse(Other, ["--top-k", "3"]).top_k == 3
    with pytest.raises(ConfigError, match=r"unknown flag --topk. Hint: did you mean --top-k\?"):
        parse(Other, ["--topk", "3"])


def test_a_missing_extra_is_one_line(in_folder, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)  # as if it were not installed
    Path("my.txt").write_text("Once upon a time. " * 500)
    code, _, err = command(capfd, "--data", "my.txt", "--tokenizer", "bpe:300", fit=fit)
    assert code == 2
    assert err == (
        "[tokenizer] BPE needs the tokenizers library, which is not installed. "
        "Hint: pip install 'anefast[bpe]'.\n"
    )
