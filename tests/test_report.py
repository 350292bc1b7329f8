"""The report of a run: complete, self-contained, and shown by a browser without a complaint."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest

from anefast import _C
from anefast.report import main
from anefast.telemetry import compare
from anefast.telemetry.history import read_history
from anefast.telemetry.page import page
from anefast.train import fit

from .bigram import DEVICE, BigramModel, settings

pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra: plot)")

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
PANELS = ["loss", "loss-tokens", "loss-time", "lr", "norm", "speed", "time", "parts"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run with an overflow, and one that was stopped; the second has a bad name."""
    folder = tmp_path_factory.mktemp("report")

    def stop(row):
        if row["step"] == 7:
            os.kill(os.getpid(), signal.SIGINT)

    fit(settings(folder / "whole"), model=BigramModel(poison=[13]), device=DEVICE)
    config = settings(folder / "<b>cut & run", optim={"lr": 0.2})
    fit(config, model=BigramModel(), device=DEVICE, on_step=stop)
    return folder / "whole", folder / "<b>cut & run"


def report(*arguments):
    with pytest.raises(SystemExit) as left:
        main([str(a) for a in arguments])
    return left.value.code


class Reader(HTMLParser):
    """Tags with their attributes, and text; a tag that is never closed is an error."""

    VOID = ("meta", "link", "img", "br", "input")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text, self._open = "", []
        self.feed(page)
        assert not self._open, self._open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if not self._open or self._open[-1] != "style":
            self.text += data


def test_a_page_holds_everything_and_asks_for_nothing(runs, capfd):
    assert report(runs[0]) == 0
    out, err = capfd.readouterr()
    assert out == f"{runs[0]}/report.html and {runs[0]}/report.png\n" and err == ""
    told = Reader((runs[0] / "report.html").read_text())
    images = [a for tag, a in told.tags if tag == "img"]
    assert [a["class"] for a in images] == PANELS and all(a["alt"] for a in images)
    for image in images:
        kind, data = image["src"].split(",")
        assert kind == "data:image/svg+xml;base64"
        drawn = base64.b64decode(data).decode()
        assert "<path" in drawn
        assert not re.search(r'(href|src)="(?!#)', drawn)  # nothing from elsewhere
    assert not {"script", "iframe", "object"} & {tag for tag, _ in told.tags}
    links = [a.get("href") or a.get("src", "") for _, a in told.tags]
    assert all(link.startswith("data:") or not link for link in links)
    words = [
        "finished",
        "20 of 20",
        "table in NumPy",
        "emulated",
        "in all",
        "a sample",
        "." * 31,
        "floor",
    ]
    words += ["means of 60 micro-steps, emulated", *(str(c.__doc__) for c in _C.Component)]
    for word in words:
        assert word in told.text, word
    png = (runs[0] / "report.png").read_bytes()
    assert png.startswith(b"\x89PNG") and len(png) > 50_000


@pytest.fixture(scope="module")
def both(runs, tmp_path_factory):
    """The report that compares them."""
    folder = tmp_path_factory.mktemp("both")
    assert report(*runs, "--out", folder) == 0
    return folder


def test_runs_are_compared(both):
    text = (both / "report.html").read_text()
    told = Reader(text)
    assert "cut &amp; run" in text and "<b>cut" not in text
    assert "2 runs compared" in told.text and "Settings that differ" in told.text
    assert "optim.lr0.10.2" in told.text.replace("\n", "")
    assert "finished" in told.text and "interrupted" in told.text
    assert (both / "report.png").stat().st_size > 50_000


def test_a_run_still_going_is_told(tmp_path):
    """Asked from inside: half a row is on disk, nothing is summed up yet."""
    seen = []

    def on_step(row):
        if row["step"] == 3:
            with open(tmp_path / "run" / "metrics.jsonl", "ab") as file:
                file.write(b'{"step": 4, "tr')
            history = read_history(tmp_path / "run")
            assert history.state == "running" and history.step <= 3
            seen.append(Reader(page([history])).text)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(settings(tmp_path / "run"), model=BigramModel(), device=DEVICE, on_step=on_step)
    assert "running" in seen[0]
    assert read_history(tmp_path / "run").state == "interrupted"


def test_a_run_that_has_not_begun_and_one_without_times(tmp_path):
    fit(settings(tmp_path / "run", timeline=False, steps=2), model=BigramModel(), device=DEVICE)
    assert "2 of 2" in Reader(page([read_history(tmp_path / "run")])).text
    for name in ("metrics.jsonl", "timings.jsonl", "sample.txt", "env.json"):
        (tmp_path / "run" / name).unlink()
    assert "0 of 2" in Reader(page([read_history(tmp_path / "run")])).text


def test_the_text_alone(runs, capfd):
    assert report(runs[0], "--text") == 0
    out, _ = capfd.readouterr()
    assert out.startswith("whole\nmeans of 60 micro-steps, emulated\n") and "optimizer" in out


