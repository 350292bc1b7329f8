"""ANE001 to ANE019, ANE095, ANE098 to ANE101: what the reader noted, names, how text is written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from anefast.chips.behaviour import Chip
from anefast.mil.lint.checks.base import Finding, Platform, found, function_check, source_check
from anefast.mil.lint.edits import Edit, Rewriter, dialect_of
from anefast.mil.lint.source import At, Function, Op, Source, Value
from anefast.mil.spelling import BUILD, DIALECTS, identifier

# Kinds of faults of the reader (csrc/mil/lex.h) -> rules. "data" is weights that are missing.
FAULTS = {
    "syntax": "ANE001", "size": "ANE001", "type": "ANE017", "undefined": "ANE003",
    "duplicate": "ANE002", "opset": "ANE014", "argument": "ANE016", "dtype": "ANE027",
    "dynamic": "ANE011", "rank": "ANE012", "typed": "ANE099",
}  # fmt: skip
# Operations of MIL that the reader has no record of and no rule speaks about: nothing is known.
UNJUDGED = frozenset(
    """affine argsort batch_to_space classify cond constexpr_blockwise_shift_scale constexpr_cast
    constexpr_lut_to_sparse constexpr_sparse_blockwise_shift_scale constexpr_sparse_to_dense
    conv_transpose crop crop_resize depth_to_space einsum fill fill_like flatten2d gru l2_norm
    list_gather list_length list_read list_scatter list_write local_response_norm lstm make_list
    non_maximum_suppression non_zero pixel_shuffle pixel_unshuffle prelu random_bernoulli
    random_categorical random_normal random_uniform range_1d resample resize resize_bilinear
    resize_nearest_neighbor rnn shape slice_update sliding_windows softplus_parametric
    space_to_batch space_to_depth upsample_bilinear upsample_nearest_neighbor while_loop""".split()
)
MARK = b"\xef\xbb\xbf"  # of byte order, which some editors put before a text
VERSIONS = ("1.0", "1.3", "1.5")
WORDS = re.compile(r"^\[mil\] line \d+, column \d+: ")
# A scalar type by its short name, outside of tensor<...>; strings are matched to be passed over.
SHORT = re.compile(
    rb'"(?:\\.|[^"\\\n])*"|(?<![\w.@$])(?<!tensor<)(?<!tensor<\s)(?<!tensor\s<)(fp16|fp32|fp64|bool|string|u?int(?:8|16|32|64))'
    rb"(?=\s*\(|\s+\w+\s*[=,)]|\s*[,>])"
)


@source_check(*sorted({*FAULTS.values(), "ANE006", "ANE015", "ANE073", "ANE098"}))
def faults(source: Source, target: Platform) -> Iterator[Finding]:
    from anefast.mil.lint.checks.operations import FOREIGN

    ops = {op.at: op for f in source.functions for op in f.ops}
    bare = {a.at: (f, op) for f in source.functions for op in f.ops for a in op.arguments.values()}
    for fault, at, words in source.problems:
        message = WORDS.sub("", words)
        if fault == "operation":
            if at not in ops or ops[at].op not in UNJUDGED | FOREIGN:
                yield found("ANE015", at, message)
        elif fault == "bare":
            edits: list[Edit] = []
            if at in bare:
                function, op = bare[at]
                edits = named(source, function, op, at)
            yield found("ANE006", at, message, *edits)
        elif fault == "range":
            yield found("ANE073", at, message)
        elif at == (1, 1) and source.text.startswith(MARK):
            said = "a byte-order mark; what follows was not read"
            yield found("ANE098", at, said, Edit((0, len(MARK)), ""))
        elif fault in FAULTS:
            yield found(FAULTS[fault], at, message)


def named(source: Source, function: Function, op: Op, at: At) -> list[Edit]:
    """Moves a literal argument into a named constant before the call."""
    name, argument = next((n, a) for n, a in op.arguments.items() if a.at == at)
    value = argument.values[0]
    if len(argument.values) != 1 or not op.span[1]:
        return []
    rewriter = Rewriter(source, function, op)
    spelled = source.spelled(value.span)
    payload = spelled if "(" not in spelled else spelled[spelled.index("(") + 1 : -1]
    constant = rewriter.constant(name, value.dtype, payload.strip(), value.shape)
    return [rewriter.before(constant.statement), Edit(value.span, constant.name)]


@source_check("ANE095")
def unseen(source: Source, target: Platform) -> Iterator[Finding]:
    if source.version not in ("", *VERSIONS):
        yield found("ANE095", source.at(source.version_span[0]), f"program({source.version})")
    known = (target.chip or Chip("")).switches["opsets"].value.split("+")
    for function in source.functions:
        begin, end = function.opset_span
        if function.opset and function.opset not in known and begin < end:
            yield found("ANE095", source.at(begin), f"the opset {function.opset}")


@function_check("ANE007")
def inline_literals(source: Source, function: Function, target: Platform) -> Iterator[Finding]:
    told = {p.at for p in source.problems if p.fault == "bare"}
    for op in function.ops:
        for name, argument in op.arguments.items():
            if argument.bracketed or argument.at in told or argument.values[0].name:
                continue
            yield found(
                "ANE007", argument.at, f"{name} of {op.op} is a literal",
                *named(source, function, op, argument.at),
            )  # fmt: skip


@function_check("ANE004")
def dead_outputs(source: Source, function: Function, target: Platform) -> Iterator[Finding]:
    for value, at, _ in function.outputs:
        if value.is_input or value.baked:
            kind = "a parameter" if value.is_input else "a constant"
            yield found("ANE004", at, f"{value.name} is {kind}")


@function_check("ANE005")
def dead_code(source: Source, function: Function, target: Platform) -> Iterator[Finding]:
    if any(p.fault in ("syntax", "undefined") for p in source.problems):
        return  # what uses it may be what could not be read
    returned = {id(value) for value, _, _ in function.outputs}
    dead: set[int] = set()
    for op in reversed(function.ops):
        if op.results and not any(_alive(v, returned, dead) for v in op.results):
            dead.add(id(op))
            yield found(
                "ANE005",
                op.results[0].at,
                f"{op.results[0].name} is not used",
                _gone(source, op.span),
            )
    for value in function.values:
        if value.const and value.name and not _alive(value, returned, dead):
            yield found("ANE005", value.at, f"{value.name} is not used", _gone(source, value.span))
    for value in function.inputs:
        if not _alive(value, returned, dead):
            yield found("ANE005", value.at, f"the input {value.name} is not used")


def _alive(value: Value, returned: set[int], dead: set[int]) -> bool:
    return id(value) in returned or any(id(op) not in dead for op in value.users)


def _gone(source: Source, span: tuple[int, int]) -> Edit:
    """Removes a statement, and its line if nothing else is in it."""
    begin, end = span
    start = source.text.rfind(b"\n", 0, begin) + 1
    stop = source.text.find(b"\n", end)
    alone = stop >= 0 and not (source.text[start:begin] + source.text[end:stop]).strip()
    return Edit((start, stop + 1) if alone else span, "")


@function_check("ANE008")
def labels(source: Source, function: Function, target: Platform) -> Iterator[Finding]:
    for op in function.ops:
        if op.labelled or not op.results:
            continue
        name = dialect_of(source).string(op.results[0].name)
        tail = source.text[op.close[1] : op.span[1]]
        edit = Edit((op.close[1], op.close[1]), f"[name = {name}]")
        if b"[" in tail:
            inside = op.close[1] + tail.index(b"[") + 1
            edit = Edit((inside, inside), f"name = {name}, ")
        yield found("ANE008", op.at, f"{op.op} has no name", edit)


@source_check("ANE009")
def comments(source: Source, target: Platform) -> Iterator[Finding]:
    for span in source.comments:
        yield found("ANE009", source.at(span[0]), "a comment", Edit(span, " "))


@source_check("ANE010")
def build_info(source: Source, target: Platform) -> Iterator[Finding]:
    if not source.functions:
        return
    given = source.spelled(source.attributes_span)
    missing = [key for key, _ in BUILD if f'"{key}"' not in given]
    if not missing:
        return
    head = dialect_of(source).head()
    fresh = head[head.index("[") :]
    edits = []
    if "buildInfo" not in given or given.count("=") == 1:
        begin, end = source.attributes_span
        after = source.text.index(b")", source.version_span[1]) + 1
        edits = [Edit((begin, end) if end else (after, after), fresh if end else "\n" + fresh)]
    yield found("ANE010", (1, 1), f"buildInfo lacks {', '.join(missing)}", *edits)


@source_check("ANE013")
def dialect(source: Source, target: Platform) -> Iterator[Finding]:
    if not source.functions or not source.complete:
        return
    modern = source.version != "1.0" or any(f.opset > "ios16" for f in source.functions)
    if not modern and not any(m[1] for m in SHORT.finditer(source.text)):
        return
    old = DIALECTS["ios16"]
    edits = [Edit(source.version_span, old.version)]
    edits += [Edit(f.opset_span, old.name) for f in source.functions]
    for m in SHORT.finditer(source.text):
        if m[1]:
            edits.append(Edit(m.span(), old.scalar(m[1].decode())))
    what = f"program({source.version}) with {source.functions[0].opset}"
    yield found("ANE013", source.at(source.version_span[0]), what, *edits)


def is_state(source: Source, port: Value) -> bool:
    """True if a parameter is a state, which is no surface in the list of inputs."""
    return source.spelled(port.span).startswith("state")


@function_check("ANE060")
def states(source: Source, function: Function, target: Platform) -> Iterator[Finding]:
    for port in function.inputs:
        if is_state(source, port):
            said = f"state ports are not supported: pass {port.name} as an input"
            yield replace(found("ANE060", port.at, said), level="error")


@function_check("ANE018")
def port_order(source: Source, function: Function, target: Platform) -> Iterator[Finding]:
    inputs = [(v.name, v.at, v.span) for v in function.inputs if not is_state(source, v)]
    outputs = [(v.name, at, span) for v, at, span in function.outputs]
    for side, ports in (("inputs", inputs), ("results", outputs)):
        names = [name for name, _, _ in ports]
        if names == sorted(names):
            continue
        at = next(
            at for (name, at, _), wanted in zip(ports, sorted(names), strict=True) if name != wanted
        )
        order = {name: source.spelled(span) for name, _, span in ports}
        edits = []
        whole = side == "results" or len(ports) == len(function.inputs)  # no state between them
        if whole and len(order) == len(ports) and all(span[1] for _, _, span in ports):
            begin, end = ports[0][2][0], ports[-1][2][1]
            edits = [Edit((begin, end), ", ".join(order[n] for n in sorted(names)))]
        yield found(
            "ANE018",
            at,
            f"{side} {', '.join(names)} are bound as {', '.join(sorted(names))}",
            *edits,
        )


STATE = "state"  # the one word of MIL that a value was called by


@source_check("ANE100")
def entry(source: Source, target: Platform) -> Iterator[Finding]:
    names = [function.name for function in source.functions]
    if names and "main" not in names:
        yield found("ANE100", source.functions[0].at, f"a function called {names[0]}")


@function_check("ANE101")
def words(source: Source, function: Function, target: Platform) -> Iterator[Finding]:
    for value in function.values:
        if value.name == STATE:
            yield found("ANE101", value.at, f"a value called {STATE}")


@function_check("ANE019")
def port_names(source: Source, function: Function, target: Platform) -> Iterator[Finding]:
    ports = [(v.name, v.at) for v in function.inputs]
    for name, at in [*ports, *((v.name, at) for v, at, _ in function.outputs)]:
        if name != identifier(name):
            yield found("ANE019", at, f"the port {name}")
