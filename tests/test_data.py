"""Streams, splits, batches, and every way a data file can be wrong."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from anefast.data import Batches, DataError, TokenStream, open_data
from anefast.stories import recognise
from anefast.tokenizer import ByteTokenizer

TOKENS = ByteTokenizer()


def counting(n: int) -> TokenStream:
    """A stream in which every token is its own position; windows are then easy to read."""
    cuts = [0, n // 3, n // 3, n // 2, n]
    return TokenStream([np.arange(a, b) for a, b in itertools.pairwise(cuts)])


def test_a_stream_over_shards_reads_like_one_array() -> None:
    rng = np.random.default_rng(0)
    stream = counting(97)
    for _ in range(300):
        a, b = sorted(rng.integers(0, 98, 2).tolist())
        c, d = sorted(rng.integers(0, b - a + 1, 2).tolist())
        part = stream.part(a, b)
        assert len(part) == b - a
        assert (stream.read(a, b - a) == np.arange(a, b)).all()
        assert (part.read(c, d - c) == np.arange(a + c, a + d)).all()
    with pytest.raises(IndexError):
        stream.read(90, 8)
    assert len(TokenStream([])) == 0 == len(TokenStream([]).read(0, 0))


def test_golden_stream(data_dir: Path) -> None:
    data = open_data(
        data_dir / "tinystories_train_2MiB.txt", data_dir / "tok512.bin", collapse_spaces=True
    )
    for name, B, S in (("B1S256", 1, 256), ("B4S128", 4, 128)):
        golden = np.load(data_dir / "golden" / f"stories260K_ts_{name}.npz")
        x, y = data.batches(B, S, order="sequential").batch(0)
        assert (x == golden["x"]).all() and (y == golden["y"]).all()
        assert x.dtype == y.dtype == np.int32 and x.flags.c_contiguous and y.flags.c_contiguous
    assert len(data.train) + len(data.validation) == 1_032_027


def test_sequential_windows_wrap() -> None:
    batches = Batches(counting(50), 2, 8, 0, "sequential")  # 6 whole windows
    x, y = batches.batch(0)
    assert x.tolist() == [list(range(8)), list(range(8, 16))]
    assert (y == x + 1).all()
    assert (batches.batch(3)[0] == x).all()
    assert (batches.batch(2)[1].max()) == 48


@pytest.mark.parametrize("n", [9, 16, 17, 50, 1000, 1007])
def test_a_shuffled_epoch_reads_every_window_once(n: int) -> None:
    S = 8
    batches = Batches(counting(n), 1, S, 3, "shuffled")
    offsets = set()
    for epoch in range(30):
        first = epoch * batches.windows_per_epoch
        starts = [batches.start(first + i) for i in range(batches.windows_per_epoch)]
        assert sorted(starts) == list(range(min(starts), min(starts) + S * len(starts), S))
        assert 0 <= min(starts) and max(starts) + S < n
        offsets.add(min(starts))
        x, y = batches.batch(first)
        assert (y == x + 1).all() and x[0, 0] == starts[0]
    assert len(offsets) == 1 if n == S + 1 else len(offsets) > 3
    assert batches.windows_per_epoch >= (n - 1) // S - 1


def test_batches_are_a_pure_function_of_seed_and_step() -> None:
    stream = counting(3000)
    forward = Batches(stream, 4, 32, 7, "shuffled")
    seen = [forward.batch(k)[0] for k in range(60)]
    for k in np.random.default_rng(0).permutation(60):
        assert (Batches(stream, 4, 32, 7, "shuffled").batch(int(k))[0] == seen[k]).all()
    assert any((Batches(stream, 4, 32, 8, "shuffled").batch(k)[0] != seen[k]).any() for k in (0, 1))
    # micro-batches of another size cut the same sequence of windows
    assert (np.concatenate([Batches(stream, 2, 32, 7, "shuffled").batch(k)[0] for k in (0, 1)])
            == seen[0]).all()  # fmt: skip


def test_known_batches_stay_as_they_are() -> None:
    """Resuming a run depends on this order: it must not change between versions."""
    batches = Batches(counting(10_000), 4, 32, 1, "shuffled")
    assert [int(r[0]) for r in batches.batch(0)[0]] == KNOWN[0]
    assert [int(r[0]) for r in batches.batch(1000)[0]] == KNOWN[1]


KNOWN = [[2857, 9769, 8105, 6281], [2202, 1754, 1146, 1242]]


def write(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8", newline="")
    return path


def test_text_documents(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.txt",
        "\ufeff" + " one  two\r\n<|endoftext|>\n\n<|endoftext|>thréé\n<|endoftext|>" * 40,
    )
    data = open_data(path)
    whole = np.concatenate([s.read(0, len(s)) for s in (data.train, data.validation)])
    text = ["one  two", "thréé"] * 40
    assert whole.tolist()[1:] == [i for t in text for i in TOKENS.encode(t)][1:]
    assert len(data.validation) == pytest.approx(len(whole) / 10, abs=1)
    assert data.floor is None and data.tokenizer.name == "bytes"
    narrow = open_data(path, collapse_spaces=True)
    assert len(narrow.train) < len(data.train) and narrow.fingerprint != data.fingerprint
    assert open_data(path).fingerprint == data.fingerprint


def test_folder_reads_all_files_in_name_order(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write(tmp_path / "b.txt", "bee " * 9)
    write(tmp_path / "a.md", "ay " * 9)
    write(tmp_path / "sub" / "c.txt", "sea")
    (tmp_path / ".hidden").write_bytes(b"\0\1")
    data = open_data(tmp_path, val_fraction=0.5)
    whole = data.train.read(0, len(data.train)).tolist()
    whole += data.validation.read(0, len(data.validation)).tolist()
    assert TOKENS.decode(whole) == ("ay " * 9).strip() + ("bee " * 9).strip() + "sea"


def test_bpe_learns_from_the_training_part_only(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="the extra bpe is not installed")
    path = write(tmp_path / "a.txt", "seen words here " * 300 + "zqxzqx " * 50)
    data = open_data(path, "bpe:270", val_fraction=0.2)
    pieces = {data.tokenizer.piece(i) for i in range(data.tokenizer.vocab_size)}
    assert data.tokenizer.vocab_size > 259 and b" zqx" not in pieces and b"zq" not in pieces


def test_shards(tmp_path: Path) -> None:
    ids = np.arange(1000, dtype="<u2") % 259
    ids[:700].tofile(tmp_path / "0.bin")
    ids[700:].tofile(tmp_path / "1.bin")
    data = open_data(tmp_path)
    assert (data.train.read(0, 900) == ids[:900]).all()
    assert (data.validation.read(0, 100) == ids[900:]).all()
    assert len(open_data(tmp_path / "0.bin").train) == 630


def test_validation_batches_are_fixed_and_cover_the_split() -> None:
    data = open_data("stories:20", val_fraction=0.2)
    B, S = 4, 64
    once = list(data.validation_batches(B, S))
    twice = list(data.validation_batches(B, S))
    assert all(
        (a[0] == b[0]).all() and (a[1] == b[1]).all() for a, b in zip(once, twice, strict=True)
    )
    assert all(x.shape == y.shape == (B, S) for x, y in once)
    counted = sum(int((y >= 0).sum()) for _, y in once)
    assert counted == (len(data.validation) - 1) // S * S
    stream = data.validation.read(0, len(data.validation))
    assert (np.concatenate([y[y >= 0] for _, y in once]) == stream[1 : counted + 1]).all()
    few = list(data.validation_batches(B, S, limit=2))
    assert len(few) == 2 and all((y >= 0).all() for _, y in few)
    starts = [x[0, :8].tobytes() for x, _ in few]
    assert starts[0] == stream[:8].tobytes() and len(set(starts)) == 2
    assert len(list(data.validation_batches(B, S, limit=999))) == len(once)


def test_stories() -> None:
    data = open_data("stories:30", seed=4)
    train = data.train.read(0, len(data.train))
    held_out = data.validation.read(0, len(data.validation))
    told = [[TOKENS.decode(d) for d in np.split(s, np.flatnonzero(s == 1))[1:]]
            for s in (train, held_out)]  # fmt: skip
    assert [len(t) for t in told] == [30, 3] and not set(told[0]) & set(told[1])
    nats = -sum(recognise(text).logp for text in told[1])
    assert data.floor == pytest.approx(nats / (len(held_out) - 1))
    assert open_data("stories:30", seed=5).fingerprint != data.fingerprint


def refuse(match: str, source: Path | str, B: int = 1, S: int = 8, **how: object) -> None:
    with pytest.raises(DataError, match=match) as caught:
        open_data(source, **how).batches(B, S)  # type: ignore[arg-type]
    text = str(caught.value)
    assert text.startswith("[data] expected ") and "Hint: " in text and "\n" not in text


def test_refused(tmp_path: Path) -> None:
    refuse("there is no .*none.txt", tmp_path / "none.txt")
    refuse("there is no storeys", "storeys")
    refuse("is empty", write(tmp_path / "empty.txt", ""))
    refuse("only white space", write(tmp_path / "blank.txt", " \n<|endoftext|>\n"))
    refuse("training tokens for 1 x 8", write(tmp_path / "short.txt", "tiny"))
    fits = write(tmp_path / "fits.txt", "x" * 99)  # 100 tokens with BOS: 90 and 10
    open_data(fits).batches(1, 8)
    open_data(fits).batches(11, 8)
    refuse(r"at least 97 training.* has 90", fits, 12, 8)
    refuse(r"at least 17 validation.* has 10", fits, 2, 16)
    refuse("fraction", fits, val_fraction=1.0)
    refuse("at least 1 story", "stories:0")
    (tmp_path / "binary.txt").write_bytes(b"\x89binary\0\0" + b"\0" * 3)
    refuse("byte 0x89 at 0", tmp_path / "binary.txt")
    (tmp_path / "latin.txt").write_bytes("caf\xe9 au lait".encode("latin-1"))
    refuse("byte 0xe9 at 3", tmp_path / "latin.txt")
    (tmp_path / "cut.txt").write_bytes("é".encode()[:1])
    refuse("byte 0xc3 at 0", tmp_path / "cut.txt")
    refuse("binary.txt has byte 0x89", tmp_path)
    (tmp_path / "hollow").mkdir()
    refuse("has none", tmp_path / "hollow")


def test_refused_shards(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    for content in (b"", b"123"):
        path.write_bytes(content)
        refuse(f"even number of bytes, .*a.bin has {len(content)}", path)
    ids = np.ones(3 << 20, "<u2")
    ids[(2 << 20) + 5] = 259
    ids.tofile(path)
    refuse(f"ids below 259, .*a.bin has 259 at token {(2 << 20) + 5}", path)
    ids[(2 << 20) + 5] = 258
    ids.tofile(path)
    open_data(path).batches(1, 8)
    refuse("ids below 100, .* has 258", path, vocab_size=100)
    write(tmp_path / "b.txt", "text")
    refuse("has both", tmp_path)
