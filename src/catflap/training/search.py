"""The search for a backbone and frame: candidates in order, cost, successive halving, the clock of --minutes.

Few candidates are compared (at most 14), by heads on cached features that cost seconds, in a fixed order with
the best of other photo sets first. A sampler such as Optuna's would have nothing to learn from so few trials,
so this is plain successive halving (Jamieson & Talwalkar 2016), which is deterministic and resumes for free.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from math import ceil
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch

from catflap.artifacts.dataset import Dataset, Photos
from catflap.errors import Refused
from catflap.image import Frame
from catflap.machine import keep_memory
from catflap.progress import Progress, Record, ignore
from catflap.runtime.engine_onnx import open_model
from catflap.runtime.scoring import frames_of
from catflap.training.augment import load_batches, photo_side
from catflap.training.backbones import LITES, SLIM, Backbone, load_backbone
from catflap.training.cost import CostMeter, count_flops
from catflap.training.depthwise import fast_depthwise
from catflap.training.distributed import (
    Precision,
    all_reduce,
    autocast,
    broadcast,
    compute_on_rank0,
    ignore_oom,
    is_single_process,
    out_of_memory,
    rank_and_world_size,
    sum_over_processes,
)
from catflap.training.features import (
    Extractor,
    count_unseen,
    counting,
    feature_graph,
    labelled_features,
    open_extractor,
)
from catflap.training.finetune import (
    GOOD_HEAD,
    MAX_EPOCHS,
    LoopSettings,
    passes_an_epoch,
    usual_epochs,
)
from catflap.training.gradients import (
    add_gradients,
    freeze,
    open_workers,
    photos_of_a_part,
    takes_parts,
    worker_count,
)
from catflap.training.head import MAX_COMPARED, Choice, choose_despite_noise, choose_head
from catflap.training.learning_curve import learning_curve
from catflap.training.network import Network
from catflap.training.self_supervised import MOST_PHOTOS, epochs_for, view_of
from catflap.training.slim import slimmed

LITE0, LITE1, LITE2 = LITES
ORDER = (  # the first N are tried; True: with the other fit than the Dataset's
    (LITE0, 288, False), (SLIM, 320, False), (SLIM, 320, True), (LITE1, 288, False),
    (LITE0, 288, True), (LITE0, 224, False), (SLIM, 256, False), (LITE2, 320, False),
    (LITE0, 160, False), (LITE1, 240, False), (LITE0, 128, False), (LITE0, 320, False),
    (LITE0, 192, False), (SLIM, 192, False),
)  # fmt: skip
FIXED_SIZE_ORDER = (
    (LITE0, False), (SLIM, False), (SLIM, True), (LITE1, False), (LITE0, True), (LITE2, False),
)  # fmt: skip
MAX_TRIALS = len(ORDER)
DEFAULT_TRIALS = 2  # of a `build` without a word, and the first within --minutes
OTHER_FIT = {"squash": "crop", "crop": "squash"}
SIDE_STEP = 16  # px to which the sides of a frame are rounded
MAX_ENLARGED = 8  # × the side of most photos: a larger frame shows nothing more

RUNGS = (0.25, 0.5, 1.0)  # of the train photos, or of 10,000 of them; after each the better half remains
MIN_COMPARED = (
    1_000  # train photos of the first rung, if there are so many: of fewer the losses are too noisy
)
TRIAL_CS = (3e-4, 1e-3, 3e-3, 1e-2)  # enough to compare candidates
INT8_SHARE = 0.27  # of the bytes in fp32: 3.59 of 13.4 MB for Lite0, 3.95 of 14.7 for the slim Lite2
LATENCY_RUNS = 15
ENOUGH_EPOCHS = 3  # of fine-tuning: a candidate with time for fewer ranks lower if heads are poor
ENOUGH_SIZE = 288  # px of a frame: a smaller one ranks lower if heads are poor and fine-tuning follows
STEP_COST = {"cpu": 5, "gpu": 3}  # of a fine-tuning step, in forward passes: roughly 4 in bf16, 6 in fp32

MAX_REPEATS = 8  # of fine-tuning with all photos, each with another seed
REPEATED_EPOCHS, ENOUGH_REPEATS = 5, 3  # at least, if it is repeated; more epochs if these repeats fit
EPOCH_PARTS, MIN_EPOCHS = 20, 0.1  # parts of an epoch are twentieths, a tenth at least
TIMING_RUNS, TIMED_PHOTOS = 3, 256
OVERHEAD = 1.25  # of a timed step: loading, the optimiser, a machine that is not as fast every minute
GRACE = 60.0  # seconds by which a head may be late
SEARCH_SHARE, SEARCH_SHARE_OF_HEADS = 1 / 4, 3 / 4  # of the minutes; the second if only a head follows


@dataclass(frozen=True)
class Candidate:
    """A backbone and a frame; `size` is the side in px of a square with as many pixels."""

    backbone: str
    size: int
    frame: Frame


@dataclass(frozen=True)
class Trial:
    """A candidate in the history: what it costs, and what its head reaches with a share of the train photos.

    `int8_mb` is estimated. `pareto`: no other trial of the same share is at least as good in log loss,
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
    recipe: str = "head"
    epochs: float | None = None
    pareto: bool = False
    picked: bool = False


