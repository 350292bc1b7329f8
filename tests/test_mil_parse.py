"""The reader of MIL text: what public programs write must parse, what is wrong must be refused in
words and with a position, and no bytes whatever may crash, hang or slow it."""

# ruff: noqa: E501  (MIL statements, and what is wrong with them, one to a line)
from __future__ import annotations

import random
import time
from typing import Any

import numpy as np
import pytest

from anefast import _C

MODERN = """program(1.3)
[buildInfo = dict<string, string>({{"coremlc-component-MIL", "3510.2.1"}, {"x", ""}})]
{
    func main<ios18>(tensor<fp16, [1, 64, 1, 32]> x) {
        string pt = const()[name = string("pt"), val = string("valid")];
        tensor<int32, [2]> st = const()[name = string("st"), val = tensor<int32, [2]>([1, 1])];
        tensor<int32, [4]> pd = const()[name=string("pd"), val=tensor<int32, [4]>([0,0,0,0])];
        int32 gr = const()[name = string("gr"), val = int32(1)];
        tensor<fp16, [128, 64, 1, 1]> W = const()[name = string("W"), val = tensor<fp16, [128, 64, 1, 1]>(BLOBFILE(path = string("@model_path/weights/w.bin"), offset = uint64(64)))];
        tensor<fp16, [1, 128, 1, 32]> y = conv(dilations = st, groups = gr, pad = pd, pad_type = pt, strides = st, weight = W, x = x)[name = string("y")];
        fp16 half = const()[name = string("half"), val = fp16(0x1p-1)];
        tensor<fp16, [1, 128, 1, 32]> z = mul(x = y, y = half)[name = string("z")];
        int32 ax = const()[name = string("ax"), val = int32(1)];
        bool no = const()[name = string("no"), val = bool(false)];
        tensor<fp16, [1, 192, 1, 32]> out = concat(axis = ax, interleave = no, values = (z, x))[name = string("out")];
    } -> (out);
}
"""

PORTABLE = """program(1.0)
[buildInfo=dict<tensor<string,[]>,tensor<string,[]>>({{"coremlc-version","3505.4.1"}})]
{
  func main<ios16>(
    tensor<fp16,[1,2,4]> W,
    tensor<fp16, [1, 4, 8]> x
  ) {
    tensor<bool, []> ff = const()[name=tensor<string,[]>("ff"), val=tensor<bool,[]>(false)];
    tensor<fp16, [1,2,8]> y = matmul(transpose_x=ff,transpose_y=ff,x=W,y=x)[name=tensor<string,[]>("y")];
    tensor<int32, [3]> rs = const()[name=tensor<string,[]>("rs"),val=tensor<int32,[3]>([1,4,4])];
    tensor<fp16, [1,4,4]> z = reshape(x=y, shape=rs)[name=tensor<string,[]>("z")]  ;
    tensor<int32, [1]> axes = const()[val=tensor<int32,[1]>([-1]), name=tensor<string,[]>("axes")];
    tensor<bool, []> keep = const()[name=tensor<string,[]>("keep"), val=tensor<bool,[]>(true)];
    tensor<fp16, [1,4,1]> m = reduce_mean(x=z, axes=axes, keep_dims=keep)[name=tensor<string,[]>("m")];
    tensor<fp16, [4,2]> w = const()[name=tensor<string,[]>("w"), val=tensor<fp16,[4,2]>(BLOBFILE(path=tensor<string, []>("@model_path/weights/w.bin"), offset=tensor<uint64, []>(64)))];
  } -> (m, z);
}
"""

