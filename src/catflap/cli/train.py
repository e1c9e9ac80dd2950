"""`catflap train`: a Dataset to a Checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path

from catflap.cli.output import emit, progress_bar

HELP = "Learn from the train photos, choose by the validation photos, and write a Checkpoint."
EXAMPLE = "catflap train photos.dataset -o cat.checkpoint"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The Dataset, where to write, and how to learn."""
    parser.add_argument("dataset", metavar="DATASET", type=Path, help="what `catflap prepare` wrote")
    parser.add_argument("-o", "--out", metavar="CHECKPOINT", type=Path, required=True, help="folder to write")
    teaching(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, … (default: auto)")


def teaching(parser: argparse.ArgumentParser) -> None:
    """The options that `train` and `build` share."""
    parser.add_argument(
        "--backbone", default="efficientnet_lite0", metavar="NAME",
        help="efficientnet_lite0 (installed) or any timm model (default: efficientnet_lite0)",
    )  # fmt: skip
    parser.add_argument(
        "--recipe", default="head", choices=("head", "finetune"),
        help="head: a linear head on frozen features; finetune: then every weight (default: head)",
    )  # fmt: skip
    parser.add_argument("--epochs", type=int, default=3, metavar="N", help="of finetune (default: 3)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="draws the order (default: 0)")


def answer(args: argparse.Namespace) -> int:
    """Train and print the validation metrics and the history."""
    from catflap.artifacts.dataset import load_dataset
    from catflap.training.train import train

    with progress_bar(args) as progress:
        checkpoint = train(
            load_dataset(args.dataset),
            args.out,
            backbone=args.backbone,
            recipe=args.recipe,
            epochs=args.epochs,
            seed=args.seed,
            device=args.device,
            progress=progress,
        )
    emit(checkpoint.to_json(), args, checkpoint_text(checkpoint.to_json()))
    return 0


def checkpoint_text(fields: dict) -> str:  # type: ignore[type-arg]
    """A Checkpoint for people: what it reaches on validation and what it cost."""
    accuracy, cost = fields["metrics"]["accuracy"], fields["cost"]
    return (
        f"validation accuracy {accuracy['value']:.4f} ({accuracy['low']:.4f} to {accuracy['high']:.4f})\n"
        f"{cost['photo_passes']:,} photo passes in {cost['seconds']:.1f} s, "
        f"{cost['peak_memory_mb']:,.0f} MB at most, on {cost['device']}"
    )
