"""The Python API told what it cannot take: one line in our form, whatever the type was."""

from __future__ import annotations

import math

import numpy as np
import pytest

import anefast
from anefast.config import DataConfig, ModelConfig, OptimConfig, TrainConfig
from anefast.errors import AnefastError
from anefast.runtime import resolve

SHAPE = ModelConfig(dim=32, n_layers=1, n_heads=2, vocab_size=259, max_seq_len=64)
NAN, INF = math.nan, math.inf


@pytest.fixture(scope="module")
def host():
    return anefast.Device("host")


@pytest.fixture(scope="module")
def model():
    return anefast.Model.from_config(SHAPE, anefast.open_tokenizer("bytes"), seed=0)


@pytest.fixture(scope="module")
def step(model, host):
    step = model.training_step(host, batch=1, seq=32)
    yield step
    step.close()


def told(call) -> str:
    """The one line that a call ends in."""
    with pytest.raises(ValueError) as caught:
        call()
    text = str(caught.value)
    assert isinstance(caught.value, AnefastError), repr(caught.value)
    assert text.startswith("[") and "\n" not in text and "expected" in text, text
    return text


X = np.zeros((1, 32), np.int32)
TOKENS = {
    "a list": [[0] * 32],
    "nothing": None,
    "a number": 3,
    "a text": "Once",
    "64 bits": X.astype(np.int64),
    "floats": X.astype(np.float32),
    "bytes": X.astype(np.uint8),
    "unsigned": X.astype(np.uint32),
    "one axis": X[0],
    "three axes": X[None],
    "too long": np.zeros((1, 64), np.int32),
    "no rows": np.zeros((0, 32), np.int32),
}


@pytest.mark.parametrize("which", ["x", "y"])
@pytest.mark.parametrize("what", TOKENS)
def test_tokens_of_another_kind(step, what, which):
    x, y = (TOKENS[what], X) if which == "x" else (X, TOKENS[what])
    for call in (lambda: step.micro_step(x, y, 64.0), lambda: step.evaluate(x, y)):
        line = told(call)
        assert line.startswith(
            f"[step] expected {which} to be an int32 array of shape (1, 32), got "
        )


def test_ids_that_the_model_has_not(step):
    with pytest.raises(ValueError, match=r"^\[.*259"):
        step.micro_step(X + 259, X, 64.0)
    with pytest.raises(ValueError, match=r"^\["):
        step.micro_step(X - 1, X, 64.0)
    with pytest.raises(ValueError, match=r"^\[.*259"):
        step.micro_step(X, X + 259, 64.0)


@pytest.mark.parametrize("scale", [0, 0.0, -1.0, NAN, INF, None, "64", [64.0], True, 1j])
def test_loss_scales_that_scale_nothing(step, scale):
    line = told(lambda: step.micro_step(X, X, scale))
    assert line.startswith("[step] expected loss_scale to be finite and above 0, got ")


def test_what_numpy_calls_a_number_is_one(step):
    loss, tokens = step.micro_step(X, X, np.float32(64))
    assert tokens == 32 and step.micro_step(np.asfortranarray(X), X, 64)[0] == loss


SAMPLING = {
    "tokens": [-1, 2.5, None, "3", True],
    "temperature": [-0.1, NAN, INF, None, "hot", 1j],
    "top_k": [-1, 1.5, None, "5"],
    "top_p": [0, -0.5, 1.1, NAN, None, "all"],
    "seed": [-1, 0.5, None, "0"],
    "min_p": [-0.5, 1.1, NAN, None, "all"],
    "repetition_penalty": [0, -1, NAN, INF, None, "much"],
    "prompt": [["a"], None, 3, b"Once", {"a": 1}, [1.5], [259], [-1], [], "x" * 64, [[1]]],
    "device": ["host", 3],
}


@pytest.mark.parametrize("name,value", [(n, v) for n, vs in SAMPLING.items() for v in vs])
def test_sampling_that_cannot_be(model, name, value):
    """At the call, before anything is compiled or yielded."""
    assert told(lambda: model.stream(**{name: value}))
    if name != "prompt" or isinstance(value, str):
        assert name in told(lambda: model.generate(**{name: value})) or name == "device"
    else:
        assert "prompt" in told(lambda: model.generate(**{name: value}))


