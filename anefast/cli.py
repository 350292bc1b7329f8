"""What the commands share: flags from dataclasses, layering of settings, and errors in one line.

Settings are layered flag > file > preset > default, and every changed one remembers where it came
from. The parsing is tyro's; what is here turns its boxes into one line and adds the layers. Exit
codes: 0 done or stopped cleanly, 1 it went wrong, 2 it was asked wrongly, 130 interrupted. Read
next: config.py for the settings themselves.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from anefast.config import (
    ConfigError,
    TrainConfig,
    check_keys,
    coerce,
    flatten,
    from_settings,
    keys,
    merge,
    suggest,
    to_settings,
    unchecked,
)
from anefast.errors import AnefastError, Failure, shown
from anefast.files import parse_toml, refusal
from anefast.presets import preset_names, preset_settings
from anefast.telemetry import read_config

C = TypeVar("C")

_TAGGED = re.compile(r"\[[a-z][\w. -]*\] ")  # as our messages begin; "[Errno 28]" is not one

SHORT = {"data": "data.source", "tokenizer": "data.tokenizer"}  # flags and TOML keys for everyday
# What may differ between the parts of a resumed run; anything else would make it another run.
RESUMABLE = {"steps", "eval_every", "eval_batches", "checkpoint_every", "keep_last", "device"} | {
    "plan", "prompt", "sample_tokens", "resume", "out", "max_compiles", "on_budget", "cache_mb",
    "timeline", "breakdown", "trace", "sinks", "chip", "health_every",
}  # fmt: skip


def command(kind: type[C], run: Callable[[C], Any], argv: Sequence[str] | None = None) -> None:
    """Parse `argv` into the dataclass `kind`, call `run` with it, leave with an exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    sys.exit(guarded(lambda: run(parse(kind, arguments))))


def guarded(call: Callable[[], Any]) -> int:
    """Runs a command's body; what a user can put right is one line on stderr, exit code 2."""
    stand_in()
    try:
        call()
        sys.stdout.flush()
        return 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, RuntimeError, ImportError, OverflowError, MemoryError) as error:
        line = one_line(error)
        if line is None or os.environ.get("ANEFAST_TRACEBACK"):
            raise
        print(line, file=sys.stderr)
        return 1 if isinstance(error, Failure) else 2


