"""Graph to MIL text: one statement per node, in the graph's order.

The op records say how each op is spelled, so this file names no op. Where spelling is free it is
that of programs seen to run: arguments in order of their names, the larger operand of an addition
or multiplication first, no dots in names. Same program, same bytes;
weights are referred to by their place in the weight file, never by value. Reads with spelling.py
(how) and pack.py (the file).
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from anefast.ir import OPS, Program, Tensor, baked
from anefast.ir.op import Const
from anefast.ir.tensor import digest
from anefast.mil.pack import PATH, BlobLayout, Entry
from anefast.mil.spelling import DIALECTS, Dialect, identifier, suffix, to_half

LAYER = re.compile(r"layers\.(\d+)")
# A label as it stands in the text: layers_0_attn_qkv_backward_mul_1.
WRITTEN = re.compile(
    r"(layers_\d+|first(?:_\d+)?)_(attn|ffn)(?:_(qkv|scores|out))?(?:_(backward))?_([a-z].*)"
)


class Text(NamedTuple):
    text: str
    blobs: BlobLayout


def emit(program: Program, dialect: str = "ios18") -> Text:
    """The text of one program and the layout of its weight file.

    dialect: "ios18" or "ios16". Expects a program that rules.check accepts.
    """
    if dialect not in DIALECTS:
        raise ValueError(f"[emit] expected a dialect of {sorted(DIALECTS)}, got {dialect!r}.")
    return _Writer(program, DIALECTS[dialect]).write()


class _Writer:
    def __init__(self, program: Program, dialect: Dialect) -> None:
        self.program, self.dialect = program, dialect
        self.body: list[tuple[str, str, str | int, str]] = []  # type, name, expression, label
        self.entries: list[Entry] = []
        self.ports = {t: name for name, t in program.outputs}
        self.taken = {name for name, _ in [*program.inputs, *program.outputs]}
        self.ids: dict[Tensor, str] = {t: name for name, t in program.inputs}
        self.consts: dict[Any, str] = {}  # what a constant is -> its identifier
        self.counts: dict[str, int] = {}
        self.first_layer = None if any(map(baked, program.nodes)) else first_layer(program)

    def write(self) -> Text:
        for node in self.program.nodes:
            if not node.is_leaf and not baked(node):
                self.statement(node)
        layout = BlobLayout(self.entries)
        of = self.dialect
        ports = ", ".join(f"{of.type(t.dtype, t.shape)} {n}" for n, t in self.program.inputs)
        lines = [of.head(), "{", f"    func main<{of.name}>({ports}) {{"]
        for kind, name, value, label in self.body:
            if isinstance(value, int):  # an entry of the weight file, its offset known only now
                spelled = of.blob(kind, PATH, layout.offsets[value])
                value = f"const()[name = {of.string(identifier(label))}, val = {spelled}]"
            lines.append(f"        {kind} {name} = {value};")
        results = ", ".join(name for name, _ in self.program.outputs)
        return Text("\n".join([*lines, f"    }} -> ({results});", "}", ""]), layout)

    # One op.

    def statement(self, node: Tensor) -> None:
        record = OPS[node.op].mil
        if record is None:
            raise ValueError(f"[emit] expected simple device ops, got {node!r}. Hint: ir.simplify.")
        operands = node.inputs
        if record.commutes and operands[0].size < operands[1].size:
            operands = operands[::-1]
        inputs = [self.operand(x) for x in operands]
        if record.variadic:
            given = {record.operands[0]: f"({', '.join(inputs)})"}
        else:
            given = dict(zip(record.operands, inputs, strict=True))
        for c in sorted(record.consts, key=lambda c: c.argument):
            given[c.argument] = self.argument(c, node)
        arguments = [f"{argument} = {value}" for argument, value in sorted(given.items())]
        label = self.label(node)
        name = self.ports.get(node) or self.unique(label)
        self.ids[node] = name
        title = self.dialect.string(identifier(label))
        call = f"{node.op}({', '.join(arguments)})[name = {title}]"
        self.body.append((self.dialect.type(node.dtype, node.shape), name, call, label))

    def label(self, node: Tensor) -> str:
        """layers.0.ffn.conv_0, layers.0.ffn.backward.conv_1: counted per scope and op.

        Without weights inside, layers count from the program's first: first.ffn.mul_0. Then equal
        programs of different layers have equal texts and are compiled once.
        """
        path = [self.local(node.scope)] if node.scope else []
        if node.direction == "backward":
            path.append("backward")
        stem = ".".join([*path, node.op])
        self.counts[stem] = self.counts.get(stem, -1) + 1
        return f"{stem}_{self.counts[stem]}"

    def local(self, scope: str) -> str:
        layer = LAYER.match(scope)
        if self.first_layer is None or layer is None:
            return scope
        after = int(layer[1]) - self.first_layer
        return (f"first+{after}" if after else "first") + scope[layer.end() :]

    def unique(self, label: str) -> str:
        name = identifier(label)
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name

    # Constants, each written once, before its first use.

    def operand(self, t: Tensor) -> str:
        if t not in self.ids:
            self.ids[t] = self.leaf(t)
        return self.ids[t]

    def leaf(self, t: Tensor) -> str:
        if found := baked(t):
            parameter, transposed = found
            name = parameter.name or ""
            entry = Entry(name, parameter.shape, transposed)
            label = f"{name}.transposed" if transposed else name
            return self.blob(("parameter", name, transposed), t, entry, label)
        half = to_half(t.value, t.name or "constant")
        if not t.shape:
            key = ("scalar", half.tobytes())
            return self.small(key, f"c_{suffix(f'{float(half):.4g}')}", "float", float(half))
        entry = Entry(None, t.shape, data=half)
        return self.blob(("constant", t.shape, digest(half)), t, entry, self.title(t))

    def title(self, t: Tensor) -> str:
        return t.name or f"constant_{sum(e.parameter is None for e in self.entries)}"

    def argument(self, const: Const, node: Tensor) -> str:
        value = const.of(node)
        key = ("argument", const.argument, repr(value))
        return self.small(key, f"{const.argument}_{suffix(value)}", const.kind, value)

    def small(self, key: Any, label: str, kind: str, value: Any) -> str:
        if key not in self.consts:
            name = self.consts[key] = self.unique(label)
            of, spelled = self.dialect.constant(kind, value)
            call = f"const()[name = {self.dialect.string(name)}, val = {spelled}]"
            self.body.append((of, name, call, name))
        return self.consts[key]

    def blob(self, key: Any, t: Tensor, entry: Entry, label: str) -> str:
        if key not in self.consts:
            self.consts[key] = self.unique(label)
            of = self.dialect.type(t.dtype, t.shape)
            self.body.append((of, self.consts[key], len(self.entries), label))
            self.entries.append(entry)
        return self.consts[key]


def spoken(name: str) -> str:
    """A name in the text as messages have it, with the dots of its scope; others as they are.

    >>> spoken("layers_0_attn_qkv_backward_mul_1"), spoken("w1")
    ('layers.0.attn.qkv.backward.mul_1', 'w1')
    """
    found = WRITTEN.fullmatch(name)
    if found is None:
        return name
    layer, *path = found.groups()
    layer = layer.replace("_", "." if layer.startswith("layers") else "+")
    return ".".join([layer, *filter(None, path)])


def first_layer(program: Program) -> int | None:
    """The lowest layer of the program's nodes; None if there are no layers."""
    scopes = (n.scope for n in program.nodes if not n.is_leaf)  # constants are shared by layers
    found = [int(m[1]) for m in map(LAYER.match, scopes) if m]
    return min(found, default=None)
