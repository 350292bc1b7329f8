"""Inside a fake build with ANEFAST_FAKE_SIZES=1: what the strict belief refuses. Not a test.

Prints JSON: what surfaces as large as their ports gave, what equal ones gave, and what ports that
do not rise in bytes gave.
"""

from __future__ import annotations

import json
import sys

import numpy as np

from anefast import _C, Device, ir
from anefast.runtime import Kernel

SMALL, LARGE = (1, 32, 1, 32), (1, 512, 1, 32)


def kernel(device: Device, names: tuple[str, str]) -> Kernel:
    """large * small, by ports of these names for small and large."""
    ports = {names[0]: ir.input(names[0], SMALL), names[1]: ir.input(names[1], LARGE)}
    small, large = ports.values()
    whole = ir.mul(large, ir.reduce_sum(small, 1))
    program = ir.Program.cut("mixed", sorted(ports.items()), [("z0_y", whole)])
    made = Kernel(device, program, "ios18")
    made.load({})
    return made


def main() -> None:
    device, found = Device("ane"), {}
    made = kernel(device, ("a0_small", "a1_large"))
    feeds = {
        "a0_small": np.ones(SMALL, np.float16),
        "a1_large": np.full(LARGE, 2, np.float16),
    }
    inputs = [device.surface(t.shape) for _, t in made.program.inputs]
    try:
        made.evaluate(inputs, [device.surface(LARGE)])
    except _C.EvaluationError as error:
        found["unequal"] = str(error)
    found["equal"] = float(made.run(**feeds)["z0_y"].max())
    turned = kernel(device, ("a1_small", "a0_large"))
    swapped = {"a1_small": feeds["a0_small"], "a0_large": feeds["a1_large"]}
    found["turned"] = float(turned.run(**swapped)["z0_y"].max())
    surface = device.native_surface(4096)
    surface.lock()[:] = 7
    try:
        surface.make_room(1 << 20)
    except ValueError as error:
        found["locked"] = str(error)
    surface.unlock()
    surface.make_room(1 << 20)
    kept = surface.lock(True)
    found["kept"] = [surface.nbytes, kept.size, int(kept.min())]
    surface.unlock(True)
    for each in (made, turned):
        each.unload()
    device.programs.clear()
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
