"""Dataset to Checkpoint: the verb `train` and its recipes."""

from __future__ import annotations

import os
from dataclasses import replace
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
from catflap.image import Pixels
from catflap.machine import peak_memory_mb
from catflap.progress import Progress, silent
from catflap.training.backbone import PACKAGED, Backbone, load_backbone
from catflap.training.features import Features, features, open_extractor
from catflap.training.finetune import Recipe, finetune
from catflap.training.flops import count_flops
from catflap.training.head import Choice, Head, choose_head
from catflap.training.network import Network, save_weights
from catflap.version import VERSION

RECIPES = ("head", "finetune")


def train(
    dataset: Dataset,
    out: Path,
    *,
    backbone: str = PACKAGED,
    recipe: str = "head",
    epochs: int = 3,
    seed: int = 0,
    device: str = "auto",
    progress: Progress = silent,
) -> Checkpoint:
    """Train a classifier on the train photos, choose by the validation photos, write a Checkpoint.

    Recipe "head" learns a linear head on frozen features; "finetune" then trains every weight for
    `epochs`. A stopped run goes on where it was: features are cached, fine-tuning resumes exactly.
    """
    _check_request(recipe, epochs, seed)
    device = pick_device(device)
    start = perf_counter()
    body = load_backbone(backbone)
    resume = Path(out).with_name(f".{Path(out).name}.resume")
    choice, looked_at = _choose(dataset, body, device, progress)
    cached = len(dataset.photos("train")) + len(dataset.photos("validation")) - looked_at
    if recipe == "head":
        network, logits, history = _network(body, choice.refitted), choice.validation_logits, choice.tried
    else:
        network, settings = _network(body, choice.head), Recipe(epochs=epochs)
        logits, epochs_run = finetune(network, dataset, resume, settings, seed, device, progress)
        history = [*choice.tried, *epochs_run]
        looked_at += epochs * len(dataset.photos("train"))
    validation = dataset.photos("validation")
    seconds = perf_counter() - start
    with whole_folder(Path(out), MARKER) as folder:
        save_weights(folder, network)
        fields = {
            "backbone": backbone,
            "labels": list(dataset.labels),
            "frame": dataset.frame.to_json(),
            "mean": list(body.mean),
            "std": list(body.std),
            "recipe": recipe,
            "seed": seed,
            "prior": _prior(dataset),
            "metrics": measure(logits, validation.labels, validation.groups, dataset.labels),
            "history": history,
            "cost": _cost(network, dataset, recipe, (looked_at, cached), seconds, device),
            "dataset": os.path.relpath(dataset.path, out),
            "made_from": train_fingerprint(
                dataset, backbone=backbone, recipe=recipe, epochs=epochs, seed=seed
            ),
            "ancestors": {**dataset.ancestors, "dataset": dataset.sha256},
            "licences": {"weights": body.licence},
            "versions": {"catflap": VERSION, "torch": str(torch.__version__)},
        }
        save_checkpoint(folder, fields)
    resume.unlink(missing_ok=True)
    return load_checkpoint(out)


def train_fingerprint(
    dataset: Dataset, *, backbone: str = PACKAGED, recipe: str = "head", epochs: int = 3, seed: int = 0
) -> str:
    """What a Checkpoint would be made from, without making it."""
    settings = [dataset.sha256, backbone, recipe, epochs if recipe == "finetune" else 0, seed]
    return digest([*settings, VERSION, str(torch.__version__)])


def _check_request(recipe: str, epochs: int, seed: int) -> None:
    if recipe not in RECIPES:
        raise CatflapError(f"There is no recipe {recipe!r}.", f"Use one of: {', '.join(RECIPES)}.")
    if epochs < 1 or seed < 0:
        raise CatflapError(
            f"{epochs} epochs with the seed {seed} are not possible.", "Use 1 or more, and 0 or more."
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


def _choose(dataset: Dataset, body: Backbone, device: str, progress: Progress) -> tuple[Choice, int]:
    """The head for frozen features, chosen on validation; and how many photos were not in the cache."""
    extractor = open_extractor(body, dataset.frame, device=device)
    looked_at = 0

    def counted(frames: Pixels) -> Features:
        nonlocal looked_at
        looked_at += len(frames)
        return extractor.model(frames)

    counting = replace(extractor, model=counted)
    parts = []
    for role in ("train", "validation"):
        photos = dataset.photos(role)
        if not len(photos):
            raise CatflapError(f"The dataset has no {role} photos.", "Prepare it from more photos.")
        parts.append(
            (features(counting, photos, step=f"features of {role}", progress=progress), photos.labels)
        )
    return choose_head(parts[0], parts[1], len(dataset.labels)), looked_at


def _network(body: Backbone, head: Head) -> Network:
    network = Network(body, len(head.bias)).eval()
    with torch.no_grad():
        network.head.weight.copy_(torch.from_numpy(head.weights))
        network.head.bias.copy_(torch.from_numpy(head.bias))
    return network


def _prior(dataset: Dataset) -> dict[str, float]:
    """The share of each label among the train photos, with one photo more for each, so never 0."""
    counts = np.bincount(dataset.photos("train").labels, minlength=len(dataset.labels)) + 1
    return {label: float(count / counts.sum()) for label, count in zip(dataset.labels, counts, strict=True)}


def _cost(
    network: Network, dataset: Dataset, recipe: str, passes: tuple[int, int], seconds: float, device: str
) -> dict[str, Any]:
    """What training took: seconds, photos/s, peak memory in MB, and FLOPs a photo.

    `passes` are the photos that went through the network, and those whose features an earlier run
    had worked out: `cached_photos`, which took no time in this one.
    """
    forward, backward = count_flops(network, dataset.frame)
    return {
        "seconds": seconds,
        "photo_passes": passes[0],
        "cached_photos": passes[1],
        "photos_per_second": passes[0] / seconds,
        "peak_memory_mb": peak_memory_mb(),
        "device": device,
        "threads": torch.get_num_threads(),
        "flops_forward": forward,
        "flops_backward": backward if recipe == "finetune" else 0,
    }
