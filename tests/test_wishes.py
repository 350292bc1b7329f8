"""Every flag in every way to start a run: it is honoured or refused in one line, never dropped.

The table is the judge: a setting without a row fails, and so does a row that the code breaks.
"""

from __future__ import annotations

import dataclasses
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import tomli_w

from anefast import checkpoint
from anefast.cli import named_by, train_config
from anefast.config import (
    GIVEN,
    ConfigError,
    ModelConfig,
    TrainConfig,
    flatten,
    keys,
    merge,
    to_settings,
)
from anefast.data import open_data
from anefast.model import Model
from anefast.origins import model_and_data
from anefast.runtime import Device
from anefast.telemetry import read_config
from anefast.tokenizer import open_tokenizer
from anefast.train import fit
from anefast.wishes import LAWS, check_pairs, wishes_of

YES, SAME = "honoured", "refused unless it says the same"
# setting: (another value than a run or a preset has, with weights by --init, with --resume)
TABLE = {
    "preset": ("stories260k", YES, SAME),
    "steps": (777, YES, YES),
    "eval_every": (7, YES, YES),
    "eval_batches": (7, YES, YES),
    "patience": (7, YES, YES),
    "checkpoint_every": (7, YES, YES),
    "checkpoint_minutes": (7.0, YES, YES),
    "keep_last": (7, YES, YES),
    "seed": (7, YES, SAME),
    "seeds": (7, YES, SAME),
    "sweep": ("points.toml", YES, SAME),
    "device": ("host", YES, YES),
    "chip": ("m1", YES, YES),
    "plan": ("layer", YES, YES),
    "swap_after": (0.5, YES, SAME),
    "max_compiles": (77, YES, YES),
    "on_budget": ("checkpoint-restart", YES, YES),
    "health_every": (7, YES, YES),
    "cache_mb": (77, YES, YES),
    "out": ("elsewhere", YES, SAME),
    "resume": (None, None, None),  # the way itself
    "init": (None, None, None),  # the way itself
    "train": ("layers.0.*", YES, SAME),
    "prompt": ("Once", YES, YES),
    "sample_tokens": (7, YES, YES),
    "timeline": (False, YES, YES),
    "breakdown": (True, YES, YES),
    "trace": ("trace.json", YES, YES),
    "sinks": ("tensorboard", YES, YES),
    "model.family": ("qwen2", SAME, SAME),
    "model.rope_scaling": ("linear:2", YES, SAME),
    "model.sliding_window": (64, YES, SAME),
    "model.attention_bias": (True, SAME, SAME),
    "model.mlp_bias": (True, SAME, SAME),
    "model.dim": (64, SAME, SAME),
    "model.n_layers": (2, SAME, SAME),
    "model.n_heads": (8, SAME, SAME),
    "model.n_kv_heads": (1, SAME, SAME),
    "model.head_dim": (64, SAME, SAME),
    "model.hidden_dim": (64, SAME, SAME),
    "model.vocab_size": (300, SAME, SAME),
    "model.max_seq_len": (480, YES, SAME),
    "model.rope_theta": (500000.0, YES, SAME),
    "model.norm_eps": (1e-6, YES, SAME),
    "model.tied": (False, SAME, SAME),
    "model.residual_scale": (0.5, SAME, SAME),
    "model.init_std": (0.1, SAME, SAME),
    "model.stream_scale": (0.5, YES, SAME),
    "data.source": ("stories:6", YES, SAME),
    "data.tokenizer": ("bpe:300", SAME, SAME),
    "data.seq_len": (64, YES, SAME),
    "data.batch": (3, YES, SAME),
    "data.val_fraction": (0.3, YES, SAME),
    "data.order": ("sequential", YES, SAME),
    "data.packing": (False, YES, SAME),
    "data.boundaries": (True, YES, SAME),
    "data.compact_vocab": (True, YES, SAME),
    "data.collapse_spaces": (True, YES, SAME),
    "data.seed": (7, YES, SAME),
    "optim.name": ("muon", YES, SAME),
    "optim.momentum": (0.7, YES, SAME),
    "optim.nesterov": (True, YES, SAME),
    "optim.rules": ("norm:decay=0.1", YES, SAME),
    "optim.ema_tokens": (1000, YES, SAME),
    "optim.ema_eval": (True, YES, YES),
    "optim.fresh": (True, YES, YES),
    "schedule.name": ("wsd", YES, SAME),
    "schedule.decay": (0.7, YES, SAME),
    "schedule.decay_from": ("7", YES, YES),
    "optim.lr": (0.7, YES, SAME),
    "optim.beta1": (0.7, YES, SAME),
    "optim.beta2": (0.7, YES, SAME),
    "optim.eps": (1e-7, YES, SAME),
    "optim.weight_decay": (0.7, YES, SAME),
    "optim.warmup_steps": (7, YES, SAME),
    "optim.min_lr_ratio": (0.7, YES, SAME),
    "optim.clip": (0.7, YES, SAME),
    "optim.accumulation": (7, YES, SAME),
    "optim.ramp": ("8@7", YES, SAME),
    "optim.scale_lr_with_accumulation": (True, YES, SAME),
    "lora.rank": (4, YES, SAME),
    "lora.alpha": (7.0, YES, SAME),
    "lora.rslora": (True, YES, SAME),
    "lora.targets": ("wq", YES, SAME),
    "lora.layers": (1, YES, SAME),
    "loss_scale.initial": (32.0, YES, SAME),
    "loss_scale.dynamic": (False, YES, SAME),
    "loss_scale.growth_interval": (7, YES, SAME),
    "loss_scale.maximum": (128.0, YES, SAME),
    "guard.compile_s": (7.0, YES, YES),
    "guard.load_s": (7.0, YES, YES),
    "guard.evaluate_s": (77.0, YES, YES),
    "guard.canary_every": (7, YES, YES),
    "guard.canary_tolerance": (0.7, YES, YES),
    "dist.emulate": (2, YES, YES),
    "dist.shard_optimizer": (True, YES, YES),
    "dist.local_steps": (4, YES, SAME),
    "dist.outer_lr": (0.5, YES, SAME),
    "dist.outer_momentum": (0.5, YES, SAME),
}
SETTINGS = [name for name, row in TABLE.items() if row[0] is not None]
SHAPE = ModelConfig(dim=32, n_layers=1, n_heads=2, vocab_size=259, max_seq_len=256)


