"""Weights that a user names: only those with the stated hash, of this architecture, and no code is run."""

from __future__ import annotations

import argparse
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from catflap.artifacts.dataset import Dataset
from catflap.cli.train import plan_arguments, plan_of
from catflap.errors import CatflapError
from catflap.pipeline.trace import trace
from catflap.training.backbones import PACKAGED, SLIM, Backbone, digest_tensors, load_backbone
from catflap.training.network import load_network
from catflap.training.plan import Plan
from catflap.training.train import train
from catflap.training.weights_file import WeightsFile
from tests.tiny import TINY


def named(path: Path) -> WeightsFile:
    return WeightsFile(path, sha256(path.read_bytes()).hexdigest())


def other_weights(backbone: Backbone) -> dict[str, torch.Tensor]:
    """Weights of the same shapes that differ from the backbone's own."""
    return {
        name: tensor + 0.01 if tensor.is_floating_point() else tensor
        for name, tensor in backbone.network.state_dict().items()
    }


@pytest.fixture(scope="module")
def lite0(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged Lite0 as a file of timm's."""
    path = tmp_path_factory.mktemp("weights") / "lite0.safetensors"
    save_file(load_backbone(PACKAGED).network.state_dict(), path)
    return path


def test_the_packaged_weights_come_back_from_a_file(lite0: Path) -> None:
    found = load_backbone(PACKAGED, weights=named(lite0))
    assert found.sha256 == load_backbone(PACKAGED).sha256
    assert found.licence == "unknown (weights from a file)"


@pytest.mark.parametrize("wrapping", ["plain", "training script", "old"])
def test_what_training_scripts_write_is_read(tmp_path: Path, wrapping: str) -> None:
    backbone = load_backbone(TINY)
    tensors = other_weights(backbone)
    expected = digest_tensors(tensors)
    held: Any = dict(tensors)
    if wrapping == "training script":
        held = {"epoch": 3, "state_dict": {f"module.{name}": each for name, each in tensors.items()}}
    if wrapping == "old":
        held = {name: each for name, each in tensors.items() if "num_batches" not in name}
    torch.save(held, tmp_path / "weights.pt")
    found = load_backbone(TINY, weights=named(tmp_path / "weights.pt"))
    assert found.sha256 == expected != backbone.sha256


def test_the_classifier_of_other_labels_is_left_out(tmp_path: Path) -> None:
    whole = timm.create_model("mobilenetv3_small_050", num_classes=7)
    save_file(whole.state_dict(), tmp_path / "whole.safetensors")
    found = load_backbone("mobilenetv3_small_050", weights=named(tmp_path / "whole.safetensors"))
    for name, tensor in found.network.state_dict().items():
        assert torch.equal(tensor, whole.state_dict()[name])


def test_another_hash_is_refused(lite0: Path) -> None:
    with pytest.raises(CatflapError, match="have the sha256") as caught:
        load_backbone(PACKAGED, weights=WeightsFile(lite0, "0" * 64))
    assert named(lite0).sha256 in caught.value.what


def test_without_a_hash_the_fix_names_that_of_the_file(lite0: Path) -> None:
    with pytest.raises(CatflapError, match="needs the hash") as caught:
        load_backbone(PACKAGED, weights=WeightsFile(lite0, ""))
    assert caught.value.fix.endswith(f"--sha256 {named(lite0).sha256}")


@pytest.mark.parametrize("name", [TINY, SLIM, "mobilenetv3_small_050"])
def test_weights_of_another_architecture_are_refused(lite0: Path, name: str) -> None:
    with pytest.raises(CatflapError, match=r"tensors of .* do not fit .*; the first, ") as caught:
        load_backbone(name, weights=named(lite0))
    assert "--backbone" in caught.value.fix


def test_a_surplus_layer_is_another_architecture(tmp_path: Path) -> None:
    tensors = other_weights(load_backbone(TINY)) | {"blocks.9.0.conv_pw.weight": torch.zeros(3, 3, 1, 1)}
    save_file(tensors, tmp_path / "deeper.safetensors")
    with pytest.raises(CatflapError, match=r"the first, blocks\.9\.0\.conv_pw\.weight, has the shape"):
        load_backbone(TINY, weights=named(tmp_path / "deeper.safetensors"))


class Trap:
    """A pickle that writes a file when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("kind", ["code", "text", "empty", "cut", "tensor", "numbers"])
def test_a_file_without_a_state_dict_is_refused_and_runs_no_code(tmp_path: Path, kind: str) -> None:
    path, mark = tmp_path / "weights.pt", tmp_path / "mark"
    torch.save({"code": Trap(mark), "tensor": torch.zeros(3), "numbers": {"a": 1}}.get(kind, {}), path)
    if kind == "text":
        path.write_text("<html>Not found</html>")
    if kind == "cut":
        torch.save(other_weights(load_backbone(TINY)), path)
        path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(CatflapError, match="holds no state dict"):
        load_backbone(TINY, weights=named(path))
    assert not mark.exists()


def test_a_checkpoint_names_the_weights(drawn_dataset: Dataset, tmp_path: Path) -> None:
    save_file(other_weights(load_backbone(TINY)), tmp_path / "own.safetensors")
    weights = named(tmp_path / "own.safetensors")
    plan = Plan(backbone=TINY, recipe="head", weights=weights)
    assert plan.fingerprint(drawn_dataset) != Plan(backbone=TINY, recipe="head").fingerprint(drawn_dataset)
    checkpoint = train(drawn_dataset, tmp_path / "checkpoint", plan)
    assert checkpoint.ancestors["weights"] == weights.sha256
    assert checkpoint.licences == {"weights": "unknown (weights from a file)"}
    assert {"kind": "weights", "sha256": weights.sha256} in trace(checkpoint.path)
    backbone = load_backbone(TINY, weights=weights)
    for name, tensor in load_network(checkpoint).backbone.state_dict().items():
        assert torch.equal(tensor, backbone.network.state_dict()[name])


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    plan_arguments(parser)
    return parser.parse_args(words)


def test_the_options_make_the_plan(lite0: Path) -> None:
    digest = named(lite0).sha256
    plan = plan_of(options("--backbone", PACKAGED, "--weights", str(lite0), "--sha256", digest.upper()))
    plan.check()
    assert plan.weights == WeightsFile(lite0, digest)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--sha256", "0"], "--sha256 is the hash of --weights"),
        (["--weights", "absent"], "--weights are of one backbone"),
        (["--weights", "absent", "--backbone", "resnet18"], "absent cannot be read"),
        (["--weights", "absent", "--backbone", "resnet18", "--recipe", "scratch"], "--weights are of one"),
    ],
)
def test_options_that_do_not_fit_each_other(words: list[str], what: str) -> None:
    with pytest.raises(CatflapError, match=what):
        plan_of(options(*words)).check()
