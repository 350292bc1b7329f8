"""The run that is besieged, its flags and its files, and what must be equal in the end."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from anefast import checkpoint

from .server import End, Server

STEPS = 8
FLAGS = [
    *"--model.dim 32 --model.n-layers 1 --model.n-heads 2 --model.hidden-dim 32".split(),
    *"--data.seq-len 32 --data.batch 2 --optim.accumulation 2 --optim.warmup-steps 2".split(),
    *f"--steps {STEPS} --checkpoint-every 2 --eval-every 4 --eval-batches 1".split(),
    *"--keep-last 2 --sample-tokens 0 --device host --plan all,weights=params".split(),
    *"--optim.min-lr-ratio 1".split(),  # so that more updates leave the ones before as they are
]
OFTEN = [*FLAGS, "--checkpoint-minutes", "0.00001"]  # a checkpoint between any two micro-steps


def size(few: int, all_: int) -> int:
    """How many are tried by a test marked slow: all with ANEFAST_SIEGE=full, else a tenth."""
    return all_ if os.environ.get("ANEFAST_SIEGE") == "full" else max(few, all_ // 10)


@contextmanager
def ground() -> Iterator[Path]:
    """A folder where fsync costs nothing, if there is one."""
    memory = Path("/dev/shm")
    where = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=where) as folder:
        yield Path(folder)


def shim(folder: Path) -> Path:
    """fault.c, built. None of the tests that need it run where there is no C compiler."""
    library = folder / "fault.so"
    source = Path(__file__).with_name("fault.c")
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler is not None
    subprocess.run(
        [compiler, "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl", "-lpthread"],
        check=True,
    )
    return library


class Ground:
    """A folder with a text to train on, a server, and the run that nobody disturbed."""

    def __init__(self, folder: Path, server: Server, flags: list[str] = FLAGS) -> None:
        self.folder, self.server = folder, server
        text = folder / "text.txt"
        text.write_text(
            "Once upon a time there was a cat. It sat on a mat and that was that.\n" * 40
        )
        self.flags = [*flags, "--data", str(text)]
        self.run = folder / "run"
        end = self.start()
        assert end.code == 0, end.text
        self.gold = everything(self.run)
        shutil.copytree(self.run, folder / "gold", symlinks=True)
        self.clear()

    def clear(self) -> None:
        shutil.rmtree(self.run, ignore_errors=True)

    def start(self, **how: object) -> End:
        return self.server.run([*self.flags, "--out", str(self.run)], **how)  # type: ignore[arg-type]

    def resume(self, *flags: str, **how: object) -> End:
        return self.server.run(["--resume", str(self.run), *flags], **how)  # type: ignore[arg-type]

    def go_on(self, **how: object) -> End:
        """What a person does with a run that was stopped: resumes it where it became one."""
        if (self.run / "config.toml").is_file():
            return self.resume(**how)
        return self.start(**how)

    def newest(self) -> str:
        """The name of the newest checkpoint, "" for none."""
        found = checkpoint.newest(self.run)
        return found.name if found is not None else ""


def everything(run: Path) -> dict[str, bytes]:
    """What a disturbed run must have in the end as well: all that is no clock's business."""
    last = checkpoint.find_checkpoint(run)
    files = [run / "metrics.jsonl", run / "best.json"]
    files += [p for p in sorted(last.iterdir()) if p.name != checkpoint.SESSION]
    return {str(p.relative_to(run)): p.read_bytes() for p in files}


def differing(run: Path, gold: dict[str, bytes]) -> list[str]:
    """The names of files that are not as in `gold`."""
    now = everything(run)
    return sorted(n for n in gold.keys() | now.keys() if gold.get(n) != now.get(n))


def leftovers(run: Path) -> list[str]:
    """What an interrupted save leaves and a later session should have removed."""
    return [p.name for p in run.iterdir() if p.name.startswith(".")]


def best_is_kept(run: Path) -> bool:
    """Whether the checkpoint that the newest one calls the best is there."""
    name = checkpoint.best_checkpoint(run)
    return name is None or (run / name / checkpoint.STATE).is_file()


def resumed_at(text: str) -> str:
    """The checkpoint that a command said it went on from, "" for none."""
    found = re.search(r"resumed from \S*/(step_\w+) at update", text)
    return found[1] if found else ""
