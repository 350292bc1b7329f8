"""Tokenizers in files of others: out of tokenizer.json and GGUF, and into both.

The `tokenizers` library judges every encoding; the goldens are transformers'.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from anefast.formats.gguf_model import _padded
from anefast.tokenizer import ByteTokenizer, Llama2cTokenizer, Tokenizer, open_tokenizer
from anefast.tokenizer.base import TokenizerError
from anefast.tokenizer.gguf import PRE, pairs_of, tokenizer_of
from anefast.tokenizer.gguf_keys import CONTROL, USER
from anefast.tokenizer.huggingface import files_of

library = pytest.importorskip("tokenizers", reason="install anefast[bpe]")

from anefast.tokenizer.bpe import BPETokenizer, Marks  # noqa: E402

WORDS = [
    "the", "Hello", " ", "  ", "\n", "\n\n", "\t", "日本語", "😀", "naïve", "123", "4567", "don't",
    "def f(x):\n    return x", "{}", "<s>", "é", "\x01", "\x7f", "ſ", "…", "https://a.b/c?d=e",
    "ÀÉ", "привет", "मन", "👩‍👩‍👧", "\u200b", "<0x41>", "▁", "<|endoftext|>",
    "'S", "I'LL", "x" * 40,
]  # fmt: skip


def texts(count: int, seed: int = 0) -> list[str]:
    """Mixed strings: spaces, emoji, CJK, control characters, digits, code."""
    rng = random.Random(seed)

    def one() -> str:
        return "".join(
            rng.choice(WORDS) + rng.choice(["", " ", ""]) for _ in range(rng.randrange(9))
        )

    return ["", *(one() for _ in range(count))]


RANGES = [  # of characters: ASCII with its control characters, Latin, CJK, Hangul, emoji, and more
    (0, 0x80), (0x80, 0x180), (0x370, 0x5FF), (0x3040, 0x3100), (0x4E00, 0x9FFF), (0xAC00, 0xD7A4),
    (0x1F300, 0x1FAFF), (0x2000, 0x2070), (0xE000, 0xE100), (0x10000, 0x10100),
]  # fmt: skip
CODE = [
    "for (int i = 0; i < n; ++i) {\n\treturn a[i] != 0x1F;\n}", "x = {'a': [1, 2]}  # ok\n\n\n",
    "SELECT * FROM t WHERE id='7';", "<div class=\"x\">&nbsp;</div>", "\r\n", "    " * 3, "\t\t",
]  # fmt: skip


def wide(count: int, seed: int) -> list[str]:
    """Those, and characters of any script, long runs of digits and code between them."""
    rng = random.Random(seed)

    def part() -> str:
        kind = rng.randrange(5)
        if kind == 0:
            first, end = rng.choice(RANGES)
            return "".join(chr(rng.randrange(first, end)) for _ in range(rng.randrange(1, 9)))
        if kind == 1:
            return "".join(rng.choices("0123456789", k=rng.randrange(1, 60)))
        return rng.choice(CODE) if kind == 2 else rng.choice(WORDS) + rng.choice(["", " "])

    return ["".join(part() for _ in range(rng.randrange(1, 8))) for _ in range(count)]


def trained(pre: dict[str, Any] | None = None) -> BPETokenizer:
    """A BPE of a few hundred pieces, its texts parted as `pre` says."""
    inner = library.Tokenizer(library.models.BPE())
    description = json.loads(inner.to_str())
    description["pre_tokenizer"] = pre or PRE["gpt-2"]
    description["decoder"] = PRE["gpt-2"]
    inner = library.Tokenizer.from_str(json.dumps(description))
    trainer = library.trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|endoftext|>"], show_progress=False,
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    inner.train_from_iterator(texts(400, 1), trainer)
    return BPETokenizer(inner.to_str(), "trained", Marks("<|endoftext|>", "<|endoftext|>", False))


def reopened(tokenizer: Tokenizer, folder: Path) -> Tokenizer:
    """Out to the files of a Hugging Face folder, and back."""
    for name, content in files_of(tokenizer).items():
        (folder / name).write_bytes(content)
    return open_tokenizer(folder)


@pytest.mark.parametrize("name", ["tok_spm", "tok_bytelevel"])
def test_transformers_agrees(data_dir: Path, name: str) -> None:
    folder = data_dir / "hf_golden" / name
    if not folder.is_dir():
        pytest.skip(f"no tokenizers of transformers in {folder}")
    tokenizer = open_tokenizer(folder / "tokenizer.json")
    for row in json.loads((folder / "golden.json").read_text()):
        if "<s>" in row["text"]:  # a control name in a text is text here
            assert tokenizer.bos_id not in tokenizer.encode(row["text"], bos=False)
            continue
        assert tokenizer.encode(row["text"], bos=False) == row["ids"]
        assert tokenizer.decode(row["ids"]) == row["text"]


def pieces(scheme: str) -> BPETokenizer:
    """SentencePiece's BPE, which puts a space in front of a text in one of two ways."""
    inner = library.Tokenizer(library.models.BPE(byte_fallback=True, unk_token="<unk>"))
    decoders, normalizers = library.decoders, library.normalizers
    if scheme == "prepend":
        spaces = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        inner.normalizer = normalizers.Sequence(spaces)
    else:
        inner.pre_tokenizer = library.pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    inner.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    trainer = library.trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, show_progress=False, limit_alphabet=40
    )
    inner.train_from_iterator(["The cat sat on the mat. It was [happy]!"] * 9, trainer)
    return BPETokenizer(inner.to_str(), scheme)


