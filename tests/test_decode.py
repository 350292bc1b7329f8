"""The loop that continues ids: speculation changes nothing, stops stop, a full context is said."""

from __future__ import annotations

import numpy as np
import pytest

import anefast
from anefast import _C
from anefast.config import ModelConfig
from anefast.decode import Made, StopText, drafts_line, side_by_side
from anefast.drafts import HOPE, Lookup, Pace
from anefast.formats import save_folder
from anefast.generate import GenerateConfig, generate
from anefast.loading import ModelError
from anefast.models import init_params
from anefast.runtime import Device
from anefast.sampling import Choice, sample

CHOICES = [
    {"temperature": 0.0},
    {"temperature": 0.8, "top_p": 0.9},
    {"temperature": 1.0, "top_p": 1.0, "top_k": 5},
    {"temperature": 0.6, "min_p": 0.05, "repetition_penalty": 1.2},
]


DRAFTS = ("drafted", "accepted")


@pytest.fixture(scope="module")
def model():
    """Drawn, with a head so loud that it repeats itself: drafts are often right, or wrong."""
    config = ModelConfig(
        dim=32, n_layers=2, n_heads=4, n_kv_heads=2, hidden_dim=64, vocab_size=259, max_seq_len=160
    )
    params = init_params(config, 4)
    params["tok_embeddings"] *= 6
    return anefast.Model(config, params, anefast.open_tokenizer("bytes"))


@pytest.fixture(scope="module")
def other(model):
    """A smaller model with the same tokenizer and a shorter context, which is seldom right."""
    config = model.config.replace(n_layers=1, max_seq_len=64)
    return anefast.Model(config, init_params(config, 9), anefast.open_tokenizer("bytes"))


def any_choice(rng, number):
    """Settings of every kind beside each other; a fifth of them takes the likeliest token."""
    return {
        "temperature": float(rng.choice([0, 0.3, 0.7, 1.0, 1.5])),
        "top_k": int(rng.choice([0, 0, 1, 3, 40])),
        "top_p": float(rng.choice([0.2, 0.6, 0.95, 1.0])),
        "min_p": float(rng.choice([0, 0, 0.02, 0.3])),
        "repetition_penalty": float(rng.choice([1, 1, 0.8, 1.3])),
        "seed": number,
    }


@pytest.mark.parametrize(
    "chip, prompts", [("", 40), ("m4", 8), pytest.param("", 1000, marks=pytest.mark.slow)]
)
def test_speculation_changes_no_text(model, other, chip, prompts):
    """Of a text's own drafts, or, for every fifth, of another model's or of the model itself."""
    device, fresh = Device("host", chip=chip), np.random.default_rng(2)
    made = {draft: Made() for draft in ("", "other", "itself")}
    for number in range(prompts):
        length = int(fresh.integers(1, 40))
        prompt = [1, *(int(i) for i in fresh.integers(3, 9, length))]
        how = any_choice(fresh, number) | {"tokens": 40, "device": device}
        plain = list(model.stream(prompt, speculate=False, **how))
        draft = "" if number % 5 else ("other", "itself")[number % 2]
        by = {"": None, "other": other, "itself": model}[draft]
        assert list(model.stream(prompt, draft=by, made=made[draft], **how)) == plain, (number, how)
    assert all(one.drafted for one in made.values())
    drafted, accepted = (sum(getattr(m, what) for m in made.values()) for what in DRAFTS)
    assert 0 < accepted < drafted
    assert sum(m.evaluations for m in made.values()) < sum(m.tokens for m in made.values())
    assert f"{accepted} of {drafted} drafted" in drafts_line(made.values())
    assert drafts_line([Made(tokens=3)]) == ""


def test_drafts_are_what_followed():
    lookup = Lookup([5, 6, 7, 8, 9, 5, 6, 7])
    assert lookup.draft(7) == [8, 9, 5, 6, 7]
    assert lookup.draft(2) == [8, 9]
    lookup.push(4)
    assert lookup.draft(7) == []


