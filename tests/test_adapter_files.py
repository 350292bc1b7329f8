"""Adapters in files of PEFT and mlx-lm, judged by those programs: equal logits both ways."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from anefast.config import ModelConfig
from anefast.formats import open_adapter, open_folder, save_folder, save_mlx, save_peft
from anefast.formats.lora import AdapterFileError
from anefast.fuse import find_plan
from anefast.models.adapter import Adapter, Base
from anefast.runtime import Device, Inference

from .test_adapter import drawn
from .test_families import SMALL, awake

# peft 0.21 asks transformers 5 for what it will drop
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
IDS = [int(i) for i in np.random.default_rng(3).integers(0, 33, 24)]
LLAMAS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LAYERS = {**dict.fromkeys(SMALL, LLAMAS), "gpt2": ["c_attn", "c_proj", "c_fc"]}
SAVED = {"peft": save_peft, "mlx": save_mlx}
TENSORS = {"peft": "adapter_model.safetensors", "mlx": "adapters.safetensors"}


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pytest.importorskip("torch", reason="install anefast[peers]")
    pytest.importorskip("transformers", reason="install anefast[judges]")
    return pytest.importorskip("peft", reason="install anefast[judges]")


def config_of(name: str) -> ModelConfig:
    """A small model of the family that transformers can hold, too: no window beside biases."""
    return SMALL[name].replace(sliding_window=0)


def theirs(folder: Path, config: ModelConfig, params: dict[str, Any]) -> Any:
    """The same model as transformers loads it, in fp32."""
    import transformers

    save_folder(folder, config, params)
    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


def logits(model: Any) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0].numpy()


def ours(config: ModelConfig, params: dict[str, Any]) -> np.ndarray:
    inference = Inference(config, params, Device("host"), find_plan("layer"))
    found = inference.logits(IDS)
    inference.close()
    return found


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("name", SMALL)
def test_peft_reads_ours(judge: Any, name: str, rslora: bool, tmp_path: Path) -> None:
    config, params = config_of(name), awake(SMALL[name])
    adapter = drawn(config, rslora=rslora, base=Base("some/base"))
    save_peft(tmp_path / "adapter", adapter, config)
    merged = adapter.merged(params)
    want = logits(theirs(tmp_path / "merged", config, merged))
    base = theirs(tmp_path / "base", config, params)
    assert np.abs(logits(base) - want).max() > 0.3
    model = judge.PeftModel.from_pretrained(base, tmp_path / "adapter")
    assert np.abs(logits(model) - want).max() < 1e-4
    assert np.abs(ours(config, merged) - want[-1]).max() < 0.05


def made_by_peft(
    judge: Any, folder: Path, base: Any, layers: list[str], **settings: Any
) -> np.ndarray:
    """Saves an adapter that peft made, and returns its logits."""
    import torch

    settings |= {"target_modules": layers, "fan_in_fan_out": "c_attn" in layers}
    model = judge.get_peft_model(base, judge.LoraConfig(task_type="CAUSAL_LM", **settings)).eval()
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.1)
    model.save_pretrained(folder)
    return logits(model)


PATTERNS = {
    "rank_pattern": {"v_proj": 3, "o_proj": 16},
    "alpha_pattern": {"layers.1.self_attn.q_proj": 5, "^model.layers.0.mlp.down_proj": 2},
}
GPT2_PATTERNS = {
    "rank_pattern": {"c_attn": 3, "^transformer.h.1.mlp.c_fc": 6},
    "alpha_pattern": {"h.0.mlp.c_proj": 2},
}


@pytest.mark.parametrize(
    "settings",
    [
        {"r": 4, "lora_alpha": 12},
        {"r": 8, "use_rslora": True, "layers_to_transform": [1]},
        {"r": 4, "patterns": True},
    ],
)
@pytest.mark.parametrize("name", SMALL)
def test_peft_is_read(judge: Any, name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    config, params = config_of(name), awake(SMALL[name])
    base = theirs(tmp_path / "base", config, params)
    if "patterns" in settings:
        settings = {"r": settings["r"]} | (GPT2_PATTERNS if name == "gpt2" else PATTERNS)
    want = made_by_peft(judge, tmp_path / "adapter", base, LAYERS[name], **settings)
    source = open_adapter(tmp_path / "adapter")
    assert source is not None
    adapter = source.load(config)
    adapter.check(config)
    got = logits(theirs(tmp_path / "merged", config, adapter.merged(params)))
    assert np.abs(got - want).max() < 1e-4


def test_an_adapter_of_peft_comes_back_byte_for_byte(judge: Any, tmp_path: Path) -> None:
    for name in SMALL:
        config = config_of(name)
        base = theirs(tmp_path / name, config, awake(config))
        layers = ["c_attn"] if name == "gpt2" else ["q_proj", "down_proj"]
        made_by_peft(judge, tmp_path / f"{name}-1", base, layers, r=4)
        read(tmp_path / f"{name}-1", config, save_peft, tmp_path / f"{name}-2")
        first, second = (tensors(tmp_path / f"{name}-{n}" / TENSORS["peft"]) for n in (1, 2))
        assert first == second


def read(folder: Path, config: ModelConfig, save: Any, again: Path) -> Adapter:
    source = open_adapter(folder)
    assert source is not None
    adapter = source.load(config)
    save(again, adapter, config)
    return adapter


def tensors(path: Path) -> dict[str, tuple[Any, bytes]]:
    found = safetensors.numpy.load_file(path)
    return {name: (value.shape, value.tobytes()) for name, value in found.items()}


def test_the_golden_adapter_gives_pefts_logits(data_dir: Path) -> None:
    golden = data_dir / "hf_golden" / "llama_lora"
    if not golden.is_dir():
        pytest.skip(f"no adapter of peft in {golden}")
    base = open_folder(golden.parent / "llama_gqa_untied")
    source = open_adapter(golden / "adapter")
    assert source is not None
    params = source.load(base.config).merged(base.load())
    known = np.load(golden / "golden.npz")
    inference = Inference(base.config, params, Device("host"), find_plan("layer"))
    got = inference.logits([int(i) for i in known["x"][0]])
    inference.close()
    assert np.abs(got - known["logits"][0, -1]).max() < 0.05


@pytest.mark.parametrize("name", SMALL)
def test_mlx_lm_reads_ours(judge: Any, name: str, tmp_path: Path) -> None:
    """Where mlx runs, Linux included; its names and shapes are tested below without it."""
    mx = pytest.importorskip("mlx.core", reason="install anefast[mlx]")
    utils = pytest.importorskip("mlx_lm.utils", reason="install anefast[mlx]")
    from mlx_lm.tuner.utils import load_adapters

    config, params = config_of(name), awake(SMALL[name])
    if name == "gpt2":  # mlx-lm's is four times as wide inside, whatever the file says
        config = config.replace(hidden_dim=4 * config.dim)
        params = awake(config)
    adapter = drawn(config)
    merged = theirs(tmp_path / "merged", config, adapter.merged(params))
    theirs(tmp_path / "base", config, params)
    if name == "gpt2":  # whose names mlx-lm takes as OpenAI's files have them
        weights = tmp_path / "base" / "model.safetensors"
        named = safetensors.numpy.load_file(weights).items()
        safetensors.numpy.save_file({n.removeprefix("transformer."): v for n, v in named}, weights)
    model, _ = utils.load_model(tmp_path / "base")
    save_mlx(tmp_path / "adapter", adapter, config)
    load_adapters(model, str(tmp_path / "adapter"))
    got = np.array(model(mx.array([IDS]))[0].astype(mx.float32))
    assert np.abs(got - logits(merged)).max() < 1e-3


@pytest.mark.parametrize("form", SAVED)
@pytest.mark.parametrize("name", SMALL)
def test_ours_comes_back(name: str, form: str, tmp_path: Path) -> None:
    config = config_of(name)
    adapter = drawn(config, base=Base("some/base", "ab" * 32))
    SAVED[form](tmp_path, adapter, config)
    source = open_adapter(tmp_path)
    assert source is not None and source.base == adapter.base
    again = source.load(config)
    assert again.scale == adapter.scale
    assert again.pairs.keys() == adapter.pairs.keys()
    for ours, pair in adapter.pairs.items():
        rank = again.rank if form == "mlx" and name == "gpt2" else 4
        a, b = again.pairs[ours]
        assert len(a) == rank
        assert np.array_equal(a[:4], pair.a) and np.array_equal(b[:, :4], pair.b)
        assert not a[4:].any() and not b[:, 4:].any()


def test_mlx_folders_have_its_names_and_shapes(tmp_path: Path) -> None:
    config = config_of("qwen3")
    adapter = drawn(config, names=["layers.1.attn.wq", "layers.1.ffn.w2"], alpha=6.0)
    save_mlx(tmp_path, adapter, config)
    shapes = {name: shape for name, (shape, _) in tensors(tmp_path / TENSORS["mlx"]).items()}
    assert shapes == {
        "model.layers.1.self_attn.q_proj.lora_a": (32, 4),
        "model.layers.1.self_attn.q_proj.lora_b": (4, 64),
        "model.layers.1.mlp.down_proj.lora_a": (64, 4),
        "model.layers.1.mlp.down_proj.lora_b": (4, 32),
    }
    about = json.loads((tmp_path / "adapter_config.json").read_text())
    assert about["fine_tune_type"] == "lora" and about["num_layers"] == 2
    keys = ["mlp.down_proj", "self_attn.q_proj"]
    assert about["lora_parameters"] == {"rank": 4, "scale": 1.5, "dropout": 0.0, "keys": keys}


def test_a_half_precision_adapter_is_rounded_once(tmp_path: Path) -> None:
    config = config_of("qwen3")
    adapter = drawn(config)
    save_peft(tmp_path / "half", adapter, config, "F16")
    source = open_adapter(tmp_path / "half")
    assert source is not None
    for name, (a, b) in source.load(config).pairs.items():
        for got, want in ((a, adapter.pairs[name].a), (b, adapter.pairs[name].b)):
            assert np.array_equal(got, want.astype(np.float16).astype(np.float32))
    large = {name: replace_b(pair, 1e6) for name, pair in adapter.pairs.items()}
    with pytest.raises(ValueError, match="fp16 cannot hold"):
        save_peft(tmp_path / "large", replace(adapter, pairs=large), config, "F16")
    assert not (tmp_path / "large").exists()


def replace_b(pair: Any, factor: float) -> Any:
    return pair._replace(b=pair.b * np.float32(factor))


# What is refused, each in one line.


@pytest.mark.parametrize(
    "change,said",
    [
        ({"peft_type": "IA3"}, "expected peft_type LORA, got IA3"),
        ({"use_dora": True}, "expected no use_dora, got True"),
        ({"bias": "all"}, "expected bias none, got all"),
        ({"modules_to_save": ["lm_head"]}, "expected no modules_to_save"),
        ({"lora_bias": True}, "expected no lora_bias"),
        ({"layer_replication": [[0, 1]]}, "expected no layer_replication"),
        ({"a_setting_of_tomorrow": {"x": 1}}, "expected no a_setting_of_tomorrow"),
        ({"init_lora_weights": "pissa"}, "expected init_lora_weights True or False or .*got pissa"),
        ({"r": 8}, r"as \[8, in\] and \[out, 8\], got \[4, 32\]"),
        ({"r": 10**9}, "ranks of at most 1024"),
        ({"lora_alpha": -1}, "expected lora_alpha to be a positive number"),
        ({"lora_alpha": 1e300}, "alpha above 0, at most 1,048,576"),
        ({"rank_pattern": {"(a+)+b": 4}}, "expected keys that are names of layers"),
        ({"alpha_pattern": {"q_proj": 1e200}}, "numbers in layers.0.attn.wq.lora_b, some are inf"),
        ({"use_rslora": "yes"}, "expected use_rslora to be true or false"),
    ],
)
def test_settings_that_are_not_computed(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    config = config_of("qwen3")
    save_peft(tmp_path, drawn(config), config)
    about = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(about | change))
    refused(tmp_path, config, said)


def refused(folder: Path, config: ModelConfig, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        source = open_adapter(folder)
        assert source is not None
        source.load(config)
    line = str(caught.value)
    assert re.match(r"\[\w+\] ", line) and "\n" not in line and len(line) < 600


@pytest.mark.parametrize(
    "change,said",
    [
        ({"fine_tune_type": "dora"}, "expected fine_tune_type lora, got dora"),
        ({"fine_tune_type": "full"}, "expected fine_tune_type lora, got full"),
        ({"lora_parameters": None}, "expected rank to be a positive whole number"),
        ({"lora_parameters": {"rank": 4, "scale": 2.0, "alpha": 16}}, "got alpha, too"),
        ({"lora_parameters": {"rank": 2, "scale": 2.0}}, r"as \[2, in\] and \[out, 2\]"),
        ({"lora_parameters": [1]}, "expected lora_parameters to be a table"),
    ],
)
def test_settings_of_mlx_lm_that_are_not_computed(
    change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    config = config_of("qwen3")
    save_mlx(tmp_path, drawn(config), config)
    about = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(about | change))
    refused(tmp_path, config, said)


def test_adapters_of_other_models_are_refused(tmp_path: Path) -> None:
    config = config_of("qwen3")
    save_peft(tmp_path / "q", drawn(config), config)
    refused(tmp_path / "q", config.replace(n_layers=1), r"got model\.layers\.1\.self_attn\.q_proj")
    refused(tmp_path / "q", config.replace(hidden_dim=96), r"for a matrix of \[96, 32\]")
    refused(tmp_path / "q", config_of("gpt2"), "layers that the model has")


@pytest.mark.parametrize("form", SAVED)
def test_a_pair_beside_the_classifier_is_refused_by_its_name(form: str, tmp_path: Path) -> None:
    config = config_of("qwen3")
    SAVED[form](tmp_path / form, drawn(config), config)
    path = tmp_path / form / TENSORS[form]
    whole = path.read_bytes()
    header = int.from_bytes(whole[:8], "little")
    named = re.sub(rb"model\.layers\.0\.self_attn\.q_proj", b"lm_head", whole[8 : 8 + header])
    path.write_bytes(len(named).to_bytes(8, "little") + named + whole[8 + header :])
    refused(tmp_path / form, config, "matrices of the layers, got lm_head. Hint: the CPU computes")


def test_damaged_files_get_one_line(tmp_path: Path) -> None:
    config = config_of("qwen3")
    for form, save in SAVED.items():
        save(tmp_path / form, drawn(config), config)
        path = tmp_path / form / TENSORS[form]
        whole = path.read_bytes()
        header = int.from_bytes(whole[:8], "little")
        for content, said in (
            (whole[:-1], "tensors that fill|inside the file"),
            (whole[:100], "a header of at most"),
            (b"", "8 bytes of length"),
            ((2**60).to_bytes(8, "little") + whole[8:], "a header of at most"),
            (whole[:8] + b"[" * header + whole[8 + header :], "JSON header"),
            ((2).to_bytes(8, "little") + b"{}", "it has none"),
            (whole[: -4 * 64] + np.full(64, np.nan, "<f4").tobytes(), "some are infinite or none"),
            (re.sub(b"lora_(A|a)", b"lora_X", whole), "of linear layers, got"),
            (re.sub(b"q_proj", b"\\\\u001b", whole), "layers that the model has, got"),
            (whole.replace(b'"F32"', b'"F64"'), "type F32, F16 or BF16"),
        ):
            path.write_bytes(content)
            refused(tmp_path / form, config, said)
        path.unlink()
        refused(tmp_path / form, config, "there is none|No such file")


def test_folders_that_are_no_adapters(tmp_path: Path) -> None:
    assert open_adapter(tmp_path) is None
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(AdapterFileError, match="peft_type or lora_parameters"):
        open_adapter(tmp_path)
    (tmp_path / "adapter_config.json").write_text("[[[")
    with pytest.raises(ValueError, match="to hold JSON"):
        open_adapter(tmp_path)
