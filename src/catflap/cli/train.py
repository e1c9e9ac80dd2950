"""`catflap train`: a Dataset to a Checkpoint."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from catflap.cli.output import emit, note, progress_bar
from catflap.errors import CatflapError, need

if TYPE_CHECKING:
    from catflap.training.plan import Plan

HELP = "Learn from the train photos, choose by the validation photos, and write a Checkpoint."
EXAMPLE = "catflap train photos.dataset -o cat.checkpoint"


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
        "--strategy", default="ddp", choices=("ddp", "fsdp"),
        help="what processes under torchrun share: ddp: each batch; fsdp: the weights, too (default: ddp)",
    )  # fmt: skip
    parser.add_argument(
        "--tensorboard", metavar="FOLDER", type=Path,
        help="write the loss and rate of each step into FOLDER for TensorBoard",
    )  # fmt: skip
    parser.add_argument(
        "--mlflow", metavar="ADDRESS",
        help="write them to MLflow at this tracking address, such as sqlite:///runs.db",
    )  # fmt: skip


def plan_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `train` and `build` share."""
    parser.add_argument(
        "--backbone", metavar="NAME",
        help="efficientnet_lite0, _lite1, _lite2, _lite2_slim, _lite0_tiny or resnet8 (installed), or any "
        "timm model (default: efficientnet_lite0, or what --minutes, --budget or a plain build choose)",
    )  # fmt: skip
    parser.add_argument(
        "--recipe", choices=("head", "finetune", "scratch"),
        help="head: a linear head on frozen features; finetune: then every weight; "
        "scratch: every weight from a random start (default: head, or what --minutes or --budget choose)",
    )  # fmt: skip
    parser.add_argument(
        "--epochs",
        type=int,
        metavar="N",
        help="epochs of finetune and scratch; --minutes says itself how many fit (default: 3)",
    )
    parser.add_argument(
        "--minutes", type=float, metavar="N",
        help="take the best that validation finds in N minutes: backbone, frame and fit (unless --backbone "
        "names one; a size other than 288 px stays), a head, and fine-tuning for what is left (a random "
        "start for many small pictures at 64 px or less), kept where it is better by more than chance",
    )  # fmt: skip
    parser.add_argument(
        "--teacher", type=Path, action="append", default=[], metavar="CHECKPOINT",
        help="a larger network whose opinion of the train photos is learnt beside their labels, by finetune "
        "and scratch; a head learns from none; may be repeated: then the mean of them is learnt",
    )  # fmt: skip
    parser.add_argument(
        "--budget", type=int, metavar="N",
        help="try N backbones, frame sizes and fits first, by successive halving, where every head is poor "
        "fine-tune the best two for an epoch, and train the best (default: as many as half of --minutes "
        "allow, 2 in a plain build; 0: none)",
    )  # fmt: skip
    parser.add_argument(
        "--search-ms", type=float, metavar="N",
        help="try only what takes N milliseconds a frame or less (fp32, one thread; default: no limit)",
    )  # fmt: skip
    parser.add_argument(
        "--search-mb", type=float, metavar="N",
        help="try only what has N megabytes in int8 or less (default: no limit; with --minutes alone 4)",
    )  # fmt: skip
    parser.add_argument(
        "--precision", default="auto", choices=("auto", "fp32"),
        help="numbers in which every weight is trained: auto is bf16 where it is faster, on GPUs, processors "
        "with AMX and AMD's with bf16, and fp16 on older GPUs (default: auto)",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N",
        help="seed that draws the order of photos, a random start, and in build the roles (default: 0)",
    )  # fmt: skip


def plan_of(args: argparse.Namespace) -> Plan:
    """What was asked of the training."""
    from catflap.artifacts.checkpoint import load_checkpoint
    from catflap.training.plan import Plan
    from catflap.training.search.halving import SearchLimits

    return Plan(
        backbone=args.backbone,
        recipe=args.recipe,
        epochs=args.epochs,
        minutes=args.minutes,
        teachers=tuple(map(load_checkpoint, args.teacher)),
        trials=args.budget,
        limits=SearchLimits(args.search_ms, args.search_mb),
        seed=args.seed,
        precision=args.precision,
    )


def answer(args: argparse.Namespace) -> int:
    """Train and print the validation metrics and the history; under torchrun the first process prints."""
    from catflap.artifacts.dataset import load_dataset

    need("torch")
    dataset = load_dataset(args.dataset)  # before torch, which takes seconds: a path may be wrong
    from catflap.training.loop.step_logging import open_step_loggers
    from catflap.training.processes import is_first_process
    from catflap.training.train import train

    is_first = is_first_process()
    if not is_first:
        sys.stdout = sys.stderr  # an error of this process, too: all of them share one answer
    plan = plan_of(args)
    if not plan.may_tune and (args.tensorboard or args.mlflow):
        raise CatflapError(
            "A head is fitted at once: it has no steps to write for --tensorboard or --mlflow.",
            "Add --recipe finetune, or leave them out.",
        )
    if not is_first:
        train(dataset, args.out, plan, device=args.device, strategy=args.strategy)
        return 0
    with (
        progress_bar(args) as progress,
        open_step_loggers(args.tensorboard, args.mlflow, args.out.name, note) as watch,
    ):
        checkpoint = train(
            dataset, args.out, plan,
            device=args.device, strategy=args.strategy, progress=progress, watch=watch,
        )  # fmt: skip
    trained = {"recipe": checkpoint.recipe, "validation_accuracy": checkpoint.metrics["accuracy"]}
    emit(checkpoint.to_json(), args, checkpoint_text(checkpoint.to_json()) + hint(trained, args))
    return 0


def checkpoint_text(fields: dict) -> str:  # type: ignore[type-arg]
    """A Checkpoint for people: what it reaches on validation and what it cost."""
    accuracy, cost = fields["metrics"]["accuracy"], fields["cost"]
    return (
        f"{fields['recipe']}: validation accuracy {accuracy['value']:.4f} "
        f"({accuracy['low']:.4f} to {accuracy['high']:.4f})\n"
        f"{cost['photo_passes']:,} photo passes in {cost['seconds']:.1f} s, "
        f"{cost['peak_memory_mb']:,.0f} MB at most, on {cost['device']}"
    )


def hint(trained: dict, args: argparse.Namespace) -> str:  # type: ignore[type-arg]
    """A line more where the head is poor and nothing else was tried."""
    from catflap.training.loop.settings import GOOD_HEAD

    tried = trained["recipe"] != "head" or args.minutes or args.budget
    if tried or trained["validation_accuracy"]["value"] >= GOOD_HEAD:
        return ""
    return "\nFine-tuning may be right more often: --recipe finetune, or --minutes N for as much as fits."
