"""The recipes: what turns a Dataset and a backbone into a trained network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch

from catflap.artifacts.dataset import Dataset, Photos
from catflap.image import Frame
from catflap.progress import Progress
from catflap.runtime.engine import Logits
from catflap.training.heads.choosing import Choice, choose_head
from catflap.training.heads.features import counting, labelled_features, open_extractor
from catflap.training.heads.head import Head
from catflap.training.loop.settings import LoopSettings, finetuning, scratch
from catflap.training.networks.backbone import Backbone
from catflap.training.networks.network import Network
from catflap.training.processes import found_once, sum_over_processes
from catflap.training.sizes import side_of

History = list[dict[str, Any]]
Loop: TypeAlias = Callable[[Network, LoopSettings, Dataset, Photos | None], tuple[Logits, History]]


@dataclass(frozen=True)
class Tuning:
    """What follows the head: as many epochs of every weight as `epochs` tells.

    `epochs` takes the network and the share of the photos that its head is right on, of those that judge
    it. What was tuned is kept where its log loss on validation is lower by more than chance, and else the
    head; with `surely` it is kept anyway, as the blend with its start that has the lowest log loss on
    validation.
    """

    epochs: Callable[[Network, float], float]
    surely: bool = False


@dataclass(frozen=True)
class Trained:
    """What a recipe gives: `recipe` is the one that was kept, `logits` those of the validation photos.

    `backbone` and `frame` are those of the network. `passes` counts the photos whose features this run worked
    out, and those whose features an earlier run had kept.
    """

    recipe: str
    backbone: Backbone
    frame: Frame
    network: Network
    logits: Logits
    history: History
    passes: tuple[int, int]


def from_head(
    dataset: Dataset,
    body: Backbone,
    tuning: Tuning,
    device: str,
    loop: Loop,
    progress: Progress,
) -> Trained:
    """A linear head on frozen features, and then what `tuning` says."""
    used = (body, dataset.frame)
    choice, looked_at = _choose(dataset, body, device, progress)
    train, validation = (len(dataset.photos(role)) for role in ("train", "validation"))
    cached = train + validation - looked_at
    network = assemble(body, choice.head)
    accuracy, history = choice.chosen["validation_accuracy"], choice.tried
    epochs = tuning.epochs(network, accuracy)
    if epochs:
        settings = finetuning(epochs, body.rate, accuracy, side_of(dataset))
        logits, tuned = loop(network, replace(settings, careful=not tuning.surely), dataset, None)
        history = [*history, *tuned]
        kept = next(entry["share"] for entry in tuned if entry.get("kept"))
        if tuning.surely or kept:
            return Trained("finetune", *used, network, logits, history, (looked_at, cached))
    network = assemble(body, choice.refitted)  # the backbone is as it was: its share of the blend is all
    return Trained("head", *used, network, choice.validation_logits, history, (looked_at, cached))


def from_scratch(dataset: Dataset, body: Backbone, epochs: float, loop: Loop) -> Trained:
    """Every weight from a random start, for users without a suitable backbone."""
    dataset.needed("validation")
    network, photos = Network(body, len(dataset.labels)), len(dataset.photos("train"))
    logits, history = loop(network, scratch(epochs, photos, side_of(dataset)), dataset, None)
    return Trained("scratch", body, dataset.frame, network, logits, history, (0, 0))


def _choose(dataset: Dataset, body: Backbone, device: str, progress: Progress) -> tuple[Choice, int]:
    """The head for frozen features, and how many photos were not in the cache.

    Many processes share the photos.
    """
    extractor, looked_at = counting(open_extractor(body, dataset.frame, device=device))
    train, validation = dataset.needed("train"), dataset.needed("validation")
    learnt = labelled_features(extractor, train, "features of train", device, progress)
    judging = labelled_features(extractor, validation, "features of validation", device, progress)
    groups, labels = (train.groups, validation.groups), len(dataset.labels)
    choice = found_once(lambda: choose_head(learnt, judging, groups, labels, progress), device)
    return choice, sum_over_processes(sum(looked_at), device)


def assemble(body: Backbone, head: Head) -> Network:
    """A frozen backbone and a head as one network, ready to answer."""
    network = Network(body, len(head.bias)).eval()
    with torch.no_grad():
        network.head.weight.copy_(torch.from_numpy(head.weights))
        network.head.bias.copy_(torch.from_numpy(head.bias))
    return network
