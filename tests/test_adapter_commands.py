"""Adapters through the commands: generate, export and inspect."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

import anefast
from anefast.export import ExportConfig, export
from anefast.formats import open_adapter, open_folder, save_folder, save_mlx, save_peft
from anefast.generate import GenerateConfig, generate
from anefast.inspect import InspectConfig, inspect
from anefast.models.adapter import Adapter, Base, fingerprint
from anefast.tokenizer import ByteTokenizer

from .test_adapter import drawn
from .test_families import SMALL, awake

CONFIG = SMALL["llama"].replace(
    vocab_size=259, attention_bias=False, mlp_bias=False, sliding_window=0, rope_scaling=""
)


@pytest.fixture
def base(tmp_path: Path) -> str:
    """A Llama of bytes as a Hugging Face folder."""
    save_folder(tmp_path / "base", CONFIG, awake(CONFIG), tokenizer=ByteTokenizer())
    return str(tmp_path / "base")


@pytest.fixture
def adapter(base: str) -> Adapter:
    return drawn(CONFIG, base=Base(base, fingerprint(awake(CONFIG))))


@pytest.fixture
def named(adapter: Adapter, tmp_path: Path) -> str:
    save_peft(tmp_path / "adapter", adapter, CONFIG)
    return str(tmp_path / "adapter")


def text(capsys: pytest.CaptureFixture[str], model: str, **flags: str) -> str:
    generate(GenerateConfig(model, prompt="Once", tokens=12, temperature=0, device="host", **flags))
    return capsys.readouterr().out


def test_text_with_an_adapter_is_that_of_the_merged_model(
    base: str, named: str, adapter: Adapter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params = adapter.merged(awake(CONFIG))
    save_folder(tmp_path / "merged", CONFIG, params, tokenizer=ByteTokenizer())
    want = text(capsys, str(tmp_path / "merged"))
    assert want != text(capsys, base)
    save_mlx(tmp_path / "mlx", adapter, CONFIG)
    for path in (named, str(tmp_path / "mlx")):
        assert text(capsys, base, adapter=path) == want


@pytest.mark.parametrize("to,out", [("hf", "hf"), ("gguf", "m.gguf"), ("llama2c", "m.bin")])
def test_a_merged_model_is_written(
    base: str, named: str, adapter: Adapter, tmp_path: Path, to: str, out: str
) -> None:
    want = adapter.merged(awake(CONFIG))
    export(ExportConfig(base, str(tmp_path / out), to, "F32", adapter=named, merge=True))
    model = anefast.Model.load(tmp_path / out, "bytes" if to == "llama2c" else "")
    assert model.params.keys() == want.keys()
    assert all(np.array_equal(model.params[name], want[name]) for name in want)


def test_an_adapter_changes_its_form(
    base: str, named: str, adapter: Adapter, tmp_path: Path
) -> None:
    export(ExportConfig(base, str(tmp_path / "mlx"), "mlx", adapter=named))
    export(ExportConfig(base, str(tmp_path / "again"), "peft", adapter=str(tmp_path / "mlx")))
    source = open_adapter(tmp_path / "again")
    assert source is not None and source.base == adapter.base
    again = source.load(CONFIG)
    assert again.settings() == adapter.settings()
    for name, pair in adapter.pairs.items():
        assert all(np.array_equal(x, y) for x, y in zip(pair, again.pairs[name], strict=True))


def test_a_base_in_our_order_of_rows_takes_b_as_it_is(
    base: str, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """rope_interleaved: the folder's queries and keys are not half-split, and so its adapter's."""
    config = Path(base) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"rope_interleaved": True}))
    source, places = open_adapter(Path(named)), open_folder(Path(base)).places
    assert source is not None
    adapter = source.load(CONFIG, places)
    b = adapter.pairs["layers.0.attn.wq"].b
    assert np.array_equal(b, source.modules["model.layers.0.self_attn.q_proj"].b.read())
    export(ExportConfig(base, str(tmp_path / "out"), merge=True, adapter=plain(named)))
    merged = adapter.merged(anefast.Model.load(base).params)
    got = anefast.Model.load(tmp_path / "out").params
    assert all(np.array_equal(got[name], merged[name]) for name in merged)


def plain(folder: str) -> str:
    """The folder without the sha256 of its base."""
    path = Path(folder) / "adapter_model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"anefast.base_sha256", b"somebody_s.own_hash"))
    return folder


@pytest.mark.parametrize(
    "change,said",
    [
        ({"to": "gguf", "adapter": "ADAPTER"}, "--to gguf holds a model without its adapter"),
        ({"merge": True}, "--merge is about a LoRA adapter, and .* has none"),
        ({"to": "peft"}, "--to peft is about a LoRA adapter, and .* has none"),
        (
            {"to": "mlx", "adapter": "ADAPTER", "merge": True},
            "--merge makes a whole model, and mlx",
        ),
        ({"adapter": "BASE", "merge": True}, "expected an adapter's folder, or a run with"),
        ({"adapter": "nowhere", "merge": True}, "expected an adapter's folder, or a run with"),
        ({"to": "peft", "adapter": "ADAPTER", "dtype": "Q8_0"}, "--dtype F32, BF16, F16 for peft"),
    ],
)
def test_what_makes_no_sense_is_refused(
    base: str, named: str, tmp_path: Path, change: dict[str, str], said: str
) -> None:
    names = {"ADAPTER": named, "BASE": base}
    change = {key: names.get(value, value) for key, value in change.items()}
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(ValueError, match=said):
        export(ExportConfig(**{"model": base, "out": str(tmp_path / "new"), **change}))
    assert sorted(os.listdir(tmp_path)) == before


def test_another_base_is_refused_by_its_hash(base: str, named: str, tmp_path: Path) -> None:
    params = awake(CONFIG)
    params["norm"] = params["norm"] + 1
    save_folder(tmp_path / "other", CONFIG, params, tokenizer=ByteTokenizer())
    with pytest.raises(ValueError, match=r"expected the model .*base that it was trained on"):
        generate(GenerateConfig(str(tmp_path / "other"), adapter=named, device="host"))


@pytest.fixture
def run(base: str, tmp_path: Path) -> str:
    """A LoRA run of two updates."""
    config = anefast.TrainConfig.from_preset("bytes", steps=2, out=str(tmp_path / "run"), init=base)
    anefast.fit(config.replace(
        model=anefast.Model.load(base).config, sample_tokens=0, eval_batches=1,
        lora=config.lora.replace(rank=4, alpha=8.0),
        optim=config.optim.replace(accumulation=1, lr=0.05, warmup_steps=0),
        data=config.data.replace(source="stories:20", tokenizer="bytes", batch=1, seq_len=32),
    ))  # fmt: skip
    return str(tmp_path / "run")


def test_a_run_is_exported_merged_and_alone(
    base: str, run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = anefast.Model.load(run).lora
    assert trained is not None
    adapter = trained.adapter()
    assert any(b.any() for _, b in adapter.pairs.values())
    want = adapter.merged(awake(CONFIG))
    export(ExportConfig(run, str(tmp_path / "m.gguf"), "gguf", "F32", merge=True))
    merged = anefast.Model.load(tmp_path / "m.gguf").params
    assert all(np.array_equal(merged[name], want[name]) for name in want)
    for to in ("peft", "mlx"):
        export(ExportConfig(run, str(tmp_path / to), to))
        source = open_adapter(tmp_path / to)
        assert source is not None and source.base == adapter.base
        for name, pair in source.load(CONFIG).pairs.items():
            assert all(np.array_equal(x, y) for x, y in zip(pair, adapter.pairs[name], strict=True))
    with pytest.raises(ValueError, match="--to hf holds a model without its adapter"):
        export(ExportConfig(run, str(tmp_path / "hf")))
    with pytest.raises(ValueError, match="has an adapter of its own"):
        export(ExportConfig(run, str(tmp_path / "hf"), adapter=str(tmp_path / "mlx"), merge=True))
    capsys.readouterr()
    texts = [text(capsys, run), *(text(capsys, base, adapter=p) for p in (run, f"{tmp_path}/peft"))]
    assert len(set(texts)) == 1
    inspect(InspectConfig(run))
    assert "rank 4, scale 2, beside 14 matrices of" in capsys.readouterr().out


def test_an_adapter_is_no_model(base: str, named: str) -> None:
    with pytest.raises(
        ValueError, match=rf"got a LoRA adapter without its model. Hint: name {base} as"
    ):
        anefast.Model.load(named)


def test_inspect_says_what_an_adapter_is(named: str, capsys: pytest.CaptureFixture[str]) -> None:
    inspect(InspectConfig(named))
    said = capsys.readouterr().out
    for words in ("PEFT folder, a LoRA adapter", "4, scale 2", "2 q_proj", "28 tensors", "in F32"):
        assert words in said
    with pytest.raises(ValueError, match=r"tokenizer bytes was named, but .* needs none"):
        inspect(InspectConfig(named, "bytes"))
