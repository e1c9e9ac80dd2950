"""`catflap web`: a Bundle to a folder with the camera page."""

from __future__ import annotations

import argparse
from pathlib import Path

from catflap.cli.output import emit

HELP = "Write the camera page with a bundle into a folder that any web server can serve."
EXAMPLE = "catflap web cat.catflap"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The Bundle and where to write."""
    parser.add_argument("bundle", metavar="BUNDLE", help="a .catflap file, or the name of a shipped one")
    parser.add_argument("-o", "--out", metavar="SITE", type=Path, help="folder to write (default: NAME-site)")


def answer(args: argparse.Namespace) -> int:
    """Write the site and print what is in it."""
    from catflap.serving.static_site import write_site

    out = args.out or Path(f"{Path(args.bundle).stem}-site")
    emit(write_site(args.bundle, out), args)
    return 0
