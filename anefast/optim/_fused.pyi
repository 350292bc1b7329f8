from typing import Any

from numpy import dtype, float32, ndarray

_Flat = ndarray[Any, dtype[float32]]

def adamw_(
    weight: _Flat,
    grad: _Flat,
    mean: _Flat,
    square: _Flat,
    factor: float,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    decay: float,
    bias1: float,
    bias2: float,
) -> None: ...
