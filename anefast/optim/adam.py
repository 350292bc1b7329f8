"""Adam (Kingma and Ba, arXiv 1412.6980), bias correction included: AdamW without any decay."""

from __future__ import annotations

from dataclasses import replace

from anefast.optim.adamw import ADAMW

ADAM = replace(ADAMW, name="adam", own={"beta1": 0.9, "beta2": 0.999, "eps": 1e-8})