# The rest of what public generators were seen to write, gathered in one program.
ODDITIES = r"""// a comment before the program
program(1.3) [buildInfo = dict<string, string>({})] {
/* several functions, an attribute on one */
func main<ios18>(tensor<fp16, [1, 8, 1, 4]> x)
  [FlexibleShapeInformation = tuple<tuple<string, dict<string, tensor<int32, [?]>>>>((("D", {{"x", [1, 8]}})))] {
  tensor<fp16, [8, 8, 1, 1]> w = constexpr_affine_dequantize()[axis = int32(0), name = string("w \"8\\bit\""),
    quantized_data = tensor<int8, [8, 8, 1, 1]>(BLOBFILE(offset = uint64(64), path = string("w.bin"))),
    scale = tensor<fp16, [8]>([1, 1, 0.5, 0x1p-2, 1e-3, -1.5E+1, 0x3c00, fp16(0x1.8p0)]), zero_point = int8(-3)];
  tensor<fp16, [1, 8, 1, 4]> c = conv(groups=int32(1), pad_type=string("custom"), pad=tensor<int32, [4]>([0,0,0,0]), weight=w, x=x);
  tensor<fp16, [1, 4, 1, 4]> a, tensor<fp16, [1, 4, 1, 4]> b = split(axis=int32(1), num_splits=int32(2), x=c)[name=string("ab")];
  tensor<fp16, [1, 4, 1, 4]> s = slice_by_index(begin=tensor<int32, [4]>([0,4,0,0]), end=tensor<int32, [4]>([1,8,1,4]), x=c)[name=string("s")];
  tensor<fp16, [1, 4, 1, 4]> t = add(x=mul_result, y=fp16(1))[name=string("t")];
  tensor<fp16, [2, 2]> n = const()[name=string("n"), val=tensor<fp16, [2, 2]>([[inf, -inf], [nan, -65504]])];
  tensor<string, [2]> words = const()[name=string("words"), val=tensor<string, [2]>(["a", "b"])];
  tensor<uint8, [3]> bytes = const()[name=string("bytes"), val=tensor<uint8, [3]>([0, 255, 0x7f])];
} -> (t, b);
func second<ios17>(tensor<fp32, [2]> x) { tensor<fp32, [2]> y = rsqrt(x=x, epsilon=fp32(1e-12)); } -> (y);
}
// one after""".replace("mul_result", "a")
PROGRAMS = {"modern": MODERN, "portable": PORTABLE, "oddities": ODDITIES}


def test_modern_and_portable() -> None:
    modern = _C.check(MODERN)
    (main,) = modern["functions"]
    assert modern["version"] == "1.3" and main["name"] == "main" and main["opset"] == "ios18"
    assert main["inputs"] == [("x", "fp16", (1, 64, 1, 32))]
    assert main["outputs"] == [("out", "fp16", (1, 192, 1, 32))]
    assert [op for op, _ in main["operations"]] == ["conv", "mul", "concat"]
    (main,) = _C.check(PORTABLE)["functions"]
    assert main["inputs"] == [("W", "fp16", (1, 2, 4)), ("x", "fp16", (1, 4, 8))]
    assert main["outputs"] == [("m", "fp16", (1, 4, 1)), ("z", "fp16", (1, 4, 4))]


def test_oddities() -> None:
    main, second = _C.check(ODDITIES)["functions"]
    names = [name for _, results in main["operations"] for name, _, _ in results]
    assert names == ["w", "c", "a", "b", "s", "t"]
    assert second["opset"] == "ios17" and second["outputs"] == [("y", "fp32", (2,))]


def body(statements: str, results: str = "x", opset: str = "ios18") -> str:
    return f"program(1.3)\n{{func main<{opset}>(tensor<fp16, [1, 8, 1, 32]> x) {{\n{statements}\n}} -> ({results});\n}}"


