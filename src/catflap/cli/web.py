"""`catflap web`: a Bundle to a folder with the camera page."""

from __future__ import annotations

import argparse
from pathlib import Path

from catflap.cli.output import emit

HELP = "Write the camera page with a bundle into a folder that any web server can serve."
EXAMPLE = "catflap web cat.catflap -o site"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The Bundle and where to write."""
    parser.add_argument("bundle", metavar="BUNDLE", help="a .catflap file, or the name of a shipped one")
    parser.add_argument("-o", "--out", metavar="SITE", type=Path, required=True, help="folder to write")


def answer(args: argparse.Namespace) -> int:
    """Write the site and print what is in it."""
    from catflap.serving.pages import write_site

    emit(write_site(args.bundle, args.out), args)
    return 0
