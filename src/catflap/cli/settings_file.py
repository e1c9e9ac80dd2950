"""`catflap.toml`: options that a project always gives, in a table for each command.

    [build]
    minutes = 10
    unknown-rate = 0.05

The command line goes before the file. A value becomes the words that a person would have typed, so that the
command's own parser checks it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from catflap.cli.output import note
from catflap.errors import CatflapError, first_line, nearest, system_reason

FILE = "catflap.toml"
HELP = {"-h", "--help", "--help-all"}


def with_settings(
    parser: argparse.ArgumentParser, command: str, argv: Sequence[str], commands: Sequence[str]
) -> list[str]:
    """The words of a command line after those of `catflap.toml` in this folder, if there is one.

    Raises CatflapError for a file that is not TOML, and for a table or key that no command or option has.
    """
    path = Path(FILE)
    if HELP & set(argv) or not path.is_file():
        return list(argv)
    try:
        import tomllib

        tables = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        why = system_reason(error) if isinstance(error, OSError) else first_line(error)
        raise CatflapError(f"{FILE} cannot be read: {why}.", "Mend it, or move it away.") from error
    for name, table in tables.items():
        if name not in commands or not isinstance(table, dict):
            raise CatflapError(
                f"{FILE}: there is no command {name!r}.",
                _suggestion(name, commands) or "Put options in the table of a command, such as [build].",
            )
    options = {
        option.removeprefix("--"): action
        for action in parser._actions
        for option in action.option_strings
        if option.startswith("--") and option not in HELP
    }
    typed = {word.partition("=")[0] for word in argv}
    words: list[str] = []
    for key, value in tables.get(command, {}).items():
        action = options.get(key)
        if action is None or action.nargs not in (None, 0):
            raise CatflapError(
                f"{FILE}: [{command}] cannot set {key!r}.",
                _suggestion(key, options) or f"Run: catflap {command} --help-all",
            )
        if not typed & _exclusive_with(parser, action):
            words += _words(command, f"--{key}", action, value)
    if words:
        note(f"{FILE}: {' '.join(words)}")
    return [*words, *argv]


def _exclusive_with(parser: argparse.ArgumentParser, action: argparse.Action) -> set[str]:
    """The names of an option, and of those that exclude it."""
    groups = [group._group_actions for group in parser._mutually_exclusive_groups]
    together = [action, *(one for group in groups if action in group for one in group)]
    return {option for one in together for option in one.option_strings}


def _words(command: str, option: str, action: argparse.Action, value: Any) -> list[str]:
    """What a person would have typed: --minutes=10, --quiet, or an option again for each value of a list."""
    if action.nargs == 0:
        if isinstance(value, bool):
            return [option] if value else []
        raise CatflapError(f"{FILE}: {option[2:]} in [{command}] is {value!r}.", "Write true or false.")
    values = value if isinstance(value, list) else [value]
    if any(isinstance(one, bool | dict | list) for one in values) or (
        isinstance(value, list) and not isinstance(action, argparse._AppendAction)
    ):
        raise CatflapError(
            f"{FILE}: {option[2:]} in [{command}] is {value!r}.",
            "Write it as on the command line, in quotes.",
        )
    return [f"{option}={one}" for one in values]


def _suggestion(word: str, known: Iterable[str]) -> str:
    meant = nearest(word, known)
    return f"Did you mean: {meant}" if meant else ""
