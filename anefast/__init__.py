"""anefast: train transformers on the Apple Neural Engine, and on its host twin anywhere.

    >>> import anefast
    >>> result = anefast.fit(anefast.preset("tiny"))  # doctest: +SKIP
    >>> print(result.model.generate("Once"))           # doctest: +SKIP
"""

from anefast.config import ModelConfig, OptimConfig
from anefast.fuse import Plan
from anefast.model import Model
from anefast.nn import init_params
from anefast.runtime import Device
from anefast.tokenizer import open_tokenizer

__version__ = "0.1.0"

__all__ = [
    "Device",
    "Model",
    "ModelConfig",
    "OptimConfig",
    "Plan",
    "init_params",
    "open_tokenizer",
]
