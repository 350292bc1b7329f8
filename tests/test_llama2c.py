"""llama2.c files: the public checkpoint both ways, other models, and files that are no models."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from anefast.config import ModelConfig
from anefast.formats import llama2c
from anefast.models import count_params


def random_model(**changes):
    config = ModelConfig(
        dim=16, n_layers=2, n_heads=4, n_kv_heads=2, hidden_dim=24, vocab_size=11, max_seq_len=32
    ).replace(**changes)
    c, h, kv = config.dim, config.hidden_dim, config.n_kv_heads * config.head_dim
    shapes = {"tok_embeddings": (config.vocab_size, c)}
    for i in range(config.n_layers):
        layer = {
            "attn.norm": (c,), "attn.wq": (c, c), "attn.wk": (kv, c), "attn.wv": (kv, c),
            "attn.wo": (c, c), "ffn.norm": (c,), "ffn.w1": (h, c), "ffn.w2": (c, h),
            "ffn.w3": (h, c),
        }  # fmt: skip
        shapes |= {f"layers.{i}.{name}": shape for name, shape in layer.items()}
    shapes["norm"] = (c,)
    if not config.tied:
        shapes["output"] = (config.vocab_size, c)
    rng = np.random.default_rng(0)
    return config, {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}


def test_version_1_round_trip_is_byte_identical(data_dir, tmp_path):
    source = data_dir / "stories260K_v1.bin"
    config, params = llama2c.load(source)
    llama2c.save(tmp_path / "again.bin", config, params, version=1)
    assert (tmp_path / "again.bin").read_bytes() == source.read_bytes()


def test_legacy_round_trip_is_byte_identical_up_to_the_rotary_tables(data_dir, tmp_path):
    source = data_dir / "stories260K.bin"
    config, params = llama2c.load(source)
    llama2c.save(tmp_path / "again.bin", config, params)
    ours, theirs = (tmp_path / "again.bin").read_bytes(), source.read_bytes()
    tables = 4 * config.max_seq_len * config.head_dim
    assert len(ours) == len(theirs) and ours[:-tables] == theirs[:-tables]
    # PyTorch wrote theirs; its cosine is not correctly rounded, ours is
    a, b = (np.frombuffer(f[-tables:], "<f4") for f in (ours, theirs))
    np.testing.assert_array_max_ulp(a, b, maxulp=1)


def test_both_versions_hold_the_same_model(data_dir):
    legacy, v1 = (llama2c.load(data_dir / f"stories260K{s}.bin") for s in ("", "_v1"))
    assert legacy[0] == v1[0] and list(legacy[1]) == list(v1[1])
    assert all(np.array_equal(legacy[1][n], v1[1][n]) for n in v1[1])
    assert sum(p.size for p in v1[1].values()) == count_params(v1[0])


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("tied", [True, False])
def test_random_models_round_trip(tmp_path, version, tied):
    config, params = random_model(tied=tied)
    llama2c.save(tmp_path / "m.bin", config, params, version)
    again, loaded = llama2c.load(tmp_path / "m.bin")
    assert again == config and list(loaded) == list(params)
    for name, p in params.items():
        assert np.array_equal(p, loaded[name]) and loaded[name].shape == p.shape, name
        assert loaded[name].flags.c_contiguous and loaded[name].flags.writeable


def test_transposed_weights_are_written_in_their_own_order(tmp_path):
    config, params = random_model()
    name = "layers.1.ffn.w1"
    llama2c.save(tmp_path / "m.bin", config, {**params, name: params[name].T.copy().T})
    assert np.array_equal(llama2c.load(tmp_path / "m.bin")[1][name], params[name])


def broken(kind: str) -> bytes:
    whole = struct.pack("<7i", 16, 24, 2, 4, 2, 11, 32)
    return {
        "empty": b"",
        "short": b"\x01\x00\x00",
        "header only": whole,
        "truncated": whole + bytes(4000),
        "too long": whole + bytes(40000),
        "text": b"Once upon a time there was a file that was not a model at all. " * 9,
        "zeros": bytes(4096),
        "heads": struct.pack("<7i", 16, 24, 2, 3, 2, 11, 32) + bytes(4000),
        "version 2": struct.pack("<Ii", llama2c.MAGIC, 2) + bytes(4000),
        "v1 header only": struct.pack("<Ii", llama2c.MAGIC, 1) + bytes(20),
        "huge": struct.pack("<7i", *[2**23] * 7),
    }[kind]


@pytest.mark.parametrize(
    "kind,message",
    [
        ("empty", "too short"),
        ("short", "too short"),
        ("header only", "cut short"),
        ("truncated", "cut short"),
        ("too long", "too long"),
        ("text", "not a llama2.c model"),
        ("zeros", "not a llama2.c model"),
        ("heads", "not a llama2.c model"),
        ("version 2", "expected version 1, got version 2"),
        ("v1 header only", "expected version 1"),
        ("huge", "not a llama2.c model"),
    ],
)
def test_other_files_get_one_line(tmp_path, kind, message):
    (tmp_path / "f.bin").write_bytes(broken(kind))
    with pytest.raises(ValueError, match=message) as caught:
        llama2c.load(tmp_path / "f.bin")
    assert "\n" not in str(caught.value) and "f.bin" in str(caught.value)


def test_missing_file_and_folder(tmp_path):
    for path, message in ((tmp_path, "it is a folder"), (tmp_path / "none.bin", "there is no")):
        with pytest.raises(ValueError, match=message):
            llama2c.load(path)


def test_models_the_format_cannot_hold(tmp_path):
    for changes in ({"rope_theta": 5e5}, {"residual_scale": 0.5}, {"head_dim": 8}):
        with pytest.raises(ValueError, match="the format needs"):
            llama2c.save(tmp_path / "m.bin", *random_model(**changes))
    assert not list(tmp_path.iterdir())
