"""For scripts that run inside a fake build: the fake system by its C functions. Not a test."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

LIVE = ("surfaces", "locks", "descriptors", "models", "wrapped", "requests", "loaded")

_system = ctypes.CDLL(os.environ["ANEFAST_FAKE_LIBRARY"])
_system.fake_inject.argtypes = [ctypes.c_char_p, ctypes.c_long, ctypes.c_long]
_system.fake_inject.restype = None
_system.fake_set.argtypes = [ctypes.c_char_p, ctypes.c_long]
_system.fake_set.restype = None
_system.fake_heal.restype = None
_system.fake_count.argtypes = [ctypes.c_char_p]
_system.fake_count.restype = ctypes.c_long


def arm(name: str, first: int = 0, count: int = -1) -> None:
    """From now on, calls from number `first` on fail, `count` of them (-1: all)."""
    _system.fake_inject(name.encode(), first, count)


def set_(name: str, value: int) -> None:
    """A setting of the system until `heal`; the names are in fake.h."""
    _system.fake_set(name.encode(), value)


def heal() -> None:
    """Nothing fails any more, and the system is an ordinary one."""
    _system.fake_heal()


@contextmanager
def fault(*names: str, first: int = 0, count: int = -1) -> Iterator[None]:
    """`arm` while the context lasts."""
    for name in names:
        arm(name, first, count)
    try:
        yield
    finally:
        heal()


def count(name: str) -> int:
    """How many of them there are, or were; the names are in fake.h."""
    return int(_system.fake_count(name.encode()))


def alive() -> dict[str, int]:
    """What is alive now, without what is not."""
    return {name: count(name) for name in LIVE if count(name)}
