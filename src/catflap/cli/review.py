"""`catflap review`: what a person decided, carried out."""

from __future__ import annotations

import argparse
from pathlib import Path

from catflap.cli.output import emit, note, progress_bar

HELP = "Carry out what a person decided on a review page."
EXAMPLE = "catflap review apply audited.manifest decisions.json -o reviewed.manifest"


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to do with decisions."""
    verbs = parser.add_subparsers(dest="verb", metavar="apply", required=True)
    apply = verbs.add_parser("apply", help="make a new manifest of a manifest and decisions")
    apply.add_argument("manifest", metavar="MANIFEST", type=Path, help="the manifest that was reviewed")
    apply.add_argument("decisions", metavar="DECISIONS", type=Path, help="what the review page downloaded")
    apply.add_argument(
        "-o", "--out", metavar="NEW_MANIFEST", type=Path, required=True, help="folder to write"
    )
    apply.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS, help="print the answer as JSON"
    )


def answer(args: argparse.Namespace) -> int:
    """Apply and print the counts; 1 when some decisions could not be carried out."""
    from catflap.artifacts.manifest import load_manifest
    from catflap.curation.review import apply_review

    with progress_bar(args) as progress:
        review = apply_review(load_manifest(args.manifest), args.decisions, args.out, progress=progress)
    emit(review.to_json(), args)
    outcome = review.outcome
    if review.other:
        note("The decisions were made on another manifest; photos were found by their bytes.")
    if outcome.left:
        note(
            f"{outcome.left} decisions were not carried out: "
            f"{len(outcome.unknown)} on photos that are not here, "
            f"{len(outcome.stale)} on photos with another label by now, "
            f"{len(outcome.unusable)} on photos that are not in use."
        )
    for check in review.manifest.checks:
        note(check["what"])
    return 1 if outcome.left else 0
