"""Fits the time model's free rates to the published times of an M1 Pro; prints what is in rates.py.

    python benchmarks/fit_time_model.py            # takes some seconds

Nine rates are fitted to all rows of `anefast.bench.model` at once, the others of rates.py are read
off one published figure each or are another publication's. What is minimised is the sum of fourth
powers of the relative errors: between least squares, which would let a few rows go, and the worst
row alone, which would let all others go. The result is rounded to three digits, so that the same
numbers come out on any machine.

How the form was found, on the 20 independent times of evaluations (worst relative error, with the
best rates for each): dispatch, products and weights, as this project had before, 0.41; with ports
0.30; with ports and something per product 0.14, but at 21 TFLOP/s, twice what the chip has; with
the published roofline of the M1 for products and weights, and the first 8 MB of weights (its SRAM)
at its published streaming rate, 0.14 with three free rates. For sequences of 64 or 128 instead of
256 in the transformers' rows no such form came below 0.15. Elementwise work at the published rate
of the M1's memory, 85 GB/s for the results alone, makes the worst row 0.44 with all rates fitted
anew; below 0.15 it comes from 1000 GB/s only, which is as good as nothing: such results do not
leave the chip, and no rate was published for them there, so there is no such term. Compiling: with
products of two values, their heads and the bytes of weights 0.07; by operations, results, weights
or flops alone, to any power from 1 to 2, none below 0.38.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from anefast.bench import model, seed
from anefast.chips import Figure
from anefast.fuse.rates import RATES

Array = npt.NDArray[np.float64]

FITTED = {  # starts of the search
    "dispatch_us": 160.0,
    "product_us": 2.0,
    "port_gb_s": 5.0,
    "compile_first_ms": 50.0,
    "compile_program_ms": 100.0,
    "compile_mb_ms": 4.0,
    "compile_attention_ms": 4.0,
    "cold": 0.5,
    "warm_steps": 10.0,
}
POWER = 4


def with_values(values: Array) -> model.Machine:
    """The M1 Pro with these values for the fitted rates."""
    given = {k: Figure(float(v), "being fitted") for k, v in zip(FITTED, values, strict=True)}
    return model.Machine(seed.CHIP, replace(RATES[seed.CHIP], **given))


def misses(logs: Array) -> Array:
    """Relative error of every row, for logarithms of the fitted rates."""
    return np.array([row.error for row in model.rows(with_values(np.exp(logs)))])


def minimise(error: Callable[[Array], Array], start: Array, power: int = POWER) -> Array:
    """Where the sum of |error| ** power is least: Gauss-Newton steps on reweighted rows."""
    at, here = start, error(start)
    for _ in range(60):
        slope = np.column_stack([(error(at + h) - here) / 1e-4 for h in 1e-4 * np.eye(len(at))])
        weight = np.abs(here) ** (power / 2 - 1)
        step = np.linalg.lstsq(slope * weight[:, None], -here * weight, rcond=None)[0]
        step = np.clip(step / (power - 1), -0.5, 0.5)
        while np.sum(np.abs(error(at + step)) ** power) > np.sum(np.abs(here) ** power):
            step /= 2
            if np.abs(step).max() < 1e-7:
                return at
        at = at + step
        here = error(at)
    return at


def fit() -> dict[str, float]:
    """The fitted rates, of three digits."""
    found = np.exp(minimise(misses, np.log(list(FITTED.values()))))
    return {name: float(f"{v:.3g}") for name, v in zip(FITTED, found, strict=True)}


def main() -> None:
    found = fit()
    for name, value in found.items():
        kept = getattr(RATES[seed.CHIP], name).value
        print(f"{name:22} {value:8g}{'' if kept == value else f'   but rates.py has {kept:g}'}")
    rows = model.rows(with_values(np.array(list(found.values()))))
    print("\n".join(model.report(rows)))


if __name__ == "__main__":
    main()
