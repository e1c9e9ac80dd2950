"""`catflap audit`: a Dataset to a Manifest with suspects and a page to review them."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from catflap.cli.options import given_options
from catflap.cli.output import emit, note, progress_bar
from catflap.errors import need

HELP = "Find photos whose label may be wrong, and write a page on which a person decides."
EXAMPLE = "catflap audit cat.catflap"
LISTED = 20  # suspects for people; --json prints all


def arguments(parser: argparse.ArgumentParser) -> None:
    """The Dataset, where to write, and how many suspects the page shows."""
    parser.add_argument(
        "dataset", metavar="DATASET|BUILD", type=Path,
        help="what `catflap prepare` wrote, or what `catflap build` wrote, such as cat.catflap",
    )  # fmt: skip
    parser.add_argument(
        "-o",
        "--out",
        metavar="MANIFEST",
        type=Path,
        help="folder to write (default: audit in a build's folder)",
    )
    parser.add_argument(
        "--manifest",
        metavar="MANIFEST",
        type=Path,
        help="the manifest that the dataset was made from, if it was moved",
    )
    parser.add_argument("--shown", type=int, metavar="N", help="suspects to show on the page (default: 400)")
    parser.add_argument(
        "--backbone", default="efficientnet_lite0", metavar="NAME",
        help="efficientnet_lite0, _lite1, _lite2, _lite2_slim or _lite0_tiny (installed), or any timm model "
        "with pretrained weights (default: efficientnet_lite0)",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed that assigns photos to folds (default: 0)"
    )
    parser.add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help="where to compute: auto, cpu, cuda, … (default: auto)",
    )


def answer(args: argparse.Namespace) -> int:
    """Audit and print a line for each suspect, in the order to review them."""
    need("torch")
    from catflap.artifacts.build_folder import part_of_build
    from catflap.artifacts.dataset import load_dataset
    from catflap.artifacts.manifest import load_manifest
    from catflap.curation.audit import audit, audit_place

    manifest = None if args.manifest is None else load_manifest(args.manifest)
    out, command = audit_place(args.dataset, args.out)
    with progress_bar(args) as progress:
        found = audit(
            load_dataset(part_of_build(args.dataset, "dataset")), out, manifest=manifest,
            backbone=args.backbone, seed=args.seed, device=args.device, command=command, progress=progress,
            **given_options(shown=args.shown),
        )  # fmt: skip
    listed = found.suspects if args.json else found.suspects[:LISTED]
    for one in listed:
        emit(
            one.to_json(),
            args,
            f"{one.score:.3f}  {one.kind:<11}  {one.label} → {one.suggested or '?'}  {one.uri}",
        )
    kinds = Counter(one.kind for one in found.suspects)
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    before = f"; {found.settled} were reviewed before" if found.settled else ""
    note(f"{len(found.suspects)} suspects ({counts or 'none'}){before}. Nothing was changed.")
    for pair in found.confusions[:5]:
        note(f"Estimated photos labelled {pair['label']} that show {pair['shows']}: {pair['photos']}.")
    note(f"Decide in a browser: {found.page}")
    return 0
