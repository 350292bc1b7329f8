"""Loaded programs by content: the same text, options and weights are compiled once.

A key is `SHA-256(MIL)_SHA-256(options)_SHA-256(weights)`, the form in which the ANE's own service
names a program. Programs without weights of their own are shared by every layer whose text is the
same; a changed weight is another key. Hashing runs at 1 to 2 GB/s, so a weight file of 12 MB costs
6 to 12 ms. A training step that has just changed every weight need not pay that: `keep=False`
compiles without a key, and what has no key can never be found by one.

Programs here live as long as the process; those on disk: kept.py. Read next: compiler.py, its
heaviest user.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from anefast import _C
from anefast.config import TrainConfig

Blobs = Mapping[str, Any]  # path -> the bytes of a weight file: bytes or a uint8 array
LIMIT_BYTES = TrainConfig.cache_mb << 20


def key_of(text: str, options: str, blobs: Blobs) -> str:
    """The name of a program by what it is made of.

    The weights' hash is that of the file's bytes; of several files, in order of their paths, each
    after its path and length, so that bytes cannot move from one to the next unseen.
    """
    weights = hashlib.sha256()
    for path in sorted(blobs):
        if len(blobs) > 1:
            weights.update(f"{path}\0{memoryview(blobs[path]).nbytes}\0".encode())
        weights.update(blobs[path])
    parts = [hashlib.sha256(s.encode()).hexdigest() for s in (text, options)]
    return "_".join([*parts, weights.hexdigest()])


@dataclass
class CacheCounters:
    """hits + misses are the programs asked for. Of the misses, `compiles` were compiled, and `kept`
    loaded as an earlier process has left them (kept.py)."""

    hits: int = 0
    misses: int = 0
    compiles: int = 0
    kept: int = 0
    evictions: int = 0


class Lease:
    """A loaded program in use. `release` it; the last release leaves it to the cache."""

    def __init__(self, cache: CompileCache, key: str | None, native: _C.Program) -> None:
        self.native, self.key = native, key
        self._cache: CompileCache | None = cache

    def release(self) -> None:
        """Gives the program back. Safe to call twice."""
        cache, self._cache = self._cache, None
        if cache is not None:
            cache._released(self)


@dataclass
class _Entry:
    native: _C.Program
    users: int


class CompileCache:
    """Programs of one device, counted by their users, from any thread.

    `limit_bytes` bounds what all of them hold together; programs in use are never touched, idle
    ones go when there is too much, least recently used first. compile: of a text and its blobs,
    and of the key where the program is to last beyond this process.
    """

    def __init__(
        self,
        compile: Callable[..., _C.Program],
        options: str = "",
        limit_bytes: int = LIMIT_BYTES,
    ) -> None:
        self._compile, self.options, self.limit_bytes = compile, options, limit_bytes
        self.counters = CacheCounters()
        self.nbytes = 0  # of every program, idle or not, with or without a key
        self.live = 0  # how many those are
        self._entries: dict[str, _Entry] = {}
        self._idle: OrderedDict[str, None] = OrderedDict()  # least recently used first
        self._lock = threading.Lock()

    def acquire(self, text: str, blobs: Blobs, keep: bool = True, lasting: bool = False) -> Lease:
        """The program of this text and these weights, compiled if it is not cached.

        keep: find it by its key, now and later. Without, it is compiled for this one user and
        unloaded when released: right for weights that no other program can have. lasting: no update
        changes its weights, so later processes may find it, too. Raises what the device raises.
        """
        if not keep:
            return self._add(None, self._fitted(text, blobs))
        key = key_of(text, self.options, blobs)
        with self._lock:
            if found := self._found(key):
                self.counters.hits += 1
                return found
        last = (key,) if lasting else ()
        native = self._fitted(text, blobs, *last)  # without the lock: it may take a second
        return self._add(key, native)

    def _fitted(self, text: str, blobs: Blobs, *key: str) -> _C.Program:
        """Compiles; where the device has no room for another program, idle ones make some."""
        try:
            return self._compile(text, blobs, *key)
        except _C.LoadError as error:
            with self._lock:
                before = self.counters.evictions
                self._evict(-1)
                evicted = self.counters.evictions - before
            if not evicted:
                raise self._crowded(error) from None
        try:
            return self._compile(text, blobs, *key)
        except _C.LoadError as error:
            raise self._crowded(error) from None

    def _crowded(self, error: _C.LoadError) -> _C.LoadError:
        return _C.LoadError(
            f"{error} {self.live} programs are loaded and in use, {self.nbytes / 2**20:,.1f} MiB. "
            "Those of a step must all be, twice over in async plans; a plan with more layers in a "
            "program has fewer."
        )

    def clear(self) -> None:
        """Unloads every idle program."""
        with self._lock:
            self._evict(-1)  # a program may hold no bytes

    def _found(self, key: str) -> Lease | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        entry.users += 1
        self._idle.pop(key, None)
        return Lease(self, key, entry.native)

    def _add(self, key: str | None, native: _C.Program) -> Lease:
        with self._lock:
            self.counters.misses += 1
            self.counters.compiles += native.compiled
            self.counters.kept += not native.compiled
            if key is not None:
                if found := self._found(key):  # another thread compiled it meanwhile
                    native.unload()
                    return found
                self._entries[key] = _Entry(native, users=1)
            self.live += 1
            self.nbytes += native.nbytes
            self._evict(self.limit_bytes)
        return Lease(self, key, native)

    def _released(self, lease: Lease) -> None:
        with self._lock:
            if lease.key is None:
                self._unload(lease.native)
                return
            entry = self._entries[lease.key]
            entry.users -= 1
            if entry.users == 0:
                self._idle[lease.key] = None
                self._evict(self.limit_bytes)

    def _evict(self, limit_bytes: int) -> None:
        while self._idle and self.nbytes > limit_bytes:
            key, _ = self._idle.popitem(last=False)
            self._unload(self._entries.pop(key).native)
            self.counters.evictions += 1

    def _unload(self, native: _C.Program) -> None:
        self.live -= 1
        self.nbytes -= native.nbytes
        native.unload()

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __repr__(self) -> str:
        c = self.counters
        return (
            f"CompileCache({self.live} programs, {self.nbytes} bytes; {c.hits} hits, "
            f"{c.misses} misses, {c.compiles} compiles, {c.kept} kept, {c.evictions} evictions)"
        )
