"""Training over the ids that occur: the full model whose softmax leaves the others out."""

from __future__ import annotations

import numpy as np
import pytest

import anefast
from anefast import checkpoint
from anefast.config import ModelConfig, TrainConfig
from anefast.models import Vocabulary, init_params
from anefast.runtime import Device
from anefast.train import fit
from tests.reference import loss_and_grads, relative_error
from tests.sealed import edit_state
from tests.test_resume import everything
from tests.test_resume_model import stop_at

TABLES = {"tok_embeddings", "output"}


def config(out, **changes):
    nested = {
        "model": {"dim": 32, "n_layers": 1, "n_heads": 4, "max_seq_len": 64},
        "data": {"source": "stories:50", "seq_len": 32, "batch": 2, "compact_vocab": True},
        "optim": {"lr": 5e-3, "warmup_steps": 3, "accumulation": 3},
    }
    plain = {"steps": 6, "eval_every": 3, "eval_batches": 2, "sample_tokens": 8, "device": "host"}
    return TrainConfig.from_preset("bytes", **nested, **{**plain, "out": str(out), **changes})


@pytest.mark.parametrize("tied", [True, False])
def test_loss_and_gradients_against_float64(tied):
    """Present rows as in the full model without the absent classes; compact tables, all of them."""
    shape = ModelConfig(
        dim=32, n_layers=1, n_heads=4, hidden_dim=64, vocab_size=500, max_seq_len=32, tied=tied
    )
    rng = np.random.default_rng(4)
    ids = np.sort(rng.choice(500, 77, replace=False)).astype(np.int32)
    x, y = (rng.choice(ids, (2, 32)).astype(np.int32) for _ in "xy")
    params, vocabulary = init_params(shape, 3), Vocabulary(ids, 500)
    model = anefast.Model(shape, params, anefast.open_tokenizer("bytes"))
    step = model.training_step(Device("host"), 2, 32, "all", vocabulary=vocabulary)
    loss, tokens = step.micro_step(x, y, 64.0)
    step.wait()
    absent = np.setdiff1d(np.arange(500), ids)
    want, grads, _ = loss_and_grads(params, shape, x, y, absent)
    assert tokens == 64 and loss == pytest.approx(want, rel=1e-4)
    assert loss < loss_and_grads(params, shape, x, y)[0] - 64  # the full softmax is another loss
    for name, got in step.grads.items():
        if name in TABLES:
            assert got.shape == (77, 32) and not grads[name][absent].any()
        expected = grads[name][ids] if name in TABLES else grads[name]
        assert relative_error(got / 64, expected) < 5e-3, name
    assert step.evaluate(x, y) == (loss, tokens)
    step.close()


def test_a_run_resumes_byte_for_byte_and_leaves_absent_rows_alone(tmp_path):
    whole = fit(config(tmp_path / "whole"))
    assert fit(config(tmp_path / "cut"), on_step=stop_at(4)).interrupted
    again = fit(config(tmp_path / "cut", resume=str(tmp_path / "cut")))
    assert everything(tmp_path / "cut") == everything(tmp_path / "whole")
    assert again.sample == whole.sample

    last = checkpoint.find_checkpoint(tmp_path / "whole")
    shape, params = checkpoint.load_model(last)
    vocabulary = checkpoint.load_vocabulary(last)
    start = init_params(shape, TrainConfig().seed)["tok_embeddings"]
    absent = np.setdiff1d(np.arange(shape.vocab_size), vocabulary.ids)
    assert 0 < len(vocabulary) < shape.vocab_size == len(start) and len(absent) > 100
    assert params["tok_embeddings"][absent].tobytes() == start[absent].tobytes()
    assert (params["tok_embeddings"][vocabulary.ids] != start[vocabulary.ids]).any(1).all()
    moments = {name: a.shape for name, a in params.items()}
    read = checkpoint.read_tensors(
        last / checkpoint.OPTIM,
        {f"{g}.{n}": shape for g in ("mean", "square") for n, shape in moments.items()},
    )
    assert not read["square.tok_embeddings"][absent].any()
    assert read["square.tok_embeddings"][vocabulary.ids].any(1).all()


def test_only_present_ids_are_generated(tmp_path):
    done = fit(config(tmp_path / "run", steps=1))
    loaded = anefast.Model.load(tmp_path / "run")
    assert loaded.vocabulary.ids.tolist() == done.model.vocabulary.ids.tolist()
    for seed in range(3):
        made = list(loaded.stream("Once", tokens=30, temperature=5.0, seed=seed))
        assert set(made) <= set(loaded.vocabulary.ids.tolist())


def test_a_damaged_vocabulary_is_one_line(tmp_path):
    fit(config(tmp_path / "run", steps=1, sample_tokens=0))
    for text in ("zz", "00", 5, "00" * 33):
        folder = checkpoint.find_checkpoint(tmp_path / "run")
        edit_state(folder, **{checkpoint.VOCABULARY: text})
        with pytest.raises(checkpoint.CheckpointError, match="no readable compact_vocab"):
            anefast.Model.load(tmp_path / "run")


def test_a_vocabulary_and_its_inverse():
    rng = np.random.default_rng(0)
    for size in (1, 8, 9, 1000):
        ids = rng.choice(size, rng.integers(1, size + 1), replace=False)
        v = Vocabulary(ids, size)
        assert v.ids.tolist() == sorted(ids) and len(v) == len(ids)
        assert Vocabulary.from_text(v.text(), size).ids.tolist() == v.ids.tolist()
        tokens = rng.choice(ids, (3, 5)).astype(np.int32)
        assert (v.ids[v.compact(tokens)] == tokens).all()
        table = rng.standard_normal((size, 4)).astype(np.float32)
        params = {"tok_embeddings": table, "norm": table[0]}
        rows = v.rows(params)
        assert rows["norm"] is params["norm"] and len(rows["tok_embeddings"]) == len(v)
        assert v.spread(rows, {"tok_embeddings": table.copy()})["tok_embeddings"].tobytes() == (
            table.tobytes()
        )


def test_ids_the_data_does_not_have_are_refused():
    v = Vocabulary(np.array([2, 5]), 8)
    with pytest.raises(ValueError, match="got 3"):
        v.compact(np.array([2, 3], np.int32))
    with pytest.raises(ValueError, match="from 0 to 7"):
        Vocabulary(np.array([2, 8]), 8)
