"""Tokenizers against run.c's ids, a slow twin of run.c's rule, and hostile files."""

from __future__ import annotations

import json
import os
import struct
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from anefast.tokenizer import (
    BPETokenizer,
    ByteTokenizer,
    Llama2cTokenizer,
    Stream,
    Tokenizer,
    open_tokenizer,
)

AWKWARD = ["", " ", "a", "  a  b ", "é日🙂", "\n\n\t", "<s> </s>", "x" * 300, "a\x00b", "\udcff!"]


def slow_encode(tok: Llama2cTokenizer, text: str) -> list[int]:
    """The rule itself: scan every neighbour, merge the best, start again."""
    ids = [1]
    for character in " " + text if text else "":
        raw = character.encode("utf-8", "surrogateescape")
        ids += [tok.pieces.index(raw)] if raw in tok.pieces else [3 + byte for byte in raw]
    while True:
        best, at, into = -1e10, -1, -1
        for i in range(len(ids) - 1):
            joined = tok.pieces[ids[i]] + tok.pieces[ids[i + 1]]
            if joined in tok.pieces and tok.scores[k := tok.pieces.index(joined)] > best:
                best, at, into = tok.scores[k], i, k
        if at < 0:
            return ids
        ids[at : at + 2] = [into]


def small(rng: np.random.Generator, letters: bytes, merges: int) -> Llama2cTokenizer:
    """A random vocabulary of few letters and many equal scores: ties and overlaps abound."""
    pieces = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *(b"<0x%02X>" % i for i in range(256))]
    pieces += [letters[i : i + 1] for i in range(len(letters))]
    while len(pieces) < 259 + len(letters) + merges:
        a, b = rng.integers(259, len(pieces), 2)
        joined = pieces[a] + pieces[b]
        if joined not in pieces and len(joined) < 9:
            pieces.append(joined)
    scores = rng.integers(-4, 0, len(pieces)).astype(float).tolist()
    return Llama2cTokenizer(pieces, scores)


@pytest.mark.parametrize("letters,by_word", [(b" ab", None), (b"abc", False), (b"a ", None)])
def test_merges_equal_the_rule(letters: bytes, by_word: bool | None) -> None:
    for seed in range(25):
        rng = np.random.default_rng(seed)
        tok = small(rng, letters, 12)
        if by_word is not None:
            assert tok.by_word == by_word
        for _ in range(10):
            text = "".join(rng.choice(list("ab c\né"), rng.integers(0, 30)))
            assert tok.encode(text) == slow_encode(tok, text), (seed, text)
            if b" " in letters:  # run.c takes off its own space only when that is a piece
                assert tok.decode(tok.encode(text)) == text


def test_words_are_used_exactly_when_no_piece_spans_them() -> None:
    plain = small(np.random.default_rng(0), b" ab", 0)
    scores = [*plain.scores, -1.0]
    assert Llama2cTokenizer([*plain.pieces, b" a"], scores).by_word
    spanning = Llama2cTokenizer([*plain.pieces, b"a "], scores)
    assert not spanning.by_word
    assert spanning.encode("a a b") == slow_encode(spanning, "a a b")


def test_golden_rows(data_dir: Path) -> None:
    rows = json.loads((data_dir / "golden" / "tokenizers.json").read_text())
    tried, absent = 0, set()
    for row in rows:
        path = data_dir / str(row["tokenizer"])
        path = path if path.exists() else data_dir / ("llama2_" + row["tokenizer"])
        if not path.exists():
            absent.add(row["tokenizer"])
            continue
        tok = open_tokenizer(path, vocab_size=row["vocab_size"])
        assert tok.encode(row["text"]) == row["ids_with_bos"], row
        assert tok.decode(row["ids_with_bos"]) == row["text"]
        tried += 1
    print(f"{tried} rows equal; no file for {sorted(absent)}")
    assert tried >= 24


def test_golden_greedy_texts_decode(data_dir: Path) -> None:
    tok = open_tokenizer(data_dir / "tok512.bin")
    for row in json.loads((data_dir / "golden" / "stories260K_greedy.json").read_text()):
        stream = Stream(tok)
        assert tok.decode(row["ids"]) == row["text"]
        assert "".join(map(stream.push, row["ids"])) + stream.close() == row["text"]


def test_real_text_is_fast_and_round_trips(data_dir: Path) -> None:
    tok = open_tokenizer(data_dir / "tok512.bin")
    text = (data_dir / "tinystories_train_2MiB.txt").read_bytes().decode("utf-8", "ignore")
    start = time.perf_counter()
    ids = tok.encode(text)
    seconds = time.perf_counter() - start
    print(f"{len(text) / seconds / 2**20:.1f} MiB/s, {len(ids)} ids")
    assert tok.decode(ids) == text
    assert seconds < 10, "minutes would mean the cache or the heap is gone"


def every() -> list[Tokenizer]:
    made: list[Tokenizer] = [ByteTokenizer(), small(np.random.default_rng(1), b" abx", 9)]
    try:
        made.append(BPETokenizer.train(["a red fox ran, and ran, and a red hen ran"] * 9, 280))
    except ImportError as error:
        print(error)
    return made


