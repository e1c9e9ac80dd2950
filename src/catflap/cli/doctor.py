"""`catflap doctor`: describe this machine and what is installed, or check what a project left."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from catflap.cli.output import as_text, emit, table
from catflap.installing import install_extra
from catflap.machine import describe_machine, installed_extras
from catflap.version import VERSION

HELP = (
    "Describe this machine and how to install extras; or list what a project falls short of, and what helps."
)
EXAMPLE = "catflap doctor cat.catflap"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The project, if any."""
    parser.add_argument(
        "project", metavar="PROJECT", type=Path, nargs="?",
        help="a bundle, or the folder NAME.build beside it; exit 1 where something must be mended "
        "(default: this machine)",
    )  # fmt: skip


def answer(args: argparse.Namespace) -> int:
    """Print the findings about a project, or the machine and the installed parts."""
    if args.project is not None:
        from catflap.pipeline.doctor import MEND, project_fields

        found = project_fields(args.project)
        emit(found, args, project_text(found))
        return 1 if found["states"][MEND] else 0
    extras = installed_extras()
    fields: dict[str, Any] = {
        "catflap": VERSION,
        "machine": describe_machine().to_json(),
        "extras": {extra.name: extra.to_json() for extra in extras},
        "install": [install_extra(extra.name) for extra in extras if extra.missing],
    }
    parts = [
        {"part": extra.name, "installed": not extra.missing, "missing": list(extra.missing)}
        for extra in extras
    ]
    advice = [f"to install: {line}" for line in fields["install"]]
    emit(fields, args, "\n".join([as_text(fields["machine"]), "", table(parts), "", *advice]).rstrip())
    return 0


def project_text(found: Mapping[str, Any]) -> str:
    """The findings for people: what, why and the command of each that is not fine; then what is fine."""
    lines = []
    for finding in found["findings"]:
        if finding["state"] == "fine":
            continue
        lines += [
            f"{finding['state']:<7}  {finding['check']}: {finding['what']}",
            f"         why: {finding['why']}",
        ]
        lines += [f"         run: {finding['command']}"] * bool(finding["command"])
    fine = [finding for finding in found["findings"] if finding["state"] == "fine"]
    lines += [f"fine     {finding['check']}: {finding['what']}" for finding in fine]
    states = found["states"]
    return "\n".join(
        [*lines, "", f"{states['mend']} to mend, {states['advice']} to improve, {states['fine']} fine"]
    )
