"""Inside a fake build: every fault, one after another, each on objects of its own. Not a test.

Prints JSON: for each row what was raised (type and message, "" for nothing), what was alive and
what was left in the temporary folder afterwards. tests/test_ane.py holds the expectations.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import inside
import numpy as np

from anefast import _C

WEIGHTS = "@model_path/weights/weight.bin"
TEXT = """program(1.3)
{
    func main<ios18>(tensor<fp16,[1,4,1,32]> a0_x, tensor<fp16,[1,4,1,32]> a1_y) {
        tensor<fp16,[1,4,1,32]> w = const()[name=string("w"), val=tensor<fp16,[1,4,1,32]>(\
BLOBFILE(path=string("@model_path/weights/weight.bin"), offset=uint64(64)))];
        tensor<fp16,[1,4,1,32]> s = add(x=a0_x, y=w)[name=string("s")];
        tensor<fp16,[1,4,1,32]> b0_z = mul(x=s, y=a1_y)[name=string("b0_z")];
    } -> (b0_z);
}
"""


def weight_file(weight: float) -> bytes:
    """What TEXT reads: so much in each place."""
    return _C.blob_write([np.full((1, 4, 1, 32), weight, np.float16)])


class Trial:
    """A device, its program and surfaces, each made when first asked for."""

    def __init__(self) -> None:
        self.device = _C.Device("ane")
        self.program: Any = None

    def compile(self, weight: float = 1.0, beside: str = "") -> Any:
        """beside: the name of another blob, which the text does not use."""
        blob = weight_file(weight)
        blobs = {WEIGHTS: blob} | ({f"@model_path/{beside}": blob} if beside else {})
        self.program = self.device.compile(TEXT, blobs)
        return self.program

    def evaluate(self, nbytes: int = 256) -> None:
        program = self.program or self.compile()
        inputs = [self.device.surface(nbytes) for _ in program.inputs]
        outputs = [self.device.surface(nbytes) for _ in program.outputs]
        for surface, value in zip(inputs, (2.0, 3.0), strict=True):
            surface.lock().view(np.float16)[:] = value
            surface.unlock()
        program.evaluate(inputs, outputs)
        result = outputs[0].lock(read_only=True).view(np.float16).copy()
        outputs[0].unlock(read_only=True)
        assert (result == 9.0).all(), result

    def evaluate_by_ports(self) -> None:
        program = self.compile()
        self.evaluate(max(p.nbytes for p in (*program.inputs, *program.outputs)))

    def unload(self) -> None:
        self.compile()
        self.program.unload()

    def drop(self) -> None:
        """Nobody waits for this unload: its failure is a report on stderr."""
        told: list[Any] = []
        before, sys.unraisablehook = sys.unraisablehook, told.append
        self.compile()
        self.program = None
        gc.collect()
        sys.unraisablehook = before
        if told:
            raise RuntimeError(f"reported: {told[0].exc_value}")

    def surface(self) -> None:
        self.device.surface(256)

    def lock(self) -> None:
        surface = self.device.surface(256)
        with inside.fault("lock"):
            surface.lock()

    def unlock(self) -> None:
        surface = self.device.surface(256)
        surface.lock()
        with inside.fault("unlock", count=1):
            surface.unlock()

    def exhaust(self) -> None:
        """Compiles until a budget is used up."""
        with inside.fault("compile", first=5):
            for weight in range(10):
                self.compile(weight)


@contextmanager
def in_the_way(make: Callable[[Path], None]) -> Iterator[None]:
    """While it lasts, something of ours is where the program's folder will be."""
    trial = Trial()
    trial.compile()
    (folder,) = filter(Path.is_dir, Path(tempfile.gettempdir()).iterdir())
    trial.program.unload()
    make(folder)
    try:
        yield
    finally:
        if folder.is_file():
            folder.unlink()


