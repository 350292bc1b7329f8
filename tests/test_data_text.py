"""Texts: encodings, line ends, rows of JSON, and pieces that give what the whole gives."""

from __future__ import annotations

import itertools
import json
import random
import re
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anefast.data import END_OF_TEXT, DataError, open_data
from anefast.data.stream import encode, regrouped
from anefast.data.text import END, Piece, split
from anefast.tokenizer import BPETokenizer, ByteTokenizer, Llama2cTokenizer, Tokenizer
from anefast.tokenizer.base import before_space
from tests.test_tokenizer import small

BYTES = ByteTokenizer()


def documents(path: Path, **how: Any) -> list[str]:
    """What a file's stream says, a string for each document."""
    data = open_data(path, **how)
    ids = [*data.train.read(0, len(data.train)), *data.validation.read(0, len(data.validation))]
    told = [list(part) for is_mark, part in itertools.groupby(ids, lambda i: i == 1) if not is_mark]
    return [BYTES.decode(part) for part in told]


def refused(path: Path, said: str) -> str:
    with pytest.raises(DataError, match=said) as caught:
        open_data(path)
    line = str(caught.value)
    assert path.name in line and "Hint: " in line and "\n" not in line
    return line


TEXT = 'Naïve "cats" sat.\nOn — mats ☕ 𝄞.\n\nEnd'