X = "tensor<fp16, [1, 8, 1, 32]>"
WRONG = [  # text, line, column, part of the message
    ("", 1, 1, 'expected "program" to begin the text, got the end of the text'),
    ("program(1.3) {}", 1, 15, "expected a function"),
    ("program(v1)", 1, 9, "expected a version such as 1.3"),
    ("program(1.3) [a = (]", 1, 20, r'expected "\)"'),
    ("program(1.3) [a = (", 1, 20, "the end of the attribute that began at line 1"),
    (body("") + "}", 5, 2, "nothing after the program"),
    (body("", opset="ios3"), 2, 12, "expected an opset: ios15"),
    (body("", results=""), 4, 7, "the name of a result"),
    (body("", results="y"), 4, 7, "a name defined above"),
    (body("", results="x, x"), 4, 10, "each result once"),
    (body(f"{X} y = relu(x = y);"), 3, 42, "a name defined above, got \"y\""),
    (body(f"{X} x = relu(x = x);"), 3, 29, "expected a new name, got \"x\", which line 2"),
    (body(f"{X} y = rellu(x = x);"), 3, 33, r"did you mean relu\?\), got \"rellu\""),
    (body(f"{X} y = neg(x = x);"), 3, 33, "a known operation"),
    (body(f"{X} y = relu(y = x);"), 3, 38, r"an argument of relu \(x\), got \"y\""),
    (body(f"{X} y = relu(x = x, x = x);"), 3, 45, "each argument once"),
    (body(f"{X} y = relu();"), 3, 33, 'expected argument "x" of relu'),
    (body(f"{X} y = relu(x = (x));"), 3, 42, "a name, or a typed value"),
    (body(f"{X} y = concat(values = x, axis = int32(1));"), 3, 49, "to open the tuple"),
    (body(f"{X} y = matmul(x = x, y = x, transpose_x = true);"), 3, 68, r"bool\(true\), got \"true\""),
    (body(f"{X} y = relu(x = x)"), 4, 1, 'expected ";" after the statement'),
    (body("tensor<fp16, [1, 8, 1, 31]> y = relu(x = x);"), 3, 1, r"32\]> \(what relu gives\), got .*31"),
    (body("tensor<fp32, [1, 8, 1, 32]> y = relu(x = x);"), 3, 1, "what relu gives"),
    (body(f"{X} y, {X} z = relu(x = x);"), 3, 64, "expected 1 results of relu, got 2"),
    (body(f"{X} y = add(x = x, y = fp32(1));"), 3, 48, '"y" of add to be fp16 like "x", got fp32'),
    (body(f"{X} y = add(x = x, y = tensor<fp16, [3]>([1, 2, 3]));"), 3, 33, r"\[1, 8, 1, 32\] and \[3\]"),
    (body(f"{X} y = clip(x = x, alpha = fp16(0), beta = x);"), 3, 69, "a constant for \"beta\" of clip"),
    (body(f"{X} y = softmax(x = x, axis = int32(4));"), 3, 55, "within rank 4, got 4"),
    (body(f"{X} y = softmax(x = x, axis = tensor<int32, [1]>([1]));"), 3, 55, "to be a scalar"),
    (body(f"{X} y = relu(x = x)[name = int32(1)];"), 3, 52, "a string as name"),
    (body(f"{X} y = quantize(input = x, scale = fp16(1), output_dtype = string(\"int8\"));", opset="ios16"), 3, 33, "opset ios17 or later for quantize, got ios16"),
    (body("tensor<fp16, [1, ?]> y = relu(x = x);"), 3, 18, "a fixed dimension"),
    (body("tensor<fp16, [0]> y = relu(x = x);"), 3, 15, "a dimension between 1 and"),
    (body("tensor<fp16, [1,1,1,1,1,1]> y = relu(x = x);"), 3, 25, "at most 5 dimensions"),
    (body("tensor<fp16, [65536, 65536]> y = relu(x = x);"), 3, 1, "fewer than 2147483648 elements"),
    (body("tensor<int4, [2]> y = relu(x = x);"), 3, 8, "an element type"),
    (body("int32 a = const()[val = fp16(1)];"), 3, 25, "expected int32 as declared, got fp16"),
    (body("int32 a = const()[name = string(\"a\")];"), 3, 37, "val among the attributes of const"),
    (body("int32 a = const()[val = int32(2147483648)];"), 3, 31, "range of int32"),
    (body("uint8 a = const()[val = uint8(-1)];"), 3, 31, "range of uint8"),
    (body("int32 a = const()[val = int32(1.5)];"), 3, 31, "an integer"),
    (body("fp16 a = const()[val = fp16(65520)];"), 3, 29, "a value that fp16 can hold"),
    (body("fp16 a = const()[val = fp16(1..2)];"), 3, 29, "a number"),
    (body("fp16 a = const()[val = fp16(0x12345)];"), 3, 29, "the bit pattern of a fp16"),
    (body("bool a = const()[val = bool(1)];"), 3, 29, "true or false"),
    (body("string a = const()[val = string(\"\\q\")];"), 3, 34, "an escape"),
    (body("string a = const()[val = string(\"abc)];"), 3, 33, "a closing quote on the same line"),
    (body("tensor<int32, [2]> a = const()[val = tensor<int32, [2]>([1])];"), 3, 57, "2 elements in this list of .*, got 1"),
    (body("tensor<int32, [2]> a = const()[val = tensor<int32, [2]>([1, 2, 3])];"), 3, 64, "2 elements .*, got more"),
    (body("tensor<int32, [2, 2]> a = const()[val = tensor<int32, [2, 2]>([[1, 2], 3])];"), 3, 72, r'expected "\["'),
    (body("tensor<int32, [2]> a = const()[val = tensor<int32, [2]>([[1], 2])];"), 3, 58, "an integer"),
    (body("fp16 a = const()[val = fp16(BLOBFILE(path = string(\"w\")))];"), 3, 56, "both path and offset"),
    (body("fp16 a = const()[val = fp16(BLOBFILE(path = string(\"w\"), path = string(\"w\")))];"), 3, 58, "once each"),
    (body("bool a = const()[val = bool(BLOBFILE(path = string(\"w\"), offset = uint64(64)))];"), 3, 29, "a dtype that blob files hold"),
    (body("\x01"), 3, 1, r'MIL text, got "\\x01"'),
    (body("/* never closed"), 3, 1, "to close this comment"),
    (body("tensor<int32, [1]> s = const()[val = tensor<int32, [1]>(BLOBFILE(path = string(\"w\"), offset = uint64(64)))];\n"
          "tensor<fp16, [256]> y = reshape(x = x, shape = s);"), 4, 48, "a BLOBFILE that was not given"),
]  # fmt: skip


