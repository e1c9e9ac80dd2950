"""`catflap build`: photos to a verified Bundle."""

from __future__ import annotations

import argparse

from catflap.cli.export import error_rate_table, export_arguments, unsure_warning, variants_of
from catflap.cli.options import bundle_out, short_help
from catflap.cli.output import emit, note, recorder, whole_bar
from catflap.cli.prepare import frame_arguments, frame_of
from catflap.cli.train import plan_arguments, plan_of
from catflap.errors import need

HELP = (
    "Scan, prepare, train, export, verify and evaluate in one command. Run it again to continue.\n"
    "A plain build compares two small networks, and fine-tunes the better one if its head is poor."
)
EXAMPLE = "catflap build PHOTOS -o cat.catflap"
SHOWN = (  # by --help; the rest by --help-all
    "--out", "--minutes", "--recipe", "--max-ms", "--max-mb", "--targets", "--error-rate",
    "--operating-point", "--about",
)  # fmt: skip


def arguments(parser: argparse.ArgumentParser) -> None:
    """The photos, where to write, and the options of the steps."""
    parser.add_argument("source", metavar="PHOTOS", help="a folder with one folder of photos a label")
    parser.add_argument(
        "-o", "--out", metavar="BUNDLE", type=bundle_out, required=True, help="bundle to write, NAME.catflap"
    )
    frame_arguments(parser)
    plan_arguments(parser)
    export_arguments(parser)
    short_help(parser, SHOWN)


def answer(args: argparse.Namespace) -> int:
    """Build and print the summary with the seconds of each step."""
    need("torch")  # of the extra that has all that build takes
    from catflap.data.sources import check_exists

    check_exists(args.source)  # before torch, which takes seconds
    from catflap.pipeline.build import build
    from catflap.pipeline.build_pace import BuildPace

    with whole_bar(args, BuildPace()) as progress:
        fields = build(
            args.source,
            args.out,
            frame=frame_of(args),
            plan=plan_of(args),
            variants=variants_of(args),
            about=args.about,
            operating_points=tuple(args.operating_point),
            error_rate=args.error_rate,
            unknown_rate=args.unknown_rate,
            progress=progress,
            record=recorder(),
        )
    default = next(iter(fields["variants"].values()))
    if warning := unsure_warning(default["decision"]):
        note(f"{warning}\n{error_rate_table(default['decision'])}")
    emit(fields, args, build_text(fields))
    return 0


def build_text(fields: dict) -> str:  # type: ignore[type-arg]
    """The outcome in sentences, then the model, each variant's accuracy, seconds per step, and paths."""
    trained, frame = fields["trained"], fields["trained"]["frame"]
    size = f"{frame['width']} × {frame['height']} px"
    lines = [*fields["outcome"]["sentences"], ""]
    lines += [f"{trained['backbone']} at {size}, {frame['fit']}, recipe {trained['recipe']}"]
    lines += [
        f"{name}: accuracy {variant['accuracy']['value']:.4f} ({variant['accuracy']['low']:.4f} to "
        f"{variant['accuracy']['high']:.4f}), {variant['flips']} flips, {variant['bytes'] / 1e6:.2f} MB"
        for name, variant in fields["variants"].items()
    ]
    seconds = (
        f"{name} {'unchanged' if step['skipped'] else format(step['seconds'], '.1f') + ' s'}"
        for name, step in fields["steps"].items()
    )
    lines += [
        ", ".join(seconds),
        f"Bundle: {fields['bundle']} (verified)",
        f"Report: {fields['page']}",
        f"Next: {fields['outcome']['next']}",
    ]
    return "\n".join(lines)
