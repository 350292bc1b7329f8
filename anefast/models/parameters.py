"""The parameters of a model: names, shapes, initial values.

One name follows a weight everywhere: config, graph, MIL, checkpoint, log. Arrays are fp32,
row-major, `[out, in]` for matrices. Read `family.py` next for who says which there are.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, MutableMapping

import numpy as np
import numpy.typing as npt

from anefast.checks import instance, whole
from anefast.config import ModelConfig
from anefast.models.families import family_of

Params = MutableMapping[str, npt.NDArray[np.float32]]
LINE = 16  # floats of a cache line, on which each array of `zeros_of` begins


def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every parameter's shape by name, in the order all files and loops use."""
    return {name: p.shape for name, p in family_of(config).parameters(config).items()}


def count_params(config: ModelConfig) -> int:
    """The number of the model's weights (vocab_size must be known)."""
    return sum(math.prod(shape) for shape in shapes(config).values())


def classifier(params: Params) -> str:
    """Name of the classifier's weight: `output`, or `tok_embeddings` where they are tied."""
    return "output" if "output" in params else "tok_embeddings"


def zeros_of(shapes: Mapping[str, tuple[int, ...]]) -> Params:
    """Zeros of every shape, side by side in one block.

    NumPy asks for huge pages where a block has 4 MB and more, which single weights seldom have.

    >>> {name: a.shape for name, a in zeros_of({"w": (2, 3)}).items()}
    {'w': (2, 3)}
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    rooms = {name: -(-size // LINE) * LINE for name, size in sizes.items()}
    block = np.zeros(sum(rooms.values()) + LINE, np.float32)
    at = -(block.ctypes.data // block.itemsize) % LINE
    zeros: Params = {}
    for name, shape in shapes.items():
        zeros[name] = block[at : at + sizes[name]].reshape(shape)
        at += rooms[name]
    return zeros


def block(arrays: Params) -> npt.NDArray[np.float32]:
    """The flat array (N,) that all arrays of `zeros_of` are slices of, from the first one on.

    It is the same for arrays of the same shapes, wherever the system put them.
    """
    first = next(iter(arrays.values()))
    whole = first.base
    assert isinstance(whole, np.ndarray) and all(a.base is whole for a in arrays.values())
    at = (first.ctypes.data - whole.ctypes.data) // whole.itemsize
    return whole[at : at + whole.size - LINE]


def places(arrays: Params) -> dict[str, tuple[int, int]]:
    """The range of each array of `zeros_of` in their `block`: first float, and padded end."""
    base = block(arrays).ctypes.data
    found = {}
    for name, array in arrays.items():
        at = (array.ctypes.data - base) // array.itemsize
        found[name] = at, at + -(-array.size // LINE) * LINE
    return found


def init_params(config: ModelConfig, seed: int) -> Params:
    """Draws initial parameters, fp32 by name: matrices (out, in) from normal(0, init_std), gains of
    one, biases of zero (`Parameter.init`).

    Each tensor has a stream of its own, keyed by seed and name, so a model with one more layer
    starts with the same values in the others.
    """
    instance("params", "config", config, ModelConfig, "ModelConfig(dim=128, ...)")
    whole("params", "vocab_size", config.vocab_size, 2, hint="a tokenizer's vocab_size")
    whole("params", "seed", seed, 0)
    residual_std = config.init_std / math.sqrt(2 * config.n_layers)
    params: Params = {}
    for name, (shape, init) in family_of(config).parameters(config).items():
        if init in ("ones", "zeros"):
            params[name] = np.full(shape, init == "ones", np.float32)
            continue
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        std = residual_std if init == "residual" else config.init_std
        params[name] = rng.standard_normal(shape, np.float32) * np.float32(std)
    return params