@pytest.mark.parametrize("row", WRONG, ids=range(len(WRONG)))
def test_refusals(row: tuple[str, int, int, str]) -> None:
    text, line, column, message = row
    with pytest.raises(_C.MILError, match=message) as refusal:
        _C.check(text)
    error: Any = refusal.value
    if column:
        assert (error.line, error.column) == (line, column), str(error)
    assert str(error).startswith(f"[mil] line {error.line}, column {error.column}: expected ")
    assert ", got " in str(error) and len(str(error)) < 400


def constant(literals: list[str], dtype: str = "fp16") -> np.ndarray:
    """The values the reader made of literals, by running them through the host executor."""
    n = len(literals)
    device = _C.Device("host")
    listed = f"tensor<{dtype}, [1, 1, 1, {n}]>"
    program = device.compile(
        f"program(1.3)\n{{func main<ios18>({listed} x) {{\n"
        f"{listed} c = const()[val = {listed}([{', '.join(literals)}])];\n"
        f"{listed} y = maximum(x = x, y = c);\n}} -> (y);\n}}",
        {},
    )
    kind = {"fp16": np.float16, "fp32": np.float32}[dtype]
    surfaces = [device.surface(port.nbytes) for port in (*program.inputs, *program.outputs)]
    surfaces[0].lock().view(kind)[:n] = -np.inf
    surfaces[0].unlock()
    program.evaluate(surfaces[:1], surfaces[1:])
    result = surfaces[1].lock(True).view(kind)[:n].copy()
    surfaces[1].unlock(True)
    return result


