"""Which backbone at which frame size and fit: heads on frozen features, by successive halving."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from catflap.artifacts.dataset import Dataset, Photos
from catflap.errors import Refused
from catflap.image import Frame
from catflap.progress import Progress
from catflap.runtime.session import open_model
from catflap.training.backbone import Backbone, load_backbone
from catflap.training.features import Extractor, feature_graph, features, open_extractor
from catflap.training.head import choose_head
from catflap.training.slim import fit

ORDER = (  # the first N are tried: what did well elsewhere comes first (docs/concepts/recipes.md)
    ("efficientnet_lite0", 288, False), ("efficientnet_lite2_slim", 320, False),
    ("efficientnet_lite2_slim", 320, True), ("efficientnet_lite1", 288, False),
    ("efficientnet_lite0", 288, True), ("efficientnet_lite0", 224, False),
    ("efficientnet_lite2_slim", 256, False), ("efficientnet_lite2", 320, False),
    ("efficientnet_lite0", 160, False), ("efficientnet_lite1", 240, False),
    ("efficientnet_lite0", 128, False), ("efficientnet_lite0", 320, False),
)  # fmt: skip
OTHER_FIT = {"squash": "crop", "crop": "squash"}  # for the trials marked True; the rest have the Dataset's
STEP = 16  # px to which the sides of a frame are rounded; the sizes above are whole steps
RUNGS = (0.25, 0.5, 1.0)  # of the train photos; after each the better half goes on
INT8_SHARE = 0.27  # of the bytes in fp32: 3.59 of 13.4 MB for Lite0, 3.95 of 14.7 for the slim Lite2
MOST_TRIALS = len(ORDER)
_RUNS = 15


@dataclass(frozen=True)
class Limits:
    """What the pick must keep: milliseconds a frame (fp32, one thread, this machine), megabytes in int8."""

    max_ms: float | None = None
    max_mb: float | None = None


@dataclass(frozen=True)
class Trial:
    """One backbone at one size and fit: what it costs, and what it reaches with a share of the train photos.

    `size` is the side in px of the square frame, or of a square with as many pixels. `int8_mb` is what its
    weights will take in int8, about; `pareto` says that no other trial is at least as good in log loss,
    milliseconds and size, and better in one.
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
    pareto: bool = False
    picked: bool = False


def search(
    dataset: Dataset, trials: int, limits: Limits, device: str, progress: Progress
) -> tuple[Backbone, Frame, list[dict[str, Any]]]:
    """The backbone and frame to train, and a table of all trials as history entries.

    Halving: everything that keeps the limits is tried on a quarter of the train photos, the better half
    of it on a half, the better half of that on all (Jamieson & Talwalkar 2016). Features are cached, so
    that nothing is worked out twice. Raises Refused, with the nearest, when nothing keeps the limits.
    """
    table, backbones, extractors = {}, {}, {}  # by backbone, size and fit
    for number, (name, size, other) in enumerate(ORDER[:trials]):
        progress("trials measured", number, trials)
        way = OTHER_FIT[dataset.frame.fit] if other else dataset.frame.fit
        key, frame = (name, size, way), _framed(dataset.frame, size, way)
        backbone = fit(load_backbone(name), dataset.photos("train"), frame, device=device, progress=progress)
        table[key] = _measured(backbone, frame, size, limits)
        if table[key].fits:
            backbones[key], extractors[key] = backbone, open_extractor(backbone, frame, device=device)
    progress("trials measured", trials, trials)
    if not extractors:
        raise _nothing_fits(list(table.values()), limits)
    going = list(extractors)
    for share in RUNGS:
        for key in going:
            table[key] = _tried(table[key], extractors[key], dataset, share, progress)
        going.sort(key=lambda key: table[key].validation_log_loss)
        going = going[: max(1, (len(going) + 1) // 2)] if share < 1 else going[:1]
    (best,) = going
    rows = [replace(trial, pareto=_pareto(trial, list(table.values()))) for trial in table.values()]
    return backbones[best], extractors[best].frame, [_entry(row, best) for row in rows]


def _framed(frame: Frame, size: int, way: str) -> Frame:
    """The frame with as many pixels as a square of this side, in the shape of the Dataset's."""
    longer = (frame.width / frame.height) ** 0.5
    width, height = (STEP * max(1, round(side / STEP)) for side in (size * longer, size / longer))
    return replace(frame, width=width, height=height, fit=way)


def _entry(trial: Trial, best: tuple[str, int, str]) -> dict[str, Any]:
    """A trial for the history; one without photos has no log loss, and JSON knows no infinity."""
    loss = trial.validation_log_loss if trial.share else None
    picked = (trial.backbone, trial.size, trial.fit) == best
    return {"step": "trial", **asdict(trial), "validation_log_loss": loss, "picked": picked}


def _measured(backbone: Backbone, frame: Frame, size: int, limits: Limits) -> Trial:
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


def _tried(trial: Trial, extractor: Extractor, dataset: Dataset, share: float, progress: Progress) -> Trial:
    """The trial with what a head reaches that learns from a share of the train photos."""
    train, validation = _share(dataset.photos("train"), share), dataset.photos("validation")
    step = f"{trial.backbone} at {trial.size} px, {trial.fit}"
    known = [
        (features(extractor, photos, step=step, progress=progress), photos.labels)
        for photos in (train, validation)
    ]
    choice = choose_head(known[0], known[1], len(dataset.labels))
    best = min(choice.tried, key=lambda entry: float(entry["validation_log_loss"]))
    return replace(
        trial,
        share=share,
        validation_log_loss=best["validation_log_loss"],
        validation_accuracy=best["validation_accuracy"],
    )


def _share(photos: Photos, share: float) -> Photos:
    """The same part of the photos for every trial, and each part inside the next larger one."""
    order = np.argsort(photos.ids)  # hashes, so as good as drawn
    return photos.take(np.sort(order[: max(1, round(share * len(photos)))]))


def _pareto(trial: Trial, others: list[Trial]) -> bool:
    mine = (trial.validation_log_loss, trial.fp32_ms, trial.int8_mb)
    for other in others:
        theirs = (other.validation_log_loss, other.fp32_ms, other.int8_mb)
        if theirs != mine and all(one <= two for one, two in zip(theirs, mine, strict=True)):
            return False
    return trial.share > 0


def _nothing_fits(trials: list[Trial], limits: Limits) -> Refused:
    """The refusal that names the trial which misses its limits by the least factor."""

    def excess(trial: Trial) -> float:
        pairs = ((trial.fp32_ms, limits.max_ms), (trial.int8_mb, limits.max_mb))
        return max(value / limit for value, limit in pairs if limit)

    near = min(trials, key=excess)
    return Refused(
        f"None of {len(trials)} trials keeps the limits; the nearest, {near.backbone} at {near.size} px, "
        f"takes {near.fp32_ms:.1f} ms and {near.int8_mb:.1f} MB.",
        "Allow more (--max-ms, --max-mb), or more trials (--budget).",
    )
