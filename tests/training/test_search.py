"""The search keeps what validation likes within the limits, and the clock says what fits."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catflap.artifacts.bundle import load_bundle
from catflap.artifacts.checkpoint import Checkpoint
from catflap.artifacts.dataset import Dataset
from catflap.errors import Refused
from catflap.exporting.export import export
from catflap.image import Frame
from catflap.progress import Record, ignore, silent
from catflap.training import search as room
from catflap.training.augment import photo_side
from catflap.training.cost import CostMeter
from catflap.training.finetune import LoopSettings
from catflap.training.plan import DEFAULT_MAX_MB, Plan
from catflap.training.search import (
    MAX_TRIALS,
    Candidate,
    Clock,
    Pick,
    Trial,
    _pareto,
    _rank,
    _rungs,
    candidates,
    resized,
    sample,
    search,
    start_clock,
)
from catflap.training.train import train
from tests.tiny import TINY

TRIED = ((32, "squash"), (64, "squash"), (64, "crop"))  # sizes and fits: two graphs
SETTINGS = LoopSettings(epochs=10)
NO_LIMITS = (None, None)


def found(
    dataset: Dataset,
    limits: tuple[float | None, float | None] = NO_LIMITS,
    clock: Clock | None = None,
    record: Record = ignore,
) -> Pick:
    tried = [Candidate(TINY, size, replace(resized(dataset.frame, size), fit=fit)) for size, fit in TRIED]
    return search(dataset, tried, limits, "cpu", silent, CostMeter(), clock, record)


def test_frames_keep_their_shape() -> None:
    square, wide = Frame(64, 64, "crop"), Frame(352, 288)
    assert resized(square, 240) == Frame(240, 240, "crop")
    assert resized(wide, 320) == Frame(352, 288, "squash")
    assert resized(wide, 160) == Frame(176, 144, "squash")


def test_the_first_of_the_list_are_tried(drawn_dataset: Dataset) -> None:
    listed = candidates(drawn_dataset, 3)
    assert [(each.backbone, each.size, each.frame.fit) for each in listed] == [
        ("efficientnet_lite0", 288, "squash"),
        ("efficientnet_lite2_slim", 320, "squash"),
        ("efficientnet_lite2_slim", 320, "crop"),
    ]
    cropping = replace(drawn_dataset, frame=Frame(64, 64, "crop"))
    assert [each.frame.fit for each in candidates(cropping, 3)] == ["crop", "crop", "squash"]


def test_a_size_that_was_asked_for_stays(drawn_dataset: Dataset) -> None:
    """64 px is not the default; without a number of trials the list is as long as there is time for."""
    listed = candidates(drawn_dataset, None)
    assert listed[0] == Candidate("efficientnet_lite0", 64, drawn_dataset.frame)
    assert {(each.frame.width, each.frame.height) for each in listed} == {(64, 64)}
    assert len({(each.backbone, each.frame.fit) for each in listed}) == len(listed) > 3
    assert len(candidates(replace(drawn_dataset, frame=Frame()), None)) == MAX_TRIALS


def test_no_frame_is_much_larger_than_the_photos(drawn_dataset: Dataset) -> None:
    assert photo_side(drawn_dataset.photos("train")) == 160
    assert max(each.size for each in candidates(drawn_dataset, MAX_TRIALS)) == 320
    shrunk = replace(drawn_dataset, shrink=130)
    assert [each.size for each in candidates(shrunk, MAX_TRIALS)] == [128]
    small = replace(drawn_dataset, shrink=40)
    assert candidates(small, 5) == [Candidate("efficientnet_lite0", 64, small.frame)], "the Dataset's own"


def test_tiny_photos_get_the_smallest_frame(drawn_dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = replace(drawn_dataset, frame=Frame())
    monkeypatch.setattr(room, "photo_side", lambda photos: 32)
    assert [each.size for each in candidates(whole, 2)] == [224, 256]
    monkeypatch.setattr(room, "photo_side", lambda photos: 12)
    assert candidates(whole, 2) == [Candidate("efficientnet_lite0", 128, Frame(128, 128))]


def test_small_samples_are_inside_larger_ones(drawn_dataset: Dataset) -> None:
    photos = drawn_dataset.photos("train")
    parts = [set(sample(photos, share).ids) for share in room.RUNGS]
    assert parts[0] < parts[1] < parts[2] == set(photos.ids)
    assert len(parts[0]) == pytest.approx(len(photos) / 4, abs=1)
    cats, others = (np.flatnonzero(photos.labels == label) for label in (0, 1))
    uneven = photos.take(np.sort([*cats[:1], *others]))
    assert np.bincount(sample(uneven, 0.25).labels).tolist() == [1, round(len(others) / 4)]


def test_few_photos_are_compared_at_once() -> None:
    assert _rungs(350) == [1.0]
    assert _rungs(3_000) == pytest.approx([1 / 3, 0.5, 1.0])
    assert _rungs(10_000) == [0.25, 0.5, 1.0] == _rungs(12_000_000)


def test_pareto_is_what_nothing_beats() -> None:
    good, dear, poor, fast = (
        Trial("x", 1, "squash", ms, 1.0, share=1.0, validation_log_loss=loss)
        for ms, loss in ((2, 0.1), (3, 0.1), (2, 0.2), (1, 0.3))
    )
    table = [good, dear, poor, fast]
    assert [trial for trial in table if _pareto(trial, table)] == [good, fast]
    untried = Trial("x", 1, "squash", 0.5, 1.0)
    assert not _pareto(untried, [*table, untried])
    less = replace(good, share=0.25, validation_log_loss=0.15)
    assert _pareto(less, [*table, less]), "it has learnt from fewer photos than what beats it"
    assert _pareto(good, [good, replace(less, validation_log_loss=0.05)])


def test_poor_heads_need_time_for_epochs() -> None:
    """Enough of them are enough; a good head needs none."""
    trials = [
        Trial(name, 288, "squash", 1, 1, 0.25, loss, epochs=epochs)
        for name, loss, epochs in [("a", 0.5, 1), ("b", 0.6, 3), ("c", 0.55, 9), ("d", 0.4, 0)]
    ]
    assert [each.backbone for each in sorted(trials, key=lambda each: _rank(each, True))] == list("cbad")
    assert [each.backbone for each in sorted(trials, key=lambda each: _rank(each, False))] == list("dacb")


@pytest.mark.parametrize(
    ("poor", "epochs", "expected"),
    [(True, 3, [320, 288, 160]), (False, 3, [160, 320, 288]), (True, 0, [160, 320, 288])],
)
def test_poor_heads_that_are_fine_tuned_want_large_frames(
    poor: bool, epochs: float, expected: list[int]
) -> None:
    """Large enough ones are compared by log loss."""
    trials = [
        Trial("x", size, "squash", 1, 1, 1.0, loss, epochs=epochs)
        for size, loss in ((160, 0.3), (288, 0.5), (320, 0.4))
    ]
    assert [each.size for each in sorted(trials, key=lambda each: _rank(each, poor))] == expected


def test_the_best_head_is_picked(drawn_dataset: Dataset) -> None:
    recorded: list[dict[str, Any]] = []
    pick = found(drawn_dataset, record=recorded.append)
    assert [(row["size"], row["fit"]) for row in pick.trials] == list(TRIED)
    (picked,) = (row for row in pick.trials if row["picked"])
    assert picked["validation_log_loss"] == min(row["validation_log_loss"] for row in pick.trials)
    assert pick.trials[pick.number] == picked
    assert pick.frame == replace(resized(drawn_dataset.frame, picked["size"]), fit=picked["fit"])
    assert {row["share"] for row in pick.trials} == {1.0}, "few photos are compared at once"
    assert any(row["pareto"] for row in pick.trials)
    assert found(drawn_dataset).frame == pick.frame
    assert [row["share"] for row in recorded] == [0, 0, 0, 1, 1, 1, 1, 1, 1], "measured, compared, ranked"
    assert recorded[-3:] == pick.trials


@pytest.mark.slow
def test_limits_are_kept(drawn_dataset: Dataset) -> None:
    costs = {row["size"]: row for row in found(drawn_dataset).trials}
    limit = (costs[32]["int8_mb"] + costs[64]["int8_mb"]) / 2
    assert costs[32]["int8_mb"] == pytest.approx(costs[64]["int8_mb"], rel=0.2), "weights are the same"
    assert found(drawn_dataset, limits=(None, 2 * limit)).number in (0, 1, 2)
    with pytest.raises(Refused, match=r"None of 3 candidates keeps the limits. The nearest, catflap_tiny"):
        found(drawn_dataset, limits=(None, limit / 10))
    with pytest.raises(Refused, match="Allow more"):
        found(drawn_dataset, limits=(1e-9, None))


@pytest.mark.slow
def test_a_clock_admits_what_there_is_time_for(drawn_dataset: Dataset) -> None:
    now = time.perf_counter()
    plenty = found(drawn_dataset, clock=start_clock(60, now, "cpu", "32-true"))
    assert len(plenty.trials) == 3
    over = Clock(now + 1000, now - 1, "cpu", "32-true")
    assert len(found(drawn_dataset, clock=over).trials) == 1, "one at least"


@pytest.mark.slow
def test_features_that_take_longer_than_the_minutes_are_refused_at_once(
    drawn_dataset: Dataset,
    drawn_checkpoint: Checkpoint,
    own_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ten seconds a photo, by the clock; features that are cached take no time."""
    shutil.copytree(own_cache / "backbones", tmp_path / "cache" / "backbones")  # the graph, and no features
    monkeypatch.setenv("CATFLAP_CACHE", str(tmp_path / "cache"))
    for place in ("search", "train"):
        monkeypatch.setattr(f"catflap.training.{place}.seconds_of_features", lambda *_: 10.0)
    plan, photos = Plan(minutes=1.0, backbone=TINY), drawn_dataset.roles["train"]
    photos += drawn_dataset.roles["validation"]
    with pytest.raises(Refused, match=f"The features of {photos} photos take about") as caught:
        train(drawn_dataset, tmp_path / "out", plan)
    assert f"--minutes {-(-2 * photos // 6) + 1} or more" in caught.value.fix
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    train(drawn_dataset, tmp_path / "before", Plan(backbone=TINY))
    assert train(drawn_dataset, tmp_path / "made", replace(plan, recipe="head")).recipe == "head"


