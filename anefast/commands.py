"""The one command: `anefast NAME ...`, and `python -m anefast NAME ...` besides.

The table is the only list of commands: help, suggestions and completion read it. A command is a
module with `main(argv)` and the dataclass of its flags, and is imported when it is called.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple, NoReturn

from anefast import spelling
from anefast.errors import shown


class Command(NamedTuple):
    """module: below anefast. kind: its dataclass of flags. about: a line of the overview."""

    module: str
    kind: str
    about: str

    def main(self, argv: Sequence[str]) -> None:
        """Runs the command. Ends with SystemExit."""
        import_module(f"anefast.{self.module}").main(argv)

    def flags(self) -> type[Any]:
        """The dataclass of its flags."""
        kind: type[Any] = getattr(import_module(f"anefast.{self.module}"), self.kind)
        return kind


COMMANDS = {
    "train": Command("train", "TrainConfig", "train a model, or resume a run"),
    "generate": Command("generate", "GenerateConfig", "continue a text with a trained model"),
    "chat": Command("chat", "ChatConfig", "talk with a model by its chat template"),
    "serve": Command("serve.__main__", "ServeConfig", "serve a model with OpenAI's HTTP API"),
    "eval": Command("eval", "EvalConfig", "score a text: nats, perplexity, bits per byte"),
    "report": Command("report", "ReportConfig", "show what runs did, as a web page"),
    "export": Command("export", "ExportConfig", "write a model in another program's format"),
    "inspect": Command("inspect", "InspectConfig", "show what a model's files hold"),
    "plan": Command("plan", "PlanCommand", "compare the ways to cut a training step"),
    "doctor": Command("doctor.__main__", "DoctorCommand", "examine this machine"),
    "bench": Command("bench.__main__", "BenchCommand", "measure the published tables again"),
    "lint": Command("lint", "LintCommand", "say what a chip will refuse in MIL text"),
    "replay": Command("replay", "ReplayConfig", "run a dumped program again"),
    "completion": Command("completion", "CompletionConfig", "complete words in bash or zsh"),
}
# What others call a command.
_OTHERS = {
    "fit": "train", "finetune": "train", "resume": "train", "sample": "generate",
    "infer": "generate", "complete": "generate", "convert": "export", "save": "export",
    "show": "inspect", "info": "inspect", "benchmark": "bench", "check": "doctor", "plot": "report",
    "talk": "chat", "server": "serve", "api": "serve", "evaluate": "eval", "score": "eval",
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs the command that `argv` names. Exit codes: its own, or 2 for an unknown name."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    name = arguments[0] if arguments else ""
    if name in COMMANDS:
        COMMANDS[name].main(arguments[1:])
        sys.exit(0)
    if name in ("", "-h", "--help", "help"):
        print(overview())
        sys.exit(0)
    if name in ("-V", "--version"):
        from anefast import __version__

        print(f"anefast {__version__}")
        sys.exit(0)
    print(_unknown(name), file=sys.stderr)
    sys.exit(2)


def overview() -> str:
    """The commands, one a line."""
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            "usage: anefast COMMAND [flags]",
            "",
            "Train transformers on the Apple Neural Engine, or the same programs on any CPU.",
            "",
            *(f"  {name:{width}}  {command.about}" for name, command in COMMANDS.items()),
            "",
            "anefast COMMAND --help lists the flags of a command.",
        ]
    )


def _unknown(name: str) -> str:
    if name.startswith("-"):
        hint = f" Hint: anefast train {shown(name)}...; the command comes first."
    elif name in _OTHERS:
        hint = f" Hint: did you mean {_OTHERS[name]}?"
    else:
        hint = spelling.hint(name, COMMANDS) or " Hint: anefast --help lists the commands."
    return f"[anefast] unknown command {shown(repr(name))}.{hint}"
