"""Model families: what transformers computes, one graph in any cut, and a family of a test's own.

The judge is transformers: tiny checkpoints that it wrote, with logits, losses and gradients it
computed in float64. They are the shared ones, or made here (hf_cases.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import anefast
from anefast import ir
from anefast.config import ConfigError, ModelConfig, TrainConfig
from anefast.formats import huggingface
from anefast.formats.gguf_model import open_gguf
from anefast.formats.source import ModelSource, to_file
from anefast.fuse import find_plan
from anefast.models import FAMILIES, classifier, decoder, init_params, shapes
from anefast.models.family import Family
from anefast.models.layers import Past, Style, attention, feed_forward
from anefast.runtime import Device, Inference, TrainingStep
from tests import hf_cases
from tests.conftest import SHARED

CASES = [
    "llama_gqa_untied",
    "llama_tied_headdim",
    "llama3_ropescaled",
    "llama_bias",
    "mistral_window",
    "qwen2_bias",
    "qwen3_qknorm",
    "gpt2",
]
SCALE = 64.0


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint and its golden.npz for every case."""
    if (SHARED / "hf_golden").is_dir():
        return SHARED / "hf_golden"
    pytest.importorskip("torch", reason="install anefast[peers]")
    pytest.importorskip("transformers", reason="install anefast[judges]")
    folder = tmp_path_factory.mktemp("hf")
    hf_cases.make(folder)
    return folder


@pytest.fixture(scope="module")
def stored(data_dir: Path) -> Path:
    """The shared folder, which holds the same weights in other formats."""
    return data_dir / "hf_golden"


def losses(source: ModelSource, known: Mapping[str, Any]) -> tuple[TrainingStep, float]:
    """The step after one micro-step on the golden's batch, and its mean loss. Sequences are filled
    up to a length that programs have."""
    more = ((0, 0), (0, -known["x"].shape[1] % 32))
    x = np.pad(known["x"].astype(np.int32), more)
    y = np.pad(known["y"].astype(np.int32), more, constant_values=-1)
    step = TrainingStep(source.config, source.load(), Device("host"), *x.shape, find_plan("all"))
    loss, tokens = step.micro_step(x, y, SCALE)
    step.wait()
    return step, loss / tokens


def judge(folder: Path, known: Mapping[str, Any]) -> None:
    """Loss, gradients, logits and greedy text within the tolerances of half precision."""
    source = huggingface.open_folder(folder)
    step, loss = losses(source, known)
    assert loss == pytest.approx(float(known["loss"]), abs=1e-3)
    tokens = known["x"].size
    for name, _, make in to_file(source.places, step.grads):
        want = known[f"grad/{name}"]
        error = np.linalg.norm(make() / (SCALE * tokens) - want) / np.linalg.norm(want)
        assert error < 1.5e-2, name
    step.close()
    inference = Inference(source.config, source.load(), Device("host"), find_plan("layer"))
    row = [int(t) for t in known["x"][0]]
    for length in (1, 31, 33, len(row)):
        got = inference.logits(row[:length])
        assert np.abs(got - known["logits"][0, length - 1]).max() < 0.05
    inference.close()


def judge_greedy(folder: Path, known: Mapping[str, Any]) -> None:
    """Half precision may take the other of two that are close, and all that follows."""
    source = huggingface.open_folder(folder)
    ids = [int(t) for t in known["x"][0, :8]]
    inference = Inference(source.config, source.load(), Device("host"), find_plan("unfused"))
    for token, gap in zip(known["greedy"][8:], known["greedy_gap"], strict=True):
        if gap < 0.05:
            break
        assert int(np.argmax(inference.logits(ids))) == token
        ids.append(int(token))
    inference.close()


@pytest.mark.parametrize("case", CASES)
def test_transformers_agrees(golden: Path, case: str) -> None:
    judge(golden / case, np.load(golden / case / "golden.npz"))


@pytest.mark.parametrize("case", CASES)
def test_greedy_text_goes_on_as_transformers_does(golden: Path, case: str) -> None:
    judge_greedy(golden / case, np.load(golden / case / "golden.npz"))


