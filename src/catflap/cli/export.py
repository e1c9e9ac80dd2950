"""`catflap export`: a Checkpoint to a verified Bundle."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from catflap.artifacts.schema import is_text
from catflap.cli.options import bundle_out, refuse_alone, short_help, split_names
from catflap.cli.output import emit, note, progress_bar, table
from catflap.errors import CatflapError, need

if TYPE_CHECKING:
    from catflap.exporting.budget import Budget

HELP = "Turn a Checkpoint into a Bundle; refused when a variant differs from what was tested."
EXAMPLE = "catflap export cat.checkpoint -o cat.catflap"
SHOWN = (  # by --help; the rest by --help-all
    "--out", "--variants", "--targets", "--about", "--error-rate", "--unknown-rate", "--operating-point",
    "--max-mb", "--max-ms", "--min-accuracy",
)  # fmt: skip


def arguments(parser: argparse.ArgumentParser) -> None:
    """The Checkpoint, where to write, and which variants."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="what `catflap train` wrote")
    parser.add_argument(
        "-o", "--out", metavar="BUNDLE", type=bundle_out, required=True, help="bundle to write, NAME.catflap"
    )
    parser.add_argument(
        "--dataset", type=Path, help="where the checkpoint's dataset lies now, if it was moved"
    )
    parser.add_argument(
        "--golden", type=Path, action="append", default=[], metavar="PHOTO",
        help="put this photo into the bundle as a golden case; may be repeated (default: drawn ones only)",
    )  # fmt: skip
    export_arguments(parser)
    limits = parser.add_argument_group(
        "budget of each variant; only those that keep it go in (default: no limits)"
    )
    limits.add_argument("--max-mb", type=float, metavar="MB", help="megabytes that its files may have")
    limits.add_argument(
        "--max-ms", type=float, metavar="MS", help="milliseconds that its network may take for one frame"
    )
    limits.add_argument(
        "--min-accuracy",
        type=float,
        metavar="SHARE",
        help="share of the calibration photos that it must get right",
    )
    limits.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="threads to measure --max-ms with (default: 1; with --device-profile its own)",
    )
    limits.add_argument(
        "--device-profile", type=Path, metavar="PROFILE",
        help="what `bench --profile` wrote on the device that --max-ms is for (default: this machine)",
    )  # fmt: skip
    short_help(parser, SHOWN)


def budget_of(args: argparse.Namespace) -> Budget | None:
    """The budget that was stated, or None."""
    from catflap.exporting.budget import Budget
    from catflap.runtime.bench import load_profile

    refuse_alone(args, "--max-ms 20", "--device-profile", "--threads")
    if args.max_mb is None and args.max_ms is None and args.min_accuracy is None:
        return None
    device = None if args.device_profile is None else load_profile(args.device_profile)
    return Budget(args.max_mb, args.max_ms, args.min_accuracy, args.threads, device)


