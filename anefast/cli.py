"""What the commands share: layers of settings, exit codes, and errors in one line.

Settings are layered flag > file > preset > default, and every changed one remembers where it came
from. What a resumed run or one with --init may still be told is wishes.py. Exit codes: 0 done or
stopped cleanly, 1 it went wrong, 2 it was asked wrongly, 130 interrupted. Read next: config/ for
the settings themselves.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from anefast.checks import coerce, unchecked
from anefast.config import (
    ConfigError,
    TrainConfig,
    check_keys,
    flatten,
    from_settings,
    keys,
    merge,
    to_settings,
)
from anefast.errors import AnefastError, Failure, shown, visible
from anefast.files import SETTINGS_BYTES, read_bytes, refusal
from anefast.flags import named, parse, repeated, spelled_out, value_of
from anefast.keywords import setting
from anefast.parsing import parse_toml
from anefast.presets import FINETUNE, default_preset, preset_settings
from anefast.signals import delivered
from anefast.telemetry import read_config
from anefast.wishes import check_resumed, of_a_run, of_another_optimiser

C = TypeVar("C")

SWEEP = "sweep.json"  # in a folder of several runs: which there are, see sweep/
_TAGGED = re.compile(r"\[[a-z][\w. -]*\] ")  # as our messages begin; "[Errno 28]" is not one


def command(kind: type[C], run: Callable[[C], Any], argv: Sequence[str] | None = None) -> None:
    """Parse `argv` into the dataclass `kind`, call `run` with it, leave with an exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)

    def body() -> None:
        asked = parse(kind, arguments)
        for line in repeated(arguments, kind):
            print(line, file=sys.stderr)
        run(asked)

    sys.exit(guarded(body))


def guarded(call: Callable[[], Any]) -> int:
    """Runs a command's body; what a user can put right is one line on stderr, exit code 2."""
    stand_in()
    try:
        with delivered():
            call()
            sys.stdout.flush()
        return 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, RuntimeError, ImportError, OverflowError, MemoryError) as error:
        line = one_line(error)
        if line is None or os.environ.get("ANEFAST_TRACEBACK", "0") not in ("", "0"):
            raise
        if isinstance(error, Failure):
            from anefast.runtime import watchdog

            if watchdog.stuck():  # the interpreter would wait for what never returns
                watchdog.leave(line)
        print(line, file=sys.stderr)
        return 1 if isinstance(error, Failure) else 2


def say(*lines: str) -> None:
    """Prints lines, with control characters escaped. Every command prints through this."""
    print(visible("\n".join(lines)), flush=True)


