"""llama2.c model files, read and written: the headerless legacy layout and version 1, both fp32.

A legacy file is seven int32 (dim, hidden, layers, heads, kv heads, vocabulary, longest sequence; a
negative vocabulary says that the classifier has weights of its own), the weights, then two tables
of rotary cosines and sines, and the classifier. Version 1 is a 256-byte header with a magic number
and the same weights with the norms in front. Neither records rope_theta or the norm's epsilon: they
are 10000 and 1e-5 by convention. Quantised files (version 2) are not read. Tokenizers are files of
their own: tokenizer/llama2c.py.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from anefast.config import ConfigError, ModelConfig
from anefast.errors import BadInput, shown
from anefast.files import guarding, open_regular, replacing
from anefast.kinds import HEAD_BYTES, LLAMA2C_MODEL, kind_of, looks_like_text, missing

Params = dict[str, npt.NDArray[np.float32]]
Weights = Mapping[str, npt.NDArray[np.float32]]

MAGIC = 0x616B3432  # "24ka" on disk
HEADER_BYTES = 256  # version 1
LEGACY_BYTES = 28
ROPE_THETA, NORM_EPS = 10000.0, 1e-5


LAYER_NAMES = (
    "attn.norm", "attn.wq", "attn.wk", "attn.wv", "attn.wo", "ffn.norm", "ffn.w1", "ffn.w2",
    "ffn.w3",
)  # fmt: skip


_NEVER_ZERO = ("norm", "tok_embeddings", "output", "ffn.w1", "ffn.w3")  # whole, in any model


class ModelFileError(BadInput):
    """A file that is not a whole llama2.c model. One line that names the file."""


def load(path: str | os.PathLike[str]) -> tuple[ModelConfig, Params]:
    """The model in `path`: its config and its weights, fp32 [out, in], under our names.

    Raises ModelFileError (a ValueError) in one line when it is missing, of another kind, cut short,
    too long, or when weights in it are not finite or were never written.
    """
    path = Path(path)
    gone = missing(path)
    if gone is not None:
        raise ModelFileError(f"[llama2c] cannot read a model: {gone[0]}. Hint: {gone[1]}.")
    with open_regular(path, where="llama2c") as file, guarding("read", path, "llama2c"):
        size = os.fstat(file.fileno()).st_size
        _check_kind(path, file.read(HEAD_BYTES), size)
        file.seek(0)
        config, start, legacy = _read_header(file, path, size)
        expected = start + 4 * sum(n for _, n in _stacks(config, legacy))
        if size != expected:
            what = "is cut short" if size < expected else "is too long"
            raise ModelFileError(
                f"[llama2c] {shown(path)} {what}: expected {expected} bytes for "
                f"{_describe(config)}, got {size}. Hint: copy the file again, or it is no "
                "llama2.c model."
            )
        file.seek(start)
        params = _read_weights(file, config, legacy)
    _check_weights(path, params)
    return config, params


def save(
    path: str | os.PathLike[str], config: ModelConfig, params: Weights, version: int = 0
) -> None:
    """Writes the model to `path` as a legacy (version 0) or version 1 file, in one rename."""
    _check_fits(config, version)
    path = Path(path)
    sizes = (
        config.dim,
        config.hidden_dim,
        config.n_layers,
        config.n_heads,
        config.n_kv_heads,
    )
    vocabulary = config.vocab_size if config.tied or version == 1 else -config.vocab_size
    with replacing(path, "llama2c") as file:
        if version == 1:
            file.write(struct.pack("<Ii", MAGIC, 1))
        file.write(struct.pack("<7i", *sizes, vocabulary, config.max_seq_len))
        if version == 1:
            file.write(struct.pack("<B", config.tied).ljust(HEADER_BYTES - file.tell(), b"\0"))
        for name, count in _stacks(config, legacy=version == 0):
            for array in _arrays(name, config, params):
                count -= array.size
                file.write(np.ascontiguousarray(array, "<f4").data)
            if count:
                raise ValueError(f"[llama2c] {name} does not have the size the config says.")


def rotary_tables(config: ModelConfig) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Cosines and sines, each [max_seq_len, head_dim / 2] fp32, as the tail of a legacy file.

    Angles are rounded to fp32 as llama2.c's exporter does; cosine and sine are correctly rounded.
    The exporter's come from PyTorch, whose vectorised cosine is off by one unit in the last place
    in one value of twenty, so bytes written there and here may differ. Readers skip them.
    """
    exponent = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    frequency = np.float32(1) / np.power(np.float32(config.rope_theta), exponent)
    angle = np.outer(np.arange(config.max_seq_len, dtype=np.float32), frequency)
    wide = angle.astype(np.float64)
    return np.cos(wide).astype(np.float32), np.sin(wide).astype(np.float32)


