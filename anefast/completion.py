"""`anefast completion bash|zsh`: a script that completes commands, flags and values.

    source <(anefast completion bash)        # in ~/.bashrc; for zsh in ~/.zshrc, after compinit

The script holds every word, so pressing Tab starts no Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from anefast.chips.behaviour import CHIPS
from anefast.cli import command, say
from anefast.commands import COMMANDS
from anefast.helping import Flag, flags_of
from anefast.keywords import shortest
from anefast.presets import preset_names
from anefast.runtime.device import DEVICES


@dataclass(frozen=True)
class CompletionConfig:
    """Print a script that completes anefast's words. Use: source <(anefast completion bash)."""

    shell: Annotated[Literal["bash", "zsh"], tyro.conf.Positional]  # Whose script: bash or zsh.


VALUES = {
    "preset": preset_names(),
    "device": list(DEVICES),
    "chip": list(CHIPS),
    "plan": ["auto", "unfused", "layer", "all"],
}


def completion(config: CompletionConfig) -> None:
    """Prints the script."""
    say({"bash": bash, "zsh": zsh}[config.shell]())


def words_of(name: str) -> tuple[list[str], dict[str, list[str]]]:
    """The flags of a command, and the values of those that take one of a few."""
    flags, values = ["--help"], dict[str, list[str]]()
    if name == "train":
        flags.append("--help-all")
    for flag in flags_of(COMMANDS[name].flags()):
        if flag.placed:
            if flag.choices:
                values[""] = list(flag.choices)
            continue
        spelt = _spelt(flag)
        flags += spelt
        if known := flag.choices or VALUES.get(shortest(flag.name)):
            values |= {word: list(known) for word in spelt}
    return flags, values


def _spelt(flag: Flag) -> list[str]:
    return [f"--{flag.word}", f"--no-{flag.word}"] if flag.kind is bool else [f"--{flag.word}"]


def bash() -> str:
    """A function for bash's `complete`. What is no flag and no known value is a file."""
    return f"""_anefast() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} choices=
    if (( COMP_CWORD == 1 )); then
        COMPREPLY=( $(compgen -W "{" ".join(COMMANDS)} --help --version" -- "$word") )
        return
    fi
{_cases("${COMP_WORDS[1]}")}
    COMPREPLY=( $(compgen -W "$choices" -- "$word") )
    [[ $word == -* || -n $choices ]] || COMPREPLY=( $(compgen -f -- "$word") )
}}
complete -o filenames -F _anefast anefast"""


def zsh() -> str:
    """A function for zsh's `compdef`. What is no flag and no known value is a file."""
    return f"""#compdef anefast
_anefast() {{
    local word=${{words[CURRENT]}} before=${{words[CURRENT-1]}} command=${{words[2]}}
    if (( CURRENT == 2 )); then
        compadd -- {" ".join(COMMANDS)} --help --version
        return
    fi
    local choices=
{_cases("$command")}
    if [[ $word == -* || -n $choices ]]; then compadd -- ${{=choices}}; else _files; fi
}}
compdef _anefast anefast"""


def _cases(command: str) -> str:
    """Shell text that sets `choices` for the word before, or for a flag that has begun."""
    lines = [f'    case "{command} $before" in']
    begun = [f'    [[ $word == -* ]] && case "{command}" in']
    for name in COMMANDS:
        flags, values = words_of(name)
        for flag, known in values.items():
            lines.append(f'        "{name} {flag or name}") choices="{" ".join(known)}";;')
        begun.append(f'        {name}) choices="{" ".join(flags)}";;')
    return "\n".join([*lines, "    esac", *begun, "    esac"])


def main(argv: Sequence[str] | None = None) -> None:
    """The command. Exit codes: 0, or 2 for another shell."""
    command(CompletionConfig, completion, argv)


if __name__ == "__main__":
    main()
