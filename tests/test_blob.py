"""Weight files: byte for byte coremltools' own, and a reader that believes nothing."""

from __future__ import annotations

import random
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest

from anefast import _C

DTYPES = ["float16", "float32", "int8", "uint8", "int16", "uint16", "int32", "uint32"]


def tensors(r: np.random.Generator, n: int) -> list[np.ndarray]:
    """Of odd sizes, so that padding between entries is needed."""
    sizes = r.choice([1, 2, 31, 32, 33, 64, 100, 1000], n)
    return [
        r.integers(0, 100, s).astype(d) for s, d in zip(sizes, r.choice(DTYPES, n), strict=True)
    ]


def test_there_and_back() -> None:
    r = np.random.default_rng(0)
    for n in (0, 1, 2, 7, 40):
        arrays = tensors(r, n)
        file = _C.blob_write(arrays)
        offsets, data, size = _C.blob_layout([a.nbytes for a in arrays])
        assert len(file) == size and struct.unpack_from("<II", file) == (n, 2)
        for a, offset, at in zip(arrays, offsets, data, strict=True):
            assert offset % 64 == 0 and at == offset + 64
            back = _C.blob_read(file, offset)
            assert (
                back.dtype == a.dtype and back.tobytes() == a.tobytes() == file[at : at + a.nbytes]
            )


def test_layout_by_hand() -> None:
    assert _C.blob_layout([]) == ([], [], 64)
    assert _C.blob_layout([2]) == ([64], [128], 130)  # nothing after the last byte
    assert _C.blob_layout([65, 64, 1]) == ([64, 256, 384], [128, 320, 448], 449)


def test_same_bytes_as_coremltools(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        storage = pytest.importorskip(
            "coremltools.libmilstoragepython", reason="coremltools is not installed"
        )
    r = np.random.default_rng(1)
    names = {"float16": "fp16", "float32": "float"}
    for k in range(20):
        path = str(tmp_path / f"{k}.bin")
        arrays = tensors(r, 1 + k % 9)
        writer = storage._BlobStorageWriter(path)
        offsets = []
        for a in arrays:
            write = getattr(writer, f"write_{names.get(a.dtype.name, a.dtype.name)}_data")
            offsets.append(write(a.view(np.uint16) if a.dtype == np.float16 else a))
        del writer, write  # closing it writes the count
        assert _C.blob_write(arrays) == Path(path).read_bytes()
        assert _C.blob_layout([a.nbytes for a in arrays])[0] == offsets
        ours = tmp_path / "ours.bin"
        ours.write_bytes(_C.blob_write(arrays))
        reader = storage._BlobStorageReader(str(ours))
        for a, offset in zip(arrays, offsets, strict=True):
            read = getattr(reader, f"read_{names.get(a.dtype.name, a.dtype.name)}_data")
            assert np.asarray(read(offset)).tobytes() == a.tobytes()


def patched(file: bytes, at: int, form: str, value: int) -> bytes:
    out = bytearray(file)
    struct.pack_into("<" + form, out, at, value)
    return bytes(out)


GOOD = _C.blob_write([np.arange(100, dtype=np.float16)])


@pytest.mark.parametrize(
    "file, offset",
    [
        (b"", 64),
        (GOOD[:63], 64),
        (GOOD[:127], 64),
        (GOOD[:-1], 64),
        (GOOD, 0),
        (GOOD, 1),
        (GOOD, 128),
        (GOOD, 2**64 - 64),
        (GOOD, 2**63),
        (patched(GOOD, 4, "I", 1), 64),
        (patched(GOOD, 64, "I", 0xDEADBEEE), 64),
        (patched(GOOD, 68, "I", 0), 64),
        (patched(GOOD, 68, "I", 8), 64),
        (patched(GOOD, 68, "I", 2**32 - 1), 64),
        (patched(GOOD, 72, "Q", 201), 64),
        (patched(GOOD, 72, "Q", 2**64 - 2), 64),
        (patched(GOOD, 72, "Q", 2**64 - 128), 64),
        (patched(GOOD, 80, "Q", 0), 64),
        (patched(GOOD, 80, "Q", 64), 64),
        (patched(GOOD, 80, "Q", 129), 64),
        (patched(GOOD, 80, "Q", 2**64 - 64), 64),
        (patched(GOOD, 88, "Q", 4), 64),
    ],
    ids=range(22),
)
def test_files_that_lie(file: bytes, offset: int) -> None:
    with pytest.raises(ValueError, match=r"expected|dtype|data"):
        _C.blob_read(file, offset)


def test_random_damage() -> None:
    """Any bytes: an array inside the file, or a ValueError."""
    r = random.Random(0)
    for _ in range(20_000):
        file = bytearray(GOOD[: r.choice([len(GOOD), r.randrange(len(GOOD))])])
        for _ in range(r.randint(1, 3)):
            if file:
                file[r.randrange(min(len(file), 128))] = r.choice(
                    [0, 1, 2, 64, 128, 255, r.randrange(256)]
                )
        try:
            read = _C.blob_read(bytes(file), 64)
        except ValueError:
            continue
        assert read.nbytes <= len(file) - 128 or read.nbytes <= len(file) - 64
