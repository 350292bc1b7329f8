"""Fits the time model's free rates to the published times of an M1 Pro; prints what is in rates.py.

    python benchmarks/fit_time_model.py            # takes some seconds

Other chips' rates are fitted likewise to single convolutions and stacks of them
(bench/published.toml): fewer rates, of one machine each and noisy. What is minimised there is the
mean of |log(modelled / published)|, which a wild row cannot turn, with a weak pull to values of a
data sheet's size. Rows that took longer than a larger program of the same table count a seventh:
the chip's clock was low. (At a tenth the median of the M4 Max, half of whose rows are such, is
21 %, at a seventh 13 %, at a quarter 26 %; of the others none moves by 3.) Counting a stack's
weights once, as the files of those benchmarks have it, is what makes the form fit: counted n times,
single convolutions of 3072 channels miss by half. `left_out` predicts each row by a fit to the
chip's others.

Of the M1 Pro, nine rates are fitted to all rows of `anefast.bench.predictions` at once, the others
of rates.py are read off one published figure each, or are another publication's. It minimises
the sum of fourth powers of the relative errors: between least squares, which would let a few rows
go, and the worst row alone, which would let all others go. The result is rounded to three digits,
so that the same numbers come out on any machine.

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

from anefast.bench import held_out, predictions, published
from anefast.chips.behaviour import Figure
from anefast.chips.rates import RATES

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


def with_values(values: Array) -> predictions.Machine:
    """The M1 Pro with these values for the fitted rates."""
    given = {k: Figure(float(v), "being fitted") for k, v in zip(FITTED, values, strict=True)}
    return predictions.Machine(published.CHIP, replace(RATES[published.CHIP], **given))


def misses(logs: Array) -> Array:
    """Relative error of every row, for logarithms of the fitted rates."""
    return np.array([row.error for row in predictions.rows(with_values(np.exp(logs)))])


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


CHIP_FITTED = {  # the pull's centre
    "dispatch_us": 100.0,
    "product_us": 0.3,
    "tflops": 15.0,
    "fill_gb_s": 60.0,
    "port_gb_s": 40.0,
}
PULL, SLOW = 0.001, 1 / 7  # SLOW: what a row at a low clock counts
FEW = {  # of an M4 Max few rows are left, so the others are an M4's
    "m4": tuple(CHIP_FITTED), "m3": tuple(CHIP_FITTED), "m4-max": ("dispatch_us", "fill_gb_s")
}  # fmt: skip
# The 24 evaluations of a forward pass in training, ms (maderix/ANE report, an M4 Pro), which is
# what the model is for: it counts like several rows.
FORWARD_MS, LIKE = {"m4": 8.9}, 4


def features(rows: list[held_out.Published]) -> Array:
    """Evaluations, convolutions, flops, bytes of weights and of ports, published us: (rows, 6)."""
    return np.array([(*counted(row.work), row.us) for row in rows])


def counted(*works: published.Described) -> tuple[int, ...]:
    sums = [(1, len(w.products), w.flops, w.weight_bytes, w.port_bytes) for w in works]
    return tuple(map(sum, zip(*sums, strict=True)))


def modelled_us(logs: Array, x: Array) -> Array:
    """As Rates.evaluation: us of every row, for logarithms of CHIP_FITTED."""
    dispatch, product, tflops, fill, port = np.exp(logs)
    n, products, flops, weights, ports, _ = x.T
    moved = 1e-3 * (weights / fill + ports / port)
    return n * dispatch + products * product + 1e-6 * flops / tflops + moved


def fit_chip(rows: list[held_out.Published], free: tuple[str, ...], start: Array) -> Array:
    """Logarithms of CHIP_FITTED, of which `free` move: pattern search, the same on any machine."""
    x, centre = features(rows), np.log(list(CHIP_FITTED.values()))
    weight = np.array([SLOW if row.slow else 1.0 for row in rows])
    if ms := FORWARD_MS.get(rows[0].chip):
        x = np.vstack([x, *[(*counted(*published.TRAINING.forward), 1e3 * ms)]])
        weight = np.append(weight, LIKE)
    moving = [i for i, name in enumerate(CHIP_FITTED) if name in free]

    def cost(at: Array) -> float:
        miss = np.abs(np.log(modelled_us(at, x) / x[:, -1]))
        return float(np.average(miss, weights=weight) + PULL * ((at - centre)[moving] ** 2).sum())

    at, step = start.copy(), 0.5
    single = [np.eye(len(at))[i] for i in moving]
    pairs = [a + sign * b for i, a in enumerate(single) for b in single[:i] for sign in (1, -1)]
    directions = [sign * d for d in single + pairs for sign in (1, -1)]
    while step > 1e-3:
        tries = [at + step * d for d in directions]
        best = min(tries, key=cost)
        if cost(best) < cost(at) - 1e-9:
            at = best
        else:
            step /= 2
    return at


def fit_chips() -> dict[str, dict[str, float]]:
    """The fitted rates of every chip, of three digits."""
    found: dict[str, dict[str, float]] = {}
    for chip in FEW:
        values = np.exp(fit_chip(seen(chip), FEW[chip], begin(found, chip)))
        found[chip] = {k: float(f"{v:.3g}") for k, v in zip(CHIP_FITTED, values, strict=True)}
    return found


def seen(chip: str) -> list[held_out.Published]:
    """The rows that its rates are fitted to."""
    return [r for r in held_out.published() if r.chip == chip and r.kind == "fitted"]


def begin(found: dict[str, dict[str, float]], chip: str) -> Array:
    return np.log(list((CHIP_FITTED if "tflops" in FEW[chip] else found["m4"]).values()))


def left_out() -> dict[str, list[float]]:
    """By chip, the relative error of each row seen, predicted by a fit to the others."""
    found, errors = fit_chips(), dict[str, list[float]]()
    for chip in FEW:
        for row in seen(chip):
            others = [r for r in seen(chip) if r is not row]
            logs = fit_chip(others, FEW[chip], begin(found, chip))
            us = modelled_us(logs, features([row]))[0]
            errors.setdefault(chip, []).append(us / row.us - 1)
    return errors


def main() -> None:
    for chip, rates in fit_chips().items():
        for name in FEW[chip]:
            kept = getattr(RATES[chip], name).value
            other = "" if kept == rates[name] else f"   but rates.py has {kept:g}"
            print(f"{chip:7} {name:14} {rates[name]:8g}{other}")
    for chip, missed in left_out().items():
        print(f"{chip}: median of rows left out {100 * np.median(np.abs(missed)):.0f} %")
    found = fit()
    for name, value in found.items():
        kept = getattr(RATES[published.CHIP], name).value
        print(f"{name:22} {value:8g}{'' if kept == value else f'   but rates.py has {kept:g}'}")
    rows = predictions.rows(with_values(np.array(list(found.values()))))
    print("\n".join(predictions.report(rows)))


if __name__ == "__main__":
    main()