def stand_in() -> None:
    """Standard streams that whoever started us had closed lead nowhere from now on.

    Left alone, the next file that is opened gets their number, and whatever a library prints.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))


def one_line(error: Exception) -> str | None:
    """The message of an error meant for the user, or None for one that looks like a defect."""
    text = " ".join(str(error).split())
    if isinstance(error, AnefastError) or _TAGGED.match(text):
        return shown(text, limit=4000)
    if isinstance(error, OSError) and error.strerror:
        return str(refusal("use", error.filename or "a file", error))
    if isinstance(error, MemoryError):
        return f"[memory] {text or 'not enough'}. Hint: a smaller batch or model."
    return None


def parse(kind: type[C], argv: Sequence[str], default: C | None = None, **more: Any) -> C:
    """tyro, with its errors as one ConfigError. `--help` prints and leaves with 0."""
    import tyro

    options = {"prog": f"python -m {_module()}", "args": list(argv), **more}
    if default is not None:
        options["default"] = default
    if "-h" in argv or "--help" in argv:
        found: C = tyro.cli(kind, **options)
        return found
    noise = io.StringIO()
    try:
        with contextlib.redirect_stderr(noise), contextlib.redirect_stdout(noise):
            found = tyro.cli(kind, **options)
            return found
    except SystemExit:
        raise ConfigError(_summary(noise.getvalue(), _flags_of(kind))) from None


def train_config(argv: Sequence[str]) -> tuple[TrainConfig, dict[str, str]]:
    """The run that `argv` asks for, and where each changed setting came from: a flag, a file...

    argv: [run.toml] then flags. ConfigError or RunError in one line.
    """
    arguments = [_long(a) for a in argv]
    arguments = _bare_resume(arguments)
    file: dict[str, Any] = {}
    file_name = ""
    if arguments and not arguments[0].startswith("-"):
        file_name = arguments.pop(0)
        file = read_settings(Path(file_name))
    flags = _flag_names(arguments)
    resume = _value(arguments, "resume") or file.get("resume", "")
    layers: list[tuple[str, Mapping[str, Any]]]
    if resume:
        if resume == "latest":
            resume = str(newest_run(Path("runs")))
        _check_resumable([*flatten(file), *flags])
        run = run_of(Path(resume))
        started = {k: v for k, v in read_config(run).items() if k not in ("init", "resume")}
        layers = [(f"{run}", started), (file_name, file)]
    else:
        preset = _value(arguments, "preset") or file.get("preset", TrainConfig.preset)
        layers = [(f"preset {preset}", preset_settings(preset)), (file_name, file)]
    settings: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, layer in layers:
        check_keys(layer, origin)
        typed = _typed(layer, origin)
        settings = merge(settings, typed)
        origins.update(dict.fromkeys(flatten(typed), origin))
    with unchecked():  # a flag may yet put a bad file right
        base = from_settings(settings)
        parsed = parse(TrainConfig, arguments, base, description=DESCRIPTION)
        given = flatten(to_settings(parsed))
    origins.update({name: "flag" for name in flags if name in given})
    if resume:
        given["resume"] = resume
        given["out"] = str(run_of(Path(resume)))
    config = from_settings(_nest({**given}))
    plain = flatten(to_settings(TrainConfig()))
    now = flatten(to_settings(config))
    return config, {k: o for k, o in origins.items() if now[k] != plain[k] or o == "flag"}


DESCRIPTION = (
    "Train a Llama-family model. An optional run.toml comes first; flags go over it, it goes over "
    f"the preset. Presets: {', '.join(preset_names())}. Short flags: --data, --tokenizer."
)


def describe_origins(config: TrainConfig, origins: Mapping[str, str]) -> list[str]:
    """One line per source: 'preset tiny: model.dim 128, optim.lr 0.003'."""
    values = flatten(to_settings(config))
    lines: dict[str, list[str]] = {}
    for name, origin in origins.items():
        lines.setdefault(origin, []).append(f"{name} {values[name]}")
    return [f"{origin}: {', '.join(sorted(parts))}" for origin, parts in lines.items()]


def read_settings(path: Path) -> dict[str, Any]:
    """A TOML file as settings, short keys spelled out. ConfigError in one line."""
    try:
        found = parse_toml(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(
            f"[config] cannot read {path}: {error.strerror}. Hint: a TOML file comes before flags."
        ) from None
    except ValueError as error:
        raise ConfigError(f"[config] {path} is not TOML: {' '.join(str(error).split())}.") from None
    settings: dict[str, Any] = {}
    for key, value in found.items():
        if key in SHORT and not isinstance(value, dict):
            section, name = SHORT[key].split(".")
            settings = merge(settings, {section: {name: value}})
        else:
            settings = merge(settings, {key: value})
    return settings


def run_of(path: Path) -> Path:
    """The run folder that `path`, a run or one of its checkpoints, belongs to."""
    if (path / "state.json").is_file():
        return path.resolve().parent if path.is_symlink() else path.parent
    return path


def newest_run(folder: Path) -> Path:
    """The run in `folder` that was worked on last. ConfigError when there is none."""
    runs = [p.parent for p in folder.glob("*/config.toml")]
    if not runs:
        raise ConfigError(f"[config] there is no run in {folder}/ to resume. Hint: --resume RUN.")
    return max(runs, key=lambda run: max(p.stat().st_mtime for p in run.iterdir()))


def _long(argument: str) -> str:
    name, equals, value = argument.partition("=")
    short = name.removeprefix("--")
    if not name.startswith("--") or short not in SHORT:
        return argument
    return f"--{SHORT[short]}{equals}{value}"


def _bare_resume(arguments: list[str]) -> list[str]:
    """`--resume` alone means the newest run."""
    out = []
    for i, argument in enumerate(arguments):
        out.append(argument)
        last = i + 1 == len(arguments)
        if argument == "--resume" and (last or arguments[i + 1].startswith("--")):
            out.append("latest")
    return out


def _value(arguments: Sequence[str], name: str) -> str:
    found = ""
    for i, argument in enumerate(arguments):
        if argument == f"--{name}" and i + 1 < len(arguments):
            found = arguments[i + 1]
        elif argument.startswith(f"--{name}="):
            found = argument.partition("=")[2]
    return found


def _flag_names(arguments: Sequence[str]) -> list[str]:
    """The settings that flags name, as dotted keys; a --model.no-tied names model.tied."""
    names = []
    for argument in arguments:
        if argument.startswith("--"):
            name = argument[2:].partition("=")[0].replace("-", "_")
            names.append(re.sub(r"(^|\.)no_", r"\1", name) if name not in keys() else name)
    return names


def _typed(layer: Mapping[str, Any], origin: str) -> dict[str, Any]:
    kinds = keys()
    try:
        return _nest({k: coerce(v, kinds[k], k) for k, v in flatten(layer).items()})
    except ConfigError as error:
        raise ConfigError(f"{str(error).rstrip('.')} in {origin}.") from None


def _nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for key, value in flat.items():
        section, dot, name = key.partition(".")
        settings = merge(settings, {section: {name: value}} if dot else {key: value})
    return settings


def _check_resumable(names: Sequence[str]) -> None:
    for name in names:
        if name in keys() and name not in RESUMABLE:
            raise ConfigError(
                f"[config] {name} cannot change while a run is resumed. "
                "Hint: --init RUN starts a new run from its weights."
            )


def _flags_of(kind: type[Any]) -> list[str]:
    names = [f.name for f in dataclasses.fields(kind)]
    if kind is TrainConfig:
        names = [*keys(), *SHORT]
    return ["--" + name.replace("_", "-") for name in names]


def _summary(noise: str, flags: Sequence[str]) -> str:
    """tyro's box as one line: its message, and the closest setting as the hint."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", noise)
    lines = [line.strip("│|╭╮╰╯─ ") for line in text.splitlines()]
    lines = [line for line in lines if not line or set(line) != {"-"}]
    body = [line for line in lines[1:] if line]  # the first is the title
    told = [
        i for i, line in enumerate(body) if line.startswith(("Perhaps", "Argument", "For full"))
    ]
    message = " ".join(body[: told[0] if told else 1]) or "the flags make no sense"
    message = message.removeprefix("Error parsing ")
    hint = " Hint: --help lists every flag."
    if message.startswith("Unrecognized options: "):
        word = message.removeprefix("Unrecognized options: ").split(",")[0].strip()
        message = f"unexpected {word!r}"
        if word.startswith("-"):
            message = f"unknown flag {word.partition('=')[0]}"
            hint = suggest(word.partition("=")[0], flags) or hint
    return f"[config] {message.rstrip('.')}.{hint}"


def _module() -> str:
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if spec is None or not spec.name.startswith("anefast"):
        return "anefast.train"
    return str(spec.name).removesuffix(".__main__")
