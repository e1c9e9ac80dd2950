"""ResNet-9: eight convolutions for small pictures, 32 to 64 px, that learn from a random start.

The shape is Page's of 2018 (How to train your ResNet, after He et al. 2016), at half its width: 1.6 million
weights. Nothing is thrown away before the first convolution of stride 1, which is what backbones made for
224 px do to a picture of 32.
"""

from __future__ import annotations

import torch
from torch import nn

WIDTH = 32
FEATURES = 8 * WIDTH


class ResNet9(nn.Module):
    """Normalised pixels, float32 (n, 3, height, width), to features (n, 256); each side is 8 px or more."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _convolution(3, WIDTH)
        self.stages = nn.Sequential(
            _halved(WIDTH, 2 * WIDTH), _Residual(2 * WIDTH),
            _halved(2 * WIDTH, 4 * WIDTH),
            _halved(4 * WIDTH, 8 * WIDTH), _Residual(8 * WIDTH),
        )  # fmt: skip

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features of pixels: the mean over all places."""
        features: torch.Tensor = self.stages(self.stem(pixels)).mean((2, 3))
        return features


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.change = nn.Sequential(_convolution(width, width), _convolution(width, width))

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = seen + self.change(seen)
        return answer


def _convolution(taken: int, given: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(taken, given, 3, padding=1, bias=False), nn.BatchNorm2d(given), nn.ReLU())


def _halved(taken: int, given: int) -> nn.Sequential:
    return nn.Sequential(_convolution(taken, given), nn.MaxPool2d(2))
