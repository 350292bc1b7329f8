"""A child for doctor's runner whose checks crash, hang and chatter. Not a test itself."""

from __future__ import annotations

import os
import sys
import time

from anefast.doctor import apart
from anefast.doctor.result import Check, Found, Number, Wrong


def chatter(subject: object) -> Found:
    print('{"doctor": "not a result"}\nnoise')
    return Found("said it", (Number("n", 1.5, "us", "emulated", 160),), {"ports": ("several",)})


def wrong(subject: object) -> Found:
    raise Wrong("seen something")


def crash(subject: object) -> Found:
    print("last words", file=sys.stderr, flush=True)
    os.abort()


def leave(subject: object) -> Found:
    os._exit(3)


def hang(subject: object) -> Found:
    time.sleep(60)
    return Found("")


CHECKS = [
    Check("chatter", "programs", chatter),
    Check("crash", "programs", crash),
    Check("wrong", "ports", wrong),
    Check("hang", "ports", hang, seconds=0),
    Check("alone", "ports", chatter, alone=True),
    Check("leave", "ports", leave),
    Check("chatter again", "ports", chatter),
]

if __name__ == "__main__":
    apart.serve(sys.argv[1:], CHECKS)
