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
from catflap.image import Pixels
from catflap.machine import keep_memory
from catflap.runtime.engine import Logits, Model
from catflap.training.backbones import SLIM, SLIM_RANK, Backbone, load_backbone


class Network(nn.Module):
    """Normalisation, backbone and linear head.

    Input: uint8 RGB (n, height, width, 3); output: float32 logits (n, labels).
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
        """Frames, uint8 (n, height, width, 3), normalised for the backbone, float32 (n, 3, height, width)."""
        return (frames.permute(0, 3, 1, 2).float() - self.mean) * self.scale

    def features(self, frames: torch.Tensor) -> torch.Tensor:
        """Features, float32 (n, width), of frames."""
        return self.backbone(self.normalise(frames))  # type: ignore[no-any-return]

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Logits of frames."""
        return self.head(self.features(frames))  # type: ignore[no-any-return]


class TwoOutputNetwork(nn.Module):
    """A network with a second output: uint8 frames in, logits and features out."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and features of frames."""
        features = self.network.features(frames)
        return self.network.head(features), features


class FeatureNetwork(nn.Module):
    """Normalisation and backbone: uint8 frames in, features out."""

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
    """The trained network of a Checkpoint, in eval mode on the CPU.

    Raises BadArtifact that names the first tensor whose shape does not match the backbone.
    """
    try:
        tensors = load((checkpoint.path / WEIGHTS).read_bytes())
    except (OSError, SafetensorError) as error:
        raise BadArtifact(f"{checkpoint.path / WEIGHTS} cannot be read: {error}.", "Train again.") from error
    narrowed = tensors.get("backbone.conv_head.weight") if checkpoint.backbone == SLIM else None
    rank = SLIM_RANK if narrowed is None else narrowed.shape[1]
    backbone = load_backbone(checkpoint.backbone, pretrained=False, rank=rank)
    network = Network(backbone, len(checkpoint.labels))
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    actual = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = sorted(name for name in expected.keys() | actual.keys() if expected.get(name) != actual.get(name))
    if wrong:
        raise BadArtifact(
            f"{len(wrong)} tensors of {checkpoint.path / WEIGHTS} do not match {checkpoint.backbone}; the "
            f"first, {wrong[0]}, has the shape {actual.get(wrong[0])} and not {expected.get(wrong[0])}.",
            "Train again with this timm.",
        )
    network.load_state_dict(tensors)
    return network.eval()


def open_checkpoint(checkpoint: Checkpoint, threads: int | None = None) -> Model:
    """The trained network as a function: uint8 frames (n, height, width, 3) to float32 logits.

    With `threads` each call uses that many and restores torch's own number afterwards, on which the last
    digits of other results in this process depend.
    """
    keep_memory()
    network = load_network(checkpoint)

    @torch.inference_mode()
    def run(frames: Pixels) -> Logits:
        before = torch.get_num_threads()
        torch.set_num_threads(threads or before)
        try:
            logits: Logits = network(
                torch.from_numpy(frames if frames.flags.writeable else frames.copy())
            ).numpy()
        finally:
            torch.set_num_threads(before)
        return logits

    return run
