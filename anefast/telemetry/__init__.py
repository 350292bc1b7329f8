"""The files of a run, and how they are shown.

run.py is the folder, rows.py its row files, mend.py what becomes of damaged ones, background.py the
thread that writes them, timeline.py where the time went, trace.py the same for a trace viewer,
breakdown.py the table, sinks.py the dashboards, screen.py the terminal, figures.py and page.py the
report.
"""

from anefast.telemetry.rows import METRICS, TIMINGS, RunError, read_rows
from anefast.telemetry.run import (
    RunFolder,
    arithmetic,
    environment,
    peak_memory_bytes,
    read_config,
)

__all__ = [
    "METRICS",
    "TIMINGS",
    "RunError",
    "RunFolder",
    "arithmetic",
    "environment",
    "peak_memory_bytes",
    "read_config",
    "read_rows",
]