@dataclass(frozen=True)
class Pick:
    """The backbone and frame to train, the candidate's number, and all trials as history entries."""

    number: int
    backbone: Backbone
    frame: Frame
    trials: list[dict[str, Any]]


@dataclass(frozen=True)
class Clock:
    """The minutes of a training: everything ends at `until`, the search at `search_until` (perf_counter).

    `finetunes`: whether weights beyond the head may be trained.
    Under torchrun all processes go by the first one's clock.
    """

    until: float
    search_until: float
    device: str
    precision: Precision
    finetunes: bool = True

    def left(self) -> float:
        """Seconds left."""
        return broadcast(self.until - perf_counter(), self.device)

    def search_left(self) -> float:
        """Seconds left for the search; below 0 once it should have ended."""
        return broadcast(self.search_until - perf_counter(), self.device)

    def epochs(self, network: Network, dataset: Dataset, settings: LoopSettings) -> float:
        """How many epochs fit, at most the usual ones: whole ones, or a part of one in twentieths, or 0.

        Leaves time to judge each epoch and the blends, and to learn from all photos afterwards: by three
        repeats, if those of five epochs fit, else with a third of the epochs. More than the usual epochs harm
        few photos, more repeats do not; of many photos, which usually get fewer than five epochs, the most
        are MAX_EPOCHS.
        """
        _, world = rank_and_world_size()
        pace, loading = self._paces(network, dataset, settings)
        validation, train = (len(dataset.photos(role)) for role in ("validation", "train"))
        judging = validation * max(pace / 2, loading) / world  # forward, in fp32
        passed = max(pace, loading) * OVERHEAD / world
        left = self.left() - 5 * judging
        once = left / (passes_an_epoch(train, validation) * passed + judging)
        repeated = left / ((train + ENOUGH_REPEATS * (train + validation)) * passed + judging)
        usual = usual_epochs(train, validation, count_flops(network, dataset.frame)[0])
        most = usual if usual >= REPEATED_EPOCHS else MAX_EPOCHS
        fit = min(most, repeated if repeated >= REPEATED_EPOCHS else once)
        whole = int(fit) if fit >= 1 else int(fit * EPOCH_PARTS) / EPOCH_PARTS
        return broadcast(whole if whole >= MIN_EPOCHS else 0, self.device)

    def repeats(self, network: Network, dataset: Dataset, settings: LoopSettings, photos: int) -> int:
        """How many fine-tunings with so many photos fit, at most MAX_REPEATS; none if only one does."""
        _, world = rank_and_world_size()
        pace = max(self._paces(network, dataset, settings)) * OVERHEAD / world
        fit = self.left() / (settings.epochs * photos * pace)
        return broadcast(int(min(MAX_REPEATS, fit)) if fit >= 2 else 0, self.device)

    def after_usual(self, seconds: float) -> Clock:
        """The clock of the rest of a search, if what the pick gets without a clock takes so many seconds.

        The rest has a quarter of the time that this leaves. Where there is not even time for half of it, a
        cheaper candidate has to be found, and the search goes on as if nothing were needed.
        """
        left = self.left()
        if left < seconds / 2:
            return self
        more = SEARCH_SHARE * max(0.0, left - seconds)
        return replace(self, search_until=min(self.search_until, perf_counter() + more))

    def _paces(self, network: Network, dataset: Dataset, settings: LoopSettings) -> tuple[float, float]:
        """Seconds a photo of one process: to learn from it, and to load it for a GPU."""
        pace = seconds_a_photo(network, dataset, settings, self.device, self.precision)
        return pace, 0.0 if self.device == "cpu" else seconds_to_load(dataset, settings)


