"""`anefast doctor`: what this machine, its Neural Engine and the host executor can do.

Prints as it goes, stores what it learned for `device="auto"`, exits 0 whatever it found: a finding
is no failure of the command. With --probe it also makes the published measurements again and
writes one JSON file, fit to attach to a bug report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from anefast.cli import command, say
from anefast.config import ConfigError
from anefast.doctor import apart, machine, ranks, registry, report
from anefast.doctor.result import Result
from anefast.runtime.device import DEVICES, Device
from anefast.runtime.doctor_facts import Learned, remember

PROBE_FILE = "anefast-doctor.json"


@dataclass(frozen=True)
class DoctorCommand:
    """Examine this machine: framework, operations, surfaces, weights, published measurements."""

    device: str = "auto"  # The device to examine. auto: the ANE if it opens, else the host.
    chip: str = ""  # Examine the host as it emulates: CHIPS, doctor.json.
    probe: bool = False  # Repeat the published measurements: minutes on a device.
    quick: bool = False  # With --probe: smaller probes.
    dist: bool = False  # Under mpiexec: measure how fast ranks sum gradients, and nothing else.
    json: str = ""  # Write everything to this file; with --probe always: anefast-doctor.json.


def main(argv: Sequence[str] | None = None) -> None:
    """The command. Exit codes: 0, or 2 for a request that makes no sense."""
    command(DoctorCommand, lambda asked: ranks.measure() if asked.dist else examine(asked), argv)


def examine(asked: DoctorCommand) -> report.Report:
    """Tries everything, printing what is found. Raises ConfigError, AneUnavailable."""
    if asked.device not in DEVICES:
        raise ConfigError(
            f"[doctor] expected --device {', '.join(DEVICES)}, got {asked.device!r}. "
            "Hint: without it, the ANE is examined where there is one."
        )
    if asked.quick and not asked.probe:
        raise ConfigError("[doctor] --quick works only with --probe. Hint: --probe --quick.")
    if asked.json and not Path(asked.json).expanduser().parent.is_dir():
        raise ConfigError(f"[doctor] expected a folder for --json {asked.json}, got none there.")
    why_not = machine.why_no_ane()
    # Not device="auto", which heeds what an earlier examination found.
    auto = "host" if why_not or asked.chip else "ane"
    name = asked.device if asked.device != "auto" else auto
    device = Device(name, chip=asked.chip)
    described = {"name": name, "description": device.description, "label": device.label}
    ane = {"why_not": why_not, "framework": machine.framework(), "selectors": machine.selectors()}
    empty = report.Report(described, machine.facts(), ane, [], Learned(), asdict(asked))
    _print(report.heading(empty))
    _print(["", "checks"])
    results: list[Result] = []
    for result in apart.run_all(registry.usual(), name, chip=asked.chip):
        results.append(result)
        if result.group != "operations":
            if results[-2].group == "operations":
                _print(report.operations(results))
            _print([report.line(result)])
    learned = registry.learn(results)
    if asked.probe:
        _print(["", "probes"])
        for result in apart.run_all(registry.probing(), name, asked.quick, asked.chip):
            results.append(result)
            _print([report.line(result)])
        _print(report.table([r for r in results if r.group == "probes"]))
        learned = registry.probed(learned, results)
    full = replace(empty, results=results, learned=learned)
    _print(["", *report.verdict(full)])
    # What an emulated chip takes is no fact about this machine.
    if not asked.chip and not remember(device.description, learned):
        _print(["what was learned could not be stored: the user's cache folder is not writable"])
    path = asked.json or (PROBE_FILE if asked.probe else "")
    if path:
        report.write(full, Path(path).expanduser())
        _print([f"written to {path}"])
    return full


def _print(lines: Sequence[str]) -> None:
    say(*lines)


if __name__ == "__main__":
    main()
