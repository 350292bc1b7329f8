"""Every setting of a run and its default: frozen dataclasses, checked when they are built.

This is the one place a default lives; flags, TOML files and presets only override it. It is not the
command line (that is cli.py, which layers flag > file > preset > default).

    model.py     ModelConfig: family, width, layers, heads, context
    parts.py     DataConfig, OptimConfig, LoraConfig, ScheduleConfig, LossScaleConfig, GuardConfig,
                 DistConfig
    run.py       TrainConfig: how long, how often, where, on which device; and the sections above

Read next: presets.py for the named models, cli.py for the layering, opening.py for the values that
a run ends up with.
"""

from anefast.checks import ConfigError, suggest
from anefast.config.limits import LARGEST, ROW_MULTIPLE
from anefast.config.model import DERIVED, ModelConfig, model_settings
from anefast.config.nested import flatten, merge
from anefast.config.parts import (
    SCHEDULES,
    DataConfig,
    DistConfig,
    GuardConfig,
    LoraConfig,
    LossScaleConfig,
    OptimConfig,
    ScheduleConfig,
)
from anefast.config.run import (
    GIVEN,
    TrainConfig,
    check_keys,
    check_length,
    from_settings,
    keys,
    sections,
    to_settings,
)

__all__ = [
    "DERIVED",
    "GIVEN",
    "LARGEST",
    "ROW_MULTIPLE",
    "SCHEDULES",
    "ConfigError",
    "DataConfig",
    "DistConfig",
    "GuardConfig",
    "LoraConfig",
    "LossScaleConfig",
    "ModelConfig",
    "OptimConfig",
    "ScheduleConfig",
    "TrainConfig",
    "check_keys",
    "check_length",
    "flatten",
    "from_settings",
    "keys",
    "merge",
    "model_settings",
    "sections",
    "suggest",
    "to_settings",
]
