"""What the fuzzers start from: MIL by grammar, one small program per operation, right and wrong, in
both dialects, some with a weight file behind them. `python -m tests.fuzz.seeds DIR` writes them."""

from __future__ import annotations

import random
import re
import sys
from pathlib import Path

import numpy as np

from anefast import _C
from tests.mil_calls import MAKERS, program
from tests.test_mil_parse import PROGRAMS, WRONG

GIVES = re.compile(r"expected (.*) \(what \w+ gives\)")
WEIGHTS = """program(1.3)
{
func main<ios18>(tensor<fp16, [1, 2, 1, 4]> x) {
tensor<fp16, [3, 2, 1, 1]> w = const()[name = string("w"), val = tensor<fp16, [3, 2, 1, 1]>(\
BLOBFILE(path = string("w"), offset = uint64(64)))];
tensor<fp16, [1, 3, 1, 4]> y = conv(weight = w, x = x)[name = string("y")];
tensor<int32, [1]> s = const()[val = tensor<int32, [1]>(BLOBFILE(path = string("w"), \
offset = uint64(192)))];
tensor<fp16, [12]> z = reshape(x = y, shape = s);
} -> (z);
}
"""
STATES = """program(1.3)
[buildInfo = dict<string, string>({})]
{
func main<ios18>(state<tensor<fp16, [1, 8]>> c, tensor<fp16, [1, ?, 1, 32]> x) {
tensor<fp16, [1, 8]> r = read_state(input = c)[name = string("r")];
tensor<int4, [8]> q = constexpr_blockwise_shift_scale()[data = tensor<int4, [8]>([0, 1]), \
name = string("q")];
tensor<fp16, [1, 8, 1, 32]> p = avg_pool(x = x, kernel_sizes = tensor<int32, [2]>([1, 2]));
write_state(data = r, input = c)[name = string("w")];
garbage here;
tensor<fp16, [1, 1, 1, 1, 1, 8]> d = matmul(x = p, y = p, transpose_x = true);
fp16 m = const()[val = fp16(-1e9)];
} -> (d, d, nothing);
}
"""


def typed(text: str) -> str:
    """`text` with the types its operations give, as far as the reader can tell."""
    for _ in range(3):
        problems = _C.outline(text.encode())["problems"]
        wrong = next((m for f, _, _, m in problems if f == "type" and GIVES.search(m)), None)
        found = GIVES.search(wrong) if wrong else None
        if found is None:
            break
        text = text.replace("\nstring o0", f"\n{found[1]} o0")
    return text


def portable(text: str) -> str:
    """The same in the older spelling of scalars."""
    old = re.sub(r"(?<![<\w])(fp16|fp32|int32|bool|string|uint64)\(", r"tensor<\1, []>(", text)
    return old.replace("program(1.3)", "program(1.0)").replace("ios18", "ios16")


def statements(text: str) -> str:
    """The body of a text's function alone, which the target wraps in one of its own."""
    return text.partition(") {\n")[2].partition("\n}")[0].replace(" o0 =", " y =")


def corpus(seed: int = 0) -> list[bytes]:
    """Seeds in a stable order."""
    r = random.Random(seed)
    texts = [*PROGRAMS.values(), WEIGHTS, STATES, *(text for text, *_ in WRONG)]
    for make in MAKERS * 3:
        text = typed(program(make(r), [("string", ())]))
        texts += [text, portable(text)]
    file = _C.blob_write([np.arange(6, dtype=np.float16), np.array([12], np.int32)])
    texts += [statements(text) for text in texts]
    seeds = [text.encode("latin-1") for text in dict.fromkeys(texts)]
    return [*seeds, *(WEIGHTS.encode() + b"\xff" + f for f in (file, file[:100], file[:40]))]


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for i, seed in enumerate(corpus()):
        (folder / f"seed{i:03}").write_bytes(seed)


if __name__ == "__main__":
    main()
