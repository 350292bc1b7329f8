"""The border for files: what is read is bounded and regular, what is written follows no link."""

from __future__ import annotations

import errno
import io
import json
import os
import socket
import stat
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from anefast import files
from anefast.errors import AnefastError, BadInput, shown, visible
from anefast.files import FileError
from anefast.npz import read_npz
from anefast.parsing import parse_json, parse_toml
from anefast.schema import flag, line, maybe, number, record, several, table, text, whole


def test_what_is_well_formed_is_read():
    assert parse_json(b'{"a": [1, null]}') == {"a": [1, None]}
    assert parse_toml("a = [1, 2]\n[b]\nc = true") == {"a": [1, 2], "b": {"c": True}}


@pytest.mark.parametrize("read", [parse_json, parse_toml])
@pytest.mark.parametrize("text", ["[" * 99999, "a = " + "[" * 99999, "{", "a = {", "\0"])
def test_what_is_not_is_a_value_error(read, text):
    with pytest.raises(ValueError):
        read(text)


@pytest.mark.parametrize(
    "text",
    ['{"a": 1, "a": 2}', '{"b": {"a": 1, "a": 2}}', "[NaN]", "-Infinity", "9" * 5000, b"\xff"],
)
def test_json_is_taken_strictly(text):
    with pytest.raises(ValueError):
        parse_json(text)


def test_long_keys_take_no_time():
    began = time.monotonic()
    for size in (30_000, 500_000):
        with pytest.raises(ValueError):
            parse_toml("a." * size + "a = 1\n" + "b." * size)
    assert time.monotonic() - began < 5


# Reading.


def special(folder: Path) -> dict[str, Path]:
    """A path of every kind that is no regular file, by the words for it."""
    paths = {name: folder / name.replace(" ", "_") for name in ("a folder", "a pipe", "a socket")}
    paths["a folder"].mkdir()
    os.mkfifo(paths["a pipe"])
    with socket.socket(socket.AF_UNIX) as door:
        os.chdir(folder)  # a socket's path must be short
        door.bind("a_socket")
    return paths | {"a device": Path("/dev/zero"), "no such file": folder / "none"}


def test_only_regular_files_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for kind, path in special(tmp_path).items():
        for read in (files.read_bytes, files.read_text, files.read_json, files.read_toml):
            with pytest.raises(FileError) as told:
                read(path)
            assert str(path) in str(told.value) and "\n" not in str(told.value)
            if kind not in ("no such file", "a socket"):
                assert kind in str(told.value)
        with pytest.raises(FileError):
            list(files.read_lines(path))


def test_size_is_bounded_before_memory_is_taken(tmp_path):
    path = tmp_path / "huge"
    with open(path, "wb") as file:
        file.truncate(1 << 42)  # a hole of 4 TiB
    for read in (files.read_bytes, lambda path: list(files.read_lines(path))):
        with pytest.raises(FileError, match=r"4,398,046,511,104 bytes, of which 0 were ever"):
            read(path)
    with open(path, "wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(FileError, match=r"at most 1,048,576 bytes, it has 1,073,741,824"):
        files.read_json(path)
    with pytest.raises(FileError, match="lines of at most"):
        list(files.read_lines(path))
    path.write_bytes(b"a\nbb\n" + b"c" * 20)
    assert list(files.read_lines(path, 20)) == [b"a\n", b"bb\n", b"c" * 20]
    with pytest.raises(FileError, match="lines of at most 19 bytes"):
        list(files.read_lines(path, 19))


def test_links_are_followed_for_reading_only_where_that_is_meant(tmp_path):
    (tmp_path / "real").write_text("x")
    (tmp_path / "link").symlink_to("real")
    assert files.read_text(tmp_path / "link") == "x"
    with pytest.raises(FileError, match="is a link"):
        files.read_text(tmp_path / "link", follow=False)


def test_text_that_is_not_utf_8_is_said(tmp_path):
    (tmp_path / "t").write_bytes(b"ab\xe9")
    with pytest.raises(FileError, match="byte 2 is 0xe9"):
        files.read_text(tmp_path / "t")
    (tmp_path / "t").write_bytes(b"\xef\xbb\xbfa")
    assert files.read_text(tmp_path / "t") == "a"


# Writing.


@pytest.mark.parametrize("mask,mode", [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664)])
def test_new_files_are_as_the_umask_says(tmp_path, mask, mode):
    """Those of a checkpoint, too, which another library writes."""
    from anefast import checkpoint
    from anefast.config import ModelConfig
    from anefast.models import init_params
    from anefast.tokenizer import ByteTokenizer

    shape = ModelConfig(dim=32, n_layers=1, n_heads=2, hidden_dim=32, vocab_size=259)
    params = init_params(shape, 0)
    before = os.umask(mask)
    try:
        files.write_atomic(tmp_path / "f", b"one")
        folder = checkpoint.save(
            tmp_path, shape, params, params, {"step": 1, "micro": 0}, ByteTokenizer()
        )
    finally:
        os.umask(before)
    made = [tmp_path / "f", *(path for path in folder.iterdir() if path.is_file())]
    assert {stat.S_IMODE(path.stat().st_mode) for path in made} == {mode}, made


