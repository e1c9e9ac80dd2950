"""Writes the generated pages: commands from the parsers, Python names, the tree of files in CONTRIBUTING."""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import catflap
from catflap.cli.main import COMMANDS, parser_of

CONTRIBUTING = Path(__file__).resolve().parents[1] / "CONTRIBUTING.md"
TREE = "<!-- tree: written by docs/make_reference.py from the files' docstrings -->\n"
END = "<!-- /tree -->"
REFERENCE = Path(__file__).resolve().parent / "reference"
SHORT_FOR = ("build", "demo")  # commands whose options are those of other verbs
EXPLAINED = ("build", "prepare", "train", "export", "predict", "watch", "serve")
API = """# The Python interface

<!-- written by docs/make_reference.py from catflap.__all__ -->

Everything here can be imported from `catflap`, which takes milliseconds: names are loaded on first use. An
error that a user can mend is a `catflap.CatflapError` with two sentences: `what` happened and the `fix`.
"""
INTRODUCTION = """# The command line

<!-- written by docs/make_reference.py from the parsers: change their help, then run it -->

    catflap COMMAND ... [--json]

`catflap --help` lists the commands, `catflap COMMAND --help` the arguments, usual options and defaults of
one, `--help-all` every option.

- Answers go to **stdout**; notes, progress and errors to **stderr**.
- `--json` prints one line of JSON ([its fields](json.md)); an error is
  `{"error": {"what": ..., "fix": ...}}`.
- Outputs are renamed into place when complete; what another command or person wrote is never replaced.
- `catflap.toml` in the working folder gives options that you always use, a table for each command:
  `[build]`, then `minutes = 10`. The command line goes before the file; what it gave is printed.
- Environment: `NO_COLOR`; [`CATFLAP_CACHE`](../concepts/privacy.md#what-is-written-where);
  `CATFLAP_TRACEBACK=1` shows the traceback of an error.

Exit codes:

- 0: fine
- 1: the answer is no: a verdict or gate failed, or some photos could not be read
- 2: wrong usage or unusable input
- 129, 130, 143: stopped by a signal; run the same command again to continue
- 141: the reader of stdout went away
"""


def cli_page() -> str:
    """The page of the commands."""
    return "\n".join([INTRODUCTION, *(line for name in COMMANDS for line in section(name))]).rstrip() + "\n"


def api_page() -> str:
    """The page of the public names: mkdocstrings fills in signatures and docstrings."""
    lines = [API]
    for name in sorted(catflap.__all__, key=str.lower):
        made = getattr(catflap, name)
        if hasattr(made, "__qualname__"):
            lines += [f"::: {made.__module__}.{made.__qualname__}", ""]
    return "\n".join(lines).rstrip() + "\n"


def contributing_page() -> str:
    """CONTRIBUTING.md with the tree of the files and what each holds."""
    text = CONTRIBUTING.read_text("utf-8")
    start, rest = text.split(TREE, 1)
    return "\n".join([f"{start}{TREE}", "```", *tree(), f"```\n{END}{rest.partition(END)[2]}"])


def tree() -> Iterator[str]:
    """A line a room and a file: its name and the first sentence of its docstring."""
    house = CONTRIBUTING.parent / "src" / "catflap"
    for path in sorted(
        house.rglob("*.py"), key=lambda path: (path.parent, path.name != "__init__.py", path.name)
    ):
        parts = path.relative_to(house).parts
        room = path.name == "__init__.py"
        name = "/".join(("catflap", *parts[:-1])) + "/" if room else path.name
        docstring = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
        indent = "" if room else "  "
        yield f"{indent}{name}".ljust(30) + " ".join(docstring.split("\n\n")[0].split())
    yield "web/src/".ljust(30) + "The camera page, in TypeScript."
    yield from typescript("src")
    yield (
        "web/studio/src/".ljust(30)
        + "Studio's page: these files, a Svelte component each screen, and its parts."
    )
    yield from typescript("studio/src")


def typescript(folder: str) -> Iterator[str]:
    """The first line of each TypeScript file in a folder of `web/`."""
    for path in sorted((CONTRIBUTING.parent / "web" / folder).glob("*.ts")):
        first = path.read_text("utf-8").partition("\n")[0]
        if first.startswith("//"):
            yield f"  {path.name}".ljust(30) + first.removeprefix("//").strip()


def section(name: str) -> Iterator[str]:
    """A command: what it does, an example, its usual options, then the same of its parts."""
    module, parser = import_module(f"catflap.cli.{name}"), parser_of(name)
    yield from (f"## {name}", "", escaped(module.HELP), "", "```sh", module.EXAMPLE, "```", "")
    yield from table(name, parser)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for part, inner in action.choices.items():
                yield from (f"### {name} {part}", "", escaped(inner.description or ""), "")
                yield from table(f"{name} {part}", inner)


def table(command: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    """A line an option of --help, in its order; what another command has, too, is explained once."""
    rows = {names(action): meaning(action) for action in parser._actions if listed(action)}
    elsewhere: dict[str, list[str]] = {}
    if rows and command not in EXPLAINED:
        yield from (f"Options: {', '.join(rows)}.", "")
        return
    for option, text in rows.items():
        home = homes().get((option, text), command)
        if home == command:
            yield f"- {option}: {text}"
        else:
            elsewhere.setdefault(home, []).append(option)
    for home, named in elsewhere.items():
        yield f"- as in [{home}](#{home.replace(' ', '-')}): {', '.join(named)}"
    if rows:
        yield ""


@cache
def homes() -> dict[tuple[str, str], str]:
    """The command that explains an option, of those that have the same one."""
    found: dict[tuple[str, str], str] = {}
    for name in sorted(EXPLAINED, key=lambda name: name in SHORT_FOR):
        for action in parser_of(name)._actions:
            if listed(action):
                found.setdefault((names(action), meaning(action)), name)
    return found


def listed(action: argparse.Action) -> bool:
    """The options that --help lists, but for those of every command; the example shows the arguments."""
    common = {"--help", "--help-all", "--json", "--out"} & set(action.option_strings)
    return bool(action.option_strings) and not common and action.help != argparse.SUPPRESS


def names(action: argparse.Action) -> str:
    """An option's names and its value."""
    value = action.metavar or ("|".join(map(str, action.choices)) if action.choices else "")
    value = " ".join(value) if isinstance(value, tuple) else str(value)
    if action.nargs == 0:
        value = ""
    elif not value:
        value = action.dest.upper()
    written = ", ".join(f"`{option}`" for option in action.option_strings)
    return f"{written} {value}".strip()


def meaning(action: argparse.Action) -> str:
    """The help of an option without its default, which --help has."""
    text = action.help and action.help % {"default": action.default, "prog": "catflap"}
    return escaped(text or "").partition(" (default: ")[0]


def escaped(text: str) -> str:
    """Text on one line, without tags."""
    return re.sub(r"\s+", " ", text).replace("<", "&lt;")


if __name__ == "__main__":
    (REFERENCE / "cli.md").write_text(cli_page(), "utf-8")
    (REFERENCE / "api.md").write_text(api_page(), "utf-8")
    CONTRIBUTING.write_text(contributing_page(), "utf-8")
