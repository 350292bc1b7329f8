"""How far a reader walks who follows the config of a run, from `fit` to the first micro-step.

A call counts where a function of ours gets the whole config: as an argument, as the result of a
call before that holds it (Opened), or as an object of which it is a part, `self` included (a
method of Trainer). Methods of the config and what checks it are not rooms of the walk, nor are
functions that get a section of it or single values. The rooms are the files of those functions, in
the order of calls, repeats left out. A return is an entry into a file that the walk has left.

`python -m tests.test_walk FOLDER` prints the walks. On 2026-11-28 that of a new run had 10 rooms
and 5 returns, where it had 21 returns before; that of a resumed run had 10 rooms and 7 returns.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from inspect import CO_GENERATOR
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import anefast
from anefast.config import TrainConfig

PACKAGE = Path(anefast.__file__).parent
OF_THE_CONFIG = ("config", "checks.py")
MOST_RETURNS = 8
END = ("runtime/step.py", "micro_step")
SMALL = {
    "dim": 32, "n_layers": 1, "n_heads": 2, "seq_len": 32, "batch": 1, "accumulation": 1,
    "sample_tokens": 0, "plan": "layer",
}  # fmt: skip


class Walk:
    """What `sys.setprofile` is given: the files and functions that get the config, in order."""

    def __init__(self) -> None:
        self.calls = [("train.py", "fit")]  # where it begins
        self.ended = False
        self._files: dict[CodeType, str] = {}
        self._generators: list[FrameType] = []  # begun; each goes on by what looks like a call

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        if event != "call" or self.ended:
            return
        code = frame.f_code
        if code not in self._files:
            self._files[code] = room(code)
        if not (file := self._files[code]):
            return
        if code.co_flags & CO_GENERATOR:
            if any(frame is known for known in self._generators):
                return
            self._generators.append(frame)
        self.ended = (file, code.co_name) == END
        if not self.ended and any(map(has_config, arguments(code, frame))):
            self.calls.append((file, code.co_name))

    @property
    def rooms(self) -> list[str]:
        """The files in order, repeats left out."""
        files = [file for file, _ in self.calls]
        return [f for f, before in zip(files, ["", *files], strict=False) if f != before]

    @property
    def returns(self) -> int:
        return len(self.rooms) - len(set(self.rooms))


def room(code: CodeType) -> str:
    """The file of ours that a function is in; "" for one that does not count."""
    path = Path(code.co_filename)
    if code.co_name.startswith("<") or not path.is_relative_to(PACKAGE):
        return ""
    file = path.relative_to(PACKAGE)
    return "" if file.parts[0] in OF_THE_CONFIG else file.as_posix()


def arguments(code: CodeType, frame: FrameType) -> list[Any]:
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return [frame.f_locals[name] for name in names if name in frame.f_locals]


def has_config(value: object) -> bool:
    """Whether it is a config, or an object of ours with one in it."""
    if isinstance(value, TrainConfig):
        return True
    parts = getattr(value, "__dict__", {}) if type(value).__module__.startswith("anefast") else {}
    return any(isinstance(part, TrainConfig) for part in list(parts.values()))


def walked(call: Callable[[], object]) -> Walk:
    walk, before = Walk(), sys.getprofile()
    sys.setprofile(walk)
    try:
        call()
    finally:
        sys.setprofile(before)
    assert walk.ended, "no micro-step was made"
    return walk


def walks(folder: Path) -> list[Walk]:
    """Of a new run, and of one that goes on."""
    run = folder / "run"
    return [
        walked(lambda: anefast.fit("bytes", steps=1, out=run, **SMALL)),
        walked(lambda: anefast.fit(TrainConfig.from_preset(
            "bytes", steps=2, resume=str(run), sample_tokens=0, plan="layer",
            model={"dim": 32, "n_layers": 1, "n_heads": 2},
            data={"seq_len": 32, "batch": 1}, optim={"accumulation": 1},
        ))),
    ]  # fmt: skip


def test_the_config_s_walk_returns_seldom(tmp_path):
    for walk in walks(tmp_path):
        assert {"opening.py", "trainer.py", "run_state.py"} < set(walk.rooms)
        assert walk.returns <= MOST_RETURNS, " ".join(walk.rooms)


def test_a_return_is_counted():
    walk = Walk()
    walk.calls = [("a", "f"), ("a", "g"), ("b", "f"), ("a", "f"), ("c", "f"), ("b", "f")]
    assert walk.rooms == ["a", "b", "a", "c", "b"] and walk.returns == 2
    assert has_config(TrainConfig()) and not has_config(TrainConfig().data)


if __name__ == "__main__":
    for found in walks(Path(sys.argv[1])):
        print(f"{len(set(found.rooms))} rooms, {found.returns} returns:", *found.rooms)