def test_round_trip_save_and_open(tmp_path: Path) -> None:
    for i, tok in enumerate(every()):
        assert isinstance(tok, Tokenizer)
        folder = tmp_path / str(i)
        saved = tok.save(folder)
        again = open_tokenizer(folder, vocab_size=tok.vocab_size)
        beside = {"tokenizer_config.json"} if isinstance(tok, BPETokenizer) else set()
        assert {p.name for p in folder.iterdir()} == {saved.name} | beside
        for text in AWKWARD:
            ids = tok.encode(text, eos=True)
            assert (
                ids == again.encode(text, eos=True) == open_tokenizer(saved).encode(text, eos=True)
            )
            assert ids[0] == tok.bos_id and ids[-1] == tok.eos_id
            assert ids[1:-1] == tok.encode(text, bos=False)
            assert tok.bos_id not in ids[1:] and tok.eos_id not in ids[:-1]
            whole = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            assert tok.decode(ids) == again.decode(ids) == whole
            stream = Stream(tok)
            assert "".join(map(stream.push, ids)) + stream.close() == whole
        for wrong in (-1, tok.vocab_size):
            with pytest.raises(ValueError, match=rf"0\.\.{tok.vocab_size - 1}.*{wrong}"):
                tok.decode([tok.bos_id, wrong])
        with pytest.raises(ValueError, match="surrogate"):
            tok.encode("a\ud800b")


def test_bytes_numbering() -> None:
    tok = ByteTokenizer()
    assert tok.vocab_size == 259
    assert tok.encode("A\n") == [1, 68, 13]
    assert tok.decode_bytes(range(259)) == bytes(range(256))


def test_bpe_learns_and_treats_control_names_as_text() -> None:
    pytest.importorskip("tokenizers", reason="the extra bpe is not installed")
    text = "the small boat sailed over the wide pond with a jolly crew of brown hens. " * 50
    tok = open_tokenizer("bpe:300", texts=[text])
    assert tok.vocab_size == 300 and tok.bos_id == 1 and tok.eos_id == 2
    assert len(tok.encode(text)) < len(text) / 3
    assert 1 not in tok.encode("<s>", bos=False)
    assert tok.decode(tok.encode("<s>naïve\xad\x00 🙂")) == "<s>naïve\xad\x00 🙂"
    with pytest.raises(ValueError, match="at least 259"):
        open_tokenizer("bpe:100", texts=[text])


def test_bpe_without_the_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"pip install 'anefast\[bpe\]'"):
        open_tokenizer("bpe:300", texts=["a"])


def one_line(error: BaseException) -> str:
    text = str(error)
    assert text.startswith("[tokenizer] ") and "Hint: " in text and "\n" not in text
    return text


def test_hostile_tokenizer_bin(tmp_path: Path) -> None:
    good = small(np.random.default_rng(2), b" ab", 5).to_bytes()
    path = tmp_path / "t.bin"
    rng = np.random.default_rng(3)
    edits = [good[:n] for n in [*range(0, 64), len(good) - 1, len(good) - 9]]
    edits += [rng.bytes(n) for n in (4, 100, 5000)]
    edits += [struct.pack("<i", 2**31 - 1) + struct.pack("<fi", 0, 2**31 - 1)]
    edits += [struct.pack("<i", 5) + struct.pack("<fi", float("nan"), 5) + b"<unk>"]
    edits += [struct.pack("<i", 5) + struct.pack("<fi", 0, -1), b"{}", b"Once upon a time " * 99]
    for edit in edits:
        path.write_bytes(edit)
        with pytest.raises(ValueError) as caught:
            open_tokenizer(path)
        one_line(caught.value)
    for _ in range(300):  # flipped bytes: a clear error or a sound tokenizer, nothing else
        broken = bytearray(good)
        broken[rng.integers(len(good))] = rng.integers(256)
        path.write_bytes(broken)
        try:
            tok = open_tokenizer(path)
            assert tok.decode(tok.encode("ab ba")) is not None
        except ValueError as error:
            one_line(error)


def test_wrong_files_and_names(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{not json")
    (tmp_path / "b.json").write_text('{"anefast_tokenizer": "from the future"}')
    (tmp_path / "c.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "d.json").write_text('{"model": {}}')
    os.mkdir(tmp_path / "empty")
    specs = [
        "byte",
        "bpe:",
        "bpe:-3",
        "bpe:²",
        "bpe:300",
        tmp_path / "empty",
        tmp_path / "none.bin",
    ]
    specs += [tmp_path / "b.json", tmp_path / "c.json"]
    if "tokenizers" in sys.modules:
        specs += [tmp_path / "a.json", tmp_path / "d.json"]
    for spec in specs:
        with pytest.raises(ValueError) as caught:
            open_tokenizer(spec)
        one_line(caught.value)
    with pytest.raises(ValueError, match="expected 300 ids, bytes has 259"):
        open_tokenizer("bytes", vocab_size=300)
