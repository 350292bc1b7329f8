"""Suggests settings for a name that no setting has.

Names that people bring along from other trainers are in a table; others are compared whole and by
the part after the dot. Nothing close means no suggestion: a wrong one is worse than none.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher

# Ours: what others call it. Of two settings, the first that the command has is meant.
_OTHERS: dict[tuple[str, ...], str] = {
    ("optim.lr",): "learning_rate max_lr peak_lr lr_max eta step_size",
    ("data.batch", "batch"): "batch_size micro_batch_size micro_batch device_batch_size bs bsz "
    "per_device_train_batch_size per_device_batch_size train_batch_size minibatch_size",
    ("steps",): "max_iters max_steps num_steps n_steps iterations num_iterations iters n_iters "
    "train_steps total_steps updates num_updates max_updates max_iterations",
    ("data.seq_len", "seq_len"): "seq context_length context block_size sequence_length seq_length "
    "max_length n_ctx ctx ctx_len context_size sequence_len max_sequence_length",
    ("model.max_seq_len",): "max_position_embeddings",
    ("model.n_layers",): "n_layer num_layers layers num_hidden_layers depth num_layer",
    ("model.n_heads",): "n_head num_heads heads num_attention_heads num_head",
    ("model.n_kv_heads",): "n_kv_head num_kv_heads num_key_value_heads kv_heads",
    ("model.dim",): "n_embd n_embed d_model hidden_size embed_dim embedding_dim width emb_dim",
    ("model.hidden_dim",): "intermediate_size ffn_dim d_ff mlp_dim ffn_hidden ff_dim",
    ("model.vocab_size",): "vocab n_vocab vocabulary_size vocabulary",
    ("model.rope_theta",): "theta rope_base rope_freq_base",
    ("model.norm_eps",): "rms_norm_eps layer_norm_eps layernorm_eps",
    ("model.tied",): "tie_word_embeddings tie_embeddings weight_tying tie_weights",
    ("optim.accumulation", "accumulation"): "grad_accum grad_accumulation gradient_accumulation "
    "gradient_accumulation_steps accumulate_grad_batches accumulation_steps grad_accum_steps "
    "grad_acc accum accumulate gas",
    ("optim.clip",): "grad_clip max_grad_norm clip_grad gradient_clip grad_norm_clip clip_norm "
    "gradient_clip_val max_norm",
    ("optim.warmup_steps",): "warmup warmup_iters num_warmup_steps lr_warmup_steps warm_up",
    ("optim.min_lr_ratio",): "min_lr lr_min",
    ("optim.weight_decay",): "wd decay",
    ("optim.name",): "optimizer optimiser optim opt optim_type",
    ("schedule.name",): "lr_scheduler lr_scheduler_type scheduler schedule lr_schedule",
    ("optim.beta1",): "adam_beta1 beta_1",
    ("optim.beta2",): "adam_beta2 beta_2",
    ("optim.eps",): "adam_eps adam_epsilon epsilon",
    ("data",): "dataset train_data train_file input input_file data_dir data_path data_file file "
    "text corpus train",
    ("tokenizer",): "tokenizer_path tokenizer_file tokenizer_name vocab_file tok",
    ("out",): "output output_dir out_dir outdir save_dir save_path checkpoint_dir run_dir logdir "
    "log_dir save",
    ("eval_every",): "eval_interval eval_steps val_every validate_every val_interval "
    "evaluation_steps val_check_interval",
    ("eval_batches",): "eval_iters val_batches val_steps limit_val_batches",
    ("checkpoint_every",): "save_every save_steps save_interval ckpt_interval "
    "checkpoint_interval save_freq",
    ("keep_last",): "save_total_limit keep max_checkpoints keep_checkpoints",
    ("init", "model"): "init_from checkpoint ckpt from_checkpoint pretrained load model_path "
    "finetune model_file weights from_pretrained",
    ("resume",): "resume_from resume_from_checkpoint continue continue_from restart",
    ("seed",): "random_seed manual_seed rng_seed random_state",
    ("sinks",): "wandb tensorboard trackio logger report_to wandb_project",
    ("timeline",): "profile profiler",
    ("tokens",): "max_tokens max_new_tokens num_tokens n_tokens length max_length n n_predict "
    "sample_tokens steps num_steps",
    ("sample_tokens",): "max_new_tokens sample_length",
    ("temperature",): "temp t",
    ("top_k",): "topk k",
    ("top_p",): "topp p nucleus",
    ("prompt",): "start text input prefix i",
    ("device",): "accelerator backend",
    ("model",): "preset",
    ("preset",): "model model_name model_size size arch architecture model_type",
}
# What there is no setting for, and what to do instead.
_ABSENT: dict[str, str] = {
    word: said
    for words, said in {
        "epochs num_epochs num_train_epochs max_epochs n_epochs epoch": "the length of a run is "
        "--steps, in updates; the line `epochs:` says how often that reads the data",
        "dropout attn_dropout attention_dropout hidden_dropout": "there is no dropout here; fewer "
        "--steps, a smaller model or more --optim.weight-decay hold overfitting back",
        "dtype precision fp16 bf16 amp mixed_precision": "there is one precision: fp16 on the "
        "device and fp32 on the CPU",
        "warmup_ratio": "--optim.warmup-steps takes a number of updates",
        "gpu gpus num_gpus cuda": "--device is auto, ane or host",
        "num_workers workers dataloader_num_workers threads num_threads": "the environment's "
        "ANEFAST_NUM_THREADS sets the number of threads",
    }.items()
    for word in words.split()
}  # fmt: skip
_ALIASES: dict[str, list[str]] = {}
for _ours, _words in _OTHERS.items():
    for _word in _words.split():
        _ALIASES.setdefault(_word, []).extend(_ours)


def hint(word: str, known: Iterable[str], flags: bool = False) -> str:
    """' Hint: ...' for a name that is not among `known`, or ''.

    >>> hint("learning_rate", ["optim.lr", "plan"])
    ' Hint: did you mean optim.lr?'
    >>> hint("--lr", ["--optim.lr", "--plan"], flags=True)
    ' Hint: did you mean --optim.lr?'

    flags: names begin with `--` and have dashes, and so has the answer.
    """
    asked = _plain(word)
    names = {_plain(name): name for name in known}
    tail = _tail(asked)
    for alias in (asked, tail, tail.removeprefix("no_")):
        if found := next((names[t] for t in _ALIASES.get(alias, ()) if t in names), None):
            return _meant([found])
        if alias in _ABSENT:
            return f" Hint: {_ABSENT[alias]}."
    if same := [name for key, name in names.items() if _tail(key) == tail]:
        return _meant(same[:2])
    scored = sorted(((_likeness(asked, key), name) for key, name in names.items()), reverse=True)
    return _meant([scored[0][1]]) if scored and scored[0][0] >= CLOSE else ""


CLOSE = 0.75  # of two names, by difflib: one letter of four may differ


def _likeness(asked: str, key: str) -> float:
    """The similarity of two names, whole or by the part after the dot, from 0 to 1."""
    pairs = [(asked, key), (_tail(asked), _tail(key))]
    return max(SequenceMatcher(None, a, b).ratio() for a, b in pairs)


def _plain(name: str) -> str:
    return name.lstrip("-").lower().replace("-", "_")


def _tail(name: str) -> str:
    return name.rpartition(".")[2]


def _meant(names: list[str]) -> str:
    return f" Hint: did you mean {' or '.join(names)}?"
