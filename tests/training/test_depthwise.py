"""Fast depthwise gradients are the same sums, and the network is as before afterwards."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from catflap.training.backbones import PACKAGED, RESNET8, SLIM, load_backbone
from catflap.training.depthwise import fast_depthwise
from catflap.training.distributed import fastest_precision
from catflap.training.network import Network


def gradients(network: nn.Module, pixels: torch.Tensor, bf16: bool = False) -> list[torch.Tensor]:
    network.zero_grad()
    pixels = pixels.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        output = network(pixels)
    (output.float() ** 2).sum().backward()
    found = [pixels.grad, *(weight.grad for weight in network.parameters())]
    return [each.clone() for each in found if each is not None]


@pytest.mark.parametrize("kernel", [3, 5, 7, (3, 4)])
@pytest.mark.parametrize("stride", [1, 2, (1, 2)])
@pytest.mark.parametrize("bias", [False, True])
def test_gradients_of_a_layer_are_the_same(kernel: int, stride: int, bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Conv2d(8, 8, kernel, stride, padding=1, groups=8, bias=bias)).double()
    pixels = torch.randn(2, 8, 13, 17, dtype=torch.float64)
    expected = gradients(layer, pixels)
    with fast_depthwise(layer) as count:
        found = gradients(layer, pixels)
    assert count == (kernel != 3 or stride != 1)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", [PACKAGED, SLIM])
def test_a_backbone_learns_the_same(name: str) -> None:
    network = Network(load_backbone(name, pretrained=False), 3).eval()
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = gradients(network.backbone, pixels)
    kinds = [type(module) for module in network.modules()]
    with fast_depthwise(network) as count:
        assert count > 8
        found = gradients(deepcopy(network).backbone, pixels)  # a copy has fast layers, too
    assert [type(module) for module in network.modules()] == kinds
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))


@pytest.mark.skipif(fastest_precision("cpu") == "32-true", reason="this processor is slow in bf16")
def test_bf16_is_near_fp32() -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Conv2d(16, 16, 5, 2, padding=2, groups=16), nn.Flatten())
    pixels = torch.randn(4, 16, 20, 20)
    expected = gradients(layer, pixels)
    with fast_depthwise(layer):
        found = gradients(layer, pixels, bf16=True)
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() < 0.02 * other.norm()


def test_other_convolutions_stay_as_they_are() -> None:
    with fast_depthwise(Network(load_backbone(RESNET8, pretrained=False), 2)) as count:
        assert count == 0
    odd = nn.Sequential(
        nn.Conv2d(8, 8, 5, padding="same", groups=8),
        nn.Conv2d(8, 8, 5, dilation=2, groups=8),
        nn.Conv2d(8, 8, 5, padding=2, padding_mode="reflect", groups=8),
        nn.Conv2d(8, 16, 5, groups=8),
        nn.Conv2d(8, 8, 5),
    )
    with fast_depthwise(odd) as count:
        assert count == 0