def usually(monkeypatch: pytest.MonkeyPatch, epochs: float) -> None:
    """Without minutes a network would learn for so many epochs."""
    monkeypatch.setattr(room, "count_flops", lambda *_: (1.0, {}))
    monkeypatch.setattr(room, "usual_epochs", lambda *_: epochs)


def seconds_an_epoch(dataset: Dataset, pace: float) -> tuple[float, float]:
    """Of one process, with what all photos take afterwards; and of the blends."""
    train, validation = (len(dataset.photos(role)) for role in ("train", "validation"))
    return pace * (
        (train + (train + validation) / 3) * room.OVERHEAD + validation / 2
    ), 2.5 * validation * pace


@pytest.mark.parametrize(
    ("minutes", "epochs"),
    [(30, 10), (4.1, 2), (3.9, 1), (2.1, 1), (1.87, 0.9), (0.45, 0.2), (0.21, 0.1), (0.19, 0), (0, 0)],
)
def test_a_part_of_an_epoch_fits_where_none_does(
    drawn_dataset: Dataset, monkeypatch: pytest.MonkeyPatch, minutes: float, epochs: float
) -> None:
    """An epoch takes two minutes."""
    usually(monkeypatch, 10)
    pace = 120 / seconds_an_epoch(drawn_dataset, 1.0)[0]
    monkeypatch.setattr(room, "seconds_a_photo", lambda *_: pace)
    monkeypatch.setattr(room, "perf_counter", lambda: 100.0)
    blends = seconds_an_epoch(drawn_dataset, pace)[1]
    clock = Clock(100 + blends + 60 * minutes + 0.5, 0.0, "cpu", "32-true")
    assert clock.epochs(None, drawn_dataset, SETTINGS) == epochs  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("time", "usual", "epochs"),
    [
        (4, 10, 3), (8, 10, 6), (15, 10, 10), (18.9, 10, 10), (21, 10, 5), (31, 10, 7), (100, 10, 10),
        (8, 5, 5), (21, 5, 5), (31, 6, 6), (100, 6, 6), (31, 4, 7), (100, 0.5, 10),
    ],
)  # fmt: skip
def test_longer_fine_tunings_are_for_minutes_in_which_they_can_be_repeated(
    drawn_dataset: Dataset, monkeypatch: pytest.MonkeyPatch, time: float, usual: float, epochs: float
) -> None:
    """To learn once from the photos of both roles takes a unit of time."""
    usually(monkeypatch, usual)
    train, validation = (len(drawn_dataset.photos(role)) for role in ("train", "validation"))
    assert 0.6 < train / (train + validation) < 0.95
    monkeypatch.setattr(Clock, "_paces", lambda *_: (1 / (train + validation) / room.OVERHEAD, 0.0))
    judging = validation / 2 / (train + validation) / room.OVERHEAD
    monkeypatch.setattr(room, "perf_counter", lambda: 0.0)
    clock = Clock(time + 5 * judging, 0.0, "cpu", "32-true")
    assert clock.epochs(None, drawn_dataset, SETTINGS) == epochs  # type: ignore[arg-type]


