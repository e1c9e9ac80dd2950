"""Dataset to Checkpoint: the verb `train`."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from catflap.artifacts.checkpoint import MARKER, Checkpoint, load_checkpoint, save_checkpoint
from catflap.artifacts.dataset import Dataset, Photos
from catflap.artifacts.folder import atomic_folder, check_place, only_writer, refuse_foreign
from catflap.evaluation.metrics import measure
from catflap.progress import Progress, silent
from catflap.runtime.engine import Logits
from catflap.training.cost import CostMeter
from catflap.training.deciding import RunDecisions, pick, try_from_scratch, tuning_of
from catflap.training.loop.every_weight import train_every_weight
from catflap.training.loop.settings import LoopSettings
from catflap.training.loop.step_logging import StepLogger, log_nothing
from catflap.training.loop.teacher import teach
from catflap.training.networks.network import Network, save_weights
from catflap.training.plan import Plan
from catflap.training.precision import Precision, precision_on
from catflap.training.processes import (
    all_gather,
    barrier,
    check_strategy,
    is_first_process,
    is_single_process,
    open_fabric,
    pick_device,
)
from catflap.training.recipes import History, Trained, from_head, from_scratch
from catflap.training.search.clock import clock_of
from catflap.training.search.halving import Pick
from catflap.version import VERSION

TEACHERS_SHARE = 0.7
USUAL = Plan()


def train(
    dataset: Dataset,
    out: Path,
    plan: Plan = USUAL,
    *,
    device: str = "auto",
    strategy: str = "ddp",
    progress: Progress = silent,
    watch: StepLogger = log_nothing,
) -> Checkpoint:
    """Train a classifier on the train photos, choose by the validation photos, write a Checkpoint.

    A stopped run goes on where it was: features are cached, the loop resumes exactly. Under torchrun all
    processes share each batch; with the strategy "fsdp" they share the weights, too.
    Raises CatflapError for a plan that cannot be followed, or while another process trains into `out`.
    """
    plan.check()
    check_strategy(strategy)
    out = Path(out)
    refuse_foreign(out, MARKER)
    check_place(out)
    with only_writer(out, "train") if is_first_process() else nullcontext():  # the others write nothing
        return _train(dataset, out, plan, device, strategy, progress, watch)


def _train(
    dataset: Dataset, out: Path, plan: Plan, device: str, strategy: str, progress: Progress, watch: StepLogger
) -> Checkpoint:
    bill = CostMeter()
    progress = bill.metered(progress)
    device = pick_device(device)
    if not is_single_process():
        open_fabric(device)  # which gives each process its GPU, before anything is worked out there
    precision = _precision(plan, device, strategy)
    taught = teach(plan.teachers, dataset, TEACHERS_SHARE, device, progress) if plan.teachers else None
    clock = None
    if plan.minutes:
        clock = clock_of(plan.minutes, bill.start, device, precision, tunes=plan.may_tune)
    resume, decided = (out.with_name(f".{out.name}.{kind}") for kind in ("resume", "decided"))
    decisions = RunDecisions(decided, plan.fingerprint(dataset), device)
    torch.manual_seed(plan.seed)  # what a random start is drawn from

    def loop(
        network: Network, how: LoopSettings, seen: Dataset, part: Photos | None
    ) -> tuple[Logits, History]:
        told, targets = (log_nothing, None) if part else (watch, taught)  # a trial is not the training
        photos = how.epochs * len(part or seen.photos("train"))
        with bill.learning(photos, part is not None, progress) as counted:
            return train_every_weight(
                network, seen, resume, how, plan.seed, device, counted,
                part=part, targets=targets, watch=told, strategy=strategy, precision=precision,
            )  # fmt: skip

    chosen = pick(plan, dataset, device, progress, clock, decisions, loop)
    body, seen = chosen.backbone, replace(dataset, frame=chosen.frame)
    if plan.recipe == "scratch":
        trained = from_scratch(seen, body, plan.rounds, loop)
    else:
        tuning = tuning_of(plan, chosen, seen, clock, decisions)
        trained = from_head(seen, body, tuning, device, loop, progress)
    if clock and chosen.may_start_from_scratch:
        trained = try_from_scratch(trained, dataset, plan.seed, clock, decisions, loop)
    if is_first_process():
        _write(dataset, out, plan, chosen, trained, bill.to_json(trained, chosen, device))
        for left in (resume, decided):
            left.unlink(missing_ok=True)
    barrier(device)
    return load_checkpoint(out)


def _precision(plan: Plan, device: str, strategy: str) -> Precision:
    """What every weight is trained in: what the slowest of many unlike devices is quick in.

    Gradients in fp16 are scaled, which was not tried where they are spread over processes.
    """
    if plan.precision != "auto":
        return "32-true"
    found = all_gather([precision_on(device)])
    quick = next(each for each in get_args(Precision) if each in found)
    return "32-true" if strategy == "fsdp" and quick == "16-mixed" else quick


def _prior(dataset: Dataset) -> dict[str, float]:
    """The share of each label among the train photos, with one photo more for each, so never 0."""
    counts = np.bincount(dataset.photos("train").labels, minlength=len(dataset.labels)) + 1
    return {label: float(count / counts.sum()) for label, count in zip(dataset.labels, counts, strict=True)}


def _write(
    dataset: Dataset, out: Path, plan: Plan, chosen: Pick, trained: Trained, cost: dict[str, Any]
) -> None:
    validation, body = dataset.photos("validation"), trained.backbone
    taught = plan.teachers if trained.recipe != "head" else ()
    teachers = {f"teacher_{number}": one.sha256 for number, one in enumerate(taught, 1)}
    if len(taught) == 1:
        teachers = {"teacher": taught[0].sha256}
    with atomic_folder(out, MARKER) as folder:
        save_weights(folder, trained.network)
        fields = {
            "cost": cost,
            "made_from": plan.fingerprint(dataset),
            "history": [*chosen.trials, *trained.history],
            "backbone": body.name,
            "labels": list(dataset.labels),
            "frame": trained.frame.to_json(),
            "mean": list(body.mean),
            "std": list(body.std),
            "recipe": trained.recipe,
            "seed": plan.seed,
            "prior": _prior(dataset),
            "metrics": measure(trained.logits, validation.labels, validation.groups, dataset.labels),
            "dataset": os.path.relpath(dataset.path, out),
            "ancestors": {**dataset.ancestors, "dataset": dataset.sha256, **teachers},
            "licences": {"weights": body.licence} if trained.recipe != "scratch" else {},
            "versions": {"catflap": VERSION, "torch": str(torch.__version__)},
        }
        save_checkpoint(folder, fields)
