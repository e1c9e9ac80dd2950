"""ResNet-8: seven convolutions for small pictures, 32 to 64 px, that learn from a random start.

The stages are those of Jordan's network of 2024 (94 % on CIFAR-10 in 3.29 seconds on a single GPU,
arXiv 2404.00498), with ReLU, and a shortcut around the second convolution of each (He et al. 2016). Nothing
is thrown away before the first convolution of stride 1, which is what backbones made for 224 px do to a
picture of 32.
"""

from __future__ import annotations

import torch
from torch import nn

from catflap.errors import CatflapError

STEM = 24
WIDTHS = (64, 256, 256)
FEATURES = WIDTHS[-1]
LEAST = 9  # px
SCALE = 1 / 9  # of the features, so that the first answers are unsure


class ResNet8(nn.Module):
    """Normalised pixels, float32 (n, 3, height, width), to features (n, 256).

    Raises CatflapError for a side of less than 9 px, of which no place is left.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, STEM, 2, bias=False), nn.BatchNorm2d(STEM), nn.ReLU())
        taken, stages = STEM, []
        for given in WIDTHS:
            stages += [_halved(taken, given), _Residual(given)]
            taken = given
        self.stages = nn.Sequential(*stages)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features of pixels: a ninth of the maximum of each over all places."""
        if min(pixels.shape[2:]) < LEAST:
            raise CatflapError(f"resnet8 cannot see frames of less than {LEAST} px.", "Use --size 32.")
        features: torch.Tensor = self.stages(self.stem(pixels)).amax((2, 3)) * SCALE
        return features


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.change = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = seen + self.change(seen)
        return answer


def _halved(taken: int, given: int) -> nn.Sequential:
    """Pooled before batch norm, which then has a quarter of the places to look at."""
    return nn.Sequential(
        nn.Conv2d(taken, given, 3, padding=1, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(given), nn.ReLU()
    )
