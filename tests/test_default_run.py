"""What a newcomer's first run rests on: words as tokens, whole stories, and what it prints."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import anefast
from anefast.cli import train_config
from anefast.config import TrainConfig
from anefast.data import DataError, open_data
from anefast.data.batches import ExampleData
from anefast.presets import default_preset
from anefast.sampling import whole_sentences
from anefast.stories import VOCABULARY, floor, grammar, stories
from anefast.stories.pieces import WORD, vocabulary
from anefast.stories.words import WORDS as LISTS
from anefast.telemetry import METRICS, read_rows
from anefast.tokenizer import WORDS, open_tokenizer
from anefast.tokenizer.base import Lengths, Tokenizer

TINY = TrainConfig.from_preset("tiny")
NAMES = {name.partition("|")[0] for name in LISTS["name"]}


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return open_tokenizer(WORDS)


def test_the_vocabulary_is_what_its_script_makes() -> None:
    assert VOCABULARY.read_bytes() == vocabulary().to_bytes()


def test_every_word_of_the_stories_is_one_token(words: Tokenizer) -> None:
    """In stories that the script has not counted, and in every text of the grammar's rules."""
    for story in stories(11, 2000, "validation"):
        ids = words.encode(story.text)
        assert len(ids) == 1 + len(WORD.findall(" " + story.text))
        assert words.decode(ids) == story.text
    plain = {a.text for rule in grammar().rules.values() for a in rule if a.text is not None}
    assert len(plain) > 500
    for text in plain:  # they follow a word, or begin what is said
        spelt = [words.encode(before + text, bos=False)[1:] for before in ("a ", '"')]
        assert min(map(len, spelt)) == len(WORD.findall(" " + text)), text


def test_whole_stories_fit_the_trained_length(words: Tokenizer) -> None:
    lengths = [len(words.encode(s.text, eos=True)) for s in stories(0, 8000)]
    assert max(lengths) <= TINY.data.seq_len + 1


@pytest.mark.parametrize("tokenizer", ["bytes", WORDS])
def test_bytes_of_tokens_are_those_of_the_text(tokenizer: str) -> None:
    told = list(stories(3, 20, "validation"))
    data = open_data("stories:200", tokenizer, seed=3, packing=False)
    lengths, total, tokens = Lengths(data.tokenizer), 0, 0
    for x, y in data.validation_batches(4, 1024):
        total, tokens = total + lengths.of(x, y), tokens + int((y >= 0).sum())
    assert total == sum(len(s.text.encode()) for s in told)
    assert data.floor == pytest.approx(floor(told, tokens))


def test_sequences_without_packing_are_documents(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("<|endoftext|>".join(f"document {i} " * i for i in range(1, 9)))
    data = open_data(tmp_path / "a.txt", packing=False, val_fraction=0.25)
    assert isinstance(data, ExampleData) and (data.train.count, data.validation.count) == (6, 2)
    x, y = data.batches(6, 32, order="sequential").batch(0)
    decode = data.tokenizer.decode
    assert [decode(row[row >= 0]) for row in y[:2]] == ["document 1", "document 2 document 2"]
    assert (x[:, 0] == data.tokenizer.bos_id).all() and y[0, 10] == data.tokenizer.eos_id
    assert (y[0, 11:] < 0).all()  # padding is not learnt
    (tmp_path / "a.bin").write_bytes(np.arange(3, 99, dtype=np.uint16).tobytes())
    with pytest.raises(DataError, match=r"leave out data\.packing"):
        open_data(tmp_path / "a.bin", packing=False)


def test_the_default_preset_goes_by_the_data(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert train_config([])[0] == TINY
    assert train_config(["--data", "stories:9"])[0].data.tokenizer == WORDS
    assert train_config(["--data", "my.txt"])[0].preset == "bytes"
    Path("run.toml").write_text('[data]\nsource = "my.txt"\n')
    assert train_config(["run.toml"])[0].preset == "bytes"
    assert train_config(["run.toml", "--preset", "stories260k"])[0].preset == "stories260k"
    assert default_preset("storiesque.txt") == "bytes"
    Path("my.txt").write_text("Some words. " * 400)
    with pytest.raises(DataError, match="--preset bytes reads any text"):
        anefast.fit("tiny", data="my.txt")


@pytest.mark.parametrize("text,kept", [
    ('He sat. "Oh no!" she said', 'He sat. "Oh no!"'),
    ("He had 3.5 of them. The", "He had 3.5 of them."),
    ("no end at all", "no end at all"),
    ("", ""),
    ("All of it.", "All of it."),
])  # fmt: skip
def test_whole_sentences(text: str, kept: str) -> None:
    assert whole_sentences(text) == kept


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_the_default_run_tells_stories(seed: int, tmp_path: Path) -> None:
    """Close to the floor, without an overflow, in words of the stories, with names kept."""
    config = TINY.replace(seed=seed, data=TINY.data.replace(seed=seed), out=str(tmp_path / "run"))
    result = anefast.fit(config)
    rows = read_rows(result.run_dir / METRICS)
    assert not any(row.get("overflow") for row in rows)
    per_token = rows[-1]["val/loss"] / rows[-1]["val/bits_per_byte"] / np.log(2)  # bytes
    assert (rows[-1]["val/loss"] - result.floor) / per_token < 0.05
    assert result.sample.startswith("Once") and result.sample[-1] in '.!?"'
    known = {w for s in stories(seed, 2000) for w in re.findall(r"\w+", s.text)}
    kept = 0
    for i in range(8):
        text = result.model.generate("Once", 220, 0.4, seed=i)
        assert set(re.findall(r"\w+", text)) <= known
        kept += len(NAMES & set(re.findall(r"\w+", text))) <= 2
    assert kept >= 4
