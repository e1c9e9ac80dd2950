"""The verb: what is in a Checkpoint, when it would be the same, and what cannot be trained."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file

from catflap.artifacts.checkpoint import (
    CROSS_FITTED,
    MARKER,
    WEIGHTS,
    Checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from catflap.artifacts.dataset import INDEX, Dataset, load_dataset
from catflap.artifacts.tables import read_table, write_table
from catflap.errors import BadArtifact, CatflapError
from catflap.evaluation.metrics import measure
from catflap.image import Frame, read_pixels
from catflap.pipeline.trace import trace
from catflap.training.backbones import RESNET8, load_backbone
from catflap.training.cost import count_flops
from catflap.training.distributed import fastest_precision
from catflap.training.network import Network, load_network, open_checkpoint
from catflap.training.plan import Plan
from catflap.training.train import REPEATED_EPOCHS, train
from tests.tiny import TINY


def test_it_says_what_it_was_made_from(drawn_checkpoint: Checkpoint, drawn_dataset: Dataset) -> None:
    assert drawn_checkpoint.labels == drawn_dataset.labels
    assert drawn_checkpoint.frame == drawn_dataset.frame
    assert drawn_checkpoint.ancestors == {**drawn_dataset.ancestors, "dataset": drawn_dataset.sha256}
    assert (drawn_checkpoint.path / drawn_checkpoint.dataset).resolve() == drawn_dataset.path.resolve()
    assert drawn_checkpoint.made_from == Plan(backbone=TINY).fingerprint(drawn_dataset)
    assert {"catflap", "torch"} <= set(drawn_checkpoint.versions)
    assert {path.name for path in drawn_checkpoint.path.iterdir()} == {CROSS_FITTED, MARKER, WEIGHTS}


def test_the_prior_is_the_share_of_each_label(drawn_checkpoint: Checkpoint, drawn_dataset: Dataset) -> None:
    counts = np.bincount(drawn_dataset.photos("train").labels) + 1
    expected = dict(zip(drawn_dataset.labels, counts / counts.sum(), strict=True))
    assert drawn_checkpoint.prior == pytest.approx(expected)


def test_the_cost_is_complete(drawn_checkpoint: Checkpoint, drawn_dataset: Dataset) -> None:
    cost = drawn_checkpoint.cost
    photos = sum(drawn_dataset.roles[role] for role in ("train", "validation", "calibration"))
    assert cost["photo_passes"] + cost["cached_photos"] == photos
    assert cost["photos_per_second"] == pytest.approx(cost["photo_passes"] / cost["seconds"])
    assert cost["peak_memory_mb"] > 100
    assert cost["flops_forward"] == 3_146_240  # counted by hand, layer by layer
    assert cost["flops_backward"] == 0


def test_the_history_lists_every_setting(drawn_checkpoint: Checkpoint) -> None:
    assert sum(entry["step"] == "head" for entry in drawn_checkpoint.history) == 18
    (chosen,) = (entry for entry in drawn_checkpoint.history if entry.get("chosen"))
    assert chosen["validation_log_loss"] < 0.2


def test_the_network_comes_back_from_the_files(drawn_checkpoint: Checkpoint, drawn_dataset: Dataset) -> None:
    photos = drawn_dataset.photos("test")
    frames = np.stack([read_pixels(photos[n], drawn_dataset.frame) for n in range(len(photos))])
    logits = open_checkpoint(drawn_checkpoint)(frames)
    assert logits.dtype == np.float32
    assert measure(logits, photos.labels, photos.groups, drawn_dataset.labels)["accuracy"]["value"] == 1.0
    assert not load_network(drawn_checkpoint).training


@pytest.mark.slow
def test_trained_again_it_is_the_same(
    drawn_checkpoint: Checkpoint, drawn_dataset: Dataset, tmp_path: Path
) -> None:
    """Everything but what it cost and where the dataset lies, whether features come from the cache or not."""
    again = train(drawn_dataset, tmp_path / "again", Plan(backbone=TINY))
    photos = sum(drawn_dataset.roles[role] for role in ("train", "validation", "calibration"))
    assert again.sha256 == drawn_checkpoint.sha256
    assert (again.cost["photo_passes"], again.cost["cached_photos"]) == (
        0,
        photos,
    )
    one, other = ((path / WEIGHTS).read_bytes() for path in (again.path, drawn_checkpoint.path))
    assert one == other
    left_out = {"cost", "dataset"}
    fields = [json.loads((made.path / MARKER).read_text()) for made in (again, drawn_checkpoint)]
    assert len({json.dumps({k: v for k, v in f.items() if k not in left_out}) for f in fields}) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["again"]


def test_fingerprints_tell_what_matters(drawn_dataset: Dataset) -> None:
    head = Plan(recipe="head").fingerprint(drawn_dataset)
    assert head == Plan(recipe="head", precision="fp32").fingerprint(drawn_dataset), "a head has no precision"
    other = Dataset(**{**vars(drawn_dataset), "sha256": "0" * 64})
    different = [
        Plan().fingerprint(other),
        Plan().fingerprint(drawn_dataset),
        Plan(seed=1).fingerprint(drawn_dataset),
        Plan(epochs=9).fingerprint(drawn_dataset),
        Plan(backbone="resnet18").fingerprint(drawn_dataset),
        Plan(trials=2).fingerprint(drawn_dataset),
        Plan(trials=2, max_mb=3.0).fingerprint(drawn_dataset),
        Plan(trials=2, max_ms=3.0).fingerprint(drawn_dataset),
        Plan(recipe="finetune").fingerprint(drawn_dataset),
        Plan(recipe="finetune", epochs=9).fingerprint(drawn_dataset),
    ]
    assert len({*different, head}) == 11


@pytest.mark.slow
def test_a_named_fine_tuning_is_the_best_blend_and_learns_from_validation_too(
    drawn_dataset: Dataset, tmp_path: Path
) -> None:
    plan = Plan(backbone=TINY, recipe="finetune", epochs=2)
    tuned = train(drawn_dataset, tmp_path / "tuned", plan)
    assert tuned.recipe == "finetune"
    settings = [entry for entry in tuned.history if entry["step"] == "settings"]
    photos = drawn_dataset.roles["train"], drawn_dataset.roles["train"] + drawn_dataset.roles["validation"]
    assert [entry["photos"] for entry in settings] == [photos[0], "all"]
    assert [entry["precision"] for entry in settings] == [fastest_precision("cpu")] * 2
    (kept,) = (entry for entry in tuned.history if entry["step"] == "blend" and entry["kept"])
    assert kept["share"] > 0, "it was asked for by name"
    assert tuned.metrics["log_loss"]["value"] == pytest.approx(kept["validation_log_loss"], rel=1e-4)
    assert tuned.cost["flops_backward"] > tuned.cost["flops_forward"]
    assert tuned.cost["learnt_photos"] == 2 * photos[0] + photos[1] // 2, (
        "two epochs, then half of all photos"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["tuned"]


def puzzling(dataset: Dataset, folder: Path) -> Dataset:
    """The drawn photos with random labels of three out of four, of which no head can be good."""
    shutil.copytree(dataset.path, folder)
    table = read_table(folder / INDEX)
    labels = np.array(table["label"].to_pylist())
    dice = np.random.default_rng(3)
    labels = np.where(dice.random(len(labels)) < 0.75, dice.integers(0, 2, len(labels)), labels)
    column = pa.array(labels.tolist(), table["label"].type)
    write_table(folder / INDEX, table.set_column(table.column_names.index("label"), "label", column))
    return load_dataset(folder)


@pytest.mark.slow
def test_a_poor_head_is_fine_tuned_and_a_good_one_is_not(
    drawn_dataset: Dataset, drawn_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    assert {entry["step"] for entry in drawn_checkpoint.history} == {"head", "curve"}
    dataset = puzzling(drawn_dataset, tmp_path / "puzzling")
    poor = train(dataset, tmp_path / "poor", Plan(backbone=TINY))
    (chosen,) = (entry for entry in poor.history if entry.get("chosen"))
    assert chosen["validation_accuracy"] < 0.95
    (kept,) = (entry["share"] for entry in poor.history if entry["step"] == "blend" and entry["kept"])
    assert poor.recipe == ("finetune" if kept else "head")
    assert sum(entry["step"] == "finetune" for entry in poor.history) == 10, "it costs next to nothing here"
    named = train(dataset, tmp_path / "named", Plan(backbone=TINY, epochs=1))
    assert sum(entry["step"] == "finetune" for entry in named.history) == 1
    kept = train(dataset, tmp_path / "head", Plan(backbone=TINY, recipe="head"))
    assert kept.recipe == "head"


def test_a_run_that_is_stopped_anywhere_ends_with_the_same_bits(
    drawn_dataset: Dataset, tmp_path: Path
) -> None:
    """In the epochs of the train photos, and in those of all photos."""
    plan = Plan(backbone=TINY, recipe="finetune", epochs=3)
    expected = train(drawn_dataset, tmp_path / "undisturbed", plan)
    for stop in (3, 5):  # of six steps, then of the four that were lost and two of all photos
        count = 0

        def stopping(step: str, done: int, total: int, stop: int = stop) -> None:
            nonlocal count
            count += step == "train every weight"
            if count == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(drawn_dataset, tmp_path / "made", plan, progress=stopping)
        assert not (tmp_path / "made").exists()
    made = train(drawn_dataset, tmp_path / "made", plan)
    assert made.sha256 == expected.sha256
    assert made.history == expected.history
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "undisturbed"]


@pytest.mark.parametrize("damage", [None, *(pytest.param(b, marks=pytest.mark.slow) for b in (b"{", b"[1]"))])
def test_a_stopped_run_follows_what_the_clock_decided(
    drawn_dataset: Dataset, tmp_path: Path, damage: bytes | None
) -> None:
    """One epoch, where the clock finds time for ten; a damaged file decides nothing."""
    dataset = puzzling(drawn_dataset, tmp_path / "dataset")
    plan = Plan(backbone=TINY, minutes=2.0)
    decided = {"made_from": plan.fingerprint(dataset), "kept": {"epochs": 1, "mirror": False}}
    (tmp_path / ".made.decided").write_bytes(json.dumps(decided).encode() if damage is None else damage)
    made = train(dataset, tmp_path / "made", plan)
    epochs = sum(entry["step"] == "finetune" for entry in made.history)
    (settings,) = (e for e in made.history if e["step"] == "settings" and e["photos"] != "all")
    assert (epochs, settings["mirror"]) == ((1, False) if damage is None else (10, settings["mirror"]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset", "made"]


def test_minutes_average_as_many_fine_tunings_as_fit(drawn_dataset: Dataset, tmp_path: Path) -> None:
    """Of all photos, each with another seed; a run that is stopped in the third ends with the same bits."""
    dataset = puzzling(drawn_dataset, tmp_path / "dataset")
    plan = Plan(backbone=TINY, recipe="finetune", minutes=5.0)
    kept = {"epochs": 5, "repeats": 3, "mirror": False}
    decided = json.dumps({"made_from": plan.fingerprint(dataset), "kept": kept}).encode()
    losses = []
    for repeats in (1, 3):
        (tmp_path / f".of{repeats}.decided").write_bytes(decided.replace(b": 3", b": %d" % repeats))
        made = train(dataset, tmp_path / f"of{repeats}", plan)
        settings = [entry for entry in made.history if entry["step"] == "settings"]
        assert [entry["photos"] for entry in settings[1:]] == ["all"] * repeats
        assert {entry["epochs"] for entry in settings} == {REPEATED_EPOCHS}
        losses.append(made.metrics["log_loss"]["value"])
    assert losses[0] == losses[1], "validation photos have judged the first fine-tuning, which is the same"

    count = 0

    def stopping(step: str, done: int, total: int) -> None:
        nonlocal count
        count += step == "train every weight" and done == 1
        if count == 4:  # the judged run and two of all photos have gone before
            raise KeyboardInterrupt

    (tmp_path / ".stopped.decided").write_bytes(decided)
    with pytest.raises(KeyboardInterrupt):
        train(dataset, tmp_path / "stopped", plan, progress=stopping)
    assert {".stopped.resume-all-1", ".stopped.resume-all-2"} <= {path.name for path in tmp_path.iterdir()}
    resumed = train(dataset, tmp_path / "stopped", plan)
    assert resumed.sha256 == made.sha256
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["dataset", "of1", "of3", "stopped"]


@pytest.mark.slow
def test_a_head_that_was_asked_for_stays_one(
    drawn_dataset: Dataset, drawn_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """However many minutes there are."""
    made = train(drawn_dataset, tmp_path / "made", Plan(minutes=60.0, backbone=TINY, recipe="head"))
    assert {entry["step"] for entry in made.history} == {"head", "curve"}
    assert (made.path / WEIGHTS).read_bytes() == (drawn_checkpoint.path / WEIGHTS).read_bytes()


def test_no_time_left_is_the_head(
    drawn_dataset: Dataset, drawn_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    short = train(drawn_dataset, tmp_path / "short", Plan(minutes=1e-6, backbone=TINY))
    assert short.recipe == "head"
    assert (short.path / WEIGHTS).read_bytes() == (drawn_checkpoint.path / WEIGHTS).read_bytes()


def test_scratch_is_the_same_for_a_seed_and_owes_nobody_weights(
    drawn_dataset: Dataset, drawn_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    plan = Plan(backbone=TINY, recipe="scratch", epochs=1)
    one, same = (train(drawn_dataset, tmp_path / name, plan) for name in ("one", "same"))
    assert (one.path / WEIGHTS).read_bytes() == (same.path / WEIGHTS).read_bytes()
    assert one.licences == {}
    stem = "backbone.conv_stem.weight"
    start = load_file(drawn_checkpoint.path / WEIGHTS)[stem]
    assert (load_file(one.path / WEIGHTS)[stem] - start).abs().max() > 0.1
    assert one.recipe == "scratch"
    assert one.cost["flops_backward"] > 0


@pytest.mark.slow
def test_a_student_names_its_teachers(
    drawn_dataset: Dataset, drawn_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """On "cpu:0", where torch answers and no graph of a teacher is written."""
    plan = Plan(backbone=TINY, recipe="finetune", epochs=1, teachers=(drawn_checkpoint,))
    student = train(drawn_dataset, tmp_path / "student", plan, device="cpu:0")
    assert student.ancestors["teacher"] == drawn_checkpoint.sha256
    both = replace(plan, teachers=(drawn_checkpoint, student))
    ensemble = train(drawn_dataset, tmp_path / "ensemble", both, device="cpu:0")
    names = ("teacher_1", "teacher_2")
    assert [ensemble.ancestors[name] for name in names] == [drawn_checkpoint.sha256, student.sha256]
    assert {link["kind"] for link in trace(ensemble.path)} > set(names)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"recipe": "magic"}, "no recipe 'magic'"),
        ({"precision": "int4"}, "no precision 'int4'"),
        ({"backbone": "catnet"}, "no backbone 'catnet'"),
        ({"recipe": "finetune", "epochs": 0}, "0 epochs"),
        ({"recipe": "head", "epochs": 9}, "--epochs has no meaning"),
        ({"recipe": "finetune", "epochs": 9, "minutes": 1.0}, "exclude each other"),
        ({"max_ms": 5.0}, "limit a search, and there is none"),
        ({"backbone": "efficientnet_lite1", "trials": 3}, "--backbone efficientnet_lite1 names one"),
        ({"minutes": 0.0}, "minutes of the recipe"),
        ({"minutes": -1.0}, "minutes of the recipe"),
        ({"minutes": 5.0, "recipe": "scratch"}, "minutes of the recipe"),
        ({"seed": -1}, "seed -1"),
        ({"seed": 1 << 63}, "seed 9223372036854775808"),
        ({"trials": 2, "max_ms": 0.0}, "limit of 0"),
        ({"minutes": 1.0, "max_mb": float("nan")}, "limit of nan"),
        ({"backbone": "vit_tiny_patch16_224", "recipe": "scratch"}, "does not accept frames of 64 x 64 px"),
        ({"trials": 1}, "search of 1 trials"),
    ],
)
def test_what_cannot_be_trained_is_one_error(
    drawn_dataset: Dataset, tmp_path: Path, settings: dict[str, object], what: str
) -> None:
    with pytest.raises(CatflapError, match=what):
        train(drawn_dataset, tmp_path / "out", Plan(**settings))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("asked", [{}, {"recipe": "head"}, {"minutes": 5.0}])
def test_a_head_learns_from_no_teacher(
    drawn_dataset: Dataset, drawn_checkpoint: Checkpoint, tmp_path: Path, asked: dict[str, Any]
) -> None:
    with pytest.raises(CatflapError, match="--teacher needs --recipe finetune or scratch"):
        train(drawn_dataset, tmp_path / "out", Plan(teachers=(drawn_checkpoint,), **asked))


def test_where_nothing_can_be_written_nothing_is_trained(
    drawn_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def progress(step: str, done: int, total: int) -> None:
        raise AssertionError(step)

    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(b"precious")
    for out, what in (
        ("file", "is not a checkpoint"),
        ("file/out", "cannot be written"),
        (".", "cannot be the name"),
    ):
        with pytest.raises(CatflapError, match=what):
            train(drawn_dataset, Path(out), progress=progress)
    assert (tmp_path / "file").read_bytes() == b"precious"


@pytest.mark.slow
def test_two_trainings_into_one_place_do_not_mix(drawn_dataset: Dataset, tmp_path: Path) -> None:
    tried, plan = [], Plan(backbone=TINY)

    def again(step: str, done: int, total: int) -> None:
        if not tried:
            tried.append(step)
            with pytest.raises(CatflapError, match="Another train is writing"):
                train(drawn_dataset, tmp_path / "made", plan)
            train(drawn_dataset, tmp_path / "other", plan)

    train(drawn_dataset, tmp_path / "made", plan, progress=again)
    assert tried
    assert {path.name for path in tmp_path.iterdir()} == {"made", "other"}


@pytest.mark.parametrize("name", ["efficientnet_lite0", RESNET8])
def test_a_gradient_costs_about_twice_the_answer(name: str) -> None:
    """Convolutions of groups, too: all of Lite0's larger ones are depthwise."""
    forward, backward = count_flops(Network(load_backbone(name, pretrained=False), 2), Frame(64, 64))
    assert 1.8 < backward / forward < 2.1


