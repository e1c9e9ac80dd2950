"""Dataset to Checkpoint: the verb `train`."""

from __future__ import annotations

import os
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from catflap.artifacts.checkpoint import MARKER, Checkpoint, load_checkpoint, save_checkpoint
from catflap.artifacts.dataset import Dataset
from catflap.artifacts.folder import digest, whole_folder
from catflap.errors import CatflapError
from catflap.evaluation.metrics import measure
from catflap.machine import peak_memory_mb
from catflap.progress import Progress, silent
from catflap.training.backbone import PACKAGED, load_backbone
from catflap.training.finetune import finetune
from catflap.training.flops import count_flops
from catflap.training.network import Network, save_weights
from catflap.training.processes import is_first_process, wait_for_all_processes
from catflap.training.recipe import Recipe
from catflap.training.recipes import History, Logits, Trained, from_head, from_scratch
from catflap.training.teacher import teach
from catflap.training.watching import Watch, unseen
from catflap.version import VERSION

RECIPES = ("head", "finetune", "scratch")
TEACHERS_SHARE = 0.7


def train(
    dataset: Dataset,
    out: Path,
    *,
    backbone: str = PACKAGED,
    recipe: str = "head",
    epochs: int = 3,
    minutes: float | None = None,
    teacher: Checkpoint | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: Progress = silent,
    watch: Watch = unseen,
) -> Checkpoint:
    """Train a classifier on the train photos, choose by the validation photos, write a Checkpoint.

    Recipe "head" learns a linear head on frozen features; "finetune" then trains every weight for
    `epochs`; "scratch" trains every weight from a random start. With `minutes` the head is followed by
    as many epochs of fine-tuning as fit, and validation decides which is kept. `teacher` is a Checkpoint
    whose opinion of the train photos is learnt beside their labels. A stopped run goes on where it was:
    features are cached, the loop resumes exactly. Under torchrun all processes share each batch.
    """
    _check_request(recipe, epochs, minutes, seed)
    start = perf_counter()
    device = pick_device(device)
    torch.manual_seed(seed)  # what a random start is drawn from
    body = load_backbone(backbone, pretrained=recipe != "scratch")
    resume = Path(out).with_name(f".{Path(out).name}.resume")

    def loop(network: Network, settings: Recipe) -> tuple[Logits, History]:
        targets = teach(teacher, dataset, TEACHERS_SHARE, progress) if teacher else None
        return finetune(
            network, dataset, resume, settings, seed, device, progress, targets=targets, watch=watch
        )

    if recipe == "scratch":
        trained = from_scratch(dataset, body, epochs, loop)
    else:
        until = start + minutes * 60 if minutes else None
        trained = from_head(dataset, body, (recipe, epochs), until, device, loop, progress)
    if is_first_process():
        described = {
            "backbone": backbone,
            "mean": list(body.mean),
            "std": list(body.std),
            "seed": seed,
            "cost": _cost(trained, dataset, perf_counter() - start, device),
            "licences": {"weights": body.licence} if recipe != "scratch" else {},
            "ancestors": {**dataset.ancestors, "dataset": dataset.sha256}
            | ({"teacher": teacher.sha256} if teacher else {}),
            "made_from": train_fingerprint(
                dataset, backbone=backbone, recipe=recipe, epochs=epochs, minutes=minutes,
                teacher=teacher, seed=seed,
            ),
        }  # fmt: skip
        _write(dataset, Path(out), trained, described)
        resume.unlink(missing_ok=True)
    wait_for_all_processes()
    return load_checkpoint(out)


def train_fingerprint(
    dataset: Dataset,
    *,
    backbone: str = PACKAGED,
    recipe: str = "head",
    epochs: int = 3,
    minutes: float | None = None,
    teacher: Checkpoint | None = None,
    seed: int = 0,
) -> str:
    """What a Checkpoint would be made from, without making it."""
    loop = [epochs, teacher.sha256 if teacher else ""] if recipe != "head" or minutes else []
    settings = [dataset.sha256, backbone, recipe, minutes or 0, loop, seed]
    return digest([*settings, VERSION, str(torch.__version__)])


def _check_request(recipe: str, epochs: int, minutes: float | None, seed: int) -> None:
    if recipe not in RECIPES:
        raise CatflapError(f"There is no recipe {recipe!r}.", f"Use one of: {', '.join(RECIPES)}.")
    if epochs < 1 or seed < 0:
        raise CatflapError(
            f"{epochs} epochs with the seed {seed} are not possible.", "Use 1 or more, and 0 or more."
        )
    if minutes is not None and (not minutes > 0 or recipe == "scratch"):
        raise CatflapError(
            f"{minutes} minutes of the recipe {recipe} are not possible.",
            "Give more than 0 minutes, and leave the recipe out: validation chooses it.",
        )


def pick_device(device: str) -> str:
    """The torch device for "auto": the first GPU when there is one, else the CPU.

    Raises CatflapError for a device that is not here.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        why = str(error).splitlines()[0][:150]
        raise CatflapError(f"There is no device {device!r} here: {why}.", "Use --device auto.") from error
    return device


def _prior(dataset: Dataset) -> dict[str, float]:
    """The share of each label among the train photos, with one photo more for each, so never 0."""
    counts = np.bincount(dataset.photos("train").labels, minlength=len(dataset.labels)) + 1
    return {label: float(count / counts.sum()) for label, count in zip(dataset.labels, counts, strict=True)}


def _write(dataset: Dataset, out: Path, trained: Trained, described: dict[str, Any]) -> None:
    validation = dataset.photos("validation")
    with whole_folder(out, MARKER) as folder:
        save_weights(folder, trained.network)
        fields = {
            **described,
            "labels": list(dataset.labels),
            "frame": dataset.frame.to_json(),
            "recipe": trained.recipe,
            "prior": _prior(dataset),
            "metrics": measure(trained.logits, validation.labels, validation.groups, dataset.labels),
            "history": trained.history,
            "dataset": os.path.relpath(dataset.path, out),
            "versions": {"catflap": VERSION, "torch": str(torch.__version__)},
        }
        save_checkpoint(folder, fields)


def _cost(trained: Trained, dataset: Dataset, seconds: float, device: str) -> dict[str, Any]:
    """What training took: seconds, photos/s, peak memory in MB, and FLOPs a photo."""
    forward, backward = count_flops(trained.network, dataset.frame)
    looked_at, cached = trained.passes
    return {
        "seconds": seconds,
        "photo_passes": looked_at,
        "cached_photos": cached,
        "photos_per_second": looked_at / seconds,
        "peak_memory_mb": peak_memory_mb(),
        "device": device,
        "threads": torch.get_num_threads(),
        "flops_forward": forward,
        "flops_backward": backward if trained.recipe != "head" else 0,
    }
