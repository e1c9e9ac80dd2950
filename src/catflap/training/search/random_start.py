"""A random start, for many small pictures in small frames, of which backbones made for 224 px see little."""

from __future__ import annotations

from dataclasses import replace

import torch

from catflap.artifacts.dataset import Dataset
from catflap.evaluation.intervals import significantly_positive
from catflap.training.heads.head import losses_of
from catflap.training.loop.settings import MANY_PHOTOS, SMALL_SIDE, scratch
from catflap.training.networks.backbone import RESNET8, Backbone, load_backbone
from catflap.training.networks.network import Network
from catflap.training.networks.resnet8 import LEAST
from catflap.training.recipes import Loop, Trained, from_scratch
from catflap.training.search.clock import TimeBudget
from catflap.training.sizes import photo_side, side_of

MOST_EPOCHS = 15  # then the photos are known by heart (docs/concepts/recipes.md)


def suits_random_start(dataset: Dataset) -> bool:
    """Whether pictures are many and small, and their frame, which was somebody's wish, is small, too."""
    photos, sides = dataset.photos("train"), (dataset.frame.width, dataset.frame.height)
    fits = min(sides) >= LEAST and max(sides) <= SMALL_SIDE
    return fits and len(photos) >= MANY_PHOTOS and photo_side(photos) <= SMALL_SIDE


def new_backbone() -> Backbone:
    """The backbone that learns from a random start, as torch's generator draws it."""
    return load_backbone(RESNET8, pretrained=False)


def epochs_from_scratch(clock: TimeBudget, dataset: Dataset) -> float:
    """Epochs from a random start that will fit."""
    how = scratch(MOST_EPOCHS, len(dataset.photos("train")), side_of(dataset))
    return clock.epochs(Network(new_backbone(), len(dataset.labels)), dataset, how)


def or_from_scratch(head: Trained, dataset: Dataset, epochs: float, seed: int, loop: Loop) -> Trained:
    """What so many epochs from a random start learn, if its validation log loss is lower by more than chance.

    Else it is the head. The history has the log loss of both, of the head as share 0, of the other as 1.
    """
    if not epochs:
        return head
    torch.manual_seed(seed)  # a run that was stopped starts from the same weights
    learnt = from_scratch(dataset, new_backbone(), epochs, loop)
    validation = dataset.photos("validation")
    lost = [losses_of(each.logits, validation.labels) for each in (head, learnt)]
    better = significantly_positive(lost[0] - lost[1], validation.groups)
    compared = [
        {"step": "blend", "share": share, "validation_log_loss": float(each.mean()), "kept": kept}
        for share, each, kept in zip((0.0, 1.0), lost, (not better, better), strict=True)
    ]
    epochs_told = [entry for entry in learnt.history if entry["step"] != "blend"]
    return replace(
        learnt if better else head,
        history=[*head.history, *epochs_told, *compared],
        passes=head.passes,
    )
