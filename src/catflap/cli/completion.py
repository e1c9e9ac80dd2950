"""`catflap completion`: a shell completes commands, options and file names. The one file that owns shtab."""

from __future__ import annotations

import argparse
from pathlib import Path

from catflap.cli.options import list_all_options
from catflap.cli.output import emit

HELP = "Print the completion of catflap for a shell."
EXAMPLE = """catflap completion bash > ~/.local/share/bash-completion/completions/catflap
  catflap completion zsh > "${fpath[1]}/_catflap"
  catflap completion fish > ~/.config/fish/completions/catflap.fish"""
SHELLS = ("bash", "zsh", "fish")


def arguments(parser: argparse.ArgumentParser) -> None:
    """The shell."""
    parser.add_argument("shell", choices=SHELLS, help="bash, zsh or fish")


def answer(args: argparse.Namespace) -> int:
    """Print the script."""
    import shtab

    script = shtab.complete(whole_parser(), args.shell)
    emit({"shell": args.shell, "script": script}, args, script)
    return 0


def whole_parser() -> argparse.ArgumentParser:
    """One parser with every command as a part of it."""
    from catflap.cli.main import COMMANDS, parser_of

    parser = argparse.ArgumentParser(prog="catflap")
    parser.add_argument("--version", action="version", version="", help="print the version")
    commands = parser.add_subparsers(dest="command")
    for name, what in COMMANDS.items():
        part = parser_of(name)
        list_all_options(part)  # also those that only --help-all lists
        _complete_files(part)
        commands.add_parser(name, help=what, parents=[part], add_help=False)
    return parser


def _complete_files(parser: argparse.ArgumentParser) -> None:
    """Complete file names wherever a path may stand; words that are no path have choices or no default."""
    import shtab

    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for part in action.choices.values():
                _complete_files(part)
        elif action.type is Path or (not action.option_strings and action.choices is None):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
