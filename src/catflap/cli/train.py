"""`catflap train`: a Dataset to a Checkpoint."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from catflap.cli.options import short_help
from catflap.cli.output import emit, note, progress_bar
from catflap.errors import CatflapError, need

if TYPE_CHECKING:
    from catflap.training.plan import Plan

HELP = "Learn from the train photos, choose by the validation photos, and write a Checkpoint."
EXAMPLE = "catflap train photos.dataset -o cat.checkpoint"
SHOWN = (  # by --help; the rest by --help-all
    "--out", "--backbone", "--weights", "--sha256", "--recipe", "--epochs", "--minutes", "--teacher",
    "--budget", "--max-ms", "--max-mb", "--device",
)  # fmt: skip


def arguments(parser: argparse.ArgumentParser) -> None:
    """The Dataset, where to write, and how to learn."""
    parser.add_argument("dataset", metavar="DATASET", type=Path, help="what `catflap prepare` wrote")
    parser.add_argument("-o", "--out", metavar="CHECKPOINT", type=Path, required=True, help="folder to write")
    plan_arguments(parser)
    parser.add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help="where to compute: auto, cpu, cuda, … (default: auto)",
    )
    parser.add_argument(
        "--tensorboard", metavar="FOLDER", type=Path,
        help="write the loss and rate of each step into FOLDER for TensorBoard",
    )  # fmt: skip
    parser.add_argument(
        "--mlflow", metavar="ADDRESS",
        help="write them to MLflow at this tracking address, such as sqlite:///runs.db",
    )  # fmt: skip
    short_help(parser, SHOWN)


def plan_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `train` and `build` share."""
    parser.add_argument(
        "--backbone", metavar="NAME",
        help="efficientnet_lite0, _lite1, _lite2, _lite2_slim, _lite0_tiny or resnet8 (installed), or any "
        "timm model (default: efficientnet_lite0; build, --minutes and --budget choose)",
    )  # fmt: skip
    parser.add_argument(
        "--weights", metavar="FILE", type=Path,
        help="start from these weights of the backbone: a state dict, as safetensors or from torch.save",
    )  # fmt: skip
    parser.add_argument("--sha256", metavar="HEX", default="", help="the hash of --weights, which is checked")
    parser.add_argument(
        "--recipe", choices=("head", "finetune", "scratch"),
        help="head: a linear head on frozen features; finetune: then every weight; scratch: every weight "
        "from a random start (default: head, then finetune where that is expected to be better)",
    )  # fmt: skip
    parser.add_argument(
        "--epochs", type=int, metavar="N",
        help="epochs of finetune and scratch (default: as many as fit --minutes; 3 for a named recipe; else "
        "by the number of photos)",
    )  # fmt: skip
    parser.add_argument(
        "--minutes", type=float, metavar="N",
        help="find the best model in N minutes: compare backbones, frame sizes and fits (unless --backbone "
        "names one), then fine-tune for the time that is left",
    )  # fmt: skip
    parser.add_argument(
        "--teacher", type=Path, action="append", default=[], metavar="CHECKPOINT",
        help="learn a larger network's predictions beside the labels (needs --recipe finetune or scratch); "
        "repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--budget", type=int, metavar="N",
        help="compare N backbones, frame sizes and fits first (default: as many as fit into a quarter of "
        "--minutes, 2 in a plain build; 0: none)",
    )  # fmt: skip
    parser.add_argument(
        "--precision", default="auto", choices=("auto", "fp32"),
        help="precision of training every weight; auto: bf16 or fp16 where that is faster (default: auto)",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N",
        help="seed of the order of photos, of a random start, and in build of the roles (default: 0)",
    )  # fmt: skip
    parser.add_argument(
        "--max-ms", type=float, metavar="N",
        help="compare only backbones that take at most N milliseconds a frame (fp32, one thread, here)",
    )  # fmt: skip
    parser.add_argument(
        "--max-mb", type=float, metavar="N",
        help="compare only backbones of at most N megabytes in int8 (default: 4; with --budget no limit)",
    )  # fmt: skip


def plan_of(args: argparse.Namespace) -> Plan:
    """The Plan of the options."""
    from catflap.artifacts.checkpoint import load_checkpoint
    from catflap.training.plan import Plan
    from catflap.training.weights_file import WeightsFile

    if args.sha256 and not args.weights:
        raise CatflapError("--sha256 is the hash of --weights, and there are none.", "Add --weights FILE.")
    return Plan(
        backbone=args.backbone,
        recipe=args.recipe,
        epochs=args.epochs,
        minutes=args.minutes,
        teachers=tuple(map(load_checkpoint, args.teacher)),
        trials=args.budget,
        max_ms=args.max_ms,
        max_mb=args.max_mb,
        seed=args.seed,
        precision=args.precision,
        weights=WeightsFile(args.weights, args.sha256.strip().lower()) if args.weights else None,
    )


def answer(args: argparse.Namespace) -> int:
    """Train and print the validation metrics and the history; under torchrun the first process prints."""
    from catflap.artifacts.dataset import load_dataset

    need("torch")
    dataset = load_dataset(args.dataset)  # before torch, which takes seconds: the path may be wrong
    from catflap.training.distributed import is_first_process
    from catflap.training.step_logging import open_step_loggers
    from catflap.training.train import train

    is_first = is_first_process()
    if not is_first:
        sys.stdout = sys.stderr  # so that all processes share one answer
    plan = plan_of(args)
    if not plan.may_finetune and (args.tensorboard or args.mlflow):
        raise CatflapError(
            "--tensorboard and --mlflow log steps, and --recipe head has none.",
            "Use --recipe finetune, or leave them out.",
        )
    if not is_first:
        train(dataset, args.out, plan, device=args.device)
        return 0
    with (
        progress_bar(args) as progress,
        open_step_loggers(args.tensorboard, args.mlflow, args.out.name, note) as log,
    ):
        checkpoint = train(dataset, args.out, plan, device=args.device, progress=progress, log=log)
    emit(checkpoint.to_json(), args, checkpoint_text(checkpoint.to_json()))
    return 0


def checkpoint_text(fields: dict) -> str:  # type: ignore[type-arg]
    """A Checkpoint as text: its validation accuracy and its cost."""
    accuracy, cost = fields["metrics"]["accuracy"], fields["cost"]
    return (
        f"{fields['recipe']}: validation accuracy {accuracy['value']:.4f} "
        f"({accuracy['low']:.4f} to {accuracy['high']:.4f})\n"
        f"{cost['photo_passes']:,} photo passes in {cost['seconds']:.1f} s, "
        f"{cost['peak_memory_mb']:,.0f} MB peak memory, on {cost['device']}"
    )