@pytest.mark.parametrize(
    "codec", ["utf-8", "utf-8-sig", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"]
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_mark_says_the_encoding_and_line_ends_are_one(
    codec: str, end: str, tmp_path: Path
) -> None:
    mark = "" if codec.startswith("utf-8") else "\ufeff"
    text = (TEXT * 3).replace("\n", end)
    (tmp_path / "a.txt").write_bytes((mark + text[:40] + "\ufeff" + text[40:]).encode(codec))
    assert documents(tmp_path / "a.txt") == [TEXT * 3]


@pytest.mark.parametrize(
    "content,said",
    [
        (("cats sat\n" * 50).encode("utf-16-le"), "is UTF-16LE without a byte order mark.*iconv"),
        (("cats sat\n" * 50).encode("utf-16-be"), "is UTF-16BE without a byte order mark"),
        (("cats sat\n" * 50).encode("utf-32-le"), "is UTF-32LE without a byte order mark"),
        ("Le café déjà vu à Genève".encode("cp1252"), "0xe9 at 6; it looks like Windows-1252"),
        ("猫が好きです。".encode("shift-jis"), "in another encoding"),
        ("déjà vu ☕".encode()[:-1], "its end, inside a character.*cut short"),
        (b"a fine text\0and more", "a zero at byte 11.*never has"),
        (b"\xff\xfe" + "cats".encode("utf-16-le")[:-1], "UTF-16-LE.*cut short"),
        (b"\xff\xfe" + "ca\0ts".encode("utf-16-le"), "a zero at a character of UTF-16-LE"),
    ],
)
def test_text_that_cannot_be_read(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    refused(tmp_path / "a.txt", said)


def test_the_place_of_a_bad_byte_far_in_a_file(tmp_path: Path) -> None:
    at = (3 << 20) + 5
    content = bytearray("é".encode() * (2 << 20))
    content[at] = 0xFF
    (tmp_path / "a.txt").write_bytes(content)
    refused(tmp_path / "a.txt", f"byte 0x(ff|c3) at {at - 1}|{at}")
    content[at - 1 : at + 1] = b"\0a"
    (tmp_path / "a.txt").write_bytes(content)
    refused(tmp_path / "a.txt", f"a zero at byte {at - 1}")


ROWS = ["Once upon a time.", 'He said "no".\nShe said {yes}.', "naïve ☕ 𝄞"]


@pytest.mark.parametrize("name", ["d.jsonl", "d.json", "d.txt", "d"])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_rows_of_json_are_documents(name: str, ascii_only: bool, tmp_path: Path) -> None:
    path = tmp_path / name
    rows = [{"text": text, "n": i} for i, text in enumerate(ROWS * 9)]
    lines = [json.dumps(row, ensure_ascii=ascii_only) for row in rows]
    for content in (
        "\n".join(lines),
        "\r\n\r\n".join(lines) + "\r\n",
        json.dumps(rows, ensure_ascii=ascii_only),
        " " + json.dumps(rows, indent=2, ensure_ascii=ascii_only) + "\n",
    ):
        path.write_text("\ufeff" + content, "utf-8", newline="")
        assert documents(path) == ROWS * 9


def test_rows_longer_than_a_block(tmp_path: Path) -> None:
    texts = ["x" * 1_500_000, "short", "y " * 300_000 + "z"]
    path = tmp_path / "d.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    assert documents(path) == texts
    path.write_text(json.dumps([{"text": text} for text in texts]))
    assert documents(path) == texts
    path.rename(tmp_path / "d.txt")
    assert documents(tmp_path / "d.txt") == texts


@pytest.mark.parametrize(
    "name,content,said",
    [
        ("d.jsonl", '{"text": "a"}\n' * 16 + '{"text": "b"\n', "else on line 17: Expecting ','"),
        ("d.jsonl", '{"text": "a"}\n\n{"txt": "b"}', "line 3 has the fields txt.*jq -c"),
        ("d.jsonl", '{"text": "a"}\n{"text": null}', "line 2 has a text that is no string"),
        ("d.jsonl", '{"text": "a"}\n[1]', "line 2 has none"),
        ("d.jsonl", '{"text": "a\\ud800"}', "line 1 has half a surrogate pair"),
        ("d.jsonl", '{"text": "a\\udcff"}', "line 1 has half a surrogate pair"),
        ("d.jsonl", "{not json}\n", "else on line 1"),
        ("d.jsonl", '{"text": "a"}\n' + "[" * 100_000, "line 2: it is nested too deeply"),
        ("d.json", "[" * 100_000, "row 1 is nested too deeply"),
        ("d.jsonl", '{"messages": [{"role": "user"}]}\n', "a chat template"),
        ("d.jsonl", '{"text": "a"}\n{"prompt": "a"}\n', "line 2 has the fields prompt"),
        ("d.json", '[{"text": "a"}, {"text": "b"', "row 2: Expecting ','"),
        ("d.json", '[{"text": "a"} {"text": "b"}]', "expected , or ] behind row 1"),
        ("d.json", '[{"text": "a"}] more', "expected its end behind row 1, got 'm'"),
        ("d.json", '[{"conversations": []}]', "row 1 has the fields conversations"),
        ("d.json", '{\n "text": "a",\n "b": 1\n}', "JSON in another form"),
        ("d.txt", '{\n "cells": [],\n "b": 1\n}', "JSON in another form"),
        ("d.csv", "text,label\nonce upon,1\na time,2\n", "a table with the columns text, label"),
        ("d.tsv", "id\ttext\n1\tonce\n2\tupon\n", "a table with the columns id, text"),
    ],
)
def test_structure_is_never_learnt_as_prose(
    name: str, content: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    refused(tmp_path / name, re.escape(said).replace(r"\.\*", ".*").replace("\\ ", " "))


@pytest.mark.parametrize(
    "name,content",
    [
        ("d.txt", "{chapter one}\nOnce upon a time."),
        ("d.txt", "[1] A note, and [2] another."),
        ("d.jsonl", "Once upon a time.\nIt was."),
        ("d.csv", "Once upon a time, and then, it was. Not a table!\nNo, sir."),
        ("d.md", "# Cats\n\n- one, two\n- three, four"),
        ("d.txt", '"No," he said.\n"Yes," she said.'),
        ("d.c", 'int main() { puts("a, b"); }'),
    ],
)
def test_prose_is_prose_whatever_its_name(
    name: str, content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / name).write_text(content)
    assert documents(tmp_path / name) == [content]
    assert not caplog.text


@pytest.mark.parametrize(
    "content,said",
    [
        ("<!DOCTYPE html><html><p>cats</p></html>", "is an HTML page"),
        ('<?xml version="1.0"?><a>cats</a>', "is XML"),
        ("id,text\n" + "1,a cat\n" * 9, "looks like a table of 2 columns"),
        ('{"text": "a"}\nand then prose', "begins with a row of JSON"),
    ],
)
def test_what_may_be_meant_is_said(
    content: str, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.txt").write_text(content)
    assert documents(tmp_path / "a.txt") == [content.strip()]
    assert said in caplog.text


def blocks_of(text: str, rng: random.Random, longest: int) -> Iterator[str]:
    at = 0
    while at < len(text):
        size = rng.randint(1, longest)
        yield text[at : at + size]
        at += size


def joined(pieces: Iterator[Piece]) -> list[str]:
    found = [""]
    for piece in pieces:
        if piece is END:
            found.append("")
        else:
            assert piece
            found[-1] += piece
    assert found.pop() == ""
    return found


@pytest.mark.parametrize("collapse", [False, True])
def test_documents_do_not_depend_on_blocks(collapse: bool) -> None:
    rng = random.Random(3)
    words = ["cat", " ", "  ", "\n", "\t ", "<|endof", END_OF_TEXT, "<|", "text|>", "é", "   \n"]
    for _ in range(400):
        text = "".join(rng.choices(words, k=rng.randint(0, 30)))
        plain = re.sub(" +", " ", text) if collapse else text
        expected = [d for d in (part.strip() for part in plain.split(END_OF_TEXT)) if d]
        assert joined(split(blocks_of(text, rng, rng.choice((1, 5, 40))), collapse)) == expected


def letters(seed: int) -> str:
    """Text in which words, spaces, line ends, digits, marks and scripts meet in every order."""
    rng = random.Random(seed)
    some = [
        "a", "The", "'s", "don't", " ", "  ", "\n", "\r", "\t", "7", "2026", ".", "...\n", "—", "é",
        "e\u0301", "猫", "ß", "½", "🙂", "<s>", "\u00a0", "_", "a b", "it 's", "\x1c",
    ]  # fmt: skip
    return "".join(rng.choices(some, k=rng.randint(1, 120)))


def trained(shape: Callable[[Any], None]) -> BPETokenizer:
    """A tokenizer of the library, as `shape` makes it, that has learnt from such text."""
    tokenizers = pytest.importorskip("tokenizers", reason="the extra bpe is not installed")
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.decoder = tokenizers.decoders.ByteLevel()
    shape(inner)
    inner.train_from_iterator(
        [letters(i) for i in range(1000, 1400)],
        tokenizers.trainers.BpeTrainer(
            vocab_size=600, special_tokens=["<s>", "</s>"], show_progress=False,
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        ),
    )  # fmt: skip
    return BPETokenizer(inner.to_str())


def with_words(*steps: str, normal: str = "", space: bool = False) -> Callable[[Any], None]:
    def shape(inner: Any) -> None:
        import tokenizers

        from anefast.tokenizer import bpe

        made = tokenizers.pre_tokenizers
        every = {
            "bytes": made.ByteLevel(add_prefix_space=space),
            "bytes only": made.ByteLevel(add_prefix_space=space, use_regex=False),
            "digits": made.Digits(individual_digits=True),
            "llama3": made.Split(tokenizers.Regex(bpe.LLAMA3_PATTERN), "isolated"),
            "qwen": made.Split(tokenizers.Regex(bpe.QWEN_PATTERN), "isolated"),
            "metaspace": made.Metaspace(),
        }
        inner.pre_tokenizer = made.Sequence([every[step] for step in steps])
        if normal:
            inner.normalizer = getattr(tokenizers.normalizers, normal)()

    return shape


SHAPES = {
    "gpt2": with_words("bytes"),
    "smollm2": with_words("digits", "bytes"),
    "llama3": with_words("llama3", "bytes only"),
    "qwen": with_words("qwen", "bytes only", normal="NFC"),
    "prefix": with_words("bytes", space=True),
    "nfkd": with_words("bytes", normal="NFKD"),
}


def pieces_equal_the_whole(tok: Tokenizer, texts: Iterator[str], least_cuts: int) -> None:
    cuts = 0
    for text in texts:
        for stop in range(1, len(text), 3):
            at = tok.cut(text[:stop])  # type: ignore[attr-defined]
            assert 0 <= at <= stop
            if at:
                cuts += 1
                apart = tok.encode(text[:at]) + tok.encode_rest(text[at:])  # type: ignore[attr-defined]
                assert apart == tok.encode(text), (text, at)
    assert cuts >= least_cuts


@pytest.mark.parametrize("name", SHAPES)
def test_bpe_is_cut_only_where_the_ids_are_the_same(name: str) -> None:
    tok = trained(SHAPES[name])
    pieces_equal_the_whole(tok, (letters(i) for i in range(60)), 500)


def test_bpe_of_words_we_do_not_know_is_never_cut() -> None:
    for shape in (
        with_words("bytes only"), with_words("metaspace", "bytes only"),
        with_words("bytes", normal="Strip"), with_words("bytes", normal="Lowercase"),
    ):  # fmt: skip
        assert not trained(shape).cut("a few words. " * 9)


@pytest.mark.parametrize("alphabet", [b" ab", b"abc", b"a ", b".\na "])
def test_llama2c_and_bytes_are_cut_only_where_the_ids_are_the_same(alphabet: bytes) -> None:
    rng = random.Random(5)
    for seed in range(8):
        tok = small(np.random.default_rng(seed), alphabet, 12)
        texts = ("".join(rng.choices("ab c\né.", k=rng.randint(1, 60))) for _ in range(30))
        pieces_equal_the_whole(tok, texts, 1)
    pieces_equal_the_whole(BYTES, (letters(i) for i in range(9)), 100)


def test_a_long_document_in_pieces_is_the_document(data_dir: Path, tmp_path: Path) -> None:
    text = (data_dir / "tinyshakespeare.txt").read_text().strip()
    spaceless = "猫" * 100_000 + " end"
    tokenizers: list[Tokenizer] = [BYTES, Llama2cTokenizer.load(data_dir / "tok512.bin")]
    try:
        tokenizers.append(BPETokenizer.train([text[:20_000]], 400))
    except ImportError as error:
        print(error)
    for tok in tokenizers:
        for whole in (text, spaceless):
            stream = encode(iter([*blocks_of(whole, random.Random(1), 300_000), END]), tok)
            assert stream.read(0, len(stream)).tolist() == tok.encode(whole)


def test_bpe_learns_the_same_from_pieces(data_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="the extra bpe is not installed")
    text = (data_dir / "tinyshakespeare.txt").read_text()[:400_000].strip()
    (tmp_path / "a.txt").write_text(text)
    learnt = open_data(tmp_path / "a.txt", "bpe:400").tokenizer
    directly = BPETokenizer.train([text[: int(len(text) * 0.9)]], 400)
    assert learnt.encode(text) == directly.encode(text)
    assert len(list(regrouped(iter([text, END]), None))) == 2


def test_a_long_word_does_not_hold_up_the_rest() -> None:
    text = "x" * 200_000 + " and words" * 50_000
    pieces = list(regrouped(iter([*blocks_of(text, random.Random(2), 90_000), END]), before_space))
    assert "".join(piece for piece in pieces if piece) == text
    assert max(len(piece) for piece in pieces[1:] if piece) <= 1 << 16


@pytest.mark.parametrize("form", ["one document", "many documents", "rows"])
def test_memory_of_a_text_is_that_of_its_ids(form: str, tmp_path: Path) -> None:
    sentence = "Once upon a time, a cat sat on a mat. "
    content = {
        "one document": sentence * 200_000,
        "many documents": (sentence + END_OF_TEXT) * 40_000,
        "rows": (json.dumps({"text": sentence}) + "\n") * 40_000,
    }[form]
    (tmp_path / "a.txt").write_text(content)
    size = len(content)
    del content  # a list of its bytes alone would take eight times as much
    tracemalloc.start()
    try:
        data = open_data(tmp_path / "a.txt")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    held = 2 * (len(data.train) + len(data.validation))
    print(f"{size / 2**20:.1f} MiB of text, peak {peak / 2**20:.1f} MiB")
    assert held <= peak <= held + (10 << 20)
