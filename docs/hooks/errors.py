"""Puts every error message of the sources into the troubleshooting page, by its tag.

mkdocs calls `on_page_markdown`; tests/test_docs.py calls `messages`. A message begins with its tag,
`[config] ...`. Values that it is filled with are shown as `…`.
"""

from __future__ import annotations

import ast
import functools
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
MARK = "<!-- every error -->"
TAGGED = re.compile(r"\[([a-z][a-z_. -]*|…)\] (?=.)")
NATIVE = {".c", ".cpp", ".h", ".m"}
LITERAL = r'"((?:[^"\\]|\\.)*)"'


@functools.cache
def messages() -> dict[str, list[str]]:
    """tag: its messages, sorted. Those whose tag is filled in by the caller are under "…"."""
    found = defaultdict[str, set[str]](set)
    for text in [*_python(), *_native()]:
        if tag := TAGGED.match(text):
            found[tag[1]].add(" ".join(text[tag.end() :].split()))
    return {tag: sorted(texts) for tag, texts in sorted(found.items())}


def _python() -> Iterator[str]:
    for path in sorted((ROOT / "anefast").rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        parts = {id(v) for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for v in n.values}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr | ast.Constant) and id(node) not in parts:
                yield re.sub(r"%[.,\d]*[sdrfg]", "…", _filled(node))
            if isinstance(node, ast.Call):
                yield from _made(node)


# What words a message from its arguments: the function, and its message with {0} for the first.
MAKERS = {
    "need": "[config] {1}. Hint: {2}.",
    "ShapeError": "[{0}] expected {1}, got …. Hint: {3}",
    "refuse": "[{0}] expected {1} to be {3}, got …. Hint: {4}.",
}


def _made(call: ast.Call) -> Iterator[str]:
    form = MAKERS.get(getattr(call.func, "id", getattr(call.func, "attr", "")))
    if form is None:
        return
    last = max(int(n) for n in re.findall(r"{(\d)}", form))
    given = [_filled(argument) for argument in call.args][: last + 1]
    if len(given) == last:  # no hint
        form, given = form.partition(" Hint: ")[0], [*given, ""]
    if len(given) > last:
        yield form.format(*given)


def _filled(node: ast.AST) -> str:
    """A string with … where a value is filled in."""
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_filled, node.values))
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else "…"


def _native() -> Iterator[str]:
    """String literals that begin with a tag, and the literals up to the end of the statement."""
    for path in sorted((ROOT / "csrc").rglob("*")):
        if path.suffix not in NATIVE:
            continue
        for begun in re.finditer(r'"\[[a-z][a-z_ -]*\] [^;]*;', path.read_text("utf-8")):
            parts = re.split(LITERAL, begun[0].partition(");")[0])
            between, texts = parts[::2][1:], parts[1::2]
            text = "".join(
                part + ("…" if re.search(r"\w", gap) else "")
                for part, gap in zip(texts, between, strict=False)
            )
            yield re.sub(r"%[-\w.*]+", "…", text.replace('\\"', '"').replace("\\n", " "))


def on_page_markdown(markdown: str, **_: Any) -> str:
    """mkdocs' hook: the list of all messages where MARK stands."""
    if MARK not in markdown:
        return markdown
    lines = []
    for tag, texts in messages().items():
        head = "Any tag: the file or setting that is meant" if tag == "…" else f"`[{tag}]`"
        lines += [f"### {head}", ""]
        lines += [f"- `{text.replace('`', chr(39))}`" for text in texts] + [""]
    return markdown.replace(MARK, "\n".join(lines))
