"""The device under examination, with the little that checks share: programs, runs, times."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import cached_property
from statistics import median

import numpy as np
import numpy.typing as npt

from anefast import _C, ir
from anefast.chips.behaviour import find_profile
from anefast.doctor.result import Label, Number, Wrong
from anefast.fuse import Plan, find_plan
from anefast.mil.spelling import DIALECTS, Dialect
from anefast.runtime import Device, Kernel
from anefast.runtime.doctor_facts import Learned

REFUSALS = (_C.MILError, _C.CompileError)
Arrays = Mapping[str, npt.NDArray[np.float16]]


class Subject:
    """An open device. quick: probes take smaller sizes. `until`: when a probe should come to an
    end by itself, in time.monotonic's terms. chip: that the host emulates."""

    def __init__(
        self, name: str, quick: bool = False, seconds: float = 30.0, chip: str = ""
    ) -> None:
        self.device = Device(name, chip=chip)
        if self.device.kept:  # what another process has compiled says nothing of what is taken now
            self.device.kept.off = True
        # The same executor, without the compile budget and the cache.
        self.raw = _C.Device(name, find_profile(chip).options if chip else "")
        self.quick = quick
        self.until = time.monotonic() + seconds

    @property
    def label(self) -> Label:
        label: Label = self.device.label  # type: ignore[assignment]  # one of the door's words
        return label

    @property
    def late(self) -> bool:
        return time.monotonic() > self.until

    @cached_property
    def dialect(self) -> str:
        """The first dialect in which this device takes a plain program."""
        errors = [f"{name}: {error}" for name in DIALECTS if (error := self.refusal(name))]
        if len(errors) == len(DIALECTS):
            raise Wrong("no dialect of MIL text is taken: " + "; ".join(errors))
        return next(name for name in DIALECTS if not self.refusal(name))

    def refusal(self, dialect: str) -> str:
        """The reason why a plain program in this dialect is refused; empty if it is taken."""
        x = ir.input("a0_x", (1, 32, 1, 32))
        try:
            self.kernel({"a0_x": x}, {"b0_y": x * 0.5}, dialect).unload()
        except REFUSALS as error:
            return str(error)
        return ""

    def plan(self, spec: str) -> Plan:
        """A plan for this device in its dialect, without regard to earlier results."""
        self.device.learned = Learned(dialects=(self.dialect,))
        return find_plan(spec)

    def kernel(
        self,
        inputs: Mapping[str, ir.Tensor],
        outputs: Mapping[str, ir.Tensor],
        dialect: str = "",
        params: Mapping[str, npt.NDArray[np.float32]] | None = None,
    ) -> Kernel:
        """A loaded program of a small graph, by port names."""
        program = ir.Program.cut("doctor", [*inputs.items()], [*outputs.items()])
        kernel = Kernel(self.device, program, dialect or self.dialect)
        kernel.load(dict(params or {}))
        return kernel

    def text(
        self,
        inputs: Mapping[str, tuple[int, ...]],
        lines: Callable[[Dialect], list[str]],
        outputs: list[str],
        dtype: str = "fp16",
    ) -> str:
        """MIL text by hand, for what the graph does not write. dtype: of the inputs."""
        of = DIALECTS[self.dialect]
        ports = ", ".join(f"{of.type(dtype, shape)} {name}" for name, shape in inputs.items())
        body = "\n".join("        " + line for line in lines(of))
        head = f"{of.head()}\n{{\n    func main<{of.name}>({ports}) {{\n"
        return f"{head}{body}\n    }} -> ({', '.join(outputs)});\n}}\n"

    def run_text(self, text: str, feeds: Arrays) -> dict[str, npt.NDArray[np.float16]]:
        """`results` of a text that is compiled for it and unloaded."""
        program = self.raw.compile(text, {})
        try:
            return self.results(program, feeds)
        finally:
            program.unload()

    def results(self, program: _C.Program, feeds: Arrays) -> dict[str, npt.NDArray[np.float16]]:
        """Of one evaluation of a program of `raw`; rows are where the ports say they are."""
        inputs = [self.raw.surface(p.nbytes) for p in program.inputs]
        outputs = [self.raw.surface(p.nbytes) for p in program.outputs]
        for surface, port in zip(inputs, program.inputs, strict=True):
            rows(surface.lock(), port)[...] = feeds[port.name]
            surface.unlock()
        program.evaluate(inputs, outputs)
        results = {}
        for surface, port in zip(outputs, program.outputs, strict=True):
            results[port.name] = rows(surface.lock(True), port).copy()
            surface.unlock(True)
        return results

    def number(self, name: str, value: float, unit: str, published: float = 0.0) -> Number:
        """A figure of this device."""
        return Number(name, float(f"{value:.5g}"), unit, self.label, published)

    def times(self, run: Callable[[], object], seconds: float, most: int = 300) -> list[float]:
        """Seconds of several runs, after a first that is not counted; at least three."""
        run()
        taken: list[float] = []
        end = time.perf_counter() + seconds
        while len(taken) < 3 or (len(taken) < most and time.perf_counter() < end):
            start = time.perf_counter()
            run()
            taken.append(time.perf_counter() - start)
        return taken

    def typical_us(self, run: Callable[[], object], seconds: float) -> float:
        return 1e6 * median(self.times(run, seconds))


def rows(view: npt.NDArray[np.uint8], port: _C.Port) -> npt.NDArray[np.float16]:
    """A surface as the tensor of its port, fp16, at the strides the device gave."""
    return np.ndarray(port.shape, np.float16, view, strides=port.strides)


def error_of(got: npt.ArrayLike, want: npt.ArrayLike) -> float:
    """The largest difference, relative to the largest value; infinite where one is not a number."""
    a, b = np.asarray(got, np.float64), np.asarray(want, np.float64)
    if a.shape != b.shape:
        raise Wrong(f"expected a result of shape {b.shape}, got {a.shape}")
    if not np.isfinite(a).all():
        return float("inf")
    return float(np.abs(a - b).max() / (np.abs(b).max() or 1.0))
