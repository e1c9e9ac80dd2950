"""`catflap compare`: the training environment beside the inference environment."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from catflap.cli.output import emit, progress_bar
from catflap.cli.output import table as as_table

HELP = "Measure training beside inference: compute, time, memory, energy, packages, risks."
WIDEST = 40  # letters of a cell
EXAMPLE = "catflap compare cat.build/checkpoint cat.catflap -o compare.html"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The two sides."""
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", type=Path, nargs="?",
        help="what `catflap train` wrote; without it the inference side alone is measured",
    )  # fmt: skip
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="what was exported from it")
    parser.add_argument("-o", "--out", type=Path, metavar="PAGE", help="write an HTML page, too")
    parser.add_argument(
        "--variant",
        metavar="NAME",
        help="variant to run: int8, fp32, … (default: the bundle's own, if it can run here)",
    )
    parser.add_argument(
        "--profile", metavar="FILE", type=Path, action="append", default=[],
        help="estimate for a device, whose profile `catflap bench --profile` wrote there; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--advisories", metavar="FILE", type=Path,
        help="look the packages up in this database of vulnerabilities: PyPI/all.zip of osv.dev",
    )  # fmt: skip


def answer(args: argparse.Namespace) -> int:
    """Compare and print the table."""
    from catflap.comparison.compare import compare

    with progress_bar(args) as progress:
        fields = compare(
            args.checkpoint,
            args.bundle,
            variant=args.variant,
            profiles=args.profile,
            advisories=args.advisories,
            out=args.out,
            progress=progress,
        )
    emit(fields, args, compare_text(fields))
    return 0


def _cut(text: str) -> str:
    """At most WIDEST letters, so that a row fits into a terminal; the page has all."""
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 1]}…"


def compare_text(fields: Mapping[str, Any]) -> str:
    """The comparison for people."""
    from catflap.comparison.compare import ratio_words, table

    rows = [
        {"what": row["what"], "training": _cut(row["training"] or "-"), "inference": _cut(row["inference"])}
        | {"ratio": ratio_words(row["ratio"])}
        for row in table(fields)
    ]
    alone = [] if fields["training"] else ["No checkpoint was named: the inference side alone."]
    devices = [
        f"{each['device']}: the network about {each['network_ms']:.3g} ms"
        for each in fields.get("devices", ())
    ]
    page = [f"page: {fields['page']}"] if "page" in fields else []
    return "\n".join([*alone, as_table(rows), *devices, *page])
