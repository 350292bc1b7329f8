"""llama.cpp runs the files that we write: the same tokens, logits and text.

It is a judge that has to be compiled: `pip install llama-cpp-python` does. Caches are in fp32, so
that what differs is how products are rounded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anefast.config import ModelConfig
from anefast.formats import save_gguf
from anefast.formats.gguf_model import open_gguf
from anefast.fuse import find_plan
from anefast.runtime import Device, Inference
from anefast.tokenizer import ByteTokenizer, Llama2cTokenizer, Tokenizer
from anefast.tokenizer.bpe import BPETokenizer, Marks
from anefast.tokenizer.gguf import PRE

from .test_families import awake
from .test_tokenizer_files import pieces, texts, trained

llama_cpp = pytest.importorskip(
    "llama_cpp", reason="llama.cpp is not installed: pip install llama-cpp-python compiles it"
)

F32 = 0  # llama.cpp's number of the type
BASE = ModelConfig(
    dim=64, n_layers=2, n_heads=4, n_kv_heads=2, hidden_dim=96, vocab_size=259, max_seq_len=128,
)  # fmt: skip
SHAPES = {
    "llama": BASE,
    "llama, untied, odd": BASE.replace(tied=False, n_kv_heads=1, rope_theta=5e5, norm_eps=1e-6),
    "llama, wide heads": BASE.replace(head_dim=32, rope_scaling="linear:2.5"),
    "llama, llama3": BASE.replace(rope_scaling="llama3:8,1,4,32"),
    "llama, biases": BASE.replace(attention_bias=True, mlp_bias=True),
    "qwen2": BASE.replace(family="qwen2"),
    "qwen3": BASE.replace(family="qwen3", head_dim=32, tied=False),
    "gpt2": BASE.replace(family="gpt2", n_kv_heads=4),
}
CASES = [
    *((name, "F32") for name in SHAPES),
    *((name, dtype) for name in ("llama", "qwen3", "gpt2") for dtype in ("F16", "BF16", "Q8_0")),
]


def opened(path: Path, **settings: Any) -> Any:
    given = {"n_ctx": 128, "n_batch": 128, "n_threads": 1, "verbose": False, **settings}
    return llama_cpp.Llama(str(path), **given)


@pytest.mark.parametrize("name,dtype", CASES)
def test_logits_and_greedy_text_are_ours(tmp_path: Path, name: str, dtype: str) -> None:
    config = SHAPES[name]
    params = awake(config)
    save_gguf(tmp_path / "m.gguf", config, params, dtype, ByteTokenizer())
    judge = opened(tmp_path / "m.gguf", logits_all=True, type_k=F32, type_v=F32)
    source = open_gguf(tmp_path / "m.gguf")
    inference = Inference(source.config, source.load(), Device("host"), find_plan("layer"))
    ids = [int(i) for i in np.random.default_rng(3).integers(3, 259, 40)]
    judge.eval(ids)
    # llama.cpp rounds what it multiplies by a Q8_0 matrix to 8 bits
    allowed = 0.25 if dtype == "Q8_0" else 0.05
    for length in (1, 17, 33, 40):
        got, want = inference.logits(ids[:length]), np.array(judge.scores[length - 1])
        assert np.abs(got - want).max() < allowed, (length, float(np.abs(got).max()))
    for _ in range(12):
        want = np.array(judge.scores[len(ids) - 1])
        first, second = np.sort(want)[:-3:-1]
        if first - second < 2 * allowed:
            break
        assert int(np.argmax(inference.logits(ids))) == int(np.argmax(want))
        ids.append(int(np.argmax(want)))
        judge.eval(ids[-1:])
    inference.close()
    judge.close()


def spelled(scheme: str) -> BPETokenizer:
    return BPETokenizer(json.dumps(pieces(scheme).description()), scheme, Marks(adds_bos=True))


TOKENIZERS = ["bytes", "tok512.bin", *PRE, "prepend", "never"]


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest, data_dir: Path) -> Iterator[Tokenizer]:
    name = request.param
    if name == "bytes":
        yield ByteTokenizer()
    elif name.endswith(".bin"):
        yield Llama2cTokenizer.load(data_dir / name)
    else:
        yield trained(PRE[name]) if name in PRE else spelled(name)


def test_texts_are_encoded_as_we_do(tmp_path: Path, tokenizer: Tokenizer) -> None:
    config = BASE.replace(vocab_size=-(-tokenizer.vocab_size // 32) * 32)
    save_gguf(tmp_path / "m.gguf", config, awake(config), "F16", tokenizer)
    judge = opened(tmp_path / "m.gguf", vocab_only=True)
    for text in texts(300, 4):
        if isinstance(tokenizer, Llama2cTokenizer):
            text = text.replace("▁", "")  # there it is a space
        got = judge.tokenize(text.encode(), add_bos=False, special=False)
        assert got == tokenizer.encode(text, bos=False), text
    if isinstance(tokenizer, BPETokenizer):
        begin, end = (tokenizer.text_of(i) for i in (tokenizer.bos_id, tokenizer.eos_id))
        for text in (f"{begin}[The] cat{end}{begin}It", f"{begin} a{end}b", f"x{begin}"):
            got = judge.tokenize(text.encode(), add_bos=False, special=True)
            assert got == tokenizer.encode_marked(text), text
    judge.close()
