"""What a source names: folders with links and companions, their owner's splits, pipes, shards."""

from __future__ import annotations

import logging
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from anefast import files
from anefast.data import DataError, TokenData, open_data
from anefast.data.source import find
from anefast.data.stream import TokenStream, sampled_fingerprint
from anefast.tokenizer import ByteTokenizer

BYTES = ByteTokenizer()


def ids_of(stream: TokenStream) -> list[int]:
    return stream.read(0, len(stream)).tolist()


def whole(data: TokenData) -> list[int]:
    return ids_of(data.train) + ids_of(data.validation)


def made(folder: Path, *names: str) -> Path:
    """A folder of files that each hold their own name, as text or, called .bin, as ids."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".bin":
            np.array(BYTES.encode(name, bos=False) * 20, "<u2").tofile(path)
        else:
            path.write_text(name + " ")
    return folder


def parts(folder: Path) -> tuple[list[str], list[str] | None]:
    def told(found: Sequence[object]) -> list[str]:
        return [str(Path(str(f)).relative_to(folder)) for f in found]

    source = find(folder)
    return told(source.train), None if source.validation is None else told(source.validation)


SPLITS: dict[str, tuple[list[str], list[str], list[str] | None]] = {
    "nanoGPT": (
        ["meta.pkl", "prepare.py", "readme.md", "train.bin", "val.bin"],
        ["train.bin"],
        ["val.bin"],
    ),
    "llm.c": (
        ["fineweb_train_000001.bin", "fineweb_train_000002.bin", "fineweb_val_000000.bin"],
        ["fineweb_train_000001.bin", "fineweb_train_000002.bin"],
        ["fineweb_val_000000.bin"],
    ),
    "TinyStories": (
        ["TinyStoriesV2-GPT4-train.txt", "TinyStoriesV2-GPT4-valid.txt"],
        ["TinyStoriesV2-GPT4-train.txt"],
        ["TinyStoriesV2-GPT4-valid.txt"],
    ),
    "with a test part": (
        ["wiki.test.raw", "wiki.train.raw", "wiki.valid.raw"],
        ["wiki.train.raw"],
        ["wiki.valid.raw"],
    ),
    "only train and test": (["test.txt", "train.txt"], ["train.txt"], None),
    "folders": (
        ["Train/a.txt", "Train/sub/b.txt", "validation/c.txt"],
        ["Train/a.txt", "Train/sub/b.txt"],
        ["validation/c.txt"],
    ),
    "one part alone": (["train.txt"], ["train.txt"], None),
    "words of prose": (
        ["the-last-train.txt", "the-test-of-courage.txt", "valley.txt"],
        ["the-last-train.txt", "the-test-of-courage.txt", "valley.txt"],
        None,
    ),
    "a readme alone": (["README.md"], ["README.md"], None),
}


@pytest.mark.parametrize("name", SPLITS)
def test_a_split_that_is_there_is_kept(name: str, tmp_path: Path) -> None:
    names, train, validation = SPLITS[name]
    assert parts(made(tmp_path, *names)) == (train, validation)


@pytest.mark.parametrize("kind", ["bin", "txt"])
def test_nothing_of_the_other_part_is_trained_on(kind: str, tmp_path: Path) -> None:
    made(tmp_path, f"train.{kind}", f"val.{kind}", f"test.{kind}")
    data = open_data(tmp_path, val_fraction=0.5)
    seen = BYTES.decode(ids_of(data.train)), BYTES.decode(ids_of(data.validation))
    assert set(seen[0].replace(f"train.{kind}", "")) <= {" "}
    assert set(seen[1].replace(f"val.{kind}", "")) <= {" "}
    assert "split as it lies" in data.description


def test_a_file_of_no_part_is_refused_by_name(tmp_path: Path) -> None:
    made(tmp_path, "train.txt", "val.txt", "more.txt")
    with pytest.raises(DataError, match=r"more\.txt is of none"):
        open_data(tmp_path)
    with pytest.raises(DataError, match=r"has both, .*b\.bin of ids and .*a\.txt of text"):
        open_data(made(tmp_path / "mixed", "a.txt", "b.bin"))


def test_a_part_named_alone_says_where_the_other_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made(tmp_path, "train.txt", "val.txt")
    open_data(tmp_path / "train.txt")
    assert "name its folder to validate on val.txt" in caplog.text
    caplog.clear()
    open_data(tmp_path / "val.txt")
    assert not caplog.text


def test_links_are_followed_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made(tmp_path / "far", "b.txt", "deep/c.txt")
    folder = made(tmp_path / "d", "a.txt")
    (folder / "far").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "back").symlink_to(folder)  # a loop
    (folder / "zzz").symlink_to(tmp_path / "far" / "deep")  # seen already
    data = open_data(folder)
    assert BYTES.decode(whole(data)) == "a.txtb.txtdeep/c.txt"
    assert "a second name of what is read already" in caplog.text
    (folder / "broken").symlink_to("nowhere")
    with pytest.raises(DataError, match="broken is a link to nowhere"):
        open_data(folder)


def test_what_is_left_out_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made(tmp_path, "a.txt", ".hidden/b.txt", ".c.txt", "LICENSE")
    (tmp_path / "empty.txt").touch()
    os.mkfifo(tmp_path / "pipe")
    with caplog.at_level(logging.WARNING):
        assert BYTES.decode(whole(open_data(tmp_path))) == "a.txt"
    for said in (
        "(hidden): .c.txt, .hidden",
        "(empty): empty.txt",
        "(no regular file): pipe",
        "(about the data, not data): LICENSE",
    ):
        assert said in caplog.text


def test_what_is_no_text_is_left_out_of_a_folder_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """But not what was never fetched whole, and not where nothing else is there."""
    made(tmp_path, "a.txt", "b.txt")
    alone = ids_of(open_data(tmp_path, BYTES).train)
    (tmp_path / "paper.pdf").write_bytes(b"%PDF-1.7\nwords")
    (tmp_path / "old.txt.gz").write_bytes(b"\x1f\x8b\x08 words")
    caplog.clear()
    assert ids_of(open_data(tmp_path, BYTES).train) == alone
    said = [message for message in caplog.messages if "skipped" in message]
    assert [line.partition(" (")[2] for line in said] == [
        "a gzip archive): old.txt.gz", "a PDF): paper.pdf",
    ]  # fmt: skip
    (tmp_path / "c.txt").write_text("version https://git-lfs.github.com/spec/v1\nsize 9\n")
    with pytest.raises(DataError, match=r"c.txt is a git-lfs pointer"):
        open_data(tmp_path, BYTES)
    for name in ("a.txt", "b.txt", "c.txt", "old.txt.gz"):
        (tmp_path / name).unlink()
    with pytest.raises(DataError, match=r"paper.pdf is a PDF.*pdftotext"):
        open_data(tmp_path, BYTES)


def test_folders_deeper_than_the_stack(tmp_path: Path) -> None:
    deep = tmp_path
    for _ in range(sys.getrecursionlimit() // 2 + 200):
        deep /= "d"
    try:
        deep.mkdir(parents=True)
    except OSError as error:
        pytest.skip(f"no room for such a path: {error.strerror}")
    made(deep, "a.txt")
    assert BYTES.decode(whole(open_data(tmp_path))) == "a.txt"


def test_a_pipe_is_read_once_to_its_end(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.txt"
    os.mkfifo(pipe)
    text = "once upon a time. " * 30_000
    writer = threading.Thread(target=lambda: pipe.write_text(text))
    writer.start()
    data = open_data(pipe)
    writer.join()
    assert BYTES.decode(whole(data)) == text.rstrip()
    read = "from anefast.data import open_data; print(len(open_data('-').train))"
    run = subprocess.run(
        [sys.executable, "-c", read], input=text.encode(), capture_output=True, check=True
    )
    assert int(run.stdout) == len(data.train)


def test_pipes_and_others_that_give_no_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "FIRST_WRITER_SECONDS", 0.1)
    pipe = tmp_path / "pipe.bin"
    os.mkfifo(pipe)
    with pytest.raises(DataError, match=r"pipe\.bin is a pipe of token ids"):
        open_data(pipe)
    os.rename(pipe, tmp_path / "pipe")
    with pytest.raises(DataError, match="pipe is empty"):
        open_data(tmp_path / "pipe")
    with pytest.raises(DataError, match="/dev/zero is a device"):
        open_data("/dev/zero")
    with pytest.raises(DataError, match="/dev/null is a device"):
        open_data("/dev/null")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "s"))
        with pytest.raises(DataError, match="is a socket"):
            open_data(tmp_path / "s")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(bytes(4)))
    writer.start()
    with pytest.raises(files.FileError, match="gave more than 3 bytes"):
        files.spool_pipe(tmp_path / "pipe", 3)
    writer.join()


STORY = [int(i) for i in np.random.default_rng(0).integers(3, 259, 4000)]


def header(magic: int, version: int, count: int) -> bytes:
    return struct.pack("<3i", magic, version, count).ljust(1024, b"\0")


def as_ids(dtype: str, ids: Sequence[int] = STORY) -> bytes:
    return np.array(ids, dtype).tobytes()


def as_npy(folder: Path, dtype: str) -> bytes:
    np.save(folder / "made.npy", np.array(STORY, dtype))
    return (folder / "made.npy").read_bytes()


@pytest.mark.parametrize("limit", [259, 50_257, 128_256])
def test_ids_are_read_as_they_lie(limit: int, tmp_path: Path) -> None:
    path = tmp_path / "s.bin"

    class Large(ByteTokenizer):
        vocab_size = limit

    for content in (
        *(as_ids(dtype) for dtype in ("<u2", "<i2", "<u4", "<i4", "<i8", "<u8")),
        header(20240520, 1, 4000) + as_ids("<u2"),
        header(20240801, 7, 4000) + as_ids("<u4"),
        *(as_npy(tmp_path, dtype) for dtype in ("<u2", ">u2", "<u4", "<i8")),
    ):
        path.write_bytes(content)
        data = open_data(path, Large())
        assert whole(data) == STORY
    assert len({open_data(path, Large()).fingerprint for _ in range(2)}) == 1


def test_ids_that_a_file_says_are_of_another_tokenizer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class GPT2(ByteTokenizer):
        vocab_size = 50_257

    (tmp_path / "s.bin").write_bytes(header(20240520, 1, 4000) + as_ids("<u2"))
    open_data(tmp_path / "s.bin", GPT2(), vocab_size=50_304)
    assert not caplog.text
    open_data(tmp_path / "s.bin")
    assert "header for GPT-2, which has 50257 ids, but ids here go below 259" in caplog.text
    open_data(made(tmp_path / "char", "train.bin", "val.bin", "meta.pkl"))
    assert "meta.pkl defines the ids of" in caplog.text


@pytest.mark.parametrize(
    "content,said",
    [
        (as_ids(">u2"), "big-endian uint16"),
        (as_ids(">u4"), "big-endian uint32"),
        (as_ids(">i8"), "big-endian int64"),
        (as_ids("<i4", [*STORY[:99], -100, *STORY]), r"-100 at token 99 \(int32 ids\).*negative"),
        (as_ids("<u4", [*STORY, 259]), r"259 at token 4000 \(uint32 ids\)"),
        (header(20240520, 1, 4000) + as_ids("<u2")[:-2], "9,024 bytes for the 4,000 tokens"),
        (header(20240520, 2, 4000) + as_ids("<u2"), "version 1 in llm.c's header"),
        (header(20240520, 1, 4000) + as_ids("<u4"), "for the 4,000 tokens in llm.c's header"),
        (header(20240522, 1, 4000) + as_ids("<u2"), "evaluation set of llm.c"),
        (b"once upon a time " * 64, "is text.*call it .txt"),
    ],
)
def test_ids_that_lie_in_no_way_we_read(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "s.bin").write_bytes(content)
    with pytest.raises(DataError, match=said):
        open_data(tmp_path / "s.bin")


def test_ids_the_wrong_way_round_in_a_vocabulary_that_takes_both(tmp_path: Path) -> None:
    class Large(ByteTokenizer):
        vocab_size = 1 << 16

    ids = np.minimum(np.random.default_rng(1).zipf(1.3, 20_000), 50_000)
    ids.astype(">u2").tofile(tmp_path / "s.bin")
    with pytest.raises(DataError, match="big-endian uint16"):
        open_data(tmp_path / "s.bin", Large())
    ids.astype("<u2").tofile(tmp_path / "s.bin")
    assert whole(open_data(tmp_path / "s.bin", Large())) == ids.tolist()


def test_arrays_that_are_no_row_of_ids(tmp_path: Path) -> None:
    for array, said in (
        (np.ones(9, np.float32), "float32"),
        (np.ones((3, 3), np.uint16), r"shape \(3, 3\)"),
        (np.ones(0, np.uint16), r"shape \(0,\)"),
    ):
        np.save(tmp_path / "s.npy", array)
        with pytest.raises(DataError, match=f"one row of integers.*{said}"):
            open_data(tmp_path / "s.npy")
    np.save(tmp_path / "s.npy", np.ones(99, np.uint16))
    content = (tmp_path / "s.npy").read_bytes()
    (tmp_path / "s.npy").write_bytes(content[:-20])
    with pytest.raises(DataError, match=r"99 ids, as its header says.*has 89"):
        open_data(tmp_path / "s.npy")
    np.save(tmp_path / "s.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(DataError, match=r"one row of integers, .*object"):
        open_data(tmp_path / "s.npy")


def test_a_change_of_any_id_is_noticed(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(3, 259, 3_000_000).astype("<u2")
    path = tmp_path / "s.bin"

    def told() -> TokenData:
        ids.tofile(path)
        return open_data(path)

    before = told()
    seen = {before.fingerprint}
    for at in (0, 17, 1_234_567, 2_999_999):
        ids[at] ^= 1
        seen.add(told().fingerprint)
    assert len(seen) == 5
    ids.astype("<u4").tofile(path)  # the same ids, wider
    assert open_data(path).fingerprint in seen
    ids.tofile(path)
    assert open_data(path, val_fraction=0.2).fingerprint not in seen


def test_runs_that_recorded_a_sample_still_resume(tmp_path: Path) -> None:
    data = open_data("stories:20")
    recorded = sampled_fingerprint(data.train, data.validation)
    assert recorded != data.fingerprint
    assert data.matches(recorded) and data.matches(data.fingerprint)
    assert not open_data("stories:20", seed=1).matches(recorded)
