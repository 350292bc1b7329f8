"""Files of others: read as written, written as read, refused in one line when they are damaged."""

from __future__ import annotations

import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anefast.config import ModelConfig
from anefast.errors import BadInput
from anefast.files import FileError
from anefast.formats import gguf_model, huggingface, open_source, save_folder
from anefast.formats.gguf import GGUF, read_gguf
from anefast.formats.gguf_model import open_gguf, save_gguf
from anefast.formats.quants import KINDS, dequantised
from anefast.formats.safetensors import read_safetensors, read_sharded
from anefast.models import Params, init_params
from anefast.models.foreign import Settings, read_rope
from anefast.tokenizer import ByteTokenizer

from .test_families import SMALL, awake

GGUF_OF = {"llama": {"sliding_window": 0}}


def bf16(params: Params) -> Params:
    """The nearest that bf16 holds."""
    return {n: (p.view(np.uint32) & 0xFFFF0000).view(np.float32) for n, p in params.items()}


def same(a: Params, b: Params) -> bool:
    return list(a) == list(b) and all(np.array_equal(a[n], b[n]) for n in a)


@pytest.mark.parametrize("name", SMALL)
def test_hugging_face_folders_go_out_and_come_back(tmp_path: Path, name: str) -> None:
    config = SMALL[name]
    if name == "llama":  # no family of transformers has a window and biases
        config = config.replace(sliding_window=0)
    params = awake(config)
    for dtype, held in (("F32", params), ("BF16", bf16(params))):
        huggingface.save_folder(tmp_path / dtype, config, held, dtype)
        source = huggingface.open_folder(tmp_path / dtype)
        assert source.config == config and same(source.load(), held)
        huggingface.save_folder(tmp_path / "again", source.config, source.load(), dtype)
        for file in ("model.safetensors", "config.json"):
            assert (tmp_path / "again" / file).read_bytes() == (
                tmp_path / dtype / file
            ).read_bytes()