@pytest.mark.slow
def test_a_run_that_goes_on_counts_what_it_did_itself(drawn_dataset: Dataset, tmp_path: Path) -> None:
    """In batches of a quarter, stopped after the first step that is kept."""
    plan, photos = Plan(backbone=TINY, recipe="scratch", epochs=8), drawn_dataset.roles["train"]

    def stop(step: str, done: int, total: int) -> None:
        if step == "train every weight" and done == total // 2 + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(drawn_dataset, tmp_path / "made", plan, progress=stop)
    cost = train(drawn_dataset, tmp_path / "made", plan).cost
    assert cost["learnt_photos"] == cost["photo_passes"] + cost["cached_photos"] == 8 * photos
    assert 0 < cost["cached_photos"] < 8 * photos
    assert cost["photos_per_second"] == pytest.approx(cost["photo_passes"] / cost["seconds"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_device_that_is_not_there_is_one_error(drawn_dataset: Dataset, tmp_path: Path) -> None:
    for device in ("cuda", "abacus"):
        with pytest.raises(CatflapError, match=f"no device '{device}'"):
            train(drawn_dataset, tmp_path / "out", device=device)


@pytest.mark.parametrize("damage", ["renamed", "other shape", "left out", "no tensors"])
def test_weights_that_do_not_fit_are_named(drawn_checkpoint: Checkpoint, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "odd"
    shutil.copytree(drawn_checkpoint.path, folder)
    tensors = load_file(folder / WEIGHTS)
    if damage == "renamed":
        tensors["head.weights"] = tensors.pop("head.weight")
    elif damage == "other shape":
        tensors["head.weight"] = torch.zeros(5, 1280)
    elif damage == "left out":
        del tensors["head.weight"]
    save_file(tensors, folder / WEIGHTS)
    if damage == "no tensors":
        (folder / WEIGHTS).write_bytes(b"no tensors at all")
    fields = json.loads((folder / MARKER).read_text())
    save_checkpoint(folder, {k: v for k, v in fields.items() if k not in ("catflap", "version", "sha256")})
    with pytest.raises(BadArtifact, match="cannot be read" if damage == "no tensors" else r"head\.weight"):
        load_network(load_checkpoint(folder))


@pytest.mark.slow
def test_a_checkpoint_whose_path_is_not_utf_8(drawn_dataset: Dataset, tmp_path: Path) -> None:
    checkpoint = train(drawn_dataset, tmp_path / os.fsdecode(b"caf\xe9"), Plan(backbone=TINY))
    load_network(load_checkpoint(checkpoint.path))
    assert load_dataset(checkpoint.path / checkpoint.dataset).sha256 == drawn_dataset.sha256


def test_few_calibration_photos_are_learnt_from_and_calibrate_by_a_head_without_them(
    drawn_checkpoint: Checkpoint, drawn_dataset: Dataset, tmp_path: Path
) -> None:
    calibration, test = (drawn_dataset.photos(role) for role in ("calibration", "test"))
    assert np.abs(drawn_checkpoint.held_out(calibration.ids)).max() > 0
    assert not drawn_checkpoint.held_out(test.ids).any()
    copy = tmp_path / "copy"
    shutil.copytree(drawn_checkpoint.path, copy)
    (copy / CROSS_FITTED).unlink()
    with pytest.raises(BadArtifact, match="missing or changed"):
        load_checkpoint(copy)
