"""Sequences that end with their document: each token is learnt once, none reads another one."""

from __future__ import annotations

import numpy as np
import pytest

import anefast
from anefast.data import DataError, open_data

from .test_judges import CONFIGS

LENGTHS = (1, 20, 31, 32, 33, 64, 90, 7, 5, 40)
TEXTS = ["abcdefghij"[i] * n for i, n in enumerate(LENGTHS)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("boundaries") / "a.txt"
    path.write_text("<|endoftext|>".join(TEXTS))
    return open_data(path, boundaries=True, val_fraction=0.2)


def test_every_token_of_a_document_is_predicted_once(data):
    batches = data.batches(1, 32, order="sequential")
    count = batches.epoch.size
    seen = [batches.batch(n) for n in range(count)]
    targets = [y[0][y[0] >= 0] for _, y in seen]
    ends = data.tokenizer.eos_id
    told = [[*data.tokenizer.encode(text, bos=False), ends] for text in TEXTS[:8]]
    assert np.concatenate(targets).tolist() == [token for text in told for token in text]
    assert count == sum(-(-(n + 1) // 32) for n in LENGTHS[:8])
    for x, y in seen:  # of one letter each, and the next token is what comes next
        assert len(set(x[0][y[0] >= 0]) - {data.tokenizer.bos_id}) <= 1
        known = y[0][:-1] >= 0
        assert (x[0][1:][known] == y[0][:-1][known]).all()


def test_validation_reads_to_the_end_as_well(data):
    learnt = sum(int((y >= 0).sum()) for _, y in data.validation_batches(2, 32))
    assert learnt == sum(n + 1 for n in LENGTHS[8:])


@pytest.mark.parametrize("plan", ["unfused", "layer,recompute", "all,weights=params"])
def test_no_loss_hangs_on_another_document(data, plan):
    """To the byte, under any cut: the losses of a document are those that it has alone."""
    config, device = CONFIGS["gqa"], anefast.Device("host")
    model = anefast.Model.from_config(config.replace(vocab_size=259), data.tokenizer, seed=1)
    step = model.training_step(device, 2, 32, plan)
    batches = data.batches(1, 32, order="sequential")
    (x, y), others = batches.batch(3), (batches.batch(1), batches.batch(6))
    losses = set()
    for other_x, other_y in others:
        pair = np.concatenate([x, other_x]), np.concatenate([y, np.full_like(other_y, -1)])
        losses.add(step.evaluate(*pair))
    step.close()
    assert len(losses) == 1


def test_all_plans_give_the_same_loss_and_gradients(data):
    x, y = data.batches(2, 32).batch(0)
    model = anefast.Model.from_config(
        CONFIGS["gqa"].replace(vocab_size=259), data.tokenizer, seed=1
    )
    found = set()
    for plan in ("unfused", "layer,recompute", "all", "all,weights=params"):
        step = model.training_step(anefast.Device("host"), 2, 32, plan)
        loss = step.micro_step(x, y, 64.0)
        step.wait()
        found.add((loss, b"".join(g.tobytes() for g in step.grads.values())))
        step.close()
    assert len(found) == 1


def test_only_documents_have_boundaries(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 4)
    with pytest.raises(DataError, match=r"leave out data\.boundaries: no example attends"):
        open_data(tmp_path / "a.jsonl", boundaries=True)
    (tmp_path / "a.bin").write_bytes(np.arange(3, 99, dtype=np.uint16).tobytes())
    with pytest.raises(DataError, match=r"leave out data\.packing and data\.boundaries"):
        open_data(tmp_path / "a.bin", boundaries=True)