def test_what_is_no_run_is_one_line(tmp_path, capfd, monkeypatch):
    for arguments, message in (
        ([tmp_path], "is not a run: it has no readable config.toml"),
        ([], "expected a run folder, got none"),
    ):
        assert report(*arguments) == 2
        assert message in (err := capfd.readouterr().err) and err.count("\n") == 1
    fit(settings(tmp_path / "run", steps=1), model=BigramModel(), device=DEVICE)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert report(tmp_path / "run") == 2
    assert "pip install 'anefast[plot]'" in capfd.readouterr().err


def test_a_report_follows_the_numbers(runs):
    history = read_history(runs[0])
    metrics = [json.loads(line) for line in (runs[0] / "metrics.jsonl").read_text().splitlines()]
    losses = history.series("train/loss")
    assert losses.steps == list(range(1, 21))
    assert losses.values == [row["train/loss"] for row in metrics[1:]]
    assert len(history.series("grad_norm").steps) == 19  # one overflowed
    assert history.series("val/loss").steps == [0, 5, 10, 15, 20]
    times = [json.loads(line) for line in (runs[0] / "timings.jsonl").read_text().splitlines()][1:]
    mean = sum(row["spans_ms"]["forward/data"] for row in times) / 60
    assert history.spent()["forward/data"] == pytest.approx(mean)
    assert history.phases()["forward"].steps == losses.steps


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """A bad run, and three of a better learning rate with a seed each."""
    folder = tmp_path_factory.mktemp("seeds")
    for name, seed, lr in (("a", 0, 0.2), ("b", 1, 0.2), ("c", 2, 0.2), ("slow", 0, 0.01)):
        config = settings(folder / name, data={"seed": seed}, optim={"lr": lr})
        fit(config, model=BigramModel(), device=DEVICE)
    return [read_history(folder / name) for name in ("slow", "a", "b", "c")]


def test_runs_are_ranked_and_seeds_are_one_group(seeds):
    order = compare.ranked(seeds)
    best = [min(run.series("val/loss").values) for run in order]
    assert best == sorted(best) and order[-1].name == "slow"
    together = compare.groups(order)
    assert [len(group) for group in together] == [3, 1]
    assert compare.named(together[0]) == f"{order[0].name} (3 seeds)"
    told = Reader(page(order)).text
    assert "best first" in told and "mean of 3 seeds" in told
    unit = compare.unit_of(order)
    mean = sum(map(unit.best, together[0])) / 3
    assert f"{mean:.4f}" in told


def test_a_band_is_the_mean_and_the_bounds():
    one, two = compare.Series([0, 2, 4], [1.0, 3.0, 5.0]), compare.Series([2, 4, 6], [5.0, 7, 9])
    assert compare.band([one, two]) == ([2, 4], [4.0, 6.0], [3.0, 5.0], [5.0, 7.0])


def test_losses_are_drawn_by_tokens_and_by_time(seeds):
    run = seeds[0]
    val, tokens = run.series("val/loss"), run.series("tokens")
    assert val.steps == [0, 5, 10, 15, 20]
    at = dict(zip(tokens.steps, tokens.values, strict=True))
    assert compare.along(run, val, "tokens").steps == [at[step] for step in val.steps]
    minutes = compare.along(run, val, "time")
    assert minutes.values == val.values and minutes.steps[0] == 0
    assert minutes.steps[-1] == pytest.approx(sum(run.series("ms").values) / 60e3)


def test_the_first_validation_does_not_set_the_scale():
    series = {
        "val/loss": compare.Series([0, 50, 100], [9.0, 2.0, 1.0]),
        "train/loss": compare.Series([1, 4, 5, 100], [8.0, 6.0, 3.0, 1.5]),
    }
    run = SimpleNamespace(step=100, series=series.get)
    assert compare.ceiling([run], compare.PER_TOKEN) == 3.0


def test_the_floor_is_kept_and_shown_in_the_unit_of_the_losses(runs):
    history = read_history(runs[0])
    assert history.floor is not None and 0.1 < history.floor < 0.3
    assert compare.PER_TOKEN.floor(history) == history.floor
    unit = compare.unit_of([history])
    told = Reader(page([history])).text
    assert f"{unit.floor(history):.4f}floor of the data" in told


@pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")
def test_a_browser_shows_it_without_a_complaint(both, tmp_path):
    """Loaded twice: for a picture with the console watched, and for the document it made of it."""
    address = (both / "report.html").as_uri()
    shot = tmp_path / "shot.png"
    done = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--v=0",
         "--hide-scrollbars", "--window-size=1120,1600", f"--screenshot={shot}", address],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert console == []
    assert shot.stat().st_size > 30_000  # an empty page is a tenth of that
    dump = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         f"--user-data-dir={tmp_path / 'profile2'}", "--dump-dom", address],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert dump.returncode == 0 and dump.stdout.count("<img") == len(PANELS)
    assert "2 runs compared" in dump.stdout
