"""`anefast bench [TABLE...]`: the published tables, here, modelled and as published."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from anefast import _C
from anefast.bench import guard, held_out, published
from anefast.bench.context import Bench
from anefast.bench.table import render
from anefast.bench.tables import MODULES, make
from anefast.checks import need_choice
from anefast.chips.behaviour import find_chip
from anefast.chips.rates import assumptions
from anefast.cli import command, say
from anefast.config import ConfigError, suggest
from anefast.errors import visible
from anefast.files import open_new, write_json
from anefast.runtime.budget import PROCESS
from anefast.runtime.device import DEVICES

log = logging.getLogger("anefast")


@dataclass(frozen=True)
class BenchCommand:
    """Run the published tables of an M1 Pro again: here, modelled for a chip, and as published."""

    # Which tables to measure; none: all.
    tables: Annotated[tuple[str, ...], tyro.conf.Positional] = field(default=())
    quick: bool = False  # Smaller budgets, without the largest sizes: minutes in all.
    chip: str = published.CHIP  # The chip that the modelled column is for.
    device: str = "auto"  # Where programs run: auto, host or ane.
    json: str = ""  # Also write the tables to this file.
    # For the table `model`: print only how far it is from the published times of other chips.
    held_out: bool = False
    refuse_busy: bool = False  # Stop if other processes keep the machine busy.


def main(argv: Sequence[str] | None = None) -> None:
    """The command. Exit codes: 0, or 2 for a request that makes no sense."""
    command(BenchCommand, run, argv)


def run(asked: BenchCommand) -> None:
    """Prints each table as soon as it is measured."""
    from anefast.runtime import Device

    if asked.held_out:
        if asked != BenchCommand(tables=("model",), held_out=True):
            hint = "anefast bench model --held-out"
            raise ConfigError(f"[bench] --held-out works with the table model only. Hint: {hint}.")
        say(*held_out.report())
        return
    names = asked.tables or tuple(MODULES)
    for name in names:
        if name not in MODULES:
            hint = suggest(name, MODULES) or f" Hint: one of {', '.join(MODULES)}."
            raise ConfigError(f"[bench] unknown table {name!r}.{hint}")
    find_chip(asked.chip)
    need_choice("--device", asked.device, DEVICES, "bench")
    if asked.json:
        open_new(asked.json, "bench", append=True).close()  # an unwritable file is an error now
    quiet = PROCESS.guard(10**9, log.debug)  # how many compiles a process takes is a table here
    with guard.one_at_a_time(), quiet:
        if line := guard.look_around(asked.refuse_busy):
            print(visible(line), file=sys.stderr)
        bench = Bench(Device(asked.device), asked.chip, asked.quick)
        say(f"here: {bench.here}; CPU side on {_C.threads()} threads")
        say(f"modelled: {bench.machine.rates.source}; published: {published.SOURCE}")
        guessed = assumptions(find_chip(asked.chip))
        for line in guessed:
            say(f"  {line}")
        made = []
        for name in names:
            table = make(name, bench)
            made.append(table.json())
            say("", *render(table))
    if asked.json:
        about = {"here": bench.here, "threads": _C.threads(), "quick": asked.quick}
        about["published"] = published.SOURCE
        about["modelled"] = " ".join([bench.machine.rates.source, *guessed])
        write_json(asked.json, about | {"tables": made}, "bench")


if __name__ == "__main__":
    main()
