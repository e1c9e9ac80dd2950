"""`catflap evaluate`: a Checkpoint or a Bundle to a Report."""

from __future__ import annotations

import argparse
from pathlib import Path

from catflap.cli.output import emit, progress_bar

HELP = "Measure a checkpoint or a bundle on photos that it was not trained on, and write a report."
EXAMPLE = "catflap evaluate cat.catflap PHOTOS -o cat.report"


def arguments(parser: argparse.ArgumentParser) -> None:
    """What is judged, on what, and where to write."""
    parser.add_argument("model", metavar="CHECKPOINT|BUNDLE", type=Path, help="what is measured")
    parser.add_argument(
        "photos", metavar="DATASET|FOLDER", type=Path, nargs="?",
        help="a dataset, or photos as `catflap scan` reads them "
        "(default: the dataset of the checkpoint, or of the build that made the bundle)",
    )  # fmt: skip
    parser.add_argument("-o", "--out", metavar="REPORT", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--role",
        help="photos to measure on, where roles are stated: those of this role (default: test)",
    )
    parser.add_argument(
        "--corruptions", action="store_true",
        help="also judge copies of 300 photos with noise, blur, weather and compression (ImageNet-C)",
    )  # fmt: skip
    parser.add_argument("--facts", type=Path, metavar="CSV", help="what else is known of the photos: slices")
    parser.add_argument(
        "--decisions", type=Path, metavar="FILE",
        help="correct labels as decided on the page of an earlier report (review.html)",
    )  # fmt: skip


def answer(args: argparse.Namespace) -> int:
    """Evaluate and print the metrics."""
    from catflap.artifacts.report import judged_on
    from catflap.evaluation.decision_rates import in_words, many_unsure
    from catflap.pipeline.evaluate import evaluate

    with progress_bar(args) as progress:
        report = evaluate(
            args.model, args.photos, args.out, role=args.role, corruptions=args.corruptions,
            facts=args.facts, decisions=args.decisions, progress=progress,
        )  # fmt: skip
    lines = [
        f"{name}: accuracy {found['accuracy']['value']:.4f} "
        f"({found['accuracy']['low']:.4f} to {found['accuracy']['high']:.4f}) "
        f"on {judged_on(found['photos'], report.role, report.seen)}"
        for name, found in report.variants.items()
        if found["photos"]  # with a label that it knows
    ]
    decisions = [
        f"{name}: {in_words(found['decisions'])}{many_unsure(found['decisions'])}"
        for name, found in report.variants.items()
        if "decisions" in found and found["photos"]
    ]
    verdict = (
        [report.verdict["text"], *(f"  {line}" for line in report.verdict["lines"])] if report.verdict else []
    )
    limits = [f"limit: {line}" for part in report.conditions.values() for line in _limits(part)]
    if report.corrected:
        before, after = (report.corrected[when] for when in ("before", "after"))
        limits.append(f"wrong decisions: {before['wrong']} as labelled, {after['wrong']} as corrected")
    lines += limits
    emit(report.to_json(), args, "\n".join([*verdict, *decisions, *lines, f"report: {report.page}"]))
    return 0 if report.passed else 1


def _limits(part: object) -> list[str]:
    return part["limits"] if isinstance(part, dict) else []