@pytest.mark.parametrize(("needed", "more"), [(0, 25), (60, 10), (100, 0), (199, 0), (201, 50)])
def test_the_usual_training_comes_before_more_candidates(
    monkeypatch: pytest.MonkeyPatch, needed: float, more: float
) -> None:
    """A hundred seconds are left, half of which were for the search."""
    monkeypatch.setattr(room, "perf_counter", lambda: 1000.0)
    clock = Clock(1100.0, 1050.0, "cpu", "32-true")
    assert clock.after_usual(needed).search_left() == more


@pytest.mark.parametrize(("seconds", "poor", "trials"), [(0, True, 3), (1.3e4, True, 2), (1.3e4, False, 3)])
def test_more_than_two_candidates_are_for_time_that_is_left(
    drawn_dataset: Dataset, monkeypatch: pytest.MonkeyPatch, seconds: float, poor: bool, trials: int
) -> None:
    """Good heads need none."""
    monkeypatch.setattr(room, "GOOD_HEAD", 1.1 if poor else 0.0)
    monkeypatch.setattr(room, "_usual_seconds", lambda *_: seconds)
    recorded: list[dict[str, Any]] = []
    clock = start_clock(200, time.perf_counter(), "cpu", "32-true")
    assert len(found(drawn_dataset, clock=clock, record=recorded.append).trials) == trials
    assert [row["share"] for row in recorded[:4]] == [0, 0, 1, 1], "the first two are compared first"


