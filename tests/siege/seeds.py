"""The sound files that the siege damages, made by the commands and writers themselves."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anefast.config import ModelConfig
    from anefast.tokenizer import Llama2cTokenizer

MODEL = (
    "--model.dim 32 --model.n-layers 1 --model.n-heads 2 --model.hidden-dim 64 --data stories:20 "
    "--data.seq-len 32 --data.batch 1 --optim.accumulation 1 --optim.warmup-steps 1 "
    "--checkpoint-every 1 --eval-batches 1 --plan all"
).split()


def make_seeds(seeds: Path) -> None:
    """The sound files, made by the commands themselves."""
    import numpy as np

    from anefast.config import ModelConfig
    from anefast.formats import llama2c
    from anefast.models import init_params
    from anefast.runtime import Device
    from anefast.runtime.calibrate import calibrate
    from anefast.runtime.doctor_facts import Learned, remember
    from anefast.tokenizer import ByteTokenizer, Llama2cTokenizer
    from anefast.train import main

    for name in ("settings", "run", "llama2c", "pieces", "words", "shard", "text", "cache"):
        (seeds / name).mkdir(parents=True)
    os.environ |= {"ANEFAST_CACHE": str(seeds / "cache"), "ANEFAST_DUMP": str(seeds / "dump")}
    with contextlib.suppress(SystemExit):
        out = seeds / "run" / "run"
        main([*MODEL, "--steps", "2", "--sample-tokens", "4", "--out", str(out)])
    del os.environ["ANEFAST_DUMP"]
    shutil.rmtree(out / "step_000001")
    shutil.copy(out / "config.toml", seeds / "settings" / "run.toml")
    device = Device("host")
    calibrate(device)
    remember(device.description, Learned(dialects=("ios18",), dispatch_us=2.5))
    shape = ModelConfig(dim=32, n_layers=2, n_heads=2, hidden_dim=64, vocab_size=259)
    llama2c.save(seeds / "llama2c" / "model.bin", shape, init_params(shape, 0), 0)
    pieces = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *(b"<0x%02X>" % i for i in range(256))]
    pieces += [b" ", b"e", b"t", b"th", b"the", b" the", b"O", b"n", b"On"]
    scored = Llama2cTokenizer(pieces, [-float(i) for i in range(len(pieces))])
    scored.save(seeds / "pieces")
    ByteTokenizer().save(seeds / "words")
    models(seeds, scored)
    ids = np.random.default_rng(0).integers(3, 259, 5000).astype("<u2")
    (seeds / "shard" / "data.bin").write_bytes(ids.tobytes())
    (seeds / "text" / "data.txt").write_text("Once upon a time there was a cat.\n" * 200)


def models(seeds: Path, scored: Llama2cTokenizer) -> None:
    """Models in the formats of others, as our own writers write them."""
    from anefast.config import ModelConfig
    from anefast.formats import save_folder, save_gguf, save_mlx, save_peft
    from anefast.models import init_params
    from anefast.models.adapter import Base, adaptable
    from anefast.models.lora import draw
    from anefast.tokenizer import BPETokenizer, ByteTokenizer
    from anefast.tokenizer.bpe import Marks
    from anefast.tokenizer.huggingface import files_of

    plain = ModelConfig(dim=32, n_layers=1, n_heads=2, hidden_dim=64, vocab_size=259)
    scaled = plain.replace(n_kv_heads=1, rope_scaling="llama3:8,1,4,32", tied=False)
    for name, shape in (("hf", scaled), ("gpt2", plain.replace(family="gpt2", max_seq_len=32))):
        save_folder(seeds / name, shape, init_params(shape, 0), "F16", ByteTokenizer())
    save_folder(seeds / "shards", plain, init_params(plain, 0), "BF16")
    weights = "model-00001-of-00001.safetensors"
    (seeds / "shards" / "model.safetensors").rename(seeds / "shards" / weights)
    head = (seeds / "shards" / weights).read_bytes()
    listed = json.loads(head[8 : 8 + int.from_bytes(head[:8], "little")])
    index = {"weight_map": {n: weights for n in listed if n != "__metadata__"}}
    (seeds / "shards" / "model.safetensors.index.json").write_text(json.dumps(index))
    (seeds / "gguf").mkdir()
    save_gguf(
        seeds / "gguf" / "model.gguf", scaled, init_params(scaled, 0), "Q8_0", ByteTokenizer()
    )
    shape = adapted_shape()
    adapter = draw(4, 8.0, False, adaptable(shape), Base("a/model", "ab" * 32), seed=0)
    save_peft(seeds / "peft", adapter, shape)
    save_mlx(seeds / "mlx", adapter, shape, "F16")
    trained = BPETokenizer.train(["Once upon a time the cat sat. " * 20], 280)
    template = (
        "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] | trim }}</s>{% endfor %}"
    )
    marks = Marks("<s>", "</s>", True, template)
    described = json.dumps(trained.description())
    (seeds / "chat").mkdir()
    BPETokenizer(described, "bpe:280", marks).save(seeds / "chat")
    merged = BPETokenizer(files_of(scored)["tokenizer.json"].decode(), "merged", marks)
    shape = plain.replace(vocab_size=merged.vocab_size)
    (seeds / "scores").mkdir()
    save_gguf(seeds / "scores" / "model.gguf", shape, init_params(shape, 0), "F32", merged)


def adapted_shape() -> ModelConfig:
    from anefast.config import ModelConfig

    return ModelConfig(
        family="gpt2", dim=32, n_layers=1, n_heads=2, hidden_dim=64, vocab_size=259, max_seq_len=32
    )