def test_prompts_of_every_sound_kind(model, host):
    for prompt in ("Once", [1, 5], (1, 5), np.array([1, 5], np.int64), range(1, 3), iter([1, 5])):
        assert len(list(model.stream(prompt, tokens=1, device=host))) <= 1


def test_text_past_what_was_trained_is_said_once(model, host, caplog):
    model = anefast.Model(SHAPE, model.params, model.tokenizer, trained_length=32)
    for tokens, count in ((28, 0), (29, 0), (60, 1)):
        caplog.clear()
        list(model.stream("ab", tokens, temperature=0, device=host))
        assert len(caplog.messages) == count
    assert "trained on sequences of 32 tokens" in caplog.messages[0]
    assert "at most 29 new tokens" in caplog.messages[0]


CALLS = {
    "load nothing": lambda m, d: anefast.Model.load(None),
    "load a tokenizer that is none": lambda m, d: anefast.Model.load("x.bin", tokenizer=3),
    "from no config": lambda m, d: anefast.Model.from_config(None, m.tokenizer),
    "from a dict": lambda m, d: anefast.Model.from_config({"dim": 32}, m.tokenizer),
    "from no tokenizer": lambda m, d: anefast.Model.from_config(SHAPE, "bytes"),
    "from a seed": lambda m, d: anefast.Model.from_config(SHAPE, m.tokenizer, seed=-1),
    "step on a name": lambda m, d: m.training_step("host"),
    "step of no batch": lambda m, d: m.training_step(d, batch=0),
    "step of half a batch": lambda m, d: m.training_step(d, batch=0.5),
    "step of no row": lambda m, d: m.training_step(d, seq=0),
    "step of an odd row": lambda m, d: m.training_step(d, seq=40),
    "step past the context": lambda m, d: m.training_step(d, seq=96),
    "step of no plan": lambda m, d: m.training_step(d, seq=32, plan=None),
    "step of no updates": lambda m, d: m.training_step(d, seq=32, accumulation=0),
    "device none": lambda m, d: anefast.Device(None),
    "device options": lambda m, d: anefast.Device("host", options=2),
    "device chip": lambda m, d: anefast.Device("host", chip=1),
    "device cache": lambda m, d: anefast.Device("host", cache_bytes=-1),
    "plan none": lambda m, d: anefast.fuse.find_plan(None),
    "auto plan none": lambda m, d: resolve(None, SHAPE, d, 1, 32, 1),
    "fused of a dict": lambda m, d: anefast.fused_transformer({}, m.params, 32, d),
    "fused of no weights": lambda m, d: anefast.fused_transformer(SHAPE, None, 32, d),
    "fused of an odd row": lambda m, d: anefast.fused_transformer(SHAPE, m.params, 33, d),
    "fused on a name": lambda m, d: anefast.fused_transformer(SHAPE, m.params, 32, "host"),
    "fused of no plan": lambda m, d: anefast.fused_transformer(SHAPE, m.params, 32, d, None),
    "ffn of no size": lambda m, d: anefast.fused_ffn(0, 64, 1, 32, {}, d),
    "ffn of a float": lambda m, d: anefast.fused_ffn(32, 64.0, 1, 32, {}, d),
    "plan of no layers": lambda m, d: anefast.Plan("mine", forward=0),
    "plan of half a layer": lambda m, d: anefast.Plan("mine", backward=0.5),
    "weights of no config": lambda m, d: anefast.init_params(None, 0),
    "weights of no vocabulary": lambda m, d: anefast.init_params(ModelConfig(), 0),
    "weights of no seed": lambda m, d: anefast.init_params(SHAPE, -1),
    "ffn weights of a text": lambda m, d: anefast.init_ffn("32", 64, 1, 0),
    "tokenizer none": lambda m, d: anefast.open_tokenizer(None),
    "tokenizer of a number": lambda m, d: anefast.open_tokenizer(3),
    "fit nothing": lambda m, d: anefast.fit(None),
    "fit a dict": lambda m, d: anefast.fit({"steps": 1}),
    "fit a path": lambda m, d: anefast.fit("bytes", model="stories260K.bin"),
    "fit on a number": lambda m, d: anefast.fit("bytes", device=3),
    "fit a model that is none": lambda m, d: anefast.fit("bytes", model=3),
    "fit a list": lambda m, d: anefast.fit("bytes", data=["a", "b"]),
    "fit telling nobody": lambda m, d: anefast.fit("bytes", on_step=3),
    "fit showing nobody": lambda m, d: anefast.fit("bytes", show="print"),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_a_call_cannot_take(model, host, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    told(lambda: CALLS[name](model, host))
    assert not list(tmp_path.iterdir())


def test_fit_takes_names_of_a_preset_and_a_device_and_a_path(tmp_path, monkeypatch):
    seen = {}

    def stop(config, *_, **__):
        seen["config"] = config
        raise RuntimeError("far enough")

    monkeypatch.setattr("anefast.train.open_run", stop)
    monkeypatch.chdir(tmp_path)
    for data in ("my.txt", tmp_path / "my.txt"):
        with pytest.raises(RuntimeError, match="far enough"):
            anefast.fit("bytes", data=data, device="host")
        assert seen["config"].data.source == str(data) and seen["config"].preset == "bytes"
        assert seen["config"].device == "host"
    with pytest.raises(ValueError, match=r"did you mean tiny\?"):
        anefast.fit("tinny")


BAD = [
    *((OptimConfig, {name: value}) for value in (NAN, INF, -0.5) for name in (
        "lr", "eps", "weight_decay", "clip", "beta1", "beta2", "momentum", "min_lr_ratio",
    )),
    *((ModelConfig, {name: value}) for value in (NAN, INF, -1.0) for name in (
        "rope_theta", "norm_eps", "residual_scale", "init_std",
    )),
    *((ModelConfig, {name: 10**12}) for name in ("dim", "n_layers", "hidden_dim", "vocab_size")),
    *((DataConfig, {"seed": value}) for value in (-1, 1 << 64, 0.5, None)),
    *((DataConfig, {name: ""}) for name in ("source", "tokenizer")),
    (DataConfig, {"batch": 1 << 40}),
    (OptimConfig, {"lr": 10**400}),
    (TrainConfig, {"swap_after": NAN}),
    (TrainConfig, {"seed": 1 << 80}),
    (TrainConfig, {"data": "my.txt"}),
    (TrainConfig, {"model": None}),
    (TrainConfig, {"preset": "tinny"}),
]  # fmt: skip


@pytest.mark.parametrize("kind,bad", BAD, ids=[f"{k.__name__} {b}" for k, b in BAD])
def test_settings_that_cannot_be(kind, bad):
    with pytest.raises(ValueError, match=r"^\[config\] ") as caught:
        kind(**bad)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"^\[config\] "):
        kind().replace(**bad)


def test_settings_that_do_not_exist():
    for call in (
        lambda: TrainConfig().replace(stepz=1),
        lambda: ModelConfig().replace(n_layer=1),
        lambda: TrainConfig.from_preset("bytes", stepz=1),
        lambda: TrainConfig.from_preset("bytes", optim={"learning_rate": 1}),
    ):
        with pytest.raises(ValueError, match=r"^\[config\] unknown setting .* did you mean"):
            call()


def test_words_that_no_plan_has():
    for field, value in (
        ("reads", "all"),
        ("ports", "one"),
        ("weights", "baked"),
        ("compile", "x"),
    ):
        with pytest.raises(ValueError, match=rf"^\[plan\] {field} must be one of "):
            anefast.Plan("mine", **{field: value})


def test_the_environment_is_looked_at(monkeypatch, caplog):
    for name, value in (("ANEFAST_GROUPS", "yes"), ("ANEFAST_GROUPS", "none")):
        monkeypatch.setenv(name, value)
        with pytest.raises(ValueError, match=rf"^\[environment\] {name} must be one of on, off"):
            anefast.Device("host")
    monkeypatch.setenv("ANEFAST_GROUPS", "on")
    monkeypatch.setenv("ANEFAST_NUMTHREADS", "2")
    monkeypatch.setenv("ANEFAST_TEST_DATA", "elsewhere")  # not ours to read
    for _ in range(2):
        anefast.Device("host")
    said = [m for m in caplog.messages if m.startswith("[environment]")]
    assert said == [
        "[environment] ANEFAST_NUMTHREADS is not read. Hint: did you mean ANEFAST_NUM_THREADS?"
    ]
