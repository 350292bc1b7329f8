"""Devices: the Python side of the one door (`csrc/anefast.h`).

`ane` and `host` are driven alike; nothing above this file asks which one it has. `auto` is the ANE
where there is one that doctor did not find broken, else the host, and says why.
"""

from __future__ import annotations

import contextlib
import ctypes
import difflib
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from anefast import _C, debug, environment
from anefast.checks import instance, whole
from anefast.chips.behaviour import Chip, chip_of, find_profile, unprobed
from anefast.fuse.level import level
from anefast.runtime.budget import PROCESS
from anefast.runtime.cache import LIMIT_BYTES, Blobs, CompileCache
from anefast.runtime.doctor_facts import Learned, recall
from anefast.runtime.inspect.watch import Watch
from anefast.runtime.kept import KeptPrograms

log = logging.getLogger("anefast")

DEVICES = ("auto", "ane", "host")
OWNERS = {"qos": "ane", "groups": "host"}  # of options that one executor alone has

M_MMAP_THRESHOLD, LARGE_BYTES = -3, 1 << 20  # of malloc.h; 1 MiB

Half = npt.NDArray[np.float16]


class Device:
    """An open executor. options: `threads=2` sizes the CPU's pool on each; others are its own.

    Under `auto`, `qos=` is for the ANE and `groups=` for the host, should it be that one; a warning
    says that an option is left out. Raises ValueError for options that the executor refuses.

    `description` is a line for run headers. `label` is what numbers from it are: `measured` on an
    ANE, `measured on the host`, `emulated` by what stands in for a chip. `programs` keeps loaded
    programs, up to `cache_bytes` of them. `chip` makes the host refuse and compute as that chip
    does, where anything is published (`chips/behaviour.py`); without, it is `exact`. budgeted:
    whether what it compiles counts against the process's budget, and may be kept on disk.
    """

    def __init__(
        self,
        name: str = "auto",
        options: str = "",
        cache_bytes: int = LIMIT_BYTES,
        chip: str = "",
        budgeted: bool = True,
    ) -> None:
        for what, text in (("name", name), ("options", options), ("chip", chip)):
            instance("device", what, text, str, "Device('host')")
        whole("device", "cache_bytes", cache_bytes, 0)
        environment.check()
        if name not in DEVICES:
            near = difflib.get_close_matches(name, DEVICES, n=1)
            hint = f" Hint: did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"[device] expected one of {', '.join(DEVICES)}, got {name!r}.{hint}")
        self.chip: Chip | None = None  # that is emulated
        self.profile = ""  # its name and switches
        one = False  # whether programs may have one input only
        if chip:
            if name == "ane":
                raise ValueError(
                    f"[device] expected no chip for device ane, which is one, got {chip!r}. "
                    "Hint: --device host emulates it."
                )
            profile = find_profile(chip)
            self.profile = profile.spec
            if line := unprobed(profile.chip):
                log.warning("%s", line)
            name, self.chip, options = "host", profile.chip, f"{options} {profile.options}".strip()
            one = profile.value("inputs") == "one"
        steady_heap()
        if name == "auto":
            asked = options.split()
            self._native, options = open_first(("ane", "host"), options)
            if left_out := " ".join(w for w in asked if w not in options.split()):
                found = self._native.name
                log.warning(
                    "[device] auto opened %s, which has no option %s: ignored.", found, left_out
                )
        else:
            self._native = _C.Device(name, options)
        self.name: str = self._native.name
        self.description: str = self._native.description
        self.label: str = self._native.label
        # Whether another executor than ours computes: its values and pace may go wrong unseen.
        self.foreign = self.name != "host"
        # Whether its products are Q15.16, as far as that was measured of the chip.
        known = chip_of(self.description).switches["products"].value if self.foreign else "fp32"
        self.fixed_point = (profile.value("products") if chip else known) == "q15.16"
        learned = recall(self.description) or Learned()  # by anefast doctor
        self.learned: Learned = replace(learned, ports=("packed",)) if one else learned
        self.kept = KeptPrograms.of(self._native) if budgeted else None  # programs on disk
        self._compile = compiling(self._native, self.kept, budgeted)
        if watch := Watch.asked():
            self._compile = watch.over(self, self.description, self._compile)
        if debug.level():
            debug.say(f"device {self.description}; programs are {self.label}")
        self.programs = CompileCache(self._compile, options, cache_bytes)

    def compile(self, text: str, blobs: Blobs) -> _C.Program:
        """Compiles and loads MIL text. Raises MILError where it is refused, CompileError else.

        Always a new program, the caller's own; `programs.acquire` shares equal ones.
        """
        return self._compile(text, blobs)

    @property
    def found(self) -> str:
        """A line on how many of its programs earlier processes had compiled; empty where none are
        kept."""
        counts = self.programs.counters
        if self.kept is None or self.kept.off:
            return ""
        asked = counts.kept + counts.compiles
        return f"programs: {counts.kept} of {asked} were in the cache, {counts.compiles} compiled"

    def native_compile(self, text: str, blobs: Blobs) -> _C.Program:
        """`compile` past whatever watches it, for those who look on. It counts all the same."""
        PROCESS.spend()
        return self._native.compile(text, blobs)

    def native_surface(self, nbytes: int) -> _C.Surface:
        """A zero-filled surface of so many bytes."""
        return self._native.surface(nbytes)

    @property
    def takes_parts(self) -> bool:
        """True if an evaluation of some columns costs less than one of all of them."""
        return self._native.takes_parts

    @property
    def surfaces(self) -> Literal["equal", "exact"]:
        """Whether the surfaces on one side of a program are made equally large, which costs memory.

        Always `exact` where the device does not mind, and where doctor saw that it does not.
        """
        minds = self._native.equal_surfaces and "exact" not in self.learned.seen
        return "equal" if minds else "exact"

    def level(self, sides: Iterable[list[Surface]]) -> None:
        """Makes the surfaces of each side, all inputs or all outputs of a program, equally large
        if the device wants that. They are not to be in use."""
        if self.surfaces == "exact":
            return
        natives = [[s.native for s in side] for side in sides]
        sizes = {s: s.nbytes for side in natives for s in side}
        for surface, nbytes in level(natives, sizes).items():
            surface.make_room(nbytes)

    def surface(self, shape: tuple[int, ...]) -> Surface:
        """A zero-filled surface for one fp16 tensor of `shape`; the last axis a multiple of 32."""
        return Surface(self._native.surface(2 * int(np.prod(shape))), shape)