@pytest.mark.parametrize("name", SMALL)
def test_gguf_files_go_out_and_come_back(tmp_path: Path, name: str) -> None:
    config = SMALL[name].replace(**GGUF_OF.get(name, {}))
    params = awake(config)
    save_gguf(tmp_path / "m.gguf", config, params, "F32")
    source = open_gguf(tmp_path / "m.gguf")
    assert same(source.load(), params)
    if name == "llama":  # with all the biases that llama.cpp's llama takes, by its names
        biased = {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"}
        assert {f"blk.0.{part}.bias" for part in biased} <= source.tensors.keys()
    assert source.config.replace(rope_scaling="") == config.replace(rope_scaling="")
    save_gguf(tmp_path / "q.gguf", config, params, "Q8_0")
    for held, got in zip(
        params.values(), open_gguf(tmp_path / "q.gguf").load().values(), strict=True
    ):
        assert np.abs(held - got).max() <= np.abs(held).max() / 127


@pytest.mark.parametrize("form", ["hf", "gguf"])
def test_loading_takes_little_more_than_the_weights(tmp_path: Path, form: str) -> None:
    """Files are mapped, and one tensor at a time is on its way into fp32."""
    config = SMALL["qwen3"].replace(dim=128, hidden_dim=384, n_layers=24, vocab_size=256)
    params = init_params(config, 0)
    if form == "hf":
        save_folder(tmp_path, config, params, "BF16")
    else:
        save_gguf(tmp_path / "m.gguf", config, params, "Q8_0")
    source = open_source(tmp_path if form == "hf" else tmp_path / "m.gguf")
    assert source is not None
    tracemalloc.start()
    loaded = source.load()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.15 * sum(p.nbytes for p in loaded.values())


def test_what_a_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    config = SMALL["llama"]
    params = init_params(config, 0)
    with pytest.raises(ValueError, match="a sliding window or biases, got both"):
        huggingface.save_folder(tmp_path, config, params)
    with pytest.raises(ValueError, match="sliding_window are not in it"):
        save_gguf(tmp_path / "m.gguf", config, params)
    config = config.replace(sliding_window=0, residual_scale=0.5)
    with pytest.raises(ValueError, match="residual_scale other than 1"):
        huggingface.save_folder(tmp_path, config, params)
    params["norm"][3] = 1e6
    with pytest.raises(ValueError, match="fp16 cannot hold norm"):
        huggingface.save_folder(tmp_path, config.replace(residual_scale=1.0), params, "F16")
    assert not list(tmp_path.iterdir())


def test_blocks_are_those_of_the_reference_library() -> None:
    gguf = pytest.importorskip("gguf", reason="the gguf library judges; install anefast[peers]")
    rng = np.random.default_rng(0)
    for number, kind in KINDS.items():
        raw = rng.integers(0, 256, (600, kind.nbytes)).astype(np.uint8)
        got = dequantised(raw.reshape(-1), kind, len(raw) * kind.numbers)
        plain = {"F32": np.float32, "F16": np.float16}
        given = raw.view(plain[kind.name]) if kind.name in plain else raw.reshape(1, -1)
        with np.errstate(all="ignore"):
            want = gguf.quants.dequantize(given, gguf.GGMLQuantizationType(number))
        want = want.astype(np.float32).reshape(-1)
        number_ = ~np.isnan(want)
        assert np.array_equal(np.isnan(got), ~number_), kind.name
        assert got[number_].tobytes() == want[number_].tobytes(), kind.name


def test_the_reference_libraries_read_what_we_write(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="the gguf library judges; install anefast[peers]")
    from safetensors.numpy import load_file

    config = SMALL["qwen3"].replace(vocab_size=300)
    params = awake(config)
    huggingface.save_folder(tmp_path / "hf", config, params)
    found = load_file(tmp_path / "hf" / "model.safetensors")
    assert (
        found["model.layers.0.mlp.up_proj.weight"].tobytes() == params["layers.0.ffn.w3"].tobytes()
    )
    save_gguf(tmp_path / "m.gguf", config, params, "Q8_0", ByteTokenizer())
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    assert reader.fields["tokenizer.ggml.tokens"].contents()[3 + ord("a")] == "a"
    assert reader.fields["qwen3.attention.key_length"].contents() == config.head_dim
    table = {t.name: t for t in reader.tensors}
    w3 = table["blk.0.ffn_up.weight"]
    assert w3.tensor_type == gguf.GGMLQuantizationType.Q8_0
    want = gguf.quants.quantize(params["layers.0.ffn.w3"], gguf.GGMLQuantizationType.Q8_0)
    assert w3.data.tobytes() == want.tobytes()


# Damaged and hostile files: one line, and no memory for what is not there.


def header(table: Any, data: bytes = b"") -> bytes:
    text = json.dumps(table).encode() if not isinstance(table, bytes) else table
    return struct.pack("<Q", len(text)) + text + data


def tensor(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


SOUND = header({"a": tensor()}, bytes(8))
SAFETENSORS = [
    (b"", "8 bytes of length"),
    (SOUND[:12], "a header of at most 4 bytes"),
    (struct.pack("<Q", 2**63) + bytes(64), "a header of at most"),
    (header(b"[" * 5000), "a JSON header"),
    (header(b'{"a": 1, "a": 2}'), "comes twice"),
    (header([1]), "a header that names tensors"),
    (header({"a": 3}), "a to have a dtype, a shape"),
    (header({"a": tensor(shape=(-2,))}, bytes(8)), "a to have a dtype, a shape"),
    (header({"a": tensor(shape=(2.0,))}, bytes(8)), "a to have a dtype, a shape"),
    (header({"a": tensor("F8_E4M3")}, bytes(8)), "type F32, F16 or BF16, got F8_E4M3"),
    (header({"a": tensor(shape=(2**40, 2**40))}, bytes(8)), "inside the file"),
    (header({"a": tensor(offsets=(8, 16))}, bytes(8)), "inside the file"),
    (header({"a": tensor(), "b": tensor()}, bytes(8)), "each byte once"),
    (header({"a": tensor(), "b": tensor()}, bytes(16)), "each byte once"),
    (SOUND + b"x", "each byte once"),
    (header({"a": tensor(shape=(2**40,) * 3000)}, bytes(8)), r"shape \[.{,197}\.\.\. inside"),
    (header({"\x1b[2J": tensor("X")}, bytes(8)), r"\\x1b\[2J"),
]


@pytest.mark.parametrize("content,said", SAFETENSORS)
def test_damaged_safetensors(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(FileError, match=said) as caught:
        read_safetensors(path)
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)


def test_shards_that_do_not_belong_together(tmp_path: Path) -> None:
    (tmp_path / "one.safetensors").write_bytes(SOUND)
    index = tmp_path / "model.safetensors.index.json"
    for weights, said in (
        ({"a": "one.safetensors"}, None),
        ({"a": "one.safetensors", "b": "one.safetensors"}, "b in one.safetensors"),
        ({"a": "../one.safetensors"}, "files beside it"),
        ({"a": ""}, "files beside it"),
        ({"a": "\0"}, "no file can have this name"),
        ({"a": "\ud800"}, "no file can have this name"),
        ({"b": "one.safetensors"}, "to list a"),
        ({"a": 5}, "a weight_map"),
        ({"a": "two.safetensors"}, "cannot read"),
    ):
        index.write_text(json.dumps({"weight_map": weights}))
        if said is None:
            assert list(read_sharded(index)) == ["a"]
            continue
        with pytest.raises(FileError, match=said):
            read_sharded(index)


def sound_gguf(tmp_path: Path) -> bytes:
    config = ModelConfig(dim=32, n_layers=1, n_heads=2, hidden_dim=32, vocab_size=300)
    path = tmp_path / "sound.gguf"
    save_gguf(path, config, init_params(config, 0), "F32", ByteTokenizer())
    return path.read_bytes()


def test_a_gguf_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = sound_gguf(tmp_path)
    path = tmp_path / "m.gguf"
    for end in [*range(0, 1200, 31), *range(1200, len(whole), 1997)]:
        path.write_bytes(whole[:end])
        with pytest.raises(FileError, match=r"^\[(gguf|model)\] "):
            open_gguf(path).load()


def test_gguf_files_that_lie(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"

    def pairs(*parts: bytes, count: int | None = None, tensors: int = 0) -> bytes:
        number = len(parts) if count is None else count
        return struct.pack("<4sIQQ", b"GGUF", 3, tensors, number) + b"".join(parts)

    def pair(key: bytes, kind: int, value: bytes) -> bytes:
        return struct.pack("<Q", len(key)) + key + struct.pack("<I", kind) + value

    one = pair(b"a", 4, struct.pack("<I", 1))
    for content, said in (
        (b"GGML" + bytes(60), "a GGUF model"),
        (struct.pack("<4sIQQ", b"GGUF", 1, 0, 0), "version 2 or 3, got 1"),
        (pairs(one, count=2**60), "too short for them"),
        (pairs(one, tensors=2**60), "too short for them"),
        (pairs(one, one), "got a twice"),
        (pairs(pair(b"a", 99, b"")), "a known type of a"),
        (pairs(pair(b"a", 8, struct.pack("<Q", 2**62))), "cut short"),
        (pairs(pair(b"a", 9, struct.pack("<IQ", 8, 2**62))), "too short for them"),
        (pairs(pair(b"a", 9, struct.pack("<IQ", 4, 2**62))), "cut short"),
        (pairs(pair(b"a", 9, struct.pack("<IQ", 9, 1))), "numbers or strings"),
        (pairs(pair(b"general.alignment", 4, struct.pack("<I", 0))), "an alignment"),
    ):
        path.write_bytes(content)
        with pytest.raises(FileError, match=said):
            read_gguf(path)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_values_of_other_types_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    """Whatever a key holds, what comes of it is a model and a tokenizer, or one line."""
    config = SMALL[family].replace(vocab_size=259, **GGUF_OF.get(family, {}))
    save_gguf(tmp_path / "m.gguf", config, awake(config), "F32", ByteTokenizer())
    sound = read_gguf(tmp_path / "m.gguf")
    more = (f"{family}.attention.sliding_window", f"{family}.rope.scaling.type")
    others = [
        np.array([1, 2]), np.array([]), np.full(259, np.nan), np.full(259, 2**63, np.uint64),
        ["a", "b"], ["x"] * 259, "x", 0, -1, 2**62, float("nan"), True,
    ]  # fmt: skip
    refused = 0
    for key in (*sound.values, *more, "tokenizer.chat_template"):
        for other in others:
            changed = GGUF(sound.values | {key: other}, sound.tensors)
            monkeypatch.setattr(gguf_model, "read_gguf", lambda path, found=changed: found)
            try:
                source = open_gguf(tmp_path / "m.gguf")
                source.check()
                source.tokenizer().encode("The cat")
            except BadInput as error:
                assert "\n" not in str(error)
                refused += 1
    assert refused > len(sound.values) * 5


BASE = {
    "model_type": "llama", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 32, "vocab_size": 8, "rms_norm_eps": 1e-5,
}  # fmt: skip
CONFIGS = [
    ({"model_type": "gemma"}, "got gemma"),
    ({"model_type": None}, "got None"),
    ({"hidden_size": "wide"}, "expected hidden_size to be a positive whole number, got wide"),
    ({"hidden_size": -1}, "hidden_size"),
    ({"num_attention_heads": 3}, "to divide 32, got 3"),
    ({"num_key_value_heads": 3}, "n_kv_heads"),
    ({"hidden_act": "gelu"}, "expected hidden_act silu, got gelu"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 4}}, "linear or llama3, got yarn"),
    ({"rope_scaling": {"type": "dynamic", "factor": 2}}, "got dynamic"),
    ({"rope_scaling": {"rope_type": "llama3", "factor": 8}}, "low_freq_factor"),
    ({"rope_scaling": "linear"}, "expected rope_scaling to be a table"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 1, got 0.5"),
    ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor 1, got 0.5"),
    ({"num_hidden_layers": 2_000_000}, "at most 0 layers, as there are tensors, got 2,000,000"),
    ({"rms_norm_eps": 0}, "rms_norm_eps"),
    ({"rms_norm_eps": 10**400}, "rms_norm_eps"),
    ({"rms_norm_eps": True}, "rms_norm_eps"),
    ({"attention_bias": "yes"}, "attention_bias to be true or false"),
    ({"model_type": "qwen2", "use_sliding_window": True}, "use_sliding_window False, got True"),
    ({"model_type": "gpt2", "activation_function": "relu"}, "activation_function gelu_new"),
]


@pytest.mark.parametrize("change,said", CONFIGS)
def test_settings_that_we_do_not_compute_are_named(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(BASE | change))
    (tmp_path / "model.safetensors").write_bytes(header({}))
    with pytest.raises(BadInput, match=said):
        huggingface.open_folder(tmp_path).load()


def test_tensors_that_are_missing_too_many_or_of_another_shape(tmp_path: Path) -> None:
    config = SMALL["qwen2"]
    huggingface.save_folder(tmp_path, config, awake(config))
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    for old, new, said in (
        (b"model.norm.weight", b"model.form.weight", "a tensor model.norm.weight, there is none"),
        (b'"shape":[33,32]', b'"shape":[32,33]', r"shape \[33, 32\], got \[32, 33\]"),
    ):
        weights.write_bytes(whole.replace(old, new))
        with pytest.raises(FileError, match=said):
            huggingface.open_folder(tmp_path).load()
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | {"num_hidden_layers": 1}))
    weights.write_bytes(whole)
    with pytest.raises(FileError, match=r"no tensor model\.layers\.1\."):
        huggingface.open_folder(tmp_path).load()