REFUSED = {way: [n for n in SETTINGS if TABLE[n][way] == SAME] for way in (1, 2)}


def together(names: list[str]) -> dict[str, object]:
    """The values of these settings, with a plan for which `swap_after` means something."""
    values = {name: TABLE[name][0] for name in names}
    return values | ({"plan": "layer,async"} if "swap_after" in names else {})


def honoured(way: int) -> list[dict[str, object]]:
    """All settings that are honoured in a way to start a run, in two parts that go together."""
    names = [n for n in SETTINGS if way == 0 or TABLE[n][way] == YES]
    # against breakdown, trace, lora and scale_lr_with_accumulation
    apart = {"timeline", "on_budget", "train", "optim.ramp"}
    return [together([n for n in names if (n in apart) == part]) for part in (False, True)]


def typed(values: dict[str, object]) -> list[str]:
    return [word for name, value in values.items() for word in flag(name, value)]


def flag(name: str, value: object) -> list[str]:
    """A setting as somebody types it."""
    spelt = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        section, dot, last = spelt.rpartition(".")
        no = f"{section}{dot}no-{last}" if dot else f"--no-{spelt[2:]}"
        return [spelt] if value else [no]
    return [spelt, str(value)]


def nested(name: str, value: object) -> dict:
    section, dot, last = name.partition(".")
    return {section: {last: value}} if dot else {name: value}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with a run in it, `run`, as training leaves one behind."""
    root = tmp_path_factory.mktemp("wishes")
    run = root / "run"
    run.mkdir()
    model = Model.from_config(SHAPE, open_tokenizer("bytes"), seed=0)
    state = {"step": 3, "micro": 0, checkpoint.TRAINED_LENGTH: 128}
    checkpoint.save(run, SHAPE, model.params, model.params, state, model.tokenizer)
    config = TrainConfig.from_preset(
        "bytes", out=str(run), plan="all", data={"source": "stories:5"}
    )
    settings = to_settings(config.replace(model=SHAPE))
    (run / "config.toml").write_text(tomli_w.dumps(settings))
    return root


@pytest.fixture
def here(root, monkeypatch):
    monkeypatch.chdir(root)


def test_every_setting_has_a_row_and_a_law():
    assert set(TABLE) == set(keys()) == set(LAWS)


def value_in(config: TrainConfig, name: str) -> object:
    return flatten(to_settings(config))[name]


def test_a_fresh_run_honours_every_flag(here):
    shape = {n: v for n, v in together(SETTINGS).items() if n.startswith("model.")}
    for values in (shape, *honoured(0)):
        values = {n: v for n, v in values.items() if values is shape or n not in shape}
        config, origins = train_config(typed(values))
        check_pairs(config, wishes_of(config, named_by(origins)))
        for name, value in values.items():
            assert value_in(config, name) == value and origins[name] == "flag", name


def opened(config: TrainConfig, asked=()) -> TrainConfig:
    wishes = wishes_of(config, asked)
    check_pairs(config, wishes)
    return model_and_data(config, None, None, None, wishes)[0]


def by_flags(settings: dict) -> TrainConfig:
    config, origins = train_config(typed(flatten(settings)))
    return opened(config, named_by(origins))


def by_file(settings: dict) -> TrainConfig:
    Path("run.toml").write_text(tomli_w.dumps(settings))
    config, origins = train_config(["run.toml"])
    return opened(config, named_by(origins))


def by_python(settings: dict) -> TrainConfig:
    preset = settings.get("preset", "bytes")
    return opened(
        TrainConfig.from_preset(preset, **{k: v for k, v in settings.items() if k != "preset"})
    )


FROM_WEIGHTS = {"init": "run", "data": {"source": "stories:5"}}
START = {"flags": by_flags, "file": by_file, "python": by_python}


@pytest.mark.parametrize("way", START)
def test_a_run_from_weights_honours(here, way):
    for values in honoured(1):
        settings: dict = FROM_WEIGHTS
        for name, value in values.items():
            settings = merge(settings, nested(name, value))
        config = START[way](settings)
        for name, value in values.items():
            assert value_in(config, name) == value, name


@pytest.mark.parametrize("way", START)
@pytest.mark.parametrize("name", REFUSED[1])
def test_a_run_from_weights_refuses(here, name, way):
    settings = merge(FROM_WEIGHTS, nested(name, TABLE[name][0]))
    with pytest.raises(ConfigError, match=name.removeprefix("data.")) as refused:
        START[way](settings)
    assert "\n" not in str(refused.value) and "Hint" in str(refused.value)


def test_what_a_run_from_weights_may_say_again(here):
    for name, (_, fate, _) in TABLE.items():
        if fate == SAME and name.startswith("model."):
            has = getattr(SHAPE, name.partition(".")[2])
            argv = ["--init", "run", *flag(name, has), "--data", "stories:5"]
            config, origins = train_config(argv)
            assert opened(config, named_by(origins)).model.dim == 32, name


@pytest.mark.parametrize("way", ["flags", "file"])
def test_a_resumed_run_honours(here, way):
    for values in honoured(2):
        argv = typed(values)
        if way == "file":
            settings: dict = {}
            for name, value in values.items():
                settings = merge(settings, nested(name, value))
            Path("run.toml").write_text(tomli_w.dumps(settings))
            argv = ["run.toml"]
        config, _ = train_config([*argv, "--resume", "run"])
        for name, value in values.items():
            assert value_in(config, name) == value, name


@pytest.mark.parametrize("name", REFUSED[2])
def test_a_resumed_run_refuses(here, name):
    value = TABLE[name][0]
    Path("run.toml").write_text(tomli_w.dumps(nested(name, value)))
    for argv in (flag(name, value), ["run.toml"]):
        with pytest.raises(ConfigError, match=rf"\[config\] {name}.*resumed.*Hint") as refused:
            train_config([*argv, "--resume", "run"])
        assert "\n" not in str(refused.value)


def test_what_a_resumed_run_may_say_again(here):
    was = flatten(read_config(Path("run")))
    again = {name: was[name] for name in REFUSED[2]}
    Path("run.toml").write_text(tomli_w.dumps(read_config(Path("run"))))
    for argv in (typed(again), ["run.toml"]):
        config, _ = train_config([*argv, "--resume", "run"])
        for name, value in again.items():
            assert value_in(config, name) == ("run" if name == "out" else value), name


def test_a_resumed_run_writes_nowhere_that_its_folder_says(here, root):
    settings = {**to_settings(TrainConfig.from_preset("bytes")), "trace": "../t.json", "out": "/x"}
    (root / "other").mkdir(exist_ok=True)
    (root / "other" / "config.toml").write_text(tomli_w.dumps(settings))
    config, _ = train_config(["--resume", "other"])
    assert (config.trace, config.out) == ("", "other")
    assert train_config(["--resume", "other", "--trace", "mine.json"])[0].trace == "mine.json"


def test_a_run_s_own_file_may_be_named_again(here):
    assert train_config(["run/config.toml", "--resume", "run"])[0].out == "run"
    config, origins = train_config(["run/config.toml", "--init", "run", "--out", "new"])
    assert opened(config, named_by(origins)).model == SHAPE


@pytest.mark.parametrize(
    "argv,message",
    [
        (["--prompt", "Once", "--sample-tokens", "0"], "prompt begins the closing sample"),
        (["--breakdown", "--no-timeline"], "breakdown prints what the timeline records"),
        (["--trace", "t", "--on-budget", "checkpoint-restart"], "trace is of one process"),
        (["--swap-after", "0.25"], "swap_after is for plans that compile async"),
        (["--schedule.decay", "0.3"], "schedule.decay is for wsd, and schedule cosine has no"),
        (["--optim.min-lr-ratio", "0", "--schedule.name", "constant"], "does not end there"),
        (["--init", "run", "--resume", "run"], "init cannot change while a run is resumed"),
        (["--chip", "m1", "--device", "ane"], "chip m1 was given with device ane"),
    ],
)
def test_flags_that_leave_each_other_no_effect(here, argv, message):
    with pytest.raises(ConfigError, match=message):
        config, origins = train_config(argv)
        check_pairs(config, wishes_of(config, named_by(origins)))


def test_weights_are_trained_on_by_the_preset_for_it(here):
    """Named so in the first lines and in the run's name: nobody wants tiny's schedule silently."""
    config, origins = train_config(["--init", "run"])
    assert (config.preset, config.steps) == ("finetune", 200)
    assert origins["optim.lr"] == "preset finetune"
    Path("mine.toml").write_text('init = "run"\n')
    assert train_config(["mine.toml"])[0].preset == "finetune"
    assert train_config(["--init", "run", "--preset", "tiny"])[0].preset == "tiny"
    assert train_config([])[0].preset == "tiny"


def test_a_preset_beside_weights_gives_everything_but_the_shape(here):
    config, origins = train_config(["--init", "run", "--preset", "stories260k"])
    assert not [name for name in origins if name.startswith("model.")]
    assert opened(config, named_by(origins)).model == SHAPE and config.optim.lr == 2e-3
    # sequences as long as the weights allow, whatever the preset's model would
    config, _ = train_config(["--init", "run", "--data.seq-len", "512"])
    with pytest.raises(ConfigError, match=r"512 is longer than model.max_seq_len 256"):
        opened(config)


def test_a_model_that_is_passed_is_what_is_trained(here):
    model = Model.load("run")

    def taken(config):
        return model_and_data(config, model, None, None, wishes_of(config))

    config = TrainConfig.from_preset("bytes", data={"source": "stories:5"})
    for changes, message in (
        ({"model": {"dim": 64}}, "model.dim 64 was named"),
        ({"model": {"rope_theta": 5e5}}, "model.rope_theta 500000.0 was named"),
        ({"init": "run"}, "init run and a model were both given"),
        ({"data": {"source": "stories:5", "tokenizer": "bpe:300"}}, "tokenizer bpe:300 was named"),
    ):
        with pytest.raises(ConfigError, match=message):
            taken(TrainConfig.from_preset("bytes", **changes))
    found, used, _ = taken(config)
    assert used is model and found.model == SHAPE and found.init == GIVEN
    assert (found.data.source, found.data.tokenizer) == ("stories:5", "bytes")


def test_a_device_that_is_passed_is_what_is_recorded(tmp_path):
    chip = Device("host", chip="m1,inputs=any")
    small = {"steps": 1, "dim": 32, "seq_len": 32, "batch": 1, "sample_tokens": 0}
    found = fit("bytes", device=chip, out=tmp_path / "run", **small).run_dir
    config = read_config(found)
    assert (config["device"], config["chip"]) == ("host", "m1,inputs=any")
    for name, value in (("device", "ane"), ("chip", "m2"), ("cache_mb", 7)):
        with pytest.raises(ConfigError, match=f"{name} .* was named"):
            fit(TrainConfig.from_preset("bytes", **{name: value}), device=chip, **small)


def test_what_the_caller_passed_has_no_name_later(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = Model.from_config(SHAPE, open_tokenizer("bytes"), seed=1)
    data = open_data("stories:20", model.tokenizer)
    small = {"batch": 1, "seq_len": 32}
    config = TrainConfig(
        steps=1, eval_batches=1, sample_tokens=0, plan="unfused", out="r",
        optim=dataclasses.replace(TrainConfig().optim, accumulation=1),
        data=dataclasses.replace(TrainConfig().data, **small),
    )  # fmt: skip
    host = Device("host")
    fit(config, model=model, data=data, device=host)
    recorded = train_config(["--resume", "r"])[0]
    assert (recorded.data.source, recorded.data.tokenizer) == (GIVEN, "bytes")
    assert (recorded.device, recorded.preset, recorded.model) == ("host", "", SHAPE)
    with pytest.raises(
        ConfigError, match=r"data of r was an object passed to fit.* pass data= to fit again"
    ):
        fit(recorded.replace(steps=2))
    fit(recorded.replace(steps=2), data=data)
    assert train_config(["--resume", "r"])[0].data.source == GIVEN
    for missing, argv in (("data", []), ("model", ["--data", "stories:20"])):
        with pytest.raises(
            ConfigError, match=f"the {missing} of these settings was an object passed to fit"
        ):
            fit(train_config(["r/config.toml", "--out", "new", *argv])[0])
    for name, value in (("val_fraction", 0.3), ("collapse_spaces", True)):
        with pytest.raises(ConfigError, match=f"data.{name} was given, but the data that was"):
            changed = dataclasses.replace(config.data, **{name: value})
            fit(config.replace(out="x", data=changed), data=data)
    with pytest.raises(ConfigError, match="the data of these settings was an object passed to fit"):
        named = dataclasses.replace(config.data, source="stories:9", tokenizer=GIVEN)
        fit(config.replace(out="x", data=named))
    other = Model.from_config(SHAPE.replace(vocab_size=300), open_tokenizer("bytes"))
    other.tokenizer = Other()
    with pytest.raises(ConfigError, match="expected data in the ids of the model's tokenizer"):
        fit(config.replace(out="x"), model=other, data=data)


class Other:
    """A tokenizer that is not the bytes' one."""

    name, vocab_size, bos_id, eos_id = "other", 300, 1, 2

    def encode(self, text, bos=True, eos=False):
        return [1, *(b + 3 for b in text.encode())]

    def save(self, folder):
        path = Path(folder) / "tokenizer.other"
        path.write_text("other")
        return path

    def piece(self, token, previous=None):
        return b""

    decode_bytes = decode = piece


