"""`catflap review`: photos of the field to decide about, and what a person decided, carried out."""

from __future__ import annotations

import argparse
from pathlib import Path

from catflap.cli.options import given_options, part_of
from catflap.cli.output import emit, note, progress_bar

HELP = "Make a page of photos from the field, and apply what a person decided on such a page or an audit's."
EXAMPLE = "catflap review apply audited.manifest decisions.json -o reviewed.manifest"


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to do with decisions."""
    verbs = parser.add_subparsers(dest="verb", metavar="apply|queue|take", required=True)
    apply = part_of(
        verbs, "apply", "make a new manifest of an audited one and what was decided on its page", EXAMPLE
    )
    apply.add_argument("manifest", metavar="MANIFEST", type=Path, help="the manifest that was reviewed")
    apply.add_argument("decisions", metavar="DECISIONS", type=Path, help="what the review page downloaded")
    apply.add_argument(
        "-o", "--out", metavar="NEW_MANIFEST", type=Path, required=True, help="folder to write"
    )
    queue = part_of(
        verbs, "queue", "make a page to decide on the most useful photos of a field log",
        "catflap review queue field.log -o queue",
    )  # fmt: skip
    queue.add_argument(
        "log", metavar="LOG", type=Path, help="field log: what --log of predict, watch or serve wrote"
    )
    queue.add_argument("-o", "--out", metavar="QUEUE", type=Path, required=True, help="folder to write")
    queue.add_argument("--shown", type=int, metavar="N", help="photos to show (default: 200)")
    take = part_of(
        verbs, "take", "make class folders of a queue and what was decided on its page",
        "catflap review take queue decisions.json -o field-photos",
    )  # fmt: skip
    take.add_argument("queue", metavar="QUEUE", type=Path, help="what `catflap review queue` wrote")
    take.add_argument("decisions", metavar="DECISIONS", type=Path, help="what the review page downloaded")
    take.add_argument("-o", "--out", metavar="PHOTOS", type=Path, required=True, help="folder to write")


def answer(args: argparse.Namespace) -> int:
    """Run the subcommand; 1 when some decisions could not be applied."""
    return {"apply": _apply, "queue": _queue, "take": _take}[args.verb](args)


def _queue(args: argparse.Namespace) -> int:
    from catflap.curation.field_queue import review_queue

    with progress_bar(args) as progress:
        queue = review_queue(args.log, args.out, progress=progress, **given_options(shown=args.shown))
    emit(queue.to_json(), args)
    if queue.gone:
        note(f"{queue.gone} more would be useful, but no picture of them was kept; use --log-photos.")
    note(f"Decide in a browser: {queue.page}")
    return 0


def _take(args: argparse.Namespace) -> int:
    from catflap.curation.field_queue import take_photos

    taken = take_photos(args.queue, args.decisions, args.out)
    emit(taken.to_json(), args)
    if taken.unknown or taken.stale:
        note(f"{taken.unknown + taken.stale} decisions are on photos that are not in this queue.")
    return 1 if taken.unknown or taken.stale else 0


def _apply(args: argparse.Namespace) -> int:
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
            f"{outcome.left} decisions were not applied: "
            f"{len(outcome.unknown)} on photos that are not here, "
            f"{len(outcome.stale)} on photos with another label by now, "
            f"{len(outcome.unusable)} on photos that are not in use."
        )
    for check in review.manifest.checks:
        note(check["what"])
    return 1 if outcome.left else 0