@contextmanager
def full_disk() -> Iterator[None]:
    """While it lasts, no file of a program's has room."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (256, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def failing(*names: str, **when: int) -> Callable[[], Any]:
    return lambda: inside.fault(*names, **when)


Row = tuple[str, Callable[[], Any], Callable[[Trial], Any]]

ROWS: list[Row] = [
    ("none", failing(), Trial.evaluate),
    ("descriptor nil", failing("descriptor"), Trial.compile),
    ("descriptor raises", failing("descriptor_raises"), Trial.compile),
    ("model nil", failing("model"), Trial.compile),
    ("identifier nil", failing("hex"), Trial.compile),
    ("identifier a path", failing("hex_path"), Trial.compile),
    ("compile NO", failing("compile"), Trial.compile),
    ("compile NO, invalid", failing("invalid"), Trial.compile),
    ("compile NO, no error", failing("compile", "silent"), Trial.compile),
    ("compile NO, at length", failing("compile_long"), Trial.compile),
    ("compile NO, of the system", failing("compile_posix"), Trial.compile),
    ("compile raises", failing("compile_raises"), Trial.compile),
    ("compile budget", failing(), Trial.exhaust),
    ("load NO once", failing("load", count=1), Trial.evaluate),
    ("load NO twice", failing("load", count=2), Trial.compile),
    ("load NO, no memory", failing("load_memory"), Trial.compile),
    ("load NO, no error", failing("load", "silent"), Trial.compile),
    ("load raises", failing("load_raises"), Trial.compile),
    ("attributes missing", failing("attributes_missing"), Trial.evaluate),
    ("attributes odd", failing("attributes_odd"), Trial.evaluate),
    ("attributes raise", failing("attributes_raises"), Trial.evaluate),
    ("symbol order", failing("attributes_order"), Trial.compile),
    ("symbol count", failing("attributes_names"), Trial.compile),
    ("port shape", failing("attributes_shape"), Trial.compile),
    ("port interleave", failing("attributes_interleave"), Trial.compile),
    ("port stride too small", failing("attributes_narrow"), Trial.compile),
    ("port stride too large", failing("attributes_huge"), Trial.compile),
    ("port stride no number", failing("attributes_types"), Trial.compile),
    ("port stride larger", failing("attributes_stride"), Trial.evaluate),
    ("surface short", failing(), lambda trial: trial.evaluate(254)),
    ("surface none", failing("surface_create"), Trial.surface),
    ("surface wrap nil", failing("wrap"), Trial.evaluate),
    ("surface of a page and a half", failing(), lambda trial: trial.device.surface(24576)),
    ("surface lock", failing(), Trial.lock),
    ("surface lock at creation", failing("lock"), Trial.surface),
    ("surface unlock", failing(), Trial.unlock),
    ("surface unlock at creation", failing("unlock"), Trial.surface),
    ("request nil", failing("request"), Trial.evaluate),
    ("request raises", failing("request_raises"), Trial.evaluate),
    ("evaluate NO", failing("evaluate"), Trial.evaluate),
    ("evaluate NO, no error", failing("evaluate", "silent"), Trial.evaluate),
    ("evaluate NO, indices", failing("evaluate_index"), Trial.evaluate),
    ("evaluate raises", failing("evaluate_raises"), Trial.evaluate),
    ("unload NO", failing("unload"), Trial.unload),
    ("unload raises", failing("unload_raises"), Trial.unload),
    ("unload NO, nobody waits", failing("unload"), Trial.drop),
    ("blob outside", failing(), lambda trial: trial.compile(beside="../weight.bin")),
    ("blob over the text", failing(), lambda trial: trial.compile(beside="model.mil")),
    ("disk full", full_disk, Trial.compile),
    ("folder unwritable", lambda: in_the_way(Path.touch), Trial.compile),
    ("no engine", failing("no_ane"), lambda trial: _C.Device("ane")),
    ("option unknown", failing(), lambda trial: _C.Device("ane", "groups=on")),
    ("option out of range", failing(), lambda trial: _C.Device("ane", "qos=64")),
    ("option no number", failing(), lambda trial: _C.Device("ane", "qos=9 qos=fast")),
    ("option threads", failing(), lambda trial: _C.Device("ane", "threads=0")),
]


def tried(fault: Callable[[], Any], act: Callable[[Trial], Any]) -> tuple[str, str]:
    """Type and message of what the act raised under the fault."""
    trial = Trial()
    try:
        with ExitStack() as stack:
            stack.enter_context(fault())
            act(trial)
    except Exception as error:
        return type(error).__name__, str(error)
    return "", ""


def main() -> None:
    warnings.simplefilter("error")
    results = {}
    for name, fault, act in ROWS:
        kind, message = tried(fault, act)
        gc.collect()
        left = os.listdir(tempfile.gettempdir())
        results[name] = {"raised": kind, "message": message, "alive": inside.alive(), "left": left}
        tried(failing(), Trial.evaluate)  # as well as ever
        gc.collect()
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
