"""`catflap build`: photos to a verified Bundle."""

from __future__ import annotations

import argparse
from pathlib import Path

from catflap.cli.export import error_rate_table, export_arguments, unsure_warning, variants_of
from catflap.cli.output import as_text, emit, note, progress_bar
from catflap.cli.prepare import frame_arguments, frame_of
from catflap.cli.train import plan_arguments, plan_of

HELP = (
    "Scan, prepare, train, export, verify and evaluate in one command. Run it again to continue.\n"
    "A plain build compares two small networks, and fine-tunes the better one if its head is poor."
)
EXAMPLE = "catflap build PHOTOS -o cat.catflap"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The photos, where to write, and the options of the steps."""
    parser.add_argument("source", metavar="PHOTOS", help="a folder with one folder of photos a label")
    parser.add_argument(
        "-o", "--out", metavar="BUNDLE", type=Path, required=True, help="bundle to write, NAME.catflap"
    )
    frame_arguments(parser)
    plan_arguments(parser)
    export_arguments(parser)


def answer(args: argparse.Namespace) -> int:
    """Build and print the summary with the seconds of each step."""
    from catflap.data.sources import check_exists

    check_exists(args.source)  # before torch, which takes seconds
    from catflap.pipeline.build import build

    with progress_bar(args) as progress:
        fields = build(
            args.source,
            args.out,
            frame=frame_of(args),
            plan=plan_of(args),
            variants=variants_of(args),
            about=args.about,
            operating_points=tuple(args.operating_point),
            error_rate=args.error_rate,
            progress=progress,
        )
    default = next(iter(fields["variants"].values()))
    if warning := unsure_warning(default["decision"]):
        note(warning)
    emit(fields, args, build_text(fields))
    return 0


def build_text(fields: dict) -> str:  # type: ignore[type-arg]
    """The summary of a build as text: the model, each variant's accuracy, seconds per step, and paths."""
    from catflap.evaluation.decision_rates import in_words

    trained, frame = fields["trained"], fields["trained"]["frame"]
    size = f"{frame['width']} × {frame['height']} px"
    lines = [f"{trained['backbone']} at {size}, {frame['fit']}, recipe {trained['recipe']}"]
    lines += [
        f"{name}: accuracy {variant['accuracy']['value']:.4f} ({variant['accuracy']['low']:.4f} to "
        f"{variant['accuracy']['high']:.4f}), {variant['flips']} flips, {variant['bytes'] / 1e6:.2f} MB"
        for name, variant in fields["variants"].items()
    ]
    lines += [
        f"{name}: {in_words(variant['decisions'])}"
        for name, variant in fields["variants"].items()
        if variant["decisions"]
    ]
    seconds = {
        name: "unchanged" if step["skipped"] else f"{step['seconds']:.1f} s"
        for name, step in fields["steps"].items()
    }
    lines += [error_rate_table(variant["decision"]) for variant in [*fields["variants"].values()][:1]]
    lines += [
        as_text(seconds),
        f"verdict: {fields['verdict']}   {fields['bundle']}   report: {fields['page']}",
    ]
    return "\n".join(lines)
