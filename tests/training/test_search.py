"""The search: halving keeps what validation likes, limits are kept, and the pick travels to the Bundle."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from catflap.artifacts.bundle import load_bundle
from catflap.artifacts.dataset import Dataset, Photos
from catflap.errors import Refused
from catflap.exporting.export import export
from catflap.image import Frame
from catflap.progress import silent
from catflap.training.loop.settings import LoopSettings
from catflap.training.networks.backbone import RESNET8, Backbone
from catflap.training.networks.network import Network
from catflap.training.plan import EDGE_MB, Plan
from catflap.training.search import candidates as listed
from catflap.training.search import clock as timing
from catflap.training.search import halving as room
from catflap.training.search.candidates import candidates
from catflap.training.search.clock import TimeBudget, clock_of
from catflap.training.search.halving import (
    Pick,
    SearchLimits,
    Trial,
    _Contender,
    _pareto,
    _ranked,
    _share,
    search,
)
from catflap.training.train import train
from tests.training.small_search import SMALL


@pytest.fixture
def _small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn photos need no more pixels, and the tests no more minutes."""
    monkeypatch.setattr(listed, "ORDER", SMALL)


def test_parts_of_the_photos_lie_inside_the_larger_ones(drawn_dataset: Dataset) -> None:
    photos = drawn_dataset.photos("train")
    parts = [set(_share(photos, share).ids) for share in room.RUNGS]
    assert parts[0] < parts[1] < parts[2] == set(photos.ids)
    assert len(parts[0]) == pytest.approx(len(photos) / 4, abs=1)


