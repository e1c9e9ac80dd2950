"""`catflap compare`: the training environment beside the inference environment."""

from __future__ import annotations

import argparse
from pathlib import Path

from catflap.cli.output import emit, progress_bar
from catflap.cli.output import table as as_table

HELP = "Measure the cost of training beside the cost of inference."
EXAMPLE = "catflap compare cat.build/checkpoint cat.catflap"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The two sides."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="what `catflap train` wrote")
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="what was exported from it")
    parser.add_argument(
        "--variant",
        metavar="NAME",
        help="variant to run: int8, fp32, … (default: the bundle's own, if it can run here)",
    )


def answer(args: argparse.Namespace) -> int:
    """Compare and print the table."""
    from catflap.comparison.compare import compare, table

    with progress_bar(args) as progress:
        fields = compare(args.checkpoint, args.bundle, variant=args.variant, progress=progress)
    emit(fields, args, as_table(table(fields)))
    return 0
