"""Inside a fake build: opening the device over a framework with a name missing. Not a test.

Loads the extension alone, without the package: there is one process for each name.
"""

from __future__ import annotations

import importlib
import sys

sys.path.append(sys.argv[1])
_C = importlib.import_module("_C")

try:
    device = _C.Device("ane")
except _C.AneUnavailable as error:
    print(error)
else:
    found = [entry[4] for entry in _C.ane_selectors()]
    print(f"opened {device.description} with {sum(found)} of {len(found)}")
sys.stdout.flush()
