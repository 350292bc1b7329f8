"""anefast: train transformers on the Apple Neural Engine, and on its host twin anywhere.

>>> import anefast
>>> result = anefast.fit(steps=200)  # doctest: +SKIP
>>> print(result.model.generate("Once"))  # doctest: +SKIP
>>> model = anefast.load("SmolLM2-135M/")  # doctest: +SKIP
>>> model.fit("my.txt", lr=2e-4)  # doctest: +SKIP
"""

from typing import TYPE_CHECKING, Any

from anefast.config import ModelConfig, OptimConfig, TrainConfig
from anefast.fuse import Plan
from anefast.model import Model
from anefast.nn import init_ffn, init_params
from anefast.runtime import Device, fused_ffn, fused_transformer
from anefast.tokenizer import open_tokenizer

if TYPE_CHECKING:
    from anefast.train import fit

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


load = Model.load


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def __getattr__(name: str) -> Any:
    """`fit` lives in the module that `python -m anefast.train` runs, so it is imported late."""
    if name == "fit":
        from anefast.train import fit

        return fit
    raise AttributeError(f"module 'anefast' has no attribute {name!r}")