def _check_kind(path: Path, head: bytes, size: int) -> None:
    """Refuses a file that is known to be something else by the name of what it is."""
    kind = kind_of(head, size)
    if kind is not None and kind is not LLAMA2C_MODEL:
        raise ModelFileError(
            f"[llama2c] {shown(path)} is not a llama2.c model: it is {kind.name}. "
            f"Hint: {kind.hint}."
        )
    if len(head) >= LEGACY_BYTES:
        turned = struct.unpack_from(">7i", head)
        if head[:4] == b"ak42" or all(0 < abs(value) < 2**24 for value in turned):
            raise ModelFileError(
                f"[llama2c] {shown(path)} is not a llama2.c model: it is big-endian. "
                "Hint: export it again on a little-endian machine."
            )
        if looks_like_text(head):
            raise ModelFileError(
                f"[llama2c] {shown(path)} is not a llama2.c model: it is text. "
                "Hint: text goes with --data."
            )


def _check_weights(path: Path, params: Params) -> None:
    """Refuses useless weights: a download that ends in zeros has the right size."""
    for name, array in params.items():
        if not np.isfinite(array).all():
            raise ModelFileError(
                f"[llama2c] {shown(path)} has weights in {name} that are not finite. "
                "Hint: it is damaged, or its run diverged."
            )
        if name.endswith(_NEVER_ZERO) and not array.any():
            raise ModelFileError(
                f"[llama2c] {shown(path)} has nothing but zeros in {name}. "
                "Hint: its download or copy was not finished; fetch it again."
            )


def _read_header(file: BinaryIO, path: Path, size: int) -> tuple[ModelConfig, int, bool]:
    head = file.read(HEADER_BYTES)
    if len(head) < LEGACY_BYTES:
        raise ModelFileError(f"[llama2c] {path} is too short for a model: {size} bytes.")
    magic, version = struct.unpack_from("<Ii", head)
    legacy = magic != MAGIC
    if legacy:
        values = struct.unpack_from("<7i", head)
        tied = values[5] > 0
    elif version == 1 and len(head) == HEADER_BYTES:
        values = struct.unpack_from("<7i", head, 8)
        tied = bool(head[36])
    else:
        raise ModelFileError(
            f"[llama2c] {path} expected version 1, got version {version}. "
            "Hint: export it as version 0 or 1; quantised files are not read."
        )
    dim, hidden, layers, heads, kv_heads, vocabulary, longest = values
    vocabulary = abs(vocabulary) if legacy else vocabulary
    try:
        if not all(1 <= v < 2**24 for v in (*values[:5], vocabulary, longest)) or layers > 4096:
            raise ConfigError("sizes")
        config = ModelConfig(
            dim=dim, n_layers=layers, n_heads=heads, n_kv_heads=kv_heads, hidden_dim=hidden,
            vocab_size=vocabulary, max_seq_len=longest, tied=tied,
            rope_theta=ROPE_THETA, norm_eps=NORM_EPS,
        )  # fmt: skip
    except ConfigError:
        raise ModelFileError(
            f"[llama2c] {shown(path)} is not a llama2.c model: its header reads {values}. "
            "Hint: expected a legacy or version 1 .bin file; token ids go with --data."
        ) from None
    return config, LEGACY_BYTES if legacy else HEADER_BYTES, legacy


