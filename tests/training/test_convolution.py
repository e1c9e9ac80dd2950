"""The quick convolution answers as torch's own does, and its gradients are the same sums."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import nn

from catflap.training.networks.convolution import QuickConvolution, limits_of
from catflap.training.precision import precision_on

BATCH, CHANNELS, HEIGHT, WIDTH = 3, 16, 11, 13
LAYERS = [
    {"kernel_size": kernel, "stride": stride, "padding": padding, "groups": CHANNELS}
    for kernel, stride, padding in product([1, 3, 5, 7, (3, 5), (5, 4)], [1, 2, (2, 1)], [0, 2])
]
OTHERS = [
    {"kernel_size": 1},
    {"kernel_size": 3, "stride": 2},
    {"kernel_size": 5, "padding": "same", "groups": CHANNELS},
    {"kernel_size": 5, "dilation": 2, "padding": 4, "groups": CHANNELS},
    {"kernel_size": 5, "groups": CHANNELS // 4},
    {"kernel_size": 5, "groups": CHANNELS, "out_channels": 2 * CHANNELS},
    {"kernel_size": 5, "groups": CHANNELS, "bias": False},
]


def layer(settings: dict) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(**{"in_channels": CHANNELS, "out_channels": CHANNELS, **settings})


def looked_at() -> torch.Tensor:
    dice = torch.Generator().manual_seed(1)
    pixels = torch.randn(BATCH, CHANNELS, HEIGHT, WIDTH, generator=dice) * 4
    return pixels.contiguous(memory_format=torch.channels_last).requires_grad_()


def answer_and_gradients(convolution: nn.Conv2d, pixels: torch.Tensor, limits: tuple | None) -> list:
    seen = convolution(pixels)
    if limits:
        seen = nn.functional.hardtanh(seen, *limits)
    slopes = torch.randn(seen.shape, generator=torch.Generator().manual_seed(2))
    tensors = [pixels, *convolution.parameters()]
    return [seen, *torch.autograd.grad(seen, tensors, slopes.to(seen.dtype))]


def far(given: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((given.detach().float() - wanted.detach()).norm() / wanted.detach().norm())


@pytest.mark.parametrize("settings", LAYERS + OTHERS)
@pytest.mark.parametrize("limits", [None, (0.0, 6.0)])
def test_it_answers_and_learns_as_torch_does(settings: dict, limits: tuple | None) -> None:
    convolution, pixels = layer(settings), looked_at()
    wanted = answer_and_gradients(convolution, pixels, limits)
    with QuickConvolution(limits):
        given = answer_and_gradients(convolution, pixels, None)
    for one, other in zip(given, wanted, strict=True):
        assert one.shape == other.shape
        assert far(one, other) < 1e-5


@pytest.mark.skipif(precision_on("cpu") == "32-true", reason="this processor is slow in bf16")
@pytest.mark.parametrize("settings", LAYERS)
def test_in_bf16_it_is_as_near_as_bf16_allows(settings: dict) -> None:
    convolution, pixels = layer(settings), looked_at()
    wanted = answer_and_gradients(convolution, pixels, None)
    with QuickConvolution(), torch.autocast("cpu", torch.bfloat16):
        given = answer_and_gradients(convolution, pixels, None)
    assert given[0].dtype == torch.bfloat16, "the answer"
    assert {one.dtype for one in given[1:]} == {torch.float32}, "what the optimiser takes"
    for one, other in zip(given, wanted, strict=True):
        assert far(one, other) < 0.01


def test_pixels_that_need_no_gradient_get_none() -> None:
    convolution = layer({"kernel_size": 5, "stride": 2, "groups": CHANNELS})
    with QuickConvolution(limits_of(nn.ReLU6())):
        convolution(looked_at().detach()).sum().backward()
    assert convolution.weight.grad is not None


def test_it_takes_the_place_of_what_it_makes_quicker_only() -> None:
    """A plain convolution without limits, and what is no convolution, are left to torch."""
    with QuickConvolution():
        assert "Step" in type(layer({"kernel_size": 5, "groups": CHANNELS})(looked_at()).grad_fn).__name__
        assert "Step" not in type(layer({"kernel_size": 5})(looked_at()).grad_fn).__name__
        assert looked_at().relu().grad_fn is not None
    assert "Step" not in type(layer({"kernel_size": 5, "groups": CHANNELS})(looked_at()).grad_fn).__name__


def test_without_onednn_it_is_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catflap.training.networks.convolution._ONEDNN", None)
    convolution, limits = layer({"kernel_size": 5, "groups": CHANNELS}), (0.0, 6.0)
    with QuickConvolution(limits):
        seen = convolution(looked_at())
    assert "Step" not in type(seen.grad_fn).__name__
    assert torch.equal(seen, convolution(looked_at()).clamp(*limits))


def test_limits_are_those_of_relu_and_relu6() -> None:
    pixels = looked_at()
    for activation in (nn.ReLU(), nn.ReLU6()):
        with QuickConvolution(limits_of(activation)):
            given = layer({"kernel_size": 1})(pixels)
        assert torch.allclose(given, activation(layer({"kernel_size": 1})(pixels)), atol=1e-5)
    assert limits_of(nn.SiLU()) is None
    assert limits_of(None) is None