@pytest.mark.parametrize("scheme", ["prepend", "first", "always"])
def test_the_rest_of_a_text_begins_with_no_space_of_ours(scheme: str) -> None:
    tokenizer = pieces(scheme)
    ids = tokenizer.encode("The", bos=False) + tokenizer.encode_rest(" cat")
    assert "".join(map(tokenizer.text_of, ids)) == "▁The▁cat"
    whole = tokenizer.encode_marked("<s>[The] cat</s><s>It")
    parts = [tokenizer.encode_marked("<s>[The]"), tokenizer.encode_marked(" cat</s><s>It", False)]
    spelled = ["".join(map(tokenizer.text_of, ids)) for ids in ([*parts[0], *parts[1]], whole)]
    assert spelled[0] == spelled[1]
    for encode in (tokenizer.encode, tokenizer.encode_rest, tokenizer.encode_marked):
        with pytest.raises(TokenizerError, match="UTF-8 can hold"):
            encode("\ud800")


@pytest.mark.parametrize("highest", [1 << 20, 2**32 - 1])
def test_an_id_out_of_all_bounds_is_refused(highest: int) -> None:
    description = trained().description()
    description["model"]["vocab"]["a"] = highest
    with pytest.raises(TokenizerError, match=r"ids below 1,048,576 in far, got"):
        BPETokenizer(json.dumps(description), "far", Marks("<|endoftext|>", "<|endoftext|>"))


def test_a_mark_that_no_text_has_is_refused() -> None:
    with pytest.raises(TokenizerError, match="expected the bos token"):
        BPETokenizer(json.dumps(trained().description()), "odd", Marks("\ud800"))


@pytest.mark.parametrize("old", [True, False])
def test_merges_are_read_in_both_spellings(old: bool) -> None:
    tokenizer = trained()
    description = tokenizer.description()
    pairs = [m if isinstance(m, list) else m.split(" ") for m in description["model"]["merges"]]
    description["model"]["merges"] = [" ".join(p) for p in pairs] if old else pairs
    again = BPETokenizer(json.dumps(description), "again", Marks("<|endoftext|>"))
    assert [again.encode(t) for t in texts(200)] == [tokenizer.encode(t) for t in texts(200)]


