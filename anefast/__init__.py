"""anefast: train transformers on the Apple Neural Engine, or the same programs on any CPU.

>>> import anefast
>>> result = anefast.fit(steps=200)  # doctest: +SKIP
>>> print(result.model.generate("Once"))  # doctest: +SKIP
>>> model = anefast.load("SmolLM2-135M/")  # doctest: +SKIP
>>> model.fit("my.txt", lr=2e-4)  # doctest: +SKIP

A name is imported when it is first used, so `import anefast` costs nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anefast.config import ModelConfig, OptimConfig, TrainConfig
    from anefast.fuse import Plan
    from anefast.model import Model
    from anefast.models import init_ffn, init_params
    from anefast.runtime import Device, fused_ffn, fused_transformer
    from anefast.tokenizer import open_tokenizer
    from anefast.train import fit

    load = Model.load

__version__ = "0.1.0"

__all__ = [
    "Device",
    "Model",
    "ModelConfig",
    "OptimConfig",
    "Plan",
    "TrainConfig",
    "fit",
    "fused_ffn",
    "fused_transformer",
    "init_ffn",
    "init_params",
    "load",
    "open_tokenizer",
]

_HOMES = {
    "config": ("ModelConfig", "OptimConfig", "TrainConfig"),
    "fuse": ("Plan",),
    "model": ("Model", "load"),
    "models": ("init_ffn", "init_params"),
    "runtime": ("Device", "fused_ffn", "fused_transformer"),
    "tokenizer": ("open_tokenizer",),
    "train": ("fit",),
}


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    home = next((home for home, names in _HOMES.items() if name in names), None)
    if name == "load":
        found: Any = import_module("anefast.model").Model.load
    elif home:
        found = getattr(import_module(f"anefast.{home}"), name)
    else:
        return _module(name)
    globals()[name] = found
    return found


def _module(name: str) -> Any:
    """A module of ours by name, as in anefast.models.shapes after `import anefast` alone."""
    from importlib import import_module

    missing = AttributeError(f"module 'anefast' has no attribute {name!r}")
    if name.startswith("__"):
        raise missing
    try:
        return import_module(f"anefast.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"anefast.{name}":
            raise
        raise missing from None
