"""Successive halving on validation over backbone, frame, fit and recipe, within limits of size and time."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from statistics import median
from time import perf_counter
from typing import Any, TypeAlias

import numpy as np

from catflap.artifacts.dataset import Dataset, Photos
from catflap.errors import Refused
from catflap.image import Frame
from catflap.progress import Progress
from catflap.runtime.engine_onnx import open_model
from catflap.training.heads.choosing import MOST_COMPARED, Choice, choose_head
from catflap.training.heads.features import (
    Extractor,
    counting,
    feature_graph,
    labelled_features,
    open_extractor,
)
from catflap.training.heads.head import Head, log_loss
from catflap.training.loop.settings import GOOD_HEAD, SMALL_SIDE, LoopSettings, finetuning
from catflap.training.networks.backbone import Backbone, load_backbone
from catflap.training.networks.network import Network
from catflap.training.networks.slim import slimmed
from catflap.training.processes import broadcast, found_once, sum_over_processes
from catflap.training.recipes import assemble
from catflap.training.search.candidates import Candidate
from catflap.training.search.clock import TimeBudget, check_time, seconds_of_features
from catflap.training.search.random_start import new_backbone
from catflap.training.sizes import photo_side, side_of

RUNGS = (0.25, 0.5, 1.0)  # of the train photos, or of 10,000 of them; after each the better half goes on
STRENGTHS = (3e-4, 1e-3, 3e-3, 1e-2)  # enough to tell candidates apart; the pick's head is chosen from more
TUNED = 2  # candidates that are fine-tuned, too, where every head is poor
HURRIED = 1  # epoch of fine-tuning: after more of a search there would be less time for it
ENOUGH_EPOCHS = 3  # of fine-tuning: where a poor head needs it, a better head is worth no fewer than these
INT8_SHARE = 0.27  # of the bytes in fp32: 3.59 of 13.4 MB for Lite0, 3.95 of 14.7 for the slim Lite2
_RUNS = 15


@dataclass(frozen=True)
class SearchLimits:
    """What the pick must keep: milliseconds a frame (fp32, one thread, this machine), megabytes in int8."""

    max_ms: float | None = None
    max_mb: float | None = None


@dataclass(frozen=True)
class Trial:
    """One backbone at one size and fit: what it costs, and what it reaches with a share of the train photos.

    `size` is the side in px of the square frame, or of a square with as many pixels. `int8_mb` is what its
    weights will take in int8, about; `recipe` is head, finetune where an epoch of every weight followed it,
    or scratch for a random start, of which nothing is known yet; `epochs` of every weight would fit the
    minutes, where that was asked; `pareto` says that no other trial of the same share is at least as good
    in log loss, milliseconds and size, and better in one.
    """

    backbone: str
    size: int
    fit: str
    fp32_ms: float
    int8_mb: float
    share: float = 0.0
    validation_log_loss: float = float("inf")
    validation_accuracy: float = 0.0
    fits: bool = True
    recipe: str = "head"
    epochs: float | None = None
    pareto: bool = False
    picked: bool = False


@dataclass(frozen=True)
class Pick:
    """The backbone and frame to train, its number among the candidates, and all trials as history entries.

    `recipe` is finetune where a trial that was fine-tuned is the best, and else head. `passes`: photos sent
    through any candidate's network in this search. `known`: those of them that belong to the pick, so its
    head needs no pass. `learnt`: photos that fine-tuned trials learnt from. `before`: passes for the other
    candidates that an earlier, stopped run had made.
    """

    number: int
    backbone: Backbone
    frame: Frame
    trials: list[dict[str, Any]]
    recipe: str = "head"
    passes: int = 0
    known: int = 0
    learnt: int = 0
    before: int = 0

    @property
    def may_start_from_scratch(self) -> bool:
        """Whether a random start was among the trials, and keeps the limits."""
        return any(row.get("recipe") == "scratch" and row["fits"] for row in self.trials)


# trains a candidate's network, of this number, on some train photos: log loss and accuracy on validation
Tune: TypeAlias = Callable[[int, Network, LoopSettings, Dataset, Photos], tuple[float, float]]


@dataclass(frozen=True)
class _Contender:
    """A candidate that is still in, and what looks at its photos.

    `pace` is the seconds that the features of a photo take here, with a clock; `looked_at` counts photos.
    """

    number: int
    backbone: Backbone
    extractor: Extractor
    looked_at: list[int]
    pace: float


_Tried: TypeAlias = tuple[Trial, _Contender]


def search(
    dataset: Dataset,
    found: list[Candidate],
    limits: SearchLimits,
    device: str,
    progress: Progress,
    clock: TimeBudget | None = None,
    tune: Tune | None = None,
    random_start: bool = False,
) -> Pick:
    """Try the candidates, and pick one.

    Halving: everything that keeps the limits is tried on a quarter of the train photos, the better half
    of it on a half, the better half of that on all (Jamieson & Talwalkar 2016); of more than 10,000 photos
    as many stand for all. Features are cached, so that nothing is worked out twice. A clock lets in as many
    candidates as it has time for, one at least, and where heads are poor ranks those lower for which few
    epochs of fine-tuning would fit. With `tune` the last two are fine-tuned where every head is poor, and
    compared with their heads on validation. Of small pictures, where every head is poor and there is
    little time to fine-tune, the quickest is the pick at once. `random_start` measures one, too.
    Many processes share the photos, and go by what the first one measures.
    Raises Refused, with the nearest, when nothing keeps the limits, and when there is no time for any.
    """
    table, entered = _measured_all(dataset, found, limits, device, progress, clock)
    going, choices, least = entered, dict[int, Choice](), 1
    if not going:
        raise _nothing_fits(table, limits)
    if random_start:
        table.append(broadcast(_random_start(dataset, limits), device))
    for share in RUNGS:
        if len(going) == 1 and (clock or share < 1):
            continue  # it is the pick; its head comes next
        for one in going:
            choice, trial = _tried(table[one.number], one.extractor, dataset, share, device, progress)
            choices[one.number], table[one.number] = choice, broadcast(trial, device)
        going = _ranked(going, table, dataset, clock)
        if clock and clock.tunes and share == RUNGS[0] and _poor(going, table):
            going = _hurried(going, table, dataset, random_start and table[-1].fits)
        least = TUNED if tune and _poor(going, table) else 1
        half = 1 if share == 1 or (clock and clock.search_left() < 0) else (len(going) + 1) // 2
        going = going[: max(least, half)]
    passes, tuned = sum_over_processes(sum(sum(one.looked_at) for one in entered), device), list[_Tried]()
    part = _share(dataset.photos("train"), 1.0)
    if tune and least == TUNED:
        for one in going:
            choice = choices[one.number]
            table[one.number] = broadcast(_on_validation(table[one.number], choice, dataset), device)
            tuned.append((_tuned(table[one.number], one, choice.head, dataset, part, tune), one))
        table += [trial for trial, _ in tuned]
    left = [*((table[one.number], one) for one in going), *tuned]
    picked, best = min(left, key=lambda pair: pair[0].validation_log_loss)
    rows = [_entry(replace(trial, pareto=_pareto(trial, table), picked=trial is picked)) for trial in table]
    frame, known = best.extractor.frame, sum_over_processes(sum(best.looked_at), device)
    learnt = len(tuned) * len(part)
    return Pick(best.number, best.backbone, frame, rows, picked.recipe, passes, known, learnt)


def _measured_all(
    dataset: Dataset,
    found: list[Candidate],
    limits: SearchLimits,
    device: str,
    progress: Progress,
    clock: TimeBudget | None,
) -> tuple[list[Trial], list[_Contender]]:
    """What each candidate costs, and those that keep the limits and for which there is time.

    A candidate whose features of all photos would take more than half of the time is left out; where all
    of them would, the quickest stays. Raises Refused where even these would take longer than all of it.
    """
    table: list[Trial] = []
    going: list[_Contender] = []
    slow: list[_Contender] = []
    train, validation = dataset.needed("train"), dataset.needed("validation")
    compared = len(_share(train, RUNGS[1])) + len(_share(validation, 1.0))  # of most that are compared
    for number, (name, size, frame) in enumerate(found):
        planned = sum(one.pace for one in going) * compared
        if clock and (going or slow) and clock.search_left() < planned:
            break
        progress("trials measured", number, len(found))
        backbone = slimmed(load_backbone(name), train, frame, device=device, progress=progress)
        table.append(broadcast(_measured(backbone, frame, size, limits), device))
        if not table[-1].fits:
            continue
        extractor = open_extractor(backbone, frame, device=device)
        pace = broadcast(seconds_of_features(extractor, train, device), device) if clock else 0.0
        one = _Contender(number, backbone, *counting(extractor), pace)
        if clock and one.pace * (len(train) + len(validation)) > clock.left() / 2:
            slow.append(one)
        elif not (clock and going) or planned + one.pace * compared <= clock.search_left():
            going.append(one)
    progress("trials measured", len(found), len(found))
    if clock and slow and not going:
        going = [min(slow, key=lambda one: one.pace)]
        check_time(clock, going[0].extractor, going[0].pace, going[0].backbone.name, dataset)
    return table, going


def _entry(trial: Trial) -> dict[str, Any]:
    """A trial for the history; one without photos has no log loss, and JSON knows no infinity."""
    return {
        "step": "trial",
        **asdict(trial),
        "validation_log_loss": trial.validation_log_loss if trial.share else None,
    }


def _measured(backbone: Backbone, frame: Frame, size: int, limits: SearchLimits) -> Trial:
    """What a trial costs on the device, before any photo is looked at."""
    graph = feature_graph(backbone, frame)
    model, blank = open_model(graph, threads=1), np.zeros((1, frame.height, frame.width, 3), np.uint8)
    taken = []
    for _ in range(_RUNS):
        start = perf_counter()
        model(blank)
        taken.append((perf_counter() - start) * 1e3)
    trial = Trial(backbone.name, size, frame.fit, median(taken), len(graph) * INT8_SHARE / 1e6)
    over_ms = limits.max_ms is not None and trial.fp32_ms > limits.max_ms
    over_mb = limits.max_mb is not None and trial.int8_mb > limits.max_mb
    return replace(trial, fits=not (over_ms or over_mb))


def _tried(
    trial: Trial, extractor: Extractor, dataset: Dataset, share: float, device: str, progress: Progress
) -> tuple[Choice, Trial]:
    """A head that learns from a share of the train photos, and the trial with what it reaches."""
    train, validation = _share(dataset.photos("train"), share), _share(dataset.photos("validation"), 1.0)
    step = f"{trial.backbone} at {trial.size} px, {trial.fit}"
    learnt = labelled_features(extractor, train, step, device, progress)
    judging = labelled_features(extractor, validation, step, device, progress)
    groups, labels = (train.groups, validation.groups), len(dataset.labels)
    choice = found_once(lambda: choose_head(learnt, judging, groups, labels, strengths=STRENGTHS), device)
    return choice, replace(
        trial,
        share=share,
        validation_log_loss=choice.chosen["validation_log_loss"],
        validation_accuracy=choice.chosen["validation_accuracy"],
    )


def _on_validation(trial: Trial, choice: Choice, dataset: Dataset) -> Trial:
    """The trial as validation alone judges its head, also where few photos have judged it by turns."""
    labels = _share(dataset.photos("validation"), 1.0).labels
    right = float((choice.validation_logits.argmax(1) == labels).mean())
    loss = log_loss(choice.validation_logits, labels)
    return replace(trial, validation_log_loss=loss, validation_accuracy=right)


def _ranked(
    going: list[_Contender], table: list[Trial], dataset: Dataset, clock: TimeBudget | None
) -> list[_Contender]:
    """Best first: by log loss, but where every head is poor and the clock tunes, by epochs up to enough."""
    poor = _poor(going, table)
    for one in going:
        if clock and clock.tunes and poor and table[one.number].epochs is None:
            seen = replace(dataset, frame=one.extractor.frame)
            whole = one.pace * sum(len(dataset.photos(role)) for role in ("train", "validation"))
            network = Network(one.backbone, len(dataset.labels))
            epochs = clock.epochs(network, seen, before=whole)
            table[one.number] = replace(table[one.number], epochs=epochs)

    def key(one: _Contender) -> tuple[int, float]:
        trial = table[one.number]
        return -min(ENOUGH_EPOCHS, int(trial.epochs or 0)) if poor else 0, trial.validation_log_loss

    return sorted(going, key=key)


def _random_start(dataset: Dataset, limits: SearchLimits) -> Trial:
    """What the network of a random start costs; what it reaches only all of the photos can tell."""
    frame = dataset.frame
    side = round((frame.width * frame.height) ** 0.5)
    return replace(_measured(new_backbone(), frame, side, limits), recipe="scratch")


def _hurried(
    going: list[_Contender], table: list[Trial], dataset: Dataset, random_start: bool
) -> list[_Contender]:
    """Of small pictures the candidate alone for which most fine-tuning fits, where that is little.

    It gains more than the rest of a search: frames that enlarge the pictures differ little. So does a random
    start, where there may be one.
    """

    def epochs(one: _Contender) -> float:
        return table[one.number].epochs or 0

    most = max(going, key=epochs)
    small = photo_side(dataset.photos("train")) <= SMALL_SIDE
    return [most] if random_start or (small and 0 < epochs(most) <= HURRIED) else going


def _poor(going: list[_Contender], table: list[Trial]) -> bool:
    return max(table[one.number].validation_accuracy for one in going) < GOOD_HEAD


def _tuned(trial: Trial, one: _Contender, head: Head, dataset: Dataset, part: Photos, tune: Tune) -> Trial:
    """The trial with what an epoch of every weight makes of its head."""
    seen = replace(dataset, frame=one.extractor.frame)
    settings = finetuning(1, one.backbone.rate, trial.validation_accuracy, side_of(seen))
    network = assemble(deepcopy(one.backbone), head)  # the pick's own weights stay as they are
    loss, accuracy = tune(one.number, network, settings, seen, part)
    return replace(
        trial, recipe="finetune", share=1.0, validation_log_loss=loss, validation_accuracy=accuracy
    )


def _share(photos: Photos, share: float) -> Photos:
    """The same part of each label's photos for every trial, one at least; small parts lie in larger ones."""
    share *= min(1.0, MOST_COMPARED / max(1, len(photos)))
    order = np.lexsort((photos.ids, photos.labels))  # ids are hashes, so as good as drawn
    parts = np.split(order, np.flatnonzero(np.diff(photos.labels[order])) + 1)
    chosen = [part[: max(1, round(share * len(part)))] for part in parts]
    return photos.take(np.sort(np.concatenate(chosen)))


def _pareto(trial: Trial, others: list[Trial]) -> bool:
    mine = (trial.validation_log_loss, trial.fp32_ms, trial.int8_mb)
    for other in others:
        theirs = (other.validation_log_loss, other.fp32_ms, other.int8_mb)
        alike = other.share == trial.share  # else one has learnt from more photos
        if alike and theirs != mine and all(one <= two for one, two in zip(theirs, mine, strict=True)):
            return False
    return trial.share > 0


def _nothing_fits(trials: list[Trial], limits: SearchLimits) -> Refused:
    """The refusal that names the trial which misses its limits by the least factor."""

    def excess(trial: Trial) -> float:
        pairs = ((trial.fp32_ms, limits.max_ms), (trial.int8_mb, limits.max_mb))
        return max(value / limit for value, limit in pairs if limit is not None)

    near = min(trials, key=excess)
    return Refused(
        f"None of {len(trials)} trials keeps the limits; the nearest, {near.backbone} at {near.size} px, "
        f"takes {near.fp32_ms:.1f} ms and {near.int8_mb:.1f} MB.",
        "Allow more (--search-ms, --search-mb), or more trials (--budget).",
    )
