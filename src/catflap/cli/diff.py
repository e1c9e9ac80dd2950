"""`catflap diff`: may model B replace model A?"""

from __future__ import annotations

import argparse
from pathlib import Path

from catflap.cli.output import emit, note, progress_bar, table

HELP = "Compare two models on the same photos: may B replace A? Exit 1 if not, or if it is not shown."
EXAMPLE = "catflap diff cat.catflap next.catflap photos -o diff.html"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The two models, the photos, the margin and the page."""
    parser.add_argument("a", metavar="A", type=Path, help="the bundle or checkpoint in use")
    parser.add_argument("b", metavar="B", type=Path, help="the bundle or checkpoint that may replace it")
    parser.add_argument(
        "photos", metavar="DATASET|FOLDER", type=Path,
        help="labelled photos that neither was trained on, as `catflap evaluate` takes them",
    )  # fmt: skip
    parser.add_argument("-o", "--out", metavar="PAGE", type=Path, help="write the result as one HTML page")
    parser.add_argument(
        "--margin", type=float, metavar="SHARE",
        help="how much higher B's share of wrong decisions may be, and how much lower that of right ones "
        "(default: 0.01)",
    )  # fmt: skip
    parser.add_argument("--facts", type=Path, metavar="CSV", help="what else is known of the photos: slices")
    parser.add_argument(
        "--role", help="photos to compare on, where roles are stated: those of this role (default: test)"
    )


def answer(args: argparse.Namespace) -> int:
    """Compare and print; 0 only when B may replace A."""
    from catflap.cli.options import given_options
    from catflap.pipeline.diff import diff, write_diff_page

    with progress_bar(args) as progress:
        result = diff(
            args.a, args.b, args.photos, facts=args.facts, role=args.role, progress=progress,
            **given_options(margin=args.margin),
        )  # fmt: skip
    if args.out is not None:
        write_diff_page(result, args.out)
    fields = result.fields
    rows = [
        {
            "": name,
            "photos": part["photos"],
            "wrong A": f"{100 * part['wrong']['a']['value']:.2f} %",
            "wrong B": f"{100 * part['wrong']['b']['value']:.2f} %",
            "right A": f"{100 * part['right']['a']['value']:.2f} %",
            "right B": f"{100 * part['right']['b']['value']:.2f} %",
        }
        for name, part in (
            ("all photos", fields),
            *((part["name"], part) for part in fields["slices"] if part["worse"]),
            *((part["name"], part) for part in fields["slices"] if part["name"].startswith("label ")),
        )
    ]
    may = "B may replace A." if result.may_replace else "B may not replace A."
    changed = f"Decisions changed on {fields['changed']:,} of {fields['photos']:,} photos."
    emit(fields, args, f"{fields['verdict']}: {may} {fields['why']}\n{changed}\n\n{table(rows)}")
    for side in ("a", "b"):
        if fields[side]["seen"] in ("learnt", "chosen", "calibrated"):
            note(f"{fields[side]['name']} has seen these photos before; the comparison favours it.")
    return 0 if result.may_replace else 1