@pytest.mark.parametrize("name", ["tok512.bin", "llama2_tok32000.bin"])
def test_scored_pieces_become_merges(data_dir: Path, tmp_path: Path, name: str) -> None:
    """llama2.c's encoding against the library's own, of the files that we write."""
    tokenizer = Llama2cTokenizer.load(data_dir / name)
    inner = library.Tokenizer.from_str(files_of(tokenizer)["tokenizer.json"].decode())
    inner.encode_special_tokens = True
    for text in (t.replace("▁", "") for t in texts(1500)):  # to SentencePiece that is a space
        assert tokenizer.encode(text) == [1, *inner.encode(text, add_special_tokens=False).ids]
    again = reopened(tokenizer, tmp_path)
    assert (again.bos_id, again.eos_id, again.vocab_size) == (1, 2, tokenizer.vocab_size)
    for text in (t.replace("▁", "") for t in texts(300, 2)):
        ids = tokenizer.encode(text)
        assert again.encode(text) == ids and again.decode(ids) == tokenizer.decode(ids)


@pytest.mark.parametrize("make", [ByteTokenizer, trained], ids=["bytes", "bpe"])
def test_byte_level_ones_go_out_and_come_back(make: Any, tmp_path: Path) -> None:
    tokenizer = make()
    again = reopened(tokenizer, tmp_path)
    for text in texts(300):
        ids = tokenizer.encode(text)
        assert again.encode(text) == ids and again.decode(ids) == text
    assert (again.bos_id, again.eos_id) == (tokenizer.bos_id, tokenizer.eos_id)
    assert again.adds_bos == getattr(tokenizer, "adds_bos", True)


@pytest.mark.parametrize("pre", PRE)
def test_gguf_pairs_go_out_and_come_back(pre: str) -> None:
    tokenizer = trained(PRE[pre])
    pairs = pairs_of(tokenizer)
    assert pairs["tokenizer.ggml.pre"] == pre
    again = tokenizer_of(pairs, "again")
    for text in texts(300):
        assert again.encode(text) == tokenizer.encode(text)
    assert again.decode(tokenizer.encode(texts(1)[-1])) == texts(1)[-1]