def test_as_many_drafts_are_made_as_are_worth_their_time():
    pace = Pace(7)
    assert pace.worth(1, 0.0) == 7  # nothing is known
    for columns in range(1, 9):
        pace.took(columns, 1.0)
    assert pace.worth(1, 0.0) == 7  # they are free
    assert pace.worth(1, 10.0) == 0  # each of them takes longer than ten tokens
    for columns in range(1, 9):
        pace.took(columns, 0.1 * columns)
    assert pace.worth(1, 0.0) == 0  # as many tokens take as long
    for columns in range(1, 9):
        pace.took(columns, 0.1 * (1 + columns // 5))
    assert pace.worth(1, 0.0) == 3
    assert pace.worth(4, 0.0) == 7  # so many columns were never tried
    pace.took(32, 9.0)
    assert pace.worth(4, 0.0) == 0
    before = pace._rate
    pace.learn(4, 4)
    assert pace._rate > before == HOPE
    for _ in range(80):
        pace.learn(4, 0)
    assert pace.worth(1, 0.001) == 0  # they are never right
    for _ in range(200):
        pace.learn(0, 0)
    assert pace.worth(1, 0.001) > 0  # and tried again


@pytest.mark.parametrize("chip", ["", "m4"])
def test_a_model_that_drafts_changes_no_text(model, other, chip):
    """Itself, which is right where the likeliest token is drawn, and another, which seldom is."""
    device = Device("host", chip=chip)
    for number, how in enumerate(CHOICES):
        how = how | {"seed": number, "tokens": 70, "device": device}
        plain = list(model.stream("ab", speculate=False, **how))
        for draft in (model, other):
            made = Made()
            assert list(model.stream("ab", draft=draft, made=made, **how)) == plain, how
            assert made.drafted
        if how["temperature"] == 0:
            own = Made()
            list(model.stream("ab", draft=model, made=own, **how))
            assert own.accepted == own.drafted > 0 and own.evaluations < own.tokens
    fewer = anefast.Model.from_config(model.config.replace(vocab_size=258), FewerIds(), 3)
    with pytest.raises(ModelError, match="a draft model with the tokenizer of the model"):
        model.stream("ab", draft=fewer)


class FewerIds(type(anefast.open_tokenizer("bytes"))):
    vocab_size = 258


@pytest.mark.parametrize("chip", ["", "m4"])
@pytest.mark.parametrize("speculate", [True, False])
def test_texts_side_by_side_are_those_of_each_alone(model, chip, speculate):
    """Of every seed, with other settings and prompts beside them, whether they end early or not."""
    device = Device("host", chip=chip)
    asked = [
        (prompt, Choice(seed=seed, **how), tokens)
        for seed, how in enumerate(CHOICES)
        for prompt, tokens in [("ab", 30), ("ab", 5), ("a longer prompt", 20)]
    ]
    texts = [
        model.text(prompt, choice, tokens, speculate=speculate, device=device)
        for prompt, choice, tokens in asked
    ]
    found = [[] for _ in texts]
    for i, token in side_by_side(model.kept(device), texts):
        found[i].append(token)
    for (prompt, choice, tokens), got in zip(asked, found, strict=True):
        alone = model.text(prompt, choice, tokens, speculate=False, device=device)
        assert got == [t for _, t in side_by_side(model.kept(device), [alone])]
    assert all(found)


def test_many_samples_of_the_command_are_those_of_each_seed(model, monkeypatch, capsys):
    monkeypatch.setattr(anefast.Model, "load", lambda *_: model)
    how = {"prompt": "ab", "tokens": 24, "device": "host", "stop": ("q",)}
    alone = []
    for seed in range(5, 9):
        generate(GenerateConfig("m", seed=seed, **how))
        alone.append(capsys.readouterr().out)
    generate(GenerateConfig("m", seed=5, num=4, log_probabilities=True, **how))
    out, err = capsys.readouterr()
    assert out == "".join(alone) and len(set(alone)) > 1
    assert [f"--- seed {seed}\n" in err for seed in range(4, 10)] == [False, *[True] * 4, False]
    assert 2 < err.count("mean log-probability") <= 4  # one of them may be empty
    assert err.count(" of cache\n") == 1


@pytest.mark.parametrize("speculate", [True, False])
def test_a_full_context_slides_on_request(model, caplog, speculate):
    """The text goes on as from a prompt of what is left: its first token and its newer half."""
    limit, device = model.config.max_seq_len, Device("host")
    prompt = [1, *[70, 71, 75] * 50]
    how = {"temperature": 0.9, "top_k": 3, "device": device, "speculate": speculate}
    made = list(model.stream(prompt, 300, slide=True, seed=4, **how))
    assert len(made) == 300 and not caplog.messages
    ids, rng, begin = list(prompt), np.random.default_rng(4), 0
    inference = model.inference(device)
    hide = model.choices()
    for token in made:
        if len(ids) - begin + (begin > 0) > limit:
            begin = len(ids) - (limit // 2 - 1)
        context = ids if begin == 0 else [1, *ids[begin:]]
        logits = inference.logits(context)
        row = logits if hide is None else hide.hide(logits)
        assert sample(row, 0.9, 3, 0.95, rng) == token, len(ids)
        ids.append(token)
    inference.close()


def test_a_second_text_compiles_nothing(model):
    device = Device("host")
    first = model.generate("ab", tokens=8, seed=3, device=device)
    compiles = device.programs.counters.compiles
    assert model.generate("ab", tokens=8, seed=3, device=device) == first
    assert list(model.stream("abab", tokens=8, device=device))
    assert device.programs.counters.compiles == compiles > 0
    name = "layers.0.ffn.w2"
    kept = model.params[name].copy()
    model.params[name] *= -9  # training changes weights in place
    changed = model.generate("ab", tokens=8, seed=3, device=device)
    assert device.programs.counters.compiles > compiles
    model.params[name][...] = kept
    again = model.generate("ab", tokens=8, seed=3, device=device)
    assert again == first != changed
    model.close()


def test_a_second_text_of_a_model_in_a_file_has_the_programs_of_the_first(model, tmp_path):
    """Weights are read from it when they are first used, which is no change."""
    save_folder(tmp_path / "hf", model.config, model.params, "F32")
    loaded, device = anefast.Model.load(tmp_path / "hf", "bytes"), Device("host")
    inference = loaded.kept(device)
    first = loaded.generate("ab", tokens=8, seed=3, device=device)
    assert loaded.kept(device) is inference and inference.evaluations
    assert loaded.generate("ab", tokens=8, seed=3, device=device) == first
    loaded.close()


def test_a_full_context_is_said(model, caplog):
    made = Made()
    limit = model.config.max_seq_len
    prompt = [1, *[70] * (limit - 4)]
    tokens = list(model.stream(prompt, tokens=50, temperature=0, made=made))
    assert len(tokens) == 4 and made.full  # one after every prefix of up to max_seq_len
    assert [m for m in caplog.messages if f"context of {limit} tokens is full" in m]


def test_log_probabilities_are_the_models_own(model):
    made, device = Made(keeps=True), Device("host")
    prompt = [1, 70, 71]
    tokens = list(model.stream(prompt, 12, 0.9, 0, 0.5, 1, device, made=made))
    inference = model.inference(device)
    for i, (token, said) in enumerate(zip(tokens, made.log_probabilities, strict=True)):
        logits = inference.logits(prompt + tokens[:i]).astype(np.float64)
        top = logits.max()
        assert said == pytest.approx(logits[token] - top - np.log(np.exp(logits - top).sum()))
    inference.close()


def test_texts_end_at_stop_strings(model):
    text = model.generate("ab", tokens=30, seed=9)
    made = text[len("ab") :]
    stop = made[3:5]
    assert len(made) > 6
    assert model.generate("ab", tokens=30, seed=9, stop=[stop]) == "ab" + made[: made.find(stop)]
    with pytest.raises(ValueError, match="stop"):
        model.generate("ab", stop="x")


def test_what_may_become_a_stop_is_held_back():
    end = StopText(["</s>", "###"])
    assert [end.push(p) for p in ("a<", "/s", "b#", "#c", "##")] == ["a", "", "</sb", "##c", ""]
    assert end.close() == "##" and not end.met
    assert [end.push(p) for p in ("x##", "#y")] == ["x", ""] and end.met and end.close() == ""


def test_draws_are_distributed_as_they_should_be():
    """Chi-square over every token that may come, a bound passed once in a million."""
    rng, logits = np.random.default_rng(8), np.array([2, 1.5, 0, 1, -1, -2, 1.5], np.float32)
    n = 20_000
    for how in ({}, {"temperature": 0.5}, {"top_k": 4}, {"top_p": 0.8}, {"min_p": 0.2}):
        weights = np.exp(logits.astype(np.float64) / how.get("temperature", 1))
        order = np.argsort(-weights, kind="stable")[: how.get("top_k", len(logits))]
        shares = weights[order] / weights[order].sum()
        before = np.cumsum(shares) - shares
        kept = order[(before < how.get("top_p", 1)) & (shares >= how.get("min_p", 0) * shares[0])]
        expected = n * weights[kept] / weights[kept].sum()
        drawn = np.bincount([sample(logits, rng=rng, **how) for _ in range(n)], minlength=7)
        assert drawn.sum() == drawn[kept].sum()
        chi2 = float(((drawn[kept] - expected) ** 2 / expected).sum())
        assert chi2 < {2: 24, 3: 28, 4: 31, 5: 34, 7: 39}[len(kept)], (how, chi2)


def test_penalties_count_each_id_once():
    logits = np.array([2, -2, 1, 0], np.float32)
    _C.penalise(logits, np.array([0, 1, 0, 3, 99], np.int32), 2.0)
    assert logits.tolist() == [1, -4, 1, 0]
