"""The commands that read files, as the siege calls them, each with the files it is given.

A reader gets a copy of the seeds (seeds.py), damaged or not, and ends as its command ends. Where a
command does little with what it read, the reader does more.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from tests.siege.seeds import adapted_shape


@dataclass(frozen=True)
class Reader:
    """A command, and the files of the seeds that are damaged for it."""

    name: str
    files: str  # a pattern in the folder of seeds
    call: Callable[[Path, random.Random], None]  # gets a copy of the seeds' folder
    folder: str = ""  # what of the seeds is copied; empty: the folder of the file
    raw: bool = False  # its standard output is a model's text, which may be any
    part: float = 1.0  # of the cases that others get: what trains takes longer


def run(main: Callable[[list[str]], object], *words: object) -> None:
    main([str(word) for word in words])


def settings(folder: Path, rng: random.Random) -> None:
    from anefast.cli import describe_origins, guarded, train_config

    sys.exit(guarded(lambda: describe_origins(*train_config([str(folder / "run.toml")]))))


def resume(folder: Path, rng: random.Random) -> None:
    from anefast.train import main

    steps = rng.choice((2, 3))
    run(main, "--resume", folder / "run", "--steps", steps, "--sample-tokens", 0)


def generate(folder: Path, rng: random.Random) -> None:
    from anefast.cli import command
    from anefast.generate import GenerateConfig
    from anefast.generate import generate as continued

    given = ["--tokens", "2", "--prompt", "Hi", "--device", "host"]
    model = folder / "run"
    if not model.exists():
        model = folder / "model.bin"
        given += ["--tokenizer", "bytes"]
    command(GenerateConfig, continued, [str(model), *given])


def tokenize(folder: Path, rng: random.Random) -> None:
    from anefast.cli import guarded
    from anefast.tokenizer import open_tokenizer

    def there_and_back() -> None:
        name = "tokenizer.bin" if folder.name == "pieces" else "tokenizer.json"
        tokenizer = open_tokenizer(str(folder / name))
        tokenizer.decode(tokenizer.encode("Once upon the \u00e9 time"))
        tokenizer.decode(range(min(tokenizer.vocab_size, 400)))

    sys.exit(guarded(there_and_back))


def inspect(folder: Path, rng: random.Random) -> None:
    from anefast.cli import guarded
    from anefast.formats import open_source
    from anefast.inspect import main

    file = folder / "model.gguf"
    path = file if file.exists() or file.is_symlink() else folder

    def weights() -> None:
        if (source := open_source(path)) is not None:
            source.load()

    if code := guarded(weights):
        sys.exit(code)
    run(main, path)


def adapters(folder: Path, rng: random.Random) -> None:
    from anefast.cli import guarded
    from anefast.formats import open_adapter
    from anefast.inspect import main

    def numbers() -> None:
        if (source := open_adapter(folder)) is not None:
            source.load(adapted_shape()).check(adapted_shape())

    if code := guarded(numbers):
        sys.exit(code)
    if open_adapter(folder) is not None:
        run(main, folder)


def chats(folder: Path, rng: random.Random) -> None:
    from anefast.cli import guarded
    from anefast.tokenizer import open_tokenizer
    from anefast.tokenizer.chat import Chat

    def written() -> None:
        tokenizer = open_tokenizer(str(folder))
        tokenizer.decode(tokenizer.encode("Once upon the \u00e9 time"))
        tokenizer.decode(range(min(tokenizer.vocab_size, 400)))
        chat = Chat.of(tokenizer)
        if chat is not None:
            chat.encode(chat.write([{"role": "user", "content": "Hi"}], answer=True))

    sys.exit(guarded(written))


def corpus(folder: Path, rng: random.Random) -> None:
    from anefast.cli import guarded
    from anefast.data import open_data

    def batches() -> None:
        name = "data.bin" if folder.name == "shard" else "data.txt"
        data = open_data(str(folder / name), "bytes")
        data.batches(2, 32).batch(0)
        list(data.validation_batches(2, 32, 3))

    sys.exit(guarded(batches))


def replay(folder: Path, rng: random.Random) -> None:
    from anefast.replay import main

    run(main, folder, "--device", "host")


def lint(folder: Path, rng: random.Random) -> None:
    from anefast.lint import main

    fix = ["--fix"] * rng.randrange(2)
    run(main, folder, "--format", rng.choice(("text", "json", "sarif")), *fix)


def report(folder: Path, rng: random.Random) -> None:
    from anefast.cli import guarded
    from anefast.report import main
    from anefast.telemetry import page
    from anefast.telemetry.history import read_history

    if rng.random() < DRAWN:
        return run(main, folder / "run")
    draw, page.svg = page.svg, lambda name, runs: ""
    try:
        if code := guarded(lambda: page.page([read_history(folder / "run")]).encode()):
            sys.exit(code)
    finally:
        page.svg = draw
    run(main, folder / "run", "--text")


def caches(folder: Path, rng: random.Random) -> None:
    from anefast.plan import main
    from anefast.runtime import Device, calibrate

    os.environ["ANEFAST_CACHE"] = str(folder)
    if rng.random() < DRAWN:
        run(main, "--preset", "stories260k", "--seq-len", 32)
    rates = calibrate.calibrate(Device("host"))
    rates.evaluation(NO_WORK)


DRAWN = 0.03  # the part of reports and plans that is made in full, which takes a second or two
NO_WORK = SimpleNamespace(
    products=(), weight_bytes=1, value_bytes=1, port_bytes=1, copied_bytes=1, operations=1
)


READERS = (
    Reader("settings", "settings/run.toml", settings),
    Reader("run files", "run/run/*.*", resume, "run", part=0.25),
    Reader("checkpoint resumed", "run/run/step_000002/*", resume, "run", part=0.25),
    Reader("checkpoint", "run/run/step_000002/*", generate, "run", raw=True),
    Reader("llama2.c model", "llama2c/model.bin", generate, raw=True),
    Reader("llama2.c tokenizer", "pieces/tokenizer.bin", tokenize),
    Reader("tokenizer.json", "words/tokenizer.json", tokenize),
    Reader("Hugging Face folder", "hf/*", inspect),
    Reader("Hugging Face shards", "shards/*", inspect),
    Reader("safetensors", "hf/model.safetensors", inspect),
    Reader("GPT-2 folder", "gpt2/*", inspect),
    Reader("GGUF", "gguf/model.gguf", inspect),
    Reader("GGUF of pieces", "scores/model.gguf", inspect),
    Reader("PEFT adapter", "peft/*", adapters),
    Reader("mlx-lm adapter", "mlx/*", adapters),
    Reader("tokenizer of a model", "chat/*", chats),
    Reader("token shard", "shard/data.bin", corpus),
    Reader("text", "text/data.txt", corpus),
    Reader("replay", "dump/**/*.*", replay, "dump"),
    Reader("lint", "dump/**/*.[mb]i[ln]", lint, "dump"),
    Reader("report", "run/run/*.*", report, "run"),
    Reader("caches", "cache/*.json", caches),
)
