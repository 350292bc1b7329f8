"""Files of other kinds: called by their name by every reader, and paths where nothing is."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import sqlite3
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from anefast.data import open_data
from anefast.formats import llama2c
from anefast.kinds import kind_of, looks_like_text, missing
from anefast.model import Model
from anefast.tokenizer import open_tokenizer

WORDS = b"the old fox ran over the hill and slept. " * 40


def zipped(*names: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(name, b"content")
    return out.getvalue()


def tarred() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        entry = tarfile.TarInfo("story.txt")
        entry.size = len(WORDS)
        archive.addfile(entry, io.BytesIO(WORDS))
    return out.getvalue()


def database(folder: Path) -> bytes:
    with sqlite3.connect(folder / "a.db") as connection:
        connection.execute("create table stories (text)")
    connection.close()
    return (folder / "a.db").read_bytes()


def named_arrays() -> bytes:
    out = io.BytesIO()
    np.savez(out, ids=np.arange(9))
    return out.getvalue()


def piece(text: bytes) -> bytes:
    """A piece of a SentencePiece model: its text, score and type."""
    inner = b"\x0a" + bytes([len(text)]) + text + b"\x15" + struct.pack("<f", 0.0) + b"\x18\x02"
    return b"\x0a" + bytes([len(inner)]) + inner


FOREIGN: dict[str, Callable[[Path], bytes]] = {
    "git-lfs": lambda _: (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n"
    ),
    "gzip": lambda _: gzip.compress(WORDS),
    "zip archive": lambda _: zipped("story.txt"),
    "Word": lambda _: zipped("[Content_Types].xml", "word/document.xml"),
    "Excel": lambda _: zipped("xl/workbook.xml"),
    "PyTorch": lambda _: zipped("archive/data.pkl", "archive/data/0"),
    "npz": lambda _: named_arrays(),
    "tar": lambda _: tarred(),
    "zstd": lambda _: b"\x28\xb5\x2f\xfd\x04\x00" + WORDS,
    "xz": lambda _: b"\xfd7zXZ\0\0\x04" + WORDS,
    "PDF": lambda _: b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + WORDS,
    "RTF": lambda _: b"{\\rtf1\\ansi " + WORDS,
    "Parquet": lambda _: b"PAR1\x15\x04\x15" + WORDS + b"PAR1",
    "Arrow table": lambda _: b"ARROW1\0\0" + WORDS,
    "SQLite": database,
    "PNG": lambda _: b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + WORDS,
    "safetensors": lambda _: save({"norm": np.ones(9, np.float32)}),
    "GGUF": lambda _: b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + WORDS,
    "pickle": lambda _: pickle.dumps({"stoi": {"a": 1}}),
    "SentencePiece": lambda _: piece(b"<unk>") + piece(b"<s>") + piece(b"</s>"),
    "llm.c model": lambda _: struct.pack("<2i", 20240326, 3) + bytes(1016) + WORDS,
    "zeros": lambda _: bytes(60_000),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_every_reader_names_it(name: str, tmp_path: Path) -> None:
    content = FOREIGN[name](tmp_path)
    places = {
        "text": tmp_path / "a.txt", "ids": tmp_path / "a.bin", "model": tmp_path / "m.bin",
        "tokenizer": tmp_path / "t.bin", "tokenizer.json": tmp_path / "t.json",
    }  # fmt: skip
    readers: dict[str, Callable[[Path], object]] = {
        "text": open_data,
        "ids": open_data,
        "model": llama2c.load,
        "tokenizer": open_tokenizer,
        "tokenizer.json": open_tokenizer,
    }
    for place, path in places.items():
        path.write_bytes(content)
        with pytest.raises(ValueError) as caught:
            readers[place](path)
        line = str(caught.value)
        assert name.lower() in line.lower().replace("git-lfs.github.com", ""), (place, line)
        assert path.name in line and "Hint: " in line and "\n" not in line


def test_ours_are_told_apart(data_dir: Path) -> None:
    def kind(path: Path) -> str | None:
        content = path.read_bytes()
        found = kind_of(content[:4096], len(content))
        return found.name if found else None

    assert kind(data_dir / "stories260K.bin") == kind(data_dir / "stories260K_v1.bin")
    assert kind(data_dir / "stories260K.bin") == "a llama2.c model"
    assert kind(data_dir / "tok512.bin") == "a llama2.c tokenizer"
    assert kind(data_dir / "tinyshakespeare.txt") is None
    with pytest.raises(ValueError, match=r"is a llama2\.c model.*--init"):
        open_data(data_dir / "stories260K.bin")
    with pytest.raises(ValueError, match=r"is a llama2\.c tokenizer.*--tokenizer"):
        llama2c.load(data_dir / "tok512.bin")
    with pytest.raises(ValueError, match=r"is a llama2\.c model"):
        open_tokenizer(data_dir / "stories260K.bin")
    with pytest.raises(ValueError, match="it is text"):
        llama2c.load(data_dir / "tinyshakespeare.txt")
    with pytest.raises(ValueError, match="is text"):
        open_tokenizer(data_dir / "tinyshakespeare.txt")


@pytest.mark.parametrize("bits", [9, 12, 16])
def test_ids_are_no_other_kind(bits: int) -> None:
    """Token ids are any bytes at all: magics of a few bytes would see archives in them."""
    rng = np.random.default_rng(bits)
    for dtype in ("<u2", "<u4", "<i8"):
        for _ in range(3000):
            ids = rng.integers(1, 1 << bits, 256).astype(dtype)
            assert kind_of(ids.tobytes()[:2048], 10**6 + 2) is None


def test_prose_is_no_other_kind() -> None:
    for begins in (
        b"GGUF is a format", b"PAR1 is a magic", b"BZh and others", b"{chapter one}",
        b"PK, she said", b"[1] a note", b"version 2 of it",
    ):  # fmt: skip
        assert kind_of(begins + WORDS, 5000) is None
        assert looks_like_text(begins + WORDS)
    assert looks_like_text("naïve — ☕ ".encode() * 200 + "é".encode()[:1])
    assert not looks_like_text(np.arange(2000, dtype="<u2").tobytes())


def test_why_nothing_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Story.txt").write_text("a")
    (tmp_path / "spaced.txt ").write_text("a")
    (tmp_path / "broken").symlink_to("gone.txt")
    monkeypatch.chdir(tmp_path)
    assert missing("Story.txt") is None
    for path, got, hint in (
        ("story.txt", "there is no story.txt", "'Story.txt' is there"),
        ("Story.txt ", "there is no Story.txt ", "white space around it; Story.txt is there"),
        ("spaced.txt", "there is no", "'spaced.txt ' is there"),
        ("broken", "broken is a link to gone.txt, which is not there", "mend the link"),
        ("~/story.txt", "there is no ~/story.txt", "the shell left the ~ as it is"),
        ("none/a.txt", "there is no none/a.txt", "its folder none is missing"),
        ("Story.txt/a", "there is no Story.txt/a", "its folder Story.txt is a file"),
        ("https://example.org/a.txt", "there is no", "an address on the network"),
        ("a\x1b[2J", "there is no a\\x1b[2J", "check the path"),
        ("a\0b", "a\\x00b is no file name", "check the path"),
    ):
        found = missing(path)
        assert found is not None
        assert got in found[0] and hint in found[1], found
    for reader in (open_data, open_tokenizer, llama2c.load):
        with pytest.raises(ValueError, match=r"broken is a link to gone\.txt"):
            reader("broken")


def test_json_and_tables_of_tokenizers(tmp_path: Path) -> None:
    for name, content, said in (
        ("vocab.json", json.dumps({"a": 0, "b": 1}), "vocabulary without merges"),
        ("merges.txt", "#version: 0.2\nĠ t\nh e\n", "merges of a tokenizer alone"),
        ("tokenizer_config.json", json.dumps({"bos_token": "<s>"}), "settings of a tokenizer"),
        ("config.json", json.dumps({"model_type": "llama"}), "settings of a model"),
        ("list.json", "[1, 2]", "JSON of another kind"),
        ("cut.json", '{"model": {"vocab": {"a"', "cut short"),
        ("cl100k.tiktoken", "IQ== 0\nIg== 1\n", "tiktoken vocabulary"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match=said) as caught:
            open_tokenizer(tmp_path / name)
        assert str(caught.value).startswith("[tokenizer] expected ")
    for only in (tmp_path / "only", tmp_path / "none"):
        only.mkdir()
    (tmp_path / "only" / "tokenizer.model").write_bytes(piece(b"<unk>"))
    with pytest.raises(ValueError, match="SentencePiece"):
        open_tokenizer(tmp_path / "only")
    (tmp_path / "none" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="expected model_type llama"):
        Model.load(tmp_path / "none")


def test_bytes_the_wrong_way_round(data_dir: Path, tmp_path: Path) -> None:
    model = np.fromfile(data_dir / "stories260K.bin", "<i4")
    model.astype(">i4").tofile(tmp_path / "m.bin")
    with pytest.raises(ValueError, match=r"m\.bin .* big-endian"):
        llama2c.load(tmp_path / "m.bin")
    tokenizer = (data_dir / "tok512.bin").read_bytes()
    (tmp_path / "t.bin").write_bytes(tokenizer[3::-1] + tokenizer[4:])
    with pytest.raises(ValueError, match=r"t\.bin is big-endian"):
        open_tokenizer(tmp_path / "t.bin")


@pytest.mark.parametrize("version", ["", "_v1"])
def test_a_model_that_was_never_written_to_its_end(
    version: str, data_dir: Path, tmp_path: Path
) -> None:
    content = (data_dir / f"stories260K{version}.bin").read_bytes()
    path = tmp_path / "m.bin"
    for kept in (0.1, 0.5):
        begins = content[: int(len(content) * kept)]
        path.write_bytes(begins + bytes(len(content) - len(begins)))
        with pytest.raises(ValueError, match="nothing but zeros in"):
            llama2c.load(path)
    damaged = bytearray(content)
    damaged[5000:5004] = struct.pack("<f", np.nan)
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="not finite"):
        llama2c.load(path)
