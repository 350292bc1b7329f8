"""Every optimiser by the name that `optim.name` gives it, and a config with its settings."""

from __future__ import annotations

import math
from collections.abc import Mapping

from anefast.checks import need, need_choice
from anefast.config import OptimConfig
from anefast.optim.adafactor import ADAFACTOR
from anefast.optim.adam import ADAM
from anefast.optim.adamw import ADAMW
from anefast.optim.lion import LION
from anefast.optim.muon import MUON
from anefast.optim.record import OWN, Record, Shape
from anefast.optim.sgd import SGD

RECORDS: dict[str, Record] = {
    record.name: record for record in (ADAMW, ADAM, LION, MUON, SGD, ADAFACTOR)
}


def record_of(config: OptimConfig) -> Record:
    """The optimiser that `config` names. ConfigError for none of ours."""
    need_choice("optim.name", config.name, tuple(RECORDS))
    return RECORDS[config.name]


def count_states(config: OptimConfig, weights: Mapping[str, Shape]) -> int:
    """The number of values that the optimiser keeps for weights of these names and shapes."""
    record, config = record_of(config), settled(config)
    return sum(
        math.prod(shape)
        for name, weight in weights.items()
        for shape in record.states(config, name, weight).values()
    )


def settled(config: OptimConfig) -> OptimConfig:
    """`config` with the optimiser's own values where it names none.

    ConfigError for a setting that the optimiser does not read.

    >>> settled(OptimConfig(name="lion", beta1=0.95)).beta1, settled(OptimConfig(name="lion")).beta2
    (0.95, 0.99)
    """
    record = record_of(config)
    values: dict[str, float] = {}
    for name in OWN:
        value, own = getattr(config, name), record.own.get(name)
        unset = value is False if name == "nesterov" else value == -1
        need(
            unset or own is not None,
            f"optim.{name} {value:g} was named, but {record.name} does not read it",
            f"it reads {', '.join(record.own)}",
        )
        if unset and own is not None:
            values[name] = own
    return config.replace(**values)
