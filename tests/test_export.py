"""export and inspect: files that other programs read; what is refused, before anything is lost."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import anefast
from anefast.export import ExportConfig, export
from anefast.formats import save_folder, save_peft
from anefast.inspect import InspectConfig, inspect
from anefast.models.adapter import Base, adaptable
from anefast.models.lora import draw
from anefast.tokenizer import ByteTokenizer

from .conftest import ROOT
from .test_families import SMALL, awake


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Qwen of bytes as a Hugging Face folder."""
    config = SMALL["qwen3"].replace(vocab_size=259)
    save_folder(tmp_path / "hf", config, awake(config), tokenizer=ByteTokenizer())
    return tmp_path / "hf"


def test_every_format_gives_the_same_text(folder: Path, tmp_path: Path) -> None:
    export(ExportConfig(str(folder), str(tmp_path / "again")))
    export(ExportConfig(str(folder), str(tmp_path / "m.gguf"), dtype="F32"))
    said = {"tokens": 20, "temperature": 0.0, "device": anefast.Device("host")}
    first, *others = (
        anefast.Model.load(path).generate("Once", **said)
        for path in (folder, tmp_path / "again", tmp_path / "m.gguf")
    )
    assert others == [first, first]


def test_a_run_becomes_a_folder_and_is_trained_further(tmp_path: Path) -> None:
    config = anefast.TrainConfig.from_preset("bytes", steps=2, out=str(tmp_path / "run"))
    config = config.replace(
        model=config.model.replace(dim=32, n_layers=1), sample_tokens=0, eval_batches=1,
        data=config.data.replace(source="stories:20", batch=1, seq_len=32),
    )  # fmt: skip
    trained = anefast.fit(config).model
    export(ExportConfig(str(tmp_path / "run"), str(tmp_path / "hf"), dtype="bf16"))
    again = anefast.fit(config.replace(init=str(tmp_path / "hf"), out=str(tmp_path / "more")))
    assert np.isfinite(again.losses).all()
    opened = anefast.Model.load(tmp_path / "hf")
    for name, value in trained.params.items():
        assert np.abs(opened.params[name] - value).max() <= np.abs(value).max() / 128


@pytest.mark.parametrize(
    "change,said",
    [
        ({"to": "guff"}, "expected --to hf, gguf, .*, mlx, got guff.*did you mean gguf"),
        ({"dtype": "Q8_0"}, "expected --dtype F32, BF16, F16 for hf"),
        ({"out": "m.bin"}, "needs the llama family without biases, got qwen3"),
        ({"to": "hf", "out": "m.gguf"}, "--to hf makes no .gguf, as m.gguf ends"),
        ({"to": "gguf", "out": "m.bin"}, "--to gguf makes no .bin"),
        ({"to": "llama2c", "out": "m"}, "needs the llama family without biases, got qwen3"),
        ({"out": "."}, "is there already"),
    ],
)
def test_what_cannot_be_written_is_refused(
    folder: Path, tmp_path: Path, change: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(ValueError, match=said):
        export(ExportConfig(**{"model": str(folder), "out": "new", **change}))
    assert sorted(os.listdir(tmp_path)) == before


def test_inspect_says_what_is_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inspect(InspectConfig(str(folder)))
    said = capsys.readouterr().out
    for words in ("Hugging Face folder", "qwen3", "2 layers of 32, 4 heads of 16 on 2", "in F32"):
        assert words in said
    assert "259 ids; documents begin with 1, end with 2" in said
    (folder / "tokenizer.json").unlink()
    inspect(InspectConfig(str(folder)))
    assert "none that is read: [tokenizer] expected" in capsys.readouterr().out


def test_an_adapter_beside_weights_is_said(
    folder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    shape = anefast.Model.load(folder).config
    assert not caplog.messages
    adapter = draw(2, 4.0, False, adaptable(shape), Base("a/model", "ab" * 32), seed=0)
    save_peft(folder / "adapter", adapter, shape)
    for file in (folder / "adapter").iterdir():
        file.rename(folder / file.name)
    anefast.Model.load(folder)
    assert "counts only where --adapter names it" in caplog.text
    inspect(InspectConfig(str(folder)))
    said = capsys.readouterr().out
    assert "a LoRA adapter" in said and "family:     qwen3" in said


def test_transformers_reads_what_we_write(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers", reason="install anefast[judges]")
    torch = pytest.importorskip("torch", reason="install anefast[peers]")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    ours = anefast.Model.load(folder)
    ids = ours.prompt_ids("Once upon a time")
    assert transformers.AutoTokenizer.from_pretrained(folder)("Once upon a time").input_ids == ids
    with torch.no_grad():
        want = theirs(torch.tensor([ids])).logits[0, -1].numpy()
    inference = ours.inference(anefast.Device("host"))
    assert np.abs(inference.logits(ids) - want).max() < 0.05
    inference.close()


def test_a_model_in_the_cache_of_the_hub(folder: Path, tmp_path: Path) -> None:
    """The library itself, without a network: snapshots of a cache are links to its blobs."""
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    cache = tmp_path / "cache" / "models--somebody--model"
    snapshot = cache / "snapshots" / ("0" * 40)
    for made in (snapshot, cache / "blobs", cache / "refs"):
        made.mkdir(parents=True)
    (cache / "refs" / "main").write_text(snapshot.name)
    for number, path in enumerate(sorted(folder.iterdir())):
        (cache / "blobs" / str(number)).write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(Path("..", "..", "blobs", str(number)))
    env = os.environ | {"HF_HUB_CACHE": str(cache.parent), "HF_HUB_OFFLINE": "1"}
    env |= {"PYTHONPATH": str(ROOT)}

    def ran(name: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "anefast.generate", name, "--prompt", "Once", "--tokens=1"]
        return subprocess.run(words, env=env, capture_output=True, text=True)

    done = ran("hf:somebody/model")
    assert done.returncode == 0 and done.stdout.startswith("Once"), done.stderr
    gone = ran("hf:somebody/other")
    assert gone.returncode == 2 and gone.stderr.count("\n") == 1
    assert gone.stderr.startswith("[model] expected hf:somebody/other from the hub: ")


def test_names_of_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library's double brings the folder; without it, and without a network, one line says so."""
    asked = []

    def bring(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision))
        if name == "nobody/nothing":
            raise OSError("no\nnetwork")
        return str(folder)

    monkeypatch.setitem(
        sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=bring)
    )
    assert anefast.Model.load("hf:somebody/model@v2").config.family == "qwen3"
    assert asked == [("somebody/model", "v2")]
    with pytest.raises(ValueError, match=r"^\[model\] expected hf:nobody/nothing .*no network"):
        anefast.Model.load("hf:nobody/nothing")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match="pip install huggingface_hub"):
        anefast.Model.load("hf:somebody/model")
