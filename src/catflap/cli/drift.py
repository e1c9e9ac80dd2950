"""`catflap drift`: compare a field log with the photos that a Bundle was calibrated on."""

from __future__ import annotations

import argparse
from pathlib import Path

from catflap.cli.output import as_text, emit, note, table

HELP = "Compare a field log with the bundle's calibration photos, 200 at a time."
EXAMPLE = "catflap drift cat.catflap field.log"
LISTED = 10  # windows in the text output; --json prints all


def arguments(parser: argparse.ArgumentParser) -> None:
    """The Bundle and the log."""
    parser.add_argument("bundle", metavar="BUNDLE", help="a .catflap file, or the name of a shipped one: cat")
    parser.add_argument(
        "log", metavar="LOG", type=Path, help="field log: what --log of predict, watch or serve wrote"
    )
    parser.add_argument(
        "-o",
        "--out",
        metavar="PAGE",
        type=Path,
        help="write the result as one HTML page, without photos",
    )
    parser.add_argument(
        "--variant", metavar="NAME", help="variant that answered: int8, fp32, … (default: the bundle's own)"
    )


def answer(args: argparse.Namespace) -> int:
    """Compare and print; 1 when the newest photos have drifted."""
    from datetime import datetime

    from catflap.evaluation.drift_baseline import WINDOW
    from catflap.pipeline.drift import STAND_IN, drift, write_drift_page

    report = drift(args.bundle, args.log, variant=args.variant)
    if args.out is not None:
        write_drift_page(report, args.out)
    fields = report.to_json()
    windows = [
        {
            "from": datetime.fromtimestamp(window.first).strftime("%Y-%m-%d %H:%M"),
            "to": datetime.fromtimestamp(window.last).strftime("%Y-%m-%d %H:%M"),
            "score": round(window.drift.score, 2),
            "most": window.drift.most,
            "alarm": window.drift.alarm,
        }
        for window in report.windows[-LISTED:]
    ]
    shown = {name: value for name, value in fields.items() if name not in ("windows", "latest")}
    shown["score"] = None if report.latest is None else report.latest.drift.score
    shown["most"] = None if report.latest is None else report.latest.drift.most
    emit(fields, args, "\n\n".join([as_text(shown), *([table(windows)] if windows else [])]))
    if report.baseline == "log":
        note(f"No baseline in the bundle; the first {STAND_IN} photos of the log replace it.")
    if report.latest is None:
        note(f"The log has too few photos of this bundle; {WINDOW} are needed after its baseline.")
    return 1 if report.alarm else 0