@pytest.mark.parametrize(("seconds", "repeats"), [(-1, 0), (119, 0), (239, 0), (241, 2), (361, 3), (5000, 8)])
def test_fine_tunings_are_repeated_while_they_fit(
    drawn_dataset: Dataset, monkeypatch: pytest.MonkeyPatch, seconds: float, repeats: int
) -> None:
    """One takes two minutes."""
    pace = 120 / (SETTINGS.epochs * 100 * room.OVERHEAD)
    monkeypatch.setattr(room, "seconds_a_photo", lambda *_: pace)
    monkeypatch.setattr(room, "perf_counter", lambda: 100.0)
    clock = Clock(100.0 + seconds, 0.0, "cpu", "32-true")
    assert clock.repeats(None, drawn_dataset, SETTINGS, 100) == repeats  # type: ignore[arg-type]


def test_many_processes_have_time_for_more_epochs(
    drawn_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    usually(monkeypatch, 10)
    pace = 120 / seconds_an_epoch(drawn_dataset, 1.0)[0]
    monkeypatch.setattr(room, "seconds_a_photo", lambda *_: pace)
    monkeypatch.setattr(room, "perf_counter", lambda: 100.0)
    fitting = []
    for world in (1, 2, 4):
        monkeypatch.setattr(room, "rank_and_world_size", lambda world=world: (0, world))
        clock = Clock(400.0, 0.0, "cpu", "32-true")
        fitting.append(clock.epochs(None, drawn_dataset, SETTINGS))  # type: ignore[arg-type]
    assert fitting == [2, 4, 9]


def test_minutes_search_unless_a_backbone_is_named() -> None:
    assert not Plan().searches
    assert Plan(minutes=1.0).searches
    assert Plan(trials=2).searches
    assert not Plan(minutes=1.0, backbone="efficientnet_lite0").searches
    assert not Plan(minutes=1.0, trials=0).searches
    assert Plan(minutes=1.0).size_limit == DEFAULT_MAX_MB
    assert Plan(minutes=1.0, max_mb=6.0).size_limit == 6.0
    assert Plan(trials=3).size_limit is None, "who asks for trials knows what they may take"


@pytest.mark.slow
def test_the_pick_travels_to_the_bundle(
    drawn_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The candidates that are tried without a word are those of tests/pipeline/test_build.py."""
    tried = [Candidate(TINY, size, resized(drawn_dataset.frame, size)) for size in (32, 64)]
    monkeypatch.setattr("catflap.training.train.candidates", lambda *_: tried)
    plan = Plan(trials=2, recipe="head")
    checkpoint = train(drawn_dataset, tmp_path / "checkpoint", plan)
    rows = [entry for entry in checkpoint.history if entry["step"] == "trial"]
    (picked,) = (row for row in rows if row["picked"])
    assert (checkpoint.backbone, checkpoint.frame.width) == (picked["backbone"], picked["size"])
    assert checkpoint.made_from == plan.fingerprint(drawn_dataset)
    export(checkpoint, drawn_dataset, tmp_path / "x.catflap", variants=("fp32",))
    assert load_bundle(tmp_path / "x.catflap").frame == checkpoint.frame