def test_literals_are_rounded_once() -> None:
    r = random.Random(0)
    values = [r.choice([-1, 1]) * r.random() * 2.0 ** r.randint(-26, 15) for _ in range(500)]
    halves = np.arange(1, 0x7BFF, 61, dtype=np.uint16).view(np.float16).astype(np.float64)
    above = np.nextafter(halves[:-1] + np.diff(halves) / 2, np.inf)
    middles = halves[:-1] + np.diff(halves) / 2
    spacing = np.spacing(halves.astype(np.float16)).astype(np.float64)
    values += [
        *above,
        *middles,
        *(halves + spacing / 2),
        *np.nextafter(halves + spacing / 2, -np.inf),
    ]
    want = np.array(values).astype(np.float16)  # NumPy rounds double to half in one step
    assert np.array_equal(constant([repr(float(v)) for v in values]), want)
    assert np.array_equal(constant([float(v).hex() for v in values]), want)
    single = constant([repr(float(v)) for v in values], "fp32")
    assert np.array_equal(single, np.array(values).astype(np.float32))
    bits = np.arange(0, 0x7C01, 31, dtype=np.uint16)
    assert np.array_equal(constant([hex(b) for b in bits]).view(np.uint16), bits)


def test_blob_constants() -> None:
    """A program finds its weights in the file, and says what is wrong where it does not."""
    device = _C.Device("host")
    w = np.zeros((128, 64, 1, 1), np.float16)
    path = "@model_path/weights/w.bin"
    device.compile(MODERN, {path: _C.blob_write([w])})
    good = _C.blob_write([w])
    for file, message in [
        (_C.blob_write([w[:64]]), "expected 16384 bytes for tensor.*, got 8192"),
        (_C.blob_write([w.view(np.uint16)]), "a fp16 record at offset 64 .*dtype"),
        (good[:-2], "past its end"),
        (good[:100], "past its end"),
        (b"", "at least 64 bytes"),
        (bytes(64) + good[64:], "version 2"),
    ]:
        with pytest.raises(_C.MILError, match=message):
            device.compile(MODERN, {path: file})
    with pytest.raises(_C.MILError, match=r"a weight file for every BLOBFILE path \(1 given\)"):
        device.compile(MODERN, {"elsewhere": good})


def attempt(text: str) -> bool:
    """Whether it parses; a refusal must be whole: words, and a place inside the text."""
    try:
        _C.check(text)
    except _C.MILError as error:
        line, column = error.line, error.column  # type: ignore[attr-defined]
        assert 1 <= line <= text.count("\n") + 1 and column >= 1, str(error)
        assert str(error).startswith("[mil] line ")
        return False
    return True


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_truncation_is_refused(name: str) -> None:
    text = PROGRAMS[name]
    last = text.rindex("}") + 1
    for n in range(last):
        assert not attempt(text[:n]), text[max(0, n - 40) : n]
    assert attempt(text[:last])


@pytest.mark.parametrize("name", PROGRAMS)
def test_mutations(name: str) -> None:
    """Random changes of bytes and of words: parsed or refused, never anything else."""
    r = random.Random(name)
    text = PROGRAMS[name]
    words = (
        text.replace("(", " ( ").replace(",", " , ").replace("[", " [ ").replace("<", " < ").split()
    )
    words += '-1 0 65536 2147483647 99999999999999999999 0x 1e999 nan } { ( ) [ ] > -> BLOBFILE /* // " \\'.split()
    parsed = 0
    for _ in range(8000):
        mutant = text
        for _ in range(r.choice([1, 1, 1, 2, 5])):
            i = r.randrange(len(mutant) + 1)
            j = min(len(mutant), i + r.choice([0, 1, 1, 2, 8, 60]))
            insert = r.choice(
                [
                    "",
                    chr(r.randrange(256)),
                    r.choice(words),
                    r.choice(words),
                    mutant[j : j + r.randrange(40)],
                ]
            )
            mutant = mutant[:i] + insert + mutant[j:]
        parsed += attempt(mutant)
    assert parsed > 20  # or the mutations are too wild to reach the checker


