"""Backbones of a few hundred weights, so that fine-tuning takes milliseconds."""

from __future__ import annotations

import torch
from torch import nn

from catflap.training.backbones import Backbone, digest_tensors
from catflap.training.network import Network


class Small(nn.Module):
    """Two convolutions with a batch norm between them; 16 features."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 16, 3, stride=2)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.second(self.norm(self.first(pixels)).relu()).relu().mean((2, 3))


class Forgets(Small):
    """Some features are left out by chance while batch norm learns."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(super().forward(pixels), 0.5, self.training)


class DividesBySpread(Small):
    """Not a number for a photo of one colour."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        flat = pixels.flatten(2)
        spread = (flat.amax(2) - flat.amin(2)).amax(1)
        return super().forward(pixels) * (spread / spread)[:, None]


class SteepAtZero(Small):
    """Answers are fine, but their slope is infinite."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        features = super().forward(pixels)
        return features + torch.sqrt(features * 0)


def small_backbone(kind: type[Small] = Small, seed: int = 0) -> Backbone:
    """A backbone, always the same for a seed."""
    torch.manual_seed(seed)
    body = kind().eval()
    return Backbone("small", body, 16, (0.5,) * 3, (0.5,) * 3, digest_tensors(body.state_dict()), "none")


def small_network(kind: type[Small] = Small, seed: int = 0) -> Network:
    """A whole network for two labels, always the same for a seed."""
    return Network(small_backbone(kind, seed), 2).eval()