@pytest.mark.parametrize("pre,normal", [("gpt-2", "NFC"), ("qwen2", None), ("qwen2", "NFC")])
def test_normalizers_come_back(
    pre: str, normal: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """llama.cpp has none; Qwen's is known, another one than that goes with the file."""
    description = trained(PRE[pre]).description()
    description["normalizer"] = {"type": normal} if normal else None
    own = BPETokenizer(json.dumps(description), "own", Marks("<|endoftext|>", "<|endoftext|>"))
    pairs = pairs_of(own)
    assert ("tokenizer.huggingface.json" in pairs) == ((pre, normal) != ("qwen2", "NFC"))
    assert ("does not compose characters" in caplog.text) == (pre == "gpt-2")
    for text in ("e\u0301 cafe\u0301", "é", "\u1100\u1161"):
        assert tokenizer_of(pairs, "m.gguf").encode(text) == own.encode(text)
    description["normalizer"] = {"type": "Lowercase"}
    own = BPETokenizer(json.dumps(description), "own", Marks("<|endoftext|>", "<|endoftext|>"))
    with pytest.raises(TokenizerError, match="own has Lowercase"):
        pairs_of(own)


@pytest.mark.parametrize("name", ["tok512.bin", "llama2_tok32000.bin"])
def test_merges_of_sentencepiece_become_scores(data_dir: Path, tmp_path: Path, name: str) -> None:
    """A tokenizer.json as Llama 2's is goes into GGUF and comes back with the same ids."""
    merged = reopened(Llama2cTokenizer.load(data_dir / name), tmp_path)
    again = tokenizer_of(pairs_of(merged), "m.gguf")
    assert isinstance(merged, BPETokenizer) and isinstance(again, Llama2cTokenizer)
    for text in (t.replace("▁", "") for t in texts(500, 3)):
        assert again.encode(text) == merged.encode(text)


def test_pieces_without_runs_of_spaces_are_refused(data_dir: Path) -> None:
    pairs = pairs_of(Llama2cTokenizer.load(data_dir / "tok512.bin"))
    name = "tokenizer.ggml.remove_extra_whitespaces"
    tokenizer_of(pairs | {name: False}, "m.gguf")
    with pytest.raises(TokenizerError, match=f"{name} false in m.gguf"):
        tokenizer_of(pairs | {name: True}, "m.gguf")


def test_pieces_with_marks_of_a_chat(data_dir: Path) -> None:
    """A template, a mark, a token of a user's and other ids of BOS and EOS: all of it is read."""
    own = Llama2cTokenizer.load(data_dir / "tok512.bin")
    pairs = pairs_of(own)
    pairs["tokenizer.ggml.tokens"] += ["<|end|>", "[user]"]
    pairs["tokenizer.ggml.token_type"] += [CONTROL, USER]
    pairs["tokenizer.ggml.scores"] += [0.0, 0.0]
    more = {"eos_token_id": 512, "add_space_prefix": False, "add_bos_token": False}
    pairs |= {f"tokenizer.ggml.{key}": value for key, value in more.items()}
    found = tokenizer_of(pairs | {"tokenizer.chat_template": "{{ messages }}"}, "m.gguf")
    assert isinstance(found, BPETokenizer) and found.chat_template == "{{ messages }}"
    assert (found.bos_id, found.eos_id, found.adds_bos) == (1, 512, False)
    assert found.encode("a [user]<|end|>", bos=False)[-8:] != [513, 512]
    assert found.encode_marked("a [user]<|end|>")[-2:] == [513, 512]
    for text in (t.replace("▁", "") for t in texts(300, 5)):
        ids = own.encode_rest(text)
        assert found.encode(text, bos=False) == ids and found.decode(ids) == text
    again = tokenizer_of(pairs_of(found), "again.gguf")
    assert isinstance(again, BPETokenizer) and again.description() == found.description()


def test_pieces_of_one_score_are_said(data_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    pairs = pairs_of(Llama2cTokenizer.load(data_dir / "tok512.bin"))
    pairs |= {"tokenizer.chat_template": "{{ messages }}"}
    tokenizer_of(pairs, "m.gguf")
    assert not caplog.messages
    pairs["tokenizer.ggml.scores"] = [-1000.0] * 512
    tokenizer_of(pairs, "m.gguf")
    assert "pieces of m.gguf have the score -1000" in caplog.text


def test_merges_of_other_trainers_become_scores() -> None:
    merged = BPETokenizer(json.dumps(pieces("prepend").description()), "m", Marks(adds_bos=True))
    again = tokenizer_of(pairs_of(merged), "m.gguf")
    for text in ("The cat sat on the mat. It was [happy]!", " a  the", "naïve", "on the other"):
        assert again.encode(text) == merged.encode(text)


@pytest.mark.parametrize("scheme", ["prepend", "never", "first", "always"])
def test_spaces_in_front_of_texts_come_back(scheme: str, caplog: pytest.LogCaptureFixture) -> None:
    """Where llama.cpp puts one that the tokenizer does not, that is said, and kept for us."""
    merged = BPETokenizer(json.dumps(pieces(scheme).description()), scheme, Marks(adds_bos=False))
    pairs = pairs_of(merged)
    assert pairs["tokenizer.ggml.add_space_prefix"] is (scheme != "never")
    assert pairs["tokenizer.ggml.add_bos_token"] is False
    exact = scheme in ("prepend", "never")
    assert ("tokenizer.huggingface.json" in pairs) is not exact
    assert ("puts a space in front of every text" in caplog.text) is not exact
    again = tokenizer_of(pairs, "m.gguf")
    assert not again.adds_bos
    read = tokenizer_of({k: v for k, v in pairs.items() if "huggingface" not in k}, "m.gguf")
    for text in ("The cat sat on the mat. It was [happy]!", " a  the", "naïve", " ", ""):
        assert again.encode(text) == merged.encode(text)
        if exact or not text.startswith(" "):
            assert read.encode(text) == merged.encode(text)
            assert read.decode(read.encode(text)) == text


def changed(scheme: str, **settings: Any) -> dict[str, Any]:
    description = pieces(scheme).description()
    description["pre_tokenizer"] = description["pre_tokenizer"] | settings
    return description


def test_words_that_are_parted_at_their_spaces() -> None:
    """No piece has a space inside: parting there changes nothing, else it is refused."""
    description = changed("never", split=True)
    with pytest.raises(TokenizerError, match="it has pieces with ▁ inside, and parts words there"):
        pairs_of(BPETokenizer(json.dumps(description), "split"))
    model = description["model"]
    spaced = [piece for piece in model["vocab"] if "▁" in piece[1:]]
    assert spaced
    model["vocab"] = {p: i for i, p in enumerate(p for p in model["vocab"] if p not in spaced)}
    merges = [m if isinstance(m, list) else m.split(" ") for m in model["merges"]]
    model["merges"] = [m for m in merges if set(m) | {"".join(m)} <= model["vocab"].keys()]
    merged = BPETokenizer(json.dumps(description), "split", Marks(adds_bos=True))
    again = tokenizer_of(pairs_of(merged), "m.gguf")
    for text in ("The cat sat on the mat. It was [happy]!", " a  the", "  "):
        assert again.encode(text) == merged.encode(text)


@pytest.mark.parametrize(
    "change,said",
    [
        ({"normalizer": {"type": "NFKC"}}, "it parts or changes texts in another way"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "it parts or changes texts in another way"),
        ({"ignore_merges": True}, "it takes whole words before any merge"),
        ({"lstrip": True}, "its token <s> takes the spaces beside it"),
        ({"bytes": 255}, "it has no token <0xFF>"),
    ],
)
def test_sentencepiece_that_gguf_has_not(change: dict[str, Any], said: str) -> None:
    description = pieces("never").description()
    description |= {k: v for k, v in change.items() if k in description}
    description["model"]["ignore_merges"] = change.get("ignore_merges", False)
    mark = next(token for token in description["added_tokens"] if token["content"] == "<s>")
    mark |= {k: v for k, v in change.items() if k in mark}
    if "bytes" in change:
        description["model"]["vocab"].pop("<0xFF>")
        added = description["added_tokens"]
        description["added_tokens"] = [t for t in added if t["content"] != "<0xFF>"]
    with pytest.raises(TokenizerError, match=said):
        pairs_of(BPETokenizer(json.dumps(description), "odd"))


def test_merges_that_scores_cannot_tell_are_refused(data_dir: Path, tmp_path: Path) -> None:
    description = reopened(Llama2cTokenizer.load(data_dir / "tok512.bin"), tmp_path).description()
    merges = description["model"]["merges"]
    assert pairs_of(BPETokenizer(json.dumps(description), "sound"))
    made = ["".join(merge) for merge in merges]
    twice = next(i for i, piece in enumerate(made) if made.count(piece) > 1)
    one_less = merges[:twice] + merges[twice + 1 :]
    for damaged in (one_less, [*one_less, merges[twice]]):
        description["model"]["merges"] = damaged
        tokenizer = BPETokenizer(json.dumps(description), "odd")
        with pytest.raises(TokenizerError, match="expected merges that GGUF's scores can express"):
            pairs_of(tokenizer)


TEN_THOUSAND = wide(10_000, 11)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*PRE, "prepend", "never", "tok512.bin", "llama2_tok32000.bin"])
def test_ten_thousand_texts_as_the_library_encodes_them(data_dir: Path, name: str) -> None:
    """Out of tokenizer.json and out of GGUF, by the library on the first of the two."""
    if name.endswith(".bin"):
        content = files_of(Llama2cTokenizer.load(data_dir / name))["tokenizer.json"].decode()
    else:
        own = trained(PRE[name]) if name in PRE else pieces(name)
        content = json.dumps(own.description())
    judge = library.Tokenizer.from_str(content)
    judge.encode_special_tokens = True
    read = BPETokenizer(content, name, Marks(adds_bos=True))
    again = tokenizer_of(pairs_of(read), "m.gguf")
    for text in TEN_THOUSAND:
        if isinstance(again, Llama2cTokenizer):
            text = text.replace("▁", "")  # to SentencePiece that is a space
        want = judge.encode(text, add_special_tokens=False).ids
        assert read.encode(text, bos=False) == want, text
        assert again.encode(text, bos=False) == want, text


