"""`catflap doctor`: describe this machine and what is installed."""

from __future__ import annotations

import argparse
from typing import Any

from catflap.cli.output import as_text, emit, table
from catflap.machine import describe_machine, installed_extras
from catflap.version import VERSION

HELP = "Describe this machine, which extras are installed, and how to install the others."
EXAMPLE = "catflap doctor"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The command takes nothing."""


def answer(args: argparse.Namespace) -> int:
    """Print the machine and the installed parts."""
    extras = installed_extras()
    fields: dict[str, Any] = {
        "catflap": VERSION,
        "machine": describe_machine().to_json(),
        "extras": {extra.name: extra.to_json() for extra in extras},
        "install": [f"pip install 'catflap[{extra.name}]'" for extra in extras if extra.missing],
    }
    parts = [
        {"part": extra.name, "installed": not extra.missing, "missing": list(extra.missing)}
        for extra in extras
    ]
    advice = [f"to install: {line}" for line in fields["install"]]
    emit(fields, args, "\n".join([as_text(fields["machine"]), "", table(parts), "", *advice]).rstrip())
    return 0