def test_a_file_is_replaced_at_once_and_keeps_its_permissions(tmp_path):
    path = tmp_path / "f"
    files.write_atomic(path, b"one")
    path.chmod(0o600)
    files.write_atomic(path, b"two")
    assert path.read_bytes() == b"two" and stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(ZeroDivisionError), files.replacing(path) as file:
        file.write(b"three")
        raise ZeroDivisionError
    assert path.read_bytes() == b"two" and os.listdir(tmp_path) == ["f"]


def test_no_link_is_followed_when_writing(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("mine")
    run = tmp_path / "run"
    run.mkdir()
    (run / "file").symlink_to(outside / "precious")
    (run / "folder").symlink_to(outside)
    with pytest.raises(FileError, match="is a link"):
        files.open_new(run / "file")
    with pytest.raises(FileError, match="is a link"):
        files.lock(run / "file")
    with pytest.raises(FileError, match="part of the path is a file"):
        files.make_folder(run / "folder" / "deep", inside=run)
    with pytest.raises(FileError), files.replacing(run / "folder" / "new", inside=run):
        pass
    files.write_atomic(run / "file", b"ours")  # takes the link's place
    assert not (run / "file").is_symlink()
    assert files.remove_tree(run / "folder") and not files.remove_tree(outside / "precious")
    assert os.listdir(outside) == ["precious"] and (outside / "precious").read_text() == "mine"


def test_a_hard_link_is_not_written_through(tmp_path):
    (tmp_path / "precious").write_text("mine")
    os.link(tmp_path / "precious", tmp_path / "rows")
    for open_one in (files.open_new, files.lock):
        with pytest.raises(FileError, match="hard link"):
            open_one(tmp_path / "rows")
    assert (tmp_path / "precious").read_text() == "mine"


def test_what_is_no_file_is_not_written_to(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in special(tmp_path).values():
        if path.exists():
            with pytest.raises(FileError):
                files.open_new(path)
    files.open_new("/dev/null", devices=True).close()


def test_a_lock_names_who_has_it(tmp_path):
    handle = files.lock(tmp_path / "l")
    os.write(handle, b"123\n")
    with pytest.raises(files.Locked, match="123"):
        files.lock(tmp_path / "l")
    os.close(handle)
    os.close(files.lock(tmp_path / "l"))


ERRORS = (errno.ENOSPC, errno.EACCES, errno.EIO, errno.EROFS, errno.EMFILE, errno.EDQUOT)
WRITES = {
    "open": lambda path: files.write_atomic(path, b"x"),
    "fsync": lambda path: files.write_atomic(path, b"x"),
    "replace": lambda path: files.write_atomic(path, b"x"),
    "ftruncate": lambda path: files.open_new(path),
    "makedirs": lambda path: files.make_folder(path),
    "unlink": lambda path: files.remove(path),
}


@pytest.mark.parametrize("number", ERRORS)
@pytest.mark.parametrize("call", WRITES)
def test_what_the_system_refuses_names_the_file_and_the_way_out(
    call, number, tmp_path, monkeypatch
):
    def refused(*_, **__):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch, pytest.raises(FileError) as told:
        patch.setattr(os, call, refused)
        WRITES[call](tmp_path / "the file")
    assert isinstance(told.value, AnefastError) and told.value.errno == number
    assert "the file" in str(told.value) and ". Hint: " in str(told.value)
    assert os.strerror(number) in str(told.value) and "Errno" not in str(told.value)
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_an_error_while_writing_names_the_file():
    file = files.open_new("/dev/full", "rows", devices=True)
    with pytest.raises(FileError, match=r"\[rows\] cannot write /dev/full: No space left"):
        file.write(b"x")
    file.close()


# Archives of arrays.


def npz(path: Path, packed: int = zipfile.ZIP_STORED, **arrays: np.ndarray) -> Path:
    with zipfile.ZipFile(path, "w", packed) as archive:
        for name, array in arrays.items():
            out = io.BytesIO()
            np.lib.format.write_array(out, array)
            archive.writestr(f"{name}.npy", out.getvalue())
    return path


def test_arrays_come_back_as_numpy_stored_them(tmp_path):
    a, b = np.arange(6, dtype=np.float16).reshape(2, 3), np.asfortranarray(np.eye(3, 4))
    np.savez(tmp_path / "x.npz", a=a, b=b, c=np.float32(3))
    expected = {"a": ((2, 3), "f2"), "b": ((3, 4), "f8"), "c": ((), "f4"), "d": ((1,), "f4")}
    found = read_npz(tmp_path / "x.npz", expected)
    assert set(found) == {"a", "b", "c"}
    assert (found["a"] == a).all() and (found["b"] == b).all() and found["c"] == 3


def test_an_archive_gives_no_more_than_was_expected(tmp_path):
    zeros = np.zeros(1 << 22, np.uint8)
    bomb = npz(tmp_path / "bomb.npz", zipfile.ZIP_DEFLATED, a=zeros)
    assert bomb.stat().st_size < 20_000
    with pytest.raises(FileError, match="is compressed"):
        read_npz(bomb, {"a": ((1 << 22,), "u1")})
    with pytest.raises(FileError, match=r"expected a.npy of uint8 \(4,\)"):
        read_npz(npz(tmp_path / "other.npz", a=zeros), {"a": ((4,), "u1")})
    with pytest.raises(FileError, match="is damaged"):
        read_npz(npz(tmp_path / "dtype.npz", a=np.array([{}], object)), {"a": ((1,), "u1")})
    many = tmp_path / "many.npz"
    with zipfile.ZipFile(many, "w") as archive:
        for i in range(25_000):
            archive.writestr(f"{i}.npy", b"")
    with pytest.raises(FileError, match="too many entries"):
        read_npz(many, {})
    (tmp_path / "no.npz").write_bytes(b"PK" * 40)
    with pytest.raises(FileError, match="does not end like"):
        read_npz(tmp_path / "no.npz", {})


# Forms.

GOOD_AND_BAD = [
    (number(0, 10), [0, 1.5, 10], ["1", None, True, -1, 11, float("nan"), float("inf"), 10**400]),
    (whole(0, 10), [0, 10], [1.0, "1", True, -1, 11, 10**4000, None]),
    (text(3), ["", "abc", "a\n"], ["abcd", 1, None, "\ud800", b"a"]),
    (line(3), ["", "abc"], ["a\n", "\x1b[2", "abcd", "\u202e", 1]),
    (flag, [True, False], [0, 1, "true", None]),
    (maybe(flag), [None, True], [0]),
    (several(flag, 2), [[], [True, False]], [[True] * 3, [1], {}, "ab", None]),
    (table(flag, 1), [{}, {"a": True}], [{"a": 1}, {"a": True, "b": True}, [], None]),
]


@pytest.mark.parametrize("check, good, bad", GOOD_AND_BAD, ids=range(len(GOOD_AND_BAD)))
def test_a_form_takes_what_it_says(check, good, bad):
    for value in good:
        assert check(value) == value
    for value in bad:
        with pytest.raises(ValueError, match="expected") as told:
            check(value)
        assert len(str(told.value)) < 300


def test_a_record_says_where_it_is_wrong():
    check = record({"a": several(record({"b": number(0)}))}, {"c": flag})
    assert check({"a": [{"b": 1, "new": "kept by nobody"}]}) == {"a": [{"b": 1.0}]}
    for value, said in (
        ({"a": [{"b": 1}, {"b": -1}]}, r"a\[1\]\.b expected a number of at least 0, got -1"),
        ({"a": [{}]}, r"a\[0\]\.b is missing"),
        ({"a": [], "c": 1}, "c expected true or false, got 1"),
        ([], "expected a table, got a list of 0"),
    ):
        with pytest.raises(ValueError, match=said):
            check(value)


def test_a_file_of_another_form_is_named(tmp_path):
    (tmp_path / "f.json").write_text(json.dumps({"a": "\x1b[31m" * 900}))
    with pytest.raises(BadInput) as told:
        files.read_json(tmp_path / "f.json", form=record({"a": number()}))
    said = str(told.value)
    assert "f.json is damaged: a expected a number" in said and "\x1b" not in said
    assert len(said) < 600


# Words of others.


def test_nothing_that_a_terminal_obeys_is_shown():
    obeyed = [chr(i) for i in (*range(32), *range(0x7F, 0xA0), 0x202E, 0x2066, 0x2028, 0xDC80)]
    for sign in obeyed:
        assert sign not in shown(f"a{sign}b")
        assert sign in "\n\t" or sign not in visible(f"a{sign}b")
        assert shown(f"a{sign}b").encode() and visible(f"a{sign}b").encode()
    assert shown("é \U0001f469‍\U0001f680 ok") == "é \U0001f469‍\U0001f680 ok"
    assert len(shown("x" * 10**6)) == 200