def test_names_for_rows_of_a_padded_table_are_no_tokens(data_dir: Path) -> None:
    tokenizer = Llama2cTokenizer.load(data_dir / "tok512.bin")
    for own in (tokenizer, trained()):
        size = own.vocab_size
        again = tokenizer_of(_padded(pairs_of(own), size + 9), "padded.gguf")
        assert again.vocab_size == size and again.encode("The cat") == own.encode("The cat")


@pytest.mark.parametrize("types", ["abc", 3, [1, 2]])
def test_types_that_do_not_fit_are_refused(data_dir: Path, types: Any) -> None:
    for own in (Llama2cTokenizer.load(data_dir / "tok512.bin"), trained()):
        pairs = pairs_of(own) | {"tokenizer.ggml.token_type": types}
        with pytest.raises(TokenizerError, match="a type for each of"):
            tokenizer_of(pairs, "odd.gguf")


def test_holes_stay_holes_in_gguf() -> None:
    description = trained().description()
    vocab = description["model"]["vocab"]
    last = max(vocab, key=vocab.__getitem__)
    vocab[last] += 7
    marks = Marks("<|endoftext|>", "<|endoftext|>", False)
    tokenizer = BPETokenizer(json.dumps(description), "holes", marks)
    again = tokenizer_of(pairs_of(tokenizer), "holes.gguf")
    assert isinstance(again, BPETokenizer) and len(tokenizer.unused) == 7
    assert again.unused == tokenizer.unused and again.vocab_size == tokenizer.vocab_size
    for text in texts(100):
        assert again.encode(text) == tokenizer.encode(text)