def test_the_defaults_have_one_source():
    plain = TrainConfig()
    assert plain.preset == "" and plain == TrainConfig(**{})
    for name in ("bytes", "stories15m"):
        with pytest.raises(ConfigError, match=f"preset {name} is named, but none of its settings"):
            TrainConfig(preset=name)
        with pytest.raises(ConfigError, match="preset cannot change"):
            TrainConfig.from_preset("stories42m").replace(preset=name)
    assert train_config([])[0] == TrainConfig.from_preset("tiny")
    flags = "--init m.gguf --steps 3 --seq-len 64 --batch 1 --lr 5e-5 --warmup-steps 2"
    assert train_config(flags.split())[0].preset == "finetune"
    assert train_config([*flags.split(), "--accumulation", "2"])[0].preset == ""  # nothing is left
    data, optim = {"seq_len": 64, "batch": 1}, {"lr": 5e-5, "warmup_steps": 2, "accumulation": 2}
    assert TrainConfig.from_preset("finetune", steps=3, data=data, optim=optim).preset == ""
    defaults = {
        (open_data, "val_fraction"): plain.data.val_fraction,
        (open_data, "seed"): plain.data.seed,
        (open_data, "collapse_spaces"): plain.data.collapse_spaces,
        (open_data, "packing"): plain.data.packing,
        (open_data, "boundaries"): plain.data.boundaries,
        (Model.from_config, "seed"): plain.seed,
        (Model.training_step, "accumulation"): plain.optim.accumulation,
        (Device, "name"): plain.device,
        (Device, "chip"): plain.chip,
        (Device, "cache_bytes"): plain.cache_mb << 20,
    }
    for (call, name), value in defaults.items():
        assert signature(call).parameters[name].default == value, name


def test_values_that_numpy_and_pathlib_give_are_taken():
    config = TrainConfig(steps=np.int64(3), swap_after=np.float32(0.5), out=Path("x"))
    assert (config.steps, config.swap_after, config.out) == (3, 0.5, "x")
    assert all(type(v) in (int, float, str) for v in (config.steps, config.swap_after, config.out))


@pytest.mark.parametrize("bad", ["a\udcff", "a\0b"])
def test_text_that_no_file_can_hold_is_refused(bad):
    for build in (lambda: TrainConfig(prompt=bad), lambda: TrainConfig(out=bad)):
        with pytest.raises(ConfigError, match="expected text that UTF-8 can hold") as refused:
            build()
        str(refused.value).encode()
