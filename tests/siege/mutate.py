"""Damaged copies of every file that a command reads, and what becomes of the command.

    python -m tests.siege.mutate 10000 [READER...]

A reader is a command with the sound files it is given; cases are named by reader and number, and
are the same on every machine. They run in a child, one after the other: a case that ends the child
is a crash and costs itself only. What is wrong is a traceback, a crash, a hang, memory beyond half
as much again as the sound files take, a control character on standard error or output, an exit code
that is not documented, or an error that is not one tagged line.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from tests.siege.changes import change

if TYPE_CHECKING:
    from anefast.config import ModelConfig

RARE = -3  # the number of a case of sound files that takes the rare ways
SECONDS = 10.0  # a case that takes longer hangs
SLACK_KB = 48 << 10  # of memory, for what libraries load at their first error
ADDRESS_SPACE = 8 << 30
ROOT = Path(__file__).parents[2]
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
MODEL = (
    "--model.dim 32 --model.n-layers 1 --model.n-heads 2 --model.hidden-dim 64 --data stories:20 "
    "--data.seq-len 32 --data.batch 1 --optim.accumulation 1 --optim.warmup-steps 1 "
    "--checkpoint-every 1 --eval-batches 1 --plan all"
).split()


@dataclass(frozen=True)
class Reader:
    """A command, and the files of the seeds that are damaged for it."""

    name: str
    files: str  # a pattern in the folder of seeds
    call: Callable[[Path, random.Random], None]  # gets a copy of the seeds' folder
    folder: str = ""  # what of the seeds is copied; empty: the folder of the file
    raw: bool = False  # its standard output is a model's text, which may be any
    part: float = 1.0  # of the cases that others get: what trains takes longer


@dataclass
class Verdicts:
    """What became of the cases of a reader."""

    tried: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    wrong: list[dict[str, Any]] = field(default_factory=list)

    def count(self, row: dict[str, Any]) -> None:
        if row["case"] >= 0:  # negative: sound files
            self.tried += 1
            self.codes[str(row["code"])] += 1
        if "wrong" in row:
            self.wrong.append(row)

    def line(self, name: str) -> str:
        kinds = Counter(str(case["wrong"]) for case in self.wrong)
        said = ", ".join(f"{n} {kind}" for kind, n in kinds.items()) or "nothing wrong"
        codes = ", ".join(f"{n} x {code}" for code, n in sorted(self.codes.items()))
        return f"{name}: {self.tried} tried, {said}; exit codes {codes}"


# The readers.


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


def adapted_shape() -> ModelConfig:
    from anefast.config import ModelConfig

    return ModelConfig(
        family="gpt2", dim=32, n_layers=1, n_heads=2, hidden_dim=64, vocab_size=259, max_seq_len=32
    )


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


def make_seeds(seeds: Path) -> None:
    """The sound files, made by the commands themselves."""
    import numpy as np

    from anefast import llama2c
    from anefast.config import ModelConfig
    from anefast.nn import init_params
    from anefast.runtime import Device
    from anefast.runtime.calibrate import calibrate
    from anefast.runtime.learned import Learned, remember
    from anefast.tokenizer import ByteTokenizer, Llama2cTokenizer
    from anefast.train import main

    for name in ("settings", "run", "llama2c", "pieces", "words", "shard", "text", "cache"):
        (seeds / name).mkdir(parents=True)
    os.environ |= {"ANEFAST_CACHE": str(seeds / "cache"), "ANEFAST_DUMP": str(seeds / "dump")}
    with contextlib.suppress(SystemExit):
        out = seeds / "run" / "run"
        main([*MODEL, "--steps", "2", "--sample-tokens", "4", "--out", str(out)])
    del os.environ["ANEFAST_DUMP"]
    shutil.rmtree(out / "step_000001")
    shutil.copy(out / "config.toml", seeds / "settings" / "run.toml")
    device = Device("host")
    calibrate(device)
    remember(device.description, Learned(dialects=("ios18",), dispatch_us=2.5))
    shape = ModelConfig(dim=32, n_layers=2, n_heads=2, hidden_dim=64, vocab_size=259)
    llama2c.save(seeds / "llama2c" / "model.bin", shape, init_params(shape, 0), 0)
    pieces = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *(b"<0x%02X>" % i for i in range(256))]
    pieces += [b" ", b"e", b"t", b"th", b"the", b" the", b"O", b"n", b"On"]
    Llama2cTokenizer(pieces, [-float(i) for i in range(len(pieces))]).save(seeds / "pieces")
    ByteTokenizer().save(seeds / "words")
    models(seeds)
    ids = np.random.default_rng(0).integers(3, 259, 5000).astype("<u2")
    (seeds / "shard" / "data.bin").write_bytes(ids.tobytes())
    (seeds / "text" / "data.txt").write_text("Once upon a time there was a cat.\n" * 200)


def models(seeds: Path) -> None:
    """Models in the formats of others, as our own writers write them."""
    from anefast.config import ModelConfig
    from anefast.formats import save_folder, save_gguf, save_mlx, save_peft
    from anefast.nn import init_params
    from anefast.nn.adapter import Base, adaptable
    from anefast.nn.lora import draw
    from anefast.tokenizer import BPETokenizer, ByteTokenizer
    from anefast.tokenizer.bpe import Marks

    plain = ModelConfig(dim=32, n_layers=1, n_heads=2, hidden_dim=64, vocab_size=259)
    scaled = plain.replace(n_kv_heads=1, rope_scaling="llama3:8,1,4,32", tied=False)
    for name, shape in (("hf", scaled), ("gpt2", plain.replace(family="gpt2", max_seq_len=32))):
        save_folder(seeds / name, shape, init_params(shape, 0), "F16", ByteTokenizer())
    save_folder(seeds / "shards", plain, init_params(plain, 0), "BF16")
    weights = "model-00001-of-00001.safetensors"
    (seeds / "shards" / "model.safetensors").rename(seeds / "shards" / weights)
    head = (seeds / "shards" / weights).read_bytes()
    listed = json.loads(head[8 : 8 + int.from_bytes(head[:8], "little")])
    index = {"weight_map": {n: weights for n in listed if n != "__metadata__"}}
    (seeds / "shards" / "model.safetensors.index.json").write_text(json.dumps(index))
    (seeds / "gguf").mkdir()
    save_gguf(
        seeds / "gguf" / "model.gguf", scaled, init_params(scaled, 0), "Q8_0", ByteTokenizer()
    )
    shape = adapted_shape()
    adapter = draw(4, 8.0, False, adaptable(shape), Base("a/model", "ab" * 32), seed=0)
    save_peft(seeds / "peft", adapter, shape)
    save_mlx(seeds / "mlx", adapter, shape, "F16")
    trained = BPETokenizer.train(["Once upon a time the cat sat. " * 20], 280)
    template = (
        "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] | trim }}</s>{% endfor %}"
    )
    marks = Marks("<s>", "</s>", True, template)
    described = json.dumps(trained.description())
    (seeds / "chat").mkdir()
    BPETokenizer(described, "bpe:280", marks).save(seeds / "chat")


# The child.


def damage(reader: Reader, number: int, seeds: Path, work: Path) -> random.Random:
    """Copies the seeds to `work` and damages a file or two: the same for the same number.

    The copy keeps its name, by which some readers tell their files.
    """
    rng = Rare() if number == RARE else random.Random(f"{reader.name} {number}")
    names = sorted(p.relative_to(seeds) for p in seeds.glob(reader.files) if p.is_file())
    top = Path(reader.folder) if reader.folder else names[0].parent
    shutil.copytree(seeds / top, work / top, symlinks=True)
    for name in rng.sample(names, min(len(names), rng.choice((1, 1, 2)))) if number >= 0 else ():
        change(rng, work / name)
        if name.suffix != ".json" and rng.random() < 0.5:
            hash_again(work / name)
    return rng


def hash_again(path: Path) -> None:
    """Has the state of a checkpoint know its damaged file, so that more than its hash is read."""
    import hashlib

    state = path.parent / "state.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        sizes = [p.stat().st_size if p.is_file() else 1 << 40 for p in (path, state)]
        if max(sizes) < 1 << 26:
            known = json.loads(state.read_text())
            known["sha256"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
            state.write_text(json.dumps(known))


class Rare(random.Random):
    """Takes every rare way, so that what it loads is loaded before memory is looked at."""

    def random(self) -> float:
        return 0.0


class Hang(BaseException):
    """A case took too long."""


def serve(jobs: Sequence[tuple[Reader, int, int]], seeds: Path) -> None:
    """Runs the cases of each reader from the first to before the last.

    Prints a line of JSON before and after each; errors leave no other trace.
    """
    results = os.fdopen(os.dup(1), "w", buffering=1)
    work = Path(tempfile.mkdtemp(dir=seeds.parent))
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, _alarm)
    os.chdir(work)
    rates_known(seeds)
    for reader, first, last in jobs:
        sound = 0
        rare = (RARE,) if last - first > 100 else ()
        for number in (*rare, -2, -1, *range(first, last)):  # sound ones first: they load libraries
            results.write(json.dumps({"begins": number, "reader": reader.name}) + "\n")
            row, taken = tried(reader, number, seeds, work / "case")
            if number < 0:
                sound = taken if number == -1 else 0
                if row["code"] not in (0, 1):
                    row["wrong"] = "sound files refused"
            elif taken > 1.5 * sound + SLACK_KB:
                row |= {"wrong": row.get("wrong", "memory"), "kb": taken, "sound_kb": sound}
            results.write(json.dumps(row) + "\n")


def rates_known(seeds: Path) -> None:
    """Has a calibration that is refused be measured anew at no cost."""
    from anefast.runtime import Device, calibrate

    os.environ["ANEFAST_CACHE"] = str(seeds / "cache")
    known = calibrate.calibrate(Device("host"))
    calibrate.measure = lambda device: known


def tried(reader: Reader, number: int, seeds: Path, work: Path) -> tuple[dict[str, object], int]:
    """A case with what was wrong with it, and the KB of memory that it took."""
    shutil.rmtree(work, ignore_errors=True)
    rng = damage(reader, number, seeds, work)
    folder = work / (reader.folder or Path(reader.files).parent)
    before = peak_kb(reset=True)
    row: dict[str, object] = {"reader": reader.name, "case": number, "code": 0}
    began = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with streams_to(out.fileno(), err.fileno()):
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            try:
                reader.call(folder, rng)
            except SystemExit as left:
                row["code"] = left.code or 0
            except Hang:
                row["wrong"] = "hang"
            except BaseException as error:
                last = traceback.extract_tb(error.__traceback__)[-1]
                told = f"{type(error).__name__}: {str(error)[:200]} ({last.filename}:{last.lineno})"
                row |= {"wrong": "traceback", "told": told}
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        said, errors = (read_back(file.fileno()) for file in (out, err))
    row["seconds"] = round(time.monotonic() - began, 2)
    if "wrong" not in row:
        row |= judged(reader, row["code"], said, errors)
    return row, peak_kb() - before


def judged(reader: Reader, code: object, said: str, errors: str) -> dict[str, object]:
    """What is wrong with how a command ended."""
    lines = errors.strip().splitlines()
    told = {"told": "\n".join(lines)[-400:]}
    if CONTROLS.search(errors) or (not reader.raw and CONTROLS.search(said)):
        return {"wrong": "control character", **told, "said": said[-200:]}
    if code not in (0, 1, 2):
        return {"wrong": "exit code", **told}
    tagged = lines and re.match(r"\[[a-z][\w. -]*\] ", lines[-1])
    if code and (not tagged or len(lines[-1]) > 4100):
        return {"wrong": "no tagged line", **told}
    if code and "Errno" in lines[-1]:
        return {"wrong": "not our words", **told}
    return {}


@contextlib.contextmanager
def streams_to(out: int, err: int) -> Iterator[None]:
    """Standard output and error, at the level of descriptors: commands write to those too."""
    kept = os.dup(1), os.dup(2)
    sys.stdout.flush()
    os.dup2(out, 1)
    os.dup2(err, 2)
    try:
        yield
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        for number, old in zip((1, 2), kept, strict=True):
            os.dup2(old, number)
            os.close(old)


def read_back(descriptor: int) -> str:
    size = os.lseek(descriptor, 0, os.SEEK_END)
    return os.pread(descriptor, min(size, 1 << 20), max(0, size - (1 << 20))).decode(
        "utf-8", "replace"
    )


def peak_kb(reset: bool = False) -> int:
    """The most memory in use since the last reset, where Linux says so; else since ever."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0])
    except OSError:
        return 0