def test_gguf_pairs_of_bytes_and_of_scored_pieces(data_dir: Path) -> None:
    pieces = Llama2cTokenizer.load(data_dir / "tok512.bin")
    for tokenizer in (ByteTokenizer(), pieces):
        again = tokenizer_of(pairs_of(tokenizer), "again")
        for text in texts(300):
            assert again.encode(text, bos=False) == tokenizer.encode(text, bos=False)


@pytest.mark.parametrize(
    "change,said",
    [
        ({"model": "bert"}, r"model gpt2 or llama in m\.gguf, got bert"),
        ({"pre": "mystery"}, "pre gpt-2, .*got mystery"),
        ({"tokens": None}, "a list tokenizer.ggml.tokens"),
        ({"merges": [3]}, "a list tokenizer.ggml.merges"),
        ({"token_type": [1]}, "a type for each"),
        ({"model": "llama"}, "a score for each"),
        ({"bos_token_id": 10**6}, "the bos token 1000000"),
    ],
)
def test_gguf_pairs_that_do_not_make_a_tokenizer(change: dict[str, Any], said: str) -> None:
    pairs = pairs_of(trained()) | {f"tokenizer.ggml.{k}": v for k, v in change.items()}
    with pytest.raises(TokenizerError, match=said):
        tokenizer_of(pairs, "m.gguf")


def test_whether_a_prompt_begins_with_bos(tmp_path: Path) -> None:
    """As tokenizer_config.json says; else as the post-processor does; else it does not."""
    description = trained().description()
    (tmp_path / "tokenizer.json").write_text(json.dumps(description))
    assert not open_tokenizer(tmp_path).adds_bos
    template = json.loads(files_of(ByteTokenizer())["tokenizer.json"])["post_processor"]
    first = [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, template["single"][1]]
    mark = {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}
    template |= {"single": first, "pair": first, "special_tokens": {"<|endoftext|>": mark}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(description | {"post_processor": template}))
    assert open_tokenizer(tmp_path).adds_bos
    (tmp_path / "tokenizer_config.json").write_text('{"add_bos_token": false}')
    assert not open_tokenizer(tmp_path).adds_bos
