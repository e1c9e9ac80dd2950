"""`catflap scan`: photos to a Manifest."""

from __future__ import annotations

import argparse
from pathlib import Path

from catflap.cli.output import emit, progress_bar

HELP = "Read, check and hash photos, find duplicates, and write a Manifest."
EXAMPLE = "catflap scan PHOTOS -o photos.manifest"


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to read, where to write, and on how many processes."""
    parser.add_argument("source", metavar="PHOTOS", help="a folder with one folder of photos a label")
    parser.add_argument("-o", "--out", metavar="MANIFEST", type=Path, required=True, help="folder to write")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one a core)")


def answer(args: argparse.Namespace) -> int:
    """Scan and print the counts."""
    from catflap.data.scan import scan

    with progress_bar(args) as progress:
        manifest = scan(args.source, args.out, workers=args.workers, progress=progress)
    emit(manifest.to_json(), args)
    return 0