@pytest.mark.parametrize(
    "bomb",
    [
        "program(1.3) [a = " + "(" * 200_000,
        "program(1.3) [a = " + "<" * 200_000,
        body("tensor<int32, [2]> a = const()[val = tensor<int32, [2]>(" + "[" * 200_000),
        body("string a = const()[val = " + "string(" * 200_000),
        body(f"{X} y = concat(axis = int32(0), values = " + "(" * 200_000),
        body("int32 a = const()[val = int32(" + "1" * 200_000 + ")];"),
        body("fp16 a = const()[val = fp16(1." + "1" * 200_000 + ")];"),
        body("tensor<fp16, [" + "1," * 200_000),
        body(f"{X} y = " + "a" * 200_000 + "(x = x);"),
        body("tensor<fp16, [46340, 46340]> a = const()[val = tensor<fp16, [46340, 46340]>([1])];"),
        "func " * 200_000,
        "/*" * 200_000,
        "\\" * 200_000,
    ],
    ids=lambda text: text[-12:] if isinstance(text, str) else "",
)
def test_bombs(bomb: str) -> None:
    start = time.perf_counter()
    assert not attempt(bomb)
    assert time.perf_counter() - start < 1.0


def kernel(layers: int) -> str:
    """A tall program like a fused step: 12 statements a layer, several constants each."""
    lines = [f'{X} h0 = relu(x = x)[name = string("h0")];']
    path = "@model_path/weights/layers_{}_attn_wq.bin"
    w = "tensor<fp16, [8, 8, 1, 1]>"
    for i in range(layers):
        lines += [
            f'{w} w{i} = const()[name = string("w{i}"), val = {w}(BLOBFILE(path = string("{path.format(i)}"), offset = uint64(64)))];',
            f'tensor<int32, [2]> st{i} = const()[name = string("st{i}"), val = tensor<int32, [2]>([1, 1])];',
            f'tensor<int32, [4]> pd{i} = const()[name = string("pd{i}"), val = tensor<int32, [4]>([0, 0, 0, 0])];',
            f'string pt{i} = const()[name = string("pt{i}"), val = string("valid")];',
            f'int32 gr{i} = const()[name = string("gr{i}"), val = int32(1)];',
            f'{X} c{i} = conv(dilations = st{i}, groups = gr{i}, pad = pd{i}, pad_type = pt{i}, strides = st{i}, weight = w{i}, x = h{i})[name = string("c{i}")];',
            f'fp16 s{i} = const()[name = string("s{i}"), val = fp16(0x1p-3)];',
            f'{X} m{i} = mul(x = c{i}, y = s{i})[name = string("m{i}")];',
            f'{X} h{i + 1} = add(x = h{i}, y = m{i})[name = string("h{i + 1}")];',
        ]  # fmt: skip
    return body("\n".join(lines), f"h{layers}")


def seconds(text: str) -> float:
    """Of this thread alone: what else runs on the machine is not the parser's time."""

    def once() -> float:
        start = time.thread_time()
        _C.check(text)
        return time.thread_time() - start

    return min(once() for _ in range(5))


def test_time_is_linear() -> None:
    """A megabyte, thousands of operations: tens of milliseconds, and twice that for twice that."""
    small, large = kernel(1000), kernel(4000)
    a, b = seconds(small), seconds(large)
    print(f"{len(small) / 1e6:.2f} MB {a * 1e3:.1f} ms, {len(large) / 1e6:.2f} MB {b * 1e3:.1f} ms")
    assert b < 8 * a + 0.05 and a < 0.25
