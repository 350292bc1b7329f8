"""A terminal that is slow, stuck or gone neither slows nor stops the training."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pty
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from anefast import generate as generate_module
from anefast.decode import Made
from anefast.telemetry import screen as screen_module
from anefast.telemetry.screen import Bar, Direct, Screen
from anefast.tokenizer import ByteTokenizer

ROOT = Path(__file__).resolve().parent.parent


class Sink:
    """A text stream that keeps what was written, when, and by which thread."""

    encoding = "utf-8"

    def __init__(self, error: type[Exception] | None = None) -> None:
        self.writes: list[tuple[float, int, str]] = []
        self.error = error

    def write(self, text: str) -> int:
        self.writes.append((time.monotonic(), threading.get_ident(), text))
        if self.error is not None:
            raise self.error
        return len(text)

    def flush(self) -> None:
        pass

    @property
    def text(self) -> str:
        return "".join(text for _, _, text in self.writes)


def stuck_pty():
    """(master, slave) of a terminal whose reader reads nothing and whose buffer is full."""
    master, slave = pty.openpty()
    os.set_blocking(slave, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(slave, b"x" * 64)
    os.set_blocking(slave, True)
    return master, slave


def test_lines_come_out_whole_and_in_order_from_another_thread():
    out = Sink()
    screen = Screen(out=out)
    for i in range(200):
        screen.say(f"line {i}")
    screen.close()
    assert out.text.split("\n") == [f"line {i}" for i in range(200)] + [""]
    assert threading.get_ident() not in {thread for _, thread, _ in out.writes}


HOSTILE = "a\tb\nc é\u200d \x1b[2J\x07\r\x7f\x9b1m\u202e"
HARMLESS = "a\tb\nc é\u200d \\x1b[2J\\x07\\r\\x7f\\x9b1m\\u202e"


def test_a_terminal_is_shown_what_it_would_obey():
    """Escapes in a sample of a model of bytes; a file or a pipe gets them as they are."""
    master, slave = pty.openpty()
    with open(slave, "w", closefd=False) as file:
        for terminal in (Direct(slave), file):
            screen = Screen(out=terminal)
            screen.say(HOSTILE)
            screen.close()
            assert os.read(master, 4096).decode() == HARMLESS.replace("\n", "\r\n") + "\r\n"
    os.close(slave)
    os.close(master)
    out = Sink()
    screen = Screen(out=out)
    screen.say(HOSTILE)
    screen.close()
    assert out.text == HOSTILE + "\n"


def test_generated_text_is_escaped_on_a_terminal_only(monkeypatch, capsys):
    class Model:
        tokenizer = ByteTokenizer()

        def prompt_ids(self, prompt):
            return self.tokenizer.encode(prompt)

        def text(self, *_):
            return SimpleNamespace(done=False, made=Made())

        def kept(self, _):
            return None

        cache_bytes = 0

    def side_by_side(_, texts):
        return ((0, token) for token in Model.tokenizer.encode("\x1b[2J", bos=False))

    monkeypatch.setattr(generate_module.Model, "load", lambda *_: Model())
    monkeypatch.setattr(generate_module, "side_by_side", side_by_side)
    for terminal, want in ((True, "hi\\x1b[2J\n"), (False, "hi\x1b[2J\n")):
        monkeypatch.setattr(sys.stdout, "isatty", lambda t=terminal: t)
        generate_module.generate(
            generate_module.GenerateConfig("a model", prompt="hi", device="host")
        )
        assert capsys.readouterr().out == want


def test_the_bar_is_drawn_ten_times_a_second_at_most_and_never_by_the_caller():
    out, err = Sink(), Sink()
    screen = Screen(True, out, err)
    began, shown = time.monotonic(), 0
    while time.monotonic() - began < 0.75:
        screen.show(shown := shown + 1, 10**9, f"loss {shown}")
        if shown % 20000 == 0:
            screen.say("a line")
    screen.close()
    drawn = [(at, text) for at, _, text in err.writes if "batch" in text]
    assert 2 <= len(drawn) <= 0.75 / 0.1 + 3 + 2 * out.text.count("a line")
    assert f"{shown}/{10**9}" in drawn[-1][1] and f"loss {shown}" in drawn[-1][1]
    assert threading.get_ident() not in {thread for _, thread, _ in (*err.writes, *out.writes)}


def test_between_two_lines_the_bar_is_drawn_at_its_own_pace():
    err = Sink()
    screen = Screen(True, Sink(), err)
    began = time.monotonic()
    shown = 0
    while time.monotonic() - began < 0.75:
        screen.show(shown := shown + 1, 10**6)
    screen.close()
    at = [when for when, _, text in err.writes if "batch" in text]
    assert len(at) > 3
    assert all(b - a > 0.08 for a, b in itertools.pairwise(at[:-2]))  # the last are at the close


@pytest.mark.parametrize("error", [BrokenPipeError, OSError, ValueError])
def test_a_reader_that_left_costs_the_output_only(error):
    out, err = Sink(error), Sink(error)
    screen = Screen(True, out, err)
    for i in range(3):
        screen.say("a line")
        screen.show(i, 3)
        time.sleep(0.02)
    until = time.monotonic() + 10  # its thread may have to wait for a processor
    while screen.has_bar and time.monotonic() < until:
        time.sleep(0.02)
    screen.close()
    assert len(out.writes) == 1 and len(err.writes) <= 2
    assert not screen.has_bar and not screen._thread.is_alive()


def test_a_bar_that_broke_off_leaves_no_lock():
    """tqdm takes a lock of the whole process to draw, and would keep it where that fails."""
    err = Sink()
    screen = Screen(True, Sink(), err)
    screen.show(1, 10)
    while not err.writes:
        time.sleep(0.01)
    err.error = OSError("gone")
    screen.show(2, 10)
    screen.close()
    for lock in Bar.get_lock().locks:
        assert lock.acquire(False)
        lock.release()


def test_a_closed_pipe_costs_the_output_only():
    reader, writer = os.pipe()
    os.close(reader)
    screen = Screen(True, Direct(writer), Direct(writer))
    screen.say("a line")
    screen.show(1, 2)
    screen.close()
    assert not screen._thread.is_alive()
    os.close(writer)


def test_saying_never_waits_for_a_stuck_terminal_and_closing_not_forever(monkeypatch):
    monkeypatch.setattr(screen_module, "PATIENCE_SECONDS", 0.3)
    master, slave = stuck_pty()
    screen = Screen(True, Direct(slave), Direct(slave))
    began = time.monotonic()
    for i in range(1000):
        screen.say("a line that does not fit")
        screen.show(i, 1000)
    assert time.monotonic() - began < 0.2
    screen.close()
    assert 0.2 < time.monotonic() - began < 3
    assert screen._thread.is_alive()  # stuck in its write, holding nothing
    os.close(master)  # which ends it
    screen._thread.join(10)
    assert not screen._thread.is_alive()
    os.close(slave)


def test_closing_waits_for_a_slow_terminal_that_moves():
    master, slave = pty.openpty()
    taken: list[bytes] = []

    def read():
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.read(master, 256))
                time.sleep(0.002)

    threading.Thread(target=read, daemon=True).start()
    screen = Screen(False, Direct(slave))
    for i in range(1500):
        screen.say(f"this is line {i:06d}")
    screen.close()
    deadline = time.monotonic() + 20
    while b"line 001499" not in b"".join(taken[-2:]) and time.monotonic() < deadline:
        time.sleep(0.01)  # the rest is in the kernel's buffer
    os.close(slave)
    lines = b"".join(taken).split(b"\r\n")
    assert lines[:1500] == [f"this is line {i:06d}".encode() for i in range(1500)]
    os.close(master)


CHILD = """
import sys
from anefast.telemetry import screen
screen.PATIENCE_SECONDS = 0.3
from functools import partial
import anefast.train
from tests.bigram import DEVICE, BigramModel
fit = partial(anefast.train.fit, model=BigramModel(), device=DEVICE)
anefast.train.main(sys.argv[1:], fit=fit)
"""


def test_a_run_on_a_stuck_terminal_ends_and_is_whole(tmp_path):
    """The whole command, both streams on a terminal that takes nothing, to the exit."""
    master, slave = stuck_pty()
    with open(tmp_path / "log", "wb") as log:
        arguments = ["--preset", "bytes", "--plan", "unfused", "--data", "stories:30",
                     "--data.seq-len", "32", "--steps", "40", "--eval-every", "10",
                     "--eval-batches", "1"]  # fmt: skip
        for out, streams in (("a", (slave, slave)), ("b", (log, log))):
            done = subprocess.run(
                [sys.executable, "-c", CHILD, *arguments, "--out", str(tmp_path / out)],
                cwd=ROOT, stdout=streams[0], stderr=streams[1], timeout=60,
            )  # fmt: skip
            assert done.returncode == 0
    os.close(master)
    os.close(slave)
    rows = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in "ab"]
    assert rows[0] == rows[1] and rows[0].count(b"\n") == 41
    assert b"batch/s" not in (tmp_path / "log").read_bytes()  # no bar where there is no terminal


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-"])
def test_a_run_without_standard_streams_is_whole(tmp_path, closed):
    """As a daemon starts it. No file of the run may get the number of a stream, and its output."""
    arguments = ["--preset", "bytes", "--plan", "unfused", "--data", "stories:30",
                 "--data.seq-len", "32", "--steps", "4", "--eval-every", "2",
                 "--eval-batches", "1"]  # fmt: skip
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", CHILD, *arguments,
         "--out", str(tmp_path / "run")],
        cwd=ROOT, capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0 and not done.stderr
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1, 2, 3, 4]