def start_clock(
    minutes: float, start: float, device: str, precision: Precision, *, finetunes: bool = True
) -> Clock:
    """The clock that started at `start`, in seconds of perf_counter."""
    share = SEARCH_SHARE if finetunes else SEARCH_SHARE_OF_HEADS
    return Clock(start + 60 * minutes, start + 60 * minutes * share, device, precision, finetunes)


def candidates(dataset: Dataset, trials: int | None) -> list[Candidate]:
    """The first `trials` of the list, without frames that are much larger than the photos; one at least.

    None is the whole list; but a Dataset whose frame has not the default size keeps its size, because a user
    chose it.
    """
    frame, default = dataset.frame, Frame()
    own = max(SIDE_STEP, round(pixels_of(frame) ** 0.5))
    if trials is None and (frame.width, frame.height) != (default.width, default.height):
        return [Candidate(name, own, _with_fit(frame, other)) for name, other in FIXED_SIZE_ORDER]
    largest = MAX_ENLARGED * photo_side(dataset.photos("train"))
    if dataset.shrink:
        largest = min(largest, dataset.shrink)
    listed = [entry for entry in ORDER if entry[1] <= largest][:trials]
    found = [Candidate(name, size, _with_fit(resized(frame, size), other)) for name, size, other in listed]
    smallest = min(size for _, size, _ in ORDER)
    if not found and own > smallest:  # photos of a few px
        return [Candidate(LITE0, smallest, resized(frame, smallest))]
    return found or [Candidate(LITE0, own, frame)]


def resized(frame: Frame, size: int) -> Frame:
    """The frame with the pixels of a square of this side and its own aspect."""
    aspect = (frame.width / frame.height) ** 0.5
    width, height = (SIDE_STEP * max(1, round(side / SIDE_STEP)) for side in (size * aspect, size / aspect))
    return replace(frame, width=width, height=height)


def _with_fit(frame: Frame, other: bool) -> Frame:
    return replace(frame, fit=OTHER_FIT[frame.fit]) if other else frame


@dataclass(frozen=True)
class _Contender:
    """A candidate that is still in; `pace` is the seconds that the features of a photo take, with a clock."""

    number: int
    backbone: Backbone
    frame: Frame
    pace: float


@dataclass
class _Contest:
    """What all steps of a search need, and its state.

    `slow` are those whose features take too long, `measuring` the most seconds that measuring one has taken.
    """

    dataset: Dataset
    limits: tuple[float | None, float | None]
    device: str
    progress: Progress
    cost: CostMeter
    record: Record
    total: int
    table: list[Trial] = field(default_factory=list)
    going: list[_Contender] = field(default_factory=list)
    slow: list[_Contender] = field(default_factory=list)
    measuring: float = 0.0

    def note(self, number: int, trial: Trial) -> None:
        """Keep and record what a trial is now, as the first process measured it."""
        self.table[number : number + 1] = [broadcast(trial, self.device)]
        self.record(_entry(self.table[number]))


