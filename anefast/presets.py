"""Named starting points: the settings in which each differs from the defaults in config/.

Not a second set of defaults: whatever a preset does not mention comes from the dataclasses. The
shapes of the stories family are those of the public llama2.c checkpoints; their vocabularies are
512 and 32,000 pieces.
"""

from __future__ import annotations

from typing import Any

from anefast.checks import ConfigError, suggest

TINY, BYTES = "tiny", "bytes"
FINETUNE = "finetune"  # what the command starts from where weights are there already

# Small models are updated often: one accumulated batch of a few thousand tokens is plenty for them,
# and on the host executor an update costs no recompilation, which is what the default of 100 micro-
# batches is there to spread.
_PRESETS: dict[str, dict[str, Any]] = {
    # The default run: learns to tell the built-in stories in about a minute on two slow cores.
    # Every word of theirs is one token, and a whole story is at most 224. A model repeats names
    # only after a plateau of the loss. With seed 4, AdamW with three layers and heads of 32 left it
    # after some 2,500 updates, with two layers and heads of 64 after 1,300, Muon with these after
    # 900. At a loss scale of 128 some run overflowed.
    TINY: {
        "steps": 2200,
        "eval_every": 250,
        "eval_batches": 12,
        "prompt": "Once",
        "sample_tokens": 220,
        "model": {
            "dim": 64,
            "n_layers": 2,
            "n_heads": 2,
            "head_dim": 64,
            "max_seq_len": 256,
            "init_std": 0.07,
        },
        "data": {
            "source": "stories:8000",
            "tokenizer": "words",
            "seq_len": 224,
            "batch": 8,
            "packing": False,
            "compact_vocab": True,
        },
        "optim": {"name": "muon", "lr": 6e-3, "warmup_steps": 20, "accumulation": 1},
        "loss_scale": {"initial": 64.0, "maximum": 64.0},
    },
    # For any text, as it needs no vocabulary. So narrow a model starts slowly at the usual init_std
    # of 0.02: 300 updates on the built-in stories reach 1.36 nats with it, 1.07 with 0.04.
    BYTES: {
        "steps": 1000,
        "eval_every": 200,
        "model": {"dim": 128, "n_layers": 3, "n_heads": 4, "max_seq_len": 256, "init_std": 0.05},
        "data": {"seq_len": 128, "batch": 8},
        "optim": {"lr": 3e-3, "warmup_steps": 20, "accumulation": 1},
    },
    # A model that is trained already goes on, on a text of a few thousand to a million tokens. Its
    # shape is its own.
    FINETUNE: {
        "steps": 200,
        "data": {"seq_len": 256, "batch": 4},
        "optim": {"lr": 1e-4, "warmup_steps": 10, "accumulation": 4},
    },
    "stories260k": {
        "steps": 400,
        "eval_every": 50,
        "model": {
            "dim": 64,
            "n_layers": 5,
            "n_heads": 8,
            "n_kv_heads": 4,
            "hidden_dim": 172,
            "vocab_size": 512,
            "max_seq_len": 512,
        },
        "data": {"seq_len": 128, "batch": 16},
        "optim": {"lr": 2e-3, "warmup_steps": 50, "accumulation": 1},
    },
    "stories15m": {
        "steps": 2000,
        "eval_every": 100,
        "model": {
            "dim": 288,
            "n_layers": 6,
            "n_heads": 6,
            "hidden_dim": 768,
            "vocab_size": 32000,
            "max_seq_len": 256,
        },
        "data": {"seq_len": 256, "batch": 4},
        # 4 * 256 * 32 = 32,768 tokens per update
        "optim": {"lr": 5e-4, "warmup_steps": 200, "accumulation": 32},
    },
    "stories42m": {
        "steps": 5000,
        "eval_every": 250,
        "model": {
            "dim": 512,
            "n_layers": 8,
            "n_heads": 8,
            "hidden_dim": 1376,
            "vocab_size": 32000,
            "max_seq_len": 1024,
        },
        "data": {"seq_len": 256, "batch": 2},
        "optim": {"lr": 5e-4, "warmup_steps": 500},
    },
    "stories110m": {
        "steps": 10000,
        "eval_every": 500,
        "model": {
            "dim": 768,
            "n_layers": 12,
            "n_heads": 12,
            "hidden_dim": 2048,
            "vocab_size": 32000,
            "max_seq_len": 1024,
        },
        "data": {"seq_len": 256, "batch": 1},
        "optim": {"lr": 4e-4, "warmup_steps": 1000},
    },
    # rope_theta 100000 and eps 1e-5 as in the published config.json of the base model. Its own
    # weights use RoPE over halves, ours over neighbouring pairs: importing them permutes the rows
    # of wq and wk.
    "smollm2-135m": {
        "steps": 10000,
        "eval_every": 500,
        "model": {
            "dim": 576,
            "n_layers": 30,
            "n_heads": 9,
            "n_kv_heads": 3,
            "hidden_dim": 1536,
            "vocab_size": 49152,
            "max_seq_len": 2048,
            "rope_theta": 100000.0,
        },
        "data": {"seq_len": 256, "batch": 1},
        "optim": {"lr": 4e-4, "warmup_steps": 1000},
    },
}


def default_preset(source: str) -> str:
    """The preset of a command that names none: for the built-in stories' words, or for any text."""
    return TINY if source.partition(":")[0] in ("", "stories") else BYTES


def preset_names() -> list[str]:
    """The names `--preset` takes."""
    return list(_PRESETS)


def preset_settings(name: str) -> dict[str, Any]:
    """The settings of preset `name`, as nested dicts. ConfigError with a suggestion if unknown."""
    if name not in _PRESETS:
        hint = suggest(name, _PRESETS) or f" Hint: one of {', '.join(_PRESETS)}."
        raise ConfigError(f"[config] unknown preset {name!r}.{hint}")
    return {k: dict(v) if isinstance(v, dict) else v for k, v in _PRESETS[name].items()}
