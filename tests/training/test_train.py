"""The verb: what is in a Checkpoint, when it would be the same, and what cannot be trained."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from catflap.artifacts.checkpoint import MARKER, WEIGHTS, Checkpoint, load_checkpoint, save_checkpoint
from catflap.artifacts.dataset import Dataset, load_dataset
from catflap.errors import BadArtifact, CatflapError
from catflap.evaluation.metrics import measure
from catflap.image import Frame, read_pixels
from catflap.training.heads import choosing
from catflap.training.networks.answer import open_checkpoint
from catflap.training.networks.backbone import RESNET8, load_backbone
from catflap.training.networks.flops import count_flops
from catflap.training.networks.network import Network, load_network
from catflap.training.plan import Plan
from catflap.training.precision import precision_on
from catflap.training.search.halving import SearchLimits
from catflap.training.train import train
from tests.tiny import TINY


def test_it_says_what_it_was_made_from(drawn_checkpoint: Checkpoint, drawn_dataset: Dataset) -> None:
    assert drawn_checkpoint.labels == drawn_dataset.labels
    assert drawn_checkpoint.frame == drawn_dataset.frame
    assert drawn_checkpoint.ancestors == {**drawn_dataset.ancestors, "dataset": drawn_dataset.sha256}
    assert (drawn_checkpoint.path / drawn_checkpoint.dataset).resolve() == drawn_dataset.path.resolve()
    assert drawn_checkpoint.made_from == Plan(backbone=TINY).fingerprint(drawn_dataset)
    assert {"catflap", "torch"} <= set(drawn_checkpoint.versions)
    assert [path.name for path in drawn_checkpoint.path.iterdir()] in ([MARKER, WEIGHTS], [WEIGHTS, MARKER])


def test_the_prior_is_the_share_of_each_label(drawn_checkpoint: Checkpoint, drawn_dataset: Dataset) -> None:
    counts = np.bincount(drawn_dataset.photos("train").labels) + 1
    expected = dict(zip(drawn_dataset.labels, counts / counts.sum(), strict=True))
    assert drawn_checkpoint.prior == pytest.approx(expected)


def test_the_cost_is_complete(drawn_checkpoint: Checkpoint, drawn_dataset: Dataset) -> None:
    cost = drawn_checkpoint.cost
    photos = drawn_dataset.roles["train"] + drawn_dataset.roles["validation"]
    assert cost["photo_passes"] + cost["cached_photos"] == photos
    assert cost["photos_per_second"] == pytest.approx(cost["photo_passes"] / cost["seconds"])
    assert cost["peak_memory_mb"] > 100
    assert cost["flops_forward"] == 3_146_240  # counted by hand, layer by layer
    assert cost["flops_backward"] == 0


def test_the_history_lists_every_setting_and_the_metrics_the_chosen_one(
    drawn_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "FEW", 0)  # so that validation judges both
    checkpoint = train(drawn_dataset, tmp_path / "checkpoint")
    assert len(checkpoint.history) == 18
    (chosen,) = (entry for entry in checkpoint.history if entry["chosen"])
    assert checkpoint.metrics["log_loss"]["value"] == pytest.approx(chosen["validation_log_loss"], rel=1e-4)


def test_the_network_comes_back_from_the_files(drawn_checkpoint: Checkpoint, drawn_dataset: Dataset) -> None:
    photos = drawn_dataset.photos("test")
    frames = np.stack([read_pixels(photos[n], drawn_dataset.frame) for n in range(len(photos))])
    logits = open_checkpoint(drawn_checkpoint)(frames)
    assert logits.dtype == np.float32
    assert measure(logits, photos.labels, photos.groups, drawn_dataset.labels)["accuracy"]["value"] == 1.0
    assert not load_network(drawn_checkpoint).training


def test_trained_again_it_is_the_same(
    drawn_checkpoint: Checkpoint, drawn_dataset: Dataset, tmp_path: Path
) -> None:
    """Everything but what it cost and where the dataset lies, whether features come from the cache or not."""
    again = train(drawn_dataset, tmp_path / "again", Plan(backbone=TINY))
    photos = drawn_dataset.roles["train"] + drawn_dataset.roles["validation"]
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
    same = [Plan().fingerprint(drawn_dataset), Plan(epochs=9).fingerprint(drawn_dataset)]  # no epochs in head
    assert same[0] == same[1]
    other = Dataset(**{**vars(drawn_dataset), "sha256": "0" * 64})
    different = [
        Plan().fingerprint(other),
        Plan(seed=1).fingerprint(drawn_dataset),
        Plan(backbone="resnet18").fingerprint(drawn_dataset),
        Plan(recipe="finetune").fingerprint(drawn_dataset),
        Plan(recipe="finetune", epochs=9).fingerprint(drawn_dataset),
    ]
    assert len({*different, same[0]}) == 6


@pytest.mark.slow
def test_finetune_is_the_head_or_better(drawn_dataset: Dataset, tmp_path: Path) -> None:
    tuned = train(drawn_dataset, tmp_path / "tuned", Plan(recipe="finetune", epochs=1))
    settings = [entry for entry in tuned.history if entry["step"] == "settings"]
    assert [entry["precision"] for entry in settings] == [precision_on("cpu")]
    blends = [entry for entry in tuned.history if entry["step"] == "blend"]
    losses = {entry["share"]: entry["validation_log_loss"] for entry in blends}
    assert tuned.metrics["log_loss"]["value"] == pytest.approx(min(losses.values()), rel=1e-4)
    assert min(losses.values()) <= losses[0.0]
    assert tuned.cost["flops_backward"] > tuned.cost["flops_forward"]
    assert tuned.cost["learnt_photos"] == drawn_dataset.roles["train"]
    assert [path.name for path in tmp_path.iterdir()] == ["tuned"]


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"recipe": "magic"}, "no recipe 'magic'"),
        ({"precision": "int4"}, "no precision 'int4'"),
        ({"backbone": "catnet"}, "no backbone 'catnet'"),
        ({"recipe": "finetune", "epochs": 0}, "0 epochs"),
        ({"epochs": 9}, "A head has no epochs"),
        ({"recipe": "finetune", "epochs": 9, "minutes": 1.0}, "Minutes say how many epochs fit"),
        ({"limits": SearchLimits(max_ms=5.0)}, "limits of a search and no search"),
        ({"backbone": "efficientnet_lite1", "trials": 3}, "backbone efficientnet_lite1 and a search"),
        ({"seed": -1}, "seed -1"),
        ({"seed": 1 << 63}, "seed 9223372036854775808"),
        ({"trials": 2, "limits": SearchLimits(max_ms=0)}, "limit of 0"),
        ({"minutes": 1.0, "limits": SearchLimits(max_mb=float("nan"))}, "limit of nan"),
        ({"backbone": "vit_tiny_patch16_224", "recipe": "scratch"}, "does not see frames of 64 x 64 px"),
        ({"trials": 1}, "search of 1 trials"),
    ],
)
def test_what_cannot_be_trained_is_one_error(
    drawn_dataset: Dataset, tmp_path: Path, settings: dict[str, object], what: str
) -> None:
    with pytest.raises(CatflapError, match=what):
        train(drawn_dataset, tmp_path / "out", Plan(**settings))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_written_nothing_is_trained(
    drawn_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("catflap.training.train.pick", None)  # what comes next
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(b"precious")
    for out, what in (("file", "is not a checkpoint"), ("file/out", "cannot be written"), (".", "no name")):
        with pytest.raises(CatflapError, match=what):
            train(drawn_dataset, Path(out))
    assert (tmp_path / "file").read_bytes() == b"precious"


def test_two_trainings_into_one_place_do_not_mix(drawn_dataset: Dataset, tmp_path: Path) -> None:
    tried = []

    def again(step: str, done: int, total: int) -> None:
        if not tried:
            tried.append(step)
            with pytest.raises(CatflapError, match="Another train is writing"):
                train(drawn_dataset, tmp_path / "made")
            train(drawn_dataset, tmp_path / "other")

    train(drawn_dataset, tmp_path / "made", progress=again)
    assert tried
    assert {path.name for path in tmp_path.iterdir()} == {"made", "other"}


@pytest.mark.parametrize("name", ["efficientnet_lite0", RESNET8])
def test_a_gradient_costs_about_twice_the_answer(name: str) -> None:
    """Convolutions of groups, too: all of Lite0's larger ones are depthwise."""
    forward, backward = count_flops(Network(load_backbone(name, pretrained=False), 2), Frame(64, 64))
    assert 1.8 < backward / forward < 2.1


def test_a_run_that_goes_on_counts_what_it_did_itself(drawn_dataset: Dataset, tmp_path: Path) -> None:
    """In batches of a quarter, stopped after the first step that is kept."""
    plan, photos = Plan(backbone=RESNET8, recipe="scratch", epochs=8), drawn_dataset.roles["train"]

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


def test_a_checkpoint_whose_path_is_not_utf_8(drawn_dataset: Dataset, tmp_path: Path) -> None:
    checkpoint = train(drawn_dataset, tmp_path / os.fsdecode(b"caf\xe9"))
    load_network(load_checkpoint(checkpoint.path))
    assert load_dataset(checkpoint.path / checkpoint.dataset).sha256 == drawn_dataset.sha256
