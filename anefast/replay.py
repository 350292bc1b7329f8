"""`anefast replay DIR`: runs a dumped program again and says where it strays.

DIR is a folder that ANEFAST_DUMP wrote, or one that holds several. Each program runs on the device
asked for and on the exact host; its outputs are held against the recorded ones and against the
host's, and where they stray the first tensor inside is named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from anefast import _C
from anefast.checks import real, refuse
from anefast.cli import command, say
from anefast.errors import BadInput, Failure, shown
from anefast.runtime import Device
from anefast.runtime.inspect.dump import MODEL, read
from anefast.runtime.inspect.values import Array, Bare, Bytes, run
from anefast.runtime.inspect.watch import TOLERANCE, first_stray, strays


@dataclass(frozen=True)
class ReplayConfig:
    """Run a dumped program again and compare its results."""

    folder: Annotated[Path, tyro.conf.Positional]  # A dumped program, or a folder of them.
    device: str = "auto"  # Where programs run: auto, ane or host.
    chip: str = ""  # The host emulates: CHIPS, doctor.json.
    # How far values may be off, as a part of their tensor's largest magnitude.
    tolerance: float = TOLERANCE


def replay(config: ReplayConfig) -> None:
    """A line per program, one more for each output that strays. Failure (1) where any does."""
    hint = f"{TOLERANCE:g} is usual, 0 asks for the same numbers"
    if real("replay", "--tolerance", config.tolerance, "finite and >= 0", hint) < 0:
        refuse("replay", "--tolerance", config.tolerance, "finite and >= 0", hint)
    device = Device(config.device, chip=config.chip)
    folders = [config.folder] if (config.folder / MODEL).is_file() else programs(config.folder)
    say(f"on {device.description}, {device.label}; tolerance {config.tolerance:g}")
    exact = Bare(_C.Device("host"))
    bad = 0
    for folder in folders:
        text, blobs, inputs, recorded = read(folder)
        ports = device.native_compile(text, blobs).inputs
        feeds = [laid_out(port, inputs[port.name]) for port in ports]
        got, want = (run(d, text, blobs, feeds) for d in (device, exact))
        lines, agreements = [], []
        for others, whose in ((recorded, "the recording"), (want, "the exact host")):
            held = {
                n: strays(a, others[n], config.tolerance) for n, a in got.items() if n in others
            }
            off = {n: stray for n, stray in held.items() if stray}
            agreements.append(f"{len(held) - len(off)} of {len(got)} outputs agree with {whose}")
            lines += [f"    {n} unlike {whose}'s: {stray}" for n, stray in off.items()]
        if lines and (inside := first_stray(device, exact, text, blobs, feeds, config.tolerance)):
            lines.append(f"    first unlike the exact host's: {inside[0]}: {inside[1]}")
        say(f"{shown(folder.name)}: {', '.join(agreements)}", *lines)
        bad += bool(lines)
    if bad:
        raise Failure(f"[replay] {bad} of {len(folders)} programs give other values.")


def programs(root: Path) -> list[Path]:
    """The dumped programs in a folder. BadInput where there is none."""
    found = sorted(p.parent for p in root.glob(f"*/{MODEL}"))
    if not found:
        raise BadInput(
            f"[replay] expected dumped programs in {root}, got none. Hint: ANEFAST_DUMP={root} "
            "anefast train writes some."
        )
    return found


def laid_out(port: _C.Port, array: Array) -> Bytes:
    """A surface's bytes with the tensor in them."""
    if array.shape != port.shape:
        raise BadInput(
            f"[replay] expected {port.name} of shape {port.shape}, got {array.shape}. "
            "Hint: the folder's files are not of one program."
        )
    data = np.zeros(port.nbytes, np.uint8)
    np.ndarray(port.shape, array.dtype, data, strides=port.strides)[...] = array
    return data


def main(argv: Sequence[str] | None = None) -> None:
    """The command. Exit codes: 0 all agree, 1 something strays, 2 a request that makes no sense."""
    command(ReplayConfig, replay, argv)


if __name__ == "__main__":
    main()
