"""`hbode completion`: a script with which a shell completes commands, options and their choices."""

from __future__ import annotations

import argparse
from typing import Any

BASH = """_hbode() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} words=""
  case "${{COMP_WORDS[1]}} $before" in
{choices}
  esac
  if [ -z "$words" ]; then
    if [ "$COMP_CWORD" -eq 1 ]; then words="{commands}"
    else case "${{COMP_WORDS[1]}} $current" in
{options}
    esac; fi
  fi
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _hbode hbode
"""
SHELLS = ("bash", "zsh", "fish")


def add(commands: Any) -> None:
    """Add the command to those of a parser."""
    parser = commands.add_parser(
        "completion",
        help="print a script that completes commands and options in a shell",
        description='Print a script for a shell. bash: eval "$(hbode completion bash)"; zsh: the same with zsh; '
        "fish: hbode completion fish > ~/.config/fish/completions/hbode.fish",
    )
    parser.add_argument("shell", choices=SHELLS, help="which shell")
    parser.set_defaults(run=lambda a, started: print(script(a.shell, commands.choices), end=""))


def script(shell: str, parsers: dict[str, argparse.ArgumentParser]) -> str:
    """Return the script of a shell for commands by name."""
    if shell == "fish":
        return _fish(parsers)
    bash = _bash(parsers)
    return bash if shell == "bash" else "autoload -U +X bashcompinit && bashcompinit\n" + bash


def _bash(parsers: dict[str, argparse.ArgumentParser]) -> str:
    choices, options = [], []
    for name, parser in parsers.items():
        for action in parser._actions:
            if action.choices:
                keys = action.option_strings or [name]
                words = " ".join(map(str, action.choices))
                choices += [f'    "{name} {key}") words="{words}" ;;' for key in keys]
        flags = " ".join(flag for action in parser._actions for flag in action.option_strings)
        options.append(f'      "{name} -"*) words="{flags}" ;;')
    return BASH.format(choices="\n".join(choices), commands=" ".join(parsers), options="\n".join(options))


def _fish(parsers: dict[str, argparse.ArgumentParser]) -> str:
    lines = [f"complete -c hbode -n __fish_use_subcommand -f -a {name}" for name in parsers]
    for name, parser in parsers.items():
        for action in parser._actions:
            line = f"complete -c hbode -n '__fish_seen_subcommand_from {name}'"
            words = f" -f -a '{' '.join(map(str, action.choices))}'" if action.choices else ""
            needs = " -r" if action.option_strings and action.nargs != 0 else ""
            for flag in action.option_strings:
                kind = "-l" if flag.startswith("--") else "-s"
                lines.append(f"{line} {kind} {flag.lstrip('-')}{needs}{words}")
            if words and not action.option_strings:
                lines.append(line + words)
    return "\n".join(lines) + "\n"