def stand_in() -> None:
    """Makes standard streams take every text, and replaces closed ones with /dev/null.

    Left alone, the next file that is opened gets a closed stream's number, and whatever a library
    prints. A character that a stream's encoding cannot hold is escaped: \\u041f.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode))
        elif mode == "w" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


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


def told(error: Exception) -> str:
    """The message of any error, in one line."""
    return one_line(error) or f"{type(error).__name__}: {shown(error)}"


def train_config(argv: Sequence[str]) -> tuple[TrainConfig, dict[str, str]]:
    """The run that `argv` asks for, and where each changed setting came from: a flag, a file...

    argv: [run.toml] then flags. ConfigError or RunError in one line.
    """
    arguments = _bare_resume([spelled_out(a) for a in argv])
    file: dict[str, Any] = {}
    file_name = ""
    if arguments and not arguments[0].startswith("-"):
        file_name = arguments.pop(0)
        file = _typed(_first_named(Path(file_name)), file_name)
    flags = named(arguments)
    resume = value_of(arguments, "resume") or file.get("resume", "")
    run: Path | None = None
    layers: list[tuple[str, Mapping[str, Any]]]
    if resume:
        resume = str(newest_run(Path("runs"))) if resume == "latest" else resume
        run = run_of(Path(resume))
        started = of_a_run(read_config(run))
        in_file = flatten(file)
        fresh = "optim.fresh" in flags or bool(in_file.get("optim.fresh"))
        check_resumed({k: (v, file_name) for k, v in in_file.items()}, started, run, fresh)
        kept = {k: v for k, v in file.items() if k not in ("init", "out", "resume")}
        name = value_of(arguments, "optim.name") or str(in_file.get("optim.name", ""))
        goes_on = of_another_optimiser(started, name)
        layers = [(f"{run}", _typed(goes_on, f"{run}")), (file_name, kept)]
    else:
        said = "preset" in flags
        init = value_of(arguments, "init") or file.get("init", "")
        source = value_of(arguments, "data.source") or flatten(file).get("data.source", "")
        usual = file.get("preset", FINETUNE if init else default_preset(source))
        preset = value_of(arguments, "preset") if said else usual
        origin, named_so = f"preset {preset}", {}
        if preset:
            named_so = _typed({"preset": preset, **preset_settings(preset)}, origin)
        layers = [(origin, named_so), (file_name, file)]
    settings: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, layer in layers:
        settings = merge(settings, layer)
        origins.update(dict.fromkeys(flatten(layer), origin))
    with unchecked():  # a flag may yet put a bad file right
        base = from_settings(settings)
        parsed = parse(TrainConfig, arguments, base)
        given = flatten(to_settings(parsed))
    origins.update({name: "flag" for name in flags if name in given})
    if run is not None:
        fresh = given["optim.fresh"]
        check_resumed({k: (given[k], "flag") for k in flags if k in given}, started, run, fresh)
        given |= {"resume": resume, "out": str(run), "init": ""}
    config = from_settings(_nest(given | {"preset": ""})).called(given["preset"])
    plain = flatten(to_settings(TrainConfig()))
    now = flatten(to_settings(config))
    if config.init:  # its weights have a shape already; a preset's would be none of theirs
        origins = {
            k: o for k, o in origins.items() if not (k[:6] == "model." and o[:7] == "preset ")
        }
    origins = {k: o for k, o in origins.items() if k != "preset" or o != f"preset {now[k]}"}
    telling = {k for k in now if now[k] != plain[k] or origins.get(k) == "flag"}
    if config.init:  # what a file says may contradict the weights also where it says the default
        telling |= {k for k in now if _of_weights(k)}
    return config, {k: o for k, o in origins.items() if k in telling}


def named_by(origins: Mapping[str, str]) -> set[str]:
    """The settings that somebody named: all flags, and what a file says of model, tokenizer and
    rate."""
    return {
        name
        for name, origin in origins.items()
        if origin == "flag"
        or (origin[:7] != "preset " and (_of_weights(name) or name == "optim.lr"))
    }


def _of_weights(name: str) -> bool:
    """True if a setting is one that trained weights have already."""
    return name.startswith("model.") or name == "data.tokenizer"


def describe_origins(config: TrainConfig, origins: Mapping[str, str]) -> list[str]:
    """One line per source: 'preset tiny: model.dim 128, optim.lr 0.003'."""
    values = flatten(to_settings(config))
    lines: dict[str, list[str]] = {}
    for name, origin in origins.items():
        lines.setdefault(origin, []).append(f"{name} {values[name]}")
    return [f"{origin}: {', '.join(sorted(parts))}" for origin, parts in lines.items()]


def _first_named(path: Path) -> dict[str, Any]:
    """The settings file that comes first on the command line; it may be a text by mistake."""
    try:
        return read_settings(path)
    except AnefastError as error:
        if path.suffix == ".toml" or not path.exists():
            raise
        told = str(error).partition(" Hint: ")[0]
        raise ConfigError(
            f"{told} Hint: settings come first; did you mean --data {shown(path)}, or --init?"
        ) from None


def read_settings(path: Path) -> dict[str, Any]:
    """A TOML file as settings, short keys spelled out. ConfigError in one line."""
    content = read_bytes(path, SETTINGS_BYTES, "config")
    try:
        found = parse_toml(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        wide = content[:2] in (b"\xff\xfe", b"\xfe\xff")
        kind = "UTF-16" if wide else f"byte 0x{content[error.start]:02x} at {error.start}"
        raise ConfigError(
            f"[config] expected {shown(path)} to be TOML in UTF-8, got {kind}. "
            "Hint: save it as UTF-8."
        ) from None
    except ValueError as error:
        raise ConfigError(f"[config] {shown(path)} is not TOML: {shown(error)}.") from None
    settings: dict[str, Any] = {}
    for key, value in found.items():
        section, dot, name = setting(key).rpartition(".")
        if dot and "." not in key and not isinstance(value, dict):
            settings = merge(settings, {section: {name: value}})
        else:
            settings = merge(settings, {key: value})
    return settings


def run_of(path: Path) -> Path:
    """The run folder that `path`, a run or one of its checkpoints, belongs to.

    ConfigError for a link to a checkpoint that is gone.
    """
    if (path / "state.json").is_file():
        return path.resolve().parent if path.is_symlink() else path.parent
    if path.is_symlink() and not path.exists():
        raise ConfigError(
            f"[config] {shown(path)} is a link to {shown(os.readlink(path))}, which is gone. "
            f"Hint: --resume {shown(path.parent)} takes the newest checkpoint that is there."
        )
    return path


def newest_run(folder: Path) -> Path:
    """The run in `folder` that was worked on last, or the sweep whose run that is.

    ConfigError when there is none.
    """
    runs = {p.parent: p.parent for p in sorted(folder.glob("*/config.toml")) if p.is_file()}
    for sweep in sorted(p.parent for p in folder.glob(f"*/{SWEEP}") if p.is_file()):
        runs |= {sweep: sweep} | {p.parent: sweep for p in sweep.glob("*/config.toml")}
    if not runs:
        raise ConfigError(f"[config] there is no run in {folder}/ to resume. Hint: --resume RUN.")
    return runs[max(runs, key=_worked_on)]


def sweep_of(argv: Sequence[str]) -> Path | None:
    """The folder of the sweep that `argv` goes on with, or None where it asks for a run.

    ConfigError for flags besides.
    """
    arguments = _bare_resume([spelled_out(a) for a in argv])
    named_so = value_of(arguments, "resume")
    folder = newest_run(Path("runs")) if named_so == "latest" else Path(named_so)
    if not named_so or not (folder / SWEEP).is_file():
        return None
    if others := [f"--{name}" for name in named(arguments) if name != "resume"]:
        raise ConfigError(
            f"[config] {shown(folder)} is a sweep, which resumes with its own settings, but "
            f"{others[0]} was given. Hint: --resume {shown(folder)} alone."
        )
    return folder


def _worked_on(run: Path) -> float:
    """The time of the last change in a folder; files that cannot be read do not count."""
    times = [0.0]
    with contextlib.suppress(OSError):
        for entry in os.scandir(run):
            with contextlib.suppress(OSError):  # a link is looked at, not followed
                times.append(entry.stat(follow_symlinks=False).st_mtime)
    return max(times)


def _bare_resume(arguments: list[str]) -> list[str]:
    """`--resume` alone means the newest run."""
    out = []
    for i, argument in enumerate(arguments):
        out.append(argument)
        last = i + 1 == len(arguments)
        if argument == "--resume" and (last or arguments[i + 1].startswith("--")):
            out.append("latest")
    return out


def _typed(layer: Mapping[str, Any], origin: str) -> dict[str, Any]:
    check_keys(layer, origin)
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
