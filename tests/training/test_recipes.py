"""Recipes beyond the head: from scratch, from a teacher, within minutes, in parts, and in two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from catflap.artifacts.checkpoint import WEIGHTS, Checkpoint, load_checkpoint
from catflap.artifacts.dataset import Dataset, Photos
from catflap.cli.main import main
from catflap.errors import CatflapError
from catflap.image import Frame
from catflap.pipeline.trace import trace
from catflap.progress import silent
from catflap.training.loop.every_weight import train_every_weight
from catflap.training.loop.settings import LoopSettings, finetuning, scratch
from catflap.training.loop.step_logging import StepLogger, _forgiving, log_nothing, open_step_loggers
from catflap.training.loop.teacher import teach
from catflap.training.networks.backbone import PACKAGED, RESNET8, load_backbone
from catflap.training.networks.network import Network
from catflap.training.plan import Plan
from catflap.training.recipes import Tuning, from_head, from_scratch
from catflap.training.sizes import side_of
from catflap.training.train import train
from tests.tiny import TINY
from tests.training.small import small_network
from tests.training.torchrun import CATFLAP, TORCHRUN

ONCE = LoopSettings(epochs=2, batch=8, learning_rate=0.1, backbone_rate_ratio=1.0, ema_decay=0.5)


def test_a_random_start_learns_batch_norm_too(drawn_dataset: Dataset, tmp_path: Path) -> None:
    network = small_network()
    before = network.state_dict()["backbone.norm.running_mean"].clone()
    recipe = LoopSettings(**{**vars(scratch(12, photos=36, side=32)), "batch": 8, "ema_decay": 0.5})
    logits, history = train_every_weight(
        network, drawn_dataset, tmp_path / "resume", recipe, 0, "cpu", silent
    )
    assert not torch.equal(network.state_dict()["backbone.norm.running_mean"], before)
    assert not network.training
    assert (logits.argmax(1) == drawn_dataset.photos("validation").labels).mean() >= 0.9
    (blend,) = (entry for entry in history if entry["step"] == "blend")
    losses = [entry["validation_log_loss"] for entry in history if entry["step"] == "finetune"]
    assert (len(losses), blend["share"]) == (12, 1.0)
    assert blend["validation_log_loss"] == pytest.approx(min(losses), abs=1e-6), "the best epoch is kept"


def test_batch_norm_never_learns_from_one_photo(drawn_dataset: Dataset, tmp_path: Path) -> None:
    """Where nothing but one value a channel is left of a photo its variance is none, and torch refuses it."""
    dataset = replace(drawn_dataset, frame=Frame(16, 16))
    recipe = LoopSettings(**{**vars(scratch(2, photos=36, side=16)), "batch": 35})
    network = Network(load_backbone(RESNET8, pretrained=False), 2)
    _, history = train_every_weight(network, dataset, tmp_path / "resume", recipe, 0, "cpu", silent)
    assert [entry["epoch"] for entry in history if entry["step"] == "finetune"] == [1, 2]
    alone = LoopSettings(**{**vars(recipe), "batch": 1})
    with pytest.raises(CatflapError, match="one photo of a batch"):
        train_every_weight(network, dataset, tmp_path / "resume", alone, 0, "cpu", silent)


@pytest.mark.parametrize(("many", "batch"), [(10_000, 32), (1, 128)])
@pytest.mark.parametrize(("small", "shift"), [(64, 0.125), (16, 0.0)])
def test_a_random_start_suits_how_many_and_how_small_the_photos_are(
    drawn_dataset: Dataset, monkeypatch: pytest.MonkeyPatch, many: int, batch: int, small: int, shift: float
) -> None:
    given: list[LoopSettings] = []

    def loop(
        network: Network, recipe: LoopSettings, dataset: Dataset, part: Photos | None
    ) -> tuple[np.ndarray, list[dict[str, Any]]]:
        assert dataset is drawn_dataset
        assert part is None, "all photos"
        given.append(recipe)
        return np.zeros((len(drawn_dataset.photos("validation")), 2), np.float32), []

    monkeypatch.setattr("catflap.training.loop.settings.MANY_PHOTOS", many)
    monkeypatch.setattr("catflap.training.loop.settings.SMALL_SIDE", small)
    made = from_scratch(drawn_dataset, load_backbone(RESNET8, pretrained=False), 2, loop)
    assert made.passes == (0, 0), "no features were wanted"
    assert [(one.epochs, one.batch, one.shift) for one in given] == [(2, batch, shift)]


@pytest.mark.parametrize(
    ("good", "optimiser", "body", "smoothing", "shift"),
    [(0.0, "sgd", 0.1, 0.0, 0.0), (1.1, "adamw", 1.0, 0.05, 0.125)],
)
def test_a_poor_head_lets_every_weight_change(
    drawn_dataset: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    good: float,
    optimiser: str,
    body: float,
    smoothing: float,
    shift: float,
) -> None:
    """What counts as a good head is moved under and over what this one reaches."""
    given: list[LoopSettings] = []

    def loop(
        network: Network, recipe: LoopSettings, dataset: Dataset, part: Photos | None
    ) -> tuple[np.ndarray, list[dict[str, Any]]]:
        assert dataset is drawn_dataset
        assert part is None, "all photos"
        given.append(recipe)
        logits = np.zeros((len(drawn_dataset.photos("validation")), 2), np.float32)
        return logits, [{"step": "blend", "share": 1.0, "kept": True}]

    monkeypatch.setattr("catflap.training.loop.settings.GOOD_HEAD", good)
    backbone = load_backbone(PACKAGED)
    made = from_head(drawn_dataset, backbone, Tuning(lambda *_: 2, surely=True), "cpu", loop, silent)
    assert made.recipe == "finetune"
    (one,) = given
    assert (one.optimiser, one.backbone_rate_ratio, one.label_smoothing) == (optimiser, body, smoothing)
    assert (one.epochs, one.shift) == (2, shift)
    stated = finetuning(2, 1.0, head_accuracy=0.5, side=64)
    assert stated == LoopSettings(2, backbone_rate_ratio=1.0), "this backbone states its own rate"
    assert finetuning(2, 0.1, head_accuracy=0.5, side=65).shift == 0, "larger pictures are cropped"


def test_the_side_is_what_the_network_sees_of_the_photos(drawn_dataset: Dataset) -> None:
    assert side_of(drawn_dataset) == 64, "the frame's: the photos are larger"
    assert side_of(replace(drawn_dataset, frame=Frame(224, 200))) == 160, "the photos' own"


@pytest.mark.slow
def test_scratch_is_the_same_for_a_seed_and_owes_nobody_weights(
    drawn_dataset: Dataset, drawn_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    one, same = (
        train(drawn_dataset, tmp_path / name, Plan(recipe="scratch", epochs=1)) for name in ("one", "same")
    )
    assert (one.path / WEIGHTS).read_bytes() == (same.path / WEIGHTS).read_bytes()
    assert one.licences == {}
    stem = "backbone.conv_stem.weight"
    started = load_file(drawn_checkpoint.path / WEIGHTS)[stem]
    assert (load_file(one.path / WEIGHTS)[stem] - started).abs().max() > 0.1
    assert one.recipe == "scratch"
    assert one.cost["flops_backward"] > 0


def test_a_teacher_moves_the_targets(drawn_dataset: Dataset, drawn_checkpoint: Checkpoint) -> None:
    photos = drawn_dataset.photos("train")
    alone = teach([drawn_checkpoint], drawn_dataset, 0.0, "cpu", silent)
    assert np.array_equal(alone, np.eye(2, dtype=np.float32)[photos.labels])
    taught = teach([drawn_checkpoint], drawn_dataset, 0.7, "cpu", silent)
    assert taught.sum(1) == pytest.approx(1)
    assert (taught != alone).all()
    assert (taught.argmax(1) == photos.labels).all(), "the teacher knows these photos"


def test_of_an_ensemble_the_mean_is_learnt(
    drawn_dataset: Dataset, drawn_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    other = train(drawn_dataset, tmp_path / "other", Plan(backbone="efficientnet_lite1"))
    one, two = (teach([teacher], drawn_dataset, 0.7, "cpu", silent) for teacher in (drawn_checkpoint, other))
    assert not np.allclose(one, two, atol=1e-3)
    taught = teach([drawn_checkpoint, other], drawn_dataset, 0.7, "cpu", silent)
    assert taught == pytest.approx((one + two) / 2, abs=1e-6)


def test_a_teacher_answers_on_the_device(drawn_dataset: Dataset, drawn_checkpoint: Checkpoint) -> None:
    """ "cpu:0", no name of the CPU here, is taken for a GPU: torch answers there, and not ONNX Runtime."""
    one, other = (
        teach([drawn_checkpoint], drawn_dataset, 0.7, device, silent) for device in ("cpu", "cpu:0")
    )
    assert 0 < np.abs(one - other).max() < 1e-4


def test_targets_reach_their_photos(drawn_dataset: Dataset, tmp_path: Path) -> None:
    """A teacher that is always wrong teaches the opposite."""
    photos = drawn_dataset.photos("train")
    wrong = np.eye(2, dtype=np.float32)[1 - photos.labels]
    network = small_network()
    longer = LoopSettings(
        epochs=12, batch=8, learning_rate=0.1, backbone_rate_ratio=1.0, ema_decay=0.5, blended=False
    )
    logits, _ = train_every_weight(
        network, drawn_dataset, tmp_path / "resume", longer, 0, "cpu", silent, targets=wrong
    )
    assert (logits.argmax(1) == drawn_dataset.photos("validation").labels).mean() <= 0.1


@pytest.mark.slow
def test_a_student_names_its_teacher(
    drawn_dataset: Dataset, drawn_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    student = train(
        drawn_dataset, tmp_path / "student", Plan(recipe="finetune", epochs=1, teachers=(drawn_checkpoint,))
    )
    assert student.ancestors["teacher"] == drawn_checkpoint.sha256
    both = Plan(recipe="finetune", epochs=1, teachers=(drawn_checkpoint, student))
    ensemble = train(drawn_dataset, tmp_path / "ensemble", both)
    names = ("teacher_1", "teacher_2")
    assert [ensemble.ancestors[name] for name in names] == [drawn_checkpoint.sha256, student.sha256]
    assert {link["kind"] for link in trace(ensemble.path)} > set(names)


def test_a_teacher_of_other_labels_is_refused(drawn_dataset: Dataset, drawn_checkpoint: Checkpoint) -> None:
    other = Dataset(**{**vars(drawn_dataset), "labels": ("dog", "other")})
    with pytest.raises(CatflapError, match="knows other labels"):
        teach([drawn_checkpoint], other, 0.7, "cpu", silent)


@pytest.mark.parametrize("asked", [{}, {"recipe": "head"}, {"recipe": "head", "minutes": 5.0}])
def test_a_head_learns_from_no_teacher(
    drawn_dataset: Dataset, drawn_checkpoint: Checkpoint, tmp_path: Path, asked: dict[str, Any]
) -> None:
    with pytest.raises(CatflapError, match="A head learns from no teacher"):
        train(drawn_dataset, tmp_path / "out", Plan(teachers=(drawn_checkpoint,), **asked))


def test_a_head_that_was_asked_for_stays_one(
    drawn_dataset: Dataset, drawn_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """However many minutes there are."""
    made = train(drawn_dataset, tmp_path / "made", Plan(minutes=60.0, backbone=TINY, recipe="head"))
    assert made.recipe == "head"
    assert {entry["step"] for entry in made.history} == {"head"}
    assert (made.path / WEIGHTS).read_bytes() == (drawn_checkpoint.path / WEIGHTS).read_bytes()


def test_no_time_left_is_the_head(
    drawn_dataset: Dataset, drawn_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    short = train(drawn_dataset, tmp_path / "short", Plan(minutes=1e-6, backbone=TINY))
    assert short.recipe == "head"
    assert (short.path / WEIGHTS).read_bytes() == (drawn_checkpoint.path / WEIGHTS).read_bytes()


@pytest.mark.slow
def test_minutes_try_every_weight_and_keep_what_is_no_worse(drawn_dataset: Dataset, tmp_path: Path) -> None:
    made = train(drawn_dataset, tmp_path / "made", Plan(minutes=2.0, backbone=PACKAGED))
    blends = [entry for entry in made.history if entry["step"] == "blend"]
    (kept,) = (entry for entry in blends if entry["kept"])
    assert kept["validation_log_loss"] <= blends[0]["validation_log_loss"]
    assert made.recipe == ("finetune" if kept["share"] else "head")
    assert made.cost["photo_passes"] >= drawn_dataset.roles["train"], "there was time for an epoch"


@pytest.mark.parametrize(("minutes", "recipe"), [(0.0, "head"), (-1.0, "head"), (5.0, "scratch")])
def test_minutes_that_make_no_sense(
    drawn_dataset: Dataset, tmp_path: Path, minutes: float, recipe: str
) -> None:
    with pytest.raises(CatflapError, match="minutes of the recipe"):
        train(drawn_dataset, tmp_path / "out", Plan(minutes=minutes, recipe=recipe))


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(
    drawn_dataset: Dataset, drawn_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """torchrun with gloo; batches are shared, so the weights are the same but for the order of sums."""
    words = ["train", str(drawn_dataset.path), "--recipe", "finetune", "--epochs", "1", "--json"]
    words += ["--precision", "fp32", "--teacher", str(drawn_checkpoint.path)]
    answers = {}
    for name, command in {"one": [CATFLAP], "two": [*TORCHRUN, CATFLAP]}.items():
        made = subprocess.run(
            [*command, *words, "-o", str(tmp_path / name)], capture_output=True, text=True, check=False,
            timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        (line,) = made.stdout.splitlines()
        answers[name] = json.loads(line)
    one, two = (load_file(tmp_path / name / WEIGHTS) for name in ("one", "two"))
    for tensor in one:
        assert torch.allclose(one[tensor], two[tensor], atol=1e-4), tensor
    settings = [entry for entry in answers["one"]["history"] if entry["step"] == "settings"]
    assert [entry["precision"] for entry in settings] == ["32-true"]
    losses = [answer["metrics"]["log_loss"]["value"] for answer in answers.values()]
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


@pytest.mark.slow
def test_two_processes_share_the_photos_of_a_head(drawn_dataset: Dataset, tmp_path: Path) -> None:
    """With nothing cached no photo is looked at twice, and the head is that of one process."""
    made = {}
    for name, command in {"one": [CATFLAP], "two": [*TORCHRUN, CATFLAP]}.items():
        answer = subprocess.run(
            [*command, "train", str(drawn_dataset.path), "-o", str(tmp_path / name), "--json"],
            capture_output=True, text=True, check=False, timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CATFLAP_CACHE": str(tmp_path / f"cache of {name}")},
        )  # fmt: skip
        assert answer.returncode == 0, answer.stderr
        made[name] = load_checkpoint(tmp_path / name)
    photos = sum(len(drawn_dataset.photos(role)) for role in ("train", "validation"))
    for each in made.values():
        assert (each.cost["photo_passes"], each.cost["cached_photos"]) == (photos, 0)
    assert made["one"].sha256 == made["two"].sha256


def test_tensorboard_gets_every_step(drawn_dataset: Dataset, tmp_path: Path) -> None:
    events = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
    )
    notes: list[str] = []
    with open_step_loggers(tmp_path / "board", None, "run", notes.append) as watch:
        train_every_weight(
            small_network(), drawn_dataset, tmp_path / "resume", ONCE, 0, "cpu", silent, watch=watch
        )
    board = events.EventAccumulator(str(tmp_path / "board"))
    board.Reload()
    assert [event.step for event in board.Scalars("loss")] == list(range(1, 11))
    assert board.Scalars("rate")[-1].value < board.Scalars("rate")[1].value
    judged = board.Scalars("validation_log_loss")
    assert [event.step for event in judged] == [5, 10]
    lost, rate = board.Scalars("train_loss")[1].value, board.Scalars("rate")[-1].value
    told = f"Epoch 2: loss {lost:.4f}, validation log loss {judged[1].value:.4f}, rate {rate:.2g}."
    assert [notes[0].startswith("Epoch 1: loss "), notes[1:]] == [True, [told]]


@pytest.mark.parametrize("option", ["--tensorboard", "--mlflow"])
def test_a_head_has_no_steps_to_log(
    drawn_dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    out = tmp_path / "head"
    assert main(["train", str(drawn_dataset.path), "-o", str(out), option, str(tmp_path / "board")]) == 2
    assert "no steps to write" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_takes_no_more_figures_is_told_and_left_alone(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    notes: list[str] = []
    with open_step_loggers(tmp_path / "board", None, "run", notes.append) as watch:
        watch(1, {"loss": 1.0})
        watch(2, {"loss": object()})  # type: ignore[dict-item]
        watch(3, {"loss": object()})  # type: ignore[dict-item]
    (told,) = notes
    assert told.startswith("Step 2 and those after it are not logged: ")


@contextmanager
def cannot_be_closed() -> Iterator[StepLogger]:
    yield log_nothing
    raise OSError("the disk is full")


def test_a_place_that_cannot_be_closed_is_told_and_hides_no_error() -> None:
    """What was trained is whole by then."""
    notes: list[str] = []
    with _forgiving(cannot_be_closed(), notes.append) as watch:
        watch(1, {"loss": 1.0})
    assert notes == ["What was logged may be incomplete: the disk is full."]
    with pytest.raises(ZeroDivisionError), _forgiving(cannot_be_closed(), notes.append):
        raise ZeroDivisionError


def test_mlflow_gets_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # the store that needs no database
    address = (tmp_path / "runs").as_uri()
    with open_step_loggers(None, address, "run") as watch:
        for step in range(3):
            watch(step, {"loss": 1.0 / (step + 1)})
    client = mlflow.MlflowClient(address)
    (run,) = client.search_runs([client.get_experiment_by_name("catflap").experiment_id])
    assert [entry.value for entry in client.get_metric_history(run.info.run_id, "loss")] == [1.0, 0.5, 1 / 3]


def test_a_watcher_that_is_not_installed_is_one_error() -> None:
    if "mlflow" in sys.modules:
        pytest.skip("mlflow is installed here")
    with (
        pytest.raises(CatflapError, match="mlflow is not installed"),
        open_step_loggers(None, "file:x", "run"),
    ):
        pass
