"""`catflap demo`: the whole line on small free data."""

from __future__ import annotations

import argparse
from pathlib import Path

from catflap.cli.build import build_text
from catflap.cli.compare import compare_text
from catflap.cli.output import emit, progress_bar
from catflap.cli.output import table as as_table
from catflap.errors import need

HELP = "Classify free photos with the shipped cat bundle, then build a bundle from handwritten digits."
EXAMPLE = "catflap demo -o demo"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Where to write."""
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        default=Path("demo"),
        metavar="FOLDER",
        help="folder to write (default: demo)",
    )


def answer(args: argparse.Namespace) -> int:
    """Run the demo and print the answers, the accuracy and the comparison."""
    need("torch")
    from catflap.pipeline.demo import demo

    with progress_bar(args) as progress:
        fields = demo(args.out, progress=progress)
    seen = fields["prediction"]
    lines = [
        "The shipped cat bundle passed verification and classified photos that it has never seen:",
        as_table(fields["samples"]),
        "",
        "Ten handwritten digits, from a folder of PNGs to a verified bundle:",
        build_text(fields["digits"]),
        f"{seen['photo']}: {seen['label']} {seen['probability']:.4f}",
        "",
        "The cost of training beside the cost of inference, measured here:",
        compare_text(fields["comparison"]),
        "",
        f"Open the report: {fields['digits']['page']}",
    ]
    emit(fields, args, "\n".join(lines))
    return 0