@pytest.mark.parametrize("scaling", ["linear:1.23456789", "llama3:8,1,4,1048577"])
def test_scaling_keeps_every_digit(tmp_path: Path, scaling: str) -> None:
    config = SMALL["qwen2"].replace(rope_scaling=scaling)
    huggingface.save_folder(tmp_path, config, awake(config))
    assert huggingface.open_folder(tmp_path).config == config


LINEAR = {"rope_type": "linear", "factor": 3.0}
ROPES = [
    ({"rope_theta": 5.0}, (5.0, "")),
    (
        {"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}, "rope_theta": 5.0},
        (7.0, ""),
    ),
    ({"rope_parameters": LINEAR, "rope_theta": 5.0}, (5.0, "linear:3")),
    ({"rope_parameters": LINEAR | {"rope_theta": 7.0}}, (7.0, "linear:3")),
    ({"rope_scaling": LINEAR, "rope_theta": 5.0}, (5.0, "linear:3")),
    (
        {"rope_scaling": LINEAR, "rope_parameters": {"rope_theta": 7.0}, "rope_theta": 5.0},
        (5.0, "linear:3"),
    ),
]


@pytest.mark.parametrize("table,want", ROPES)
def test_rotations_are_read_as_transformers_reads_them(
    table: dict[str, Any], want: tuple[float, str]
) -> None:
    transformers = pytest.importorskip("transformers")
    found = read_rope(Settings(table))
    assert (found["rope_theta"], found["rope_scaling"]) == want
    judge = transformers.LlamaConfig(**json.loads(json.dumps(table))).rope_parameters
    kind, factor = judge["rope_type"], judge.get("factor")
    assert judge["rope_theta"] == want[0]
    assert (f"linear:{factor:g}" if kind == "linear" else "") == want[1]


def test_a_copy_of_the_embedding_is_no_classifier(tmp_path: Path) -> None:
    config = SMALL["qwen2"].replace(tied=False)
    params = awake(config)
    huggingface.save_folder(tmp_path, config, params)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | {"tie_word_embeddings": True}))
    assert not huggingface.open_folder(tmp_path).config.tied  # another matrix
    params["output"] = params["tok_embeddings"]
    huggingface.save_folder(tmp_path, config, params)
    (tmp_path / "config.json").write_text(json.dumps(settings | {"tie_word_embeddings": True}))
    source = huggingface.open_folder(tmp_path)
    assert source.config.tied and "output" not in source.load()
