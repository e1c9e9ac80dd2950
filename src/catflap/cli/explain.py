"""`catflap explain`: one training step and one prediction of a photo, drawn."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from catflap.cli.output import emit, progress_bar
from catflap.cli.output import table as as_table

HELP = "Draw one training step and one prediction of a photo, stage by stage, from real numbers."
EXAMPLE = "catflap explain cat.build/checkpoint cat.catflap photo.jpg -o explain.html"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The two sides and the photo."""
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", type=Path, nargs="?",
        help="what `catflap train` wrote; without it only the prediction is shown",
    )  # fmt: skip
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="what was exported from it")
    parser.add_argument("photo", metavar="PHOTO", type=Path, help="a photo of yours")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="PAGE", help="HTML page to write")
    parser.add_argument(
        "--label", metavar="LABEL",
        help="true label (default: the folder's name if that is a label, else the model's answer)",
    )  # fmt: skip


def answer(args: argparse.Namespace) -> int:
    """Write the page and print its main numbers."""
    from catflap.comparison.explain import explain

    with progress_bar(args) as progress:
        fields = explain(
            args.checkpoint, args.bundle, args.photo, args.out, label=args.label, progress=progress
        )
    emit(fields, args, explain_text(fields))
    return 0


def explain_text(fields: dict[str, Any]) -> str:
    """The main numbers for people."""
    prediction, training = fields["prediction"], fields["training"]
    lines = [f"prediction: {prediction['decision']} in {prediction['ms']['answer']:.1f} ms"]
    if training is None:
        lines.append("training: not shown, because no checkpoint was named")
    else:
        names = ("name", "weights", "gradient_norm", "update_norm", "ms")
        lines += [
            f"one step towards {training['label']}: loss {training['loss']:.6g}, then "
            f"{training['loss_after']:.6g}, in {sum(training['ms'].values()):.1f} ms",
            as_table([{name: stage[name] for name in names} for stage in training["stages"]]),
        ]
    return "\n".join([*lines, f"page: {fields['page']}"])
