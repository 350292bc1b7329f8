"""Facts of this machine that need no open device. None says whose it is or where."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from pathlib import Path

import numpy as np

from anefast import _C, environment
from anefast.files import FileError, read_text
from anefast.runtime import kept

FRAMEWORK = "/System/Library/PrivateFrameworks/AppleNeuralEngine.framework"

DAEMON_CACHE = "/Library/Caches/com.apple.aned"
DATA_VAULT = 0x80  # UF_DATAVAULT of macOS' sys/stat.h


def facts() -> dict[str, str]:
    """Facts by name, in the order to be read. A fact that cannot be found is 'unknown'."""
    mac = sys.platform == "darwin"
    release, _, _ = platform.mac_ver()
    blas = (np.show_config(mode="dicts") or {}).get("Build Dependencies", {}).get("blas", {})
    found = {
        "machine": (sysctl("hw.model") if mac else "") or platform.machine(),
        "processor": (sysctl("machdep.cpu.brand_string") if mac else cpu_name()) or "unknown",
        "cpus": str(len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()),
        "memory": f"{memory_bytes() / 2**30:.0f} GiB",
        "system": f"macOS {release}" if mac else f"{platform.system()} {platform.release()}",
        "build": (sysctl("kern.osversion") if mac else "") or "not macOS",
        "programs": daemon_cache(),
        "kept": kept_programs(),
        "translated": ("yes, by Rosetta" if sysctl_int("sysctl.proc_translated") == 1 else "no"),
        "python": f"{platform.python_implementation()} {platform.python_version()}, "
        f"{8 * struct.calcsize('P')} bit, {platform.machine()}",
        "numpy": f"{np.__version__}, BLAS {blas.get('name', 'unknown')} "
        f"{blas.get('version', '')}".strip(),
        "products": _C.gemm_isa(),
        "halves": _C.half_isa(),
        "threads": str(_C.threads()),
    }
    return found if mac else {k: v for k, v in found.items() if k != "translated"}


def kept_programs() -> str:
    """What earlier processes have compiled and left for later ones (runtime/kept.py)."""
    count, size = kept.held(kept.programs_folder())
    most = environment.kept_mb()
    return f"{count} compiled programs, {size / 2**20:.0f} of {most} MiB (ANEFAST_KEEP_MB)"


def daemon_cache() -> str:
    """Whether the folder where the ANE's daemon keeps compiled programs can be read. With a data
    vault around it not even root can, while System Integrity Protection is on
    (joshuaswarren/mil-hwx-compiler, docs/ane/macos-stack.md: macOS 26.6)."""
    if sys.platform != "darwin":
        return "not macOS"
    try:
        flags = getattr(os.stat(DAEMON_CACHE), "st_flags", 0)
        kind = "in a data vault" if flags & DATA_VAULT else "in a plain folder"
        os.listdir(DAEMON_CACHE)
    except FileNotFoundError:
        return "no folder of the daemon's"
    except OSError as error:
        return f"closed: {error.strerror}"
    return f"{kind}, which can be read"


def framework() -> str:
    """Facts about the private framework, found without opening it."""
    if sys.platform != "darwin":
        return f"absent: {platform.system()} has none, it is a part of macOS"
    if Path(FRAMEWORK).exists():
        return f"present: {FRAMEWORK}"
    return f"absent: nothing at {FRAMEWORK}"


def selectors() -> list[dict[str, object]]:
    """Every private method in use: found only where a device "ane" could be opened before."""
    return [
        {"class": owner, "kind": kind, "selector": selector, "required": required,
         "found": found, "types": types}
        for owner, kind, selector, required, found, types in _C.ane_selectors()
    ]  # fmt: skip


def why_no_ane() -> str:
    """The reason why no device "ane" opens; empty if one does."""
    try:
        _C.Device("ane")
    except (_C.AneUnavailable, ValueError, RuntimeError) as error:
        return str(error)
    return ""


def sysctl(name: str) -> str:
    """The system's string of this name; empty if it has none."""
    raw = _sysctl(name)
    return raw.split(b"\0")[0].decode("utf-8", "replace").strip()


def sysctl_int(name: str) -> int:
    raw = _sysctl(name)
    return int.from_bytes(raw[:4], sys.byteorder) if len(raw) >= 4 else 0


def _sysctl(name: str) -> bytes:
    call = getattr(ctypes.CDLL(None), "sysctlbyname", None) if sys.platform == "darwin" else None
    if call is None:
        return b""
    size = ctypes.c_size_t(256)
    room = ctypes.create_string_buffer(size.value)
    done = call(name.encode(), room, ctypes.byref(size), None, ctypes.c_size_t(0))
    return room.raw[: size.value] if done == 0 else b""


def cpu_name() -> str:
    try:
        lines = read_text("/proc/cpuinfo", where="doctor").splitlines()
    except FileError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0
