"""Turns a plan's spec into a plan, once the model and the device are known.

`auto` needs both, so it is resolved here and nowhere earlier. What it becomes is an ordinary spec:
that is what a run records and what a resumed run goes on with.
"""

from __future__ import annotations

import gc

from anefast.checks import instance
from anefast.config import ModelConfig
from anefast.fuse.choose import choose
from anefast.fuse.count import Counter
from anefast.fuse.legal import target_of
from anefast.fuse.plan import is_auto
from anefast.models import Trained
from anefast.models.lora import NO_PAIRS, Ranks
from anefast.runtime.calibrate import calibrate
from anefast.runtime.device import Device


def resolve(
    spec: str, config: ModelConfig, device: Device, batch: int, seq: int, accumulation: int
) -> tuple[str, str]:
    """(the spec that `auto` stands for here, half a line saying why); any other spec as it is.

    The first call on a machine takes a second or two more: it calibrates. Raises ValueError where
    no plan is legal.
    """
    specs, reason = candidates(spec, config, device, batch, seq, accumulation)
    return specs[0], reason


def candidates(
    spec: str,
    config: ModelConfig,
    device: Device,
    batch: int,
    seq: int,
    accumulation: int,
    trained: Trained = None,
    ranks: Ranks = NO_PAIRS,
) -> tuple[list[str], str]:
    """As `resolve`, with the specs to fall back to behind the first where a compile is refused.

    trained: names of the parameters that change, None for all; with the `ranks` of an adapter's
    pairs, they are what changes.
    """
    instance("plan", "plan", spec, str, "'auto' or 'all', for example")
    if not is_auto(spec):
        return [spec], ""
    counter = Counter(config, batch, seq, trained, ranks)
    choice = choose(counter, accumulation, target_of(device), calibrate(device), spec)
    found = [choice.spec, *choice.fallbacks], choice.reason()
    del counter, choice
    gc.collect()  # tuples that Python keeps for later lie all over what a dozen graphs took: 100 MB
    return found
