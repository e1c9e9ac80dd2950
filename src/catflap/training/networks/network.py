"""The whole classifier as one torch module: uint8 frames in, logits out."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from catflap.artifacts.checkpoint import WEIGHTS, Checkpoint
from catflap.artifacts.folder import write_bytes
from catflap.errors import BadArtifact
from catflap.training.networks.backbone import Backbone, load_backbone


class Network(nn.Module):
    """Backbone and linear head with the normalisation inside.

    Takes uint8 (n, height, width, 3), RGB; gives float32 logits (n, labels).
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, backbone: Backbone, labels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(backbone.mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer(
            "scale", 1 / (torch.tensor(backbone.std).view(1, 3, 1, 1) * 255), persistent=False
        )
        self.backbone = backbone.network
        self.head = nn.Linear(backbone.features, labels)

    def normalise(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames, uint8 (n, height, width, 3), as the backbone wants them, float32 (n, 3, height, width)."""
        return (frames.permute(0, 3, 1, 2).float() - self.mean) * self.scale

    def features(self, frames: torch.Tensor) -> torch.Tensor:
        """Features, float32 (n, width), of frames."""
        return self.backbone(self.normalise(frames))  # type: ignore[no-any-return]

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Logits of frames."""
        return self.head(self.features(frames))  # type: ignore[no-any-return]


class FeatureNetwork(nn.Module):
    """A backbone alone, with the normalisation inside: uint8 frames in, features out."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.network = Network(backbone, 1)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Features of frames."""
        return self.network.features(frames)


def save_weights(folder: Path, network: Network) -> None:
    """Write weights.safetensors into a Checkpoint folder."""
    tensors = {name: tensor.detach().contiguous() for name, tensor in network.state_dict().items()}
    write_bytes(folder / WEIGHTS, save(tensors))


def load_network(checkpoint: Checkpoint) -> Network:
    """The trained network of a Checkpoint, ready to answer (eval mode, CPU).

    Raises BadArtifact that names the first tensor that does not fit the backbone.
    """
    backbone = load_backbone(checkpoint.backbone, pretrained=False)
    network = Network(backbone, len(checkpoint.labels))
    try:
        tensors = load((checkpoint.path / WEIGHTS).read_bytes())
    except (OSError, SafetensorError) as error:
        raise BadArtifact(f"{checkpoint.path / WEIGHTS} cannot be read: {error}.", "Train again.") from error
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    odd = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
    if odd:
        raise BadArtifact(
            f"{len(odd)} tensors of {checkpoint.path / WEIGHTS} do not fit {checkpoint.backbone}; the first, "
            f"{odd[0]}, has the shape {given.get(odd[0])} and not {wanted.get(odd[0])}.",
            "Train again with this timm.",
        )
    network.load_state_dict(tensors)
    return network.eval()
