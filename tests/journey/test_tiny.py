"""Does it live: drawn photos to a verified Bundle that answers, in seconds."""

from __future__ import annotations

import json

import numpy as np
import pytest

from catflap.artifacts.checkpoint import Checkpoint
from catflap.artifacts.dataset import ROLES, Dataset
from catflap.cli.main import main
from catflap.runtime.classifier import Classifier
from catflap.verification.verify import verify
from tests.tiny import FRAME, Exported, drawn


def test_every_photo_reaches_the_dataset(drawn_dataset: Dataset) -> None:
    assert drawn_dataset.labels == ("cat", "other")
    assert drawn_dataset.frame == FRAME
    assert sum(drawn_dataset.roles.values()) == 60
    assert min(drawn_dataset.roles[role] for role in ROLES) >= 4


def test_training_learns_what_is_easy(drawn_checkpoint: Checkpoint) -> None:
    assert drawn_checkpoint.metrics["accuracy"]["value"] == 1.0
    assert drawn_checkpoint.prior == pytest.approx({"cat": 0.5, "other": 0.5}, abs=0.03)


def test_the_bundle_is_verified_and_right_on_photos_it_never_saw(drawn_bundle: Exported) -> None:
    assert verify(drawn_bundle.path).passed
    for variant in ("int8", "fp32"):
        classifier = Classifier(drawn_bundle.path, variant)
        labels = [classifier(drawn(label, 100 + n)).label for label in ("cat", "other") for n in range(10)]
        assert labels == ["cat"] * 10 + ["other"] * 10


def test_the_chain_of_ancestors_is_whole(
    drawn_dataset: Dataset, drawn_checkpoint: Checkpoint, drawn_bundle: Exported
) -> None:
    ancestors = Classifier(drawn_bundle.path).bundle.head["ancestors"]
    assert ancestors == {
        "manifest": drawn_dataset.ancestors["manifest"],
        "dataset": drawn_dataset.sha256,
        "checkpoint": drawn_checkpoint.sha256,
    }


def test_the_command_line_verifies_and_predicts(
    drawn_dataset: Dataset, drawn_bundle: Exported, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = drawn_dataset.path.with_name("photos") / "cat" / "00.jpg"
    assert main(["verify", str(drawn_bundle.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "pass"
    assert main(["predict", str(drawn_bundle.path), str(photo), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["label"], answer["decision"], answer["path"]) == ("cat", "cat", str(photo))
    assert np.isclose(sum(answer["probabilities"].values()), 1)
