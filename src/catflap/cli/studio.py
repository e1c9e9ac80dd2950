"""`catflap studio`: the whole line as one local page."""

from __future__ import annotations

import argparse
from pathlib import Path

from catflap.cli.output import emit, note

HELP = (
    "Collect, label, train, judge, try and deliver in a page on this machine. Makes the project if it is new."
)
EXAMPLE = "catflap studio cats"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The project and the address."""
    add = parser.add_argument
    add(
        "project", metavar="PROJECT", nargs="?", type=Path, default=Path("catflap-project"),
        help="folder of the project (default: catflap-project)",
    )  # fmt: skip
    add(
        "--host",
        default="127.0.0.1",
        help="address to listen on; others than this machine's ask for a password",
    )
    add("--port", type=int, default=8700, help="port to listen on; 0 picks a free one (default: 8700)")
    add("--no-browser", action="store_true", help="do not open a browser")


def answer(args: argparse.Namespace) -> int:
    """Serve, print the address once it is ready, and open it in a browser."""
    import getpass
    import os
    import sys
    import webbrowser

    from catflap.studio.studio import StudioSettings, studio

    password = os.environ.get("CATFLAP_STUDIO_PASSWORD")
    if not password and args.host not in ("127.0.0.1", "localhost", "::1") and sys.stdin.isatty():
        password = getpass.getpass("Password for the page: ")

    def ready(fields: dict[str, object]) -> None:
        emit(fields, args, f"Studio: {fields['url']}   (Ctrl-C stops it; a running build goes on)")
        if not args.no_browser and not args.json:
            webbrowser.open(str(fields["url"]))

    studio(StudioSettings(args.project, args.host, args.port, password), ready, note)
    return 0