def export_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `export` and `build` share."""
    variant_arguments(parser)
    parser.add_argument(
        "--about", default="", metavar="TEXT", type=_text,
        help="a sentence or two for the card: what the photos are and may be used for",
    )  # fmt: skip
    parser.add_argument(
        "--error-rate", type=float, metavar="RATE",
        help="share of photos that may get a wrong label, such as 0.02; the others are unsure (default: the "
        "smallest rate at which at most a tenth is unsure)",
    )  # fmt: skip
    parser.add_argument(
        "--unknown-rate", type=float, metavar="RATE",
        help="share of photos like these that may be called unknown, so that other things are; 0 for never "
        "(default: 0.05 for three labels or more, where it helps)",
    )  # fmt: skip
    parser.add_argument(
        "--operating-point", action="append", default=[], metavar="LABEL:WISH=NUMBER",
        help="choose an operating point: LABEL:max_fpr=, LABEL:min_recall= or LABEL:cost_ratio=NUMBER; may "
        "be repeated (default: none)",
    )  # fmt: skip


def _text(words: str) -> str:
    """Words that a card can hold; CatflapError for bytes that are not UTF-8."""
    if not is_text(words):
        raise CatflapError("--about has bytes that are not UTF-8.", "Write the text in UTF-8.")
    return words


def variant_arguments(parser: argparse.ArgumentParser) -> None:
    """Which variants to write, by name or by target."""
    parser.add_argument(
        "--variants", metavar="LIST",
        help="variants to write, the default one first (default: those of --targets, or int8,fp32 and, for "
        "phones and pages, litert-int8)",
    )  # fmt: skip
    parser.add_argument(
        "--targets", metavar="LIST",
        help="write all variants of these targets, too: onnx, onnx-frame, litert, litert-micro, openvino, "
        "ncnn, executorch, coreml",
    )  # fmt: skip


def variants_of(args: argparse.Namespace) -> tuple[str, ...]:
    """The variants that were asked for, in order; none where the default ones are wanted."""
    from catflap.exporting.target import variant_names

    if not args.variants and not args.targets:
        return ()
    return variant_names(split_names(args.targets or ""), split_names(args.variants or ""))


def answer(args: argparse.Namespace) -> int:
    """Export, verify and print each variant's size and metrics."""
    from catflap.artifacts.checkpoint import load_checkpoint
    from catflap.artifacts.dataset import load_dataset
    from catflap.artifacts.golden import load_photo

    need("torch")
    checkpoint = load_checkpoint(args.checkpoint)
    dataset = load_dataset(args.dataset or checkpoint.dataset_path)
    golden = tuple(load_photo(photo, checkpoint.frame) for photo in args.golden)
    from catflap.exporting.export import export  # torch takes seconds: by now every path is right

    with progress_bar(args) as progress:
        fields = export(
            checkpoint,
            dataset,
            args.out,
            variants=variants_of(args),
            golden_photos=golden,
            about=args.about,
            operating_points=tuple(args.operating_point),
            error_rate=args.error_rate,
            unknown_rate=args.unknown_rate,
            budget=budget_of(args),
            progress=progress,
        )
    for name, why in fields.get("left_out", {}).items():
        note(f"{name} was left out: {why}")
    if warning := unsure_warning(next(iter(fields["variants"].values()))["decision"]):
        note(warning)
    emit(fields, args, export_text(fields))
    return 0


def error_rate_table(decision: dict) -> str:  # type: ignore[type-arg]
    """What each error rate of a decision's curve leaves unsure, for people; "" without a curve."""
    from catflap.evaluation.decision_rates import shown_rates

    return table(
        [
            {
                "error rate": f"{100 * point['error_rate']:.2g} %",
                "unsure": f"{100 * point['unsure']:.1f} %",
                "": "default" if point["error_rate"] == decision["error_rate"] else "",
            }
            for point in shown_rates(decision)
        ]
    )


def unsure_warning(decision: dict) -> str:  # type: ignore[type-arg]
    """A warning where a decision leaves more than a third of the calibration photos unsure, else ""."""
    from catflap.evaluation.decision_rates import MANY_UNSURE

    for point in decision.get("curve", ()):
        if point["error_rate"] == decision["error_rate"] and point["unsure"] > MANY_UNSURE:
            return (
                f"Warning: {100 * point['unsure']:.0f} % of the calibration photos are unsure at an error "
                f"rate of {100 * point['error_rate']:.2g} %. Allow a higher --error-rate, or train on more "
                "photos."
            )
    return ""


def export_text(fields: dict) -> str:  # type: ignore[type-arg]
    """An export for people: variants, what they decide, operating points, then the verdict."""
    from catflap.evaluation.decision_rates import in_words
    from catflap.exporting.card import point_text, unknown_text

    rows = [
        {
            "variant": name,
            "MB": round(variant["bytes"] / 1e6, 2),
            "accuracy": f"{variant['metrics']['accuracy']['value']:.4f}",
            "flips": f"{variant['fidelity']['flips']} of {variant['fidelity']['photos']}",
            "largest change": f"{variant['fidelity']['max_probability_difference']:.4f}",
        }
        for name, variant in fields["variants"].items()
    ]
    decisions = "".join(
        f"\n{name}: {in_words(variant['decisions'])}" for name, variant in fields["variants"].items()
    )
    decisions += "".join(
        f"\n{name}: {unknown_text(variant['unknown'])}"
        for name, variant in fields["variants"].items()
        if "unknown" in variant
    )
    points = "".join(
        f"\n{name}: {point_text(point)}"
        for name, variant in fields["variants"].items()
        for point in variant.get("operating_points", ())
    )
    rates = error_rate_table(next(iter(fields["variants"].values()))["decision"])
    untested = f"\nconverted, but not run: {', '.join(fields['untested'])}" if "untested" in fields else ""
    size = f"{fields['bytes'] / 1e6:.1f} MB"
    verdict = f"verdict: {fields['verdict']}   {fields['bundle']} ({size})"
    return f"{table(rows)}{decisions}{points}\n{rates}{untested}\n{verdict}"