def test_each_label_is_in_every_part(drawn_dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = drawn_dataset.photos("train")
    cats, others = (np.flatnonzero(photos.labels == label) for label in (0, 1))
    uneven = photos.take(np.sort([*cats[:1], *others]))
    assert np.bincount(_share(uneven, 0.25).labels).tolist() == [1, round(len(others) / 4)]
    monkeypatch.setattr(room, "MOST_COMPARED", 10)
    assert len(_share(photos, 1.0)) == pytest.approx(10, abs=1)
    assert len(_share(photos, 0.25)) == pytest.approx(2.5, abs=1)


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


def test_heads_that_are_poor_need_time_for_epochs() -> None:
    """Enough of them are enough; a good head needs none."""
    going = [_Contender(number, None, None, [], 0.0) for number in range(4)]  # type: ignore[arg-type]
    figures = [(0.5, 1), (0.6, 3), (0.55, 9), (0.4, 0)]
    clock = clock_of(10, time.perf_counter(), "cpu", "32-true")

    def ranked(accuracy: float) -> list[int]:
        table = [
            Trial("x", 1, "squash", 1, 1, 0.25, loss, accuracy, epochs=epochs) for loss, epochs in figures
        ]
        return [one.number for one in _ranked(going, table, None, clock)]  # type: ignore[arg-type]

    assert ranked(0.8) == [2, 1, 0, 3]
    assert ranked(0.96) == [3, 0, 2, 1]


@pytest.mark.slow
@pytest.mark.usefixtures("_small_sizes")
def test_a_search_of_heads_alone_times_no_epochs(
    drawn_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "GOOD_HEAD", 1.1)
    found = candidates(drawn_dataset, 3)
    clock = clock_of(60, time.perf_counter(), "cpu", "32-true", tunes=False)
    pick = search(drawn_dataset, found, SearchLimits(), "cpu", silent, clock)
    assert [row["epochs"] for row in pick.trials] == [None] * 3
    both = [row for row in pick.trials if row["share"] == pick.trials[pick.number]["share"]]
    assert min(both, key=lambda row: row["validation_log_loss"])["picked"]


def test_many_processes_have_time_for_more_epochs(
    drawn_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They share an epoch; the five blends at its end each of them judges alone."""
    train, validation = (len(drawn_dataset.photos(role)) for role in ("train", "validation"))
    pace = 120 / (train * 1.25 + validation / 2)  # an epoch of one process takes two minutes
    monkeypatch.setattr(timing, "seconds_a_photo", lambda *_: pace)
    spent = 5 * validation * pace / 2 + 10
    clock = clock_of(10, time.perf_counter() + spent, "cpu", "32-true")
    fitting = []
    for count in (1, 2, 4):
        monkeypatch.setattr(timing, "rank_and_world_size", lambda count=count: (0, count))
        fitting.append(clock.epochs(None, drawn_dataset))  # type: ignore[arg-type]
    assert fitting == [5, 10, 10]


@pytest.mark.parametrize(
    ("minutes", "epochs"),
    [(4.1, 2), (3.9, 1), (2.1, 1), (1.9, 0.9), (0.45, 0.2), (0.21, 0.1), (0.19, 0), (0, 0)],
)
def test_a_part_of_an_epoch_fits_where_none_does(
    drawn_dataset: Dataset, monkeypatch: pytest.MonkeyPatch, minutes: float, epochs: float
) -> None:
    """An epoch takes two minutes, and what comes before it one."""
    train, validation = (len(drawn_dataset.photos(role)) for role in ("train", "validation"))
    pace = 120 / (train * 1.25 + validation / 2)
    monkeypatch.setattr(timing, "seconds_a_photo", lambda *_: pace)
    spent = 5 * validation * pace / 2 + 60
    clock = clock_of(10, time.perf_counter() + spent - 60 * (10 - minutes), "cpu", "32-true")
    assert clock.epochs(None, drawn_dataset, before=60) == epochs  # type: ignore[arg-type]


def test_minutes_search_unless_a_backbone_is_named() -> None:
    assert not Plan().searches
    assert Plan(minutes=1.0).searches
    assert Plan(trials=2).searches
    assert not Plan(minutes=1.0, backbone="efficientnet_lite0").searches
    assert not Plan(minutes=1.0, trials=0).searches
    assert Plan(minutes=1.0).kept_limits == SearchLimits(max_mb=EDGE_MB)
    assert Plan(minutes=1.0, limits=SearchLimits(5.0, 6.0)).kept_limits == SearchLimits(5.0, 6.0)
    assert Plan(minutes=1.0, trials=3).kept_limits == SearchLimits(), (
        "who asks for trials knows what they may take"
    )


def test_a_search_explores_recipes_unless_one_is_asked_for(drawn_dataset: Dataset) -> None:
    assert Plan(trials=2).explores
    assert not Plan(trials=2, recipe="head").explores
    assert not Plan(trials=2, minutes=1.0).explores, "the clock tries fine-tuning after the search"
    assert not Plan().explores
    marks = {plan.fingerprint(drawn_dataset) for plan in (Plan(trials=2), Plan(trials=2, recipe="head"))}
    assert len(marks) == 2
    assert Plan().fingerprint(drawn_dataset) == Plan(recipe="head").fingerprint(drawn_dataset)
    longer = Plan(trials=2, epochs=4).fingerprint(drawn_dataset)
    assert longer not in marks
    assert Plan(epochs=4).fingerprint(drawn_dataset) == Plan().fingerprint(drawn_dataset), "of no use there"


def test_what_cannot_be_is_refused_with_the_nearest(drawn_dataset: Dataset) -> None:
    with pytest.raises(Refused, match=r"None of 2 trials keeps the limits; the nearest, efficientnet_lite"):
        search(drawn_dataset, candidates(drawn_dataset, 2), SearchLimits(max_mb=0.1), "cpu", silent)


@pytest.mark.slow
@pytest.mark.usefixtures("_small_sizes")
def test_the_pick_travels_to_the_bundle(drawn_dataset: Dataset, tmp_path: Path) -> None:
    checkpoint = train(drawn_dataset, tmp_path / "checkpoint", Plan(trials=3))
    rows = [entry for entry in checkpoint.history if entry["step"] == "trial"]
    assert [(row["backbone"], row["size"], row["fit"] == "crop") for row in rows] == list(SMALL)
    (picked,) = (row for row in rows if row["picked"])
    whole = [row for row in rows if row["share"] == 1.0]
    assert picked["validation_log_loss"] == min(row["validation_log_loss"] for row in whole)
    assert len(whole) == 1, "three, then two, then one"
    assert any(row["pareto"] for row in rows)
    assert (checkpoint.backbone, checkpoint.frame.width) == (picked["backbone"], picked["size"])
    assert checkpoint.frame.fit == picked["fit"]
    assert checkpoint.made_from == Plan(trials=3).fingerprint(drawn_dataset)
    assert checkpoint.made_from != Plan().fingerprint(drawn_dataset)
    export(checkpoint, drawn_dataset, tmp_path / "x.catflap", variants=("fp32",))
    assert load_bundle(tmp_path / "x.catflap").frame == checkpoint.frame


@pytest.mark.slow
@pytest.mark.usefixtures("_small_sizes")
def test_where_heads_are_poor_the_last_two_are_fine_tuned(
    drawn_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With copies of their weights: the pick's own stay as they are."""
    photos, seen = drawn_dataset.photos("train"), list[tuple[int, int, int]]()

    def tune(
        number: int, network: Network, settings: LoopSettings, dataset: Dataset, part: Photos
    ) -> tuple[float, float]:
        seen.append((number, dataset.frame.width, settings.epochs))
        assert part.ids.tolist() == photos.ids.tolist()
        with torch.no_grad():
            for weight in network.parameters():
                weight.zero_()
        return (1e-9, 1.0) if number else (1e-6, 1.0)

    def found() -> Pick:
        return search(drawn_dataset, candidates(drawn_dataset, 2), SearchLimits(), "cpu", silent, tune=tune)

    monkeypatch.setenv("CATFLAP_CACHE", str(tmp_path))  # where no feature is known
    monkeypatch.setattr(room, "GOOD_HEAD", 1.1)
    pick = found()
    assert sorted(seen) == [(0, 32, 1), (1, 48, 1)]
    assert [row["recipe"] for row in pick.trials] == ["head", "head", "finetune", "finetune"]
    assert [row["share"] for row in pick.trials] == [1.0] * 4
    (picked,) = (row for row in pick.trials if row["picked"])
    assert (picked["recipe"], picked["size"], picked["validation_log_loss"]) == ("finetune", 48, 1e-9)
    assert (pick.number, pick.recipe, pick.frame.width) == (1, "finetune", 48)
    looked_at = len(photos) + drawn_dataset.roles["validation"]
    assert (pick.passes, pick.known) == (2 * looked_at, looked_at)
    assert all(bool(weight.any()) for weight in pick.backbone.network.parameters())
    monkeypatch.setattr(room, "GOOD_HEAD", 0.0)
    good = found()
    assert (good.recipe, len(good.trials), len(seen)) == ("head", 2, 2)


@pytest.mark.slow
def test_a_search_chooses_the_recipe_where_heads_are_poor(
    drawn_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At so few pixels no head is perfect, which fine-tuning could not improve."""
    sizes = (("efficientnet_lite0", 32, False), ("efficientnet_lite0", 16, False))
    monkeypatch.setattr(listed, "ORDER", sizes)
    monkeypatch.setattr(room, "GOOD_HEAD", 1.1)
    steps: list[int] = []
    made = train(
        drawn_dataset, tmp_path / "made", Plan(trials=2, epochs=2), watch=lambda step, _: steps.append(step)
    )
    rows = [entry for entry in made.history if entry["step"] == "trial"]
    heads = {row["size"]: row["validation_log_loss"] for row in rows if row["recipe"] == "head"}
    tuned = {row["size"]: row["validation_log_loss"] for row in rows if row["recipe"] == "finetune"}
    assert sorted(tuned) == sorted(heads) == [16, 32]
    assert all(tuned[size] <= heads[size] + 1e-6 for size in tuned), "a blend with its start"
    assert min(tuned.values()) < min(heads.values()), "or this test shows nothing"
    (picked,) = (row for row in rows if row["picked"])
    assert picked["validation_log_loss"] == min(tuned.values())
    assert [entry["epoch"] for entry in made.history if entry["step"] == "finetune"] == [1, 2]
    assert steps == list(range(1, len(steps) + 1)), "a trial's steps are not the training's"
    (kept,) = (entry["share"] for entry in made.history if entry["step"] == "blend" and entry["kept"])
    assert made.recipe == ("finetune" if kept else "head")
    assert made.frame.width == picked["size"]
    only = train(drawn_dataset, tmp_path / "only", Plan(recipe="head", trials=2))
    assert {entry["step"] for entry in only.history} == {"trial", "head"}
    assert {entry["recipe"] for entry in only.history if entry["step"] == "trial"} == {"head"}


@pytest.mark.slow
@pytest.mark.usefixtures("_small_sizes")
def test_limits_are_kept(drawn_dataset: Dataset) -> None:
    pick = search(drawn_dataset, candidates(drawn_dataset, 3), SearchLimits(max_mb=4.2), "cpu", silent)
    assert pick.backbone.name == "efficientnet_lite0"
    assert pick.frame.width in (32, 48)
    rows = pick.trials
    assert [row["fits"] for row in rows] == [True, True, False]
    assert rows[2]["share"] == 0, "what does not fit costs no photo"
    assert rows[2]["validation_log_loss"] is None
    json.dumps(rows, allow_nan=False)


@pytest.mark.slow
@pytest.mark.usefixtures("_small_sizes")
def test_no_time_is_the_first_candidate(drawn_dataset: Dataset) -> None:
    over = clock_of(1, time.perf_counter() - 60, "cpu", "32-true")
    pick = search(drawn_dataset, candidates(drawn_dataset, 3), SearchLimits(), "cpu", silent, over)
    assert pick.number == 0
    assert [(row["size"], row["share"], row["picked"]) for row in pick.trials] == [(32, 0, True)]


@pytest.mark.slow
@pytest.mark.usefixtures("_small_sizes")
def test_with_time_candidates_are_compared(
    drawn_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No head is good enough here, so that each trial tells how many epochs would fit."""
    monkeypatch.setattr(room, "GOOD_HEAD", 1.1)
    monkeypatch.setenv("CATFLAP_CACHE", str(tmp_path))  # where no feature is known
    clock = clock_of(5, time.perf_counter(), "cpu", "32-true")
    pick = search(drawn_dataset, candidates(drawn_dataset, 3), SearchLimits(max_mb=4.2), "cpu", silent, clock)
    tried = [row for row in pick.trials if row["share"]]
    assert [row["size"] for row in tried] == [32, 48], "the third does not keep the limit"
    assert all(row["epochs"] > 0 for row in tried)
    (picked,) = (row for row in pick.trials if row["picked"])
    assert picked["backbone"] == pick.backbone.name == "efficientnet_lite0"
    assert picked["size"] == pick.frame.width
    compared = len(_share(drawn_dataset.photos("train"), 0.25)) + drawn_dataset.roles["validation"]
    assert pick.passes == 2 * compared, "then one was left"


@pytest.mark.slow
@pytest.mark.usefixtures("_small_sizes")
@pytest.mark.parametrize(
    ("poor", "small_side", "epochs", "scratch", "hurried"),
    [
        (1.1, 160, (0.3, 0.2, 0.9), False, True),
        (1.1, 160, (1, 0, 0), False, True),
        (1.1, 160, (1, 2, 0), False, False),
        (1.1, 160, (1, 2, 0), True, True),
        (1.1, 160, (0, 0, 0), False, False),
        (1.1, 159, (0.3, 0.2, 0.9), False, False),  # large pictures
        (0.0, 160, (0.3, 0.2, 0.9), True, False),  # no head is poor
    ],
)
def test_small_pictures_and_little_time_end_the_search(
    drawn_dataset: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    poor: float,
    small_side: int,
    epochs: tuple[float, ...],
    scratch: bool,
    hurried: bool,
) -> None:
    """So many `epochs` of fine-tuning would fit for each candidate; the pictures are of 160 px."""
    clock, found = clock_of(5, time.perf_counter(), "cpu", "32-true"), candidates(drawn_dataset, 3)
    frames = [frame for _, _, frame in found]
    monkeypatch.setattr(room, "GOOD_HEAD", poor)
    monkeypatch.setattr(room, "SMALL_SIDE", small_side)
    monkeypatch.setattr(TimeBudget, "epochs", lambda _, __, seen, **___: epochs[frames.index(seen.frame)])
    pick = search(drawn_dataset, found, SearchLimits(), "cpu", silent, clock, random_start=scratch)
    assert not hurried or pick.number == int(np.argmax(epochs))
    (picked,) = (row for row in pick.trials if row["picked"])
    assert picked["share"] == (0.25 if hurried else 0.5)
    assert picked["epochs"] == (epochs[pick.number] if poor else None)


@pytest.mark.slow
@pytest.mark.usefixtures("_small_sizes")
@pytest.mark.parametrize("fits", [True, False])
def test_a_random_start_keeps_the_limits(
    drawn_dataset: Dataset, monkeypatch: pytest.MonkeyPatch, fits: bool
) -> None:
    """resnet8 is smaller than each candidate, so that it gets a limit of its own here."""
    measured, narrow = room._measured, SearchLimits(max_ms=1e-6)

    def of_its_own(backbone: Backbone, frame: Frame, size: int, limits: SearchLimits) -> Trial:
        return measured(backbone, frame, size, limits if fits or backbone.name != RESNET8 else narrow)

    monkeypatch.setattr(room, "_measured", of_its_own)
    pick = search(
        drawn_dataset, candidates(drawn_dataset, 2), SearchLimits(), "cpu", silent, random_start=True
    )
    *_, row = pick.trials
    assert (row["backbone"], row["recipe"], row["size"], row["fits"]) == (RESNET8, "scratch", 64, fits)
    assert (row["share"], row["validation_log_loss"], row["picked"]) == (0, None, False)
    assert pick.may_start_from_scratch == fits
    json.dumps(pick.trials, allow_nan=False)


@pytest.mark.slow
@pytest.mark.usefixtures("_small_sizes")
def test_within_minutes_validation_chooses_the_recipe_of_the_pick(
    drawn_dataset: Dataset, tmp_path: Path
) -> None:
    checkpoint = train(drawn_dataset, tmp_path / "checkpoint", Plan(trials=2, minutes=1.0))
    assert {entry["step"] for entry in checkpoint.history} >= {"trial", "head", "finetune", "blend"}
    (kept,) = (entry["share"] for entry in checkpoint.history if entry["step"] == "blend" and entry["kept"])
    assert checkpoint.recipe == ("finetune" if kept else "head")