def _stacks(config: ModelConfig, legacy: bool) -> Iterator[tuple[str, int]]:
    """(name, number of floats) of every block in file order; 'attn.wq' holds all layers in turn."""
    c, h, n = config.dim, config.hidden_dim, config.n_layers
    q, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    size = {
        "tok_embeddings": config.vocab_size * c, "attn.norm": n * c, "attn.wq": n * q * c,
        "attn.wk": n * kv * c, "attn.wv": n * kv * c, "attn.wo": n * c * q, "ffn.norm": n * c,
        "ffn.w1": n * h * c, "ffn.w2": n * c * h, "ffn.w3": n * h * c, "norm": c,
        "rope.cos": config.max_seq_len * config.head_dim // 2,
        "rope.sin": config.max_seq_len * config.head_dim // 2, "output": config.vocab_size * c,
    }  # fmt: skip
    order = list(size)
    if not legacy:
        order = ["attn.norm", "ffn.norm", "norm", "tok_embeddings", "attn.wq", "attn.wk", "attn.wv"]
        order += ["attn.wo", "ffn.w1", "ffn.w2", "ffn.w3", "output"]
    if config.tied:
        order.remove("output")
    return ((name, size[name]) for name in order)


def _read_weights(file: BinaryIO, config: ModelConfig, legacy: bool) -> Params:
    blocks: dict[str, list[npt.NDArray[np.float32]]] = {}
    for name, count in _stacks(config, legacy):
        parts = config.n_layers if name in LAYER_NAMES else 1
        blocks[name] = [np.fromfile(file, "<f4", count // parts) for _ in range(parts)]
    params: Params = {"tok_embeddings": blocks["tok_embeddings"][0].reshape(-1, config.dim)}
    inputs = {"attn.wo": config.n_heads * config.head_dim, "ffn.w2": config.hidden_dim}
    for i in range(config.n_layers):
        for name in LAYER_NAMES:
            part = blocks[name][i]
            matrix = not name.endswith("norm")
            params[f"layers.{i}.{name}"] = (
                part.reshape(-1, inputs.get(name, config.dim)) if matrix else part
            )
    params["norm"] = blocks["norm"][0]
    if not config.tied:
        params["output"] = blocks["output"][0].reshape(-1, config.dim)
    return params


def _arrays(name: str, config: ModelConfig, params: Weights) -> list[npt.NDArray[np.float32]]:
    if name.startswith("rope."):
        return [rotary_tables(config)[name == "rope.sin"]]
    if name in LAYER_NAMES:
        return [params[f"layers.{i}.{name}"] for i in range(config.n_layers)]
    return [params[name]]


def _check_fits(config: ModelConfig, version: int) -> None:
    problem = None
    if version not in (0, 1):
        problem = f"version 0 or 1, got {version}"
    elif config.family != "llama" or config.attention_bias or config.mlp_bias:
        problem = f"the llama family without biases, got {config.family}"
    elif config.sliding_window or config.rope_scaling:
        problem = "attention over all positions and plain rotations"
    elif config.head_dim * config.n_heads != config.dim:
        problem = f"heads that fill dim {config.dim}, got {config.n_heads} of {config.head_dim}"
    elif (config.rope_theta, config.norm_eps) != (ROPE_THETA, NORM_EPS):
        problem = "rope_theta 10000 and norm_eps 1e-5"
    elif config.residual_scale != 1.0:
        problem = f"residual_scale 1, got {config.residual_scale}"
    if problem:
        raise ValueError(
            f"[llama2c] the format needs {problem}. Hint: export it --to hf or --to gguf."
        )


def _describe(config: ModelConfig) -> str:
    return (
        f"dim {config.dim}, {config.n_layers} layers, {config.n_heads}/{config.n_kv_heads} heads, "
        f"vocabulary {config.vocab_size}"
    )