def search(
    dataset: Dataset,
    found: Sequence[Candidate],
    limits: tuple[float | None, float | None],
    device: str,
    progress: Progress,
    cost: CostMeter,
    clock: Clock | None = None,
    record: Record = ignore,
) -> Pick:
    """Compare the candidates by the log loss of their heads, and pick the best.

    `limits` are milliseconds a frame and megabytes in int8. After each rung the better half of the candidates
    goes on to more photos. A clock admits as many as it has time for, one at least; if the heads of the first
    two are poor, as many as leave time for the usual fine-tuning, and it ranks those lower for which few
    epochs would fit. Processes share the photos, and follow
    the first one's measurements. `record` gets each trial's entry when it is measured, compared and ranked.
    Raises Refused, with the nearest, if no candidate keeps the limits.
    """
    contest = _Contest(dataset, limits, device, progress, cost, record, len(found))
    shares = _rungs(len(dataset.photos("train")))
    first = found[:DEFAULT_TRIALS] if clock else found
    _admit(contest, first, clock)
    more = len(first) < len(found) and contest.going
    if clock and clock.finetunes and more and _compare(contest, shares[0]):
        clock = clock.after_usual(max(_usual_seconds(one, dataset, device) for one in contest.going))
    _admit(contest, found[len(first) :], clock)
    progress("trials measured", len(found), len(found))
    if clock and contest.slow and not contest.going:
        fastest = min(contest.slow, key=lambda one: one.pace)
        check_time(clock, fastest.backbone, fastest.frame, fastest.pace, dataset)
        contest.going = [fastest]
    if not contest.going:
        raise _nothing_fits(contest.table, limits)
    for share in shares:
        if len(contest.going) == 1 and (clock or share < 1):
            continue  # it is the pick, whose head comes next
        poor = _compare(contest, share)
        if clock and clock.finetunes and poor:
            for one in contest.going:
                epochs = _estimated_epochs(one, dataset, clock)
                contest.table[one.number] = replace(contest.table[one.number], epochs=epochs)
        ranked = sorted(contest.going, key=lambda one: _rank(contest.table[one.number], poor))
        late = clock is not None and clock.search_left() < 0
        contest.going = ranked[: 1 if share == 1 or late else (len(ranked) + 1) // 2]
    best, table = contest.going[0], contest.table
    picked = table[best.number]
    rows = [_entry(replace(trial, pareto=_pareto(trial, table), picked=trial is picked)) for trial in table]
    for row in rows:
        record(row)
    return Pick(best.number, best.backbone, best.frame, rows)


def _rungs(photos: int) -> list[float]:
    """Shares of the train photos; the first has MIN_COMPARED of them, if there are so many."""
    smallest = min(1.0, MIN_COMPARED / max(1, min(photos, MAX_COMPARED)))
    return sorted({max(share, smallest) for share in RUNGS})


def _rank(trial: Trial, poor: bool) -> tuple[int, int, float]:
    """Best first: by log loss; of poor heads by epochs that fit, then by size, up to what is enough of each.

    A head does not see what fine-tuning gains from a larger frame.
    """
    epochs = min(ENOUGH_EPOCHS, int(trial.epochs or 0)) if poor else 0
    return -epochs, -min(ENOUGH_SIZE, trial.size) if epochs else 0, trial.validation_log_loss


def _estimated_epochs(one: _Contender, dataset: Dataset, clock: Clock) -> float:
    train, validation = (len(dataset.photos(role)) for role in ("train", "validation"))
    step = one.pace * STEP_COST["cpu" if clock.device == "cpu" else "gpu"]
    left = clock.left() - one.pace * (train + validation)
    return broadcast(round(max(0.0, left / (step * train)), 2), clock.device)


def _usual_seconds(one: _Contender, dataset: Dataset, device: str) -> float:
    """Seconds of what a candidate with a poor head gets without a clock, roughly."""
    network, dataset = Network(one.backbone, len(dataset.labels)), replace(dataset, frame=one.frame)
    step = one.pace * STEP_COST["cpu" if device == "cpu" else "gpu"]
    photos = sum(len(dataset.photos(role)) for role in ("train", "validation"))
    return broadcast(one.pace * photos + sum(usual_seconds(network, dataset, step)), device)


def usual_seconds(network: Network, dataset: Dataset, pace: float) -> tuple[float, float]:
    """Seconds of the warm-up and of the fine-tuning that a poor head gets without a clock.

    `pace` is the seconds that a photo takes at the Dataset's frame, forward and backward.
    """
    train, validation = (len(dataset.photos(role)) for role in ("train", "validation"))
    flops, both = count_flops(network, dataset.frame)[0], train + validation
    share = pixels_of(view_of(dataset.frame)) / pixels_of(dataset.frame)
    views = 2 * both * epochs_for(both, flops * share) if both <= MOST_PHOTOS and is_single_process() else 0
    tuning = usual_epochs(train, validation, flops) * passes_an_epoch(train, validation)
    return pace * share * views, pace * tuning


def pixels_of(frame: Frame) -> int:
    """Pixels of a frame."""
    return frame.width * frame.height


def _admit(contest: _Contest, found: Sequence[Candidate], clock: Clock | None) -> None:
    """Measure what each candidate costs; those that keep the limits and for which there is time go on.

    A candidate whose features of all photos would take more than half of the time is slow. Raises Refused if
    even its features would take longer than all of the time.
    """
    dataset, device, progress = contest.dataset, contest.device, contest.progress
    train, validation = dataset.needed("train"), dataset.needed("validation")
    compared = len(sample(train, RUNGS[1])) + len(sample(validation, 1.0))  # of most candidates
    new: list[_Contender] = []
    for number, candidate in enumerate(found, len(contest.table)):
        planned = sum(one.pace for one in new) * compared
        if clock and (contest.going or contest.slow) and clock.search_left() <= planned + contest.measuring:
            break
        start = perf_counter()
        progress("trials measured", number, contest.total)
        backbone = load_backbone(candidate.backbone)
        backbone = slimmed(backbone, train, candidate.frame, device=device, progress=progress)
        contest.note(number, _measure(backbone, candidate, contest.limits))
        if not contest.table[number].fits:
            continue
        pace = 0.0
        if clock:
            extractor = open_extractor(backbone, candidate.frame, device=device)
            pace = broadcast(seconds_of_features(extractor, train, device), device)
            contest.measuring = max(contest.measuring, broadcast(perf_counter() - start, device))
        one = _Contender(number, backbone, candidate.frame, pace)
        if clock and pace * (len(train) + len(validation)) > clock.left() / 2:
            contest.slow.append(one)
        elif not (clock and contest.going) or planned + pace * compared <= clock.search_left():
            new.append(one)
            contest.going.append(one)


def _measure(backbone: Backbone, candidate: Candidate, limits: tuple[float | None, float | None]) -> Trial:
    """The cost of a candidate on this machine."""
    frame, max_ms, max_mb = candidate.frame, *limits
    graph = feature_graph(backbone, frame)
    model, blank = open_model(graph, threads=1), np.zeros((1, frame.height, frame.width, 3), np.uint8)
    seconds = []
    for _ in range(LATENCY_RUNS):
        start = perf_counter()
        model(blank)
        seconds.append(perf_counter() - start)
    ms, mb = median(seconds) * 1e3, len(graph) * INT8_SHARE / 1e6
    fits = (max_ms is None or ms <= max_ms) and (max_mb is None or mb <= max_mb)
    return Trial(backbone.name, candidate.size, frame.fit, ms, mb, fits=fits)


def _compare(contest: _Contest, share: float) -> bool:
    """Fit a head of each candidate on a share of the train photos; whether even the best head is poor."""
    train = sample(contest.dataset.photos("train"), share)
    validation = sample(contest.dataset.photos("validation"), 1.0)
    for one in contest.going:
        trial = contest.table[one.number]
        if trial.share == share:
            continue
        step = f"{trial.backbone} at {trial.size} px, {trial.fit}"
        choice = fit_on_features(
            one.backbone, one.frame, (train, validation), len(contest.dataset.labels), contest.device,
            contest.progress, contest.cost, steps=(step, step), cs=TRIAL_CS,
        )  # fmt: skip
        loss, accuracy = (choice.chosen[f"validation_{name}"] for name in ("log_loss", "accuracy"))
        found = replace(trial, share=share, validation_log_loss=loss, validation_accuracy=accuracy)
        contest.note(one.number, found)
    return max(contest.table[one.number].validation_accuracy for one in contest.going) < GOOD_HEAD


def fit_on_features(
    backbone: Backbone,
    frame: Frame,
    roles: tuple[Photos, Photos],
    classes: int,
    device: str,
    progress: Progress,
    cost: CostMeter,
    *,
    steps: tuple[str, str] = ("features of train", "features of validation"),
    final: bool = False,
    **options: Any,
) -> Choice:
    """The best head on the features of train and validation photos; processes share the photos.

    With `final` it does not learn from labels that are probably wrong (`choose_despite_noise`), and what was
    tried has its learning curve, too.
    """
    extractor, computed = counting(open_extractor(backbone, frame, device=device))
    train, validation = (
        labelled_features(extractor, photos, step, device, progress)
        for photos, step in zip(roles, steps, strict=True)
    )
    cost.computed += sum_over_processes(sum(computed), device)
    groups = roles[0].groups, roles[1].groups

    def best() -> Choice:
        choose = choose_despite_noise if final else choose_head
        choice = choose(train, validation, groups, classes, progress, **options)
        curve = learning_curve(train, validation, groups, classes, choice.chosen) if final else []
        return replace(choice, tried=[*choice.tried, *curve])

    return compute_on_rank0(best, device)


def sample(photos: Photos, share: float) -> Photos:
    """The same part of each label's photos every time, one at least; small parts are inside larger ones."""
    share *= min(1.0, MAX_COMPARED / max(1, len(photos)))
    order = np.lexsort((photos.ids, photos.labels))  # ids are hashes: a random order
    parts = np.split(order, np.flatnonzero(np.diff(photos.labels[order])) + 1)
    chosen = [part[: max(1, round(share * len(part)))] for part in parts]
    return photos.take(np.sort(np.concatenate(chosen)))


def _pareto(trial: Trial, others: list[Trial]) -> bool:
    mine = (trial.validation_log_loss, trial.fp32_ms, trial.int8_mb)
    for other in others:
        theirs = (other.validation_log_loss, other.fp32_ms, other.int8_mb)
        same_share = other.share == trial.share  # else one has learnt from more photos
        if same_share and theirs != mine and all(one <= two for one, two in zip(theirs, mine, strict=True)):
            return False
    return trial.share > 0


def _entry(trial: Trial) -> dict[str, Any]:
    """A trial for the history; one that saw no photo has no log loss, since JSON has no infinity."""
    loss = trial.validation_log_loss if trial.share else None
    return {"step": "trial", **asdict(trial), "validation_log_loss": loss}


def _nothing_fits(trials: list[Trial], limits: tuple[float | None, float | None]) -> Refused:
    """The refusal, with the trial that exceeds its limits by the smallest factor."""

    def excess(trial: Trial) -> float:
        pairs = zip((trial.fp32_ms, trial.int8_mb), limits, strict=True)
        return max(value / limit for value, limit in pairs if limit is not None)

    near = min(trials, key=excess)
    return Refused(
        f"None of {len(trials)} candidates keeps the limits. The nearest, {near.backbone} at {near.size} px, "
        f"takes {near.fp32_ms:.1f} ms and {near.int8_mb:.1f} MB.",
        "Allow more (--max-ms, --max-mb), or more candidates (--budget).",
    )


def check_time(clock: Clock, backbone: Backbone, frame: Frame, pace: float, dataset: Dataset) -> None:
    """Raise Refused if the features that are not cached take a minute longer than what is left.

    `pace` is the seconds that the features of a photo take.
    """
    roles, left = [dataset.photos(role) for role in ("train", "validation")], max(0.0, clock.left())
    if pace * sum(map(len, roles)) <= left + GRACE:
        return
    extractor = open_extractor(backbone, frame, device=clock.device)
    photos = broadcast(sum(count_unseen(extractor, role) for role in roles), clock.device)
    needed = pace * photos
    if needed > left + GRACE:
        raise Refused(
            f"The features of {photos:,} photos take about {needed / 60:,.0f} minutes ({backbone.name}, "
            f"{frame.width} x {frame.height} px, {1 / pace:,.0f} photos a second); "
            f"{left / 60:,.1f} are left.",
            f"Use --minutes {ceil(2 * needed / 60) + 1} or more.",
        )


def seconds_of_features(extractor: Extractor, photos: Photos, device: str) -> float:
    """Seconds a photo with every worker busy, timed on blank frames; on a GPU also decoding `photos`."""
    frames = np.zeros((extractor.batch, extractor.frame.height, extractor.frame.width, 3), np.uint8)
    jobs, seconds = [frames] * extractor.workers, []
    _, world = rank_and_world_size()
    with ThreadPoolExecutor(extractor.workers) as pool:
        for _ in range(TIMING_RUNS):
            start = perf_counter()
            list(pool.map(extractor.model, jobs))
            seconds.append(perf_counter() - start)
    network, loading = min(seconds) / len(frames) / len(jobs), 0.0
    if device != "cpu":
        some, start = photos.take(np.arange(min(len(photos), TIMED_PHOTOS))), perf_counter()
        for _ in frames_of(some, extractor.frame, extractor.workers, extractor.batch):
            pass
        loading = (perf_counter() - start) / len(some)
    return max(network, loading) / world * OVERHEAD


def seconds_a_photo(
    network: Network, dataset: Dataset, settings: LoopSettings, device: str, precision: Precision
) -> float:
    """Seconds a photo, forward and backward, timed with a copy of the network on blank frames.

    As in the loop, a GPU that runs out of memory gets half of the batch. All processes time together.
    """
    keep_memory()
    _, world = rank_and_world_size()
    frame, batch = dataset.frame, max(1, settings.batch // world)
    copy = deepcopy(network).to(device).train(settings.train_batch_norm)
    freeze(copy, settings.frozen)
    if device == "cpu":
        batch = min(batch, photos_of_a_part(copy, frame.width, frame.height))
        if takes_parts(device, settings.train_batch_norm):
            return _seconds_of_parts(copy, frame, batch, precision)
    with fast_depthwise(copy):
        while True:
            with ignore_oom():
                return _seconds_of_a_step(copy, frame, batch, device, precision) / batch
            if batch == 1 or world > 1:
                raise out_of_memory(device, batch)
            copy.zero_grad()
            batch = (batch + 1) // 2


def _seconds_of_parts(network: Network, frame: Frame, part: int, precision: Precision) -> float:
    """Seconds a photo of a CPU whose cores learn from a part of a batch each."""
    labels, seconds = network.head.out_features, list[float]()
    with fast_depthwise(network), open_workers() as pool:
        photos = part * worker_count()
        frames = np.zeros((photos, frame.height, frame.width, 3), np.uint8)
        targets = torch.full((photos, labels), 1 / labels)
        for _ in range(TIMING_RUNS):
            start = perf_counter()
            add_gradients(pool, network, frames, targets, 0.0, precision)
            seconds.append(perf_counter() - start)
            network.zero_grad()
    return min(seconds) / photos


def _seconds_of_a_step(
    network: Network, frame: Frame, batch: int, device: str, precision: Precision
) -> float:
    frames = torch.zeros(batch, frame.height, frame.width, 3, dtype=torch.uint8, device=device)
    seconds: list[float] = []
    for _ in range(TIMING_RUNS):
        start = perf_counter()
        with autocast(device, precision):
            logits = network(frames)
        logits.sum().backward()
        if not is_single_process():
            gradients = [each.grad.flatten() for each in network.parameters() if each.grad is not None]
            all_reduce(torch.cat(gradients))
        network.zero_grad()
        if torch.device(device).type in ("cuda", "mps"):  # calls return before the work is done
            torch.accelerator.synchronize(device)
        seconds.append(perf_counter() - start)
    return min(seconds)


def seconds_to_load(dataset: Dataset, settings: LoopSettings) -> float:
    """Seconds a photo to read, decode and augment it: what a GPU waits for if photos are large."""
    photos = dataset.photos("train")
    some = photos.take(np.arange(min(len(photos), TIMED_PHOTOS)))
    batch = max(1, settings.batch // rank_and_world_size()[1])
    start = perf_counter()
    for _ in load_batches(some, dataset.frame, batch, epochs=1, crops=settings.crops):
        pass
    return (perf_counter() - start) / len(some)