def compiling(
    native: _C.Device, kept: KeptPrograms | None, budgeted: bool
) -> Callable[..., _C.Program]:
    """The device's compile, counted against the budget of this process if it is `budgeted`. With a
    key, a program is loaded that was kept under it, or is kept."""

    def compile(text: str, blobs: Blobs, key: str = "") -> _C.Program:
        found = kept.load(key, text, blobs) if kept and key else None
        if found is not None:
            return found
        if budgeted:
            PROCESS.spend()
        made = native.compile(text, blobs)
        if kept and key:
            kept.keep(key, made)
        return made

    return compile


def open_first(names: tuple[str, ...], options: str) -> tuple[_C.Device, str]:
    """Opens the first device that this machine has and doctor has nothing against.

    Each gets the options that are not another's alone; they are returned with it. The last one is
    taken as it is; its error is the caller's.
    """
    *early, last = names
    for name in early:
        own = options_of(name, options)
        try:
            native = _C.Device(name, own)
        except _C.AneUnavailable as reason:
            log.debug("device %s: %s", name, reason)
            continue
        known = recall(native.description)
        if known is None or not known.objection:
            return native, own
        log.warning(
            "[device] auto does not use %s: %s. Hint: anefast doctor checks it again; "
            "--device %s uses it all the same.",
            native.description, known.objection, name,
        )  # fmt: skip
    own = options_of(last, options)
    return _C.Device(last, own), own


def options_of(name: str, options: str) -> str:
    """The options, but for those that another device alone has."""
    words = options.split()
    return " ".join(w for w in words if OWNERS.get(w.partition("=")[0], name) == name)


def steady_heap() -> None:
    """Large blocks get pages of their own and give them back; a no-op where libc is not glibc.

    glibc raises the size from which they do with every large block that is freed, up to 32 MB.
    Weight files and programs, which come and go with each update, then leave holes in the heap:
    120 MB for a model of 110M weights.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)


class Surface:
    """Memory shared with the device that holds one fp16 tensor, packed.

    Rows of a multiple of 32 halves are multiples of the 64-byte row stride, so packed bytes and the
    device's layout agree and nothing is copied at the seam.
    """

    def __init__(self, native: _C.Surface, shape: tuple[int, ...]) -> None:
        self.native, self.shape = native, shape

    def read(self) -> Locked:
        """The tensor, locked for reading while the context lasts. Do not keep the array."""
        return Locked(self, read_only=True)

    def write(self) -> Locked:
        """The tensor, locked for writing while the context lasts. Do not keep the array."""
        return Locked(self, read_only=False)


class Locked:
    """A surface's tensor while the CPU may touch it; what `with` enters."""

    def __init__(self, surface: Surface, read_only: bool) -> None:
        self._surface, self._read_only = surface, read_only

    def __enter__(self) -> Half:
        surface = self._surface
        data = surface.native.lock(self._read_only)
        try:
            return np.ndarray(surface.shape, np.float16, data)
        except BaseException:  # no memory, or Ctrl-C: __exit__ is not called
            surface.native.unlock(self._read_only)
            raise

    def __exit__(self, *raised: object) -> None:
        self._surface.native.unlock(self._read_only)
