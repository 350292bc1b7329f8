"""The ground of a siege, made once for the tests of a file."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from .runs import Ground, ground, shim
from .server import Server


@pytest.fixture(scope="module")
def field() -> Iterator[Ground]:
    """A finished run to compare with, and a server whose system calls can be made to fail."""
    if shutil.which("cc") is None and shutil.which("gcc") is None:
        pytest.skip("faults are injected by a library that needs a C compiler")
    with ground() as folder, Server(folder, shim(folder)) as server:
        yield Ground(folder, server)
