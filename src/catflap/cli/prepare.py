"""`catflap prepare`: a Manifest to a Dataset."""

from __future__ import annotations

import argparse
from pathlib import Path

from catflap.cli.options import short_help
from catflap.cli.output import emit, note, progress_bar
from catflap.image import Frame

HELP = "Give every photo its role without leaks and pack the photos into a Dataset."
EXAMPLE = "catflap prepare photos.manifest -o photos.dataset"
SHOWN = ("--out", "--seed", "--size", "--fit", "--shrink", "--pixels")  # by --help; the rest by --help-all
ROLES = {"train": 0.6, "validation": 0.1, "calibration": 0.15, "test": 0.15}  # data.roles.SHARES
FEW_ROLES = {"train": 0.7, "validation": 0.1, "calibration": 0.1, "test": 0.1}  # data.roles.FEW_SHARES


def arguments(parser: argparse.ArgumentParser) -> None:
    """The Manifest, where to write, the frame, and the roles."""
    parser.add_argument("manifest", metavar="MANIFEST", type=Path, help="what `catflap scan` wrote")
    parser.add_argument("-o", "--out", metavar="DATASET", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed that draws the roles (default: 0)"
    )
    frame_arguments(parser)
    shares = parser.add_argument_group("shares of the roles; they add up to 1, so state all that change")
    for role, usual in ROLES.items():
        few = f"; of fewer than 1,000 photos {FEW_ROLES[role]}" if FEW_ROLES[role] != usual else ""
        shares.add_argument(
            f"--{role}", type=float, metavar="SHARE",
            help=f"share of photos for {role} (default: {usual}{few})",
        )  # fmt: skip
    parser.add_argument(
        "--embeddings", metavar="FILE.npy", type=Path,
        help="array with one row a photo of the Manifest: photos that look alike share a role, too",
    )  # fmt: skip
    parser.add_argument(
        "--shrink", type=int, default=0, metavar="PX",
        help="store larger train photos as JPEGs with this short side, 32 to 512 (default: they keep their "
        "bytes)",
    )  # fmt: skip
    parser.add_argument(
        "--pixels", action="store_true", help="add a memory map of decoded train photos, for small sets"
    )
    parser.add_argument("--no-profile", action="store_true", help="do not write profile.html")
    short_help(parser, SHOWN)


def frame_arguments(parser: argparse.ArgumentParser) -> None:
    """How photos become pixels: the options that `prepare` and `build` share."""
    frame = Frame()
    parser.add_argument(
        "--size", type=sides, metavar="PX",
        help="side of the square that the model sees, or WIDTHxHEIGHT, as 352x288 for photos that are "
        f"mostly wider than high (default: {frame.width})",
    )  # fmt: skip
    parser.add_argument(
        "--fit", choices=("squash", "crop"),
        help="squash: the whole photo; crop: its largest centred part of the frame's shape "
        f"(default: {frame.fit})",
    )  # fmt: skip


def frame_of(args: argparse.Namespace) -> Frame | None:
    """The frame of --size and --fit; None when neither is given."""
    if args.size is None and args.fit is None:
        return None
    default = Frame()
    width, height = args.size or (default.width, default.height)
    return Frame(width, height, args.fit or default.fit)


def sides(text: str) -> tuple[int, int]:
    """Width and height in px of "288" or "352x288"."""
    width, _, height = text.partition("x")
    try:
        return int(width), int(height or width)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write 288 or 352x288") from error


def answer(args: argparse.Namespace) -> int:
    """Prepare and print the counts."""
    from catflap.artifacts.manifest import load_manifest
    from catflap.data.duplicates import load_embeddings
    from catflap.data.prepare import prepare
    from catflap.data.roles import SHARES

    manifest = load_manifest(args.manifest)
    stated = {role: getattr(args, role) for role in ROLES if getattr(args, role) is not None}
    with progress_bar(args) as progress:
        dataset = prepare(
            manifest,
            args.out,
            frame=frame_of(args) or Frame(),
            seed=args.seed,
            shares={**SHARES, **stated} if stated else None,
            embeddings=load_embeddings(args.embeddings) if args.embeddings else None,
            shrink=args.shrink,
            pixels=args.pixels,
            profile=not args.no_profile,
            progress=progress,
        )
    if 0 < dataset.shrink < min(dataset.frame.width, dataset.frame.height):
        note("Shrunk train photos are smaller than the frame, so the model learns from blurred photos.")
    emit(dataset.to_json(), args)
    return 0
