"""What programs of the host hold together: equal matrices, transposes, memory to compute in."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from anefast import _C
from tests.host_programs import Name, Text

RNG = np.random.default_rng(0)


def halves(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float16)


class Product:
    """conv of x [1, Ci, 1, S] by a matrix [Co, Ci], `through` a sine or not, as a program."""

    def __init__(self, matrix: np.ndarray, x: np.ndarray, options: str = "") -> None:
        out, _ = matrix.shape
        self.x, self.shape = x, (1, out, 1, x.shape[-1])
        t, y = Text(x=x), np.empty(self.shape, np.float16)
        y = t.op("conv", y, x=Name("x"), weight=matrix[:, :, None, None])
        self.device = _C.Device("host", options)
        self.program = self.device.compile(t.program([y]), t.blobs)

    def run(self) -> bytes:
        into, out = (self.device.surface(2 * int(np.prod(s))) for s in (self.x.shape, self.shape))
        into.lock()[:] = self.x.reshape(-1).view(np.uint8)
        into.unlock()
        self.program.evaluate([into], [out])
        found = bytes(out.lock(True))
        out.unlock(True)
        return found


@pytest.mark.parametrize("options", ["", "groups=off"])
@pytest.mark.parametrize("shape", [(192, 320), (320, 192), (256, 256), (2000, 33)])
def test_a_matrix_found_as_its_transpose_gives_the_same_bytes(
    shape: tuple[int, int], options: str
) -> None:
    """Also where the first that held it is gone, and where only a corner differs."""
    rows, columns = shape
    w, x = halves(rows, columns), halves(1, columns, 1, 64)
    alone = Product(w, x, options)
    want = alone.run()
    alone.program.unload()
    other = Product(np.ascontiguousarray(w.T), halves(1, rows, 1, 64))
    beside = Product(w, x, options)
    assert beside.run() == want
    other.program.unload()
    assert beside.run() == want and Product(w, x, options).run() == want
    almost = w.copy()
    almost[0, -1] += 1
    assert Product(almost, x, options).run() != want


def test_evaluations_at_once_do_not_share_what_they_compute_in() -> None:
    products = [Product(halves(96, 96), halves(1, 96, 1, 256)) for _ in range(4)]
    want = [p.run() for p in products]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            assert list(pool.map(Product.run, products)) == want


PEAK = """
import numpy as np
from tests.test_shelf import Product
def resident():
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * 4096
w, x = np.random.default_rng(0).standard_normal((2048, 1024)).astype(np.float16), None
x, y = np.ones((1, 1024, 1, 32), np.float16), np.ones((1, 2048, 1, 32), np.float16)
kept = [Product(w, x)]
kept[0].run()
before = resident()
for _ in range(4):
    kept += [Product(w, x), Product(np.ascontiguousarray(w.T), y)]
    for product in kept[-2:]:
        product.run()
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_a_matrix_and_its_transpose_are_held_once() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PEAK],
        capture_output=True, text=True, timeout=300, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 4 * 2048 * 1024 * 2, "eight more programs, of 4 MiB each"
