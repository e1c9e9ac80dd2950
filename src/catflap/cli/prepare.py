"""`catflap prepare`: a Manifest to a Dataset."""

from __future__ import annotations

import argparse
from pathlib import Path

from catflap.cli.output import emit, progress_bar
from catflap.image import Frame

HELP = "Give every photo its role without leaks and pack the photos into a Dataset."
EXAMPLE = "catflap prepare photos.manifest -o photos.dataset"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The Manifest, where to write, and the seed of the roles."""
    parser.add_argument("manifest", metavar="MANIFEST", type=Path, help="what `catflap scan` wrote")
    parser.add_argument("-o", "--out", metavar="DATASET", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="draws the roles (default: 0)")
    framing(parser)


def framing(parser: argparse.ArgumentParser) -> None:
    """How photos become pixels: the options that `prepare` and `build` share."""
    frame = Frame()
    parser.add_argument(
        "--size", type=int, default=frame.width, metavar="PX",
        help=f"side of the square that the model sees (default: {frame.width})",
    )  # fmt: skip
    parser.add_argument(
        "--fit", default=frame.fit, choices=("squash", "crop"),
        help=f"squash: the whole photo; crop: its largest centred square (default: {frame.fit})",
    )  # fmt: skip


def frame_of(args: argparse.Namespace) -> Frame:
    """The frame that was asked for."""
    return Frame(args.size, args.size, args.fit)


def answer(args: argparse.Namespace) -> int:
    """Prepare and print the counts."""
    from catflap.artifacts.manifest import load_manifest
    from catflap.data.prepare import prepare

    manifest = load_manifest(args.manifest)
    with progress_bar(args) as progress:
        dataset = prepare(manifest, args.out, frame=frame_of(args), seed=args.seed, progress=progress)
    emit(dataset.to_json(), args)
    return 0