def _alarm(*_: object) -> None:
    raise Hang


# The parent.


def siege(readers: Sequence[Reader], first: int, count: int, seeds: Path) -> list[Verdicts]:
    """Runs cases in children until all were tried; what became of them by reader."""
    found = {reader.name: Verdicts() for reader in readers}
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    env.pop("ANEFAST_TRACEBACK", None)
    jobs = [(r, first, first + max(1, round(count * r.part))) for r in readers]
    while jobs:
        words = [f"{reader.name}:{at}:{end}" for reader, at, end in jobs]
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.siege.mutate", "serve", str(seeds), *words],
            stdout=subprocess.PIPE, text=True, env=env,
        )  # fmt: skip
        assert child.stdout is not None
        row: dict[str, Any] = {"begins": jobs[0][1], "reader": jobs[0][0].name}
        began = False
        for line in child.stdout:
            began = True
            row = json.loads(line)
            if "begins" not in row:
                found[row["reader"]].count(row)
        child.stdout.close()
        if child.wait() == 0:
            break
        if not began:
            raise RuntimeError("[siege] the child ended before its first case")
        name, number = row["reader"], int(row.get("begins", row.get("case", 0)))
        crash = {"reader": name, "case": number, "wrong": f"crash {child.returncode}", "code": "-"}
        found[name].count(crash)
        at = [reader.name for reader, *_ in jobs].index(name)
        reader, _, end = jobs[at]
        jobs = [(reader, number + 1, end)] * (0 <= number < end - 1) + jobs[at + 1 :]
    return list(found.values())


@contextlib.contextmanager
def sound_files() -> Iterator[Path]:
    """A folder of seeds, made in a child so that this process stays as it is."""
    with tempfile.TemporaryDirectory() as folder:
        seeds = Path(folder) / "seeds"
        done = subprocess.run(
            [sys.executable, "-m", "tests.siege.mutate", "seeds", str(seeds)],
            env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        yield seeds


def main(words: Sequence[str]) -> int:
    by_name = {reader.name: reader for reader in READERS}
    if words[0] == "serve":
        jobs = [word.split(":") for word in words[2:]]
        serve([(by_name[n], int(first), int(last)) for n, first, last in jobs], Path(words[1]))
        return 0
    if words[0] == "seeds":
        make_seeds(Path(words[1]))
        return 0
    readers = [by_name[name] for name in words[1:]] or READERS
    each, wrong = int(words[0]) / sum(reader.part for reader in readers), 0
    with sound_files() as seeds:
        for reader in readers:
            began = time.monotonic()
            (found,) = siege([reader], 0, math.ceil(each), seeds)
            print(f"{found.line(reader.name)}; {time.monotonic() - began:.0f} s", flush=True)
            for row in found.wrong:
                print("   ", json.dumps(row))
            wrong += len(found.wrong)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
