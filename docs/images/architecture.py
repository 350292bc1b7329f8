"""Writes architecture.svg, the drawing of docs/architecture.md: `python docs/images/architecture.py`.

A box is (column, row, what it does, files). An arrow is (from, to, what goes along).
"""

from __future__ import annotations

from html import escape
from pathlib import Path

WIDTH, HEIGHT, GAP_X, GAP_Y, EDGE = 216, 58, 48, 46, 14
BOXES = {
    "flags": (0, 0, "flags and files", "config/ wishes.py cli.py"),
    "open": (0, 1, "what a run is of", "opening.py origins.py"),
    "loop": (0, 2, "the loop over updates", "trainer.py"),
    "state": (0, 3, "a checkpoint", "run_state.py checkpoint/"),
    "rows": (0, 4, "metrics, traces, the bar", "telemetry/"),
    "model": (1, 0, "a model as a graph", "models/ ir/"),
    "cut": (1, 1, "cut into programs by a plan", "fuse/cut.py fuse/plan.py"),
    "step": (1, 2, "one micro-step", "runtime/step.py"),
    "sums": (1, 3, "gradients added up", "csrc/cpu/weight_grad.cpp"),
    "update": (1, 4, "the update", "optim/ csrc/cpu/update.cpp"),
    "text": (2, 0, "MIL text and weight blobs", "mil/"),
    "compile": (2, 1, "compiled, or staged again", "runtime/compiler.py"),
    "door": (2, 2, "the one door", "csrc/anefast.h"),
    "host": (2, 3, "the host executor", "csrc/host/ csrc/host/fusion/"),
    "ane": (2, 4, "Apple's framework", "csrc/ane/"),
}
ARROWS = [
    ("flags", "open"), ("open", "loop"), ("loop", "state"), ("model", "cut"), ("loop", "step"),
    ("step", "door"), ("step", "sums"), ("sums", "update"), ("cut", "text"), ("text", "compile"),
    ("compile", "door"), ("door", "host"), ("update", "compile"), ("state", "rows"),
    ("host", "ane"),
]  # fmt: skip
JOINED = {("state", "rows"), ("host", "ane")}  # beside each other: a line without a head


def place(name: str) -> tuple[float, float]:
    """The upper left corner of a box."""
    column, row = BOXES[name][:2]
    return EDGE + column * (WIDTH + GAP_X), EDGE + row * (HEIGHT + GAP_Y)


def arrow(a: str, b: str) -> str:
    """From the side of one box to the facing side of the other."""
    (x0, y0), (x1, y1) = place(a), place(b)
    if x0 == x1:
        points = x0 + WIDTH / 2, y0 + HEIGHT, x1 + WIDTH / 2, y1 - 3
    else:
        points = x0 + WIDTH, y0 + HEIGHT / 2, x1 - 3, y1 + HEIGHT / 2
    head = "" if (a, b) in JOINED else ' marker-end="url(#head)"'
    at = dict(zip(("x1", "y1", "x2", "y2"), points, strict=True))
    return "<line " + " ".join(f'{k}="{v:g}"' for k, v in at.items()) + f'{head}/>'


def box(name: str) -> str:
    """A box with what it does, and its files."""
    _, _, does, where = BOXES[name]
    x, y = place(name)
    middle = x + WIDTH / 2
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="6"/>'
        f'<text x="{middle:g}" y="{y + 24:g}">{escape(does)}</text>'
        f'<text class="file" x="{middle:g}" y="{y + 43:g}">{escape(where)}</text>'
    )


def drawing() -> str:
    """The whole picture."""
    width = 2 * EDGE + 3 * WIDTH + 2 * GAP_X
    height = 2 * EDGE + 5 * HEIGHT + 4 * GAP_Y
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}">',
        "<title>From flags to a checkpoint: which file does what</title>",
        "<style>rect.page{fill:#fff;stroke:none}rect{fill:#eef3fa;stroke:#4a6fa5}line{stroke:#555;"
        "stroke-width:1.4}text{font:14px sans-serif;text-anchor:middle;fill:#222}"
        ".file{font:12px monospace;fill:#1f4e8c}</style>",
        '<defs><marker id="head" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" fill="#555"/></marker></defs>',
        f'<rect class="page" width="{width}" height="{height}"/>',
        *(arrow(a, b) for a, b in ARROWS),
        *(box(name) for name in BOXES),
        "</svg>\n",
    ])  # fmt: skip


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(drawing())