@pytest.mark.parametrize("case", hf_cases.ODD)
def test_transformers_agrees_on_odd_shapes(tmp_path: Path, case: str) -> None:
    """In one file or several, in fp32 or bf16, with the classifier of a tied model or without."""
    torch = pytest.importorskip("torch", reason="install anefast[peers]")
    pytest.importorskip("transformers", reason="install anefast[judges]")
    model = hf_cases.model_of(case)
    number = list(hf_cases.ODD).index(case)
    if number % 3 == 1:  # what rotates is not rounded
        for parameter in model.parameters():
            parameter.data = parameter.data.to(torch.bfloat16)
    model.save_pretrained(tmp_path, max_shard_size="60KB" if number % 2 else "1GB")
    if case == "llama_one_key_head":
        weights = load_file(tmp_path / "model.safetensors")
        copy = {"lm_head.weight": weights["model.embed_tokens.weight"]}
        save_file(weights | copy, tmp_path / "model.safetensors", {"format": "pt"})
    known = hf_cases.computed(model, 2, 41)
    judge(tmp_path, known)
    judge_greedy(tmp_path, known)


UNKNOWN = [  # what transformers writes and we do not compute
    ("Llama", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "got yarn"),
    ("Llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0}}, "got dynamic"),
    ("Llama", {"hidden_act": "gelu"}, "hidden_act silu, got gelu"),
    ("Qwen2", {"use_sliding_window": True, "sliding_window": 16}, "use_sliding_window False"),
    ("Qwen3", {"attention_bias": True}, "attention_bias False, got True"),
    ("GPT2", {"scale_attn_weights": False}, "scale_attn_weights True, got False"),
    ("GPT2", {"scale_attn_by_inverse_layer_idx": True}, "by_inverse_layer_idx False, got True"),
    ("GPT2", {"activation_function": "gelu"}, "gelu_new or gelu_pytorch_tanh, got gelu"),
    ("Mixtral", {"num_local_experts": 4}, "got mixtral"),
    ("Gemma2", {}, "got gemma2"),
]


@pytest.mark.parametrize("family,settings,said", UNKNOWN)
def test_settings_of_transformers_that_we_do_not_compute(
    tmp_path: Path, family: str, settings: dict[str, Any], said: str
) -> None:
    transformers = pytest.importorskip("transformers", reason="install anefast[judges]")
    if "rope_parameters" in settings:
        rope = hf_cases.ROPE | {"original_max_position_embeddings": 32}
        settings = {
            "max_position_embeddings": 128,
            "rope_parameters": rope | settings["rope_parameters"],
        }
    getattr(transformers, f"{family}Config")(**settings).save_pretrained(tmp_path)
    save_file({"a": np.zeros(2, np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(huggingface.HuggingFaceError, match=said):
        huggingface.open_folder(tmp_path)


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_1"])
def test_gguf_files_give_their_losses(stored: Path, kind: str) -> None:
    known = np.load(stored / "llama_gguf" / f"golden.{kind}.npz")
    step, loss = losses(open_gguf(stored / "llama_gguf" / f"model.{kind}.gguf"), known)
    step.close()
    assert loss == pytest.approx(float(known["loss"]), abs=1e-3)


@pytest.mark.parametrize("case", ["llama_bf16", "llama_fp16"])
def test_half_precision_folders_give_their_losses(stored: Path, case: str) -> None:
    known = np.load(stored / case / "golden.npz")
    step, loss = losses(huggingface.open_folder(stored / case), known)
    step.close()
    assert loss == pytest.approx(float(known["loss"]), abs=1e-3)


@pytest.mark.parametrize("case", ["gemma", "phi3_fused"])
def test_other_families_are_refused_by_name(golden: Path, case: str) -> None:
    with pytest.raises(huggingface.HuggingFaceError, match=rf"got {case.partition('_')[0]}"):
        huggingface.open_folder(golden / case)


# One graph, any cut.

SMALL = {
    "llama": ModelConfig(
        dim=32, n_layers=2, n_heads=4, n_kv_heads=2, hidden_dim=64, vocab_size=33,
        attention_bias=True, mlp_bias=True, sliding_window=20, rope_scaling="llama3:8,1,4,32",
    ),
    "qwen2": ModelConfig(
        family="qwen2", dim=32, n_layers=2, n_heads=4, n_kv_heads=2, hidden_dim=64, vocab_size=33,
    ),
    "qwen3": ModelConfig(
        family="qwen3", dim=32, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=16, hidden_dim=64,
        vocab_size=33,
    ),
    "gpt2": ModelConfig(
        family="gpt2", dim=32, n_layers=2, n_heads=4, hidden_dim=64, vocab_size=33, max_seq_len=64,
    ),
}  # fmt: skip
PLANS = [
    "unfused", "layer", "1/all", "all,recompute", "all,weights=params", "layer,ports=packed",
    "unfused,recompute,weights=params,ports=packed", "layer,weights=const,norms=params",
    "all,recompute,weights=params,norms=params", "unfused,ports=padded,weights=params,norms=const",
]  # fmt: skip


def test_every_family_has_a_row_here() -> None:
    assert SMALL.keys() == FAMILIES.keys()


def trained(config: ModelConfig, plan: str, params: anefast.models.Params) -> list[bytes]:
    """Bytes of loss and gradients of one micro-step."""
    rng = np.random.default_rng(0)
    x, y = (rng.integers(0, config.vocab_size, (2, 32)).astype(np.int32) for _ in "xy")
    step = TrainingStep(config, params, Device("host"), 2, 32, find_plan(plan))
    loss, _ = step.micro_step(x, y, SCALE)
    step.wait()
    found = [np.float64(loss).tobytes(), *(g.tobytes() for g in step.grads.values())]
    step.close()
    return found


def awake(config: ModelConfig) -> anefast.models.Params:
    """Initial weights whose biases and gains are no zeros and ones."""
    rng = np.random.default_rng(1)
    params = init_params(config, 0)
    for value in params.values():
        value += (rng.standard_normal(value.shape) * 0.1).astype(np.float32)
    return params


@pytest.mark.parametrize("name", SMALL)
def test_cuts_change_no_byte(name: str) -> None:
    params = awake(SMALL[name])
    first, *others = (trained(SMALL[name], plan, params) for plan in PLANS)
    assert all(found == first for found in others)


@pytest.mark.parametrize("name", SMALL)
def test_a_chunk_behind_the_cache_gives_the_logits_of_the_whole(name: str) -> None:
    """Two chunks against one evaluation of 64 positions; the classifier is one that fp16 holds."""
    config, params = SMALL[name], awake(SMALL[name])
    params[classifier(params)][...] = params[classifier(params)].astype(np.float16)
    ids = np.random.default_rng(2).integers(0, 33, 64).astype(np.int32)
    inference = Inference(config, params, Device("host"), find_plan("unfused"))
    step = TrainingStep(config, params, Device("host"), 1, 64, find_plan("unfused"))
    got = inference.logits([int(i) for i in ids])
    step.evaluate(ids[None], np.full((1, 64), int(np.argmax(got)), np.int32))
    nll = float(-(got - got.max())[np.argmax(got)] + np.log(np.exp(got - got.max()).sum()))
    assert float(step.nll[0, 63]) == pytest.approx(nll, abs=1e-5)
    step.close()
    inference.close()


# A family of a test's own: attention and feed-forward read the same stream, side by side.


def side_by_side(x: ir.Tensor, config: ModelConfig, past: Past | None = None) -> ir.Tensor:
    for i in range(config.n_layers):
        attended = attention(x, f"layers.{i}.attn", config, past)
        forward = feed_forward(x, f"layers.{i}.ffn", config)
        with ir.scope(f"layers.{i}.ffn"):
            x = forward + (attended - x)
    return x


def test_a_made_up_family_trains(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    family = Family("abreast", partial(decoder.parameters, style=Style()), side_by_side)
    monkeypatch.setitem(FAMILIES, family.name, family)
    config = TrainConfig.from_preset("bytes", steps=30, out=str(tmp_path / "run"), sample_tokens=4)
    config = config.replace(
        model=config.model.replace(family="abreast", n_layers=1, dim=64),
        data=config.data.replace(source="stories:50", batch=4, seq_len=64),
        eval_every=0,
    )
    result = anefast.fit(config)
    assert result.losses[-1] < 0.75 * result.losses[0]
    again = anefast.Model.load(tmp_path / "run")
    assert again.config.family == "abreast" and list(again.params) == list(shapes(again.config))


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.family must be one of .*did you mean gpt2"):
        shapes(ModelConfig(family="gpt-2", vocab_size=10))


def test_more_tokens_than_the_model_has_positions_are_refused() -> None:
    config = SMALL["gpt2"]
    with pytest.raises(ValueError, match=r"\[step\] expected at most 64 tokens"):
        TrainingStep(config, awake(config), Device("host"), 1, 96, find_plan("all"))
