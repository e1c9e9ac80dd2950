"""`catflap scan`: photos to a Manifest."""

from __future__ import annotations

import argparse
from pathlib import Path

from catflap.cli.options import given_options, short_help
from catflap.cli.output import emit, note, progress_bar
from catflap.errors import CatflapError

HELP = "Read, check and hash photos, find duplicates, and write a Manifest."
EXAMPLE = "catflap scan PHOTOS -o photos.manifest"
SHOWN = ("--out", "--labels", "--group-column", "--on", "--workers")  # by --help; the rest by --help-all


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to read, where to write, and where to run."""
    sources = (
        "class folders, a CSV, JSON Lines or Parquet list, a .zip or .tar, WebDataset shards, or the address "
        "of a store; or what `catflap build` wrote, for the photos it was made from"
    )
    parser.add_argument("source", metavar="PHOTOS", help=sources)
    parser.add_argument("-o", "--out", metavar="MANIFEST", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--labels", metavar="FILE", type=Path, help="JSON or CSV that renames, merges or leaves out labels"
    )
    usual = {
        "path": "path, file, …",
        "label": "label, class, …",
        "group": "group, group_id",
        "role": "role, split",
    }
    for field, names in usual.items():
        parser.add_argument(
            f"--{field}-column", default="", metavar="NAME",
            help=f"column of a list that has the {field} (default: a usual name: {names})",
        )  # fmt: skip
    parser.add_argument(
        "--on", metavar="ray[://HOST:PORT]", help="run on a Ray cluster (default: on this machine)"
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes on this machine (default: one a core)"
    )
    parser.add_argument(
        "--deadline", type=float, metavar="SECONDS",
        help="quarantine a photo that takes longer to read and decode (default: 60)",
    )  # fmt: skip
    parser.add_argument("--no-profile", action="store_true", help="do not write profile.html")
    short_help(parser, SHOWN)


def answer(args: argparse.Namespace) -> int:
    """Scan and print the counts."""
    from catflap.data.listing import read_mapping
    from catflap.data.refusals import refusal_sentence, refusals
    from catflap.data.scan import scan
    from catflap.data.sources import Columns, source_of

    if args.on is not None and args.workers is not None:
        raise CatflapError(
            "--workers is for this machine, and --on names a cluster.", "Leave one of them out."
        )
    with progress_bar(args) as progress:
        manifest = scan(
            source_of(args.source),
            args.out,
            labels=read_mapping(args.labels) if args.labels else None,
            columns=Columns(args.path_column, args.label_column, args.group_column, args.role_column),
            on=args.on,
            workers=args.workers,
            profile=not args.no_profile,
            progress=progress,
            **given_options(deadline=args.deadline),
        )
    for refused in refusals(manifest):
        note(f"Not used: {refusal_sentence(refused)}.")
    for check in manifest.checks:
        note(check["what"])
    emit(manifest.to_json(), args)
    return 0
