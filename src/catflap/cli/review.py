"""`catflap review`: photos of the field to decide about, and what a person decided, carried out."""

from __future__ import annotations

import argparse
from pathlib import Path

from catflap.cli.options import given_options, part_of
from catflap.cli.output import emit, note, progress_bar
from catflap.errors import CatflapError

HELP = "Make a page of photos from the field, and apply what a person decided on such a page or an audit's."
EXAMPLE = "catflap review apply cat.catflap decisions.json"


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to do with decisions."""
    verbs = parser.add_subparsers(dest="verb", metavar="apply|queue|take", required=True)
    apply = part_of(
        verbs, "apply", "make a new manifest of an audited one and what was decided on its page", EXAMPLE
    )
    apply.add_argument(
        "manifest", metavar="MANIFEST|BUILD", type=Path,
        help="the manifest that was reviewed, or the build, such as cat.catflap, which keeps the decisions",
    )  # fmt: skip
    apply.add_argument("decisions", metavar="DECISIONS", type=Path, help="what the review page downloaded")
    apply.add_argument(
        "-o", "--out", metavar="NEW_MANIFEST", type=Path, help="folder to write; needed for a manifest"
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
    from catflap.artifacts.build_folder import build_folder, part_of_build
    from catflap.artifacts.manifest import load_manifest
    from catflap.curation.kept_decisions import review_build
    from catflap.curation.review import apply_review

    folder = None if args.out else build_folder(args.manifest)
    if folder is None and args.out is None:
        raise CatflapError("The new manifest has no name.", "Add -o reviewed.manifest.")
    with progress_bar(args) as progress:
        if folder is not None:
            review = review_build(folder, args.decisions, progress=progress)
        else:
            manifest = load_manifest(part_of_build(args.manifest, "manifest"))
            review = apply_review(manifest, args.decisions, args.out, progress=progress)
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
    if folder is not None:
        note("Run the same `catflap build` again: it goes on with these labels.")
    return 1 if outcome.left else 0
